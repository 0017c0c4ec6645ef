//! `UdpServer` on real sockets: outcomes, addresses, limits, shutdown.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{pending, ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, ClientScopes, Datagram, DatagramSocket, Protocol, Scope, ServerBinding, SocketOptions,
    UdpServer,
    client::{DatagramClient, DatagramSource},
    prometheus::Install,
    udp_adapter::{Batch, Outcome},
};
use metrics::{Counter, CounterFn, Recorder as _, counter};
use metrics_exporter_prometheus::PrometheusBuilder;
use socket2::SockRef;
use test_support::{
    CountersOf, INET, INET6, Labels, MAPPED, Metrics, PATIENCE, UNKNOWN, V4, and, assert_samples, close,
    each, eventually, in_namespace, ip, link_number, loopbacks, of_server, recorded, sample, seven,
    skip_or_fail,
    udp::{Client, Running, bind, echo, gated, pair, receive_from, server},
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, oneshot},
    task::{LocalSet, yield_now},
    time::timeout,
};
use tower::{Service, ServiceBuilder, service_fn};

#[allow(dead_code, reason = "`main` is not called")]
#[path = "../examples/udp_loop.rs"]
mod udp_loop;

const SHORT: Duration = Duration::from_millis(50);

fn dual_stack() -> UdpServer {
    server("[::]:0")
}

fn failed(labels: &Labels, reason: &str, value: u64) -> String {
    sample(
        "s_requests_failed_total",
        &and(labels.clone(), "reason", reason),
        value,
    )
}

fn received(labels: &Labels, value: u64) -> String {
    sample("s_requests_received_total", labels, value)
}

#[test]
fn all_counters_of_clients_and_of_the_socket_start_at_zero() {
    recorded(async |metrics| {
        let mut servers = Vec::new();
        let mut expected = Vec::new();
        let v6_only = SocketOptions::v6_only()
            .bind_udp("[::]:0".parse().unwrap())
            .unwrap();
        for (server, classes) in [
            (server("[::]:0"), &[MAPPED, INET6][..]),
            (named(v6_only), &[INET6]),
            (server("127.0.0.1:0"), &[INET]),
        ] {
            let address = server.local_addr();
            for class in classes {
                let labels = seven("udp", address, *class);
                for name in ["received", "unanswered", "aborted"] {
                    expected.push(sample(&format!("s_requests_{name}_total"), &labels, 0));
                }
                expected.push(sample("s_responses_sent_total", &labels, 0));
                for reason in ["handler_error", "handler_panic", "send", "send_blocked"] {
                    expected.push(failed(&labels, reason, 0));
                }
            }
            for operation in ["receive", "send"] {
                let labels = and(of_server("udp", address), "operation", operation);
                expected.push(sample("s_socket_errors_total", &labels, 0));
            }
            servers.push(server.serve(service_fn(echo)));
        }
        assert_samples(metrics.samples(), expected);
    });
}

#[test]
fn each_datagram_has_one_outcome_by_class() {
    recorded(async |metrics| {
        let service = service_fn(|datagram: Datagram| async move {
            counter!("handled_total").increment(1);
            match &datagram.payload()[..] {
                b"quiet" => Ok(None),
                b"fail" => Err("on purpose"),
                b"panic" => panic!("on purpose"),
                b"slow panic" => {
                    yield_now().await;
                    panic!("on purpose")
                }
                b"slow" => {
                    yield_now().await;
                    counter!("slow_total").increment(1);
                    Ok(Some(datagram.into_payload()))
                }
                b"too much" => Ok(Some(Bytes::from(vec![0; 70_000]))),
                _ => Ok(Some(datagram.into_payload())),
            }
        });
        let running = Running::start(dual_stack(), service);
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let client = running.client(ip).await;
            for quiet in ["quiet", "fail", "panic", "slow panic", "too much", "quiet"] {
                client.send(quiet.as_bytes()).await;
            }
            for answered in ["slow", "", "last"] {
                assert_eq!(client.ask(answered.as_bytes()).await, answered.as_bytes());
            }
            let labels = running.labels(ip);
            expected.extend(each(
                &labels,
                [
                    ("handled_total", 9),
                    ("s_requests_received_total", 9),
                    ("s_requests_unanswered_total", 2),
                    ("s_responses_sent_total", 3),
                    ("slow_total", 1),
                ],
            ));
            for (reason, value) in [("handler_error", 1), ("handler_panic", 2), ("send", 1)] {
                expected.push(failed(&labels, reason, value));
            }
        }
        running.stop().await;
        metrics.assert(expected);
    });
}

