//! A global allocator that counts: wherever the recorder allocates, the same counter can be incremented.

use std::{
    alloc::System,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use dualstack_metrics::ScopedRecorderLayer;
use metrics::{Counter, CounterFn, Key, Level, Metadata, counter};
use test_support::{CountersOf, numbered};
use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker, Allocator};

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

/// In each round, the calls for at least so many bytes are counted. If all of them are, the recorder has finished a
/// part of its work when it is interrupted in the next.
const AT_LEAST: [usize; 6] = [0, 64, 128, 256, 512, 1_024];
static ROUND: AtomicUsize = AtomicUsize::new(0);
static KEPT: [OnceLock<Counter>; AT_LEAST.len()] = [const { OnceLock::new() }; AT_LEAST.len()];
static MEMORY_CALLS: AtomicU64 = AtomicU64::new(0);
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// The allocator does not call it for allocations in here.
struct Counts;

impl Counts {
    fn count(size: usize) {
        let round = ROUND.load(Ordering::Relaxed);
        if let Some(kept) = KEPT[round].get()
            && size >= AT_LEAST[round]
        {
            MEMORY_CALLS.fetch_add(2, Ordering::Relaxed);
            kept.increment(1);
            counter!("memory_calls_total").increment(1);
        }
    }
}

impl AllocationTracker for Counts {
    fn allocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId) {
        Self::count(size);
    }

    fn deallocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId, _: AllocationGroupId) {
        Self::count(size);
    }
}

struct CountsTogether(Vec<String>);

impl CounterFn for CountsTogether {
    fn increment(&self, value: u64) {
        if self.0[0] == "memory_calls_total" {
            COUNTED.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn absolute(&self, _: u64) {}
}

#[test]
fn every_allocation_is_counted_and_none_hangs() {
    // Renews each lease, too.
    let layer = ScopedRecorderLayer::new().revalidate_after(Duration::from_micros(50));
    // Allocates for each registration, without a lock, unlike the Prometheus exporter.
    let allocates =
        CountersOf::new(|key, _| Counter::from_arc(Arc::new(CountsTogether(vec![key.name().to_owned()]))));
    assert!(metrics::set_global_recorder(layer.wrap(allocates)).is_ok());
    let scopes: Vec<_> = (0..100).map(numbered).collect();
    let names: Vec<_> = (0..5_000).map(|at| format!("name_{at}_total")).collect();
    assert!(AllocationRegistry::set_global_tracker(Counts).is_ok());

    let (done, is_done) = mpsc::channel();
    let worker = thread::spawn(move || {
        for (round, kept) in KEPT.iter().enumerate() {
            ROUND.store(round, Ordering::Relaxed);
            let target = format!("round {round}");
            let metadata = Metadata::new(&target, Level::INFO, None);
            let key = Key::from_static_name("memory_calls_total");
            let new = metrics::with_recorder(|recorder| recorder.register_counter(&key, &metadata));
            assert!(kept.set(new.clone()).is_ok());
            AllocationRegistry::enable_tracking();
            for scope in &scopes {
                scope.run(|| {
                    new.increment(0);
                    counter!("memory_calls_total").increment(0);
                    counter!("other_total", "kind" => String::from("other")).increment(1);
                });
            }
            // More than are cached.
            for (at, name) in names.iter().enumerate() {
                scopes[at % 100].run(|| counter!(name.clone()).increment(1));
            }
        }
        AllocationRegistry::disable_tracking();
        done.send(()).unwrap();
    });
    let is_done = is_done.recv_timeout(Duration::from_secs(30));
    AllocationRegistry::disable_tracking();
    assert_eq!(
        is_done,
        Ok(()),
        "the allocator waits for the code that it interrupts"
    );
    worker.join().unwrap();
    let calls = MEMORY_CALLS.load(Ordering::Relaxed);
    assert!(calls > 10_000, "{calls}");
    assert_eq!(COUNTED.load(Ordering::Relaxed), calls);
}
