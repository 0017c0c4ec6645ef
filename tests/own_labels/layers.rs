use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use dualstack_metrics::{CappedLabel, ClientLabelsLayer, Datagram, FixedLabel, LabelsLayer, Protocol};
use futures_util::{FutureExt, StreamExt as _, future, stream};
use metrics::counter;
use test_support::{INET, INET6, Labels, MAPPED, and, assert_samples, recorded, sample, seven};
use tower::{Layer as _, Service as _, ServiceBuilder, service_fn};

use super::{MAPPED_CLIENT, Plan, binding, client_layer, from, send, server};

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
    recorded(async |metrics| {
        for app in [
            app().layer(own).layer(client_layer()),
            app().layer(client_layer()).layer(own),
        ] {
            let mut request = from(MAPPED_CLIENT);
            request.headers_mut().insert("x-paid", "1".parse().unwrap());
            request.headers_mut().insert("host", "acme".parse().unwrap());
            assert_eq!(send(app.clone(), request).await, "xx");
            send(app, from("[2001:db8::7]:1")).await;
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
        let lines = metrics.samples();
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
    recorded(async |metrics| {
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
        metrics.assert([
            sample("answers_total", &labels("free"), 1),
            sample("answers_total", &labels("paid"), 2),
            sample("answers_total", &and(Labels::new(), "plan", "free"), 1),
        ]);
    });
}

#[test]
fn the_inner_of_two_layers_has_the_last_word() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 2);

    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let outer = (
        Plan::Free,
        ((tenants.value("acme"), ()), REFERER.value("a.example")),
    );
    let labels = |protocol, seen| {
        let labels = and(seven(protocol, server(), seen), "plan", "paid");
        and(and(labels, "tenant", "acme"), "referer", "a.example")
    };
    recorded(async |metrics| {
        let chunks = || {
            counter!("hellos_total").increment(1);
            let chunk = stream::once(async {
                counter!("chunks_total").increment(1);
                Ok::<_, Infallible>("x")
            });
            future::ready(Body::from_stream(chunk))
        };
        let app = Router::new()
            .route("/", get(chunks))
            .layer(LabelsLayer::new(|_: &Request| Plan::Paid))
            .layer(LabelsLayer::new(move |_: &Request| outer))
            .layer(client_layer());
        assert_eq!(send(app, from(MAPPED_CLIENT)).await, "x");

        let answer = |_: Datagram| {
            counter!("answers_total").increment(1);
            future::ready(Ok::<_, Infallible>(None::<Bytes>))
        };
        let mut service = ServiceBuilder::new()
            .layer(LabelsLayer::new(move |_: &Datagram| outer))
            .layer(ClientLabelsLayer::new(binding(Protocol::Udp)))
            .layer(LabelsLayer::new(|_: &Datagram| Plan::Paid))
            .service(service_fn(answer));
        let client: SocketAddr = "[2001:db8::7]:1".parse().unwrap();
        let datagram = Datagram::new("", client, server());
        assert!(service.call(datagram).now_or_never().unwrap().is_ok());

        metrics.assert([
            sample("hellos_total", &labels("http", MAPPED), 1),
            sample("chunks_total", &labels("http", MAPPED), 1),
            sample("answers_total", &labels("udp", INET6), 1),
        ]);
    });
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
    recorded(async |metrics| {
        send(app, from("192.0.2.7:1")).await;
        let labels = seven("http", server(), INET);
        metrics.assert([
            sample("begun_total", &labels, 1),
            sample("hellos_total", &and(labels, "plan", "paid"), 1),
        ]);
    });
}