#[test]
fn a_handler_that_counts_already_counts_each_datagram_once() {
    recorded(async |metrics| {
        let service = service_fn(|datagram: Datagram| async move {
            counter!("s_requests_received_total").increment(1);
            match &datagram.payload()[..] {
                b"quiet" => Ok(None),
                b"fail" => Err("on purpose"),
                _ => Ok(Some(datagram.into_payload())),
            }
        });
        let server = dual_stack().without_counters().on_outcome(|outcome, datagrams| {
            let name = match outcome {
                Outcome::Answered => "s_responses_sent_total",
                Outcome::Unanswered => "quiet_total",
                Outcome::HandlerFailed("on purpose") => "failed_total",
                other => panic!("{other:?}"),
            };
            counter!(name).increment(datagrams);
        });
        let running = Running::start(server, service);
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let client = running.client(ip).await;
            client.send(b"quiet").await;
            client.send(b"fail").await;
            for _ in 0..3 {
                client.ask(b"x").await;
            }
            expected.extend(each(
                &running.labels(ip),
                [
                    ("s_requests_received_total", 5),
                    ("s_responses_sent_total", 3),
                    ("quiet_total", 1),
                    ("failed_total", 1),
                ],
            ));
        }
        running.stop().await;
        metrics.assert(expected);
    });
}

#[test]
fn a_handler_sees_canonical_addresses_and_the_address_that_was_asked() {
    recorded(async |_| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let handler_seen = Rc::clone(&seen);
        let service = service_fn(move |datagram: Datagram| {
            let family = ClientLabels::from(datagram.client().unwrap()).pairs()[0].1;
            handler_seen
                .borrow_mut()
                .push((datagram.peer(), family, datagram.local_addr()));
            ready(Ok::<_, Infallible>(Some(Bytes::new())))
        });
        let running = Running::start(dual_stack(), service);
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let client = running.client(ip).await;
            client.ask(b"x").await;
            let family = if ip.is_ipv4() { "inet" } else { "inet6" };
            let asked = SocketAddr::new(ip, running.address.port());
            expected.push((client.0.local_addr().unwrap(), family, asked));
        }
        assert_eq!(*seen.borrow(), expected);
        running.stop().await;
    });
}

/// `source_address.rs` shows that a plain `send_to` does otherwise.
#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    if !cfg!(target_os = "linux") {
        return skip_or_fail("127.0.0.2 is an address of this host on Linux only");
    }
    recorded(async |_| {
        for wildcard in ["[::]:0", "0.0.0.0:0"] {
            let running = Running::start(server(wildcard), service_fn(echo));
            for ip in [V4, [127, 0, 0, 2].into()] {
                assert_eq!(running.client(ip).await.ask(b"who").await, b"who");
            }
            running.stop().await;
        }
    });
}

#[test]
fn datagrams_of_all_sizes() {
    recorded(async |_| {
        let running = Running::start(dual_stack(), service_fn(echo));
        for ip in loopbacks() {
            let client = running.client(ip).await;
            // The largest UDP payloads: 65,535 without the headers of UDP, and of IPv4.
            let largest = if ip.is_ipv4() { 65_507 } else { 65_527 };
            for size in [0, 1, 100, 1_472, 1_473, 3_620, 4_096, 4_097, largest] {
                let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
                assert_eq!(client.ask(&payload).await, payload, "{size} bytes");
            }
        }
        running.stop().await;
    });
}

