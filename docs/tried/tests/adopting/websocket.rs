use std::net::SocketAddr;

use axum::{
    Router,
    extract::ws::{WebSocket, WebSocketUpgrade},
    response::Response,
    routing::get,
};
use dualstack_metrics::{ClientLabelsLayer, Protocol, Scope, ServerBinding, WithScope as _};
use futures_util::StreamExt as _;

use super::{assert_one_each, clients, listener, recorder};

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    let scope = Scope::current();
    upgrade.on_upgrade(move |socket| scope.wrap(talk(socket)))
}

async fn talk(mut socket: WebSocket) {
    metrics::counter!("websockets_total").increment(1);
    _ = socket.send("hello".into()).await;
}

async fn forgetful(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| {
        let too_late = async {
            metrics::counter!("forgotten_total").increment(1);
            drop(socket);
        };
        too_late.with_current_scope()
    })
}

#[tokio::test]
async fn counts_the_client() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let app = Router::new()
        .route("/", get(upgrade))
        .route("/forgetful", get(forgetful))
        .layer(ClientLabelsLayer::new(ServerBinding::new(
            Protocol::Http,
            address,
        )))
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });

    let mut sent = 0;
    for (to, _) in clients(address) {
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{to}/"))
            .await
            .unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().into_text().unwrap(),
            "hello"
        );
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{to}/forgetful"))
            .await
            .unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        sent += 1;
    }
    assert_one_each(&recorder, "websockets_total", address);
    let unlabelled = format!("forgotten_total {sent}");
    assert!(
        recorder
            .get_ref()
            .handle()
            .render()
            .lines()
            .any(|line| line == unlabelled)
    );
}
