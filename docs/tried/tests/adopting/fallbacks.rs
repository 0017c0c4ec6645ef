use std::net::SocketAddr;

use axum::{Router, http::StatusCode, routing::get};
use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding};
use metrics::counter;
use test_support::{assert_samples, series};

use super::{assert_one_each, clients, listener, recorder};

async fn hello() -> &'static str {
    counter!("hellos_total").increment(1);
    "hello"
}

async fn not_found() -> StatusCode {
    counter!("not_found_total").increment(1);
    StatusCode::NOT_FOUND
}

async fn late() {
    counter!("late_total").increment(1);
}

fn serve(app: impl FnOnce(ServerBinding) -> Router) -> SocketAddr {
    let (listener, address) = listener();
    let app = app(ServerBinding::new(Protocol::Http, address));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn layer_covers_the_fallback_and_route_layer_does_not() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let of = |name: &str| series(&recorder.get_ref().handle().render(), name);

    let address = serve(|binding| {
        Router::new()
            .route("/", get(hello))
            .fallback(not_found)
            .layer(ClientLabelsLayer::new(binding)) // covers the route and the fallback
            .route("/late", get(late)) // added after the layer, so it is outside
    });
    for path in ["/", "/nothing", "/late"] {
        super::get(address, path).await;
    }
    assert_one_each(&recorder, "hellos_total", address);
    assert_one_each(&recorder, "not_found_total", address);
    let count = clients(address).count();
    assert_samples(of("late_total"), [format!("late_total {count}")]);

    let recorder = super::recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let of = |name: &str| series(&recorder.get_ref().handle().render(), name);
    let address = serve(|binding| {
        Router::new()
            .route("/", get(hello))
            .fallback(not_found)
            .route_layer(ClientLabelsLayer::new(binding))
    });
    for path in ["/", "/nothing"] {
        super::get(address, path).await;
    }
    assert_one_each(&recorder, "hellos_total", address);
    assert_samples(of("not_found_total"), [format!("not_found_total {count}")]);
}