#[test]
fn datagrams_that_were_sent_as_one_are_separate() {
    recorded(async |metrics| {
        let (running, client, labels) = pair(dual_stack(), service_fn(echo)).await;
        let payload: Vec<u8> = (0..95).collect();
        // With segmentation offload, one write sends ten datagrams.
        let sender = quinn_udp::UdpSocketState::new((&client.0).into()).unwrap();
        let transmit = quinn_udp::Transmit {
            destination: client.0.peer_addr().unwrap(),
            ecn: None,
            contents: &payload,
            segment_size: Some(10),
            src_ip: None,
        };
        if sender.max_gso_segments() < 10 {
            return skip_or_fail("this system has no segmentation offload");
        }
        sender.try_send((&client.0).into(), &transmit).unwrap();
        // Now the client's own receives are coalesced, so this asks the server.
        metrics.wait_for(&received(&labels, 10)).await;
        running.stop().await;
    });
}

#[test]
fn slow_handlers_run_concurrently_and_fast_ones_overtake_them() {
    recorded(async |metrics| {
        let (gate, service) = gated();
        let (running, slow, labels) = pair(dual_stack(), service).await;
        let ips = loopbacks();
        for at in 0..100_u8 {
            slow.send(&[&b"slow"[..], &[at]].concat()).await;
        }
        let fast = running.client(ips[ips.len() - 1]).await;
        assert_eq!(fast.ask(b"fast").await, b"fast");
        metrics.wait_for(&received(&labels, 102 - ips.len() as u64)).await;
        gate.notify_waiters();
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.push(slow.receive().await[4]);
        }
        answers.sort_unstable();
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        assert_eq!(metrics.series("slow_total"), [sample("slow_total", &labels, 100)]);
        running.stop().await;
    });
}

/// A service whose handlers wait for ever, and count their drop.
fn never() -> impl Service<Datagram, Response = Option<Bytes>, Error = Infallible, Future: 'static> + 'static
{
    struct CountsItsDrop;

    impl Drop for CountsItsDrop {
        fn drop(&mut self) {
            counter!("dropped_total").increment(1);
        }
    }

    service_fn(|datagram: Datagram| async move {
        if datagram.payload().is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let _counts = CountsItsDrop;
        pending().await
    })
}

#[test]
fn past_the_limit_the_oldest_is_aborted_and_counts_its_drop() {
    recorded(async |metrics| {
        let server = dual_stack().max_in_flight(3).shutdown_timeout(SHORT);
        let (running, client, labels) = pair(server, never()).await;
        for _ in 0..10 {
            client.send(b"x").await;
        }
        // A handler that is ready at once takes no room.
        client.ask(b"").await;
        let aborted = |aborted| {
            [
                ("dropped_total", aborted),
                ("s_requests_aborted_total", aborted),
                ("s_requests_received_total", 11),
                ("s_responses_sent_total", 1),
            ]
        };
        metrics.assert(each(&labels, aborted(7)));
        // The shutdown aborts the rest at its deadline.
        running.stop().await;
        metrics.assert(each(&labels, aborted(10)));
    });
}

#[test]
fn a_server_that_is_dropped_aborts_its_handlers() {
    recorded(async |metrics| {
        let (running, client, labels) = pair(dual_stack(), never()).await;
        for _ in 0..3 {
            client.send(b"x").await;
        }
        client.ask(b"").await;
        running.task.abort();
        assert!(running.task.await.unwrap_err().is_cancelled());
        let outcomes = [
            ("dropped_total", 3),
            ("s_requests_aborted_total", 3),
            ("s_requests_received_total", 4),
            ("s_responses_sent_total", 1),
        ];
        metrics.assert(each(&labels, outcomes));
    });
}

