use std::convert::Infallible;

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, Datagram, FixedLabel, LabelsLayer, Scope, ScopedRecorderLayer, WithScope,
    prometheus::{Install, PrometheusBuilder},
};
use futures_util::{FutureExt, StreamExt as _, future, stream};
use metrics::{counter, gauge};
use test_support::{
    Log, MAPPED, and, each, loopbacks, recorded, recorded_by, sample, seven, soon,
    udp::{self, Running},
};
use tower::{ServiceExt, service_fn};

use super::{MAPPED_CLIENT, Plan, client_layer, from, send, server};

/// Counts when it is dropped.
pub(super) struct CountDrop;

impl Drop for CountDrop {
    fn drop(&mut self) {
        counter!("dropped_total").increment(1);
    }
}

pub(super) async fn buy() -> Body {
    counter!("begun_total").increment(1);
    tokio::task::yield_now().await;
    Scope::add(&Plan::Paid);
    counter!("authenticated_total").increment(1);
    tokio::task::yield_now().await;
    counter!("bought_total").increment(1);
    let chunks = stream::unfold((0, CountDrop), |(n, guard)| async move {
        tokio::task::yield_now().await;
        counter!("chunks_total").increment(1);
        (n < 2).then_some((Ok::<_, Infallible>("x"), (n + 1, guard)))
    });
    Body::from_stream(chunks)
}

#[test]
fn a_label_that_is_added_late_holds_for_the_rest_of_the_request() {
    let app = Router::new()
        .route("/", get(buy))
        .route("/hello", get(async || counter!("hellos_total").increment(1)))
        .layer(client_layer());
    recorded(async |metrics| {
        assert_eq!(send(app.clone(), from(MAPPED_CLIENT)).await, "xx");
        let mut hello = from(MAPPED_CLIENT);
        *hello.uri_mut() = "/hello".parse().unwrap();
        // At the same time as a request that adds a label.
        let (one, other) = future::join(send(app.clone(), from(MAPPED_CLIENT)), send(app, hello)).await;
        assert_eq!((&*one, &*other), ("xx", ""));
        let before = seven("http", server(), MAPPED);
        let after = and(before.clone(), "plan", "paid");
        metrics.assert([
            sample("begun_total", &before, 2),
            sample("hellos_total", &before, 1),
            sample("authenticated_total", &after, 2),
            sample("bought_total", &after, 2),
            sample("chunks_total", &after, 6),
            sample("dropped_total", &after, 2),
        ]);
    });
}

#[test]
fn a_request_that_is_cancelled_after_a_label_was_added_counts_with_it() {
    let app = Router::new()
        .route(
            "/",
            get(async || {
                let _guard = CountDrop;
                Scope::add(&Plan::Paid);
                future::pending::<()>().await;
            }),
        )
        .layer(client_layer());
    recorded(async |metrics| {
        assert!(app.oneshot(from(MAPPED_CLIENT)).now_or_never().is_none());
        let labels = and(seven("http", server(), MAPPED), "plan", "paid");
        metrics.assert([sample("dropped_total", &labels, 1)]);
    });
}

#[test]
fn a_label_is_added_to_the_scope_in_force_and_to_no_other() {
    let scope = Scope::new(&ClientLabels::UNKNOWN);
    let paid = Scope::new(&(scope, Plan::Paid));
    scope.run(|| {
        Scope::add(&Plan::Free);
        Scope::add(&Plan::Paid);
        assert_eq!(Scope::current(), paid);
        Scope::new(&Plan::Free).run(|| {
            Scope::add(&ClientLabels::UNKNOWN);
            assert_eq!(Scope::current().value_of("plan"), Some("free"));
        });
        assert_eq!(Scope::current(), paid);
    });
    // A future in a future: the label is the inner one's.
    let inner = async {
        Scope::add(&Plan::Paid);
        Scope::current()
    };
    let outer = async move { (inner.with_scope(scope).await, Scope::current()) };
    assert_eq!(outer.with_scope(scope).now_or_never(), Some((paid, scope)));
    // A stream keeps it from item to item.
    let mut items = stream::iter([0, 1])
        .map(|n| {
            if n == 0 {
                Scope::add(&Plan::Paid);
            }
            Scope::current()
        })
        .with_scope(scope);
    assert_eq!(
        items.by_ref().collect::<Vec<_>>().now_or_never(),
        Some(vec![paid; 2])
    );
    assert_eq!(items.scope(), paid);
}

