//! `UdpServer` on real sockets: outcomes, addresses, limits, shutdown.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, ClientScopes, Datagram, Protocol, Scope, ServerBinding, SocketOptions, UdpServer,
    prometheus::Install,
};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use test_support::{block_on_local, eventually, in_namespace, ip, link_number, loopbacks, samples, soon};
use tokio::{
    net::UdpSocket,
    sync::{Notify, oneshot},
    task::{JoinHandle, LocalSet, spawn_local, yield_now},
    time::timeout,
};
use tower::{Service, ServiceBuilder, service_fn};

const PATIENCE: Duration = Duration::from_secs(10);
/// Each answer by itself, batches that do not fit into what is received, and the most.
const SEND_BATCHES: [usize; 3] = [1, 3, 32];

thread_local! {
    static SEND_BATCH: Cell<usize> = const { Cell::new(0) };
}

/// Runs a test on one thread for several numbers of answers that leave together, each time with its own recorder.
fn run<F: Future<Output = ()>>(test: impl Fn(PrometheusHandle) -> F) {
    for send_batch in SEND_BATCHES {
        SEND_BATCH.set(send_batch);
        run_once(&test);
    }
}

fn run_once<F: Future<Output = ()>>(test: impl Fn(PrometheusHandle) -> F) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    block_on_local(test(handle));
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    fn port(&self) -> u16 {
        self.address.port()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task)
            .await
            .expect("the server stops")
            .unwrap()
            .unwrap();
    }
}

fn dual_stack() -> UdpServer {
    server(
        SocketOptions::dual_stack()
            .bind_udp("[::]:0".parse().unwrap())
            .unwrap(),
    )
}

fn server(socket: UdpSocket) -> UdpServer {
    UdpServer::new(socket)
        .unwrap()
        .metrics_prefix("s")
        .max_send_batch(SEND_BATCH.get())
}

fn start<S>(server: UdpServer, service: S) -> Running
where
    S: Service<Datagram, Response = Option<Bytes>> + 'static,
    S::Error: std::fmt::Display,
{
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = spawn_local(server.serve(service).with_graceful_shutdown(async move {
        stopped.await.unwrap();
    }));
    Running { address, stop, task }
}

async fn client(to: IpAddr, port: u16) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await.unwrap();
    // Connected: an answer from any other address is not received.
    socket.connect((to, port)).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer")
        .unwrap();
    buffer.truncate(length);
    buffer
}

async fn ask(socket: &UdpSocket, payload: &[u8]) -> Vec<u8> {
    socket.send(payload).await.unwrap();
    receive(socket).await
}

fn echo() -> impl Service<Datagram, Response = Option<Bytes>, Error = Infallible, Future: 'static> + 'static {
    service_fn(|datagram: Datagram| async move { Ok(Some(datagram.into_payload())) })
}

fn labels(client: &str, server: SocketAddr) -> String {
    let (family, ip_type) = client.split_once('/').unwrap();
    let binding = ServerBinding::new(Protocol::Udp, server);
    let server: Vec<_> = binding
        .pairs()
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    format!(
        "client_address_ip_family=\"{family}\",client_address_ip_type=\"{ip_type}\",{}",
        server.join(",")
    )
}

/// How the loopback IPv4 client appears on the server's socket: plain, on a host without IPv6.
fn inet(server: SocketAddr) -> String {
    labels(
        if server.is_ipv6() {
            "inet/v4_mapped_v6"
        } else {
            "inet/plain"
        },
        server,
    )
}

