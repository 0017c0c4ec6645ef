//! An increment, by macro and by kept handle, against the same increment on the exporter's own recorder.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use dualstack_metrics::{
    BoundedLabel, ClientLabels, ClientScopes, Protocol, Scope, ScopedRecorderLayer, ServerBinding,
    prometheus::Install,
};
use metrics::{Counter, Key, Label, Level, Metadata, Recorder, SharedString, counter, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
use metrics_util::{MetricKindMask, layers::Layer as _};
use tracing_subscriber::layer::SubscriberExt as _;

use super::paired::{Paired, allocations, header, nanos, paired, row};

const CALLS: u32 = 200_000;
const COUNTERS: usize = 256;
const SCOPES: usize = 24;

#[derive(Clone, Copy)]
struct Tenant(usize);

impl BoundedLabel for Tenant {
    const NAME: &'static str = "tenant";
    const VALUES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7"];

    fn index(self) -> usize {
        self.0
    }
}

pub(crate) fn scopes() -> ClientScopes {
    ClientScopes::new(ServerBinding::new(Protocol::Udp, ([0; 16], 6969).into()))
}

/// Different recorders for what is compared, alive as long as the benchmark runs.
struct Recorders {
    bare: Box<dyn Recorder>,
    ours: Box<dyn Recorder>,
    /// With an idle timeout.
    forgetful: Box<dyn Recorder>,
    /// The same, but every increment comes too late.
    late: Box<dyn Recorder>,
}

impl Recorders {
    fn new() -> Self {
        let install = || Install::new(PrometheusBuilder::new());
        let forgetful = || install().idle_timeout(MetricKindMask::ALL, Some(Duration::from_secs(600)));
        let late = ScopedRecorderLayer::new().revalidate_after(Duration::from_nanos(1));
        Self {
            bare: Box::new(PrometheusBuilder::new().build_recorder()),
            ours: Box::new(install().build_recorder()),
            forgetful: Box::new(forgetful().build_recorder()),
            late: Box::new(forgetful().recorder(late).build_recorder()),
        }
    }
}

/// Uses metrics until their leases are confirmed, after which they are as fast as they get.
pub(crate) fn settle(mut f: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        f();
    }
}

/// `f` on one recorder in a scope, and `g` on the exporter's own.
fn against<'a>(
    (recorder, scope): (&'a dyn Recorder, Scope),
    f: impl Fn() + 'a,
    bare: &'a dyn Recorder,
    g: impl Fn() + 'a,
) -> Paired {
    with_local_recorder(recorder, || scope.run(|| settle(&f)));
    paired(
        || with_local_recorder(recorder, || scope.run(|| nanos(CALLS, &f))),
        || with_local_recorder(bare, || nanos(CALLS, &g)),
    )
}

fn macro_increment() {
    counter!("requests_total").increment(1);
}

fn labelled_increment() {
    counter!("requests_total", "request_kind" => "announce").increment(1);
}

