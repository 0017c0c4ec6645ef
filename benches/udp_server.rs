//! CPU time of the serving thread for a datagram: `cargo bench --bench udp_server`.
//!
//! Times of one machine; `cargo bench --bench ratios -- udp` compares. Linux only, for the clock of a thread.

#[cfg(target_os = "linux")]
#[path = "ratios/udp/servers.rs"]
mod servers;

#[cfg(target_os = "linux")]
fn main() {
    use std::time::Duration;

    use criterion::{BenchmarkId, Criterion};
    use dualstack_metrics::prometheus::Install;
    use metrics_exporter_prometheus::PrometheusBuilder;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(load) = servers::Load::from_arguments(&arguments) {
        return load.run();
    }

    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    for (load, window) in [("one at a time", 1), ("64 at a time", 64)] {
        let mut group = criterion.benchmark_group(load);
        for client in ["IPv4", "mapped", "IPv6"] {
            for (name, serve) in servers::ALL {
                group.bench_function(BenchmarkId::new(*name, client), |b| {
                    b.iter_custom(|datagrams| {
                        let datagrams = u32::try_from(datagrams).unwrap_or(u32::MAX).next_multiple_of(64);
                        let nanos = servers::cpu_per_datagram(&recorder, *serve, client, window, datagrams);
                        Duration::from_secs_f64(nanos * f64::from(datagrams) / 1e9)
                    });
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: there is no clock of a thread here");
}
