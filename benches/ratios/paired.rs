use std::{fmt::Display, hint::black_box, time::Instant};

const ROUNDS: usize = 21;

/// Nanoseconds that a call of `f` takes.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn nanos(calls: u32, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        f();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

/// The round with the median ratio, so that the ratio is the quotient of the times: the nanoseconds of a call on each
/// side, and the quartiles of the ratios of all rounds.
pub(crate) struct Paired {
    pub(crate) ours: f64,
    pub(crate) rival: f64,
    pub(crate) quartiles: [f64; 2],
}

impl Paired {
    pub(crate) fn of_rounds(mut rounds: Vec<(f64, f64)>) -> Self {
        let ratio = |(ours, rival): (f64, f64)| ours / rival;
        rounds.sort_by(|a, b| ratio(*a).total_cmp(&ratio(*b)));
        let (ours, rival) = rounds[rounds.len() / 2];
        let quartiles = [rounds.len() / 4, rounds.len() - 1 - rounds.len() / 4].map(|at| ratio(rounds[at]));
        Self {
            ours,
            rival,
            quartiles,
        }
    }

    pub(crate) fn ratio(&self) -> f64 {
        self.ours / self.rival
    }
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
    Paired::of_rounds(rounds)
}

pub(crate) fn header(title: &str) {
    println!("\n| {title} | ns | rival, ns | ratio | quartiles | target | allocations |");
    println!("|---|---|---|---|---|---|---|");
}

pub(crate) fn row(what: &str, paired: &Paired, target: &str, allocations: impl Display) {
    let (
        Paired {
            ours,
            rival,
            quartiles: [low, high],
        },
        ratio,
    ) = (paired, paired.ratio());
    let limit = target.trim_start_matches("≤ ").parse::<f64>();
    let missed = if limit.is_ok_and(|limit| ratio > limit) {
        ", missed"
    } else {
        ""
    };
    println!(
        "| {what} | {ours:.1} | {rival:.1} | **{ratio:.2}** | {low:.2} to {high:.2} | {target}{missed} | {allocations} |"
    );
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
