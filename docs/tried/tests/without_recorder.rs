//! A program that counts with another library than `metrics`. It runs in its own process, because the warning is logged
//! once in a process.

use std::convert::Infallible;

use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ScopedRecorderLayer, ServerBinding};
use http::{Request, Response};
use test_support::Log;
use tower::{Layer as _, ServiceExt as _, service_fn};

#[tokio::test]
async fn no_warning_after_a_scoped_recorder_was_made() {
    let log = Log::of_process();

    _ = ScopedRecorderLayer::new().wrap(metrics::NoopRecorder);

    let layer = ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)).source(ClientLabels::UNKNOWN);
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(()))
    }));
    service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(log.lines(), [""; 0]);
}