#[test]
fn outside_every_scope_nothing_is_added_and_one_warning_says_so() {
    let log = Log::of_thread();
    for _ in 0..2 {
        Scope::add(&Plan::Paid);
        assert_eq!(Scope::current(), Scope::none());
    }
    assert_eq!(
        log.lines(),
        [
            "WARN dualstack_metrics::scope::compose: `Scope::add` was called outside every scope, so its labels are left out: \
             call it in a request below `ClientLabelsLayer`, `LabelsLayer` or `UdpServer`, or in a future that was put \
             into a scope with `with_scope`"
        ]
    );
}

/// Raises a gauge, and lowers it when it is dropped.
struct InFlight;

impl InFlight {
    fn new() -> Self {
        gauge!("in_flight").increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("in_flight").decrement(1.0);
    }
}

#[test]
fn a_gauge_is_lowered_in_the_series_that_it_was_raised_in_although_a_label_was_added() {
    let handler = async || {
        let in_flight = InFlight::new();
        Scope::add(&Plan::Paid);
        tokio::task::yield_now().await;
        let _second = InFlight::new();
        let in_body = stream::once(async move {
            drop(in_flight);
            Ok::<_, Infallible>("x")
        });
        tokio::spawn(async { drop(InFlight) }.with_current_scope());
        gauge!("in_flight").increment(1.0);
        Body::from_stream(in_body)
    };
    // `LabelsLayer` adds its label where the scope is entered.
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let app = Router::new()
        .route("/", get(handler))
        .layer(LabelsLayer::new(move |_: &_| tenants.value("acme")))
        .layer(client_layer());
    let recorder = ScopedRecorderLayer::new().gauges();
    recorded_by(
        Install::new(PrometheusBuilder::new()).recorder(recorder),
        async |metrics| {
            for _ in 0..2 {
                assert_eq!(send(app.clone(), from(MAPPED_CLIENT)).await, "x");
            }
            let labels = and(seven("http", server(), MAPPED), "tenant", "acme");
            let expected = sample("in_flight", &labels, 0);
            soon("the spawned tasks end", || {
                metrics.samples() == [expected.as_str()]
            })
            .await;
        },
    );
}

/// A handler that adds its label before or after it makes its future.
fn paid(datagram: Datagram) -> impl Future<Output = Result<Option<Bytes>, Infallible>> {
    let is_late = datagram.payload() == "late";
    if !is_late {
        Scope::add(&Plan::Paid);
        counter!("begun_total").increment(1);
    }
    async move {
        let _guard = CountDrop;
        if is_late {
            tokio::task::yield_now().await;
            Scope::add(&Plan::Paid);
        }
        tokio::task::yield_now().await;
        counter!("bought_total").increment(1);
        Ok(Some(datagram.into_payload()))
    }
}

#[test]
fn a_label_that_is_added_late_holds_for_the_rest_of_a_datagram() {
    recorded(async |metrics| {
        let running = Running::start(udp::server("[::]:0"), service_fn(paid));
        let mut expected = Vec::new();
        for ip in loopbacks() {
            let asking = running.client(ip).await;
            for text in ["late", "early"] {
                assert_eq!(asking.ask(text.as_bytes()).await, text.as_bytes());
            }
            let client = running.labels(ip);
            let paid = and(client.clone(), "plan", "paid");
            let counts = [("begun_total", 1), ("bought_total", 2), ("dropped_total", 2)];
            expected.extend(each(&paid, counts));
            // The server's own counters have the labels of the client, so that all of a datagram's outcomes do.
            let counts = [("s_requests_received_total", 2), ("s_responses_sent_total", 2)];
            expected.extend(each(&client, counts));
        }
        running.stop().await;
        metrics.assert(expected);
    });
}
