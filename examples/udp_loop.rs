//! Your own UDP receive loop: each datagram is handled in the scope of its client, and those that were received together
//! are answered together, each from the address that its client asked.
//!
//! ```text
//! cargo run --example udp_loop
//! echo hello | nc -u -w1 127.0.0.1 6969; echo hello | nc -u -w1 ::1 6969
//! ```

use std::{error::Error, io};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, DatagramSocket, Protocol, ServerBinding, SocketOptions,
    udp_adapter::{Batch, Replies},
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;

pub(crate) fn handle(datagram: &Datagram) -> Option<Bytes> {
    counter!("requests_received_total").increment(1);
    // It is shorter than the question, so two servers never answer each other without end.
    (datagram.payload().len() > 2).then_some(Bytes::from_static(b"ok"))
}

fn count(result: &io::Result<()>) {
    match result {
        Ok(()) => counter!("responses_sent_total").increment(1),
        Err(_) => counter!("errors_total").increment(1),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    let socket = SocketOptions::dual_stack().bind_udp("[::]:6969".parse()?)?;
    let socket = DatagramSocket::new(socket)?;
    let binding = ServerBinding::new(Protocol::Udp, socket.local_addr());
    println!("listening on {binding}");

    let scopes = ClientScopes::new(binding);
    let (mut batch, mut replies) = (Batch::new(), Replies::new());
    loop {
        // This error does not belong to a client.
        let Ok(datagram) = socket.recv(&mut batch).await else {
            scopes
                .server()
                .run(|| counter!("socket_errors_total").increment(1));
            continue;
        };
        if let Some(answer) = scopes.for_client(&datagram).run(|| handle(&datagram)) {
            replies.push(datagram, answer);
        }
        if batch.is_empty() {
            let outcome = |datagram: &_, result| scopes.for_client(datagram).run(|| count(&result));
            socket.reply_all(&mut replies, outcome).await?;
            print!("{}", metrics.render());
        }
    }
}
