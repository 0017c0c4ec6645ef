//! The PROXY protocol in front of each datagram, under a `UdpServer`.

use std::{
    convert::Infallible,
    future::ready,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, Nat64Prefix, Protocol, ServerBinding, UdpServer,
    proxy::{Fallback, ProxyProtocolDatagrams},
};
use test_support::{
    INET, INET6, Log, MAPPED, Metrics, Seen, UNKNOWN, V4, V6, ipv6_or_say, recorded, rejected, sample, seven,
    udp::{Client, Running, bind},
};
use tower::service_fn;

use super::trusting;

/// A header of version 2, and a payload: command, family and protocol, the client's address, and the bytes behind it.
fn v2(command: u8, family: u8, client: &str, rest: &[u8], payload: &[u8]) -> Vec<u8> {
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

fn with_both_families(test: impl AsyncFnOnce(Metrics)) {
    if ipv6_or_say() {
        recorded(test);
    }
}

/// Sends each datagram from its peer, and checks the answer, if one is expected. The service answers with the payload
/// that it gets and the address of its peer. Returns where the server is.
async fn ask(
    server: impl FnOnce(UdpServer) -> UdpServer,
    datagrams: &[(IpAddr, Vec<u8>, Option<&str>)],
) -> SocketAddr {
    let service = service_fn(|datagram: Datagram| {
        let answer = format!("{} {}", datagram.payload().escape_ascii(), datagram.peer().ip());
        ready(Ok::<_, Infallible>(Some(Bytes::from(answer))))
    });
    let running = Running::start(server(new_server()), service);
    let address = running.address;
    for (peer, datagram, expected) in datagrams {
        let client = running.client(*peer).await;
        client.send(datagram).await;
        if let Some(expected) = expected {
            let answer = client.receive().await;
            assert_eq!(str::from_utf8(&answer), Ok(*expected), "{datagram:?}");
        }
    }
    running.stop().await;
    address
}

fn new_server() -> UdpServer {
    UdpServer::new(bind("[::]:0")).unwrap()
}

/// Asserts the counts of the server: received, answered and unanswered, by class, and rejections.
fn check(metrics: &Metrics, server: SocketAddr, seen: &[(Seen, u64, u64)], rejections: &[(&str, u64)]) {
    let seen = seen.iter().flat_map(|&(class, answered, unanswered)| {
        let counts = [
            ("udp_server_requests_received_total", answered + unanswered),
            ("udp_server_responses_sent_total", answered),
            ("udp_server_requests_unanswered_total", unanswered),
        ];
        let counts = counts.into_iter().filter(|(_, value)| *value > 0);
        counts.map(move |(name, value)| sample(name, &seven("udp", server, class), value))
    });
    let rejections = rejections
        .iter()
        .map(|&(reason, value)| rejected("proxy-protocol", reason, value));
    metrics.assert(seen.chain(rejections));
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
                // The service gets the client's bytes behind the header, also if they are a header.
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
            &[("contradictory", 1)],
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
        let advice = "if it is your proxy, add its address to `TrustedProxies` source=proxy-protocol reason=untrusted \
                      peer=127.0.0.1 unlogged=0";
        assert_eq!(log.count(advice), 1, "{log:?}");
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

/// A refused datagram gets no answer. The last datagram shows that the server goes on.
#[test]
fn an_unusable_header_is_counted_once_and_its_datagram_is_not_served() {
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
        for (fallback, seen, rejections) in [
            (Fallback::Unknown, UNKNOWN, &[("unknown", 3)][..]),
            (Fallback::Peer, proxy, &[]),
        ] {
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
                check(&metrics, server, &[(seen, 3, 0)], rejections);
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
        let server = new_server().max_in_flight(1).source(source(&["::1"]));
        let address = server.local_addr();
        let proxy = Client::new(V6, address.port()).await;
        for datagram in [inet("192.0.2.7"), inet6("2001:db8::7"), inet6("2001:db8::8")] {
            proxy.send(&datagram).await;
        }
        let serve = server.serve(service_fn(|_| std::future::pending::<Result<_, Infallible>>()));
        let count = |name: &str, seen, value| {
            let name = format!("udp_server_requests_{name}_total");
            sample(&name, &seven("udp", address, seen), value)
        };
        // The third datagram aborts the second.
        let oldest = count("aborted", INET6, 1);
        let aborted = metrics.wait_for(&oldest);
        tokio::select! {
            ended = serve => panic!("{ended:?}"),
            () = aborted => {}
        }
        metrics.assert([
            count("received", INET, 1),
            count("aborted", INET, 1),
            count("received", INET6, 2),
            // One of them when the server was dropped.
            count("aborted", INET6, 2),
        ]);
    });
}
