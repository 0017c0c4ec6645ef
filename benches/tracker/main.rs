//! Requests that a UDP tracker (BEP 15) answers in a second of CPU time, for several trackers in turn.
//!
//! ```text
//! cargo build --release -p tracker
//! target/release/tracker --udp [::]:6969 --http 127.0.0.1:0 --metrics 127.0.0.1:0 --no-kernel \
//!     --max-peers-per-address 500000 &
//! opentracker -i 127.0.0.1 -p 7969 -P 7969 &
//! cargo bench --bench tracker -- ours,$(pgrep -x tracker),127.0.0.1:6969 ours,$(pgrep -x tracker),[::1]:6969 \
//!     opentracker,$(pgrep -x opentracker),127.0.0.1:7969
//! ```
//!
//! Two clients keep 32 requests under way each: announces for 1,000 torrents, whose answers have about 180 bytes, and a
//! connect before every eighth. With `--clients 64` there are 64 with one request each. With `--flood 150000` one client
//! sends so many requests per second, whether they are answered or not, and another one 1,000 per second.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod flood;

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("reads the CPU time of a process from /proc, which only Linux has");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs,
        net::SocketAddr,
        thread,
        time::{Duration, Instant},
    };

    use super::{client::Client, flood};

    const ROUNDS: usize = 7;
    const ROUND: Duration = Duration::from_secs(1);
    /// Enough for each torrent to have more peers than an answer.
    const WARM_UP: Duration = Duration::from_secs(3);
    const IN_FLIGHT: usize = 64;

    struct Tracker {
        name: String,
        process: u32,
        address: SocketAddr,
        rounds: Vec<Round>,
    }

    /// What a tracker did in a round.
    struct Round {
        answers: u64,
        bytes: u64,
        cpu: Duration,
        took: Duration,
    }

    impl Round {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        fn answers_per_cpu_second(&self) -> f64 {
            self.answers as f64 / self.cpu.as_secs_f64()
        }
    }

    pub(super) fn main() {
        let (mut clients, mut rate, mut trackers) = (2, None, Vec::new());
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().expect("a number");
            match &argument[..] {
                "--clients" => clients = number().parse().expect("a number"),
                "--flood" => rate = Some(number().parse().expect("a number")),
                tracker => trackers.push(Tracker::from_argument(tracker)),
            }
        }
        match rate {
            Some(rate) => {
                for tracker in &trackers {
                    flood::print(&tracker.name, tracker.address, rate);
                }
            }
            None => compare(&mut trackers, clients),
        }
    }

    impl Tracker {
        fn from_argument(argument: &str) -> Self {
            let parts: Vec<_> = argument.split(',').collect();
            let [name, process, address] = parts[..] else {
                panic!("`{argument}` is not NAME,PROCESS,ADDRESS");
            };
            Self {
                name: name.to_owned(),
                process: process.parse().expect("the number of a process"),
                address: address.parse().expect("an address"),
                rounds: Vec::new(),
            }
        }

        /// The CPU time of the process.
        fn cpu(&self) -> Duration {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.process)).expect("a process");
            let (_, fields) = stat.rsplit_once(')').expect("the name of the process");
            let ticks = fields.split_whitespace().skip(11).take(2);
            let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
            // `USER_HZ` is 100 on all architectures but Alpha and IA-64.
            Duration::from_millis(ticks * 10)
        }

        fn run(&self, clients: usize, time: Duration) -> Round {
            let (cpu, start) = (self.cpu(), Instant::now());
            let threads = clients.min(2);
            let (answers, bytes) = thread::scope(|scope| {
                let run = || Client::run_all(self.address, clients / threads, IN_FLIGHT / clients, time);
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
                let answers = threads.into_iter().map(|thread| thread.join().expect("no panic"));
                answers.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            });
            Round {
                answers,
                bytes,
                cpu: self.cpu().saturating_sub(cpu),
                took: start.elapsed(),
            }
        }
    }

    fn compare(trackers: &mut [Tracker], clients: usize) {
        for tracker in &*trackers {
            tracker.run(2, WARM_UP);
        }
        for _ in 0..ROUNDS {
            for tracker in &mut *trackers {
                let round = tracker.run(clients, ROUND);
                tracker.rounds.push(round);
            }
        }
        println!(
            "\n| tracker | address | answers per CPU second, median (range) | of the first | answers/s | bytes |"
        );
        println!("|---|---|---|---|---|---|");
        let mut first = None;
        for tracker in trackers {
            tracker
                .rounds
                .sort_by(|a, b| a.answers_per_cpu_second().total_cmp(&b.answers_per_cpu_second()));
            let at = |round: usize| tracker.rounds[round].answers_per_cpu_second();
            let median = &tracker.rounds[ROUNDS / 2];
            let (per_cpu, low, high) = (at(ROUNDS / 2), at(0), at(ROUNDS - 1));
            println!(
                "| {} | {} | {per_cpu:.0} ({low:.0} to {high:.0}) | {:.2} | {} | {} |",
                tracker.name,
                tracker.address,
                per_cpu / *first.get_or_insert(per_cpu),
                u128::from(median.answers) * 1_000 / median.took.as_millis(),
                median.bytes / median.answers.max(1),
            );
        }
    }
}