pub(crate) fn print() {
    let recorders = Recorders::new();
    let Recorders {
        bare,
        ours,
        forgetful,
        late,
    } = &recorders;
    let client = scopes().for_client(ClientLabels::ALL[1]);
    let allocated = |recorder: &dyn Recorder, scope: Scope, f: fn()| {
        with_local_recorder(recorder, || scope.run(|| allocations(f)))
    };

    header("an increment, seven labels in force / bare, none");
    let by_macro =
        |recorder: &dyn Recorder, scope| against((recorder, scope), macro_increment, bare, macro_increment);
    let count = |recorder, scope| allocated(recorder, scope, macro_increment);
    row(
        "macro, default install",
        &by_macro(ours, client),
        "≤ 0.40",
        count(ours, client),
    );
    row(
        "macro, with an idle timeout",
        &by_macro(forgetful, client),
        "≤ 0.45",
        count(forgetful, client),
    );
    row(
        "macro, one label at the call / bare with that label",
        &against((ours, client), labelled_increment, bare, labelled_increment),
        "≤ 0.45",
        allocated(ours, client, labelled_increment),
    );
    row(
        "macro, outside every scope",
        &by_macro(ours, Scope::none()),
        "≤ 0.50",
        count(ours, Scope::none()),
    );
    row(
        "macro, with an idle timeout, fewer than two increments a second",
        &by_macro(late, client),
        "",
        count(late, client),
    );
    many(ours, bare);
    dynamic(ours, bare, client);
    threads(client);

    header("a kept handle, seven labels in force / bare, none");
    let kept = |recorder: &dyn Recorder, settled: bool, expired: bool| {
        let of = |recorder: &dyn Recorder| with_local_recorder(recorder, || counter!("kept_total"));
        let (ours, bare) = (of(recorder), of(bare));
        if settled {
            client.run(|| settle(|| ours.increment(1)));
        }
        if expired {
            client.run(|| ours.increment(1));
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(600) {
                thread::sleep(Duration::from_millis(50));
            }
        }
        let count = client.run(|| allocations(|| ours.increment(1)));
        let increment = |counter: &Counter| nanos(CALLS, || black_box(counter).increment(1));
        (
            paired(|| client.run(|| increment(&ours)), || increment(&bare)),
            count,
        )
    };
    for (what, recorder, settled, expired, target) in [
        ("default install", ours, true, false, "≤ 1.5"),
        ("with an idle timeout", forgetful, true, false, "≤ 1.6"),
        (
            "with an idle timeout, after an expiry",
            forgetful,
            true,
            true,
            "≤ 3.0",
        ),
        (
            "with an idle timeout, in its first 270 ms",
            forgetful,
            false,
            false,
            "",
        ),
    ] {
        let (paired, count) = kept(recorder, settled, expired);
        row(what, &paired, target, count);
    }

    many_scopes_per_counter(ours, bare);
    excluded(bare, client);

    rivals(bare, client);

    let enter = nanos(10_000_000, || client.run(|| black_box(())));
    println!("\nEnter and leave a composed scope: {enter:.2} ns (target ≤ 2).");
    memory();
}

/// What a macro does with a static key, for keys that are made in a loop.
fn increment(recorder: &dyn Recorder, key: &Key) {
    static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

    recorder.register_counter(key, &METADATA).increment(1);
}

fn many_keys() -> Vec<Key> {
    (0..COUNTERS)
        .map(|at| Key::from_static_name(format!("some_subsystem_counter_{at}_total").leak()))
        .collect()
}

fn many_scopes() -> Vec<Scope> {
    let clients = &ClientLabels::ALL[..3];
    (0..8)
        .flat_map(|tenant| clients.iter().map(move |client| (tenant, *client)))
        .map(|(tenant, client)| scopes().for_client(client).with(&Tenant(tenant)))
        .collect()
}

fn many(ours: &dyn Recorder, bare: &dyn Recorder) {
    let (keys, scopes) = (many_keys(), many_scopes());
    assert_eq!(scopes.len(), SCOPES);
    let in_order: Vec<_> = scopes
        .iter()
        .flat_map(|scope| keys.iter().map(move |key| (*scope, key)))
        .collect();
    let mut at_random = in_order.clone();
    let mut state = 1_u64;
    for at in (1..at_random.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        at_random.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
    }
    for (what, target, order) in [
        ("in order", "≤ 0.60", &in_order),
        ("at random", "≤ 0.70", &at_random),
    ] {
        let rounds = u32::try_from(order.len()).unwrap();
        let per_increment = |nanos: f64| nanos / f64::from(rounds);
        settle(|| {
            for (scope, key) in order {
                scope.run(|| increment(ours, key));
            }
        });
        let paired = paired(
            || {
                per_increment(nanos(10, || {
                    for (scope, key) in order {
                        scope.run(|| increment(ours, key));
                    }
                }))
            },
            || {
                per_increment(nanos(10, || {
                    for (_, key) in order {
                        increment(bare, key);
                    }
                }))
            },
        );
        let count = allocations(|| {
            let (scope, key) = order[0];
            scope.run(|| increment(ours, key));
        });
        row(
            &format!("{COUNTERS} counters in {SCOPES} scopes, {what}"),
            &paired,
            target,
            count,
        );
    }
}

