//! CPU time of the serving thread for each datagram.

mod servers;

use dualstack_metrics::prometheus::Install;
use metrics_exporter_prometheus::PrometheusBuilder;

pub(crate) use self::servers::Load;
use self::servers::{ALL, Serve, cpu_per_datagram};
use super::paired::{Paired, header, paired, row};

const DATAGRAMS: u32 = 20_000;

pub(crate) fn print() {
    header("CPU of the server for a datagram of 98 bytes, ours with labels / unlabelled");
    let [(_, ours), rivals @ ..] = ALL else { return };
    let against = |rival: Serve, client: &str, window: u32| -> Paired {
        let scoped = Install::new(PrometheusBuilder::new()).build_recorder();
        let bare = PrometheusBuilder::new().build_recorder();
        paired(
            || cpu_per_datagram(&scoped, *ours, client, window, DATAGRAMS),
            || cpu_per_datagram(&bare, rival, client, window, DATAGRAMS),
        )
    };
    for (load, window, by_hand) in [
        ("one at a time", 1, "≤ 1.10"),
        ("64 at a time", 64, "≤ 1.10, then < 1.0"),
    ] {
        for client in ["IPv4", "mapped", "IPv6"] {
            for ((rival, serve), target) in rivals.iter().zip(["≤ 1.03", by_hand, ""]) {
                let paired = against(*serve, client, window);
                row(&format!("{client}, {load} / {rival}"), &paired, target, "");
            }
        }
    }
}
