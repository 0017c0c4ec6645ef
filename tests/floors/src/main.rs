//! A program whose lock file holds the oldest version of each of the library's dependencies. It serves one HTTP
//! request with each version of axum and one datagram, and checks the counts.

use std::{
    convert::Infallible,
    error::Error,
    future::{Ready, ready},
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientLabelsLayer, Datagram, Protocol, ServerBinding, SocketOptions, UdpServer,
    prometheus::{PrometheusBuilder, install},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

struct Echo;

impl tower_service::Service<Datagram> for Echo {
    type Response = Option<Bytes>;
    type Error = Infallible;
    type Future = Ready<Result<Option<Bytes>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, datagram: Datagram) -> Self::Future {
        metrics::counter!("datagrams_total").increment(1);
        ready(Ok(Some(datagram.into_payload())))
    }
}

async fn count() {
    metrics::counter!("requests_total").increment(1);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = install(PrometheusBuilder::new())?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;

    let socket = SocketOptions::dual_stack().bind_udp(any)?;
    let udp = socket.local_addr()?;
    let mut listeners = Vec::new();
    for _ in 0..2 {
        let listener = SocketOptions::dual_stack().bind_tcp(any)?;
        let address = listener.local_addr()?;
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, address));
        listeners.push((listener, address, layer));
    }
    let [(listener07, http07, layer07), (listener08, http08, layer08)] =
        listeners.try_into().map_err(|_| "two")?;
    let app07 = axum07::Router::new()
        .route("/", axum07::routing::get(count))
        .layer(layer07);
    let app08 = axum::Router::new()
        .route("/", axum::routing::get(count))
        .layer(layer08);

    let client = async {
        let socket = UdpSocket::bind(any).await?;
        socket.send_to(b"ping", udp).await?;
        let mut answer = [0; 8];
        let (length, from) = socket.recv_from(&mut answer).await?;
        assert_eq!((&answer[..length], from), (&b"ping"[..], udp));

        for http in [http07, http08] {
            let mut stream = TcpStream::connect(http).await?;
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let server07 = axum07::serve(
        listener07,
        app07.into_make_service_with_connect_info::<SocketAddr>(),
    );
    let server08 = axum::serve(
        listener08,
        app08.into_make_service_with_connect_info::<SocketAddr>(),
    );
    tokio::select! {
        result = client => result?,
        result = UdpServer::new(socket)?.serve(Echo) => result?,
        result = async { server07.await } => result?,
        result = async { server08.await } => result?,
    }

    // The oldest `futures-timer` cannot add the longest time to an instant.
    UdpServer::new(SocketOptions::dual_stack().bind_udp(any)?)?
        .shutdown_timeout(Duration::MAX)
        .serve(Echo)
        .with_graceful_shutdown(ready(()))
        .await?;

    let output = metrics.render();
    for (name, protocol, binding) in [
        ("datagrams_total", "udp", udp),
        ("requests_total", "http", http07),
        ("requests_total", "http", http08),
    ] {
        let sample = format!(
            "{name}{{client_address_ip_family=\"inet\",client_address_ip_type=\"plain\",\
             server_binding_address_ip_family=\"inet\",server_binding_address_ip_type=\"plain\",\
             server_binding_ip=\"127.0.0.1\",server_binding_port=\"{}\",server_binding_protocol=\"{protocol}\"}} 1",
            binding.port()
        );
        assert!(
            output.lines().any(|line| line == sample),
            "no {sample} in\n{output}"
        );
    }
    println!("two requests and one datagram were counted");
    Ok(())
}
