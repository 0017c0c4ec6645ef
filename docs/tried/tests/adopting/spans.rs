use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    routing::get,
};
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, Scope, ServerBinding, labels::CLIENT_ADDRESS_IP_FAMILY,
};
use tower::ServiceExt as _;
use tower_http::trace::TraceLayer;
use tracing::{Span, info_span};

fn span(request: &Request) -> Span {
    let family = Scope::current().value_of(CLIENT_ADDRESS_IP_FAMILY);
    info_span!("request", method = %request.method(), family)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_span_has_the_family() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
    let hello = async || tracing::info!("hello");

    let app = Router::new()
        .route("/", get(hello))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(ClientLabelsLayer::new(binding)); // added later, so it is outside

    let client: SocketAddr = "[::ffff:192.0.2.7]:50000".parse().unwrap();
    let request = Request::get("/")
        .extension(ConnectInfo(client))
        .body(Body::empty())
        .unwrap();
    app.oneshot(request).await.unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log, " INFO request{method=GET family=\"inet\"}: hello\n");
}
