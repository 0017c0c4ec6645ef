#![doc = include_str!("../README.md")]
//!
//! # Handlers
//!
//! All handlers run on the task that polls the server: nothing is spawned, and nothing needs to be `Send`. Handlers that
//! wait run concurrently, at most [1,024](Server::max_in_flight) at a time. If one more has to wait, the server drops the
//! one that has waited longest. The payload of a waiting handler is a copy, so it holds no receive buffer. It keeps at
//! most 4 KiB alive, which it shares with its neighbours.
//!
//! If a handler panics, that is the outcome of its datagram, and the server goes on. The standard panic hook writes a line
//! for each; set your own with [`std::panic::set_hook`] if clients could cause many. If the service itself fails
//! (`poll_ready` returns an error), that is the outcome of each datagram, and the server goes on as well.
//!
//! The server uses its own timers, for the shutdown and for a socket that fails. They need no time driver, and ignore
//! `tokio::time::pause`.
//!
//! # Answers leave together
//!
//! On Linux and Android, the answers of a received batch leave with one system call: when the batch has been handled, or
//! when there are [as many answers as may wait](Server::max_send_batch). Each still has its own outcome: if the socket
//! does not take one, the others are sent.
//!
//! So a handler that holds the thread delays the answers before it in its batch: at most 31, or less with
//! [`Server::max_send_batch`]. A handler that takes 1 ms for each of 32 datagrams delays the first answer by 31 ms, where
//! sending them one by one would delay only the last. Handlers should wait instead, or use `tokio::task::spawn_blocking`.
//!
//! A call sends from one address. The answers of a batch are therefore sorted by the address that they leave from, and
//! then by client. Those that leave from one address to one client keep their order.
//!
//! Answers of one size to one client go through the system's stack as one packet, which is cut apart in front of the
//! network card or by it (segmentation offload, `UDP_SEGMENT` in [`udp(7)`]). With 64 requests of one client under way,
//! the server then takes 0.57 to 0.70 of the CPU time of a loop with `recv_from` and `send_to`. The client sees no
//! difference. Programs that count packets inside of this host do: the kernel's counters (`Udp6OutDatagrams`), firewalls
//! and queueing disciplines see one. Answers above 1,232 bytes are never sent like that, because they may have to be
//! fragmented. If the system refuses such a packet, each answer is a packet of its own.
//!
//! [`udp(7)`]: https://man7.org/linux/man-pages/man7/udp.7.html
//!
//! # A socket that takes no answers
//!
//! While the socket's send buffer is full, answers wait, in their order. Handlers go on, and so does receiving:
//!
//! - While 1,024 answers wait, nothing is received. Handlers that are in flight go on, and their answers wait as well.
//! - If the socket takes no answer for a second, it is [stalled](Trouble::Stalled). Receiving goes on until the socket
//!   takes an answer again: each new answer that finds 1,024 waiting replaces the oldest, whose outcome is
//!   [`Outcome::SendBlocked`]. The answers that still wait when the server ends have the same outcome.
//!
//! A link that is too slow is one cause. On Linux there is another: an answer stays in the send buffer while the address
//! of a neighbour is resolved. Datagrams with forged addresses of neighbours that do not exist, in an IPv4 subnet or the
//! /64 of the server, can fill it, and then nobody gets an answer until the resolution fails, after 3 s. Two settings
//! help:
//!
//! - A larger send buffer (`SO_SNDBUF`, up to `net.core.wmem_max`). The default of 212,992 bytes is filled by 256 answers
//!   of 180 bytes. With 1 MiB, of which Linux makes 2, it takes 2,521.
//! - `net.ipv4.neigh.*.unres_qlen_bytes` and `net.ipv6.neigh.*.unres_qlen_bytes`, 212,992 by default: how much waits
//!   for one neighbour before the oldest is dropped. With 1, one answer waits for each neighbour, and the kernel limits
//!   the number of neighbours (`net.ipv6.neigh.default.gc_thresh3`, 1,024 by default).
//!
//! With both, 20,000 answers to 2,000 neighbours that do not exist did not block the socket.
//!
//! # Addresses
//!
//! An answer leaves from the address that the datagram was sent to. A plain `send_to` on a wildcard socket does not do
//! that on a host with several addresses. If the system cannot send from there, for example because a routing rule forbids
//! it, the answer fails. The system chooses the address only if the one that was asked is no longer this host's, or is a
//! broadcast address or a multicast group. On Linux, the address may be in a prefix that is routed to this host (`ip -6
//! route add local … dev lo`).
//!
//! A client with a link-local address is answered through the interface that its datagram came from, over IPv4 (169.254/16,
//! on Linux) as well, if the socket is bound to a wildcard or to a link-local address.
//!
//! A socket that is bound to one address needs nothing of this, and saves its
//! price: a few percent of a datagram.
//!
//! A datagram from port 0 or from the unspecified address cannot be answered: its sender asks for no answer ([RFC 768]),
//! and an answer to `[::]` would reach this host. The service sees it, and its answer is dropped.
//!
//! Answers have the traffic class (DSCP) that is set on the socket: `IP_TOS` for IPv4 clients, also on a dual-stack
//! socket, and `IPV6_TCLASS` for IPv6 clients. On systems other than Linux and Android it is always 0.
//!
//! `quinn-udp` receives, and sends on systems other than Linux and Android. Its set-up is for QUIC: it forbids
//! fragments, and receives several datagrams as one. So it runs on a throw-away socket, and the socket that is served
//! gets the one option that is needed, which reports the destination address of each datagram. A socket that is bound to
//! one address needs none.
//!
//! [RFC 768]: https://www.rfc-editor.org/rfc/rfc768
//!
//! # Large answers
//!
//! An answer above the MTU of the link is fragmented (not on Windows, where `quinn-udp` forbids it). A router on its way with
//! a smaller MTU drops a packet that does not fit, except if it is an IPv4 fragment. The router tells this host, so the next
//! answer to this client arrives. If a firewall drops these ICMP messages, none does.
//!
//! With [`DatagramSocket::ignore_path_mtu`], IPv4 answers of any size arrive, and IPv6 answers above the MTU of the link (1,452
//! bytes on Ethernet), in more fragments. Linux does not fragment an IPv6 answer that its link takes whole, so those above
//! 1,232 bytes are still lost behind a smaller MTU. Keep IPv6 answers below that if you can.
//!
//! # Many cores
//!
//! A server is one task. To use several cores, bind one socket for each worker on the same port (`SO_REUSEPORT`). The
//! system spreads the clients over them, a client always to the same worker.
//!
//! A worker takes the least CPU time in a runtime of its own with one thread
//! (`tokio::runtime::Builder::new_current_thread`). In a runtime of several threads, those that have nothing to do are
//! woken for the datagrams that arrive while one is handled: a BitTorrent tracker took 1.4 times the CPU time that way.
//! See [`Server::new`] for which runtime a server belongs to.

mod address;
mod answer;
mod batch;
mod budget;
mod call;
mod datagram;
mod drops;
mod handlers;
mod inbox;
mod observer;
mod outbox;
mod payload;
mod platform;
mod queue;
mod ready;
mod replies;
mod send;
mod serve;
mod server;
mod socket;
mod sources;

pub use self::{
    batch::Batch,
    datagram::Datagram,
    drops::Drops,
    observer::{Observer, Outcome, Trouble},
    replies::Replies,
    serve::Serve,
    server::Server,
    socket::DatagramSocket,
};
