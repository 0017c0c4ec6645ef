//! Your own labels: in requests over HTTP and UDP, added late, and written as `other`.

mod buffers;
mod late;
mod layers;
mod values;
mod vocabularies;
mod zeros;

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use dualstack_metrics::{BoundedLabel, ClientLabelsLayer, Protocol, ServerBinding};
use http_body_util::BodyExt;
use tower::ServiceExt;

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
