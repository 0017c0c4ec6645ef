//! Two hosts on one link of 1,500 bytes: an answer comes from the address that was asked, whole.

#![cfg(target_os = "linux")]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    convert::Infallible,
    future::ready,
    net::{self, IpAddr, SocketAddr, SocketAddrV6},
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketOptions, UdpServer, WithScope,
    prometheus::Install, udp_adapter::Batch,
};
use metrics::counter;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use test_support::{
    INET, INET6, MAPPED, Seen, assert_samples, eventually, in_namespace, ip, ipv6_or_say, link_number,
    sample, samples, seven,
};
use tokio::{
    net::UdpSocket,
    sync::oneshot,
    task::{LocalSet, spawn_local},
    time::timeout,
};
use tower::service_fn;

const PATIENCE: Duration = Duration::from_secs(10);

/// 200 peers of a tracker, over IPv6.
const LARGE: usize = 3_620;

/// Each wildcard, a host's two addresses of one kind, and how the client that asks them is seen.
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

/// The other host: a thread in a namespace of its own, which opens sockets there.
struct Client {
    requests: mpsc::Sender<(SocketAddr, mpsc::Sender<net::UdpSocket>)>,
    link: u32,
    /// Of the server's end.
    server_link: u32,
}

impl Client {
    /// Joins the two hosts. Called on the server's.
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

    /// A socket of the client, and the address of the server's that it is to ask.
    fn socket(&self, server: &str, port: u16) -> (UdpSocket, SocketAddr) {
        let server = at(server, port, self.link);
        let any = match server {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        };
        let (reply, socket) = mpsc::channel();
        self.requests.send((any.parse().unwrap(), reply)).unwrap();
        let socket = socket.recv().unwrap();
        socket.set_nonblocking(true).unwrap();
        (UdpSocket::from_std(socket).unwrap(), server)
    }

    /// Asks one address, and takes no answer from any other.
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

    /// What a handler is told of a request to `server`: the address that was asked, and who asked.
    fn told(&self, server: &str, port: u16) -> (SocketAddr, IpAddr) {
        let own = match server.split_once("::") {
            None => "192.0.2.99",
            Some(("fe80", _)) => "fe80::99",
            Some(_) => "2001:db8::99",
        };
        (at(server, port, self.server_link), own.parse().unwrap())
    }
}

/// A link-local address is one only together with its link.
fn at(ip: &str, port: u16, link: u32) -> SocketAddr {
    match ip.parse().unwrap() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, link).into(),
        ip => SocketAddr::new(ip, port),
    }
}

fn run<F: Future>(test: impl FnOnce(PrometheusHandle, Client) -> F) -> F::Output {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test(handle, Client::new()))
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
    in_namespace("", || {
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
                let server = UdpServer::new(bind(address)).unwrap().metrics_prefix("s");
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

#[test]
fn a_loop_of_ones_own_answers_from_the_address_that_was_asked() {
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
                    // As some programs keep an IPv4 address.
                    assert_eq!(send(mapped(server.ip()), own).await, server);
                    let mapped_own = match own {
                        SocketAddr::V4(own) => (own.ip().to_ipv6_mapped(), own_port).into(),
                        SocketAddr::V6(_) => own,
                    };
                    assert_eq!(send(server.ip(), mapped_own).await, server);
                    // None of this host's: the system chooses.
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

/// Why the tests above can fail.
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
