//! Answers that leave together: their order, their addresses, and one outcome for each.

#![cfg(target_os = "linux")]

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::ready,
    io::ErrorKind,
    net::{self, IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketOptions, UdpServer,
    prometheus::Install,
    udp_adapter::{Batch, Replies},
};
use metrics::counter;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use socket2::{Domain, Socket, Type};
use test_support::{
    INET, INET6, MAPPED, PATIENCE, Seen, and, assert_samples, block_on_local, eventually, in_namespace, ip,
    ipv6_or_say, sample, samples, seven,
};
use tokio::{net::UdpSocket, sync::oneshot, time::timeout};
use tower::service_fn;

/// In place of an answer that does not come.
const LATE: u8 = 255;

const SEND_BATCHES: [usize; 4] = [1, 3, 20, 32];

/// Two addresses of this host in each family.
const ASKED: [&str; 4] = ["127.0.0.1", "::1", "127.0.0.2", "2001:db8::2"];

/// Runs a test on a host that has all of [`ASKED`].
fn with_second_addresses(test: impl FnOnce() + Send) {
    in_namespace("ip addr add 2001:db8::2/128 dev lo nodad", || {
        // Until then, what is sent to it is lost.
        eventually("the address is this host's", || {
            ip("route get 2001:db8::2").starts_with("local ")
        });
        test();
    });
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(PrometheusHandle) -> F) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    block_on_local(test(handle));
}

fn bind(address: &str) -> UdpSocket {
    SocketOptions::dual_stack()
        .bind_udp(address.parse().unwrap())
        .unwrap()
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
            run(async |metrics| {
                let server = UdpServer::new(bind("[::]:0")).unwrap();
                let server = server.metrics_prefix("s").max_send_batch(send_batch);
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
                assert_samples(samples(&metrics.render()), expected.concat());
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
            run(async |metrics| {
                let server = UdpServer::new(bind(bound)).unwrap();
                let server = server.metrics_prefix("s").max_send_batch(send_batch);
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
                assert_samples(
                    samples(&metrics.render()),
                    [
                        sample(
                            "s_requests_failed_total",
                            &and(labels.clone(), "reason", "send"),
                            5,
                        ),
                        sample("s_requests_received_total", &labels, 40),
                        sample("s_requests_unanswered_total", &labels, 1),
                        sample("s_responses_sent_total", &labels, 34),
                    ],
                );
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
                run(async |metrics| {
                    let server = UdpServer::new(bind(if asked == "::1" { "[::]:0" } else { "0.0.0.0:0" }));
                    let server = server.unwrap().metrics_prefix("s");
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
                    assert_samples(
                        samples(&metrics.render()),
                        [
                            sample("s_requests_received_total", &labels, 40),
                            sample("s_responses_sent_total", &labels, 40),
                        ],
                    );
                });
            }
        });
    }
}

#[test]
fn a_handler_that_holds_the_thread_delays_fewer_answers_than_a_batch() {
    for send_batch in SEND_BATCHES {
        run(async |_| {
            let server = UdpServer::new(bind("127.0.0.1:0")).unwrap();
            let server = server.max_send_batch(send_batch);
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
        run(async |metrics| {
            let socket = DatagramSocket::new(bind("[::]:0")).unwrap();
            let address = socket.local_addr();
            let clients = ASKED.map(|asked| client(asked, address.port()));
            for at in 0..10 {
                for client in &clients {
                    client.send(&[at]).unwrap();
                }
            }
            // A UDP header: source port 0, destination, length, no checksum.
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::UDP)).unwrap();
            let mut packet = [0, 0, 0, 0, 0, 9, 0, 0, 7];
            packet[2..4].copy_from_slice(&address.port().to_be_bytes());
            let to = SocketAddr::from(([127, 0, 0, 1], 0));
            raw.send_to(&packet, &to.into()).unwrap();

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
            assert_samples(
                samples(&metrics.render()),
                [of(MAPPED, 18, 3), of(INET6, 18, 2)].concat(),
            );
        });
    });
}

#[test]
fn replies_that_the_socket_does_not_take_yet_are_kept() {
    const ASKED: usize = 100;

    // Nobody answers for the neighbour, so what is sent to it stays in the send buffer.
    let setup = "ip link add server type veth peer name nobody\nip link set nobody up\n\
                 ip addr add 192.0.2.1/24 dev server\nip link set server up\n\
                 echo 1000 > /proc/sys/net/ipv4/neigh/server/mcast_solicit";
    in_namespace(setup, || {
        run(async |_| {
            let socket = SocketOptions::dual_stack().send_buffer_size(1);
            let socket = DatagramSocket::new(socket.bind_udp("0.0.0.0:0".parse().unwrap()).unwrap()).unwrap();
            let asking = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            asking.set_ip_transparent_v4(true).unwrap();
            let own: SocketAddr = "192.0.2.50:0".parse().unwrap();
            asking.bind(&own.into()).unwrap();
            let asking = net::UdpSocket::from(asking);
            for at in 0..ASKED {
                let to = ("192.0.2.1", socket.local_addr().port());
                asking.send_to(&[u8::try_from(at).unwrap()], to).unwrap();
            }
            // Empty, because several of one size take the place of one in the send buffer.
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
            ip("neigh replace 192.0.2.50 dev server lladdr 02:00:00:00:00:01 nud permanent");
            while reply_all(&mut replies).await.is_err() {}
            assert!(replies.is_empty());
            let all: Vec<_> = (0..ASKED).map(|at| u8::try_from(at).unwrap()).collect();
            assert_eq!(outcomes, all);
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
            run(async |_| {
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
