use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding};
use test_support::{assert_samples, sample, series, seven};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Server, server::TcpConnectInfo},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient, health_server::HealthServer},
    server::{HealthReporter, HealthService},
};

use super::{clients, listener, recorder};

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;

/// A service that comes with its client. Its interceptor counts, as a method would.
pub(super) fn service() -> InterceptedService<HealthServer<HealthService>, Interceptor> {
    HealthServer::with_interceptor(
        HealthService::from_health_reporter(HealthReporter::new()),
        |request| {
            metrics::counter!("checks_total").increment(1);
            Ok(request)
        },
    )
}

#[tokio::test]
async fn counts_the_client() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let service = service();

    let binding = ServerBinding::new(Protocol::Grpc, address);
    let layer = ClientLabelsLayer::new(binding).connect_info(|info: &TcpConnectInfo| info.remote_addr());
    let server = Server::builder()
        .layer(layer)
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));

    tokio::spawn(server);
    for (to, _) in clients(address) {
        let channel = Channel::from_shared(format!("http://{to}")).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    assert_samples(
        series(&recorder.get_ref().handle().render(), "checks_total"),
        clients(address).map(|(_, seen)| sample("checks_total", &seven("grpc", address, seen), 1)),
    );
}
