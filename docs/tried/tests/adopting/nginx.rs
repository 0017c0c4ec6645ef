use std::net::{IpAddr, SocketAddr};

use axum::{Router, extract::ConnectInfo, extract::Request, routing::get};
use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, Scope, ServerBinding};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};
use test_support::{
    INET, INET6, MAPPED, Seen, assert_samples, free_port, loopbacks, sample, series, seven, skip_or_fail,
    soon,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{listener, recorder};

/// The peer, unless it is nginx on this host.
fn direct(info: &ConnectInfo<SocketAddr>) -> Option<SocketAddr> {
    let ConnectInfo(peer) = *info;
    (!peer.ip().to_canonical().is_loopback()).then_some(peer)
}

/// What nginx says: `proxy_set_header X-Real-IP $remote_addr;`
fn from_nginx(request: &Request) -> Option<IpAddr> {
    request.headers().get("x-real-ip")?.to_str().ok()?.parse().ok()
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// nginx as one process, which ends with the test. On its second port it has one socket for both families.
fn start_nginx([separate, dual_stack]: [u16; 2], to: SocketAddr) -> Option<Nginx> {
    let folder = std::env::temp_dir().join(format!("docs-tried-nginx-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {};", folder.join(what).display()))
        .join("\n");
    let listen: Vec<_> = loopbacks()
        .into_iter()
        .map(|ip| format!("listen {};", SocketAddr::new(ip, separate)))
        .collect();
    let listen = listen.join(" ");
    let port = to.port();
    let configuration = format!(
        "daemon off; master_process off; error_log stderr crit; pid {}; events {{}}
         http {{ access_log off; {temporary}
             server {{ {listen} listen [::]:{dual_stack} ipv6only=off;
                 location / {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header X-Real-IP $remote_addr; }} }} }}",
        folder.join("pid").display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    let nginx = Command::new("nginx")
        .arg("-c")
        .arg(file)
        .stdin(Stdio::null())
        .spawn();
    nginx
        .inspect_err(|error| skip_or_fail(&format!("nginx: {error}")))
        .ok()
        .map(Nginx)
}

async fn ask(server: SocketAddr, header: &'static str) {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(server).unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
    asked.await.unwrap();
}

#[tokio::test]
async fn counts_the_client_and_not_nginx() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let binding = ServerBinding::new(Protocol::Http, address);

    let layer = ClientLabelsLayer::new(binding)
        .connect_info(direct)
        .or(from_nginx);
    let app = Router::new().route("/", get(hello)).layer(layer);

    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    let ports @ [separate, dual_stack] = [free_port(), free_port()];
    let Some(nginx) = start_nginx(ports, address) else {
        return;
    };
    soon("nginx listens", || {
        TcpStream::connect(("127.0.0.1", dual_stack)).is_ok()
    })
    .await;

    let mut counts = BTreeMap::<Seen, u64>::new();
    for ip in loopbacks() {
        for (port, ipv4) in [(separate, INET), (dual_stack, MAPPED)] {
            ask(SocketAddr::new(ip, port), "").await;
            // nginx replaces what a client claims.
            let forged = "X-Real-IP: 192.0.2.7\r\nX-Real-IP: 2001:db8::7\r\n";
            ask(SocketAddr::new(ip, port), forged).await;
            *counts.entry(if ip.is_ipv4() { ipv4 } else { INET6 }).or_default() += 2;
        }
    }
    let expected = counts
        .into_iter()
        .map(|(seen, count)| sample("hellos_total", &seven("http", address, seen), count));
    let rendered = || series(&recorder.get_ref().handle().render(), "hellos_total");
    assert_samples(rendered(), expected);
    drop(nginx);
}

#[tokio::test]
async fn a_peer_that_is_not_the_proxy_is_the_client() {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
    let layer = ClientLabelsLayer::new(binding)
        .connect_info(direct)
        .or(from_nginx);
    let current = service_fn(async |_: Request| Ok::<_, Infallible>(Scope::current()));
    let service = layer.without_body().layer(current);
    for (peer, header, client) in [
        ("[2001:db8::7]:1", "192.0.2.7", Some("2001:db8::7")),
        ("[::ffff:127.0.0.1]:1", "192.0.2.7", Some("192.0.2.7")),
        ("[::1]:1", "::ffff:192.0.2.7", Some("::ffff:192.0.2.7")),
        ("127.0.0.1:1", "192.0.2.7, 198.51.100.1", None),
    ] {
        let request = Request::get("/")
            .header("x-real-ip", header)
            .extension(ConnectInfo(peer.parse::<SocketAddr>().unwrap()))
            .body(axum::body::Body::empty())
            .unwrap();
        let scope = service.oneshot(request).await.unwrap();
        let client = ClientLabels::from(client.map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(scope.pairs()[..2], *client.pairs(), "{peer}");
    }
}

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello"
}