#[test]
fn each_datagram_has_one_outcome_by_class() {
    run(async |metrics| {
        let server = dual_stack();
        let address = server.local_addr();
        let running = start(
            server,
            service_fn(|datagram: Datagram| async move {
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
            }),
        );
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let socket = client(ip, running.port()).await;
            for quiet in ["quiet", "fail", "panic", "slow panic", "too much", "quiet"] {
                socket.send(quiet.as_bytes()).await.unwrap();
            }
            assert_eq!(ask(&socket, b"slow").await, b"slow");
            assert_eq!(ask(&socket, b"").await, b"");
            assert_eq!(ask(&socket, b"last").await, b"last");

            let labels = if ip.is_ipv4() {
                inet(address)
            } else {
                labels("inet6/plain", address)
            };
            for (name, value) in [
                ("handled_total", 9),
                ("s_requests_received_total", 9),
                ("s_requests_unanswered_total", 2),
                ("s_responses_sent_total", 3),
                ("slow_total", 1),
            ] {
                expected.push(format!("{name}{{{labels}}} {value}"));
            }
            let (client, server) = labels.split_once(",server").unwrap();
            for (reason, value) in [("handler_error", 1), ("handler_panic", 2), ("send", 1)] {
                expected.push(format!(
                    "s_requests_failed_total{{{client},reason=\"{reason}\",server{server}}} {value}"
                ));
            }
        }
        expected.sort();
        running.stop().await;
        assert_eq!(samples(&metrics.render()), expected);
    });
}

#[test]
fn a_handler_sees_canonical_addresses_and_the_address_that_was_asked() {
    run(async |_| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let service = {
            let seen = Rc::clone(&seen);
            service_fn(move |datagram: Datagram| {
                seen.borrow_mut().push((
                    datagram.peer(),
                    ClientLabels::from(datagram.client().unwrap()).pairs()[0].1,
                    datagram.local_addr(),
                ));
                std::future::ready(Ok::<_, Infallible>(Some(Bytes::new())))
            })
        };
        let running = start(dual_stack(), service);
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let socket = client(ip, running.port()).await;
            ask(&socket, b"x").await;
            let family = if ip.is_ipv4() { "inet" } else { "inet6" };
            expected.push((
                socket.local_addr().unwrap(),
                family,
                SocketAddr::new(ip, running.port()),
            ));
        }
        assert_eq!(*seen.borrow(), expected);
        running.stop().await;
    });
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    run(async |_| {
        // On Linux every address of 127.0.0.0/8 is this host.
        let second = IpAddr::from([127, 0, 0, 2]);
        if !cfg!(target_os = "linux") {
            return test_support::skip_or_fail("127.0.0.2 is an address of this host on Linux only");
        }
        let options = SocketOptions::dual_stack();
        for wildcard in ["[::]:0", "0.0.0.0:0"] {
            let server = server(options.bind_udp(wildcard.parse().unwrap()).unwrap());
            let running = start(server, echo());
            for ip in [Ipv4Addr::LOCALHOST.into(), second] {
                assert_eq!(ask(&client(ip, running.port()).await, b"who").await, b"who");
            }
            running.stop().await;
        }

        // A plain `send_to` does otherwise, so the assertion above can fail.
        let plain = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let asking = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        asking
            .send_to(b"who", (second, plain.local_addr().unwrap().port()))
            .await
            .unwrap();
        let mut buffer = [0; 16];
        let (length, peer) = plain.recv_from(&mut buffer).await.unwrap();
        plain.send_to(&buffer[..length], peer).await.unwrap();
        let (_, from) = timeout(PATIENCE, asking.recv_from(&mut buffer))
            .await
            .expect("an answer")
            .unwrap();
        assert_eq!(from.ip(), Ipv4Addr::LOCALHOST, "and not {second}");
    });
}

#[test]
fn datagrams_of_all_sizes() {
    run(async |_| {
        let running = start(dual_stack(), echo());
        for ip in loopbacks() {
            let socket = client(ip, running.port()).await;
            // The largest UDP payloads: 65,535 without the headers of UDP, and of IPv4.
            let largest = if ip.is_ipv4() { 65_507 } else { 65_527 };
            for size in [0, 1, 100, 1_472, 1_473, 3_620, 4_096, 4_097, largest] {
                let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
                assert_eq!(ask(&socket, &payload).await, payload, "{size} bytes");
            }
        }
        running.stop().await;
    });
}

#[test]
fn datagrams_that_were_sent_as_one_are_separate() {
    run(async |metrics| {
        let running = start(dual_stack(), echo());
        let address = running.address;
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        let payload: Vec<u8> = (0..95).collect();
        // With segmentation offload, one write sends ten datagrams.
        let sender = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
        let transmit = quinn_udp::Transmit {
            destination: socket.peer_addr().unwrap(),
            ecn: None,
            contents: &payload,
            segment_size: Some(10),
            src_ip: None,
        };
        if sender.max_gso_segments() < 10 {
            return test_support::skip_or_fail("this system has no segmentation offload");
        }
        sender.try_send((&socket).into(), &transmit).unwrap();
        // Now the client's own receives are coalesced, so this asks the server.
        let name = format!("s_requests_received_total{{{}}} 10", inet(address));
        soon("ten datagrams", || samples(&metrics.render()).contains(&name)).await;
        running.stop().await;
    });
}

