//! A flood from one client beside a modest second one.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::client::Client;

const TIME: Duration = Duration::from_secs(10);
/// Requests per second of the modest client.
const MODEST: u64 = 1_000;
/// Requests are sent together at this interval.
const TICK: Duration = Duration::from_millis(1);

/// Prints which part of the modest client's requests are answered, and how late, beside `rate` requests per second.
pub(crate) fn print(name: &str, tracker: SocketAddr, rate: u64) {
    let is_over = AtomicBool::new(false);
    let (flood, modest) = thread::scope(|scope| {
        let flood = scope.spawn(|| run(tracker, rate, &is_over));
        let modest = scope.spawn(|| run(tracker, MODEST, &is_over));
        thread::sleep(TIME);
        is_over.store(true, Ordering::Relaxed);
        (flood.join().expect("no panic"), modest.join().expect("no panic"))
    });
    for (client, outcome) in [("flood", flood), ("modest", modest)] {
        let Outcome { asked, mut late } = outcome;
        late.sort_unstable();
        let at = |part: usize| late.get(late.len() * part / 100).copied().unwrap_or_default();
        println!(
            "| {name} | {tracker} | {client} | {} asked/s | {} % answered | p50 {:.1} ms | p99 {:.1} ms |",
            asked / TIME.as_secs(),
            late.len() as u64 * 100 / asked.max(1),
            at(50).as_secs_f64() * 1e3,
            at(99).as_secs_f64() * 1e3,
        );
    }
}

struct Outcome {
    asked: u64,
    late: Vec<Duration>,
}

fn run(tracker: SocketAddr, rate: u64, is_over: &AtomicBool) -> Outcome {
    let mut client = Client::new(tracker);
    client.set_waiting(false);
    let (start, mut asked, mut late) = (Instant::now(), 0, Vec::new());
    let mut sent = Vec::new();
    let mut receive = |client: &mut Client, sent: &[Instant]| {
        while let Some((_, transaction)) = client.receive_transaction() {
            if let Some(sent) = sent.get(transaction as usize - 1) {
                late.push(sent.elapsed());
            }
        }
    };
    while !is_over.load(Ordering::Relaxed) {
        let due = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX) * rate / 1_000_000;
        while asked < due {
            sent.push(Instant::now());
            client.ask();
            asked += 1;
            if asked.is_multiple_of(32) {
                receive(&mut client, &sent);
            }
        }
        receive(&mut client, &sent);
        thread::sleep(TICK);
    }
    // What is late, but not lost.
    thread::sleep(Duration::from_millis(200));
    receive(&mut client, &sent);
    Outcome { asked, late }
}