#[test]
fn a_graceful_shutdown_answers_each_datagram_that_was_received() {
    recorded(async |metrics| {
        let (gate, service) = gated();
        let (running, client, labels) = pair(dual_stack(), service).await;
        client.send(b"slow").await;
        metrics.wait_for(&received(&labels, 1)).await;

        // They are in the system's queue when the signal comes: nothing yields to the server in between.
        for at in 0..50 {
            client.0.try_send(&[at]).unwrap();
        }
        running.stop.send(()).unwrap();
        for at in 0..50 {
            assert_eq!(client.receive().await, [at]);
        }
        assert!(!running.task.is_finished(), "one handler still waits");
        gate.notify_waiters();
        assert_eq!(client.receive().await, b"slow");
        running.task.await.unwrap().unwrap();
        let outcomes = [
            ("s_requests_received_total", 51),
            ("s_responses_sent_total", 51),
            ("slow_total", 1),
        ];
        metrics.assert(each(&labels, outcomes));
        // The port is closed, once no child process of another test has the socket.
        close(());
        client.send(b"x").await;
        let error = client.0.recv(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_service_that_is_not_ready_holds_datagrams_back() {
    recorded(async |metrics| {
        let (gate, service) = gated();
        let service = ServiceBuilder::new().concurrency_limit(1).service(service);
        let (running, client, labels) = pair(dual_stack(), service).await;
        for _ in 0..5 {
            client.send(b"slow").await;
        }
        for at in 1..=5 {
            metrics.wait_for(&received(&labels, at)).await;
            yield_now().await;
            assert!(metrics.samples().contains(&received(&labels, at)));
            gate.notify_waiters();
            assert_eq!(client.receive().await, b"slow");
        }
        running.stop().await;
    });
}

#[test]
fn a_greedy_handler_holds_up_neither_datagrams_nor_the_shutdown() {
    recorded(async |metrics| {
        let service = service_fn(|datagram: Datagram| async move {
            match &datagram.payload()[..] {
                // Uses up the task's budget at each poll.
                b"greedy" => use_budget(u32::MAX).await,
                b"waits" => pending().await,
                _ => {}
            }
            Ok::<_, Infallible>(Some(datagram.into_payload()))
        });
        let (running, client, labels) = pair(dual_stack().shutdown_timeout(SHORT), service).await;
        client.send(b"waits").await;
        client.send(b"greedy").await;
        for _ in 0..3 {
            assert_eq!(client.ask(b"x").await, b"x");
        }
        running.stop().await;
        let outcomes = [
            ("s_requests_aborted_total", 2),
            ("s_requests_received_total", 5),
            ("s_responses_sent_total", 3),
        ];
        metrics.assert(each(&labels, outcomes));
    });
}

/// Uses so much of the task's budget, of which there are 128 units.
async fn use_budget(units: u32) {
    for _ in 0..units {
        tokio::task::coop::consume_budget().await;
    }
}

#[test]
fn no_handler_is_aborted_because_a_flood_has_used_up_the_budget() {
    // For some of these numbers a handler finds the budget used up in the middle, whatever the size of a batch.
    for units in 0..7 {
        recorded(async |metrics| {
            let service = service_fn(move |_: Datagram| async move {
                use_budget(units).await;
                Ok::<_, Infallible>(None)
            });
            let server = dual_stack().max_in_flight(1);
            let (running, client, labels) = pair(server, service).await;
            client.0.writable().await.unwrap();
            for _ in 0..250 {
                client.0.try_send(b"x").unwrap();
            }
            metrics.wait_for(&received(&labels, 250)).await;
            running.stop().await;
            let outcomes = [
                ("s_requests_received_total", 250),
                ("s_requests_unanswered_total", 250),
            ];
            metrics.assert(each(&labels, outcomes));
        });
    }
}

#[test]
fn a_flood_does_not_starve_a_handler_that_waits() {
    // At most two batches.
    const TURN: u32 = 64;

    for units in 0..7 {
        recorded(async |_| {
            let gate = Rc::new(Notify::new());
            let floods = Rc::new(Cell::new(0));
            let (done, is_done) = oneshot::channel();
            let done = Rc::new(Cell::new(Some(done)));
            let server = dual_stack();
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.connect(("127.0.0.1", server.local_addr().port())).unwrap();
            let flood = Rc::new(sender);
            let service = {
                let (floods, flood) = (Rc::clone(&floods), Rc::clone(&flood));
                service_fn(move |datagram: Datagram| {
                    let (gate, floods, done, flood) = (
                        Rc::clone(&gate),
                        Rc::clone(&floods),
                        Rc::clone(&done),
                        Rc::clone(&flood),
                    );
                    async move {
                        if datagram.payload() == "waits" {
                            gate.notified().await;
                            let notified = floods.get();
                            use_budget(1).await;
                            let done = done.take().unwrap();
                            done.send(floods.get() - notified).unwrap();
                        } else if floods.get() < 5_000 {
                            use_budget(units).await;
                            floods.set(floods.get() + 1);
                            if floods.get() == 500 {
                                gate.notify_waiters();
                            }
                            // Keeps the number of datagrams, so that the flood does not end.
                            flood.send(b"flood").unwrap();
                        }
                        Ok::<_, Infallible>(None)
                    }
                })
            };
            flood.send(b"waits").unwrap();
            for _ in 0..100 {
                flood.send(b"flood").unwrap();
            }
            let running = Running::start(server, service);
            let handled = timeout(PATIENCE, is_done).await.unwrap().unwrap();
            floods.set(5_000);
            running.stop().await;
            assert!(handled <= TURN, "{handled} datagrams of {units} units");
        });
    }
}

#[test]
fn an_error_that_panics_when_it_is_shown_is_one_outcome_too() {
    struct Unspeakable;

    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("on purpose")
        }
    }

    recorded(async |metrics| {
        let service = service_fn(|datagram: Datagram| {
            let is_asked = datagram.payload().is_empty();
            ready(if is_asked {
                Ok(Some(Bytes::new()))
            } else {
                Err(Unspeakable)
            })
        });
        let (running, client, labels) = pair(dual_stack(), service).await;
        client.send(b"x").await;
        client.ask(b"").await;
        running.stop().await;
        metrics.assert([
            failed(&labels, "handler_panic", 1),
            received(&labels, 2),
            sample("s_responses_sent_total", &labels, 1),
        ]);
    });
}

#[derive(Debug)]
struct Panics;

impl DatagramSource for Panics {
    fn read_client(&self, payload: &mut Bytes, _: SocketAddr) -> Result<DatagramClient, DatagramClient> {
        assert!(payload != "panic", "on purpose");
        Ok(DatagramClient::Peer)
    }
}

#[test]
fn a_source_that_panics_is_one_outcome_too() {
    recorded(async |metrics| {
        let (gate, service) = gated();
        let service = ServiceBuilder::new().concurrency_limit(1).service(service);
        let (running, client, labels) = pair(dual_stack().source(Panics), service).await;
        let unknown = seven("udp", running.address, UNKNOWN);
        client.send(b"panic").await;
        assert_eq!(client.ask(b"x").await, b"x");
        metrics.assert([
            failed(&unknown, "handler_panic", 1),
            received(&unknown, 1),
            received(&labels, 1),
            sample("s_responses_sent_total", &labels, 1),
        ]);

        // Also when a server is dropped that has not handled it yet.
        client.send(b"slow").await;
        for _ in 0..3 {
            client.send(b"panic").await;
        }
        metrics.wait_for(&received(&labels, 2)).await;
        running.task.abort();
        assert!(running.task.await.unwrap_err().is_cancelled());
        drop(gate);
        let panicked = metrics.total("s_requests_failed_total");
        assert_eq!(metrics.total("s_requests_received_total"), 2 + panicked);
        metrics.assert([
            failed(&unknown, "handler_panic", panicked),
            received(&unknown, panicked),
            sample("s_requests_aborted_total", &labels, 1),
            received(&labels, 2),
            sample("s_responses_sent_total", &labels, 1),
        ]);
    });
}

#[test]
fn a_flood_does_not_hold_up_the_shutdown_of_a_task_without_a_budget() {
    const FLOOD: u64 = 100_000;

    recorded(async |metrics| {
        let server = dual_stack();
        let flood = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        flood.connect(("127.0.0.1", server.local_addr().port())).unwrap();
        for _ in 0..100 {
            flood.send(b"flood").unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let (mut stop, mut handled) = (Some(stop), 0);
        let service = service_fn(move |_: Datagram| {
            handled += 1;
            if handled == 500 {
                stop.take().unwrap().send(()).unwrap();
            }
            // Keeps the number of datagrams.
            if handled < FLOOD {
                flood.send(b"flood").unwrap();
            }
            ready(Ok::<_, Infallible>(None))
        });
        let server = server.serve(service).with_graceful_shutdown(async {
            stopped.await.unwrap();
        });
        let stopped = timeout(PATIENCE, tokio::task::unconstrained(server)).await;
        stopped.expect("the server stops").unwrap();
        let handled = metrics.total("s_requests_unanswered_total");
        assert!(handled < FLOOD, "{handled}");
    });
}

#[test]
fn the_oldest_is_not_aborted_when_another_has_made_room() {
    recorded(async |metrics| {
        let gate = Rc::new(Notify::new());
        let service = service_fn(move |datagram: Datagram| {
            let gate = Rc::clone(&gate);
            async move {
                match &datagram.payload()[..] {
                    b"never" => pending().await,
                    b"done by the next" => gate.notified().await,
                    _ => {
                        gate.notify_waiters();
                        yield_now().await;
                    }
                }
                Ok::<_, Infallible>(Some(datagram.into_payload()))
            }
        });
        let server = dual_stack().max_in_flight(2).shutdown_timeout(SHORT);
        let (running, client, labels) = pair(server, service).await;
        client.send(b"never").await;
        client.send(b"done by the next").await;
        metrics.wait_for(&received(&labels, 2)).await;
        client.send(b"next").await;
        assert_eq!(client.receive().await, b"done by the next");
        assert_eq!(client.receive().await, b"next");
        metrics.assert([received(&labels, 3), sample("s_responses_sent_total", &labels, 2)]);
        running.stop().await;
    });
}

#[test]
fn own_labels_are_nested_in() {
    recorded(async |metrics| {
        let server = dual_stack();
        let address = server.local_addr();
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, address));
        let own = Scope::new(&ClientLabels::UNKNOWN);
        let (running, client, _) = pair(server.scopes(scopes.with(&own)), service_fn(echo)).await;
        client.ask(b"x").await;
        running.stop().await;
        let labels = seven("udp", address, UNKNOWN);
        metrics.assert([received(&labels, 1), sample("s_responses_sent_total", &labels, 1)]);
    });
}

#[test]
fn a_server_and_its_service_may_move_between_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = dual_stack();
        let client = Client::new(V4, server.local_addr().port()).await;
        let service = service_fn(|datagram: Datagram| async move {
            yield_now().await;
            Ok::<_, Infallible>(Some(datagram.into_payload()))
        });
        let task = tokio::spawn(server.serve(service));
        assert_eq!(client.ask(b"x").await, b"x");
        task.abort();
    });
}