/// One digit of a scope's number.
#[derive(Clone, Copy)]
struct Digit<const PLACE: usize>(usize);

impl<const PLACE: usize> BoundedLabel for Digit<PLACE> {
    const NAME: &'static str = ["ones", "tens", "hundreds"][PLACE];
    const VALUES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

    fn index(self) -> usize {
        self.0
    }
}

/// One kept handle, used in scopes that follow each other at random.
fn many_scopes_per_counter(ours: &dyn Recorder, bare: &dyn Recorder) {
    header("a kept handle, in scopes at random / bare, none");
    for (scopes, target) in [(1, ""), (24, ""), (150, ""), (450, ""), (1_000, "≤ 2 × 1 scope")] {
        let [ours, bare] =
            [ours, bare].map(|it| with_local_recorder(it, || counter!("in_many_scopes_total")));
        let mut state = 1_u64;
        let order: Vec<_> = (0..1 << 16)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 33).unwrap() % scopes;
                Scope::new(&(
                    Digit::<0>(at % 10),
                    Digit::<1>(at / 10 % 10),
                    Digit::<2>(at / 100),
                ))
            })
            .collect();
        let increment = |counter: &Counter| {
            let all = nanos(1, || {
                for scope in &order {
                    scope.run(|| black_box(counter).increment(1));
                }
            });
            all / f64::from(1 << 16)
        };
        settle(|| _ = increment(&ours));
        let count = allocations(|| order[0].run(|| ours.increment(1)));
        row(
            &format!("one counter, {scopes} scopes"),
            &paired(|| increment(&ours), || increment(&bare)),
            target,
            count,
        );
    }
}

fn excluded(bare: &dyn Recorder, client: Scope) {
    let layer = ScopedRecorderLayer::new().exclude("requests_total");
    let excluding = Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    header("a macro, excluded / bare");
    row(
        "excluded",
        &against((&excluding, client), macro_increment, bare, macro_increment),
        "",
        with_local_recorder(&excluding, || client.run(|| allocations(macro_increment))),
    );
}

fn dynamic(ours: &dyn Recorder, bare: &dyn Recorder, scope: Scope) {
    // More than are cached, so that each is registered anew.
    let names: Vec<SharedString> = (0..5_000)
        .map(|at| SharedString::from(format!("dynamic_{at}_total")))
        .collect();
    let mut next = [0, 0];
    let mut increment = |side: usize, recorder: &dyn Recorder| {
        nanos(CALLS / 10, || {
            next[side] = (next[side] + 1) % names.len();
            increment(recorder, &Key::from_name(names[next[side]].clone()));
        })
    };
    let increment = std::cell::RefCell::new(&mut increment);
    let paired = paired(
        || scope.run(|| increment.borrow_mut()(0, ours)),
        || increment.borrow_mut()(1, bare),
    );
    row("5,000 dynamic keys in turn", &paired, "", "");
}

/// Two threads at a time. Each has its own view of a recorder, so this is by register, as a macro does it.
fn threads(scope: Scope) {
    for (what, is_shared, target) in [("one counter", true, "≤ 1.0"), ("a counter each", false, "")] {
        let run = |recorder: &(dyn Recorder + Sync), scope: Scope| {
            let barrier = Barrier::new(2);
            let keys = [
                "thread_0_total",
                if is_shared {
                    "thread_0_total"
                } else {
                    "thread_1_total"
                },
            ];
            let nanos: Vec<f64> = thread::scope(|threads| {
                let work = keys.map(|name| {
                    let (barrier, key) = (&barrier, Key::from_static_name(name));
                    threads.spawn(move || {
                        scope.run(|| settle(|| increment(recorder, &key)));
                        barrier.wait();
                        scope.run(|| nanos(CALLS, || increment(recorder, &key)))
                    })
                });
                work.map(|thread| thread.join().unwrap()).into()
            });
            nanos.iter().sum::<f64>() / 2.0
        };
        let bare = PrometheusBuilder::new().build_recorder();
        let ours = Install::new(PrometheusBuilder::new()).build_recorder();
        let paired = paired(|| run(&ours, scope), || run(&bare, Scope::none()));
        row(&format!("two threads on {what}"), &paired, target, "");
    }
}

