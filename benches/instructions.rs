//! A guard that noise cannot move: instructions for each hot operation, counted under callgrind, against a baseline.
//!
//! ```text
//! cargo bench --bench instructions               # fails when an operation has grown by more than 5 %
//! cargo bench --bench instructions -- --renew    # writes the baseline, benches/instructions.txt
//! ```
//!
//! Needs valgrind. A number is that of one compiler and one libc: renew the baseline with either.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    fmt::Write as _,
    fs,
    hint::black_box,
    net::SocketAddr,
    process::{Command, ExitCode},
};

use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Protocol, Scope, ScopedRecorderLayer, ServerBinding,
    prometheus::Install,
};
use futures_util::FutureExt as _;
use metrics::{Counter, counter, set_global_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer as _, Service as _, service_fn};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// In percent.
const MARGIN: u64 = 5;
const CALLS: u64 = 1_000;

type Operation = (&'static str, fn());

const OPERATIONS: &[Operation] = &[
    ("classify an address", || {
        let peer = black_box(SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0207], 6969)));
        measured(|| _ = black_box(ClientLabels::from(black_box(peer))));
    }),
    ("enter and leave a scope", || {
        let scope = client();
        measured(|| black_box(scope).run(|| black_box(())));
    }),
    ("nest a scope that was nested before", || {
        let (outer, inner) = (client(), Scope::new(&ClientLabels::UNKNOWN));
        measured(|| _ = black_box(black_box(outer).nest(inner)));
    }),
    ("macro increment, bare", || {
        assert!(set_global_recorder(PrometheusBuilder::new().build_recorder()).is_ok());
        measured(|| counter!("requests_total").increment(1));
    }),
    ("macro increment, in a scope", || {
        install(ScopedRecorderLayer::new());
        client().run(|| measured(|| counter!("requests_total").increment(1)));
    }),
    ("macro increment, in a scope, never revalidated", || {
        install(ScopedRecorderLayer::new().never_revalidate());
        client().run(|| measured(|| counter!("requests_total").increment(1)));
    }),
    ("macro increment, in a scope, with a label", || {
        install(ScopedRecorderLayer::new());
        client().run(|| measured(|| counter!("requests_total", "request_kind" => "announce").increment(1)));
    }),
    ("macro increment, outside every scope", || {
        install(ScopedRecorderLayer::new());
        measured(|| counter!("requests_total").increment(1));
    }),
    ("macro increment, excluded", || {
        install(ScopedRecorderLayer::new().exclude("requests_total"));
        client().run(|| measured(|| counter!("requests_total").increment(1)));
    }),
    ("kept handle, in a scope", || {
        install(ScopedRecorderLayer::new());
        let kept: Counter = counter!("requests_total");
        client().run(|| measured(|| kept.increment(1)));
    }),
    ("HTTP layer around a ready service", || {
        let peer: SocketAddr = ([192, 0, 2, 7], 50_000).into();
        let inner = service_fn(|_: http::Request<()>| {
            std::future::ready(Ok::<_, Infallible>(http::Response::new(())))
        });
        let mut service = ClientLabelsLayer::new(binding())
            .source(move |_: &_| Some(peer))
            .without_body()
            .layer(inner);
        measured(|| _ = black_box(service.call(black_box(http::Request::new(()))).now_or_never()));
    }),
];

fn binding() -> ServerBinding {
    ServerBinding::new(Protocol::Http, ([0; 16], 7070).into())
}

fn client() -> Scope {
    ClientScopes::new(binding()).for_client(ClientLabels::ALL[1])
}

fn install(layer: ScopedRecorderLayer) {
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    assert!(set_global_recorder(recorder).is_ok());
}

/// What is done in here is counted, and nothing else.
#[inline(never)]
fn counted_by_callgrind(mut operation: impl FnMut()) {
    for _ in 0..CALLS {
        operation();
    }
}

fn measured(mut operation: impl FnMut()) {
    for _ in 0..CALLS {
        operation();
    }
    counted_by_callgrind(operation);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [flag, name] = &arguments[..]
        && flag == "--operation"
    {
        let (_, operation) = OPERATIONS
            .iter()
            .find(|(known, _)| known == name)
            .expect("an operation");
        operation();
        return ExitCode::SUCCESS;
    }

    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: valgrind is not installed");
        return if env::var_os("REQUIRE_EXTERNAL").is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    let counts = OPERATIONS.iter().map(|(name, _)| (*name, count(name)));
    if arguments.iter().any(|argument| argument == "--renew") {
        let mut baseline = String::new();
        for (name, count) in counts {
            writeln!(baseline, "{count:>6} {name}").expect("a string takes everything");
        }
        print!("{baseline}");
        fs::write(BASELINE, baseline).expect("the baseline can be written");
        return ExitCode::SUCCESS;
    }

    let baseline = fs::read_to_string(BASELINE).expect("the baseline is there; `-- --renew` writes it");
    let baseline: BTreeMap<&str, u64> = baseline
        .lines()
        .filter_map(|line| line.trim_start().split_once(' '))
        .map(|(count, name)| (name, count.parse().expect("a number in front of each name")))
        .collect();
    let mut has_grown = false;
    println!("{:>6} {:>8}  instructions", "now", "baseline");
    for (name, now) in counts {
        let Some(before) = baseline.get(name) else {
            println!("{now:>6} {:>8}  {name}: NOT IN THE BASELINE", "");
            has_grown = true;
            continue;
        };
        let is_over = now * 100 > before * (100 + MARGIN);
        println!(
            "{now:>6} {before:>8}  {name}{}",
            if is_over { ": HAS GROWN" } else { "" }
        );
        has_grown |= is_over;
    }
    if has_grown {
        eprintln!("more than {MARGIN} % over the baseline; if that is meant, renew it with `-- --renew`");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions for one call, in a process of its own.
fn count(name: &str) -> u64 {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*counted_by_callgrind*",
        ])
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--operation", name])
        .output()
        .expect("valgrind runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let collected = stderr
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .map(|(_, count)| count.trim());
    match collected.map(str::parse::<u64>) {
        Some(Ok(collected)) if output.status.success() && collected > 0 => collected / CALLS,
        _ => panic!("{name}: {}\n{stderr}", output.status),
    }
}