#[test]
fn slow_handlers_run_concurrently_and_fast_ones_overtake_them() {
    run(async |metrics| {
        let gate = Rc::new(Notify::new());
        let service = {
            let gate = Rc::clone(&gate);
            service_fn(move |datagram: Datagram| {
                let gate = Rc::clone(&gate);
                async move {
                    if datagram.payload().starts_with(b"slow") {
                        gate.notified().await;
                        counter!("slow_total").increment(1);
                    }
                    Ok::<_, Infallible>(Some(datagram.into_payload()))
                }
            })
        };
        let running = start(dual_stack(), service);
        let address = running.address;
        let ips = loopbacks();
        let slow = client(ips[0], running.port()).await;
        for at in 0..100_u8 {
            slow.send(&[&b"slow"[..], &[at]].concat()).await.unwrap();
        }
        let fast = client(ips[ips.len() - 1], running.port()).await;
        assert_eq!(ask(&fast, b"fast").await, b"fast");
        let received = format!(
            "s_requests_received_total{{{}}} {}",
            inet(address),
            102 - ips.len()
        );
        soon("all are received", || {
            samples(&metrics.render()).contains(&received)
        })
        .await;
        gate.notify_waiters();
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.push(receive(&slow).await[4]);
        }
        answers.sort_unstable();
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        assert!(samples(&metrics.render()).contains(&format!("slow_total{{{}}} 100", inet(address))));
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
        std::future::pending().await
    })
}

#[test]
fn past_the_limit_the_oldest_is_aborted_and_counts_its_drop() {
    run(async |metrics| {
        let server = dual_stack()
            .max_in_flight(3)
            .shutdown_timeout(Duration::from_millis(50));
        let running = start(server, never());
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        for _ in 0..10 {
            socket.send(b"x").await.unwrap();
        }
        // A handler that is ready at once takes no room.
        ask(&socket, b"").await;
        let expected = |received, aborted| {
            vec![
                format!("dropped_total{{{labels}}} {aborted}"),
                format!("s_requests_aborted_total{{{labels}}} {aborted}"),
                format!("s_requests_received_total{{{labels}}} {received}"),
                format!("s_responses_sent_total{{{labels}}} 1"),
            ]
        };
        assert_eq!(samples(&metrics.render()), expected(11, 7));
        // The shutdown aborts the rest at its deadline.
        running.stop().await;
        assert_eq!(samples(&metrics.render()), expected(11, 10));
    });
}

#[test]
fn a_server_that_is_dropped_aborts_what_waits() {
    run(async |metrics| {
        let running = start(dual_stack(), never());
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        for _ in 0..3 {
            socket.send(b"x").await.unwrap();
        }
        ask(&socket, b"").await;
        running.task.abort();
        assert!(running.task.await.unwrap_err().is_cancelled());
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("dropped_total{{{labels}}} 3"),
                format!("s_requests_aborted_total{{{labels}}} 3"),
                format!("s_requests_received_total{{{labels}}} 4"),
                format!("s_responses_sent_total{{{labels}}} 1"),
            ]
        );
    });
}

