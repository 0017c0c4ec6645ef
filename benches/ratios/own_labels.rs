//! Your own labels: 50 tenants, 3 plans and a header, for 3 classes of clients.

use std::hint::black_box;

use dualstack_metrics::{
    BoundedLabel, CappedLabel, ClientLabels, FixedLabel, Scope, labels::LabelText, prometheus::Install,
    scope::overflows,
};
use metrics::{Counter, Recorder, counter, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
use metrics_util::layers::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{
    increments::{scopes, settle},
    paired::{allocations, header, nanos, paired, row},
};

const CALLS: u32 = 200_000;
const REQUESTS: usize = 1 << 16;

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

#[derive(Clone, Copy)]
struct Plan(usize);

impl BoundedLabel for Plan {
    const NAME: &'static str = "plan";
    const VALUES: &'static [&'static str] = &["free", "paid", "internal"];

    fn index(self) -> usize {
        self.0
    }
}

/// What a request brings.
struct Request {
    client: ClientLabels,
    plan: Plan,
    tenant: String,
    referer: &'static str,
}

impl Request {
    fn labels(&self, tenants: FixedLabel) -> (Plan, impl dualstack_metrics::LabelSet + use<>) {
        (
            self.plan,
            (tenants.value(&self.tenant), REFERER.value(self.referer)),
        )
    }
}

/// One after the other at random, with so many tenants.
fn requests(tenants: usize) -> Vec<Request> {
    let mut state = 1_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % limit
    };
    (0..REQUESTS)
        .map(|_| Request {
            client: ClientLabels::ALL[below(3)],
            plan: Plan(below(3)),
            tenant: format!("tenant-{}.example", below(tenants)),
            referer: ["https://a.example/", "https://b.example/"][below(2)],
        })
        .collect()
}

/// Nanoseconds for one of the items.
fn each<T>(items: &[T], f: impl Fn(&T)) -> f64 {
    let all = nanos(1, || items.iter().for_each(&f));
    all / f64::from(u32::try_from(items.len()).unwrap())
}

pub(crate) fn print() {
    let tenants = FixedLabel::new("tenant", (0..200).map(|n| format!("tenant-{n}.example"))).unwrap();
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    in_many_scopes(&recorder, tenants);
    look_ups(tenants);
    beside_tracing(&recorder, tenants);
}

fn in_many_scopes(recorder: &dyn Recorder, tenants: FixedLabel) {
    header("50 tenants × 3 classes × 3 plans at random / one scope");
    let of_request = |request: &Request| {
        let client = scopes().for_client(request.client);
        Scope::new(&(client, request.plan, tenants.value(&request.tenant)))
    };
    let at_random: Vec<Scope> = requests(50).iter().map(of_request).collect();
    let one = vec![at_random[0]; REQUESTS];
    with_local_recorder(recorder, || {
        let kept = counter!("kept_by_tenant_total");
        let by_handle = |scope: &Scope| scope.run(|| black_box::<&Counter>(&kept).increment(1));
        let by_macro = |scope: &Scope| scope.run(|| counter!("requests_by_tenant_total").increment(1));
        for (what, increment) in [
            ("a kept handle", &by_handle as &dyn Fn(&Scope)),
            ("a macro", &by_macro),
        ] {
            settle(|| _ = each(&at_random, increment));
            let pair = paired(|| each(&at_random, increment), || each(&one, increment));
            row(what, &pair, "≤ 2.0", allocations(|| increment(&at_random[0])));
        }
    });
}

fn look_ups(tenants: FixedLabel) {
    header("making labels / entering and leaving a scope");
    let clients = scopes();
    let client = clients.for_client(ClientLabels::ALL[1]);
    let all = requests(200);
    let enter = || nanos(CALLS, || black_box(client).run(|| black_box(())));
    let of_each = |requests: &[Request], what: &str, f: &dyn Fn(&Request)| {
        requests.iter().for_each(f);
        row(
            what,
            &paired(|| each(requests, f), enter),
            "",
            allocations(|| f(&requests[0])),
        );
    };
    let of = |what: &str, f: &dyn Fn(&Request)| of_each(&all, what, f);
    let text = |request: &Request| _ = black_box(request.tenant.label_text());
    of("no label: reading the text alone", &text);
    of("`FixedLabel::value`, 200 values at random", &|request| {
        _ = black_box(tenants.value(&request.tenant));
    });
    of("`CappedLabel::value`, a known value", &|request| {
        _ = black_box(REFERER.value(request.referer));
    });
    let inner: Vec<Scope> = tenants.values().map(|tenant| Scope::new(&tenant)).collect();
    let mut pairs: Vec<(Scope, Scope)> = Vec::new();
    for request in &all {
        let at = request.tenant.len() * 7 + pairs.len() * 31;
        pairs.push((scopes().for_client(request.client), inner[at % inner.len()]));
    }
    let compose = |(outer, inner): &(Scope, Scope)| _ = black_box(outer.with(inner));
    pairs.iter().for_each(compose);
    row(
        "`with`, 3 classes × 201 tenants at random",
        &paired(|| each(&pairs, compose), enter),
        "",
        allocations(|| compose(&pairs[0])),
    );
    // With more tenants, a process would have too many label sets.
    of_each(
        &requests(100),
        "client, plan, tenant and referer into one scope",
        &|request| {
            let client = clients.for_client(request.client);
            _ = black_box(Scope::new(&(client, request.labels(tenants))));
        },
    );
    assert_eq!(overflows(), 0);
}

/// A request with five counters.
fn handle() {
    counter!("one_total").increment(1);
    counter!("two_total").increment(1);
    counter!("three_total").increment(1);
    counter!("four_total").increment(1);
    counter!("five_total").increment(1);
}

/// The same labels, by way of a scope and by way of a span.
fn beside_tracing(recorder: &dyn Recorder, tenants: FixedLabel) {
    header("five counters of a request with plan, tenant and referer / without labels");
    let requests = requests(50);
    let clients = scopes();
    let bare = PrometheusBuilder::new().build_recorder();
    let none = |_: &Request| handle();
    let measure = |what: &str, recorder: &dyn Recorder, f: &dyn Fn(&Request)| {
        let run = |recorder: &dyn Recorder, f: &dyn Fn(&Request)| {
            with_local_recorder(recorder, || each(&requests[..REQUESTS / 8], f))
        };
        settle(|| _ = run(recorder, f));
        let pair = paired(|| run(recorder, f), || run(&bare, &none));
        let count = with_local_recorder(recorder, || allocations(|| f(&requests[0])));
        row(what, &pair, "", count);
    };
    measure("a scope for the request", recorder, &|request| {
        let client = clients.for_client(request.client);
        Scope::new(&(client, request.labels(tenants))).run(handle);
    });
    measure("labels at the call", &bare, &|request| {
        macro_rules! count {
            ($($name:literal)+) => {$(
                counter!(
                    $name,
                    "plan" => Plan::VALUES[request.plan.0], "tenant" => request.tenant.clone(),
                    "referer" => request.referer
                )
                .increment(1);
            )+};
        }
        count!("one_total" "two_total" "three_total" "four_total" "five_total");
    });
    let context = TracingContextLayer::all().layer(PrometheusBuilder::new().build_recorder());
    let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
    tracing::subscriber::with_default(subscriber, || {
        measure(
            "`metrics-tracing-context`, a span for the request",
            &context,
            &|request| {
                let span = tracing::info_span!(
                    "request",
                    plan = Plan::VALUES[request.plan.0],
                    tenant = &*request.tenant,
                    referer = request.referer
                );
                span.in_scope(handle);
            },
        );
    });
}
