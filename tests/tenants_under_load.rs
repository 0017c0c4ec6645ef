//! A service with 200 tenants and a header of arbitrary values, under load: as many series as predicted, each count
//! exact, and no memory for values that clients make up.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use dualstack_metrics::{
    CappedLabel, ClientLabelsLayer, ClientScopes, FixedLabel, LabelsLayer, prometheus::Install, scope,
};
use futures_util::future::join_all;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET6, Labels, MAPPED, Metrics, Random, assert_samples, dual_stack, loopbacks, sample};
use tokio::net::TcpStream;

const TENANTS: usize = 200;
const KEPT: usize = 5;
const CONNECTIONS_OF_EACH_FAMILY: usize = 8;

static REFERER: CappedLabel = CappedLabel::new("referer", KEPT);

/// The values of the labels that a request has, and how often.
type Expected = BTreeMap<(&'static str, &'static str, String, String), u64>;

static EXPECTED: Mutex<Expected> = Mutex::new(Expected::new());

fn expect(client: IpAddr, tenant: usize, referer: &str) {
    let (family, ip_type) = if client.is_ipv4() { MAPPED } else { INET6 };
    let tenant = if tenant < TENANTS {
        format!("tenant-{tenant}")
    } else {
        "other".into()
    };
    let is_kept = (0..KEPT).any(|n| referer == format!("https://kept-{n}.example/"));
    let referer = if is_kept { referer } else { "other" };
    let key = (family, ip_type, tenant, referer.to_owned());
    *EXPECTED.lock().unwrap().entry(key).or_default() += 1;
}

/// Text that nobody has sent before, or bytes that are no text.
fn arbitrary(random: &mut Random) -> HeaderValue {
    let unique = format!("{:016x}{:016x}", random.next(), random.next())
        .repeat(usize::try_from(1 + random.below(6)).unwrap());
    match random.below(5) {
        0 => HeaderValue::from_static(""),
        1 => HeaderValue::from_bytes(&[unique.as_bytes(), b"\xff\xfe"].concat()).unwrap(),
        2 => HeaderValue::from_str(&format!("{unique}\\\"")).unwrap(),
        _ => HeaderValue::from_str(&unique).unwrap(),
    }
}

/// One connection, with a request for each pair of tenant and referer, and some for tenants that do not exist.
async fn client(client: IpAddr, server: SocketAddr, requests: impl Iterator<Item = (usize, HeaderValue)>) {
    let stream = TcpStream::connect((client, server.port())).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (tenant, referer) in requests {
        expect(client, tenant, &String::from_utf8_lossy(referer.as_bytes()));
        let request = Request::get("/")
            .header(header::HOST, format!("tenant-{tenant}"))
            .header(header::REFERER, referer)
            .body(Empty::<Bytes>::new())
            .unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
    drop(sender);
    _ = connection.await;
}

/// All clients at the same time. Each pair is sent by one connection of each family.
async fn load(server: SocketAddr, seed: u64) {
    let kept = (0..KEPT).map(|n| HeaderValue::try_from(format!("https://kept-{n}.example/")).unwrap());
    let kept: Vec<_> = kept.collect();
    let clients = loopbacks().into_iter().flat_map(|ip| {
        let kept = kept.clone();
        (0..CONNECTIONS_OF_EACH_FAMILY).map(move |connection| {
            let mut random = Random(seed + connection as u64);
            let kept = kept.clone();
            let tenants =
                (0..=TENANTS).filter(move |tenant| tenant % CONNECTIONS_OF_EACH_FAMILY == connection);
            let requests = tenants.flat_map(move |tenant| {
                let mut referers = kept.clone();
                let at = usize::try_from(random.below(referers.len() as u64)).unwrap();
                referers.insert(at, arbitrary(&mut random));
                referers.into_iter().map(move |referer| (tenant, referer))
            });
            client(ip, server, requests)
        })
    });
    join_all(clients).await;
}

#[test]
fn two_hundred_tenants_and_a_header_of_arbitrary_values() {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let metrics = Metrics::from(&recorder);
    metrics::set_global_recorder(recorder).unwrap();

    let tenants = FixedLabel::new("tenant", (0..TENANTS).map(|n| format!("tenant-{n}"))).unwrap();
    for n in 0..KEPT {
        _ = REFERER.value(format!("https://kept-{n}.example/"));
    }
    let scopes = ClientScopes::builder().build().unwrap();
    let app = Router::new()
        .route(
            "/",
            get(async || {
                counter!("requests_total").increment(1);
                "hello"
            }),
        )
        .layer(LabelsLayer::new(move |request: &Request<_>| {
            let headers = request.headers();
            (
                tenants.value(headers.get(header::HOST)),
                REFERER.value(headers.get(header::REFERER)),
            )
        }))
        .layer(ClientLabelsLayer::from_scopes(scopes));
    let serve = async || {
        let (listener, address, _) = dual_stack();
        let app = app.clone().into_make_service_with_connect_info::<SocketAddr>();
        (
            address,
            tokio::spawn(async move { axum::serve(listener, app).await }),
        )
    };

    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        let (address, _server) = serve().await;
        for round in 0..2 {
            load(address, round << 32).await;
        }
    });
    drop(threads);

    // From now on each value is known, or new and not kept. This thread both serves and sends, so that it sees all allocations.
    let thread = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (address, _server) = thread.block_on(serve());
    let round = |seed: u64| thread.block_on(load(address, seed << 32));
    round(2);
    let memory = allocation_counter::measure(|| {
        round(3);
        round(4);
    });
    let some = 50_000 * loopbacks().len() as u64;
    assert!(memory.count_total > some, "{memory:?}");
    assert!(memory.bytes_current < 16 * 1024, "{memory:?}");

    let expected = EXPECTED.lock().unwrap().clone();
    assert_eq!(expected.len(), loopbacks().len() * (TENANTS + 1) * (KEPT + 1));
    assert_eq!(scope::overflows(), 0);
    let expected = expected
        .into_iter()
        .map(|((family, ip_type, tenant, referer), count)| {
            let labels = Labels::from([
                ("client_address_ip_family", family.into()),
                ("client_address_ip_type", ip_type.into()),
                ("referer", referer),
                ("tenant", tenant),
            ]);
            sample("requests_total", &labels, count)
        });
    assert_samples(metrics.series("requests_total"), expected);
}
