//! The servers that are compared, and the load, which another process sends.

use std::{
    convert::Infallible,
    future::Future,
    io::IoSliceMut,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
use futures_util::{SinkExt as _, StreamExt as _};
use metrics::{Recorder, counter};
use nix::{
    sys::socket::{setsockopt, sockopt},
    time::{ClockId, clock_gettime},
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, sync::oneshot};
use tokio_util::{codec::BytesCodec, udp::UdpFramed};
use tower::service_fn;

/// The size of a datagram: that of a BitTorrent announce.
const SIZE: usize = 98;
/// The load, as the arguments of the other process.
pub(crate) struct Load {
    server: SocketAddr,
    /// How many datagrams are sent before the answers are awaited.
    window: u32,
    datagrams: u32,
}

impl Load {
    pub(crate) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [flag, server, window, datagrams] = arguments else {
            return None;
        };
        (flag == "--load").then(|| Self {
            server: server.parse().expect("an address"),
            window: window.parse().expect("a number"),
            datagrams: datagrams.parse().expect("a number"),
        })
    }

    pub(crate) fn run(&self) {
        let any = if self.server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
        socket.connect(self.server).expect("a server");
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        let mut buffer = [0; SIZE];
        for _ in 0..self.datagrams / self.window {
            for _ in 0..self.window {
                socket.send(&[7; SIZE]).expect("a datagram");
            }
            for _ in 0..self.window {
                // A lost datagram is waited for once.
                if socket.recv(&mut buffer).is_err() {
                    break;
                }
            }
        }
    }
}

fn thread_cpu() -> f64 {
    let time =
        Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock of a thread"));
    time.as_secs_f64() * 1e9
}

/// Runs a server on its own thread until it is stopped.
pub(crate) type Serve =
    fn(tokio::net::UdpSocket, oneshot::Receiver<()>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Nanoseconds of CPU time that the thread of a server takes for each datagram.
pub(crate) fn cpu_per_datagram(
    recorder: &(impl Recorder + Sync),
    serve: Serve,
    client: &str,
    window: u32,
    datagrams: u32,
) -> f64 {
    let (bind, to) = match client {
        "IPv4" => ("0.0.0.0:0", "127.0.0.1"),
        "mapped" => ("[::]:0", "127.0.0.1"),
        _ => ("[::]:0", "::1"),
    };
    let (address, bound) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    thread::scope(|threads| {
        let server = threads.spawn(move || {
            let _recorder = metrics::set_default_local_recorder(recorder);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let socket = SocketOptions::dual_stack()
                    .bind_udp(bind.parse().expect("an address"))
                    .expect("a socket");
                address
                    .send(socket.local_addr().expect("an address"))
                    .expect("somebody waits");
                let start = thread_cpu();
                serve(socket, stopped).await;
                (thread_cpu() - start) / f64::from(datagrams)
            })
        });
        let port = bound.recv().expect("an address").port();
        let server_address = SocketAddr::new(to.parse().expect("an address"), port);
        let load = Command::new(std::env::current_exe().expect("this program has a path"))
            .args([
                "--load",
                &server_address.to_string(),
                &window.to_string(),
                &datagrams.to_string(),
            ])
            .stdout(Stdio::null())
            .status();
        assert!(load.expect("the load runs").success());
        stop.send(()).expect("the server still runs");
        server.join().expect("the server does not panic")
    })
}

fn handled(payload: Bytes) -> Bytes {
    counter!("handled_total").increment(1);
    payload
}

fn ours(
    socket: tokio::net::UdpSocket,
    stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let service = service_fn(|datagram: Datagram| {
        std::future::ready(Ok::<_, Infallible>(Some(handled(datagram.into_payload()))))
    });
    Box::pin(async move {
        let server = UdpServer::new(socket)
            .expect("a server")
            .metrics_prefix("s")
            .serve(service);
        server
            .with_graceful_shutdown(async { _ = stopped.await })
            .await
            .expect("no error");
    })
}

/// The system calls of `UdpServer`, by hand, with a counter where it has one.
fn by_quinn_udp(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let local = socket.local_addr().expect("an address");
        let other = UdpSocket::bind(SocketAddr::new(local.ip(), 0)).expect("a socket");
        let state = UdpSocketState::new((&other).into()).expect("a socket");
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).expect("an option");
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).expect("an option");
        }
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut buffer = vec![0; BATCH_SIZE * 65_535];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
            tokio::select! {
                biased;
                ready = socket.readable() => ready.expect("a socket"),
                _ = &mut stopped => return,
            }
            let batch = socket.try_io(Interest::READABLE, || {
                let mut buffers = buffer.chunks_exact_mut(65_535);
                let mut slices: [_; BATCH_SIZE] =
                    std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
                state.recv((&socket).into(), &mut slices, &mut metas)
            });
            let Ok(batch) = batch else { continue };
            for (at, meta) in metas[..batch].iter().enumerate() {
                received.increment(1);
                let payload = Bytes::copy_from_slice(&buffer[at * 65_535..][..meta.len]);
                let answer = handled(payload);
                let transmit = Transmit {
                    destination: meta.addr,
                    ecn: None,
                    contents: &answer,
                    segment_size: None,
                    src_ip: meta.dst_ip,
                };
                let result =
                    socket.try_io(Interest::WRITABLE, || state.try_send((&socket).into(), &transmit));
                if result.is_ok() {
                    sent.increment(1);
                }
            }
        }
    })
}

fn by_recv_from(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, peer) = tokio::select! {
                biased;
                result = socket.recv_from(&mut buffer) => result.expect("a datagram"),
                _ = &mut stopped => return,
            };
            received.increment(1);
            let answer = handled(Bytes::copy_from_slice(&buffer[..length]));
            if socket.send_to(&answer, peer).await.is_ok() {
                sent.increment(1);
            }
        }
    })
}

fn by_udp_framed(
    socket: tokio::net::UdpSocket,
    mut stopped: oneshot::Receiver<()>,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (received, sent) = (counter!("received_total"), counter!("sent_total"));
        let mut framed = UdpFramed::new(socket, BytesCodec::new());
        loop {
            let (payload, peer) = tokio::select! {
                biased;
                result = framed.next() => result.expect("no end").expect("a datagram"),
                _ = &mut stopped => return,
            };
            received.increment(1);
            if framed.send((handled(payload.freeze()), peer)).await.is_ok() {
                sent.increment(1);
            }
        }
    })
}

/// All servers by name. The first is `UdpServer`.
pub(crate) const ALL: &[(&str, Serve)] = &[
    ("`UdpServer`", ours),
    ("the same `quinn-udp` calls by hand", by_quinn_udp),
    ("`recv_from` and `send_to`", by_recv_from),
    ("`UdpFramed`", by_udp_framed),
];
