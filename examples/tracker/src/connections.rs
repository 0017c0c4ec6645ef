//! Serves a router over HTTP/1.1. Unlike `axum::serve`, it limits the number of connections and how long each is open,
//! and loses no request at shutdown.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt as _;

/// More than the longest scrape that clients send, and the most memory that the buffer of a connection takes.
const MAX_HEAD: usize = 32 * 1024;
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many connections can be open. Further ones wait in the accept queue of the system.
    connections: usize,
    /// How long a connection can take to send the head of its next request. This is also how long it can be idle.
    head: Duration,
    /// How long a connection can be open. Clients announce every 30 minutes and gain nothing from a longer one.
    lifetime: Duration,
    /// How long a connection that shuts down still reads requests, so that those that have arrived are answered.
    drain: Duration,
    /// How long the rest of a request or of an answer can take after that.
    rest: Duration,
}

impl Limits {
    pub(crate) const fn new(connections: usize) -> Self {
        Self {
            connections,
            head: Duration::from_secs(10),
            lifetime: Duration::from_secs(60),
            drain: Duration::from_millis(100),
            rest: Duration::from_secs(1),
        }
    }
}

/// Serves until `stop` is true, then answers the requests that have arrived, those in the accept queue included.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut warned: Option<Instant> = None;
    let serve = |(stream, client), stop| serve_connection(stream, client, app.clone(), limits, stop);
    loop {
        let is_full = connections.len() >= limits.connections;
        if is_full && warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            let limit = limits.connections;
            tracing::warn!(
                limit,
                "too many HTTP connections: clients wait; --http-connections sets the limit"
            );
        }
        let stopping = stop.clone();
        tokio::select! {
            // An error means that the sender was dropped.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if !is_full => {
                connections.spawn(serve(accepted, stopping));
            }
        }
    }

    // Without tokio, which may not have seen yet that the queue has connections.
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                connections.spawn(serve((TcpStream::from_std(stream)?, client), stop.clone()));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    tracing::warn!(%error, "cannot accept the last HTTP connections");
                }
                break;
            }
        }
    }
    drop(listener);
    let mut unfinished = 0;
    while let Some(ended) = connections.join_next().await {
        unfinished += usize::from(matches!(ended, Ok(Ended::CutOff)));
    }
    if unfinished > 0 {
        tracing::warn!(
            unfinished,
            "connections were still open at the end of the shutdown"
        );
    }
    Ok(())
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Usually there are too many open files. Trying again at once would spin.
                tracing::warn!(%error, "cannot accept HTTP connections");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Whether a connection failed before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

enum Ended {
    /// By the client, by a timeout of its next request, or after its last answer.
    Complete,
    /// In the middle of a request or of an answer.
    CutOff,
}

async fn serve_connection(
    stream: TcpStream,
    client: SocketAddr,
    app: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        app.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let shutdown = async {
        let _ = timeout(limits.lifetime, stop.wait_for(|stop| *stop)).await;
        sleep(limits.drain).await;
    };
    tokio::select! {
        biased;
        // The errors are the client's: broken requests, resets and timeouts.
        _ = connection.as_mut() => return Ended::Complete,
        () = shutdown => connection.as_mut().graceful_shutdown(),
    }
    match timeout(limits.rest, connection).await {
        Ok(_) => Ended::Complete,
        Err(_) => Ended::CutOff,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinHandle,
    };

    use super::*;

    const LIMITS: Limits = Limits::new(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n";

    struct Running {
        address: SocketAddr,
        stop: watch::Sender<bool>,
        serve: JoinHandle<io::Result<()>>,
    }

    async fn start() -> Running {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", get(async || "found"));
        let (stop, stopped) = watch::channel(false);
        let serve = tokio::spawn(serve(listener, app, LIMITS, stopped));
        Running { address, stop, serve }
    }

    async fn connect(server: &Running, sends: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sends).await.unwrap();
        stream
    }

    async fn read_answer(stream: &mut TcpStream) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"found") {
            answer.push(stream.read_u8().await.unwrap());
        }
    }

    // The clock is paused in these tests: it only advances while everything waits for it.

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_closed() {
        let server = start().await;
        for sends in [&b""[..], b"GET / HTTP/1.1\r\nHost:", REQUEST] {
            let start = Instant::now();
            let mut stream = connect(&server, sends).await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.ends_with(b"found"), sends == REQUEST);
            assert_eq!(start.elapsed().as_secs(), LIMITS.head.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_is_closed_after_its_lifetime() {
        let server = start().await;
        let start = Instant::now();
        let mut stream = connect(&server, b"").await;
        while start.elapsed() < LIMITS.lifetime {
            stream.write_all(REQUEST).await.unwrap();
            read_answer(&mut stream).await;
            sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(start.elapsed().as_secs(), LIMITS.lifetime.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_delays_the_shutdown_by_the_rest_only() {
        let server = start().await;
        let _half = connect(&server, &REQUEST[..10]).await;
        // The server has read it when it has answered another client.
        read_answer(&mut connect(&server, REQUEST).await).await;
        let start = Instant::now();
        server.stop.send_replace(true);
        server.serve.await.unwrap().unwrap();
        let delay = (LIMITS.drain + LIMITS.rest).as_millis();
        assert!((delay..delay + 10).contains(&start.elapsed().as_millis()));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_delay_the_shutdown_by_the_drain_only() {
        let server = start().await;
        let mut idle = connect(&server, REQUEST).await;
        read_answer(&mut idle).await;
        let start = Instant::now();
        server.stop.send_replace(true);
        server.serve.await.unwrap().unwrap();
        let delay = LIMITS.drain.as_millis();
        assert!((delay..delay + 10).contains(&start.elapsed().as_millis()));
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    }
}
