//! Where answers come from, on a link of 1,500 bytes between two hosts.

#![cfg(target_os = "linux")]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    convert::Infallible,
    future::ready,
    io::{ErrorKind, IoSliceMut},
    net::{self, IpAddr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketOptions, UdpServer, WithScope,
    udp_adapter::{Batch, SocketDrops},
};
use metrics::counter;
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::gettid,
};
use socket2::SockRef;
use test_support::{
    INET, INET6, MAPPED, Metrics, PATIENCE, Seen, V4, and, close, each, eventually, in_namespace, ip,
    ipv6_or_say, link_number, of_server, raw, recorded, sample, seven, snmp,
    udp::{self, Running, bind, echo, receive_from, server},
};
use tokio::{net::UdpSocket, task::spawn_blocking, time::timeout};
use tower::service_fn;

/// 200 peers of a tracker, over IPv6.
const LARGE: usize = 3_620;

/// A wildcard, two addresses of the host, and how the server sees a client that asks them.
const CASES: [(&str, [&str; 2], Seen); 4] = [
    ("0.0.0.0:0", ["192.0.2.1", "192.0.2.2"], INET),
    ("[::]:0", ["192.0.2.1", "192.0.2.2"], MAPPED),
    ("[::]:0", ["2001:db8::1", "2001:db8::2"], INET6),
    ("[::]:0", ["fe80::1", "fe80::2"], INET6),
];

/// Addresses of the client in other networks, and its addresses that the server has as routers.
const FAR: [(&str, &str); 2] = [
    ("198.51.100.99", "192.0.2.99"),
    ("2001:db8:ff::99", "2001:db8::99"),
];

/// Prefixes that the client sends to the server, and the server's addresses that it has as routers.
const PREFIXES: [(&str, &str); 2] = [
    ("203.0.113.0/24", "192.0.2.1"),
    ("2001:db8:5::/64", "2001:db8::1"),
];

fn configure(link: &str, addresses: &[&str]) {
    ip(&format!("link set {link} addrgenmode none"));
    ip(&format!("link set {link} up"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev {link}{nodad}"));
    }
}

/// The number of a link, once it carries packets.
fn number(link: &str) -> u32 {
    eventually("the link is up", || {
        ip(&format!("-oneline link show dev {link}")).contains("state UP")
    });
    link_number(link)
}

/// The other host: a thread in its own network namespace, which opens sockets there.
struct Host {
    requests: mpsc::Sender<(SocketAddr, mpsc::Sender<net::UdpSocket>)>,
    link: u32,
    /// The number of the server's end of the link.
    server_link: u32,
}

impl Host {
    /// Joins the two hosts. To be called on the server's.
    fn new() -> Self {
        let (requests, inbox) = mpsc::channel::<(SocketAddr, mpsc::Sender<net::UdpSocket>)>();
        let (says_thread, thread) = mpsc::channel();
        let (joined, is_joined) = mpsc::channel();
        let (says_link, link) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            says_thread.send(gettid()).unwrap();
            is_joined.recv().unwrap();
            let far = FAR.map(|(address, _)| address);
            let near = [
                "192.0.2.99/24",
                "169.254.0.99/16",
                "2001:db8::99/64",
                "fe80::99/64",
            ];
            configure("client", &[&near[..], &far].concat());
            says_link.send(number("client")).unwrap();
            for (prefix, router) in PREFIXES {
                ip(&format!("route add {prefix} via {router}"));
            }
            for (address, reply) in inbox {
                reply.send(net::UdpSocket::bind(address).unwrap()).unwrap();
            }
        });
        let thread = thread.recv().unwrap();
        ip(&format!(
            "link add server mtu 1500 type veth peer name client mtu 1500 netns {thread}"
        ));
        configure(
            "server",
            &[
                "192.0.2.1/24",
                "192.0.2.2/24",
                "2001:db8::1/64",
                "2001:db8::2/64",
                "fe80::1/64",
                "fe80::2/64",
            ],
        );
        joined.send(()).unwrap();
        let host = Self {
            requests,
            link: link.recv().unwrap(),
            server_link: number("server"),
        };
        for (_, router) in FAR {
            ip(&format!("route add default via {router}"));
        }
        host
    }

    /// A socket of the client, and the server's address that it should ask.
    fn socket(&self, server: &str, port: u16) -> (UdpSocket, SocketAddr) {
        let server = at(server, port, self.link);
        let any = match server {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        };
        self.socket_at(any, server)
    }

    /// A socket of the client at `own`, and the server's address.
    fn socket_at(&self, own: &str, server: SocketAddr) -> (UdpSocket, SocketAddr) {
        let (reply, socket) = mpsc::channel();
        self.requests.send((own.parse().unwrap(), reply)).unwrap();
        let socket = socket.recv().unwrap();
        socket.set_nonblocking(true).unwrap();
        (UdpSocket::from_std(socket).unwrap(), server)
    }

    /// Asks one address. Answers from other addresses are not received.
    async fn ask(&self, server: &str, port: u16, payload: &[u8]) -> Vec<u8> {
        let (socket, server) = self.socket(server, port);
        socket.connect(server).await.unwrap();
        udp::Client(socket).ask(payload).await
    }

    /// The address that was asked and the address of the client, as a handler sees them.
    fn told(&self, server: &str, port: u16) -> (SocketAddr, IpAddr) {
        let own = match server.split_once("::") {
            None => "192.0.2.99",
            Some(("fe80", _)) => "fe80::99",
            Some(_) => "2001:db8::99",
        };
        (at(server, port, self.server_link), own.parse().unwrap())
    }
}

