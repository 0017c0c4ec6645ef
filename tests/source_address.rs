//! Where answers come from, on a link of 1,500 bytes between two hosts, and what becomes of those that cannot be sent.

#![cfg(target_os = "linux")]

use std::{
    cell::{Cell, RefCell},
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
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketDrops, SocketOptions, UdpServer,
    WithScope, prometheus::Install, udp_adapter::Batch,
};
use metrics::counter;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::gettid,
};
use socket2::{Domain, SockRef, Socket, Type};
use test_support::{
    INET, INET6, Labels, Log, MAPPED, Seen, and, assert_samples, block_on_local, close, eventually,
    in_namespace, ip, ipv6_or_say, link_number, sample, samples, series, seven, soon,
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, oneshot},
    task::{spawn_blocking, spawn_local},
    time::timeout,
};
use tower::{Service, service_fn};

const PATIENCE: Duration = Duration::from_secs(10);

/// 200 peers of a tracker, over IPv6.
const LARGE: usize = 3_620;

/// A wildcard, two addresses of the host, and how the server sees a client that asks them.
const CASES: [(&str, [&str; 2], Seen); 4] = [
    ("0.0.0.0:0", ["192.0.2.1", "192.0.2.2"], INET),
    ("[::]:0", ["192.0.2.1", "192.0.2.2"], MAPPED),
    ("[::]:0", ["2001:db8::1", "2001:db8::2"], INET6),
    ("[::]:0", ["fe80::1", "fe80::2"], INET6),
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
struct Client {
    requests: mpsc::Sender<(SocketAddr, mpsc::Sender<net::UdpSocket>)>,
    link: u32,
    /// The number of the server's end of the link.
    server_link: u32,
}

impl Client {
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
            configure("client", &["192.0.2.99/24", "2001:db8::99/64", "fe80::99/64"]);
            says_link.send(number("client")).unwrap();
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
        Self {
            requests,
            link: link.recv().unwrap(),
            server_link: number("server"),
        }
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
        socket.send(payload).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("an answer from {server}"))
            .unwrap();
        buffer.truncate(length);
        buffer
    }

    /// What a handler sees of a request to `server`: the address that was asked, and who asked.
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

thread_local! {
    static SEND_BATCH: Cell<usize> = const { Cell::new(32) };
}

/// Runs a test in a network namespace of its own for several numbers of answers that leave together.
fn in_namespaces(test: impl Fn() + Send + Sync) {
    for send_batch in [1, 3, 32] {
        in_namespace("", || {
            SEND_BATCH.set(send_batch);
            test();
        });
    }
}

fn udp_server(socket: UdpSocket) -> UdpServer {
    UdpServer::new(socket)
        .unwrap()
        .metrics_prefix("s")
        .max_send_batch(SEND_BATCH.get())
}

fn run<F: Future>(test: impl FnOnce(PrometheusHandle, Client) -> F) -> F::Output {
    run_alone(|handle| test(handle, Client::new()))
}

/// Without the other host.
fn run_alone<F: Future>(test: impl FnOnce(PrometheusHandle) -> F) -> F::Output {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    block_on_local(async { test(handle).await })
}

fn bind(address: &str) -> UdpSocket {
    SocketOptions::dual_stack()
        .bind_udp(address.parse().unwrap())
        .unwrap()
}

/// How many fragments this host has made, of IPv4 and of IPv6 packets.
fn fragments() -> (u64, u64) {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = snmp.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    let inet = fields.find(|(name, _)| *name == "FragCreates").unwrap().1;

    let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let inet6 = snmp6
        .lines()
        .find_map(|line| line.strip_prefix("Ip6FragCreates"))
        .unwrap();
    (inet.trim().parse().unwrap(), inet6.trim().parse().unwrap())
}

