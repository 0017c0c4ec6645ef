use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, extract::Request, http::header, routing::get};
use bytes::Bytes;
use dualstack_metrics::{
    BoundedLabel, CappedLabel, ClientLabelsLayer, ClientScopes, Datagram, FixedLabel, LabelsLayer, Protocol,
    Scope, ServerBinding, UdpServer,
};
use metrics::counter;
use test_support::{INET, MAPPED, and, assert_samples, block_on, sample, samples, series, seven};
use tokio::{net::UdpSocket, sync::oneshot};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use super::{labels, recorder, request};

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

async fn hello() {
    counter!("hellos_total").increment(1);
}

#[tokio::test]
async fn labels_of_a_request() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let names = "acme\nglobex";
    let clients = ClientLabelsLayer::from_scopes(ClientScopes::builder().build()?);

    let tenants = FixedLabel::new("tenant", names.lines())?;

    let app = Router::new()
        .route("/", get(hello))
        .layer(LabelsLayer::new(move |request: &Request<_>| {
            let headers = request.headers();
            (
                tenants.value(headers.get(header::HOST)),
                REFERER.value(headers.get(header::REFERER)),
            )
        }))
        .layer(clients);

    app.oneshot(request("/")).await?;
    let labels = labels(&[("tenant", "acme"), ("referer", "other")]);
    assert_samples(
        series(&recorder.get_ref().handle().render(), "hellos_total"),
        [sample("hellos_total", &labels, 1)],
    );
    Ok(())
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "request_kind")]
enum Kind {
    Announce,
    Scrape,
}

impl Kind {
    fn of(payload: &[u8]) -> Self {
        if payload.starts_with(b"s") {
            Self::Scrape
        } else {
            Self::Announce
        }
    }
}

async fn answer(datagram: Datagram) -> Result<Option<Bytes>, Infallible> {
    counter!("answers_total").increment(1);
    Ok(Some(datagram.into_payload()))
}

#[test]
fn labels_of_a_datagram() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();

        let service = ServiceBuilder::new()
            .layer(LabelsLayer::new(|datagram: &Datagram| {
                Kind::of(datagram.payload())
            }))
            .service(service_fn(answer));
        let serving = UdpServer::new(socket)?.serve(service);

        let serving = serving.with_graceful_shutdown(async { _ = stopped.await });
        let asking = async {
            let client = UdpSocket::bind("127.0.0.1:0").await?;
            for text in ["a", "s"] {
                client.send_to(text.as_bytes(), address).await?;
                client.recv_from(&mut [0; 9]).await?;
            }
            drop(stop);
            std::io::Result::Ok(())
        };
        let (served, asked) = tokio::join!(serving.into_future(), asking);
        served.and(asked).map(|()| address)
    })?;
    let of = |kind| and(seven("udp", server, INET), "request_kind", kind);
    assert_samples(
        series(&recorder.get_ref().handle().render(), "answers_total"),
        ["announce", "scrape"].map(|kind| sample("answers_total", &of(kind), 1)),
    );
    Ok(())
}

fn handle(_: &[u8]) {
    counter!("handled_total").increment(1);
}

#[test]
fn labels_in_a_loop() {
    let recorder = recorder();
    let server: SocketAddr = "[::]:6969".parse().unwrap();
    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, server));
    let peer: SocketAddr = "[::ffff:192.0.2.7]:50000".parse().unwrap();
    let packet = b"s";
    metrics::with_local_recorder(&recorder, || {
        let scope = Scope::new(&(scopes.for_client(peer), Kind::of(packet)));
        scope.run(|| handle(packet));
    });
    let labels = and(seven("udp", server, MAPPED), "request_kind", "scrape");
    assert_samples(
        samples(&recorder.get_ref().handle().render()),
        [sample("handled_total", &labels, 1)],
    );
}
