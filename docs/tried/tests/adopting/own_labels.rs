use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::header,
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use dualstack_metrics::{
    BoundedLabel, CappedLabel, ClientLabelsLayer, ClientScopes, FixedLabel, LabelsLayer, Protocol, Scope,
    ServerBinding,
    labels::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, max_label_sets},
    scope::limit_label_sets,
};
use metrics::counter;
use test_support::{Labels, assert_samples, sample, series};
use tower::ServiceExt as _;

use super::recorder;

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "plan")]
enum Plan {
    Free,
    #[label(value = "pay-as-you-go")]
    PayAsYouGo,
}

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

async fn authenticate(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Plan::PayAsYouGo);
    next.run(request).await
}

async fn hello() {
    counter!("hellos_total").increment(1);
}

async fn buy() {
    let plan = Plan::PayAsYouGo;
    Scope::add(&plan);
    counter!("purchases_total").increment(1);
}

fn request(path: &str) -> Request {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request
        .headers_mut()
        .insert(header::HOST, "acme".parse().unwrap());
    let client: IpAddr = Ipv6Addr::LOCALHOST.into();
    request
        .extensions_mut()
        .insert(dualstack_metrics::ClientLabels::from(client));
    request
}

#[tokio::test]
async fn labels_of_the_request_and_of_its_user() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let names = "acme\nglobex";
    let scopes = ClientScopes::builder().build()?;

    let tenants = FixedLabel::new("tenant", names.lines())?;

    let app = Router::new()
        .route("/", get(hello))
        .route("/buy", get(buy))
        .layer(LabelsLayer::new(move |request: &Request<_>| {
            let headers = request.headers();
            (
                tenants.value(headers.get(header::HOST)),
                REFERER.value(headers.get(header::REFERER)),
            )
        }))
        .layer(ClientLabelsLayer::from_scopes(scopes));

    app.clone().oneshot(request("/")).await?;
    app.oneshot(request("/buy")).await?;

    let app = Router::new()
        .route("/", get(hello))
        .layer(LabelsLayer::new(|request: &Request<_>| {
            *request.extensions().get::<Plan>().unwrap_or(&Plan::Free)
        }))
        .layer(middleware::from_fn(authenticate)) // it puts the plan into the extensions
        .layer(ClientLabelsLayer::from_scopes(scopes));

    app.oneshot(request("/")).await?;

    let labels = |more: &[(&'static str, &str)]| {
        let mut labels = Labels::from([
            ("client_address_ip_family", "inet6".into()),
            ("client_address_ip_type", "plain".into()),
        ]);
        labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        labels
    };
    let output = recorder.get_ref().handle().render();
    assert_samples(
        series(&output, "hellos_total"),
        [
            sample(
                "hellos_total",
                &labels(&[("tenant", "acme"), ("referer", "other")]),
                1,
            ),
            sample("hellos_total", &labels(&[("plan", "pay-as-you-go")]), 1),
        ],
    );
    let bought = labels(&[
        ("plan", "pay-as-you-go"),
        ("tenant", "acme"),
        ("referer", "other"),
    ]);
    assert_samples(
        series(&output, "purchases_total"),
        [sample("purchases_total", &bought, 1)],
    );
    Ok(())
}

#[test]
fn the_number_of_series() -> Result<(), Box<dyn std::error::Error>> {
    let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
    let scopes = ClientScopes::builder().build()?;
    let max_series = 4_000;
    let own = max_label_sets(&(tenants.other(), REFERER.other()));
    assert_eq!(own, 63);

    let needed = scopes.max_label_sets(&(tenants.other(), REFERER.other()));
    limit_label_sets(max_series, needed)?; // an error if `needed` is more

    assert_eq!(needed, 63 * dualstack_metrics::ClientLabels::ALL.len());
    Ok(())
}

#[test]
fn other_names() -> Result<(), Box<dyn std::error::Error>> {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse::<SocketAddr>()?);

    let scopes = ClientScopes::builder()
        .binding(binding)
        .rename(CLIENT_ADDRESS_IP_FAMILY, "family")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet6", "v6")
        .without(CLIENT_ADDRESS_IP_TYPE)
        .build()?;

    let client: IpAddr = "::ffff:192.0.2.7".parse()?;
    assert_eq!(scopes.for_client(client).value_of("family"), Some("v4"));
    assert_eq!(scopes.for_client(client).pairs().len(), 6);
    Ok(())
}
