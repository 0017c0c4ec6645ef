//! This crate and its alternatives side by side in one process: ratios of time, and heap allocations per operation.
//!
//! ```text
//! cargo bench --bench ratios            # everything, as Markdown
//! cargo bench --bench ratios -- udp     # one part: increments, labels, opentelemetry, http or udp
//! ```
//!
//! Each row is the round with the median ratio. Both sides run one after the other in each round, so a machine whose speed
//! drifts does not matter.

mod http;
mod increments;
mod opentelemetry;
mod own_labels;
mod paired;
// Uses the CPU clock of a thread.
#[cfg(target_os = "linux")]
mod udp;

const PARTS: &[(&str, fn())] = &[
    ("increments", increments::print),
    ("labels", own_labels::print),
    ("opentelemetry", opentelemetry::print),
    ("http", http::print),
    #[cfg(target_os = "linux")]
    ("udp", udp::print),
];

/// The processor, the kernel and the load.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let processor = processor.map_or("unknown processor", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{processor}, {cores} cores, {} {}, load {load}",
        std::env::consts::OS,
        kernel.trim()
    )
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    #[cfg(target_os = "linux")]
    if udp::Load::is_sent(&arguments) {
        return;
    }
    for (part, print) in PARTS {
        if arguments.is_empty() {
            // In a process of its own, because together they have more label sets than a process can.
            let program = std::env::current_exe().expect("this program has a path");
            let status = std::process::Command::new(program).arg(part).status();
            assert!(status.expect("the part runs").success());
        } else if arguments.iter().any(|argument| argument == part) {
            println!("\n{}", machine());
            print();
        }
    }
}
