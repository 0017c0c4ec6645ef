//! Clients of both families, and where their class comes from.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State, connect_info::MockConnectInfo},
    middleware::{Next, from_fn},
    routing::get,
};
use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
use http::{Request, StatusCode, Version};
use metrics::{Counter, counter};
use test_support::{INET, INET6, MAPPED, UNKNOWN, V4, and, recorded, sample, seven};
use tower::ServiceExt;

use crate::{
    ask, binding, counting, dual_stack, handshake1, http1, labels_of, mock, mock_layer, request_from,
    request_to, send, serve, serve_layered, tcp, text,
};

#[test]
fn both_families_on_one_listener() {
    recorded(async |metrics| {
        let (listener, clients) = dual_stack();
        let kept = counter!("kept_total");
        let app = Router::new()
            .route(
                "/",
                get(async |State(kept): State<Counter>| {
                    counter!("requests_total", "request_kind" => "announce").increment(1);
                    kept.increment(2);
                }),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)))
            .with_state(kept);
        let server = serve(listener, app);

        let mut expected = Vec::new();
        for (&client, times) in clients.iter().zip([3, 5]) {
            for _ in 0..times {
                ask(&mut http1(client, server).await, "/").await;
            }
            let labels = labels_of(client, server);
            expected.push(sample("kept_total", &labels, 2 * times));
            expected.push(sample(
                "requests_total",
                &and(labels, "request_kind", "announce"),
                times,
            ));
        }
        metrics.assert(expected);
    });
}

#[test]
fn ipv4_listener() {
    recorded(async |metrics| {
        let listener = SocketOptions::dual_stack()
            .bind_tcp("127.0.0.1:0".parse().unwrap())
            .unwrap();
        let app = counting().layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        ask(&mut http1(V4, server).await, "/").await;
        metrics.assert([sample("requests_total", &seven("http", server, INET), 1)]);
    });
}

#[test]
fn two_listeners_of_one_router() {
    recorded(async |metrics| {
        let app = counting();
        let mut expected = Vec::new();
        for times in [1, 2] {
            let (listener, _) = dual_stack();
            let layer = ClientLabelsLayer::new(binding(&listener));
            let server = serve(listener, app.clone().layer(layer));
            for _ in 0..times {
                ask(&mut http1(V4, server).await, "/").await;
            }
            expected.push(sample("requests_total", &labels_of(V4, server), times));
        }
        metrics.assert(expected);
    });
}

#[test]
fn connect_info_is_left_as_it_is() {
    recorded(async |_| {
        let (server, clients) = serve_layered(Router::new().route(
            "/",
            get(async |ConnectInfo(address): ConnectInfo<SocketAddr>| address.to_string()),
        ));
        for client in clients {
            let stream = tcp(client, server).await;
            let own = stream.local_addr().unwrap();
            let as_seen = match (own, server) {
                (SocketAddr::V4(own), SocketAddr::V6(_)) => {
                    SocketAddr::new(own.ip().to_ipv6_mapped().into(), own.port())
                }
                _ => own,
            };
            assert_eq!(ask(&mut handshake1(stream).await, "/").await, as_seen.to_string());
        }
    });
}

#[test]
fn mock_connect_info() {
    recorded(async |metrics| {
        for (address, seen) in [
            ("192.0.2.7:1", INET),
            ("[::ffff:192.0.2.7]:1", MAPPED),
            ("[2001:db8::7]:1", INET6),
        ] {
            let app = Router::new()
                .route(
                    "/",
                    get(async |ConnectInfo(address): ConnectInfo<SocketAddr>| {
                        counter!("requests_total").increment(1);
                        address.to_string()
                    }),
                )
                .layer(mock_layer())
                .layer(MockConnectInfo(address.parse::<SocketAddr>().unwrap()));
            let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
            assert_eq!(text(response).await, address);
            let lines = metrics.samples();
            assert!(lines.contains(&mock("requests_total", seen, 1)), "{lines:?}");
        }
        assert_eq!(metrics.samples().len(), 3);
    });
}

#[test]
fn a_real_address_wins_over_a_mock_as_in_axum() {
    recorded(async |metrics| {
        let app = counting()
            .layer(mock_layer())
            .layer(MockConnectInfo("192.0.2.7:1".parse::<SocketAddr>().unwrap()));
        app.oneshot(request_from("[2001:db8::7]:1")).await.unwrap();
        metrics.assert([mock("requests_total", INET6, 1)]);
    });
}

#[test]
fn a_class_in_the_extensions_wins() {
    recorded(async |metrics| {
        let app = counting().layer(mock_layer());
        for class in [
            ClientLabels::from("[::ffff:192.0.2.7]:1".parse::<SocketAddr>().unwrap()),
            ClientLabels::UNKNOWN,
        ] {
            let mut request = request_from("[2001:db8::7]:1");
            request.extensions_mut().insert(class);
            app.clone().oneshot(request).await.unwrap();
        }
        metrics.assert([
            mock("requests_total", MAPPED, 1),
            mock("requests_total", UNKNOWN, 1),
        ]);
    });
}

/// A layer for a server behind a reverse proxy.
async fn forwarded(mut request: axum::extract::Request, next: Next) -> axum::response::Response {
    let client: IpAddr = request.headers()["x-forwarded-for"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    request.extensions_mut().insert(ClientLabels::from(client));
    next.run(request).await
}

#[test]
fn an_outer_layer_can_set_the_class() {
    recorded(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = counting()
            .layer(ClientLabelsLayer::new(binding(&listener)))
            .layer(from_fn(forwarded));
        let server = serve(listener, app);
        for &client in &clients {
            let mut request = request_to(server, "/");
            request
                .headers_mut()
                .insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
            send(Version::HTTP_11, client, request).await.unwrap();
        }
        let times = clients.len().try_into().unwrap();
        let expected = sample("requests_total", &seven("http", server, INET), times);
        metrics.assert([expected]);
    });
}

#[test]
fn the_inner_of_two_layers_wins() {
    recorded(async |metrics| {
        let inner: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let app = Router::new()
            .route("/", get(async || counter!("inside_total").increment(1)))
            .layer(ClientLabelsLayer::new(ServerBinding::new(Protocol::Https, inner)).source(V4))
            .layer(from_fn(async |request: axum::extract::Request, next: Next| {
                counter!("between_total").increment(1);
                let response = next.run(request).await;
                counter!("between_total").increment(1);
                response
            }))
            .layer(mock_layer());
        app.oneshot(request_from("[2001:db8::7]:1")).await.unwrap();
        metrics.assert([
            mock("between_total", INET6, 2),
            sample("inside_total", &seven("https", inner, INET), 1),
        ]);
    });
}

#[test]
fn a_request_without_a_route_is_served_in_the_scope() {
    recorded(async |metrics| {
        let app = Router::new()
            .route("/only/get", get(async || ()))
            .fallback(async || {
                counter!("not_found_total").increment(1);
                StatusCode::NOT_FOUND
            })
            .layer(mock_layer());
        let mut request = request_from("192.0.2.7:1");
        *request.uri_mut() = "/nowhere".parse().unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        metrics.assert([mock("not_found_total", INET, 1)]);
    });
}
