//! Answers that leave together: their order, their addresses, and one outcome for each.

#![cfg(target_os = "linux")]

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{poll_fn, ready},
    io::ErrorKind,
    net::{self, IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketOptions, UdpServer,
    udp_adapter::{Batch, Replies},
};
use metrics::counter;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use test_support::{
    Denied, Errno, INET, INET6, Log, MAPPED, Metrics, PATIENCE, Seen, and, deny, eventually, in_namespace,
    ip, ipv6_or_say, of_server, raw, recorded, sample, seven, skip_or_fail, snmp, soon,
    udp::{Running, bind, echo, gated, server},
};
use tokio::{net::UdpSocket, sync::oneshot, time::timeout};
use tower::service_fn;

/// In place of an answer that does not come.
const LATE: u8 = 255;

const SEND_BATCHES: [usize; 4] = [1, 3, 20, 32];

/// Two addresses of this host in each family.
const ASKED: [&str; 4] = ["127.0.0.1", "::1", "127.0.0.2", "2001:db8::2"];

/// Returns when datagrams to an address that was added are received. Until then they may be lost.
fn is_this_hosts(address: &str) {
    eventually("the address is this host's", || {
        ip(&format!("route get {address}")).starts_with("local ")
    });
}

/// Runs a test on a host that has all of [`ASKED`].
fn with_second_addresses(test: impl FnOnce() + Send) {
    in_namespace("ip addr add 2001:db8::2/128 dev lo nodad", || {
        is_this_hosts("2001:db8::2");
        test();
    });
}