#[test]
fn a_graceful_shutdown_answers_what_was_received() {
    run(async |metrics| {
        let gate = Rc::new(Notify::new());
        let service = {
            let gate = Rc::clone(&gate);
            service_fn(move |datagram: Datagram| {
                let gate = Rc::clone(&gate);
                async move {
                    if datagram.payload().is_empty() {
                        gate.notified().await;
                    }
                    Ok::<_, Infallible>(Some(datagram.into_payload()))
                }
            })
        };
        let running = start(dual_stack(), service);
        let address = running.address;
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        socket.send(b"").await.unwrap();
        let received = format!("s_requests_received_total{{{}}} 1", inet(address));
        soon("one is received", || {
            samples(&metrics.render()).contains(&received)
        })
        .await;

        // They are in the system's queue when the signal comes: nothing yields to the server in between.
        for at in 0..50 {
            socket.try_send(&[at]).unwrap();
        }
        running.stop.send(()).unwrap();
        for at in 0..50 {
            assert_eq!(receive(&socket).await, [at]);
        }
        assert!(!running.task.is_finished(), "one handler still waits");
        gate.notify_waiters();
        assert_eq!(receive(&socket).await, b"");
        running.task.await.unwrap().unwrap();
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_received_total{{{}}} 51", inet(address)),
                format!("s_responses_sent_total{{{}}} 51", inet(address)),
            ]
        );
        // The port is closed, once no child process of another test has the socket.
        test_support::close(());
        socket.send(b"x").await.unwrap();
        assert_eq!(
            socket.recv(&mut [0; 1]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_service_that_is_not_ready_holds_datagrams_back() {
    run(async |metrics| {
        let gate = Rc::new(Notify::new());
        let service = {
            let gate = Rc::clone(&gate);
            ServiceBuilder::new()
                .concurrency_limit(1)
                .service(service_fn(move |datagram: Datagram| {
                    let gate = Rc::clone(&gate);
                    async move {
                        gate.notified().await;
                        Ok::<_, Infallible>(Some(datagram.into_payload()))
                    }
                }))
        };
        let running = start(dual_stack(), service);
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        for at in 0..5 {
            socket.send(&[at]).await.unwrap();
        }
        for at in 0..5 {
            let received = format!("s_requests_received_total{{{labels}}} {}", at + 1);
            soon("one at a time", || samples(&metrics.render()).contains(&received)).await;
            yield_now().await;
            assert!(samples(&metrics.render()).contains(&received));
            gate.notify_waiters();
            assert_eq!(receive(&socket).await, [at]);
        }
        running.stop().await;
    });
}

/// The first byte chooses the handler: `g` uses up the task's budget at each poll, for ever; `w` waits for ever.
fn greedy() -> impl Service<Datagram, Response = Option<Bytes>, Error = Infallible, Future: 'static> + 'static
{
    service_fn(|datagram: Datagram| async move {
        match datagram.payload().first() {
            Some(b'g') => loop {
                tokio::task::coop::consume_budget().await;
            },
            Some(b'w') => std::future::pending().await,
            _ => Ok(Some(datagram.into_payload())),
        }
    })
}

#[test]
fn a_greedy_handler_holds_up_neither_datagrams_nor_the_shutdown() {
    run(async |metrics| {
        let running = start(dual_stack().shutdown_timeout(Duration::from_millis(50)), greedy());
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        socket.send(b"w").await.unwrap();
        socket.send(b"g").await.unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&socket, b"x").await, b"x");
        }
        running.stop().await;
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_aborted_total{{{labels}}} 2"),
                format!("s_requests_received_total{{{labels}}} 5"),
                format!("s_responses_sent_total{{{labels}}} 3"),
            ]
        );
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
        run(async |metrics| {
            let service = service_fn(move |_: Datagram| async move {
                use_budget(units).await;
                Ok::<_, Infallible>(None)
            });
            let running = start(dual_stack().max_in_flight(1), service);
            let labels = inet(running.address);
            let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
            socket.writable().await.unwrap();
            for _ in 0..250 {
                socket.try_send(b"x").unwrap();
            }
            let received = format!("s_requests_received_total{{{labels}}} 250");
            soon("all are received", || {
                samples(&metrics.render()).contains(&received)
            })
            .await;
            running.stop().await;
            assert_eq!(
                samples(&metrics.render()),
                [received, format!("s_requests_unanswered_total{{{labels}}} 250")],
                "{units}"
            );
        });
    }
}

