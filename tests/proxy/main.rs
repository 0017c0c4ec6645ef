//! The client's own address behind a proxy, from made-up requests.

mod connections;
mod datagrams;
mod example;
mod headers;
mod listener;
mod platforms;

use dualstack_metrics::TrustedProxies;

fn trusting(networks: &[&str]) -> TrustedProxies {
    TrustedProxies::new(networks).unwrap()
}
