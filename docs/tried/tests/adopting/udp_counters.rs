use std::{convert::Infallible, io};

use bytes::Bytes;
use dualstack_metrics::{Datagram, SocketOptions, UdpServer, udp_adapter::Outcome};
use metrics::counter;
use test_support::{each, recorded, seven, udp::Running};
use tokio::net::UdpSocket;
use tower::service_fn;

use super::clients;

fn answer(payload: &[u8]) -> Option<Bytes> {
    (payload == b"ask").then(|| Bytes::from_static(b"answer"))
}

async fn handle(datagram: Datagram) -> Result<Option<Bytes>, Infallible> {
    counter!("tracker_requests_received_total").increment(1);
    Ok(answer(datagram.payload()))
}

fn server(socket: UdpSocket) -> io::Result<UdpServer> {
    let server = UdpServer::new(socket)?.without_counters();
    Ok(server.on_outcome(|outcome, datagrams| match outcome {
        Outcome::Answered => counter!("tracker_responses_sent_total").increment(datagrams),
        Outcome::SendFailed { .. } | Outcome::SendBlocked => {
            counter!("tracker_send_errors_total").increment(datagrams);
        }
        _ => {}
    }))
}

#[test]
fn each_datagram_of_a_migrated_loop_is_counted_once() {
    recorded(async |metrics| {
        let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap());
        let running = Running::start(server(socket.unwrap()).unwrap(), service_fn(handle));
        let address = running.address;
        for (to, _) in clients(address) {
            let client = running.client(to.ip()).await;
            client.send(b"nonsense").await;
            for _ in 0..2 {
                assert_eq!(client.ask(b"ask").await, b"answer");
            }
        }
        running.stop().await;
        metrics.assert(clients(address).flat_map(|(_, seen)| {
            let counted = [
                ("tracker_requests_received_total", 3),
                ("tracker_responses_sent_total", 2),
            ];
            each(&seven("udp", address, seen), counted)
        }));
    });
}
