//! A TURN relay. One socket on `[::]` serves clients of both address families, and its relay sockets reach peers of
//! both.
//!
//! ```text
//! cargo run -p turn_relay -- --user alice:secret --relay-ip 127.0.0.1 --relay-ip ::1
//! turnutils_peer -L 127.0.0.1 & turnutils_peer -L ::1 &
//! turnutils_uclient -c -u alice -w secret -e 127.0.0.1 127.0.0.1      # an IPv4 peer
//! turnutils_uclient -c -x -u alice -w secret -e ::1 127.0.0.1         # an IPv6 peer, of an IPv4 client
//! ```
//!
//! It relays to every address that an authenticated user asks for. Do not run it where it can reach internal services.
//!
//! A datagram that is not signed with a user's password takes no memory and no log line, and its answer is within a limit
//! for each network. `turn-server-proto` does not limit the permissions and channels of a client with an allocation.

mod cli;
mod counters;
mod families;
mod gate;
mod relay;

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use clap::Parser as _;
use dualstack_metrics::{SocketOptions, prometheus::PrometheusBuilder};
use tokio::task::JoinSet;
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{cli::Args, families::Families, relay::Relay};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[tokio::main]
async fn main() -> ExitCode {
    // The protocol crates log datagrams of strangers, one line for each.
    let protocol = ["stun_proto", "stun_types", "turn_server_proto", "turn_types"];
    let levels = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets(protocol.map(|target| (target, LevelFilter::OFF)));
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(lines.with_filter(levels))
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
    let relay_ips = args.relay_ips()?;
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    counters::describe();

    let options = if args.v6only {
        SocketOptions::v6_only()
    } else {
        SocketOptions::dual_stack()
    };
    let listeners = args.listen.iter().map(|address| options.bind_udp(*address));
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let metrics_listener = options.bind_tcp(args.metrics)?;
    let metrics_address = metrics_listener.local_addr()?;

    let args = Arc::new(args);
    let mut tasks = JoinSet::new();
    let mut out = io::stdout();
    for socket in listeners {
        let address = socket.local_addr()?;
        let families = Families::new(options.clone(), address.ip(), args.v6only, relay_ips);
        tasks.spawn(Relay::serve(socket, families, Arc::clone(&args)));
        writeln!(out, "listening on udp://{address}")?;
    }
    let render = move || async move { ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    let app = Router::new().route("/metrics", get(render));
    tasks.spawn(axum::serve(metrics_listener, app).into_future());
    writeln!(out, "listening on http://{metrics_address}/metrics")?;
    out.flush()?;

    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        Some(ended) = tasks.join_next() => {
            ended??;
            return Err("a listener stopped unexpectedly".into());
        }
    }
    Ok(())
}
