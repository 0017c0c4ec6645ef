//! A server whose program forgot the recorder logs one warning. It runs in its own process, without a recorder.

use std::convert::Infallible;

use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ServerBinding};
use futures_util::FutureExt;
use http::{Request, Response};
use test_support::Log;
use tower::{Layer, Service, service_fn};

#[test]
fn the_first_client_without_a_recorder_is_logged_once() {
    let log = Log::of_process();
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let layer = ClientLabelsLayer::new(ServerBinding::unix(protocol)).source(ClientLabels::UNKNOWN);
        let mut service = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(()))
        }));
        for _ in 0..3 {
            service.call(Request::new(())).now_or_never().unwrap().unwrap();
        }
    }
    log.assert_warning(&[
        "no scoped recorder",
        "`dualstack_metrics::prometheus::install(PrometheusBuilder::new())`",
        "`ScopedRecorderLayer::new().wrap(recorder)`",
    ]);
}
