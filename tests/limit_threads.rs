//! Threads that make the same new label sets until the limit. The program is small enough for Miri, which tries the
//! orders that memory allows:
//!
//! ```text
//! MIRIFLAGS="-Zmiri-many-seeds=0..32 -Zmiri-disable-isolation" cargo +nightly miri test --no-default-features --test limit_threads
//! ```

use std::{sync::Barrier, thread};

use dualstack_metrics::{
    FixedLabel, Scope,
    scope::{label_sets, limit_label_sets, overflows},
};

const THREADS: usize = 3;
const VALUES: usize = 4;

#[test]
fn threads_that_take_the_last_places_agree() {
    let label = FixedLabel::new("n", (0..VALUES).map(|n| n.to_string())).unwrap();
    let others = FixedLabel::new("other", ["x"]).unwrap();
    // One place too few for the values and their combinations.
    limit_label_sets(2 * VALUES - 1, 0).unwrap();
    let start = Barrier::new(THREADS);
    let work = |thread: usize| {
        start.wait();
        let values = (0..VALUES).map(|n| label.value(((n + thread) % VALUES).to_string()));
        let made = values.map(|value| {
            let alone = Scope::new(&value);
            let both = alone.with(&others.value("x"));
            let current = both.run(Scope::current);
            (value.as_str(), alone, both, current)
        });
        made.collect::<Vec<_>>()
    };
    let all: Vec<_> = thread::scope(|threads| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                threads.spawn({
                    let work = &work;
                    move || work(thread)
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });

    assert_eq!(label_sets(), 2 * VALUES - 1);
    assert!(overflows() >= 1);
    for (value, alone, both, current) in all {
        assert_eq!(current, both);
        for (scope, complete) in [
            (alone, &[("n", value)][..]),
            (both, &[("n", value), ("other", "x")]),
        ] {
            // A label is left out at the limit, but each set is one set for all threads.
            assert!(
                scope.pairs().iter().all(|pair| complete.contains(pair)),
                "{scope:?}"
            );
            if scope.pairs() == complete {
                let again = Scope::new(&label.value(value));
                assert_eq!(
                    scope,
                    if complete.len() == 1 {
                        again
                    } else {
                        again.with(&others.value("x"))
                    }
                );
            }
        }
    }
}
