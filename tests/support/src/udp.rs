//! A UDP server and its clients.

use std::{
    convert::Infallible,
    fmt::Display,
    future::{Ready, pending, ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
};

use bytes::Bytes;
use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
use metrics::counter;
use tokio::{
    net::UdpSocket,
    sync::{Notify, oneshot},
    task::{JoinHandle, spawn_local},
    time::timeout,
};
use tower::{Service, service_fn};

use crate::{Labels, PATIENCE, V4, seen, seven};

pub fn bind(address: &str) -> UdpSocket {
    SocketOptions::dual_stack()
        .bind_udp(address.parse().unwrap())
        .unwrap()
}

/// A server whose metrics begin with `s_`.
pub fn server(address: &str) -> UdpServer {
    UdpServer::new(bind(address)).unwrap().metrics_prefix("s")
}

/// Answers each datagram with its payload.
pub fn echo(datagram: Datagram) -> Ready<Result<Option<Bytes>, Infallible>> {
    ready(Ok(Some(datagram.into_payload())))
}

/// Like [`echo`], but a payload that begins with `slow` is counted and answered when the gate opens.
pub fn gated() -> (
    Rc<Notify>,
    impl Service<Datagram, Response = Option<Bytes>, Error = Infallible, Future: 'static> + 'static,
) {
    let gate = Rc::new(Notify::new());
    let opens = Rc::clone(&gate);
    let service = service_fn(move |datagram: Datagram| {
        let opens = Rc::clone(&opens);
        async move {
            if datagram.payload().starts_with(b"slow") {
                opens.notified().await;
                counter!("slow_total").increment(1);
            }
            Ok(Some(datagram.into_payload()))
        }
    });
    (gate, service)
}

/// A server that runs on this thread, also if this is dropped.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<io::Result<()>>,
}

impl Running {
    pub fn start<S>(server: UdpServer, service: S) -> Self
    where
        S: Service<Datagram, Response = Option<Bytes>> + 'static,
        S::Error: Display,
    {
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let task = spawn_local(server.serve(service).with_graceful_shutdown(async {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        }));
        Self { address, stop, task }
    }

    /// The labels of a client of this host.
    pub fn labels(&self, client: IpAddr) -> Labels {
        seven("udp", self.address, seen(client, self.address))
    }

    /// A client that asks this server at `ip`.
    pub async fn client(&self, ip: IpAddr) -> Client {
        Client::new(ip, self.address.port()).await
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        let end = timeout(PATIENCE, self.task).await;
        end.expect("the server stops").unwrap().unwrap();
    }
}

/// A server, an IPv4 client, and the client's labels.
pub async fn pair<S>(server: UdpServer, service: S) -> (Running, Client, Labels)
where
    S: Service<Datagram, Response = Option<Bytes>> + 'static,
    S::Error: Display,
{
    let running = Running::start(server, service);
    let (client, labels) = (running.client(V4).await, running.labels(V4));
    (running, client, labels)
}

/// The length of a datagram, and where it is from.
pub async fn receive_from(socket: &UdpSocket) -> (usize, SocketAddr) {
    let mut buffer = [0; 16];
    let received = timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
    received.expect("a datagram").unwrap()
}

/// A client, which receives answers only from the address that it asks.
#[derive(Debug)]
pub struct Client(pub UdpSocket);

impl Client {
    pub async fn new(ip: IpAddr, port: u16) -> Self {
        let any: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await.unwrap();
        socket.connect((ip, port)).await.unwrap();
        Self(socket)
    }

    pub async fn send(&self, payload: &[u8]) {
        self.0.send(payload).await.unwrap();
    }

    pub async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let received = timeout(PATIENCE, self.0.recv(&mut buffer)).await;
        buffer.truncate(received.expect("an answer").unwrap());
        buffer
    }

    pub async fn ask(&self, payload: &[u8]) -> Vec<u8> {
        self.send(payload).await;
        self.receive().await
    }
}
