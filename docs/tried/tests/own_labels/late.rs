use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use dualstack_metrics::{BoundedLabel, ClientLabelsLayer, ClientScopes, LabelsLayer, Scope, WithScope as _};
use metrics::counter;
use test_support::{assert_samples, sample, samples};
use tower::ServiceExt as _;

use super::{labels, recorder, request};

#[derive(Clone, Copy, BoundedLabel)]
enum Plan {
    Free,
    Paid,
}

async fn authenticate(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Plan::Paid);
    next.run(request).await
}

async fn plan_of_user() -> Plan {
    tokio::task::yield_now().await;
    Plan::Paid
}

async fn send_receipt() {
    tokio::task::yield_now().await;
    counter!("receipts_total").increment(1);
}

async fn buy() {
    counter!("visits_total").increment(1); // has no plan

    let plan = plan_of_user().await;
    Scope::add(&plan);

    counter!("purchases_total").increment(1); // has the plan
    tokio::spawn(send_receipt().with_current_scope()); // so has what this counts
}

async fn hello() {
    counter!("hellos_total").increment(1);
}

#[tokio::test]
async fn a_label_that_is_known_late() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let clients = ClientLabelsLayer::from_scopes(ClientScopes::builder().build()?);

    let app = Router::new()
        .route("/", get(hello))
        .layer(LabelsLayer::new(|request: &Request<_>| {
            *request.extensions().get::<Plan>().unwrap_or(&Plan::Free)
        }))
        .layer(middleware::from_fn(authenticate)) // it puts the plan into the extensions
        .layer(clients);

    app.oneshot(request("/")).await?;

    let app = Router::new().route("/", post(buy)).layer(clients);
    let mut request = request("/");
    *request.method_mut() = axum::http::Method::POST;
    app.oneshot(request).await?;
    let handle = recorder.get_ref().handle();
    test_support::soon("the receipt is sent", || {
        handle.render().contains("receipts_total")
    })
    .await;

    let paid = labels(&[("plan", "paid")]);
    assert_samples(
        samples(&handle.render()),
        [
            sample("hellos_total", &paid, 1),
            sample("visits_total", &labels(&[]), 1),
            sample("purchases_total", &paid, 1),
            sample("receipts_total", &paid, 1),
        ],
    );
    Ok(())
}
