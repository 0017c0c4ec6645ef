//! CPU time of the serving thread for each datagram.

mod servers;

use dualstack_metrics::prometheus::Install;
use metrics_exporter_prometheus::PrometheusBuilder;

pub(crate) use self::servers::Load;
use self::servers::{ALL, BINDINGS, Binding, Serve, cpu_per_datagram};
use super::paired::{Paired, header, paired, row};

const ONE: Load = Load { window: 1, peers: 1 };
const MANY: Load = Load { window: 64, peers: 1 };
const MANY_PEERS: Load = Load {
    window: 64,
    peers: 64,
};

pub(crate) fn print() {
    header("CPU of the server for a datagram of 98 bytes, ours with labels / unlabelled");
    let [(_, ours), by_hand, plain, framed] = ALL;
    let against = |rival: Serve, binding: Binding, load: Load| -> Paired {
        let scoped = Install::new(PrometheusBuilder::new()).build_recorder();
        let bare = PrometheusBuilder::new().build_recorder();
        paired(
            || cpu_per_datagram(&scoped, ours, binding, load),
            || cpu_per_datagram(&bare, rival, binding, load),
        )
    };
    for (name, load, target) in [
        ("one at a time", ONE, "≤ 1.05"),
        ("64 at a time", MANY, "≤ 0.90"),
        ("64 at a time from 64 peers", MANY_PEERS, "≤ 0.90"),
    ] {
        for (at, binding) in BINDINGS.into_iter().enumerate() {
            let row = |(rival, serve): (&str, Serve), target| {
                let paired = against(serve, binding, load);
                row(
                    &format!("{}, {name} / {rival}", binding.name),
                    &paired,
                    target,
                    "",
                );
            };
            row(plain, target);
            // One packet of the system may take many answers to one peer, which neither of these does.
            if at < 3 && load.window as usize == load.peers {
                row(by_hand, "≤ 1.03");
                row(framed, "");
            }
        }
    }
}
