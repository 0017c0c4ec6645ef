//! The PROXY protocol under axum and under a loop of one's own, without a proxy.

use std::{net::SocketAddr, time::Duration};

use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, Protocol, ServerBinding, TrustedProxies, WithScope as _,
    client::ClientConnectInfo,
    proxy::{Fallback, ProxyProtocolListener},
};
use test_support::{
    INET, INET6, Log, MAPPED, Metrics, Seen, UNKNOWN, dual_stack, on_unix, recorded, rejected, requests,
    sample, serve, seven,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::trusting;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const V1: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\xc3\x50\x00\x50";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const V2_UNSPEC: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00";

async fn connect(server: SocketAddr) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port())).await.unwrap()
}

/// Sends `pieces` one by one, and returns whether there was an answer. Without one the connection was closed.
async fn ask(server: SocketAddr, pieces: &[&[u8]]) -> bool {
    let mut stream = connect(server).await;
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    // A connection that is closed with unread bytes is reset.
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200")
}

type Listener = ProxyProtocolListener<TcpListener>;

fn served(networks: &[&str], with: impl FnOnce(Listener) -> Listener) -> SocketAddr {
    let (listener, address, binding) = dual_stack();
    let listener = with(trusting(networks).proxy_protocol(listener));
    serve(listener, ClientLabelsLayer::new(binding));
    address
}

fn check(metrics: &Metrics, server: SocketAddr, seen: &[(Seen, u64)], rejections: &[(&str, u64)]) {
    let seen = seen.iter().map(|&(seen, value)| requests(server, seen, value));
    let rejections = rejections
        .iter()
        .map(|&(reason, value)| rejected("proxy-protocol", reason, value));
    metrics.assert(seen.chain(rejections));
}

