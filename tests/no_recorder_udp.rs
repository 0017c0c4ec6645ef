//! A UDP server without a recorder logs which line is missing. The warning is for the process, hence a binary of its own.

use std::convert::Infallible;

use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
use test_support::{Log, V4, block_on};
use tokio::net::UdpSocket;
use tower::service_fn;

#[test]
fn the_first_datagram_without_a_recorder_is_logged_once() {
    let log = Log::of_process();
    block_on(async {
        let socket = SocketOptions::dual_stack().bind_udp((V4, 0).into()).unwrap();
        let server = UdpServer::new(socket).unwrap();
        let address = server.local_addr();
        let answer =
            service_fn(async |datagram: Datagram| Ok::<_, Infallible>(Some(datagram.into_payload())));
        let client = async {
            let socket = UdpSocket::bind((V4, 0)).await.unwrap();
            for _ in 0..3 {
                socket.send_to(b"x", address).await.unwrap();
                socket.recv(&mut [0]).await.unwrap();
            }
        };
        tokio::select! {
            result = server.serve(answer) => panic!("the server is done: {result:?}"),
            () = client => {}
        }
    });
    let [line] = &log.lines()[..] else {
        panic!("one warning, not {:#?}", log.lines())
    };
    assert!(
        line.starts_with("WARN ") && line.contains("no scoped recorder"),
        "{line}"
    );
}
