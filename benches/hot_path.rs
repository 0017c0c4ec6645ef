//! The operations that a request does many times: `cargo bench --bench hot_path`.
//!
//! Times of one machine; `cargo bench --bench ratios` compares.

use std::{hint::black_box, net::SocketAddr, sync::Barrier, thread, time::Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dualstack_metrics::{
    BoundedLabel, ClientLabels, ClientScopes, Protocol, Scope, ServerBinding, prometheus::Install,
};
use metrics::{Key, Level, Metadata, Recorder, counter, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

#[derive(Clone, Copy)]
struct Tenant(usize);

impl BoundedLabel for Tenant {
    const NAME: &'static str = "tenant";
    const VALUES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7"];

    fn index(self) -> usize {
        self.0
    }
}

fn clients() -> [Scope; 3] {
    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, ([0; 16], 6969).into()));
    [0, 1, 2].map(|class: usize| scopes.for_client(ClientLabels::ALL[class]))
}

/// Scopes of three classes of client and eight tenants.
fn many_scopes() -> Vec<Scope> {
    let tenants = (0..8).map(|tenant| Scope::new(&Tenant(tenant)));
    tenants
        .flat_map(|tenant| clients().map(|client| client.nest(tenant)))
        .collect()
}

fn classify(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for peer in ["192.0.2.7:1", "[::ffff:192.0.2.7]:1", "[2001:db8::7]:1"] {
        let peer: SocketAddr = peer.parse().expect("an address");
        group.bench_function(peer.to_string(), |b| {
            b.iter(|| ClientLabels::from(black_box(peer)));
        });
    }
    group.finish();
}

fn scope(c: &mut Criterion) {
    let (outer, inner) = (clients()[0], Scope::new(&Tenant(0)));
    let mut group = c.benchmark_group("scope");
    group.bench_function("enter and leave", |b| b.iter(|| outer.run(|| black_box(()))));
    group.bench_function("nest", |b| b.iter(|| black_box(outer).nest(inner)));
    group.finish();
}

fn increments(c: &mut Criterion) {
    let bare = PrometheusBuilder::new().build_recorder();
    let ours = Install::new(PrometheusBuilder::new()).build_recorder();
    let recorders: [(&str, &dyn Recorder); 2] = [("bare", &bare), ("ours", &ours)];
    let many = many_scopes();

    let mut group = c.benchmark_group("increment");
    for (whose, recorder) in recorders {
        with_local_recorder(recorder, || {
            let kept = counter!("requests_total");
            for (how, increment) in [
                (
                    "macro",
                    &(|| counter!("requests_total").increment(1)) as &dyn Fn(),
                ),
                (
                    "macro with a label",
                    &(|| counter!("requests_total", "request_kind" => "announce").increment(1)),
                ),
                ("kept handle", &(|| kept.increment(1))),
            ] {
                let mut bench = |scopes: &str, rotation: &[Scope]| {
                    let mut next = 0;
                    group.bench_function(BenchmarkId::new(format!("{whose}, {how}"), scopes), |b| {
                        b.iter(|| {
                            next = (next + 1) % rotation.len();
                            rotation[next].run(increment);
                        });
                    });
                };
                bench("outside", &[Scope::none()]);
                bench("one scope", &clients()[..1]);
                bench("3 scopes", &clients());
                bench("24 scopes", &many);
            }
        });
    }
    group.finish();
}

fn counters(c: &mut Criterion) {
    static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

    let bare = PrometheusBuilder::new().build_recorder();
    let ours = Install::new(PrometheusBuilder::new()).build_recorder();
    let recorders: [(&str, &dyn Recorder); 2] = [("bare", &bare), ("ours", &ours)];
    let keys: Vec<Key> = (0..256)
        .map(|at| Key::from_static_name(format!("subsystem_counter_{at}_total").leak()))
        .collect();

    let mut group = c.benchmark_group("distinct counters");
    for (whose, recorder) in recorders {
        for counters in [1, 16, 256] {
            let mut next = 0;
            group.bench_function(BenchmarkId::new(whose, counters), |b| {
                clients()[0].run(|| {
                    b.iter(|| {
                        next = (next + 1) % counters;
                        recorder.register_counter(&keys[next], &METADATA).increment(1);
                    });
                });
            });
        }
    }
    group.finish();
}

fn threads(c: &mut Criterion) {
    let bare = PrometheusBuilder::new().build_recorder();
    let ours = Install::new(PrometheusBuilder::new()).build_recorder();
    let recorders: [(&str, &(dyn Recorder + Sync)); 2] = [("bare", &bare), ("ours", &ours)];

    let mut group = c.benchmark_group("two threads");
    for (whose, recorder) in recorders {
        for (what, names) in [
            ("one counter", ["a_total"; 2]),
            ("a counter each", ["a_total", "b_total"]),
        ] {
            group.bench_function(BenchmarkId::new(whose, what), |b| {
                b.iter_custom(|calls| {
                    let barrier = Barrier::new(2);
                    let work = |name: &'static str| {
                        with_local_recorder(recorder, || {
                            barrier.wait();
                            let start = Instant::now();
                            clients()[0].run(|| (0..calls).for_each(|_| counter!(name).increment(1)));
                            start.elapsed()
                        })
                    };
                    thread::scope(|threads| {
                        let other = threads.spawn(|| work(names[1]));
                        let elapsed = work(names[0]);
                        elapsed.max(other.join().expect("no panic"))
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, classify, scope, increments, counters, threads);
criterion_main!(benches);
