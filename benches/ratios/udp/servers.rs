//! The servers that are compared, and the load, which another process sends.

use std::{
    convert::Infallible,
    future::Future,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
use futures_util::{SinkExt as _, StreamExt as _};
use metrics::{Recorder, counter};
use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt},
    time::{ClockId, clock_gettime},
};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::{io::Interest, sync::oneshot};
use tokio_util::{codec::BytesCodec, udp::UdpFramed};
use tower::service_fn;

/// The size of a datagram: that of a BitTorrent announce.
const SIZE: usize = 98;
/// The load of another process, which gets it as its arguments.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// How many datagrams are sent before the answers are awaited.
    pub(crate) window: u32,
    /// How many sockets send them in turn.
    pub(crate) peers: usize,
}

impl Load {
    pub(crate) const DATAGRAMS: u32 = 20_032;

    /// Sends a load if the arguments ask for it.
    pub(crate) fn is_sent(arguments: &[String]) -> bool {
        let [flag, server, window, peers] = arguments else {
            return false;
        };
        if flag == "--load" {
            let load = Self {
                window: window.parse().expect("a number"),
                peers: peers.parse().expect("a number"),
            };
            load.send(server.parse().expect("an address"));
        }
        flag == "--load"
    }

    fn send(self, server: SocketAddr) {
        let any = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = || {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
            socket.connect(server).expect("a server");
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .expect("a timeout");
            socket
        };
        let sockets: Vec<_> = std::iter::repeat_with(socket).take(self.peers).collect();
        let in_turn = || sockets.iter().cycle().take(self.window as usize);
        let mut buffer = [0; SIZE];
        for _ in 0..Self::DATAGRAMS / self.window {
            for socket in in_turn() {
                socket.send(&[7; SIZE]).expect("a datagram");
            }
            for socket in in_turn() {
                // A lost datagram is waited for once.
                if socket.recv(&mut buffer).is_err() {
                    break;
                }
            }
        }
    }

    /// Starts the other process, and waits for it.
    fn run(self, server: SocketAddr) {
        let load = Command::new(std::env::current_exe().expect("this program has a path"))
            .args([
                "--load",
                &server.to_string(),
                &self.window.to_string(),
                &self.peers.to_string(),
            ])
            .stdout(Stdio::null())
            .status();
        assert!(load.expect("the load runs").success());
    }
}

/// Where a server is bound, and where its clients send to.
#[derive(Clone, Copy)]
pub(crate) struct Binding {
    pub(crate) name: &'static str,
    pub(crate) bound: &'static str,
    pub(crate) asked: &'static str,
}

/// The first three are wildcards.
pub(crate) const BINDINGS: [Binding; 6] = {
    const fn of(name: &'static str, bound: &'static str, asked: &'static str) -> Binding {
        Binding { name, bound, asked }
    }
    [
        of("IPv4", "0.0.0.0:0", "127.0.0.1"),
        of("mapped", "[::]:0", "127.0.0.1"),
        of("IPv6", "[::]:0", "::1"),
        of("IPv4, bound to one address", "127.0.0.1:0", "127.0.0.1"),
        of(
            "mapped, bound to one address",
            "[::ffff:127.0.0.1]:0",
            "127.0.0.1",
        ),
        of("IPv6, bound to one address", "[::1]:0", "::1"),
    ]
};

fn thread_cpu() -> f64 {
    let time =
        Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock of a thread"));
    time.as_secs_f64() * 1e9
}

/// Runs a server on its own thread until it is stopped.
pub(crate) type Serve =
    fn(tokio::net::UdpSocket, oneshot::Receiver<()>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Nanoseconds of CPU time that the thread of a server takes for each datagram.
pub(crate) fn cpu_per_datagram(
    recorder: &(impl Recorder + Sync),
    serve: Serve,
    binding: Binding,
    load: Load,
) -> f64 {
    let (address, bound) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    thread::scope(|threads| {
        let server = threads.spawn(move || {
            let _recorder = metrics::set_default_local_recorder(recorder);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let socket = SocketOptions::dual_stack()
                    .bind_udp(binding.bound.parse().expect("an address"))
                    .expect("a socket");
                address
                    .send(socket.local_addr().expect("an address"))
                    .expect("somebody waits");
                let start = thread_cpu();
                serve(socket, stopped).await;
                (thread_cpu() - start) / f64::from(Load::DATAGRAMS)
            })
        });
        let port = bound.recv().expect("an address").port();
        load.run(SocketAddr::new(binding.asked.parse().expect("an address"), port));
        stop.send(()).expect("the server still runs");
        server.join().expect("the server does not panic")
    })
}

fn handled(payload: Bytes) -> Bytes {
    counter!("handled_total").increment(1);
    payload
}