#[test]
fn a_flood_does_not_starve_a_handler_that_waits() {
    // At most two batches.
    const TURN: u32 = 64;

    for units in 0..7 {
        run(async |_| {
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
            let running = start(server, service);
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

    run(async |metrics| {
        let service = service_fn(|datagram: Datagram| async move {
            if datagram.payload().is_empty() {
                Ok(Some(Bytes::new()))
            } else {
                Err(Unspeakable)
            }
        });
        let running = start(dual_stack(), service);
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        socket.send(b"x").await.unwrap();
        ask(&socket, b"").await;
        running.stop().await;
        let (client, server) = labels.split_once(",server").unwrap();
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_failed_total{{{client},reason=\"handler_panic\",server{server}}} 1"),
                format!("s_requests_received_total{{{labels}}} 2"),
                format!("s_responses_sent_total{{{labels}}} 1"),
            ]
        );
    });
}

#[test]
fn the_oldest_is_not_aborted_when_another_has_made_room() {
    run(async |metrics| {
        let gate = Rc::new(Notify::new());
        let service = service_fn(move |datagram: Datagram| {
            let gate = Rc::clone(&gate);
            async move {
                match &datagram.payload()[..] {
                    b"never" => std::future::pending().await,
                    b"done by the next" => gate.notified().await,
                    _ => {
                        gate.notify_waiters();
                        yield_now().await;
                    }
                }
                Ok::<_, Infallible>(Some(datagram.into_payload()))
            }
        });
        let server = dual_stack()
            .max_in_flight(2)
            .shutdown_timeout(Duration::from_millis(50));
        let running = start(server, service);
        let labels = inet(running.address);
        let socket = client(Ipv4Addr::LOCALHOST.into(), running.port()).await;
        socket.send(b"never").await.unwrap();
        socket.send(b"done by the next").await.unwrap();
        let received = format!("s_requests_received_total{{{labels}}} 2");
        soon("both wait", || samples(&metrics.render()).contains(&received)).await;
        socket.send(b"next").await.unwrap();
        assert_eq!(receive(&socket).await, b"done by the next");
        assert_eq!(receive(&socket).await, b"next");
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_received_total{{{labels}}} 3"),
                format!("s_responses_sent_total{{{labels}}} 2")
            ]
        );
        running.stop().await;
    });
}

#[test]
fn own_labels_are_nested_in() {
    run(async |metrics| {
        let server = dual_stack();
        let address = server.local_addr();
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, address));
        let own = Scope::new(&dualstack_metrics::ClientLabels::UNKNOWN);
        let running = start(server.scopes(scopes.nest(own)), echo());
        ask(&client(Ipv4Addr::LOCALHOST.into(), running.port()).await, b"x").await;
        running.stop().await;
        let labels = labels("unknown/unknown", address);
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_received_total{{{labels}}} 1"),
                format!("s_responses_sent_total{{{labels}}} 1")
            ]
        );
    });
}

#[test]
fn a_server_and_its_service_may_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = dual_stack();
        let port = server.local_addr().port();
        let service = service_fn(|datagram: Datagram| async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Some(datagram.into_payload()))
        });
        let task = tokio::spawn(is_send(server.serve(service)));
        assert_eq!(
            ask(&client(Ipv4Addr::LOCALHOST.into(), port).await, b"x").await,
            b"x"
        );
        task.abort();
    });
}

#[test]
fn answers_above_the_mtu_are_fragmented() {
    // The MTU of loopback is 65,536 otherwise.
    in_namespace("ip link set lo mtu 1500", || {
        run(async |metrics| {
            for bind in ["[::]:0", "0.0.0.0:0"] {
                let socket = SocketOptions::dual_stack()
                    .bind_udp(bind.parse().unwrap())
                    .unwrap();
                let server = server(socket);
                let service = service_fn(|_: Datagram| async {
                    Ok::<_, Infallible>(Some(Bytes::from(vec![7; 3_620])))
                });
                let running = start(server, service);
                for ip in loopbacks()
                    .into_iter()
                    .filter(|ip| ip.is_ipv4() || bind.starts_with('['))
                {
                    assert_eq!(
                        ask(&client(ip, running.port()).await, b"x").await,
                        [7; 3_620],
                        "{bind} {ip}"
                    );
                }
                running.stop().await;
            }
            assert!(!metrics.render().contains("failed"), "{}", metrics.render());
        });
        let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let fields = |at| {
            snmp.lines()
                .filter(|line| line.starts_with("Ip:"))
                .nth(at)
                .unwrap()
                .split(' ')
        };
        let created = fields(0)
            .zip(fields(1))
            .find(|(name, _)| *name == "FragCreates")
            .unwrap()
            .1;
        let expected = SEND_BATCHES.len() * 6;
        assert_eq!(
            created,
            expected.to_string(),
            "two answers of three fragments each time"
        );
    });
}