/// A link-local address is complete only with its link.
fn at(ip: &str, port: u16, link: u32) -> SocketAddr {
    match ip.parse().unwrap() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, link).into(),
        ip => SocketAddr::new(ip, port),
    }
}

/// Runs a test with the other host.
fn run(test: impl AsyncFnOnce(Metrics, Host) + Send) {
    if ipv6_or_say() {
        in_namespace("", || recorded(async |metrics| test(metrics, Host::new()).await));
    }
}

/// How many fragments this host has made, of IPv4 and of IPv6 packets.
fn fragments() -> (u64, u64) {
    let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let mut lines = snmp6.lines();
    let inet6 = lines.find_map(|line| line.strip_prefix("Ip6FragCreates"));
    (snmp("Ip", "FragCreates"), inet6.unwrap().trim().parse().unwrap())
}

#[test]
fn a_server_answers_from_the_address_that_was_asked() {
    run(async |metrics, client| {
        let mut expected = Vec::new();
        for (address, ips, seen) in CASES {
            let told = Rc::new(RefCell::new(Vec::new()));
            let handler_told = Rc::clone(&told);
            let service = service_fn(move |datagram: Datagram| {
                let mut told = handler_told.borrow_mut();
                told.push((datagram.local_addr(), datagram.peer().ip()));
                ready(Ok::<_, Infallible>(Some(Bytes::from(vec![7; LARGE]))))
            });
            let running = Running::start(server(address), service);
            let (address, port) = (running.address, running.address.port());
            for ip in ips {
                assert_eq!(client.ask(ip, port, b"x").await, [7; LARGE], "{ip}");
            }
            assert_eq!(*told.borrow(), ips.map(|ip| client.told(ip, port)));
            running.stop().await;
            expected.extend(each(
                &seven("udp", address, seen),
                [("s_requests_received_total", 2), ("s_responses_sent_total", 2)],
            ));
        }
        metrics.assert(expected);
        // Two answers in each case, three fragments each: of at most 1,480 bytes with an IPv4 header, of 1,448 with the two
        // that IPv6 needs.
        assert_eq!(fragments(), (12, 12));
    });
}

