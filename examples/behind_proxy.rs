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
    str::FromStr,
};

use axum::{Router, routing::get, serve::Listener};
use clap::Parser;
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, Scope, ServerBinding, SocketOptions, TrustedProxies,
    layer::ClientConnectInfo,
    proxy::{Accept, HeaderSource},
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
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1213")]
    metrics: SocketAddr,
}

#[derive(Clone, Debug)]
enum Listen {
    Tcp(SocketAddr),
    Unix(String),
}

impl FromStr for Listen {
    type Err = <SocketAddr as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.to_owned())),
            None => text.parse().map(Self::Tcp),
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
        match text {
            "proxy-protocol" => Ok(Self::ProxyProtocol),
            name => name.parse().map(Self::Header),
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let args = Args::parse();
    let proxies = TrustedProxies::new(&args.trust)?;
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;

    let mut servers = Servers::new();
    let mut urls = Vec::new();
    for listen in args.listen {
        match listen {
            Listen::Tcp(address) => {
                let listener = SocketOptions::dual_stack().bind_tcp(address)?;
                let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
                urls.push(binding.to_string());
                serve(&mut servers, listener, binding, &proxies, &args.from);
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let listener = tokio::net::UnixListener::bind(&path)?;
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
