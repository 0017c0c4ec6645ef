//! Counts in a scope with the oldest version of OpenTelemetry's API, which brings no SDK.

use std::sync::{Arc, Mutex};

use dualstack_metrics::{ClientLabels, Scope, ScopedMeterProvider};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{
        BoundSyncInstrument, Counter, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider,
        SyncInstrument,
    },
};

/// Keeps the measurements.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(u64, Vec<KeyValue>)>>>);

impl MeterProvider for Kept {
    fn meter_with_scope(&self, _: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }
}

impl InstrumentProvider for Kept {
    fn u64_counter(&self, _: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Arc::new(self.clone()))
    }
}

impl SyncInstrument<u64> for Kept {
    fn measure(&self, value: u64, attributes: &[KeyValue]) {
        self.0.lock().unwrap().push((value, attributes.to_vec()));
    }

    fn bind(&self, attributes: &[KeyValue]) -> Box<dyn BoundSyncInstrument<u64> + Send + Sync> {
        Box::new(Bound(self.clone(), attributes.to_vec()))
    }
}

struct Bound(Kept, Vec<KeyValue>);

impl BoundSyncInstrument<u64> for Bound {
    fn measure(&self, value: u64) {
        self.0.measure(value, &self.1);
    }
}

fn main() {
    let kept = Kept::default();
    let counter = ScopedMeterProvider::new(kept.clone())
        .meter("floors")
        .u64_counter("requests")
        .build();
    let labels = [
        KeyValue::new("client_address_ip_family", "unknown"),
        KeyValue::new("client_address_ip_type", "unknown"),
    ];
    let kind = KeyValue::new("kind", "announce");
    Scope::new(&ClientLabels::UNKNOWN).run(|| {
        for value in 1..=3 {
            counter.add(value, &[]);
            counter.add(value, &[kind.clone()]);
        }
    });
    let expected = (1..=3).flat_map(|value| {
        let with_kind = [&[kind.clone()][..], &labels].concat();
        [(value, labels.to_vec()), (value, with_kind)]
    });
    assert_eq!(*kept.0.lock().unwrap(), expected.collect::<Vec<_>>());
    println!("what was measured has the attributes of the scope");
}
