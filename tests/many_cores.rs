//! One port, a socket and a server for each worker.

#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::ready,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use dualstack_metrics::{Datagram, SocketOptions, UdpServer, prometheus::Install};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{
    Metrics, PATIENCE, and, assert_samples, block_on, close, each, in_namespace, loopbacks, sample, seen,
    seven, udp::Client,
};
use tokio::{net::UdpSocket, sync::watch, task::JoinSet, time::timeout};
use tower::service_fn;

const WORKERS: u8 = 4;
/// Each worker gets some: one without a client is less likely than one in ten million.
const CLIENTS: u64 = 64;
const REQUESTS: u8 = 25;

/// Asks several times from one port. Returns the worker that answers.
async fn client(ip: IpAddr, port: u16) -> u8 {
    let client = Client::new(ip, port).await;
    let mut workers = BTreeSet::new();
    for request in 0..REQUESTS {
        let answer = client.ask(&[request]).await;
        assert_eq!(answer[1..], [request]);
        workers.insert(answer[0]);
    }
    assert_eq!(workers.len(), 1, "a client has one worker");
    workers.pop_first().unwrap()
}

/// The number of clients of each worker.
async fn clients(ip: IpAddr, port: u16) -> BTreeMap<u8, u64> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(ip, port));
    }
    let mut of_worker = BTreeMap::new();
    while let Some(worker) = clients.join_next().await {
        *of_worker.entry(worker.unwrap()).or_default() += 1;
    }
    of_worker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_load_spreads_and_the_counts_stay_exact() {
    // The only test of this process that counts.
    let metrics = Metrics::from(Install::new(PrometheusBuilder::new()).install().unwrap());
    let sockets = SocketOptions::dual_stack()
        .bind_udp_many("[::]:0".parse().unwrap(), WORKERS.into())
        .unwrap();
    let address = sockets[0].local_addr().unwrap();
    assert!(
        sockets
            .iter()
            .all(|socket| socket.local_addr().unwrap() == address)
    );

    let stop = watch::Sender::new(());
    let mut workers = JoinSet::new();
    for (worker, socket) in (0..WORKERS).zip(sockets) {
        let mut stopped = stop.subscribe();
        let service = service_fn(move |datagram: Datagram| {
            counter!("handled_total", "worker" => worker.to_string()).increment(1);
            let answer = [&[worker], &datagram.payload()[..]].concat();
            ready(Ok::<_, Infallible>(Some(Bytes::from(answer))))
        });
        let server = UdpServer::new(socket).unwrap().metrics_prefix("s");
        workers.spawn(server.serve(service).with_graceful_shutdown(async move {
            stopped.changed().await.unwrap();
        }));
    }

    let mut expected = Vec::new();
    for ip in loopbacks() {
        let of_worker = clients(ip, address.port()).await;
        let has_clients: Vec<_> = of_worker.keys().copied().collect();
        assert_eq!(has_clients, [0, 1, 2, 3], "the load spreads: {of_worker:?}");

        let labels = seven("udp", address, seen(ip, address));
        let requests = u64::from(REQUESTS);
        for (worker, clients) in of_worker {
            let labels = and(labels.clone(), "worker", &worker.to_string());
            expected.push(sample("handled_total", &labels, clients * requests));
        }
        // One series for all workers.
        let all = CLIENTS * requests;
        let outcomes = [
            ("s_requests_received_total", all),
            ("s_responses_sent_total", all),
        ];
        expected.extend(each(&labels, outcomes));
    }

    stop.send(()).unwrap();
    for _ in 0..WORKERS {
        let worker = timeout(PATIENCE, workers.join_next()).await.expect("each stops");
        worker.unwrap().unwrap().unwrap();
    }
    let mut counted = metrics.samples();
    counted.retain(|line| line.starts_with("s_") && !line.ends_with(" 0") || line.starts_with("handled_"));
    assert_samples(counted, expected);

    // The port is free, also for a socket that does not share it.
    close(());
    drop(SocketOptions::dual_stack().bind_udp(address).unwrap());
}

#[tokio::test]
async fn the_sockets_share_the_port_only_with_sockets_that_ask_for_it() {
    let any = "[::]:0".parse().unwrap();
    let sockets = SocketOptions::dual_stack().bind_udp_many(any, 2).unwrap();
    let address = sockets[0].local_addr().unwrap();
    let error = SocketOptions::dual_stack().bind_udp(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    // Sockets that ask for it get it, so a program may be replaced without a gap.
    let more = SocketOptions::dual_stack().bind_udp_many(address, 2).unwrap();
    assert_eq!(more[1].local_addr().unwrap(), address);

    assert!(
        SocketOptions::dual_stack()
            .bind_udp_many(any, 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_port_that_the_system_chooses_has_no_other_user() {
    in_namespace(
        "echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range",
        || {
            block_on(async {
                let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
                let many = || SocketOptions::dual_stack().bind_udp_many(any, 3);
                let port = |sockets: &[UdpSocket]| sockets[0].local_addr().unwrap().port();
                let (first, second) = (many().unwrap(), many().unwrap());
                assert_eq!(
                    BTreeSet::from([port(&first), port(&second)]),
                    [40_000, 40_001].into()
                );
                // No port is left, although each could be shared.
                assert_eq!(many().unwrap_err().kind(), ErrorKind::AddrInUse);

                // If the option is set before binding, the kernel chooses a port that is in use.
                let shares = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
                shares.set_reuse_port(true).unwrap();
                shares.bind(&any.into()).unwrap();
            });
        },
    );
}
