//! A load balancer for DNS that speaks the PROXY protocol over UDP.

use std::{convert::Infallible, future::ready};

use bytes::Bytes;
use dualstack_metrics::{Datagram, UdpServer};
use metrics::counter;
use test_support::{
    V4, V6, each, seven,
    udp::{Client, Running, bind},
};
use tokio::net::UdpSocket;
use tower::service_fn;

use crate::*;

/// A question for `a.` of type A.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

fn dnsdist(port: u16, server: SocketAddr, up: &str) -> Option<Proxy> {
    let folder = Folder::new();
    let config = folder.write(
        "dnsdist.conf",
        &format!(
            "setSecurityPollSuffix('')\n\
             setLocal('0.0.0.0:{port}')\naddLocal('[::]:{port}')\n\
             setACL({{'0.0.0.0/0', '::/0'}})\n\
             server = newServer({{address='127.0.0.1:{}', useProxyProtocol=true, checkInterval=3600}})\n{up}\n",
            server.port()
        ),
    );
    let mut command = Command::new("dnsdist");
    command
        .args(["--supervised", "--disable-syslog", "-C"])
        .arg(config);
    // It opens its sockets for TCP after those for UDP.
    start(&mut command, folder, &[port])
}

/// Answers each question with itself, until the runtime is dropped.
fn answers() -> SocketAddr {
    let server = UdpServer::new(bind("[::]:0")).unwrap();
    let service = service_fn(|datagram: Datagram| {
        counter!("requests_total").increment(1);
        let mut answer = datagram.payload().to_vec();
        // Now it is an answer.
        answer[2] |= 0x80;
        ready(Ok::<_, Infallible>(Some(Bytes::from(answer))))
    });
    Running::start(server.source(proxies().proxy_protocol_datagrams()), service).address
}

async fn ask(client: &str, port: u16) {
    let client: IpAddr = client.parse().unwrap();
    let socket = UdpSocket::bind((client, 0)).await.unwrap();
    let server = if client.is_ipv4() { V4 } else { V6 };
    socket.connect((server, port)).await.unwrap();
    let answer = Client(socket).ask(QUESTION).await;
    assert_eq!((answer[2] & 0x80, &answer[12..]), (0x80, &QUESTION[12..]));
}

fn counted(server: SocketAddr, seen: &[(Seen, u64)]) -> Vec<String> {
    let of = |&(seen, value): &(Seen, u64)| {
        let names = [
            "requests_total",
            "udp_server_requests_received_total",
            "udp_server_responses_sent_total",
        ];
        each(&seven("udp", server, seen), names.map(|name| (name, value)))
    };
    seen.iter().flat_map(of).collect()
}

#[test]
fn each_datagram_has_the_class_of_its_client() {
    with_clients(async |metrics| {
        let port = free_port();
        let server = answers();
        let Some(_dnsdist) = dnsdist(port, server, "server:setUp()") else {
            return;
        };
        for client in CLIENTS {
            ask(client, port).await;
            ask(client, port).await;
        }
        metrics.assert(counted(server, &[(INET, 2), (INET6, 2)]));
        // Past the load balancer, a client is itself the peer.
        ask("192.0.2.7", server.port()).await;
        let seen = [(INET, 2), (INET6, 2), (MAPPED, 1)];
        metrics.assert(counted(server, &seen));
    });
}

#[test]
fn its_health_checks_are_its_own() {
    with_clients(async |metrics| {
        let port = free_port();
        let server = answers();
        let Some(_dnsdist) = dnsdist(port, server, "") else {
            return;
        };
        soon("the check has been counted", || {
            metrics.total("udp_server_responses_sent_total") > 0
        })
        .await;
        metrics.assert(counted(server, &[(MAPPED, 1)]));
    });
}
