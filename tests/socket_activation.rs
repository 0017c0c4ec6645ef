//! Sockets that a service manager has bound, as in the recipe of `docs/dual-stack-sockets.md`.

#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    env,
    future::{pending, ready},
    io::{self, Read, Write},
    net::{self, IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use dualstack_metrics::{ClientLabelsLayer, Datagram, Protocol, ServerBinding, UdpServer};
use listenfd::ListenFd;
use metrics::counter;
use test_support::{
    INET, INET6, MAPPED, Metrics, Program, Seen, eventually, in_namespace, ipv6_or_say, recorded, sample,
    seven,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::spawn_local,
};
use tower::service_fn;

const PORT: u16 = 6969;

/// The program that is activated, if it is: serves all sockets, and answers with the metrics.
#[test]
fn activated() {
    if env::var_os("LISTEN_FDS").is_none() {
        return;
    }
    recorded(async |metrics| {
        let mut passed = ListenFd::from_env();
        for at in 0..passed.len() {
            // The other kind is an error.
            if let Ok(Some(socket)) = passed.take_udp_socket(at) {
                serve_udp(socket, metrics.clone()).unwrap();
            } else {
                serve_http(passed.take_tcp_listener(at).unwrap().unwrap(), metrics.clone()).unwrap();
            }
        }
        pending::<()>().await;
    });
}

fn serve_udp(socket: net::UdpSocket, metrics: Metrics) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let server = UdpServer::new(UdpSocket::from_std(socket)?)?.metrics_prefix("s");
    spawn_local(server.serve(service_fn(move |_: Datagram| {
        counter!("served_total").increment(1);
        ready(Ok::<_, Infallible>(Some(Bytes::from(metrics.render()))))
    })));
    Ok(())
}

fn serve_http(listener: net::TcpListener, metrics: Metrics) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    let served = async move || {
        counter!("served_total").increment(1);
        metrics.render()
    };
    let app = Router::new()
        .route("/", get(served))
        .layer(ClientLabelsLayer::new(binding));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    spawn_local(async { axum::serve(listener, app).await });
    Ok(())
}

fn ask(protocol: Protocol, server: SocketAddr) -> io::Result<String> {
    let patience = Some(Duration::from_millis(200));
    let mut answer = vec![0; 65_535];
    if protocol == Protocol::Udp {
        let own = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = net::UdpSocket::bind(own)?;
        client.set_read_timeout(patience)?;
        client.connect(server)?;
        client.send(b"x")?;
        let length = client.recv(&mut answer)?;
        answer.truncate(length);
    } else {
        let mut client = TcpStream::connect(server)?;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        answer.clear();
        client.read_to_end(&mut answer)?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn sockets_of_a_service_manager_have_their_labels() {
    if !ipv6_or_say() {
        return;
    }
    let both: &[(&str, &str, Seen)] = &[("[::]", "127.0.0.1", MAPPED), ("[::]", "::1", INET6)];
    let each: &[(&str, &str, Seen)] = &[("0.0.0.0", "127.0.0.1", INET), ("[::]", "::1", INET6)];
    for (protocol, options) in [(Protocol::Udp, "-d"), (Protocol::Http, "")] {
        // As `BindIPv6Only=both` and `ipv6-only` in a unit.
        for (only, clients) in [(0, both), (1, each)] {
            let setup = format!("echo {only} > /proc/sys/net/ipv6/bindv6only");
            in_namespace(&setup, || {
                let mut command = Command::new("systemd-socket-activate");
                command.args(options.split_whitespace());
                for bound in ["[::]", "0.0.0.0"].iter().take(1 + usize::from(only == 1)) {
                    command.args(["-l", &format!("{bound}:{PORT}")]);
                }
                command.arg(env::current_exe().unwrap());
                command.args(["--exact", "activated", "--nocapture"]);
                let is_ready = || {
                    clients.iter().all(|(_, client, _)| {
                        let client: IpAddr = client.parse().unwrap();
                        ask(protocol, (client, PORT).into()).is_ok()
                    })
                };
                let Some(_program) = Program::start(&mut command, is_ready) else {
                    return;
                };
                for (bound, client, seen) in clients {
                    let client: IpAddr = client.parse().unwrap();
                    let labels = seven(
                        protocol.as_str(),
                        format!("{bound}:{PORT}").parse().unwrap(),
                        *seen,
                    );
                    let expected = sample("served_total", &labels, 0);
                    let expected = expected.trim_end_matches('0');
                    let is_counted = || {
                        ask(protocol, (client, PORT).into()).is_ok_and(|metrics| metrics.contains(expected))
                    };
                    eventually("the labels are right", is_counted);
                }
            });
        }
    }
}
