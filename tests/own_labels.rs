//! Your own labels: in requests over HTTP and UDP, added late, and written as `other`.

#![cfg(all(feature = "axum", feature = "udp", feature = "prometheus"))]

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use dualstack_metrics::{
    BoundedLabel, CappedLabel, ClientLabels, ClientLabelsLayer, ClientScopes, Datagram, FixedLabel,
    LabelsLayer, Protocol, Scope, ServerBinding, WithScope, prometheus::Install,
};
use futures_util::{FutureExt, StreamExt as _, future, stream};
use http_body_util::BodyExt;
use metrics::counter;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use test_support::{
    INET, INET6, Labels, Log, MAPPED, UNKNOWN, and, assert_samples, block_on, eventually, sample, samples,
    series, seven,
};
use tower::{Layer as _, Service as _, ServiceExt, service_fn};

#[derive(Clone, Copy)]
enum Plan {
    Free,
    Paid,
}

impl BoundedLabel for Plan {
    const NAME: &'static str = "plan";
    const VALUES: &'static [&'static str] = &["free", "paid"];

    fn index(self) -> usize {
        self as usize
    }
}

const SERVER: &str = "[::]:7070";

fn server() -> SocketAddr {
    SERVER.parse().unwrap()
}

fn binding(protocol: Protocol) -> ServerBinding {
    ServerBinding::new(protocol, server())
}

fn client_layer() -> ClientLabelsLayer {
    ClientLabelsLayer::new(binding(Protocol::Http))
}

/// Runs a test with a recorder of its own.
fn with_recorder(test: impl FnOnce(&PrometheusHandle)) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    metrics::with_local_recorder(&recorder, || test(&handle));
    assert_eq!(Scope::current(), Scope::none(), "a scope leaked");
}

fn from(client: &str) -> Request {
    let client: SocketAddr = client.parse().unwrap();
    Request::get("/")
        .extension(ConnectInfo(client))
        .body(Body::empty())
        .unwrap()
}

const MAPPED_CLIENT: &str = "[::ffff:192.0.2.7]:50000";

async fn send(app: Router, request: Request) -> String {
    let response = app.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn both_layers_make_one_scope_in_either_order() {
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let own = LabelsLayer::new(move |request: &Request<_>| {
        let plan = if request.headers().contains_key("x-paid") {
            Plan::Paid
        } else {
            Plan::Free
        };
        (plan, tenants.value(request.headers().get("host")))
    });
    let app = || {
        let body = || {
            Body::from_stream(stream::iter([0, 1]).map(|_| {
                counter!("chunks_total").increment(1);
                Ok::<_, Infallible>("x")
            }))
        };
        let hello = move || {
            counter!("hellos_total").increment(1);
            future::ready(body())
        };
        Router::new().route("/", get(hello))
    };
    with_recorder(|handle| {
        for app in [
            app().layer(own).layer(client_layer()),
            app().layer(client_layer()).layer(own),
        ] {
            let mut request = from(MAPPED_CLIENT);
            request.headers_mut().insert("x-paid", "1".parse().unwrap());
            request.headers_mut().insert("host", "acme".parse().unwrap());
            assert_eq!(block_on(send(app.clone(), request)), "xx");
            block_on(send(app, from("[2001:db8::7]:1")));
        }
        let labels =
            |seen, plan, tenant| and(and(seven("http", server(), seen), "plan", plan), "tenant", tenant);
        let expected = [(MAPPED, "paid", "acme"), (INET6, "free", "other")].map(|(seen, plan, tenant)| {
            let labels = labels(seen, plan, tenant);
            [
                sample("hellos_total", &labels, 2),
                sample("chunks_total", &labels, 4),
            ]
        });
        let lines = samples(&handle.render());
        let (overflow, lines): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|line| line.starts_with("label_values"));
        assert_samples(lines, expected.concat());
        assert_eq!(
            overflow.len(),
            2,
            "once inside the layer of the client, and once outside"
        );
    });
}