#[test]
fn where_the_address_is_gone_the_system_chooses() {
    // A full prefix: on loopback every address of a prefix is the host's.
    let setup = "ip addr add 192.0.2.9/32 dev lo\nip addr add 2001:db8::9/128 dev lo nodad";
    in_namespace(setup, || {
        recorded(async |metrics| {
            for (bound, asked, prefix, own) in [
                ("0.0.0.0:0", "192.0.2.9", "32", "127.0.0.1:0"),
                ("[::]:0", "192.0.2.9", "32", "127.0.0.1:0"),
                ("[::]:0", "2001:db8::9", "128 nodad", "[::1]:0"),
            ] {
                let asked: IpAddr = asked.parse().unwrap();
                let service = service_fn(move |datagram: Datagram| {
                    assert_eq!(datagram.local_addr().ip(), asked);
                    ip(&format!(
                        "addr del {asked}/{} dev lo",
                        prefix.trim_end_matches(" nodad")
                    ));
                    echo(datagram)
                });
                let running = Running::start(server(bound), service);
                let socket = UdpSocket::bind(own).await.unwrap();
                socket
                    .send_to(b"x", (asked, running.address.port()))
                    .await
                    .unwrap();
                let (length, from) = receive_from(&socket).await;
                assert_eq!(length, 1);
                assert_ne!(from.ip(), asked);
                running.stop().await;
                ip(&format!("addr add {asked}/{prefix} dev lo"));
            }
            assert_eq!(metrics.total("s_requests_failed_total"), 0);
        });
    });
}

