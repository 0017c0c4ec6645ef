//! Clients that a NAT64 translator has given IPv6 addresses, over HTTP and UDP, in a network namespace.

#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, Datagram, Nat64Prefix, Protocol, ServerBinding, SocketOptions,
    UdpServer, prometheus::Install,
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET6, MAPPED, assert_samples, block_on, in_namespace, sample, series, seven};
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

fn server_of(client: IpAddr, port: u16) -> SocketAddr {
    let ip = if client.is_ipv4() {
        client
    } else {
        Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(ip, port)
}

async fn ask_http(client: IpAddr, port: u16) {
    let socket = if client.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.unwrap();
    socket.bind(SocketAddr::new(client, 0)).unwrap();
    let mut stream = socket.connect(server_of(client, port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

async fn ask_udp(client: IpAddr, port: u16) {
    let socket = UdpSocket::bind(SocketAddr::new(client, 0)).await.unwrap();
    socket.send_to(b"ask", server_of(client, port)).await.unwrap();
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b"ask");
}

fn echo(datagram: Datagram) -> Ready<Result<Option<Bytes>, Infallible>> {
    counter!("requests_total").increment(1);
    ready(Ok(Some(datagram.into_payload())))
}

/// What both servers count if they know these prefixes: the HTTP server's address, the UDP server's, and the samples.
async fn counted(prefixes: &[Nat64Prefix]) -> (SocketAddr, SocketAddr, Vec<String>) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let listener = SocketOptions::dual_stack()
        .bind_tcp("[::]:0".parse().unwrap())
        .unwrap();
    let http = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/", get(async || counter!("requests_total").increment(1)))
        .layer(ClientLabelsLayer::from_scopes(scopes(
            Protocol::Http,
            http,
            prefixes,
        )))
        .into_make_service_with_connect_info::<SocketAddr>();
    let app = tokio::spawn(async { axum::serve(listener, app).await });

    let socket = SocketOptions::dual_stack()
        .bind_udp("[::]:0".parse().unwrap())
        .unwrap();
    let server = UdpServer::new(socket).unwrap();
    let udp = server.local_addr();
    let serve = server
        .scopes(scopes(Protocol::Udp, udp, prefixes))
        .serve(service_fn(echo));
    let ask = async {
        for client in CLIENTS.map(|client| client.parse().unwrap()) {
            ask_http(client, http.port()).await;
            ask_udp(client, udp.port()).await;
        }
    };
    tokio::select! {
        () = ask => {}
        ended = serve => panic!("{ended:?}"),
    }
    app.abort();
    let output = recorder.get_ref().handle().render();
    (http, udp, series(&output, "requests_total"))
}

#[test]
fn scopes_with_the_prefix_count_them_as_ipv4_clients() {
    let setup = CLIENTS.map(|client| match client {
        "127.0.0.1" => String::new(),
        _ => format!("ip addr add {client}/128 dev lo nodad\n"),
    });
    in_namespace(&setup.concat(), || {
        block_on(async {
            let prefixes = [Nat64Prefix::WELL_KNOWN, "2001:db8:64::/96".parse().unwrap()];
            for (prefixes, classes) in [
                (
                    &prefixes[..],
                    &[(("inet", "nat64"), 2), (INET6, 1), (MAPPED, 1)][..],
                ),
                (&prefixes[1..], &[(("inet", "nat64"), 1), (INET6, 2), (MAPPED, 1)]),
                (&[], &[(INET6, 3), (MAPPED, 1)]),
            ] {
                let (http, udp, counted) = counted(prefixes).await;
                let expected = [("http", http), ("udp", udp)]
                    .into_iter()
                    .flat_map(|(protocol, server)| {
                        classes.iter().map(move |&(seen, value)| {
                            sample("requests_total", &seven(protocol, server, seen), value)
                        })
                    });
                assert_samples(counted, expected);
            }
        });
    });
}
