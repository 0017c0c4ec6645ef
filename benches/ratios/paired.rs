use std::{fmt::Display, hint::black_box, time::Instant};

const ROUNDS: usize = 21;

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds that a call of `f` takes.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn nanos(calls: u32, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        f();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

/// The nanoseconds of a call on each side, and the ratio of the first to the second.
pub(crate) struct Paired {
    pub(crate) ours: f64,
    pub(crate) rival: f64,
    pub(crate) ratio: f64,
}

/// Runs both sides in turn. Each returns the nanoseconds of a call.
pub(crate) fn paired(mut ours: impl FnMut() -> f64, mut rival: impl FnMut() -> f64) -> Paired {
    // To warm up.
    ours();
    rival();
    // The layout of the heap changes a result by up to 10 ns, so each round has another layout.
    let mut heap = Vec::new();
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|round| {
            heap.push(black_box([const { Vec::<u8>::new() }; 3]));
            heap.extend((0..round % 8).map(|_| [32, 48, 64].map(Vec::with_capacity)));
            (ours(), rival())
        })
        .collect();
    Paired {
        ours: median(rounds.iter().map(|round| round.0).collect()),
        rival: median(rounds.iter().map(|round| round.1).collect()),
        ratio: median(rounds.iter().map(|round| round.0 / round.1).collect()),
    }
}

pub(crate) fn header(title: &str) {
    println!("\n| {title} | ns | rival, ns | ratio | target | allocations |");
    println!("|---|---|---|---|---|---|");
}

pub(crate) fn row(what: &str, paired: &Paired, target: &str, allocations: impl Display) {
    let Paired { ours, rival, ratio } = paired;
    println!("| {what} | {ours:.1} | {rival:.1} | **{ratio:.2}** | {target} | {allocations} |");
}

/// Heap allocations that a call of `f` makes, after warming up.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn allocations(mut f: impl FnMut()) -> f64 {
    const CALLS: u32 = 1_000;

    for _ in 0..CALLS {
        f();
    }
    let info = allocation_counter::measure(|| {
        for _ in 0..CALLS {
            f();
        }
    });
    info.count_total as f64 / f64::from(CALLS)
}
