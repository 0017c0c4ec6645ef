//! Your own UDP receive loop: each datagram is handled in the scope of its client.
//!
//! ```text
//! cargo run --example udp_loop
//! echo hello | nc -u -w1 127.0.0.1 6969; echo hello | nc -u -w1 ::1 6969
//! ```

use std::{error::Error, net::SocketAddr};

use dualstack_metrics::{ClientScopes, Protocol, ServerBinding, SocketOptions, WithScope};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::UdpSocket;

async fn handle(socket: &UdpSocket, payload: &[u8], peer: SocketAddr) {
    counter!("requests_received_total").increment(1);
    match socket.send_to(payload, peer).await {
        Ok(_) => counter!("responses_sent_total").increment(1),
        Err(_) => counter!("errors_total").increment(1),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    let socket = SocketOptions::dual_stack().bind_udp("[::]:6969".parse()?)?;
    let binding = ServerBinding::new(Protocol::Udp, socket.local_addr()?);
    println!("listening on {binding}");

    let scopes = ClientScopes::new(binding);
    let mut buffer = vec![0; 65_535];
    loop {
        // This error does not belong to a client.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            scopes
                .server()
                .run(|| counter!("socket_errors_total").increment(1));
            continue;
        };
        handle(&socket, &buffer[..length], peer)
            .with_scope(scopes.for_client(peer))
            .await;
        print!("{}", metrics.render());
    }
}