/// A client that receives answers only from the address that it asks.
fn client(asked: &str, port: u16) -> net::UdpSocket {
    let asked: IpAddr = asked.parse().unwrap();
    let own = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = net::UdpSocket::bind(own).unwrap();
    socket.connect((asked, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(client: &net::UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = client.recv(&mut buffer).expect("an answer");
    buffer.truncate(length);
    buffer
}

/// Serves so many datagrams, and then stops.
async fn serve(server: UdpServer, datagrams: usize, answer: impl Fn(&[u8]) -> Option<Bytes> + 'static) {
    let (stop, stopped) = oneshot::channel();
    let (stop, left) = (Cell::new(Some(stop)), Cell::new(datagrams));
    let service = service_fn(move |datagram: Datagram| {
        left.set(left.get() - 1);
        if left.get() == 0 {
            stop.take().unwrap().send(()).unwrap();
        }
        ready(Ok::<_, Infallible>(answer(datagram.payload())))
    });
    let server = server.serve(service).with_graceful_shutdown(async {
        stopped.await.unwrap();
    });
    timeout(PATIENCE, server)
        .await
        .expect("the server stops")
        .unwrap();
}

/// Longer than a UDP datagram can be.
fn too_long() -> Bytes {
    Bytes::from(vec![0; 70_000])
}

#[test]
fn each_answer_of_a_batch_leaves_from_the_address_that_was_asked_in_order() {
    if !ipv6_or_say() {
        return;
    }
    for send_batch in SEND_BATCHES {
        with_second_addresses(|| {
            recorded(async |metrics| {
                let server = server("[::]:0").max_send_batch(send_batch);
                let address = server.local_addr();
                let clients = ASKED.map(|asked| client(asked, address.port()));
                for at in 0..25 {
                    for client in &clients {
                        client.send(&[at]).unwrap();
                    }
                }
                serve(server, 100, |payload| Some(Bytes::copy_from_slice(payload))).await;
                for client in &clients {
                    let answers: Vec<_> = (0..25).map(|_| receive(client)[0]).collect();
                    assert_eq!(answers, (0..25).collect::<Vec<_>>(), "{send_batch}");
                }
                let expected = [MAPPED, INET6].map(|seen| {
                    let labels = seven("udp", address, seen);
                    ["s_requests_received_total", "s_responses_sent_total"]
                        .map(|name| sample(name, &labels, 50))
                });
                metrics.assert(expected.concat());
            });
        });
    }
}

#[test]
fn an_answer_that_fails_takes_no_other_with_it() {
    for (bound, asked, seen) in [
        ("0.0.0.0:0", "127.0.0.1", INET),
        ("127.0.0.1:0", "127.0.0.1", INET),
        ("[::]:0", "127.0.0.1", MAPPED),
        ("[::]:0", "::1", INET6),
        ("[::1]:0", "::1", INET6),
    ] {
        if bound.starts_with('[') && !ipv6_or_say() {
            continue;
        }
        for send_batch in SEND_BATCHES {
            recorded(async |metrics| {
                let server = server(bound).max_send_batch(send_batch);
                let address = server.local_addr();
                let client = client(asked, address.port());
                for at in 0..40 {
                    client.send(&[at]).unwrap();
                }
                // The first, one in the middle, two in a row, and the last.
                let fails = |at| matches!(at, 0 | 10 | 20 | 21 | 39);
                let is_quiet = |at| at == 5;
                serve(server, 40, move |payload| match payload[0] {
                    at if fails(at) => Some(too_long()),
                    at if is_quiet(at) => None,
                    at => Some(Bytes::from(vec![at; usize::from(at)])),
                })
                .await;
                for at in (0..40).filter(|at| !fails(*at) && !is_quiet(*at)) {
                    assert_eq!(
                        receive(&client),
                        vec![at; usize::from(at)],
                        "{bound} {asked} {send_batch}"
                    );
                }
                let labels = seven("udp", address, seen);
                metrics.assert([
                    sample(
                        "s_requests_failed_total",
                        &and(labels.clone(), "reason", "send"),
                        5,
                    ),
                    sample("s_requests_received_total", &labels, 40),
                    sample("s_requests_unanswered_total", &labels, 1),
                    sample("s_responses_sent_total", &labels, 34),
                ]);
            });
        }
    }
}

/// Answers of one size to one client may be one packet for the system, unless they have to be fragmented.
#[test]
fn answers_of_one_size_arrive_whatever_the_mtu() {
    for (mtu, sizes) in [
        (1_500, [1, 100, 1_232, 1_233, 1_473]),
        (600, [1, 100, 572, 573, 1_232]),
    ] {
        in_namespace(&format!("ip link set lo mtu {mtu}"), || {
            for (size, asked) in sizes
                .into_iter()
                .flat_map(|size| ["127.0.0.1", "::1"].map(|asked| (size, asked)))
            {
                // IPv6 needs an MTU of 1,280.
                if asked == "::1" && (mtu < 1_280 || !ipv6_or_say()) {
                    continue;
                }
                recorded(async |metrics| {
                    let server = server(if asked == "::1" { "[::]:0" } else { "0.0.0.0:0" });
                    let address = server.local_addr();
                    let client = client(asked, address.port());
                    for at in 0..40 {
                        client.send(&[at]).unwrap();
                    }
                    serve(server, 40, move |payload| {
                        Some(Bytes::from(vec![payload[0]; size]))
                    })
                    .await;
                    for at in 0..40 {
                        assert_eq!(receive(&client), vec![at; size], "{mtu} {size} {asked}");
                    }
                    let labels = seven("udp", address, if asked == "::1" { INET6 } else { INET });
                    metrics.assert([
                        sample("s_requests_received_total", &labels, 40),
                        sample("s_responses_sent_total", &labels, 40),
                    ]);
                });
            }
        });
    }
}

#[test]
fn a_handler_that_holds_the_thread_delays_fewer_answers_than_a_batch() {
    for send_batch in SEND_BATCHES {
        recorded(async |_| {
            let server = server("127.0.0.1:0").max_send_batch(send_batch);
            let client = Rc::new(client("127.0.0.1", server.local_addr().port()));
            for at in 0..100 {
                client.send(&[at]).unwrap();
            }
            let received = Rc::new(RefCell::new(Vec::new()));
            let answer = {
                let (client, received) = (Rc::clone(&client), Rc::clone(&received));
                move |payload: &[u8]| {
                    // Holds the thread until the answers that may not be delayed have come.
                    let handled = usize::from(payload[0]);
                    let mut received = received.borrow_mut();
                    while received.len() + send_batch <= handled && !received.ends_with(&[LATE]) {
                        let mut answer = [LATE];
                        _ = client.recv(&mut answer);
                        received.extend(answer);
                    }
                    Some(Bytes::copy_from_slice(payload))
                }
            };
            serve(server, 100, answer).await;
            let mut received = received.take();
            while received.len() < 100 {
                received.push(receive(&client)[0]);
            }
            assert_eq!(received, (0..100).collect::<Vec<_>>());
        });
    }
}

/// Receives `count` datagrams, and answers each with its own payload or with `answer` of it.
async fn collect(
    socket: &DatagramSocket,
    count: usize,
    answer: impl Fn(&[u8]) -> Bytes,
) -> (Replies, Vec<Datagram>) {
    let (mut batch, mut replies) = (Batch::new(), Replies::new());
    let mut received = Vec::new();
    while received.len() < count {
        let datagram = timeout(PATIENCE, socket.recv(&mut batch)).await.unwrap().unwrap();
        received.push(datagram.clone());
        let payload = answer(datagram.payload());
        replies.push(datagram, payload);
    }
    assert_eq!(replies.len(), count);
    (replies, received)
}

#[test]
fn a_loop_of_your_own_learns_the_outcome_of_each_answer() {
    if !ipv6_or_say() {
        return;
    }
    with_second_addresses(|| {
        recorded(async |metrics| {
            let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
            let address = socket.local_addr();
            let clients = ASKED.map(|asked| client(asked, address.port()));
            for at in 0..10 {
                for client in &clients {
                    client.send(&[at]).unwrap();
                }
            }
            raw::send_from_port_0(address.port(), 7);

            let fails = |at| at == 3;
            let (mut replies, _) = collect(&socket, 41, |payload| {
                if fails(payload[0]) {
                    too_long()
                } else {
                    Bytes::copy_from_slice(payload)
                }
            })
            .await;
            let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, address));
            let mut culprits = Vec::new();
            socket
                .reply_all(&mut replies, |datagram, result| {
                    scopes.for_client(datagram).run(|| match result {
                        Ok(()) => counter!("sent_total").increment(1),
                        Err(error) => {
                            counter!("failed_total").increment(1);
                            culprits.push((datagram.peer(), datagram.payload()[0], error.kind()));
                        }
                    });
                })
                .await
                .unwrap();
            assert!(replies.is_empty());

            for client in &clients {
                let answers: Vec<_> = (0..9).map(|_| receive(client)[0]).collect();
                assert_eq!(answers, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
            }
            let mut expected = clients
                .map(|client| (client.local_addr().unwrap(), 3, None))
                .to_vec();
            expected.push(("127.0.0.1:0".parse().unwrap(), 7, Some(ErrorKind::InvalidInput)));
            expected.sort();
            culprits.sort_by_key(|culprit| culprit.0);
            for (culprit, expected) in culprits.iter().zip(&expected) {
                assert_eq!((culprit.0, culprit.1), (expected.0, expected.1));
                assert!(expected.2.is_none_or(|kind| kind == culprit.2), "{culprit:?}");
            }
            assert_eq!(culprits.len(), 5);
            let of = |seen: Seen, sent, failed| {
                let labels = seven("udp", address, seen);
                [
                    sample("sent_total", &labels, sent),
                    sample("failed_total", &labels, failed),
                ]
            };
            metrics.assert([of(MAPPED, 18, 3), of(INET6, 18, 2)].concat());
        });
    });
}

#[test]
fn a_socket_with_one_address_knows_it_and_may_send_from_another() {
    for (bound, other) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "2001:db8::2")] {
        if bound.starts_with('[') && !ipv6_or_say() {
            continue;
        }
        with_second_addresses(|| {
            recorded(async |_| {
                let socket = DatagramSocket::new(bind(bound)).unwrap();
                let address = socket.local_addr();
                let asking = client(&address.ip().to_string(), address.port());
                asking.send(b"x").unwrap();
                let (mut replies, received) = collect(&socket, 1, Bytes::copy_from_slice).await;
                assert_eq!(received[0].local_addr(), address);
                socket
                    .reply_all(&mut replies, |_, result| result.unwrap())
                    .await
                    .unwrap();
                assert_eq!(receive(&asking), b"x");

                let listening = net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap();
                listening.set_read_timeout(Some(PATIENCE)).unwrap();
                let other: IpAddr = other.parse().unwrap();
                let to = listening.local_addr().unwrap();
                socket.send_from(other, b"y", to).await.unwrap();
                let (_, from) = listening.recv_from(&mut [0; 8]).unwrap();
                assert_eq!(from, SocketAddr::new(other, address.port()));
            });
        });
    }
}