#[test]
fn a_server_answers_from_the_address_that_was_asked() {
    if !ipv6_or_say() {
        return;
    }
    in_namespaces(|| {
        run(async |metrics, client| {
            let mut expected = Vec::new();
            for (address, ips, seen) in CASES {
                let told = Rc::new(RefCell::new(Vec::new()));
                let service = {
                    let told = Rc::clone(&told);
                    service_fn(move |datagram: Datagram| {
                        told.borrow_mut()
                            .push((datagram.local_addr(), datagram.peer().ip()));
                        ready(Ok::<_, Infallible>(Some(Bytes::from(vec![7; LARGE]))))
                    })
                };
                let server = udp_server(bind(address));
                let address = server.local_addr();
                let (stop, stopped) = oneshot::channel::<()>();
                let server = spawn_local(server.serve(service).with_graceful_shutdown(async {
                    stopped.await.unwrap();
                }));
                for ip in ips {
                    assert_eq!(client.ask(ip, address.port(), b"x").await, [7; LARGE], "{ip}");
                }
                let port = address.port();
                assert_eq!(*told.borrow(), ips.map(|ip| client.told(ip, port)));
                stop.send(()).unwrap();
                timeout(PATIENCE, server).await.unwrap().unwrap().unwrap();

                let labels = seven("udp", address, seen);
                expected.push(sample("s_requests_received_total", &labels, 2));
                expected.push(sample("s_responses_sent_total", &labels, 2));
            }
            assert_samples(samples(&metrics.render()), expected);
        });
        // Two answers in each case, three fragments each: of at most 1,480 bytes with an IPv4 header, of 1,448 with the two
        // that IPv6 needs.
        assert_eq!(fragments(), (12, 12));
    });
}

/// The system would choose a source from the global address of the client alone.
#[test]
fn a_client_with_a_global_address_is_answered_from_the_link_local_address_that_it_asked() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("", || {
        run(async |_, client| {
            let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
            let server = at("fe80::2", socket.local_addr().port(), client.link);
            let (asking, server) = client.socket_at("[2001:db8::99]:0", server);
            asking.send_to(b"x", server).await.unwrap();
            let datagram = socket.recv(&mut Batch::new()).await.unwrap();
            assert_eq!(datagram.peer().ip().to_string(), "2001:db8::99");
            socket.reply(&datagram, b"y").await.unwrap();
            let answered = timeout(PATIENCE, asking.recv_from(&mut [0; 8])).await;
            assert_eq!(answered.expect("an answer").unwrap(), (1, server));
        });
    });
}

#[test]
fn a_datagram_socket_answers_from_the_address_that_was_asked() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("", || {
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
                        answer
                            .with_scope(scopes.for_client(datagram.client()))
                            .await
                            .unwrap();
                    };
                    let ((), answer) = tokio::join!(serve, client.ask(ip, port, b"x"));
                    assert_eq!(answer, [7; LARGE], "{ip}");
                }
                expected.push(sample("answers_total", &seven("udp", address, seen), 2));
            }
            assert_samples(samples(&metrics.render()), expected);
        });
        assert_eq!(fragments(), (12, 12));
    });
}

#[test]
fn an_address_may_be_chosen_without_a_datagram() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("", || {
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
                        let received = timeout(PATIENCE, asking.recv_from(&mut [0; 8])).await;
                        let (length, from) = received.expect("a datagram").unwrap();
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
    });
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
    if !ipv6_or_say() {
        return;
    }
    in_namespace("", || {
        run(async |_, client| {
            for (address, ips, _) in CASES {
                let server = bind(address);
                let port = server.local_addr().unwrap().port();
                let mut buffer = [0; 8];
                let mut answered_from = BTreeSet::new();
                for ip in ips {
                    let (asking, asked) = client.socket(ip, port);
                    asking.send_to(b"x", asked).await.unwrap();
                    let (length, peer) = timeout(PATIENCE, server.recv_from(&mut buffer))
                        .await
                        .expect("a request")
                        .unwrap();
                    server.send_to(&buffer[..length], peer).await.unwrap();
                    let (_, from) = timeout(PATIENCE, asking.recv_from(&mut buffer))
                        .await
                        .expect("an answer")
                        .unwrap();
                    answered_from.insert(from.ip());
                }
                assert_eq!(answered_from.len(), 1, "{address}: {answered_from:?} for {ips:?}");
            }
        });
    });
}

