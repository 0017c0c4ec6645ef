//! A small BitTorrent tracker. It serves HTTP and UDP on one dual-stack socket each, and its counters tell IPv4 clients
//! from IPv6 clients.
//!
//! ```text
//! cargo run --release -p tracker              # serves until stopped
//! cargo run --release -p tracker -- --demo    # sends requests to itself, prints the counters and exits
//! ```
//!
//! `udp.rs` and `http.rs` only increment counters. The client labels come from the scopes that `server.rs` sets up.

mod bans;
mod cli;
mod connection_id;
mod connections;
mod counters;
mod demo;
mod host;
mod http;
mod owner;
mod query;
mod server;
mod swarm;
mod udp;

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Parser as _;
use dualstack_metrics::{
    ScopedRecorderLayer,
    prometheus::{Install, PrometheusBuilder},
};

use crate::{cli::Args, server::Server};

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
    // These counters are about the whole swarm, so they get no client labels, although requests increment them.
    let global = ScopedRecorderLayer::new()
        .exclude_prefix(counters::SWARM_PREFIX)
        .exclude(counters::DOWNLOADS);
    let metrics = Install::new(PrometheusBuilder::new())
        .recorder(global)
        .install()?;
    counters::describe();

    if args.demo {
        return demo::run(metrics).await;
    }
    let stop = stop_signal()?;
    let server = Server::start(&args, metrics)?;
    server.announce()?;
    server.serve_until(stop).await
}

/// Resolves on Ctrl-C or SIGTERM. Signals are caught as soon as this function has returned.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