/// A link whose neighbours do not exist: datagrams to them stay in the send buffer of the socket. The answers are
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
        ip("link set server up");
        ip("addr add 192.0.2.1/24 dev server");
        ip("addr add 2001:db8::1/64 dev server nodad");
        eventually("the link is up", || {
            ip("-oneline link show dev server").contains("state UP")
        });
        is_this_hosts("2001:db8::1");
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

    /// A socket with the smallest send buffer.
    fn bind() -> UdpSocket {
        let options = SocketOptions::dual_stack().send_buffer_size(1);
        options.bind_udp("[::]:0".parse().unwrap()).unwrap()
    }

    fn server(send_batch: usize) -> UdpServer {
        let server = UdpServer::new(Self::bind()).unwrap();
        server.metrics_prefix("s").max_send_batch(send_batch)
    }
}

/// Runs a test on a host with such a link, for a server with each size of batches.
fn with_no_neighbours(test: impl AsyncFn(Metrics, NoNeighbours, UdpServer) + Sync) {
    for send_batch in SEND_BATCHES {
        in_namespace("", || {
            recorded(async |metrics| {
                let hosts = NoNeighbours::new();
                test(metrics, hosts, NoNeighbours::server(send_batch)).await;
            });
        });
    }
}

fn at_port(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn answers_that_cannot_be_sent_hold_up_neither_handlers_nor_datagrams() {
    with_no_neighbours(async |metrics, hosts, server| {
        let (gate, service) = gated();
        let running = Running::start(server.shutdown_timeout(Duration::from_millis(50)), service);
        let port = running.address.port();
        hosts.ask(port, 0, b"slow");
        for at in 0..100 {
            hosts.ask(port, at, b"");
        }
        soon("all are received", || {
            metrics.total("s_requests_received_total") == 101
        })
        .await;
        let sent = metrics.total("s_responses_sent_total");
        assert!(sent < 50, "{sent}: the socket is blocked");
        gate.notify_waiters();
        soon("a handler goes on", || metrics.total("slow_total") == 1).await;

        // An answer that the socket has not taken by the end of a shutdown has failed.
        running.stop().await;
        assert_eq!(metrics.total("s_responses_sent_total"), sent);
        assert_eq!(metrics.total("s_requests_failed_total"), 101 - sent);
        let mut failed = metrics.series("s_requests_failed_total");
        failed.retain(|line| !line.ends_with(" 0"));
        assert!(
            failed.iter().all(|line| line.contains("reason=\"send_blocked\"")),
            "{failed:?}"
        );
    });
}

#[test]
fn a_socket_that_takes_nothing_for_a_second_is_reported_and_datagrams_are_received() {
    const ASKED: u64 = 1_300;
    /// As documented.
    const WAITING: u64 = 1_024;

    with_no_neighbours(async |metrics, hosts, server| {
        let log = Log::of_thread();
        let running = Running::start(server, service_fn(echo));
        let address = running.address;
        for at in 0..ASKED {
            hosts.ask(address.port(), usize::try_from(at).unwrap(), b"");
            // At most 50 are in the receive buffer.
            let asked = || metrics.total("s_requests_received_total") + 50 > at;
            soon("datagrams are received", asked).await;
        }
        soon("all are received", || {
            metrics.total("s_requests_received_total") == ASKED
        })
        .await;

        let sent = metrics.total("s_responses_sent_total");
        let failed = metrics.total("s_requests_failed_total");
        assert_eq!((sent < 50, failed), (true, ASKED - WAITING - sent));
        let seconds = metrics.total("s_socket_errors_total");
        assert!(seconds > 0);
        let errors = [("receive", 0), ("send", seconds)].map(|(operation, errors)| {
            let labels = and(of_server("udp", address), "operation", operation);
            sample("s_socket_errors_total", &labels, errors)
        });
        assert_eq!(metrics.series("s_socket_errors_total"), errors);
        let is_warning = |line: &String| line.starts_with("WARN") && line.contains("send_buffer_size");
        assert!(log.lines().iter().any(is_warning), "{log:?}");

        NoNeighbours::appear();
        soon("all that waited are sent", || {
            metrics.total("s_responses_sent_total") == WAITING + sent
        })
        .await;
        // One outcome for each, by class.
        for family in ["inet", "inet6"] {
            let family = format!("client_address_ip_family={family:?}");
            let outcomes = metrics.values().into_iter().filter(|(series, _)| {
                series.contains(&family) && !series.starts_with("s_requests_received_total")
            });
            assert_eq!(outcomes.map(|(_, value)| value).sum::<u64>(), ASKED / 2);
        }
    });
}

/// Programs on this host that count packets see each answer.
#[test]
fn answers_that_leave_one_by_one_do_so_after_the_socket_was_full() {
    const ASKED: u64 = 100;

    in_namespace("", || {
        recorded(async |metrics| {
            let hosts = NoNeighbours::new();
            let running = Running::start(NoNeighbours::server(1), service_fn(echo));
            for _ in 0..ASKED {
                hosts.ask(running.address.port(), 0, b"x");
            }
            soon("all are received", || {
                metrics.total("s_requests_received_total") == ASKED
            })
            .await;
            assert!(
                metrics.total("s_responses_sent_total") < ASKED,
                "the socket is blocked"
            );
            NoNeighbours::appear();
            soon("all are sent", || {
                metrics.total("s_responses_sent_total") == ASKED
            })
            .await;
            assert_eq!(snmp("Udp", "OutDatagrams"), 2 * ASKED);
            running.stop().await;
        });
    });
}

/// The runtime takes an error in the queue for the end of the socket, for ever.
#[test]
fn an_error_that_waits_for_the_program_is_no_busy_loop() {
    in_namespace("", || {
        recorded(async |_| {
            let hosts = NoNeighbours::new();
            let socket = NoNeighbours::bind();
            let port = socket.local_addr().unwrap().port();
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
            // Nobody has this port.
            socket.send_to(b"x", "[::ffff:127.0.0.1]:9").await.unwrap();
            for _ in 0..100 {
                hosts.ask(port, 0, b"");
            }
            let server = UdpServer::new(socket).unwrap().serve(service_fn(echo));
            let (mut server, mut polls) = (pin!(server), 0);
            let serve = poll_fn(|cx| {
                polls += 1;
                server.as_mut().poll(cx)
            });
            _ = timeout(Duration::from_millis(300), serve).await;
            assert!(polls < 150, "{polls}");
        });
    });
}

#[test]
fn replies_that_the_socket_does_not_take_yet_are_kept() {
    const ASKED: usize = 100;

    in_namespace("", || {
        recorded(async |_| {
            let hosts = NoNeighbours::new();
            let socket = DatagramSocket::new(NoNeighbours::bind()).unwrap();
            let port = socket.local_addr().port();
            for at in 0..ASKED {
                hosts.ask(port, 0, &[u8::try_from(at).unwrap()]);
            }
            let (mut replies, _) = collect(&socket, ASKED, |_| Bytes::new()).await;

            let mut outcomes = Vec::new();
            let mut reply_all = async |replies: &mut Replies| {
                let sent = socket.reply_all(replies, |datagram, result| {
                    result.unwrap();
                    outcomes.push(datagram.payload()[0]);
                });
                timeout(Duration::from_millis(50), sent).await
            };
            assert!(reply_all(&mut replies).await.is_err(), "the socket is blocked");
            let waiting = replies.len();
            assert!(waiting > 50, "{waiting}");
            NoNeighbours::appear();
            while reply_all(&mut replies).await.is_err() {}
            assert!(replies.is_empty());
            let all: Vec<_> = (0..ASKED).map(|at| u8::try_from(at).unwrap()).collect();
            assert_eq!(outcomes, all);
        });
    });
}

#[test]
fn a_loop_may_wait_for_a_full_socket_or_not() {
    in_namespace("", || {
        recorded(async |_| {
            let hosts = NoNeighbours::new();
            let socket = DatagramSocket::new(NoNeighbours::bind()).unwrap();
            hosts.ask(socket.local_addr().port(), 0, b"x");
            let datagram = socket.recv(&mut Batch::new()).await.unwrap();
            let (from, peer) = (datagram.local_addr().ip(), datagram.peer());
            while socket.try_reply(&datagram, b"").is_ok() {}
            for result in [
                socket.try_reply(&datagram, b""),
                socket.try_send_from(from, b"", peer),
            ] {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
            }

            // The socket cannot be watched without one more descriptor.
            if let Err(reason) = deny(Errno::EMFILE, Denied::DUPLICATE) {
                return skip_or_fail(&reason);
            }
            let mut replies = Replies::new();
            replies.push(datagram.clone(), b"".as_slice());
            let answered = RefCell::new(0);
            let wait = async {
                let (one, other, several) = tokio::join!(
                    socket.reply(&datagram, b""),
                    socket.send_from(from, b"", peer),
                    socket.reply_all(&mut replies, |_, result| {
                        result.unwrap();
                        *answered.borrow_mut() += 1;
                    }),
                );
                one.and(other).and(several).unwrap();
            };
            let mut wait = pin!(wait);
            let short = timeout(Duration::from_millis(50), &mut wait).await;
            assert!(short.is_err(), "the socket is blocked");
            NoNeighbours::appear();
            timeout(PATIENCE, wait).await.expect("the socket takes them");
            assert_eq!(answered.take(), 1);
        });
    });
}