fn rivals(bare: &dyn Recorder, client: Scope) {
    header("other ways to get the labels / bare, none");
    let row_of = |what: &str, recorder: &dyn Recorder, f: &dyn Fn()| {
        let paired = against((recorder, Scope::none()), f, bare, macro_increment);
        row(
            what,
            &paired,
            "",
            with_local_recorder(recorder, || allocations(f)),
        );
    };
    row_of("seven labels at the call, all literals", bare, &|| {
        counter!(
            "requests_total",
            "client_address_ip_family" => "inet", "client_address_ip_type" => "v4_mapped_v6",
            "server_binding_address_ip_family" => "inet6", "server_binding_address_ip_type" => "plain",
            "server_binding_ip" => "::", "server_binding_port" => "6969", "server_binding_protocol" => "udp",
        )
        .increment(1);
    });
    let run_time = black_box(["inet", "v4_mapped_v6", "6969"]);
    row_of(
        "seven labels at the call, three of them at run time",
        bare,
        &|| {
            counter!(
            "requests_total",
            "client_address_ip_family" => run_time[0], "client_address_ip_type" => run_time[1],
            "server_binding_address_ip_family" => "inet6", "server_binding_address_ip_type" => "plain",
            "server_binding_ip" => "::", "server_binding_port" => run_time[2], "server_binding_protocol" => "udp",
        )
        .increment(1);
        },
    );
    let labels: Vec<Label> = client
        .pairs()
        .iter()
        .map(|(name, value)| Label::from_static_parts(name, value))
        .collect();
    let key = Key::from_static_name("requests_total");
    row_of("a key with extra labels, at each increment", bare, &|| {
        increment(bare, &key.with_extra_labels(labels.clone()));
    });
    let strings: BTreeMap<String, String> = client
        .pairs()
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    row_of("a map of strings, at each increment", bare, &|| {
        let labels: Vec<Label> = strings.iter().map(Label::from).collect();
        increment(bare, &Key::from_parts("requests_total", labels));
    });

    let context = TracingContextLayer::all().layer(PrometheusBuilder::new().build_recorder());
    let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
    tracing::subscriber::with_default(subscriber, || {
        let two = tracing::info_span!(
            "two",
            client_address_ip_family = "inet",
            client_address_ip_type = "plain"
        );
        two.in_scope(|| {
            row_of(
                "`metrics-tracing-context`, two fields of a span",
                &context,
                &macro_increment,
            );
        });
        let seven = tracing::info_span!(
            "seven",
            client_address_ip_family = "inet",
            client_address_ip_type = "plain",
            server_binding_address_ip_family = "inet6",
            server_binding_address_ip_type = "plain",
            server_binding_ip = "::",
            server_binding_port = "6969",
            server_binding_protocol = "udp"
        );
        seven.in_scope(|| {
            row_of(
                "`metrics-tracing-context`, seven fields of a span",
                &context,
                &macro_increment,
            );
        });
    });
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn memory() {
    let bytes = |counters: usize, scopes: usize| {
        let recorder = Arc::new(Install::new(PrometheusBuilder::new()).build_recorder());
        let (keys, scopes) = (&many_keys()[..counters], &many_scopes()[..scopes]);
        let touch = || {
            for scope in scopes {
                for key in keys {
                    scope.run(|| increment(&*recorder, key));
                }
            }
        };
        // What the exporter itself keeps is there already.
        thread::scope(|threads| threads.spawn(touch).join().unwrap());
        thread::scope(|threads| {
            threads
                .spawn(|| allocation_counter::measure(touch).bytes_current)
                .join()
                .unwrap()
        })
    };
    println!("\nCache of a thread, KiB:");
    for (counters, scopes) in [(1, 1), (16, 3), (COUNTERS, 3), (COUNTERS, SCOPES)] {
        println!(
            "- {counters} counters, {scopes} scopes: {:.1}",
            bytes(counters, scopes) as f64 / 1024.0
        );
    }
}
