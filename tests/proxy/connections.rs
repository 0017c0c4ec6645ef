//! Many requests on one connection from a proxy, each of another client.

use std::net::SocketAddr;

use axum::body::Body;
use dualstack_metrics::ClientLabelsLayer;
use futures_util::future::join_all;
use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use test_support::{INET, INET6, MAPPED, UNKNOWN, dual_stack, recorded, rejected, requests, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::trusting;

const HOPS: [Option<&str>; 4] = [
    Some("192.0.2.7"),
    Some("2001:db8::7"),
    None,
    Some("::ffff:192.0.2.7"),
];
const ROUNDS: u64 = 20;

fn server() -> SocketAddr {
    let (listener, address, binding) = dual_stack();
    let source = trusting(&["127.0.0.1"]).x_forwarded_for();
    serve(listener, ClientLabelsLayer::new(binding).source(source));
    SocketAddr::new([127, 0, 0, 1].into(), address.port())
}

fn expected(server: SocketAddr) -> Vec<String> {
    let binding = SocketAddr::new("::".parse().unwrap(), server.port());
    let seen = [INET, INET6, UNKNOWN, MAPPED].map(|seen| requests(binding, seen, ROUNDS));
    let mut expected = seen.to_vec();
    expected.push(rejected("x-forwarded-for", "missing", ROUNDS));
    expected
}

#[test]
fn with_keep_alive_all_sent_at_once() {
    recorded(async |metrics| {
        let server = server();
        let mut stream = TcpStream::connect(server).await.unwrap();
        for _ in 0..ROUNDS {
            for hop in HOPS {
                let header = hop.map(|hop| format!("X-Forwarded-For: {hop}\r\n"));
                let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", header.unwrap_or_default());
                stream.write_all(request.as_bytes()).await.unwrap();
            }
        }
        stream.shutdown().await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        let count = answers.matches("HTTP/1.1 200").count();
        assert_eq!(u64::try_from(count).unwrap(), ROUNDS * HOPS.len() as u64);
        metrics.assert(expected(server));
    });
}

#[test]
fn with_http2_all_at_the_same_time() {
    recorded(async |metrics| {
        let server = server();
        let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let answers = (0..ROUNDS).flat_map(|_| HOPS).map(|hop| {
            let mut request = Request::get(format!("http://{server}/"));
            if let Some(hop) = hop {
                request = request.header("x-forwarded-for", hop);
            }
            sender.clone().send_request(request.body(Body::empty()).unwrap())
        });
        for answer in join_all(answers).await {
            assert_eq!(answer.unwrap().status(), 200);
        }
        metrics.assert(expected(server));
    });
}