/// The system would choose a source from the global address of the client alone.
#[test]
fn a_client_with_a_global_address_is_answered_from_the_link_local_address_that_it_asked() {
    run(async |_, client| {
        let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
        let server = at("fe80::2", socket.local_addr().port(), client.link);
        let (asking, server) = client.socket_at("[2001:db8::99]:0", server);
        asking.send_to(b"x", server).await.unwrap();
        let datagram = socket.recv(&mut Batch::new()).await.unwrap();
        assert_eq!(datagram.peer().ip().to_string(), "2001:db8::99");
        socket.reply(&datagram, b"y").await.unwrap();
        assert_eq!(receive_from(&asking).await, (1, server));
    });
}

#[test]
fn a_datagram_socket_answers_from_the_address_that_was_asked() {
    run(async |metrics, client| {
        let mut expected = Vec::new();
        for (address, ips, seen) in CASES {
            let socket = DatagramSocket::new(bind(address)).unwrap();
            let address = socket.local_addr();
            let port = address.port();
            let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, address));
            let mut batch = Batch::new();
            for ip in ips {
                let serve = async {
                    let datagram = socket.recv(&mut batch).await.unwrap();
                    assert_eq!(
                        (datagram.local_addr(), datagram.peer().ip()),
                        client.told(ip, port)
                    );
                    let answer = async {
                        counter!("answers_total").increment(1);
                        socket.reply(&datagram, &[7; LARGE]).await
                    };
                    answer.with_scope(scopes.for_client(&datagram)).await.unwrap();
                };
                let ((), answer) = tokio::join!(serve, client.ask(ip, port, b"x"));
                assert_eq!(answer, [7; LARGE], "{ip}");
            }
            expected.push(sample("answers_total", &seven("udp", address, seen), 2));
        }
        metrics.assert(expected);
        assert_eq!(fragments(), (12, 12));
    });
}

#[test]
fn an_address_may_be_chosen_without_a_datagram() {
    run(async |_, client| {
        for (address, ips, _) in CASES {
            let socket = DatagramSocket::new(bind(address)).unwrap();
            let port = socket.local_addr().port();
            for ip in ips {
                let (asking, server) = client.socket(ip, port);
                let own_port = asking.local_addr().unwrap().port();
                let own = at(&client.told(ip, port).1.to_string(), own_port, client.server_link);
                let send = async |from, to| {
                    socket.send_from(from, b"unasked", to).await.unwrap();
                    let (length, from) = receive_from(&asking).await;
                    assert_eq!(length, 7);
                    from
                };
                assert_eq!(send(server.ip(), own).await, server);
                // Some programs keep IPv4 addresses in this form.
                assert_eq!(send(mapped(server.ip()), own).await, server);
                let mapped_own = match own {
                    SocketAddr::V4(own) => (own.ip().to_ipv6_mapped(), own_port).into(),
                    SocketAddr::V6(_) => own,
                };
                assert_eq!(send(server.ip(), mapped_own).await, server);
                // The system chooses, because these are not addresses of this host.
                for from in ["::", "0.0.0.0", "203.0.113.1", "239.1.2.3", "2001:db8::dead"] {
                    let chosen = send(from.parse().unwrap(), own).await;
                    assert_eq!(chosen.is_ipv4(), own.is_ipv4(), "{from} {own}");
                }
            }
        }
    });
}

/// What a host with several uplinks forbids: one source on the way to other networks, or everywhere.
const FORBIDDEN: [&str; 6] = [
    "rule add from ASKED to FAR unreachable",
    "rule add from ASKED to FAR blackhole",
    "rule add from ASKED to FAR prohibit",
    "route add unreachable default table 100\nrule add from ASKED to FAR table 100",
    "route add blackhole default table 100\nrule add from ASKED to FAR table 100",
    // Before the rule that comes first otherwise.
    "rule add pref 200 table local\nrule del pref 0\nrule add pref 100 from ASKED to FAR unreachable",
];