#[test]
fn where_the_address_is_gone_the_system_chooses() {
    in_namespace(
        // A full prefix: on loopback every address of a prefix is the host's.
        "ip addr add 192.0.2.9/32 dev lo\nip addr add 2001:db8::9/128 dev lo nodad",
        || {
            run(async |metrics| {
                for (bind, asked, prefix) in [
                    ("0.0.0.0:0", "192.0.2.9", 32),
                    ("[::]:0", "192.0.2.9", 32),
                    ("[::]:0", "2001:db8::9", 128),
                ] {
                    let socket = SocketOptions::dual_stack()
                        .bind_udp(bind.parse().unwrap())
                        .unwrap();
                    let server = server(socket);
                    let running = start(
                        server,
                        service_fn(move |datagram: Datagram| {
                            assert_eq!(datagram.local_addr().ip(), asked.parse::<IpAddr>().unwrap());
                            ip(&format!("addr del {asked}/{prefix} dev lo"));
                            std::future::ready(Ok::<_, Infallible>(Some(datagram.into_payload())))
                        }),
                    );
                    let any = if asked.contains(':') {
                        "[::1]:0"
                    } else {
                        "127.0.0.1:0"
                    };
                    let socket = UdpSocket::bind(any).await.unwrap();
                    socket
                        .send_to(b"x", (asked.parse::<IpAddr>().unwrap(), running.port()))
                        .await
                        .unwrap();
                    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut [0; 8]))
                        .await
                        .expect("an answer")
                        .unwrap();
                    assert_eq!(length, 1);
                    assert_ne!(from.ip().to_string(), asked);
                    running.stop().await;
                    let nodad = if asked.contains(':') { " nodad" } else { "" };
                    ip(&format!("addr add {asked}/{prefix} dev lo{nodad}"));
                }
                assert!(!metrics.render().contains("failed"), "{}", metrics.render());
            });
        },
    );
}

#[test]
fn a_multicast_group_is_no_source() {
    in_namespace(
        "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad\nip link add v0 type veth peer name v1\n\
         ip link set v0 up\nip link set v1 up\nip addr add 192.0.2.1/24 dev v0\nip addr add fe80::1/64 dev v0 nodad",
        || {
            eventually("the link is up", || {
                ip("-oneline link show dev v0").contains("state UP")
            });
            let link = link_number("v0");
            let own = Ipv4Addr::new(192, 0, 2, 1);
            run(async |metrics| {
                let group = Ipv4Addr::new(239, 1, 2, 3);
                let socket = SocketOptions::dual_stack()
                    .bind_udp("0.0.0.0:0".parse().unwrap())
                    .unwrap();
                socket.join_multicast_v4(group, own).unwrap();
                let inet = start(server(socket), echo());
                let asking = UdpSocket::bind((own, 0)).await.unwrap();
                asking.send_to(b"x", (group, inet.port())).await.unwrap();
                let (length, from) = timeout(PATIENCE, asking.recv_from(&mut [0; 8]))
                    .await
                    .expect("an answer")
                    .unwrap();
                assert_eq!((length, from), (1, SocketAddr::from((own, inet.port()))));
                inet.stop().await;

                let group: Ipv6Addr = "ff02::1234".parse().unwrap();
                let socket = SocketOptions::dual_stack()
                    .bind_udp("[::]:0".parse().unwrap())
                    .unwrap();
                socket.join_multicast_v6(&group, link).unwrap();
                let inet6 = start(server(socket), echo());
                let asking = UdpSocket::bind("[::]:0").await.unwrap();
                asking
                    .send_to(b"x", SocketAddrV6::new(group, inet6.port(), 0, link))
                    .await
                    .unwrap();
                let (length, from) = timeout(PATIENCE, asking.recv_from(&mut [0; 8]))
                    .await
                    .expect("an answer")
                    .unwrap();
                let SocketAddr::V6(from) = from else {
                    panic!("{from}")
                };
                assert!(from.ip().is_unicast_link_local(), "{from}");
                assert_eq!((length, from.scope_id(), from.port()), (1, link, inet6.port()));
                inet6.stop().await;
                assert!(!metrics.render().contains("failed"), "{}", metrics.render());
            });
        },
    );
}