#[test]
fn labels_of_datagrams_and_without_the_body() {
    let own = LabelsLayer::new(|datagram: &Datagram| {
        if datagram.payload().is_empty() {
            Plan::Free
        } else {
            Plan::Paid
        }
    });
    let answer = |_: Datagram| {
        counter!("answers_total").increment(1);
        future::ready(Ok::<_, Infallible>(Some(Bytes::new())))
    };
    with_recorder(|handle| {
        let mut service = ClientLabelsLayer::new(binding(Protocol::Udp)).layer(own.layer(service_fn(answer)));
        for payload in ["", "x", "y"] {
            let peer: SocketAddr = MAPPED_CLIENT.parse().unwrap();
            let datagram = Datagram::new(payload.as_bytes(), peer, server());
            assert!(service.call(datagram).now_or_never().unwrap().unwrap().is_some());
        }
        let mut without_body = own.without_body().layer(service_fn(answer));
        let datagram = Datagram::new("", server(), server());
        assert!(without_body.call(datagram).now_or_never().unwrap().is_ok());

        let labels = |plan| and(seven("udp", server(), MAPPED), "plan", plan);
        assert_samples(
            samples(&handle.render()),
            [
                sample("answers_total", &labels("free"), 1),
                sample("answers_total", &labels("paid"), 2),
                sample("answers_total", &and(Labels::new(), "plan", "free"), 1),
            ],
        );
    });
}

/// Counts when it is dropped.
struct CountDrop;

impl Drop for CountDrop {
    fn drop(&mut self) {
        counter!("dropped_total").increment(1);
    }
}

async fn buy() -> Body {
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
    with_recorder(|handle| {
        block_on(async {
            assert_eq!(send(app.clone(), from(MAPPED_CLIENT)).await, "xx");
            let mut hello = from(MAPPED_CLIENT);
            *hello.uri_mut() = "/hello".parse().unwrap();
            // At the same time as a request that adds a label.
            let (one, other) =
                future::join(send(app.clone(), from(MAPPED_CLIENT)), send(app.clone(), hello)).await;
            assert_eq!((&*one, &*other), ("xx", ""));
        });
        let before = seven("http", server(), MAPPED);
        let after = and(before.clone(), "plan", "paid");
        assert_samples(
            samples(&handle.render()),
            [
                sample("begun_total", &before, 2),
                sample("hellos_total", &before, 1),
                sample("authenticated_total", &after, 2),
                sample("bought_total", &after, 2),
                sample("chunks_total", &after, 6),
                sample("dropped_total", &after, 2),
            ],
        );
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
    with_recorder(|handle| {
        assert!(app.oneshot(from(MAPPED_CLIENT)).now_or_never().is_none());
        let labels = and(seven("http", server(), MAPPED), "plan", "paid");
        assert_samples(samples(&handle.render()), [sample("dropped_total", &labels, 1)]);
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
            "WARN dualstack_metrics::scope::enter: `Scope::add` was called outside every scope, so its labels are left out: \
             call it in a request below `ClientLabelsLayer`, `LabelsLayer` or `UdpServer`, or in a future that was put \
             into a scope with `with_scope`"
        ]
    );
}

#[derive(Clone)]
struct User(Plan);

async fn authenticate(mut request: Request, next: Next) -> Response {
    counter!("begun_total").increment(1);
    request.extensions_mut().insert(User(Plan::Paid));
    next.run(request).await
}

#[test]
fn a_layer_inside_the_authentication_knows_who_it_is() {
    let app = Router::new()
        .route("/", get(async || counter!("hellos_total").increment(1)))
        .layer(LabelsLayer::new(|request: &Request<_>| {
            request.extensions().get::<User>().unwrap().0
        }))
        .layer(middleware::from_fn(authenticate))
        .layer(client_layer());
    with_recorder(|handle| {
        block_on(send(app, from("192.0.2.7:1")));
        let labels = seven("http", server(), INET);
        assert_samples(
            samples(&handle.render()),
            [
                sample("begun_total", &labels, 1),
                sample("hellos_total", &and(labels, "plan", "paid"), 1),
            ],
        );
    });
}

#[test]
fn what_is_written_as_other_is_counted_by_its_reason() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 2).max_len(9);

    let log = Log::of_thread();
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    with_recorder(|handle| {
        for text in ["a", "b", "c", "a", "d", "", "0123456789", "\\"] {
            Scope::new(&REFERER.value(text)).run(|| counter!("requests_total").increment(1));
        }
        _ = REFERER.value(b"\xff".as_slice());
        for text in ["acme", "globex", ""] {
            Scope::new(&tenants.value(text)).run(|| counter!("requests_total").increment(1));
        }
        Scope::new(&ClientLabels::UNKNOWN).run(|| _ = tenants.value("initech"));

        let overflow =
            |label, reason| Labels::from([("label", String::from(label)), ("reason", String::from(reason))]);
        let mut expected: Vec<_> = [
            ("referer", "full", 2),
            ("referer", "empty", 1),
            ("referer", "too_long", 1),
            ("referer", "invalid", 2),
            ("tenant", "unknown", 1),
            ("tenant", "empty", 1),
        ]
        .map(|(label, reason, count)| {
            sample("label_values_overflowed_total", &overflow(label, reason), count)
        })
        .into();
        let mut scoped = overflow("tenant", "unknown");
        scoped.insert("client_address_ip_family", UNKNOWN.0.into());
        scoped.insert("client_address_ip_type", UNKNOWN.1.into());
        expected.push(sample("label_values_overflowed_total", &scoped, 1));
        for (label, value, count) in [
            ("referer", "a", 2),
            ("referer", "b", 1),
            ("referer", "other", 5),
            ("tenant", "acme", 1),
            ("tenant", "other", 2),
        ] {
            expected.push(sample("requests_total", &and(Labels::new(), label, value), count));
        }
        assert_samples(samples(&handle.render()), expected);
    });
    assert_eq!(
        log.lines(),
        [
            "WARN dualstack_metrics::labels::text: the label has no place left for further values, so they are written as \
             `other`: a query for one value can miss some of it. Raise the cap, or label with something that has fewer \
             values label=\"referer\""
        ]
    );
}

