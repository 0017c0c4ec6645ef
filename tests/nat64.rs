//! Clients that a NAT64 translator has given IPv6 addresses, over HTTP and UDP, in a network namespace.

#![cfg(target_os = "linux")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use dualstack_metrics::{ClientLabelsLayer, ClientScopes, Datagram, Nat64Prefix, Protocol, ServerBinding};
use metrics::counter;
use test_support::{
    INET6, MAPPED, Metrics, assert_samples, dual_stack, in_namespace, recorded, sample, serve, seven,
    udp::{self, Running},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, UdpSocket},
};
use tower::service_fn;

/// An address with the well-known prefix, one with the operator's, and two that are not translated.
const CLIENTS: [&str; 4] = [
    "64:ff9b::192.0.2.7",
    "2001:db8:64::192.0.2.7",
    "2001:db8::7",
    "127.0.0.1",
];

fn scopes(protocol: Protocol, address: SocketAddr, prefixes: &[Nat64Prefix]) -> ClientScopes {
    let builder = ClientScopes::builder().binding(ServerBinding::new(protocol, address));
    let builder = prefixes
        .iter()
        .fold(builder, |builder, &prefix| builder.nat64(prefix));
    builder.build().unwrap()
}

async fn ask_http(client: IpAddr, server: SocketAddr) {
    let socket = match client {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.unwrap();
    socket.bind(SocketAddr::new(client, 0)).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

async fn ask_udp(client: IpAddr, server: SocketAddr) {
    let socket = UdpSocket::bind(SocketAddr::new(client, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    assert_eq!(udp::Client(socket).ask(b"ask").await, b"ask");
}

/// The HTTP server's address, and the UDP server's, after each client has asked both.
async fn ask_all(prefixes: &[Nat64Prefix]) -> [SocketAddr; 2] {
    let (listener, http, _) = dual_stack();
    let layer = ClientLabelsLayer::from_scopes(scopes(Protocol::Http, http, prefixes));
    serve(listener, layer);
    let server = udp::server("[::]:0");
    let scopes = scopes(Protocol::Udp, server.local_addr(), prefixes);
    let service = service_fn(|datagram: Datagram| {
        counter!("requests_total").increment(1);
        udp::echo(datagram)
    });
    let running = Running::start(server.scopes(scopes), service);
    let udp = running.address;
    for client in CLIENTS.map(|client| client.parse::<IpAddr>().unwrap()) {
        let ip = if client.is_ipv4() {
            client
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        ask_http(client, SocketAddr::new(ip, http.port())).await;
        ask_udp(client, SocketAddr::new(ip, udp.port())).await;
    }
    running.stop().await;
    [http, udp]
}

#[test]
fn scopes_with_the_prefix_count_them_as_ipv4_clients() {
    let setup = CLIENTS.map(|client| match client {
        "127.0.0.1" => String::new(),
        _ => format!("ip addr add {client}/128 dev lo nodad\n"),
    });
    in_namespace(&setup.concat(), || {
        let prefixes = [Nat64Prefix::WELL_KNOWN, "2001:db8:64::/96".parse().unwrap()];
        for (prefixes, classes) in [
            (
                &prefixes[..],
                &[(("inet", "nat64"), 2), (INET6, 1), (MAPPED, 1)][..],
            ),
            (&prefixes[1..], &[(("inet", "nat64"), 1), (INET6, 2), (MAPPED, 1)]),
            (&[], &[(INET6, 3), (MAPPED, 1)]),
        ] {
            recorded(async |metrics: Metrics| {
                let [http, udp] = ask_all(prefixes).await;
                let expected = [("http", http), ("udp", udp)]
                    .into_iter()
                    .flat_map(|(protocol, server)| {
                        let of = move |&(seen, value)| {
                            sample("requests_total", &seven(protocol, server, seen), value)
                        };
                        classes.iter().map(of)
                    });
                assert_samples(metrics.series("requests_total"), expected);
            });
        }
    });
}