#[test]
fn errors_of_the_socket_have_no_client_and_the_loop_goes_on() {
    run(async |metrics| {
        // A socket that is connected to a closed port gets an error.
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = nobody.local_addr().unwrap();
        test_support::close(nobody);
        let socket = SocketOptions::dual_stack()
            .bind_udp("127.0.0.1:0".parse().unwrap())
            .unwrap();
        let address = socket.local_addr().unwrap();
        socket.connect(peer).await.unwrap();
        socket.send(b"x").await.unwrap();
        let running = start(server(socket), echo());
        let server = labels("inet/plain", address)
            .split_once(",server")
            .unwrap()
            .1
            .to_owned();
        let error = format!("s_socket_errors_total{{operation=\"receive\",server{server}}} 1");

        // The error shows with the next datagram, which is served as well.
        let somebody = UdpSocket::bind(peer).await.unwrap();
        somebody.connect(address).await.unwrap();
        assert_eq!(ask(&somebody, b"x").await, b"x");
        running.stop().await;
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("s_requests_received_total{{{}}} 1", labels("inet/plain", address)),
                format!("s_responses_sent_total{{{}}} 1", labels("inet/plain", address)),
                error,
            ]
        );
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
        if self.errors.fetch_add(value, Ordering::Relaxed) < self.times {
            self.socket.send(b"x").unwrap();
        }
    }

    fn absolute(&self, _: u64) {
        unreachable!("the server increments");
    }
}

struct FailsAgainRecorder<R> {
    inner: R,
    errors: Arc<FailsAgain>,
}

impl<R: Recorder> Recorder for FailsAgainRecorder<R> {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_counter(name, unit, description);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if key.name() == "s_socket_errors_total" {
            return Counter::from_arc(Arc::clone(&self.errors));
        }
        self.inner.register_counter(key, metadata)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn a_server_needs_no_time_driver() {
    /// [`soon`] without a timer.
    async fn spin(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < deadline, "30 s are over, and not: {what}");
            yield_now().await;
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let entered = runtime.enter();
    let socket = SocketOptions::dual_stack()
        .bind_udp("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let address = socket.local_addr().unwrap();
    let socket = socket.into_std().unwrap();
    // Sends one datagram, then closes its port.
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = client.local_addr().unwrap();
    socket.connect(peer).unwrap();
    client.send_to(b"", address).unwrap();
    test_support::close(client);
    // The server pauses after 16.
    let errors = Arc::new(FailsAgain {
        socket: socket.try_clone().unwrap(),
        times: 18,
        errors: AtomicU64::new(0),
    });
    let inner = Install::new(PrometheusBuilder::new()).build_recorder();
    let metrics = inner.get_ref().handle();
    let recorder = FailsAgainRecorder {
        inner,
        errors: Arc::clone(&errors),
    };
    let _recorder = metrics::set_default_local_recorder(&recorder);
    errors.socket.send(b"x").unwrap();
    let server = UdpServer::new(UdpSocket::from_std(socket).unwrap())
        .unwrap()
        .metrics_prefix("s")
        .shutdown_timeout(Duration::from_millis(50));
    drop(entered);

    LocalSet::new().block_on(&runtime, async {
        let running = start(server, never());
        let labels = labels("inet/plain", address);
        let sent = format!("s_responses_sent_total{{{labels}}} 1");
        spin("an answer is sent", || samples(&metrics.render()).contains(&sent)).await;
        assert!(errors.errors.load(Ordering::Relaxed) > 18);

        // A shutdown has its deadline.
        let client = UdpSocket::bind(peer).await.unwrap();
        client.send_to(b"waits", address).await.unwrap();
        let received = format!("s_requests_received_total{{{labels}}} 2");
        spin("a handler waits", || {
            samples(&metrics.render()).contains(&received)
        })
        .await;
        running.stop.send(()).unwrap();
        running.task.await.unwrap().unwrap();
        assert_eq!(
            samples(&metrics.render()),
            [
                format!("dropped_total{{{labels}}} 1"),
                format!("s_requests_aborted_total{{{labels}}} 1"),
                received,
                sent,
            ]
        );
    });
}
