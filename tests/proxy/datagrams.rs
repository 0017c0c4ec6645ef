//! The PROXY protocol in front of each datagram, under a `UdpServer`.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, Nat64Prefix, Protocol, ServerBinding, SocketOptions, UdpServer,
    proxy::{Fallback, ProxyProtocolDatagrams},
};
use metrics_exporter_prometheus::PrometheusHandle;
use test_support::{
    INET, INET6, Log, MAPPED, Seen, UNKNOWN, V4, V6, assert_samples, ipv6_or_say, sample, samples, seven,
};
use tokio::net::UdpSocket;
use tower::service_fn;

use super::{local, rejected, trusting};

/// A header of version 2, and a payload: command, family and protocol, the client's address, and what comes behind it.
pub(super) fn v2(command: u8, family: u8, client: &str, rest: &[u8], payload: &[u8]) -> Vec<u8> {
    let addresses = match client.parse() {
        Ok(IpAddr::V4(ip)) => [&ip.octets()[..], &[192, 0, 2, 1, 0xc3, 0x50, 0, 53]].concat(),
        Ok(IpAddr::V6(ip)) => [&ip.octets()[..], &[0; 16], &[0xc3, 0x50, 0, 53]].concat(),
        Err(_) => vec![],
    };
    let length = u16::try_from(addresses.len() + rest.len()).unwrap().to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [&start[..], &[command, family], &length, &addresses, rest, payload].concat()
}

fn inet(client: &str) -> Vec<u8> {
    v2(0x21, 0x12, client, b"", b"ask")
}

fn inet6(client: &str) -> Vec<u8> {
    v2(0x21, 0x22, client, b"", b"ask")
}

fn with_both_families(test: impl AsyncFnOnce(PrometheusHandle)) {
    if ipv6_or_say() {
        local(test);
    }
}

/// Sends each datagram from its peer, and checks the answer, if one is expected. The service answers with the payload
/// that it gets and the address of its peer. Returns where the server is.
async fn ask(
    server: impl FnOnce(UdpServer) -> UdpServer,
    datagrams: &[(IpAddr, Vec<u8>, Option<&str>)],
) -> SocketAddr {
    let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap());
    let server = server(UdpServer::new(socket.unwrap()).unwrap());
    let address = server.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = server
        .serve(service_fn(|datagram: Datagram| async move {
            let answer = format!("{} {}", datagram.payload().escape_ascii(), datagram.peer().ip());
            Ok::<_, Infallible>(Some(Bytes::from(answer)))
        }))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let ask = async {
        for (peer, datagram, expected) in datagrams {
            let socket = UdpSocket::bind((*peer, 0)).await.unwrap();
            socket.connect((*peer, address.port())).await.unwrap();
            socket.send(datagram).await.unwrap();
            if let Some(expected) = expected {
                let mut answer = [0; 2_000];
                let length = socket.recv(&mut answer).await.unwrap();
                assert_eq!(str::from_utf8(&answer[..length]), Ok(*expected), "{datagram:?}");
            }
        }
        stop.send(()).unwrap();
    };
    let ((), end) = tokio::join!(ask, serve);
    end.unwrap();
    address
}

/// What the server has counted: received, answered and unanswered, by class, and nothing else but rejections.
fn check(
    metrics: &PrometheusHandle,
    server: SocketAddr,
    seen: &[(Seen, u64, u64)],
    rejections: &[(&str, u64)],
) {
    let mut expected = Vec::new();
    for &(class, answered, unanswered) in seen {
        let mut count = |name: &str, value| {
            if value > 0 {
                expected.push(sample(
                    &format!("udp_server_{name}_total"),
                    &seven("udp", server, class),
                    value,
                ));
            }
        };
        count("requests_received", answered + unanswered);
        count("responses_sent", answered);
        count("requests_unanswered", unanswered);
    }
    expected.extend(
        rejections
            .iter()
            .map(|&(reason, value)| rejected("proxy-protocol", reason, value)),
    );
    assert_samples(samples(&metrics.render()), expected);
}

fn source(networks: &[&str]) -> ProxyProtocolDatagrams {
    trusting(networks).proxy_protocol_datagrams()
}

