//! This crate and its alternatives side by side in one process: ratios of time, and heap allocations per operation.
//!
//! ```text
//! cargo bench --bench ratios            # everything, as Markdown
//! cargo bench --bench ratios -- udp     # one part: increments, labels, opentelemetry, http or udp
//! ```
//!
//! Each ratio is the median over rounds in which both sides run one after the other, so a machine whose speed drifts does
//! not matter.

mod http;
mod increments;
mod opentelemetry;
mod own_labels;
mod paired;
// Uses the CPU clock of a thread.
#[cfg(target_os = "linux")]
mod udp;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    #[cfg(target_os = "linux")]
    if udp::Load::is_sent(&arguments) {
        return;
    }
    let is_wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    if is_wanted("increments") {
        increments::print();
    }
    if is_wanted("labels") {
        own_labels::print();
    }
    if is_wanted("opentelemetry") {
        opentelemetry::print();
    }
    if is_wanted("http") {
        http::print();
    }
    #[cfg(target_os = "linux")]
    if is_wanted("udp") {
        udp::print();
    }
}