#[test]
fn both_versions_name_the_client() {
    recorded(async |metrics| {
        let server = served(&["127.0.0.0/8"], |listener| listener);
        assert!(ask(server, &[V1, GET]).await);
        assert!(ask(server, &[&[V1, GET].concat()]).await);
        for byte in [1, 6, 15, 20, V1.len() - 1] {
            assert!(ask(server, &[&V1[..byte], &[&V1[byte..], GET].concat()]).await);
        }
        assert!(ask(server, &[V2, GET]).await);
        assert!(ask(server, &[b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1\r\n", GET]).await);
        check(&metrics, server, &[(INET6, 7), (INET, 1), (MAPPED, 1)], &[]);
    });
}

#[test]
fn a_local_connection_is_the_proxys_own() {
    recorded(async |metrics| {
        let server = served(&["127.0.0.1"], |listener| listener);
        assert!(ask(server, &[V2_LOCAL, GET]).await);
        check(&metrics, server, &[(MAPPED, 1)], &[]);
    });
}

#[test]
fn a_client_without_an_address_is_unknown_or_the_peer() {
    let log = Log::of_thread();
    for (fallback, seen, rejections) in [
        (Fallback::Unknown, UNKNOWN, &[("unknown", 2)][..]),
        // Such as a health check of the peer.
        (Fallback::Peer, MAPPED, &[]),
    ] {
        recorded(async |metrics| {
            let server = served(&["127.0.0.1"], |listener| listener.fallback(fallback));
            assert!(ask(server, &[b"PROXY UNKNOWN\r\n", GET]).await);
            assert!(ask(server, &[V2_UNSPEC, GET]).await);
            check(&metrics, server, &[(seen, 2)], rejections);
        });
    }
    assert_eq!(log.count("`Fallback::Peer`"), 1, "{log:?}");
}

#[test]
fn a_probe_that_only_connects_is_no_rejection() {
    let log = Log::of_thread();
    for with in [|listener: Listener| listener, Listener::optional] {
        recorded(async |metrics| {
            let server = served(&["127.0.0.1"], with);
            let mut stream = connect(server).await;
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            // Reset, as HAProxy does.
            let stream = connect(server).await;
            stream.set_zero_linger().unwrap();
            drop(stream);
            assert!(ask(server, &[V2_LOCAL, GET]).await);
            check(&metrics, server, &[(MAPPED, 1)], &[]);
        });
    }
    assert_eq!(log.count("rejection"), 0, "{log:?}");
}

/// The first of the two counts. To HTTP, the second is a bad request.
#[test]
fn a_second_header_is_noticed() {
    recorded(async |metrics| {
        let server = served(&["127.0.0.1"], |listener| listener);
        assert!(!ask(server, &[&[V2, V1, GET].concat()]).await);
        assert!(!ask(server, &[V1, V2, GET]).await);
        assert!(!ask(server, &[V2_LOCAL, &V1[..3], &V1[3..], GET]).await);
        assert!(ask(server, &[V1, GET]).await);
        check(&metrics, server, &[(INET6, 1)], &[("contradictory", 3)]);
    });
}

#[test]
fn a_peer_that_is_not_trusted_is_not_listened_to() {
    recorded(async |metrics| {
        let server = served(&["192.0.2.0/24", "::1"], |listener| listener);
        assert!(ask(server, &[GET]).await);
        // To HTTP, a header is a bad request.
        assert!(!ask(server, &[V1, GET]).await);
        assert!(!ask(server, &[V2, GET]).await);
        check(&metrics, server, &[(MAPPED, 1)], &[("untrusted", 2)]);
    });
}

/// All of its bytes are passed on. A header is counted once for each connection, also in pieces.
#[test]
fn a_peer_that_is_not_trusted_is_its_own_client_and_a_header_of_it_is_noticed() {
    let log = Log::of_thread();
    recorded(async |metrics| {
        let (listener, address, _) = dual_stack();
        let mut listener = trusting(&["192.0.2.0/24"]).proxy_protocol(listener);
        let nearly = [&V2[..11], b"x"].concat();
        for (bytes, counted) in [
            (&b""[..], 0),
            (b"PRO", 0),
            (b"PROXY", 0),
            (b"PROXYING / HTTP/1.1\r\n", 0),
            (GET, 0),
            (&V2[..11], 0),
            (&nearly, 0),
            (b"PROXY ", 1),
            (V1, 2),
            (&[V1, V1].concat(), 3),
            (V2, 4),
            (V2_LOCAL, 5),
        ] {
            let mut client = connect(address).await;
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let (mut stream, info) = listener.accept().await.unwrap();
            let peer = SocketAddr::new(
                "::ffff:127.0.0.1".parse().unwrap(),
                client.local_addr().unwrap().port(),
            );
            assert_eq!(info, ClientConnectInfo::direct(Some(peer)));
            let mut received = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                received.push(byte);
            }
            assert_eq!(received, bytes);
            let expected = (counted > 0).then(|| rejected("proxy-protocol", "untrusted", counted));
            metrics.assert(expected);
        }
    });
    let lines = log.lines();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains("rejection")).collect();
    assert_eq!(
        lines,
        [
            "WARN dualstack_metrics::proxy::rejection: the address of a client was not used: the peer sent a PROXY \
             protocol header, but is not a trusted proxy; if it is your proxy, add its address to `TrustedProxies` \
             source=proxy-protocol reason=untrusted peer=127.0.0.1 unlogged=0"
        ]
    );
}

/// A loop that reads in the scope of the client counts with the same labels.
#[test]
fn a_rejection_is_counted_outside_every_scope() {
    recorded(async |metrics| {
        let (listener, address, binding) = dual_stack();
        let scopes = ClientScopes::new(binding);
        let mut listener = TrustedProxies::default().proxy_protocol(listener);
        let mut client = connect(address).await;
        client.write_all(V1).await.unwrap();
        let (mut stream, info) = listener.accept().await.unwrap();
        let read = async {
            metrics::counter!("reads_total").increment(1);
            let mut start = [0; 6];
            stream.read_exact(&mut start).await.unwrap();
            start
        };
        let start = read.with_scope(scopes.for_client(info.client_addr())).await;
        assert_eq!(&start, b"PROXY ");
        let labels = seven("http", address, MAPPED);
        metrics.assert([
            rejected("proxy-protocol", "untrusted", 1),
            sample("reads_total", &labels, 1),
        ]);
    });
}

#[test]
fn a_trusted_peer_must_send_a_header() {
    let long = [b"PROXY ", &[b'x'; 200][..]].concat();
    recorded(async |metrics| {
        let server = served(&["127.0.0.1"], |listener| listener);
        assert!(!ask(server, &[GET]).await);
        assert!(!ask(server, &[b"PROXY TCP4 a b c d\r\n", GET]).await);
        assert!(!ask(server, &[&long, GET]).await);
        let mut stream = connect(server).await;
        stream.write_all(b"PROXY").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        check(
            &metrics,
            server,
            &[],
            &[("missing", 1), ("malformed", 1), ("oversized", 1), ("closed", 1)],
        );
    });
}

#[test]
fn a_header_can_be_optional() {
    for (fallback, seen) in [(Fallback::Unknown, UNKNOWN), (Fallback::Peer, MAPPED)] {
        recorded(async |metrics| {
            let server = served(&["127.0.0.1"], |listener| listener.fallback(fallback).optional());
            assert!(ask(server, &[GET]).await);
            assert!(ask(server, &[&GET[..2], &GET[2..]]).await);
            assert!(ask(server, &[V1, GET]).await);
            assert!(!ask(server, &[b"PROXY TCP4 a b c d\r\n", GET]).await);
            check(
                &metrics,
                server,
                &[(seen, 2), (INET6, 1)],
                &[("missing", 2), ("malformed", 1)],
            );
        });
    }
}

#[test]
fn a_slow_header_delays_nobody_and_times_out() {
    recorded(async |metrics| {
        let server = served(&["127.0.0.1"], |listener| {
            listener.header_timeout(Duration::from_millis(500)).max_pending(3)
        });
        let mut slow = [connect(server).await, connect(server).await];
        slow[1].write_all(&V2[..20]).await.unwrap();
        for _ in 0..5 {
            assert!(ask(server, &[V1, GET]).await);
        }
        for stream in &mut slow {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
        check(&metrics, server, &[(INET6, 5)], &[("timed_out", 2)]);
    });
}

#[test]
fn when_too_many_headers_are_awaited_the_next_connection_waits() {
    recorded(async |metrics| {
        let server = served(&["127.0.0.1"], |listener| {
            listener.header_timeout(Duration::from_millis(500)).max_pending(0)
        });
        let slow = connect(server).await;
        assert!(ask(server, &[V1, GET]).await);
        check(&metrics, server, &[(INET6, 1)], &[("timed_out", 1)]);
        drop(slow);
    });
}

#[test]
fn a_plain_loop_gets_the_addresses_and_all_bytes() {
    recorded(async |_| {
        let (listener, address, _) = dual_stack();
        let mut listener = trusting(&["127.0.0.1"]).proxy_protocol(listener);
        let mut client = connect(address).await;
        let peer = client.local_addr().unwrap();
        let payload: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let send = async {
            client.write_all(V1).await.unwrap();
            client.write_all(&payload).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let receive = async {
            let (mut stream, info) = listener.accept().await.unwrap();
            assert_eq!(info.client_addr(), Some("[2001:db8::7]:50000".parse().unwrap()));
            let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), peer.port());
            assert_eq!(info.peer_addr(), Some(mapped));
            assert_eq!(info, ClientConnectInfo::new(info.client_addr(), Some(mapped)));
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert!(received == payload);
            stream.write_all(b"done").await.unwrap();
            let (mut socket, early) = stream.into_parts();
            assert!(early.is_empty());
            socket.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(send, receive);
        assert_eq!(answer, b"done");

        let mut client = connect(address).await;
        client.write_all(&[V2, b"early"].concat()).await.unwrap();
        let (stream, info) = listener.accept().await.unwrap();
        assert_eq!(info.client_addr(), Some("192.0.2.7:50000".parse().unwrap()));
        assert_eq!(stream.into_parts().1, &b"early"[..]);
    });
}

/// An L4 proxy that speaks the PROXY protocol, in front of which is a proxy that adds a header. An unknown client is not
/// that proxy, also not if it has the labels of the peer.
#[test]
fn a_header_can_be_read_from_the_client_of_the_proxy_protocol() {
    for (fallback, unknown) in [(Fallback::Unknown, UNKNOWN), (Fallback::Peer, MAPPED)] {
        recorded(async |metrics| {
            let (listener, server, binding) = dual_stack();
            let proxies = trusting(&["127.0.0.1", "10.0.0.0/8", "unix:"]);
            let layer = ClientLabelsLayer::new(binding).source(proxies.x_forwarded_for());
            serve(proxies.proxy_protocol(listener).fallback(fallback), layer);
            let inside = b"PROXY TCP4 10.0.0.1 10.0.0.2 1 1\r\n";
            let outside = b"PROXY TCP4 192.0.2.7 10.0.0.2 1 1\r\n";
            let request =
                b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::7\r\nConnection: close\r\n\r\n";
            assert!(ask(server, &[inside, request]).await);
            assert!(ask(server, &[outside, request]).await);
            assert!(ask(server, &[b"PROXY UNKNOWN\r\n", request]).await);
            let mut expected = vec![
                requests(server, INET6, 1),
                requests(server, INET, 1),
                requests(server, unknown, 1),
            ];
            expected.push(rejected("x-forwarded-for", "untrusted", 2));
            if fallback == Fallback::Unknown {
                expected.push(rejected("proxy-protocol", "unknown", 1));
            }
            metrics.assert(expected);
        });
    }
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_trusted_if_the_list_says_so() {
    use tokio::net::{UnixListener, UnixStream};

    for (networks, seen, reads) in [(&["unix:"][..], INET6, true), (&["::/0"], UNKNOWN, false)] {
        recorded(async |metrics| {
            let path = format!("dualstack-proxy-{}-{reads}", std::process::id());
            let path = std::env::temp_dir().join(path);
            let listener = trusting(networks).proxy_protocol(UnixListener::bind(&path).unwrap());
            serve(
                listener,
                ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)),
            );
            let mut stream = UnixStream::connect(&path).await.unwrap();
            std::fs::remove_file(&path).unwrap();
            let header = if reads { V1 } else { b"" };
            stream.write_all(&[header, GET].concat()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let expected = sample("requests_total", &on_unix(seen), 1);
            metrics.assert([expected]);
        });
    }
}
