//! Answers each client with the labels that its counters have, to try a proxy with.
//!
//! ```text
//! cargo run --example behind_proxy --features proxy -- --trust 127.0.0.0/8 --trust ::1 --from x-forwarded-for
//! curl -H 'X-Forwarded-For: 2001:db8::7' http://127.0.0.1:8080/
//! curl http://127.0.0.1:1213/metrics
//! ```

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    process::ExitCode,
    str::FromStr,
};

use axum::{Router, routing::get, serve::Listener};
use clap::Parser;
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, Scope, ServerBinding, SocketOptions, TrustedProxies,
    client::ClientConnectInfo,
    proxy::{Accept, HeaderSource},
    socket::parse_address,
};
use http::HeaderName;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::task::JoinSet;

/// Answers `GET /` with the labels of the client, and counts it with these labels in `requests_total`.
#[derive(Debug, Parser)]
#[command(name = "behind_proxy")]
struct Args {
    /// Address to serve clients on, or `unix:` and the path of a socket; can be repeated
    #[arg(long, value_name = "ADDR", default_value = "[::]:8080")]
    listen: Vec<Listen>,

    /// Network of proxies to trust, an address, or `unix:` for every peer on a Unix socket; can be repeated
    #[arg(long, value_name = "CIDR")]
    trust: Vec<String>,

    /// Where a trusted proxy says who the client is: `x-forwarded-for`, `forwarded`, `proxy-protocol`, or the name of
    /// another header
    #[arg(long, value_name = "SOURCE", default_value = "x-forwarded-for")]
    from: Source,

    /// Address to serve /metrics on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1213", value_parser = parse_address)]
    metrics: SocketAddr,
}

#[derive(Clone, Debug)]
enum Listen {
    Tcp(SocketAddr),
    Unix(String),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("write the path of the socket behind `unix:`"),
            Some(path) => Ok(Self::Unix(path.to_owned())),
            None => match parse_address(text) {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err("write an IP address and a port, such as `[::]:8080`, or `unix:` and a path"),
            },
        }
    }
}

#[derive(Clone, Debug)]
enum Source {
    Header(HeaderName),
    ProxyProtocol,
}

impl FromStr for Source {
    type Err = <HeaderName as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("proxy-protocol") {
            Ok(Self::ProxyProtocol)
        } else {
            text.parse().map(Self::Header)
        }
    }
}

async fn labels() -> String {
    metrics::counter!("requests_total").increment(1);
    let lines = Scope::current().pairs().iter();
    let lines: Vec<_> = lines.map(|(name, value)| format!("{name}={value}\n")).collect();
    lines.concat()
}

type Servers = JoinSet<io::Result<()>>;

/// Serves one listener, in either of the two ways to learn of the client.
fn serve<L>(
    servers: &mut Servers,
    listener: L,
    binding: ServerBinding,
    proxies: &TrustedProxies,
    from: &Source,
) where
    L: Accept + Listener<Addr: fmt::Debug>,
    ClientConnectInfo: for<'a> axum::extract::connect_info::Connected<axum::serve::IncomingStream<'a, L>>,
{
    let router = Router::new().route("/", get(labels));
    let layer = ClientLabelsLayer::new(binding);
    match from {
        Source::Header(name) => {
            let source: HeaderSource = proxies.header(name.clone());
            let app = router.layer(layer.source(source));
            let app = app.into_make_service_with_connect_info::<ClientConnectInfo>();
            servers.spawn(async { axum::serve(listener, app).await });
        }
        Source::ProxyProtocol => {
            let listener = proxies.proxy_protocol(listener);
            let app = router.layer(layer);
            let app = app.into_make_service_with_connect_info::<ClientConnectInfo>();
            servers.spawn(async { axum::serve(listener, app).await });
        }
    }
}

/// A wildcard IPv6 socket leaves IPv4 to a socket that is also asked for on its port.
fn options(address: SocketAddr, all: &[Listen]) -> SocketOptions {
    let takes_ipv4 = |other: &Listen| matches!(other, Listen::Tcp(other) if other.is_ipv4() && other.port() == address.port());
    if address.is_ipv6() && address.port() != 0 && all.iter().any(takes_ipv4) {
        SocketOptions::v6_only()
    } else {
        SocketOptions::dual_stack()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let proxies = TrustedProxies::new(&args.trust)?;
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;

    let mut servers = Servers::new();
    let mut urls = Vec::new();
    for listen in &args.listen {
        match listen {
            Listen::Tcp(address) => {
                let listener = options(*address, &args.listen).bind_tcp(*address)?;
                let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
                urls.push(binding.to_string());
                serve(&mut servers, listener, binding, &proxies, &args.from);
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let listener = tokio::net::UnixListener::bind(path)
                    .map_err(|error| format!("cannot listen on unix:{path}: {error}"))?;
                let binding = ServerBinding::unix(Protocol::Http);
                urls.push(format!("{binding}:{path}"));
                serve(&mut servers, listener, binding, &proxies, &args.from);
            }
            #[cfg(not(unix))]
            Listen::Unix(_) => return Err("this system has no Unix sockets".into()),
        }
    }

    let listener = SocketOptions::dual_stack().bind_tcp(args.metrics)?;
    urls.push(format!("http://{}/metrics", listener.local_addr()?));
    let app = Router::new().route("/metrics", get(async move || metrics.render()));
    servers.spawn(async { axum::serve(listener, app).await });

    for url in urls {
        println!("listening on {url}");
    }
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}
