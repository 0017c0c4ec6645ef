//! An `add` in a scope, against the SDK's own with no attributes and with the same attributes written by hand.

use std::{
    hint::black_box,
    sync::atomic::{AtomicI64, Ordering},
};

use dualstack_metrics::{ClientLabels, Scope, ScopedMeterProvider};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

use super::{
    increments::scopes,
    paired::{Paired, allocations, header, nanos, paired, row},
};

const CALLS: u32 = 200_000;

fn sdk() -> SdkMeterProvider {
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    SdkMeterProvider::builder().with_reader(reader).build()
}

fn counter(meter: &Meter) -> Counter<u64> {
    meter.u64_counter("requests").build()
}

fn no_attributes(counter: &Counter<u64>) {
    counter.add(1, &[]);
}

fn one_attribute(counter: &Counter<u64>) {
    counter.add(1, &[KeyValue::new("request_kind", "announce")]);
}

/// The labels of the contract, as a program without scopes writes them.
macro_rules! by_hand {
    ($($first:expr)?) => {
        [
            $($first,)?
            KeyValue::new("client_address_ip_family", black_box("inet")),
            KeyValue::new("client_address_ip_type", black_box("v4_mapped_v6")),
            KeyValue::new("server_binding_address_ip_family", black_box("inet6")),
            KeyValue::new("server_binding_address_ip_type", black_box("plain")),
            KeyValue::new("server_binding_ip", black_box("::")),
            KeyValue::new("server_binding_port", black_box("6969")),
            KeyValue::new("server_binding_protocol", black_box("udp")),
        ]
    };
}

fn seven_by_hand(counter: &Counter<u64>) {
    counter.add(1, &by_hand!());
}

fn eight_by_hand(counter: &Counter<u64>) {
    counter.add(1, &by_hand!(KeyValue::new("request_kind", "announce")));
}

/// 100,000 values in turn, far more than are remembered and than the SDK has series.
fn next_value() -> KeyValue {
    static NEXT: AtomicI64 = AtomicI64::new(0);

    KeyValue::new("peer", NEXT.fetch_add(1, Ordering::Relaxed) % 100_000)
}

fn dynamic_attribute(counter: &Counter<u64>) {
    counter.add(1, &[next_value()]);
}

fn eight_with_dynamic(counter: &Counter<u64>) {
    counter.add(1, &by_hand!(next_value()));
}

type Add = fn(&Counter<u64>);

pub(crate) fn print() {
    let providers = [(); 3].map(|()| sdk());
    let [alone, bound, plain] = &providers;
    let bound = ScopedMeterProvider::new(bound.clone()).meter("bound");
    let plain = ScopedMeterProvider::new(plain.clone())
        .without_binding()
        .meter("plain");
    let (alone, bound, plain) = (counter(&alone.meter("alone")), counter(&bound), counter(&plain));
    let client = scopes().for_client(ClientLabels::ALL[1]);

    let against = |ours: &Counter<u64>, scope: Scope, add: Add, rival: Add| -> (Paired, f64) {
        let paired = paired(
            || scope.run(|| nanos(CALLS, || add(ours))),
            || nanos(CALLS, || rival(&alone)),
        );
        (paired, scope.run(|| allocations(|| add(ours))))
    };
    let print = |what: &str, (paired, allocations): (Paired, f64), target: &str| {
        row(what, &paired, target, allocations);
    };

    header("an `add` of OpenTelemetry / the SDK alone");
    let outside = |add: Add| against(&bound, Scope::none(), add, add);
    print("no attributes, outside every scope", outside(no_attributes), "");
    print("one at the call, outside every scope", outside(one_attribute), "");
    let sdk = |add: Add| against(&alone, Scope::none(), add, no_attributes);
    print("the SDK with one / with none", sdk(one_attribute), "");
    print("the SDK with seven by hand / with none", sdk(seven_by_hand), "");
    for (path, ours, targets) in [
        ("bound", &bound, ["≤ 2.5", "≤ 0.1", "≤ 0.4"]),
        ("not bound", &plain, [""; 3]),
    ] {
        let inside = |add: Add, rival: Add| against(ours, client, add, rival);
        let [unlabelled, seven, eight] = targets;
        print(
            &format!("the scope's seven, {path} / none"),
            inside(no_attributes, no_attributes),
            unlabelled,
        );
        print(
            &format!("the scope's seven, {path} / seven by hand"),
            inside(no_attributes, seven_by_hand),
            seven,
        );
        print(
            &format!("the scope's seven and one at the call, {path} / eight by hand"),
            inside(one_attribute, eight_by_hand),
            eight,
        );
        let dynamic = against(ours, client, dynamic_attribute, eight_with_dynamic);
        let dynamic_row = format!("the scope's seven and 100,000 values in turn, {path} / eight by hand");
        row(&dynamic_row, &dynamic.0, "", "");
    }
}