#[test]
fn an_answer_that_may_not_leave_from_the_address_that_was_asked_fails() {
    for (bound, [asked, other], seen) in CASES {
        let family = usize::from(asked.contains(':'));
        if asked.starts_with("fe80") {
            continue;
        }
        for forbidden in FORBIDDEN {
            run(async |metrics, client| {
                let (far, near) = FAR[family];
                for line in forbidden.replace("ASKED", asked).replace("FAR", far).lines() {
                    ip(&format!("{} {line}", ["-4", "-6"][family]));
                }
                let running = Running::start(server(bound), service_fn(echo));
                let address = running.address;
                let server = |server: &str| at(server, address.port(), client.link);
                let socket_at = |own: &str| {
                    client
                        .socket_at(
                            &SocketAddr::new(own.parse().unwrap(), 0).to_string(),
                            server(asked),
                        )
                        .0
                };
                let (far, near) = (socket_at(far), socket_at(near));
                for _ in 0..20 {
                    for length in [2, 2] {
                        far.send_to(&[0; 16][..length], server(asked)).await.unwrap();
                    }
                    near.send_to(b"x", server(asked)).await.unwrap();
                    assert_eq!(receive_from(&near).await, (1, server(asked)), "{forbidden}");
                }
                // Nothing has come before.
                far.send_to(b"x", server(other)).await.unwrap();
                assert_eq!(receive_from(&far).await, (1, server(other)), "{forbidden}");
                running.stop().await;
                let labels = seven("udp", address, seen);
                metrics.assert([
                    sample(
                        "s_requests_failed_total",
                        &and(labels.clone(), "reason", "send"),
                        40,
                    ),
                    sample("s_requests_received_total", &labels, 61),
                    sample("s_responses_sent_total", &labels, 21),
                ]);
            });
        }
    }
}

/// A service can have a whole prefix without having its addresses (`AnyIP`).
#[test]
fn an_answer_leaves_from_any_address_of_a_prefix_that_is_routed_to_this_host() {
    const INET_ASKED: [&str; 3] = ["203.0.113.77", "192.0.2.2", "203.0.113.78"];
    const INET6_ASKED: [&str; 3] = ["2001:db8:5::77", "2001:db8::2", "2001:db8:5::78"];

    for (bound, asked, seen) in [
        ("0.0.0.0:0", INET_ASKED, INET),
        ("[::]:0", INET_ASKED, MAPPED),
        ("[::]:0", INET6_ASKED, INET6),
    ] {
        run(async |metrics, client| {
            for (prefix, _) in PREFIXES {
                ip(&format!("route add local {prefix} dev lo"));
            }
            let running = Running::start(server(bound), service_fn(echo));
            let address = running.address;
            let (asking, _) = client.socket(asked[0], 0);
            for asked in asked.repeat(2) {
                let asked = at(asked, address.port(), client.link);
                for _ in 0..3 {
                    asking.send_to(b"x", asked).await.unwrap();
                }
                for _ in 0..3 {
                    assert_eq!(receive_from(&asking).await, (1, asked));
                }
            }
            running.stop().await;
            let labels = seven("udp", address, seen);
            metrics.assert(each(
                &labels,
                [("s_requests_received_total", 18), ("s_responses_sent_total", 18)],
            ));

            // Nobody else's address is used.
            let socket = DatagramSocket::new(bind(bound)).unwrap();
            let (_, own) = FAR[usize::from(asked[0].contains(':'))];
            let own = at(own, asking.local_addr().unwrap().port(), 0);
            for (from, is_used) in [
                (asked[0], true),
                ("203.0.112.1", false),
                ("2001:db8::dead", false),
                (asked[2], true),
            ] {
                socket.send_from(from.parse().unwrap(), b"x", own).await.unwrap();
                let (_, used) = receive_from(&asking).await;
                assert_eq!(used.ip().to_string() == from, is_used, "{from} {used}");
            }
        });
    }
}

#[test]
fn a_broadcast_address_is_no_source() {
    for (bound, seen) in [("0.0.0.0:0", INET), ("[::]:0", MAPPED)] {
        run(async |metrics, client| {
            let running = Running::start(server(bound), service_fn(echo));
            let address = running.address;
            let (asking, server) = client.socket("192.0.2.1", address.port());
            asking.set_broadcast(true).unwrap();
            SockRef::from(&asking).bind_device(Some(b"client")).unwrap();
            for asked in ["192.0.2.255", "255.255.255.255"] {
                let asked = at(asked, address.port(), 0);
                asking.send_to(b"x", asked).await.unwrap();
                assert_eq!(receive_from(&asking).await, (1, server), "{asked}");
            }
            running.stop().await;
            metrics.assert(each(
                &seven("udp", address, seen),
                [("s_requests_received_total", 2), ("s_responses_sent_total", 2)],
            ));
        });
    }
}

