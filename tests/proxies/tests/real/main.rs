//! Caddy, dnsdist, HAProxy and nginx as Debian packages them, Envoy and Traefik, in a network namespace with an IPv4 and
//! an IPv6 client.

#![cfg(target_os = "linux")]

mod caddy;
mod dnsdist;
mod envoy;
mod haproxy;
mod nginx;
mod rows;
mod traefik;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, TrustedProxies};
use serde_json::json;
use test_support::{
    INET, INET6, MAPPED, Metrics, Program, Seen, dual_stack, free_port, in_namespace, on_unix, recorded,
    rejected, requests, sample, serve, soon,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, UnixListener},
};

const CLIENTS: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

/// The headers of each client: the address of the other, in every header that is read anywhere.
const FORGED: &str = "X-Forwarded-For: {other}, 127.0.0.1\r\n\
                      X-Forwarded-For: {other}\r\n\
                      Forwarded: for=\"{other}\", for=127.0.0.1\r\n\
                      X-Real-IP: {other}\r\n\
                      CF-Connecting-IP: {other}\r\n\
                      True-Client-IP: {other}\r\n\
                      X-Envoy-External-Address: {other}\r\n";

/// Runs a test in a namespace that has the addresses of [`CLIENTS`].
fn with_clients(test: impl AsyncFnOnce(Metrics) + Send) {
    let setup = "ip addr add 192.0.2.7/32 dev lo\nip addr add 2001:db8::7/128 dev lo nodad";
    in_namespace(setup, || recorded(test));
}

fn trusting(networks: &[&str]) -> TrustedProxies {
    TrustedProxies::new(networks).unwrap()
}

/// The proxies of all tests are on this host.
fn proxies() -> TrustedProxies {
    trusting(&["127.0.0.0/8", "::1"])
}

/// A server that reads a header.
fn reads(header: &str) -> SocketAddr {
    let (listener, address, binding) = dual_stack();
    let layer = ClientLabelsLayer::new(binding);
    serve(listener, layer.source(proxies().header(header)));
    address
}

/// A server that reads the PROXY protocol.
fn reads_proxy_protocol() -> SocketAddr {
    let (listener, address, binding) = dual_stack();
    serve(
        proxies().proxy_protocol(listener),
        ClientLabelsLayer::new(binding),
    );
    address
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("dualstack-proxies-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A proxy that runs, and the folder with its files.
struct Proxy {
    _program: Program,
    _folder: Folder,
}

/// Starts a proxy and returns when it listens on these ports. Skips the test where it is not installed.
fn start(command: &mut Command, folder: Folder, ports: &[u16]) -> Option<Proxy> {
    let is_ready = || ports.iter().all(|&port| is_listening(port));
    let program = Program::start(command.current_dir(&folder.0), is_ready)?;
    Some(Proxy {
        _program: program,
        _folder: folder,
    })
}

/// Whether a program in this namespace listens. It is not connected to, because a proxy would pass that on.
fn is_listening(port: u16) -> bool {
    const LISTEN: &str = "0A";

    ["tcp", "tcp6"].into_iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        table.lines().skip(1).any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == LISTEN
        })
    })
}

/// A client asks once without headers of its own, and once with [`FORGED`] ones.
async fn ask(client: &str, port: u16) {
    let client: IpAddr = client.parse().unwrap();
    let (socket, server) = match client {
        IpAddr::V4(_) => (TcpSocket::new_v4(), IpAddr::from([127, 0, 0, 1])),
        IpAddr::V6(_) => (TcpSocket::new_v6(), "::1".parse().unwrap()),
    };
    let socket = socket.unwrap();
    socket.bind(SocketAddr::new(client, 0)).unwrap();
    let stream = socket.connect(SocketAddr::new(server, port)).await.unwrap();
    let other = CLIENTS[usize::from(client.is_ipv4())];
    request(stream, &FORGED.replace("{other}", other)).await;
}

async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin, headers: &str) {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: example.org\r\n{rest}\r\n");
    for rest in [
        "Connection: keep-alive\r\n",
        &format!("Connection: close\r\n{headers}"),
    ] {
        stream.write_all(get(rest).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await;
            answer.push(
                byte.unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&answer))),
            );
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.contains("\r\ncontent-length: 0\r\n"), "{answer}");
    }
}

/// Both clients, both requests.
async fn ask_all(port: u16) {
    for client in CLIENTS {
        ask(client, port).await;
    }
}

/// Both clients were seen like this, with both requests.
fn twice(server: SocketAddr, seen: [Seen; 2]) -> [String; 2] {
    seen.map(|seen| requests(server, seen, 2))
}
