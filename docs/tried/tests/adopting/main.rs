//! The code of `docs/adopting.md`, run: a module for each section, and a test that the page shows this code.
//!
//! Counters are registered with a recorder of the test's thread, and tokio's runtime is that thread, so that the tests
//! do not see each other's counters.

mod axum_versions;
mod buffers;
mod dogstatsd;
mod event_bus;
mod fallbacks;
mod grpc;
mod install;
mod links;
mod nginx;
mod opentelemetry_sdk;
mod page;
mod plain_hyper;
mod prometheus_client;
mod prometheus_crate;
mod proxy_listeners;
mod queries;
mod spans;
mod tasks;
mod udp_counters;
mod unit_tests;
#[cfg(unix)]
mod unix_socket;
mod websocket;
mod zeros;

use std::net::SocketAddr;

use dualstack_metrics::{
    ScopedRecorder,
    prometheus::{Install, PrometheusBuilder, PrometheusRecorder},
};
use test_support::{Seen, assert_samples, dual_stack, http, loopbacks, sample, seen, series, seven};
use tokio::net::TcpListener;

fn recorder() -> ScopedRecorder<PrometheusRecorder> {
    Install::new(PrometheusBuilder::new()).build_recorder()
}

fn listener() -> (TcpListener, SocketAddr) {
    let (listener, address, _) = dual_stack();
    (listener, address)
}

/// Loopback clients of each family that this host has, and how a server sees them.
fn clients(server: SocketAddr) -> impl Iterator<Item = (SocketAddr, Seen)> {
    let ips = loopbacks().into_iter();
    ips.map(move |ip| (SocketAddr::new(ip, server.port()), seen(ip, server)))
}

/// Sends a request over each family that this host has.
async fn get(server: SocketAddr, path: &'static str) {
    for (address, _) in clients(server) {
        let get = tokio::task::spawn_blocking(move || http::get(address, path));
        get.await.expect("an answer");
    }
}

/// Fails unless `name` was counted once for each client of [`get`], with the seven labels.
#[track_caller]
fn assert_one_each(recorder: &ScopedRecorder<PrometheusRecorder>, name: &str, server: SocketAddr) {
    assert_samples(
        series(&recorder.get_ref().handle().render(), name),
        clients(server).map(|(_, seen)| sample(name, &seven("http", server, seen), 1)),
    );
}