#[test]
fn a_link_local_client_is_answered_on_its_own_link() {
    const ASKED: &str = "169.254.1.2";

    for bound in ["0.0.0.0:0", "[::]:0", "169.254.1.2:0", "[::ffff:169.254.1.2]:0"] {
        run(async |metrics, client| {
            // Another link with the same network, which has the first route.
            ip("link add first type veth peer name nobody");
            ip("link set nobody up");
            ip("link set first up");
            ip("addr add 169.254.1.1/16 dev first");
            ip("addr add 169.254.1.2/16 dev server");
            let running = Running::start(server(bound), service_fn(echo));
            let address = running.address;
            let (asking, asked) = client.socket_at("169.254.0.99:0", at(ASKED, address.port(), 0));
            asking.set_broadcast(true).unwrap();
            SockRef::from(&asking).bind_device(Some(b"client")).unwrap();
            let is_wildcard = address.ip().to_canonical().is_unspecified();
            let also = ["192.0.2.2", "255.255.255.255"];
            let also = also.iter().take(2 * usize::from(is_wildcard));
            for to in [&ASKED, &ASKED].into_iter().chain(also) {
                let to = at(to, address.port(), 0);
                asking.send_to(b"x", to).await.unwrap();
                let (length, from) = receive_from(&asking).await;
                let is_ours = !to.ip().to_string().starts_with("255");
                assert_eq!((length, from), (1, if is_ours { to } else { asked }), "{bound}");
            }
            running.stop().await;
            let served = if is_wildcard { 4 } else { 2 };
            assert_eq!(metrics.total("s_responses_sent_total"), served);
            assert_eq!(metrics.total("s_requests_received_total"), served);
        });
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

/// Shows that the tests above can fail.
#[test]
fn a_plain_send_to_answers_from_one_address_whichever_was_asked() {
    run(async |_, client| {
        for (address, ips, _) in CASES {
            let server = bind(address);
            let port = server.local_addr().unwrap().port();
            let mut answered_from = BTreeSet::new();
            for ip in ips {
                let (asking, asked) = client.socket(ip, port);
                asking.send_to(b"x", asked).await.unwrap();
                let (_, peer) = receive_from(&server).await;
                server.send_to(b"y", peer).await.unwrap();
                answered_from.insert(receive_from(&asking).await.1.ip());
            }
            assert_eq!(answered_from.len(), 1, "{address}: {answered_from:?} for {ips:?}");
        }
    });
}

#[test]
fn the_drops_of_a_socket_are_counted_in_the_network_namespace_of_a_thread() {
    const SENT: u64 = 500;

    in_namespace("", || {
        recorded(async |metrics| {
            for (address, client, seen) in [
                ("0.0.0.0:0", "127.0.0.1", "inet"),
                ("[::]:0", "127.0.0.1", "inet6"),
                ("[::]:0", "::1", "inet6"),
            ] {
                let socket = SocketOptions::dual_stack().recv_buffer_size(4_096);
                let socket = DatagramSocket::new(socket.bind_udp(address.parse().unwrap()).unwrap()).unwrap();
                let bound = socket.local_addr();
                let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, bound));
                let drops = SocketDrops::new(&socket, "s", scopes.server());
                drops.update().unwrap();

                let client: IpAddr = client.parse().unwrap();
                let sender = net::UdpSocket::bind((client, 0)).unwrap();
                for _ in 0..SENT {
                    sender.send_to(&[0; 100], (client, bound.port())).unwrap();
                }
                drops.update().unwrap();
                // Nothing is counted twice.
                SocketDrops::new(&socket, "s", scopes.server()).update().unwrap();
                let mut batch = Batch::new();
                let mut received = 0;
                while timeout(Duration::from_millis(100), socket.recv(&mut batch))
                    .await
                    .is_ok()
                {
                    received += 1;
                }
                assert!(0 < received && received < SENT, "{received}");

                let labels = of_server("udp", bound);
                assert_eq!(labels["server_binding_address_ip_family"], seen);
                let counted = sample("s_socket_drops_total", &labels, SENT - received);
                assert!(metrics.samples().contains(&counted), "{counted}");

                // The port is free again: nothing keeps the socket open.
                close(socket);
                drop(UdpSocket::bind(bound).await.unwrap());
                drops.update().unwrap();
                assert!(metrics.samples().contains(&counted), "{counted}");
            }
        });
    });
}