#[test]
fn a_multicast_group_is_no_source() {
    let setup = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad\nip link add v0 type veth peer name v1\n\
                 ip link set v0 up\nip link set v1 up\nip addr add 192.0.2.1/24 dev v0\n\
                 ip addr add fe80::1/64 dev v0 nodad";
    in_namespace(setup, || {
        eventually("the link is up", || {
            ip("-oneline link show dev v0").contains("state UP")
        });
        let link = link_number("v0");
        let own = Ipv4Addr::new(192, 0, 2, 1);
        recorded(async |metrics| {
            let group = Ipv4Addr::new(239, 1, 2, 3);
            let socket = bind("0.0.0.0:0");
            socket.join_multicast_v4(group, own).unwrap();
            let inet = Running::start(named(socket), service_fn(echo));
            let asking = UdpSocket::bind((own, 0)).await.unwrap();
            let port = inet.address.port();
            let asked = (group, port).into();
            assert_eq!(ask_until_answered(&asking, asked).await, (1, (own, port).into()));
            inet.stop().await;

            let group: Ipv6Addr = "ff02::1234".parse().unwrap();
            let socket = bind("[::]:0");
            socket.join_multicast_v6(&group, link).unwrap();
            let inet6 = Running::start(named(socket), service_fn(echo));
            let asking = UdpSocket::bind("[::]:0").await.unwrap();
            let port = inet6.address.port();
            let asked = SocketAddrV6::new(group, port, 0, link).into();
            let (length, SocketAddr::V6(from)) = ask_until_answered(&asking, asked).await else {
                panic!("an IPv4 address")
            };
            assert!(from.ip().is_unicast_link_local(), "{from}");
            assert_eq!((length, from.scope_id(), from.port()), (1, link, port));
            inet6.stop().await;
            assert_eq!(metrics.total("s_requests_failed_total"), 0);
        });
    });
}