#[test]
fn the_client_in_the_header_is_counted_and_the_proxy_gets_the_answer() {
    with_both_families(async |metrics| {
        let long = [&[0x04, 0x03, 0xe8][..], &[7; 1_000]].concat();
        let server = ask(
            |server| server.source(source(&["127.0.0.0/8", "::1"])),
            &[
                (V4, inet("192.0.2.7"), Some("ask 192.0.2.7")),
                (V6, inet("192.0.2.7"), Some("ask 192.0.2.7")),
                (V4, inet6("2001:db8::7"), Some("ask 2001:db8::7")),
                (V6, inet6("2001:db8::7"), Some("ask 2001:db8::7")),
                (V6, inet6("::ffff:192.0.2.7"), Some("ask 192.0.2.7")),
                (V4, v2(0x21, 0x12, "192.0.2.8", b"", b""), Some(" 192.0.2.8")),
                (
                    V4,
                    v2(0x21, 0x12, "192.0.2.9", &long, b"ask"),
                    Some("ask 192.0.2.9"),
                ),
                // The service gets what the client wrote behind the header.
                (
                    V4,
                    v2(0x21, 0x12, "192.0.2.7", b"", b"PROXY UNKNOWN\r\n"),
                    Some("PROXY UNKNOWN\\r\\n 192.0.2.7"),
                ),
                (
                    V4,
                    b"PROXY TCP6 2001:db8::7 ::1 1 2\r\nask".to_vec(),
                    Some("ask 2001:db8::7"),
                ),
            ],
        )
        .await;
        check(
            &metrics,
            server,
            &[(INET, 5, 0), (INET6, 3, 0), (MAPPED, 1, 0)],
            &[],
        );
    });
}

#[test]
fn a_health_check_is_the_proxys_own() {
    with_both_families(async |metrics| {
        let server = ask(
            |server| server.source(source(&["127.0.0.0/8", "::1"])),
            &[
                (V4, v2(0x20, 0, "", b"", b"check"), Some("check 127.0.0.1")),
                (V6, v2(0x20, 0x12, "192.0.2.7", b"", b"check"), Some("check ::1")),
            ],
        )
        .await;
        check(&metrics, server, &[(MAPPED, 1, 0), (INET6, 1, 0)], &[]);
    });
}

#[test]
fn a_peer_that_is_not_trusted_is_its_own_client_and_keeps_its_bytes() {
    let log = Log::of_thread();
    with_both_families(async |metrics| {
        let forged = inet("192.0.2.7");
        let echoed = |peer| format!("{} {peer}", forged.escape_ascii());
        let server = ask(
            |server| server.source(source(&["192.0.2.0/24", "2001:db8::/32"])),
            &[
                (V4, forged.clone(), Some(&echoed("127.0.0.1"))),
                (V6, forged.clone(), Some(&echoed("::1"))),
                (V6, b"ask".to_vec(), Some("ask ::1")),
                (V6, b"PROXY".to_vec(), Some("PROXY ::1")),
            ],
        )
        .await;
        check(
            &metrics,
            server,
            &[(MAPPED, 1, 0), (INET6, 3, 0)],
            &[("untrusted", 2)],
        );
        let lines = log.lines();
        let advice = "if it is your proxy, add its address to `TrustedProxies` source=proxy-protocol reason=untrusted \
                      peer=127.0.0.1 unlogged=0";
        assert_eq!(
            lines.iter().filter(|line| line.contains(advice)).count(),
            1,
            "{lines:?}"
        );
    });
}

#[test]
fn without_a_source_a_header_is_payload() {
    with_both_families(async |metrics| {
        let echoed = format!("{} ::1", inet("192.0.2.7").escape_ascii());
        let server = ask(|server| server, &[(V6, inet("192.0.2.7"), Some(&echoed))]).await;
        check(&metrics, server, &[(INET6, 1, 0)], &[]);
    });
}

/// What is refused gets no answer. The last datagram shows that the server goes on.
#[test]
fn what_cannot_be_used_is_counted_once_and_is_not_served() {
    let unusable = [
        (b"".to_vec(), "missing"),
        (b"ask".to_vec(), "missing"),
        (b"PROX".to_vec(), "missing"),
        (inet("192.0.2.7")[..11].to_vec(), "missing"),
        (inet("192.0.2.7")[..12].to_vec(), "malformed"),
        (inet("192.0.2.7")[..27].to_vec(), "malformed"),
        (b"PROXY TCP4 192.0.2.7".to_vec(), "malformed"),
        (b"PROXY TCP4 192.0.2.7 a b c\r\nask".to_vec(), "malformed"),
        (v2(0x11, 0x12, "192.0.2.7", b"", b"ask"), "malformed"),
        (v2(0x22, 0x12, "192.0.2.7", b"", b"ask"), "malformed"),
        (v2(0x21, 0x22, "192.0.2.7", b"", b"ask"), "malformed"),
        (v2(0x21, 0x12, "192.0.2.7", &[0; 9_000], b"ask"), "oversized"),
        ([&b"PROXY "[..], &[b'x'; 200]].concat(), "oversized"),
    ];
    let count = |reason: &str| unusable.iter().filter(|(_, of)| *of == reason).count() as u64;
    let rejections = ["missing", "malformed", "oversized"].map(|reason| (reason, count(reason)));
    for (peer, proxy) in [(V4, MAPPED), (V6, INET6)] {
        for (fallback, seen) in [(Fallback::Unknown, UNKNOWN), (Fallback::Peer, proxy)] {
            with_both_families(async |metrics| {
                let mut datagrams: Vec<_> = unusable
                    .iter()
                    .map(|(datagram, _)| (peer, datagram.clone(), None))
                    .collect();
                datagrams.push((peer, inet("192.0.2.7"), Some("ask 192.0.2.7")));
                let source = source(&["127.0.0.1", "::1"]).fallback(fallback);
                let server = ask(|server| server.source(source), &datagrams).await;
                let refused = unusable.len() as u64;
                check(&metrics, server, &[(INET, 1, 0), (seen, 0, refused)], &rejections);
            });
        }
    }
}