/// The traffic class of the next datagram, and the length of its payload.
fn receive_class(socket: &net::UdpSocket) -> (u8, usize) {
    let mut buffer = [0; 64];
    let mut space = nix::cmsg_space!(u8, i32);
    let mut payload = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut payload,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .expect("an answer");
    let class = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4Tos(class) => Some(class),
        ControlMessageOwned::Ipv6TClass(class) => Some(class.try_into().unwrap()),
        _ => None,
    });
    (class.unwrap(), message.bytes)
}

#[test]
fn an_answer_has_the_traffic_class_that_was_set_on_the_socket() {
    // Expedited forwarding (RFC 3246) and AF21 (RFC 2597).
    const INET_CLASS: u8 = 0xb8;
    const INET6_CLASS: u8 = 0x48;

    recorded(async |_| {
        for bound in ["0.0.0.0:0", "127.0.0.1:0", "[::]:0", "[::1]:0"] {
            if bound.starts_with('[') && !ipv6_or_say() {
                continue;
            }
            let socket = bind(bound);
            let address = socket.local_addr().unwrap();
            let option = SockRef::from(&socket);
            option.set_tos_v4(INET_CLASS.into()).unwrap();
            if address.is_ipv6() {
                option.set_tclass_v6(INET6_CLASS.into()).unwrap();
            }
            let running = Running::start(UdpServer::new(socket).unwrap(), service_fn(echo));

            for (own, class) in [("127.0.0.1", INET_CLASS), ("::1", INET6_CLASS)] {
                let own: IpAddr = own.parse().unwrap();
                let is_asked = address.ip().is_unspecified() && (own.is_ipv4() || address.is_ipv6());
                if !is_asked && address.ip() != own {
                    continue;
                }
                let client = net::UdpSocket::bind((own, 0)).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                if own.is_ipv4() {
                    SockRef::from(&client).set_recv_tos_v4(true).unwrap();
                } else {
                    SockRef::from(&client).set_recv_tclass_v6(true).unwrap();
                }
                client.send_to(b"x", (own, address.port())).unwrap();
                let received = spawn_blocking(move || receive_class(&client)).await.unwrap();
                assert_eq!(received, (class, 1), "{bound} {own}");
            }
            running.stop().await;
        }
    });
}

#[test]
fn a_datagram_from_port_0_is_served_and_not_answered() {
    in_namespace("", || {
        recorded(async |metrics| {
            let service = service_fn(|datagram: Datagram| {
                counter!("handled_total").increment(1);
                echo(datagram)
            });
            let running = Running::start(server("[::]:0"), service);
            raw::send_from_port_0(running.address.port(), b'x');
            let labels = running.labels(V4);
            let unanswered = sample("s_requests_unanswered_total", &labels, 1);
            metrics.wait_for(&unanswered).await;
            let [handled, received] = each(&labels, [("handled_total", 1), ("s_requests_received_total", 1)]);
            metrics.assert([handled, received, unanswered]);

            let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
            for nobody in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:5", "[::]:5"] {
                let from = IpAddr::from([127, 0, 0, 1]);
                let error = socket.send_from(from, b"x", nobody.parse().unwrap()).await;
                assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput, "{nobody}");
            }
        });
    });
}
