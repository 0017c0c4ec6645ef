use std::convert::Infallible;

use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer as _, service_fn};

use super::{assert_one_each, get, listener, recorder};

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    metrics::counter!("hellos_total").increment(1);
    Ok(Response::new("hello".into()))
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    let layer = ClientLabelsLayer::new(binding);
    loop {
        let (stream, peer) = listener.accept().await?;
        let service = layer.source(peer).layer(service_fn(hello));
        tokio::spawn(async move {
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await
        });
    }
}

#[tokio::test]
async fn counts_the_client() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    tokio::spawn(serve(listener));
    get(address, "/").await;
    assert_one_each(&recorder, "hellos_total", address);
}