fn ours(
    socket: tokio::net::UdpSocket,
    stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let service = service_fn(|datagram: Datagram| {
        std::future::ready(Ok::<_, Infallible>(Some(handled(datagram.into_payload()))))
    });
    Box::pin(async move {
        let server = UdpServer::new(socket)
            .expect("a server")
            .metrics_prefix("s")
            .serve(service);
        server
            .with_graceful_shutdown(async { _ = stopped.await })
            .await
            .expect("no error");
    })
}

/// The system calls of `UdpServer` on a wildcard, by hand, with a counter where it has one. A batch has one destination
/// here.
fn by_hand(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let local = socket.local_addr().expect("an address");
        let other = UdpSocket::bind(SocketAddr::new(local.ip(), 0)).expect("a socket");
        let state = UdpSocketState::new((&other).into()).expect("a socket");
        let space = if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).expect("an option");
            cmsg_space!(in6_pktinfo)
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).expect("an option");
            cmsg_space!(in_pktinfo)
        };
        let mut headers = MultiHeaders::preallocate(BATCH_SIZE, Some(space));
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut buffer = vec![0; BATCH_SIZE * 65_535];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut answers = Vec::with_capacity(BATCH_SIZE);
        loop {
            tokio::select! {
                biased;
                ready = socket.readable() => ready.expect("a socket"),
                _ = &mut stopped => return,
            }
            let batch = socket.try_io(Interest::READABLE, || {
                let mut buffers = buffer.chunks_exact_mut(65_535);
                let mut slices: [_; BATCH_SIZE] =
                    std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
                state.recv((&socket).into(), &mut slices, &mut metas)
            });
            let Ok(batch) = batch else { continue };
            for (at, meta) in metas[..batch].iter().enumerate() {
                received.increment(1);
                let payload = Bytes::copy_from_slice(&buffer[at * 65_535..][..meta.len]);
                answers.push((handled(payload), SockaddrStorage::from(meta.addr)));
            }
            let result = socket.try_io(Interest::WRITABLE, || {
                Ok(send_all(&socket, &mut headers, &answers, metas[0].dst_ip))
            });
            sent.increment(result.unwrap_or(0));
            answers.clear();
        }
    })
}

fn send_all(
    socket: &tokio::net::UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    answers: &[(Bytes, SockaddrStorage)],
    from: Option<IpAddr>,
) -> u64 {
    let mut payloads = [[IoSlice::new(&[])]; BATCH_SIZE];
    let mut to = [None; BATCH_SIZE];
    for ((payload, to), (answer, peer)) in payloads.iter_mut().zip(&mut to).zip(answers) {
        *payload = [IoSlice::new(answer)];
        *to = Some(*peer);
    }
    let (inet, inet6);
    let from = match from.expect("the socket reports it") {
        IpAddr::V4(ip) => {
            inet = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                ipi_addr: in_addr { s_addr: 0 },
            };
            [ControlMessage::Ipv4PacketInfo(&inet)]
        }
        IpAddr::V6(ip) => {
            inet6 = in6_pktinfo {
                ipi6_ifindex: 0,
                ipi6_addr: in6_addr { s6_addr: ip.octets() },
            };
            [ControlMessage::Ipv6PacketInfo(&inet6)]
        }
    };
    let sent = sendmmsg(
        socket.as_raw_fd(),
        headers,
        &payloads[..answers.len()],
        &to[..answers.len()],
        from,
        MsgFlags::empty(),
    );
    sent.map_or(0, |sent| sent.count() as u64)
}

fn by_recv_from(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, peer) = tokio::select! {
                biased;
                result = socket.recv_from(&mut buffer) => result.expect("a datagram"),
                _ = &mut stopped => return,
            };
            received.increment(1);
            let answer = handled(Bytes::copy_from_slice(&buffer[..length]));
            if socket.send_to(&answer, peer).await.is_ok() {
                sent.increment(1);
            }
        }
    })
}

fn by_udp_framed(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut framed = UdpFramed::new(socket, BytesCodec::new());
        loop {
            let (payload, peer) = tokio::select! {
                biased;
                result = framed.next() => result.expect("no end").expect("a datagram"),
                _ = &mut stopped => return,
            };
            received.increment(1);
            if framed.send((handled(payload.freeze()), peer)).await.is_ok() {
                sent.increment(1);
            }
        }
    })
}

/// All servers by name. The first is `UdpServer`.
pub(crate) const ALL: [(&str, Serve); 4] = [
    ("`UdpServer`", ours),
    ("the same system calls by hand", by_hand),
    ("`recv_from` and `send_to`", by_recv_from),
    ("`UdpFramed`", by_udp_framed),
];