#[test]
fn the_drops_of_a_socket_are_counted_in_the_network_namespace_of_a_thread() {
    const SENT: u64 = 500;

    in_namespace("", || {
        run_alone(async |metrics| {
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

                let mut labels = seven("udp", bound, INET);
                labels.retain(|name, _| name.starts_with("server"));
                assert_eq!(labels["server_binding_address_ip_family"], seen);
                let counted = sample("s_socket_drops_total", &labels, SENT - received);
                assert!(samples(&metrics.render()).contains(&counted), "{counted}");

                // The port is free again: nothing keeps the socket open.
                close(socket);
                drop(UdpSocket::bind(bound).await.unwrap());
                drops.update().unwrap();
                assert!(samples(&metrics.render()).contains(&counted), "{counted}");
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

    run_alone(async |_| {
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
            let server = UdpServer::new(socket).unwrap();
            let server = spawn_local(server.serve(service_fn(|datagram: Datagram| {
                ready(Ok::<_, Infallible>(Some(datagram.into_payload())))
            })));

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
            server.abort();
        }
    });
}

#[test]
fn a_datagram_from_port_0_is_served_and_not_answered() {
    in_namespaces(|| {
        run_alone(async |metrics| {
            let server = udp_server(bind("[::]:0"));
            let address = server.local_addr();
            spawn_local(server.serve(service_fn(|datagram: Datagram| {
                counter!("handled_total").increment(1);
                ready(Ok::<_, Infallible>(Some(datagram.into_payload())))
            })));

            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::UDP)).unwrap();
            // A UDP header: source, destination, length, no checksum.
            let mut packet = [0; 9];
            packet[2..4].copy_from_slice(&address.port().to_be_bytes());
            packet[5] = 9;
            let to = SocketAddr::from(([127, 0, 0, 1], 0));
            raw.send_to(&packet, &to.into()).unwrap();

            let labels = seven("udp", address, MAPPED);
            let unanswered = sample("s_requests_unanswered_total", &labels, 1);
            soon("it has its outcome", || {
                samples(&metrics.render()).contains(&unanswered)
            })
            .await;
            assert_samples(
                samples(&metrics.render()),
                [
                    sample("handled_total", &labels, 1),
                    sample("s_requests_received_total", &labels, 1),
                    unanswered,
                ],
            );

            let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
            for nobody in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:5", "[::]:5"] {
                let from = IpAddr::from([127, 0, 0, 1]);
                let error = socket.send_from(from, b"x", nobody.parse().unwrap()).await;
                assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput, "{nobody}");
            }
        });
    });
}

/// A link whose neighbours do not exist: what is sent to them stays in the send buffer of the socket. The answers are
/// empty, because several of one size take the place of one.
struct NoNeighbours {
    clients: [net::UdpSocket; 2],
}

impl NoNeighbours {
    const INET: &str = "192.0.2.50";
    const INET6: &str = "2001:db8::50";

    fn new() -> Self {
        ip("link add server type veth peer name nobody");
        ip("link set nobody up");
        configure("server", &["192.0.2.1/24", "2001:db8::1/64"]);
        number("server");
        // Until then, what is sent to it waits for a neighbour of this address.
        eventually("the address is this host's", || {
            ip("route get 2001:db8::1").starts_with("local ")
        });
        for family in ["ipv4", "ipv6"] {
            // A solicitation each second, for longer than the test takes.
            let solicitations = format!("/proc/sys/net/{family}/neigh/server/mcast_solicit");
            std::fs::write(solicitations, "1000").unwrap();
        }
        let socket = |domain, address: &str| {
            let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
            // Addresses that are not this host's.
            if domain == Domain::IPV4 {
                socket.set_ip_transparent_v4(true).unwrap();
            } else {
                socket.set_freebind_v6(true).unwrap();
            }
            let address = SocketAddr::new(address.parse().unwrap(), 0);
            socket.bind(&address.into()).unwrap();
            net::UdpSocket::from(socket)
        };
        Self {
            clients: [
                socket(Domain::IPV4, Self::INET),
                socket(Domain::IPV6, Self::INET6),
            ],
        }
    }

    /// Asks over both families in turn.
    fn ask(&self, port: u16, at: usize, payload: &[u8]) {
        let server = [at_port("192.0.2.1", port), at_port("2001:db8::1", port)][at % 2];
        self.clients[at % 2].send_to(payload, server).unwrap();
    }

    /// From now on they exist.
    fn appear() {
        for address in [Self::INET, Self::INET6] {
            ip(&format!(
                "neigh replace {address} dev server lladdr 02:00:00:00:00:01 nud permanent"
            ));
        }
    }

    /// A server that answers `slow` when it is told to.
    fn server(
        gate: &Rc<Notify>,
    ) -> (
        UdpServer,
        impl Service<Datagram, Response = Option<Bytes>, Error = Infallible, Future: 'static> + 'static,
    ) {
        let gate = Rc::clone(gate);
        let socket = SocketOptions::dual_stack().send_buffer_size(1);
        let socket = socket.bind_udp("[::]:0".parse().unwrap()).unwrap();
        let service = service_fn(move |datagram: Datagram| {
            let gate = Rc::clone(&gate);
            async move {
                if datagram.payload() == "slow" {
                    gate.notified().await;
                    counter!("slow_total").increment(1);
                }
                Ok(Some(datagram.into_payload()))
            }
        });
        (udp_server(socket), service)
    }
}