#[test]
fn a_client_without_an_address_is_served_as_unknown_or_as_the_peer() {
    for (peer, proxy) in [(V4, MAPPED), (V6, INET6)] {
        for (fallback, seen) in [(Fallback::Unknown, UNKNOWN), (Fallback::Peer, proxy)] {
            with_both_families(async |metrics| {
                let answer = format!("ask {peer}");
                let source = source(&["127.0.0.1", "::1"]).fallback(fallback);
                let server = ask(
                    |server| server.source(source),
                    &[
                        (peer, v2(0x21, 0, "", b"", b"ask"), Some(&answer)),
                        (peer, v2(0x21, 0x32, "", &[b'/'; 216], b"ask"), Some(&answer)),
                        (peer, b"PROXY UNKNOWN\r\nask".to_vec(), Some(&answer)),
                    ],
                )
                .await;
                check(&metrics, server, &[(seen, 3, 0)], &[("unknown", 3)]);
            });
        }
    }
}

#[test]
fn a_header_can_be_optional() {
    for (fallback, seen) in [(Fallback::Unknown, UNKNOWN), (Fallback::Peer, INET6)] {
        with_both_families(async |metrics| {
            let source = source(&["::1"]).fallback(fallback).optional();
            let server = ask(
                |server| server.source(source),
                &[
                    (V6, b"ask".to_vec(), Some("ask ::1")),
                    (V6, b"".to_vec(), Some(" ::1")),
                    (V6, inet("192.0.2.7")[..20].to_vec(), None),
                    (V6, inet("192.0.2.7"), Some("ask 192.0.2.7")),
                ],
            )
            .await;
            check(
                &metrics,
                server,
                &[(INET, 1, 0), (seen, 2, 1)],
                &[("missing", 2), ("malformed", 1)],
            );
        });
    }
}

#[test]
fn a_translated_client_is_an_ipv4_client_also_in_a_header() {
    with_both_families(async |metrics| {
        let scopes = |server: &UdpServer| {
            let binding = ServerBinding::new(Protocol::Udp, server.local_addr());
            let scopes = ClientScopes::builder().binding(binding);
            scopes.nat64(Nat64Prefix::WELL_KNOWN).build().unwrap()
        };
        let server = ask(
            |server| {
                let scopes = scopes(&server);
                server.scopes(scopes).source(source(&["::1"]))
            },
            &[
                (V6, inet6("64:ff9b::192.0.2.7"), Some("ask 64:ff9b::c000:207")),
                (V6, inet6("2001:db8::7"), Some("ask 2001:db8::7")),
            ],
        )
        .await;
        check(&metrics, server, &[(("inet", "nat64"), 1, 0), (INET6, 1, 0)], &[]);
    });
}

#[test]
fn an_aborted_datagram_has_the_class_of_its_client() {
    with_both_families(async |metrics| {
        let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap());
        let server = UdpServer::new(socket.unwrap())
            .unwrap()
            .max_in_flight(1)
            .source(source(&["::1"]));
        let address = server.local_addr();
        let proxy = UdpSocket::bind((V6, 0)).await.unwrap();
        proxy.connect((V6, address.port())).await.unwrap();
        for datagram in [inet("192.0.2.7"), inet6("2001:db8::7"), inet6("2001:db8::8")] {
            proxy.send(&datagram).await.unwrap();
        }
        let serve = server.serve(service_fn(|_| std::future::pending::<Result<_, Infallible>>()));
        let count = |name: &str, seen, value| {
            let name = format!("udp_server_requests_{name}_total");
            sample(&name, &seven("udp", address, seen), value)
        };
        let oldest = [INET, INET6].map(|seen| count("aborted", seen, 1));
        let aborted = test_support::soon("two are aborted", || {
            let samples = samples(&metrics.render());
            oldest.iter().all(|sample| samples.contains(sample))
        });
        tokio::select! {
            ended = serve => panic!("{ended:?}"),
            () = aborted => {}
        }
        assert_samples(
            samples(&metrics.render()),
            [
                count("received", INET, 1),
                count("aborted", INET, 1),
                count("received", INET6, 2),
                // One of them when the server was dropped.
                count("aborted", INET6, 2),
            ],
        );
    });
}