#[test]
fn known_labels_are_composed_without_an_allocation() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 20);

    let tenants = FixedLabel::new("tenant", (0..200).map(|n| n.to_string())).unwrap();
    let texts: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let scopes = ClientScopes::new(binding(Protocol::Http));
    let serve = || {
        for (at, text) in texts.iter().enumerate() {
            let client = scopes.for_client(ClientLabels::ALL[at % 3]);
            let labels = (Plan::Paid, tenants.value(text), REFERER.value(&texts[at % 20]));
            let scope = client.nest(Scope::new(&labels));
            client.run(|| Scope::add(&labels));
            assert_eq!(scope, Scope::new(&(client, labels)));
        }
    };
    serve();
    assert_eq!(allocation_counter::measure(serve).count_total, 0);
}

fn start_at_zero(scopes: &ClientScopes, tenants: FixedLabel) {
    for scope in scopes.expected_with(&tenants.other()).unwrap() {
        scope.run(|| counter!("requests_total").increment(0));
    }
}

#[test]
fn zeros_stay_under_an_idle_timeout_if_each_scrape_counts_them_again() {
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let scopes = ClientScopes::new(binding(Protocol::Udp));
    let recorder = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(100)))
        .build_recorder();
    let handle = recorder.get_ref().handle();
    metrics::with_local_recorder(&recorder, || {
        counter!("forgotten_total").increment(1);
        let client: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let scope = Scope::new(&(scopes.for_client(client), tenants.value("acme")));
        scope.run(|| counter!("requests_total").increment(7));

        let scrape = || {
            start_at_zero(&scopes, tenants);
            handle.render()
        };
        eventually("the timeout is over", || {
            series(&scrape(), "forgotten_total").is_empty()
        });
        let expected = [
            (MAPPED, "acme", 7),
            (MAPPED, "other", 0),
            (INET6, "acme", 0),
            (INET6, "other", 0),
        ];
        let expected = expected.map(|(seen, tenant, count)| {
            let labels = and(seven("udp", server(), seen), "tenant", tenant);
            sample("requests_total", &labels, count)
        });
        assert_samples(samples(&scrape()), expected);
        eventually("the zeros are forgotten", || samples(&handle.render()).is_empty());
    });
}