/// The length of the answer, and where it is from. A link that has just come up may lose a question.
async fn ask_until_answered(socket: &UdpSocket, server: SocketAddr) -> (usize, SocketAddr) {
    let mut buffer = [0; 16];
    let answered = async {
        loop {
            socket.send_to(b"x", server).await.unwrap();
            if let Ok(answer) = timeout(SHORT, socket.recv_from(&mut buffer)).await {
                return answer.unwrap();
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("an answer")
}

fn named(socket: UdpSocket) -> UdpServer {
    UdpServer::new(socket).unwrap().metrics_prefix("s")
}

#[test]
fn errors_of_the_socket_have_no_client_and_the_loop_goes_on() {
    recorded(async |metrics| {
        // A socket that is connected to a closed port gets an error.
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = nobody.local_addr().unwrap();
        close(nobody);
        let socket = bind("127.0.0.1:0");
        socket.connect(peer).await.unwrap();
        socket.send(b"x").await.unwrap();
        let running = Running::start(named(socket), service_fn(echo));
        let (labels, address) = (running.labels(V4), running.address);

        // The error shows with the next datagram, which is served as well.
        let somebody = UdpSocket::bind(peer).await.unwrap();
        somebody.connect(running.address).await.unwrap();
        assert_eq!(Client(somebody).ask(b"x").await, b"x");
        running.stop().await;
        let of_server = and(of_server("udp", address), "operation", "receive");
        metrics.assert([
            received(&labels, 1),
            sample("s_responses_sent_total", &labels, 1),
            sample("s_socket_errors_total", &of_server, 1),
        ]);
    });
}

/// A service manager may hand over such a socket.
#[test]
fn a_socket_in_blocking_mode_is_served() {
    recorded(async |_| {
        let socket = bind("[::]:0");
        SockRef::from(&socket).set_nonblocking(false).unwrap();
        let (running, client, _) = pair(named(socket), service_fn(echo)).await;
        assert_eq!(client.ask(b"x").await, b"x");
        running.stop().await;
    });
}

#[test]
fn a_socket_that_was_shut_down_is_an_error_and_no_busy_loop() {
    if !cfg!(target_os = "linux") {
        return skip_or_fail("only Linux tells");
    }
    recorded(async |metrics| {
        let socket = bind("[::]:0");
        // The socket is not connected, which is an error, but is shut down.
        _ = SockRef::from(&socket).shutdown(Shutdown::Read);
        let (running, client, labels) = pair(named(socket), service_fn(echo)).await;
        let of_server = and(of_server("udp", running.address), "operation", "receive");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let errors = metrics.total("s_socket_errors_total");
        assert!((16..100).contains(&errors), "{errors}");
        assert_eq!(client.ask(b"x").await, b"x");
        running.stop().await;
        let errors = metrics.total("s_socket_errors_total");
        metrics.assert([
            received(&labels, 1),
            sample("s_responses_sent_total", &labels, 1),
            sample("s_socket_errors_total", &of_server, errors),
        ]);

        let socket = bind("[::]:0");
        _ = SockRef::from(&socket).shutdown(Shutdown::Read);
        let socket = DatagramSocket::new(socket).unwrap();
        let error = timeout(PATIENCE, socket.recv(&mut Batch::new())).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotConnected);
    });
}

/// Counts the errors of a socket, and makes the next receive fail as well, a few times.
struct FailsAgain {
    /// Connected to a closed port: a receive after a send fails.
    socket: std::net::UdpSocket,
    times: u64,
    errors: AtomicU64,
}

impl CounterFn for FailsAgain {
    fn increment(&self, value: u64) {
        if value > 0 && self.errors.fetch_add(value, Ordering::Relaxed) < self.times {
            self.socket.send(b"x").unwrap();
        }
    }

    fn absolute(&self, _: u64) {
        unreachable!("the server increments");
    }
}

#[test]
fn a_server_needs_no_time_driver() {
    /// [`Metrics::wait_for`] without a timer.
    async fn spin(metrics: &Metrics, sample: &String) {
        let deadline = Instant::now() + PATIENCE;
        while !metrics.samples().contains(sample) {
            assert!(Instant::now() < deadline, "30 s are over, and not: {sample}");
            yield_now().await;
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let entered = runtime.enter();
    let socket = bind("127.0.0.1:0").into_std().unwrap();
    let address = socket.local_addr().unwrap();
    // Sends one datagram, then closes its port.
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = client.local_addr().unwrap();
    socket.connect(peer).unwrap();
    client.send_to(b"", address).unwrap();
    close(client);
    // The server pauses after 16.
    let errors = Arc::new(FailsAgain {
        socket: socket.try_clone().unwrap(),
        times: 18,
        errors: AtomicU64::new(0),
    });
    let inner = Install::new(PrometheusBuilder::new()).build_recorder();
    let metrics = Metrics::from(&inner);
    let recorder = CountersOf::new(|key, metadata| match key.name() {
        "s_socket_errors_total" => Counter::from_arc(Arc::clone(&errors)),
        _ => inner.register_counter(key, metadata),
    });
    let _recorder = metrics::set_default_local_recorder(&recorder);
    errors.socket.send(b"x").unwrap();
    let server = named(UdpSocket::from_std(socket).unwrap()).shutdown_timeout(SHORT);
    drop(entered);

    LocalSet::new().block_on(&runtime, async {
        let running = Running::start(server, never());
        let labels = seven("udp", address, INET);
        spin(&metrics, &sample("s_responses_sent_total", &labels, 1)).await;
        assert!(errors.errors.load(Ordering::Relaxed) > 18);

        // A shutdown has its deadline.
        let client = UdpSocket::bind(peer).await.unwrap();
        client.send_to(b"waits", address).await.unwrap();
        spin(&metrics, &received(&labels, 2)).await;
        running.stop.send(()).unwrap();
        running.task.await.unwrap().unwrap();
        let outcomes = [
            ("dropped_total", 1),
            ("s_requests_aborted_total", 1),
            ("s_requests_received_total", 2),
            ("s_responses_sent_total", 1),
        ];
        metrics.assert(each(&labels, outcomes));
    });
}

#[test]
fn the_example_does_not_answer_its_own_answer() {
    let sent = |payload: Bytes| {
        let (peer, local) = ("192.0.2.7:7".parse().unwrap(), "192.0.2.1:6969".parse().unwrap());
        udp_loop::handle(&Datagram::new(payload, peer, local))
    };
    let answer = sent(Bytes::from_static(b"hello")).unwrap();
    assert_eq!(sent(answer), None);
}