fn at_port(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The sum of a metric's series.
fn total(metrics: &PrometheusHandle, name: &str) -> u64 {
    let series = series(&metrics.render(), name);
    let values = series.iter().map(|line| line.rsplit_once(' ').unwrap().1);
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

#[test]
fn answers_that_cannot_be_sent_hold_up_neither_handlers_nor_datagrams() {
    in_namespaces(|| {
        run_alone(async |metrics| {
            let hosts = NoNeighbours::new();
            let gate = Rc::new(Notify::new());
            let (server, service) = NoNeighbours::server(&gate);
            let server = server.shutdown_timeout(Duration::from_millis(50));
            let port = server.local_addr().port();
            let (stop, stopped) = oneshot::channel::<()>();
            let server = spawn_local(server.serve(service).with_graceful_shutdown(async {
                stopped.await.unwrap();
            }));
            hosts.ask(port, 0, b"slow");
            for at in 0..100 {
                hosts.ask(port, at, b"");
            }
            soon("all are received", || {
                total(&metrics, "s_requests_received_total") == 101
            })
            .await;
            let sent = total(&metrics, "s_responses_sent_total");
            assert!(sent < 50, "{sent}: the socket is blocked");
            gate.notify_waiters();
            soon("a handler goes on", || total(&metrics, "slow_total") == 1).await;

            // What the socket has not taken by the end of a shutdown has failed.
            stop.send(()).unwrap();
            timeout(PATIENCE, server).await.unwrap().unwrap().unwrap();
            assert_eq!(total(&metrics, "s_responses_sent_total"), sent);
            assert_eq!(total(&metrics, "s_requests_failed_total"), 101 - sent);
            let failed = series(&metrics.render(), "s_requests_failed_total");
            assert!(
                failed.iter().all(|line| line.contains("reason=\"send_blocked\"")),
                "{failed:?}"
            );
        });
    });
}

#[test]
fn a_socket_that_takes_nothing_for_a_second_is_reported_and_datagrams_are_received() {
    const ASKED: u64 = 1_300;
    /// As documented.
    const WAITING: u64 = 1_024;

    in_namespaces(|| {
        let log = Log::of_thread();
        run_alone(async |metrics| {
            let hosts = NoNeighbours::new();
            let (server, service) = NoNeighbours::server(&Rc::default());
            let address = server.local_addr();
            spawn_local(server.serve(service));
            for at in 0..ASKED {
                hosts.ask(address.port(), usize::try_from(at).unwrap(), b"");
                // At most 50 are in the receive buffer.
                let asked = || total(&metrics, "s_requests_received_total") + 50 > at;
                soon("datagrams are received", asked).await;
            }
            soon("all are received", || {
                total(&metrics, "s_requests_received_total") == ASKED
            })
            .await;

            let sent = total(&metrics, "s_responses_sent_total");
            let failed = total(&metrics, "s_requests_failed_total");
            assert_eq!((sent < 50, failed), (true, ASKED - WAITING - sent));
            let mut labels = seven("udp", address, INET6);
            labels.retain(|name, _| name.starts_with("server"));
            let stalls = series(&metrics.render(), "s_socket_errors_total");
            let seconds: u64 = stalls[0].rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(seconds > 0);
            labels.insert("operation", "send".into());
            assert_eq!(stalls, [sample("s_socket_errors_total", &labels, seconds)]);
            let is_warning = |line: &String| line.starts_with("WARN") && line.contains("send_buffer_size");
            assert!(log.lines().iter().any(is_warning), "{log:?}");

            NoNeighbours::appear();
            soon("all that waited are sent", || {
                total(&metrics, "s_responses_sent_total") == WAITING + sent
            })
            .await;
            // One outcome for each, by class.
            for seen in [MAPPED, INET6] {
                let labels = seven("udp", address, seen);
                let value = |name: &str, labels: &Labels| -> u64 {
                    let series = samples(&metrics.render());
                    let start = sample(name, labels, 0);
                    let start = start.strip_suffix('0').unwrap();
                    series
                        .iter()
                        .find_map(|line| line.strip_prefix(start))
                        .map_or(0, |value| value.parse().unwrap())
                };
                let failed = value(
                    "s_requests_failed_total",
                    &and(labels.clone(), "reason", "send_blocked"),
                );
                assert_eq!(value("s_responses_sent_total", &labels) + failed, ASKED / 2);
            }
        });
    });
}
