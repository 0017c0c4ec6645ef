//! The PROXY protocol under other listeners and servers than `axum::serve` with a `TcpListener`.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    routing::get,
    serve::{Listener, ListenerExt as _},
};
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, ServerBinding, TrustedProxies,
    client::ClientConnectInfo,
    proxy::{ProxyProtocolListener, ProxyStream},
};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use test_support::{INET, INET6, assert_samples, sample, series, seven};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    },
    server::TlsStream,
};
use tonic::transport::{Certificate, Endpoint, Identity, Server, ServerTlsConfig, server::TlsConnectInfo};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;

use super::{grpc, listener, recorder};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const CLIENTS: [(&str, test_support::Seen); 2] = [
    ("PROXY TCP4 192.0.2.7 192.0.2.1 50000 80\r\n", INET),
    ("PROXY TCP6 2001:db8::7 2001:db8::1 50000 80\r\n", INET6),
];

fn proxies() -> TrustedProxies {
    TrustedProxies::new(["127.0.0.0/8"]).unwrap()
}

async fn connect(server: SocketAddr, header: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    stream.write_all(header.as_bytes()).await?;
    Ok(stream)
}

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello"
}

fn expected(name: &str, protocol: &str, server: SocketAddr) -> [String; 2] {
    CLIENTS.map(|(_, seen)| sample(name, &seven(protocol, server, seen), 1))
}

#[tokio::test]
async fn tap_io_goes_below_and_above() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();

    let listener = listener.tap_io(|stream: &mut TcpStream| {
        metrics::counter!("tapped_total").increment(1);
        stream.set_nodelay(true).unwrap();
    });
    let listener = proxies()
        .proxy_protocol(listener)
        .tap_io(|stream: &mut ProxyStream<TcpStream>| {
            assert!(stream.get_ref().nodelay().unwrap());
        });
    let app = Router::new()
        .route("/", get(hello))
        .layer(ClientLabelsLayer::new(ServerBinding::new(
            Protocol::Http,
            address,
        )))
        .into_make_service_with_connect_info::<ClientConnectInfo>();
    tokio::spawn(async { axum::serve(listener, app).await });

    for (header, _) in CLIENTS {
        let mut stream = connect(address, header).await.unwrap();
        stream.write_all(GET).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
    let rendered = recorder.get_ref().handle().render();
    assert_samples(
        series(&rendered, "hellos_total"),
        expected("hellos_total", "http", address),
    );
    assert_samples(series(&rendered, "tapped_total"), ["tapped_total 2"]);
}

/// TLS around the PROXY protocol. The handshake of one client delays the others here.
struct Tls {
    listener: ProxyProtocolListener<TcpListener>,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<ProxyStream<TcpStream>>;
    type Addr = ClientConnectInfo;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, info) = Listener::accept(&mut self.listener).await;
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, info);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

struct Certified {
    certificate: CertificateDer<'static>,
    pem: String,
    key: rcgen::KeyPair,
}

fn certified() -> Certified {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Certified {
        certificate: certified.cert.der().clone(),
        pem: certified.cert.pem(),
        key: certified.signing_key,
    }
}

#[tokio::test]
async fn tls_goes_around() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let Certified { certificate, key, .. } = certified();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();

    let listener = Tls {
        listener: proxies().proxy_protocol(listener),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let app = Router::new()
        .route("/", get(hello))
        .layer(ClientLabelsLayer::new(ServerBinding::new(
            Protocol::Https,
            address,
        )))
        .into_make_service_with_connect_info::<ClientConnectInfo>();
    // Axum implements `Connected` for the address of a tapped listener.
    let listener = listener.tap_io(|_| ());
    tokio::spawn(async { axum::serve(listener, app).await });

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for (header, _) in CLIENTS {
        let stream = connect(address, header).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(GET).await.unwrap();
        let mut answer = String::new();
        // The server closes without a `close_notify`.
        _ = stream.read_to_string(&mut answer).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    assert_samples(
        series(&recorder.get_ref().handle().render(), "hellos_total"),
        expected("hellos_total", "https", address),
    );
}

/// Asks once from each of the clients.
async fn check(address: SocketAddr, endpoint: Endpoint) {
    for (header, _) in CLIENTS {
        let connector = service_fn(move |_| async move { connect(address, header).await.map(TokioIo::new) });
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let mut client = HealthClient::new(channel);
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn tonic_counts_the_client() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let binding = ServerBinding::new(Protocol::Grpc, address);
    let service = grpc::service();
    let proxies = proxies();

    let incoming = stream::unfold(proxies.proxy_protocol(listener), async |mut listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let server = Server::builder()
        .layer(ClientLabelsLayer::new(binding))
        .add_service(service)
        .serve_with_incoming(incoming);

    tokio::spawn(server);
    check(address, Endpoint::from_static("http://localhost")).await;
    assert_samples(
        series(&recorder.get_ref().handle().render(), "checks_total"),
        expected("checks_total", "grpc", address),
    );
}

#[tokio::test]
async fn tonic_counts_the_client_with_tls() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let binding = ServerBinding::new(Protocol::Grpc, address);
    let Certified { pem, key, .. } = certified();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&pem, key.serialize_pem()));

    let incoming = stream::unfold(proxies().proxy_protocol(listener), async |mut listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let layer = ClientLabelsLayer::new(binding)
        .connect_info(|info: &TlsConnectInfo<ClientConnectInfo>| *info.get_ref());
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .layer(layer)
        .add_service(grpc::service())
        .serve_with_incoming(incoming);

    tokio::spawn(server);
    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let endpoint = Endpoint::from_static("https://localhost")
        .tls_config(tls)
        .unwrap();
    check(address, endpoint).await;
    assert_samples(
        series(&recorder.get_ref().handle().render(), "checks_total"),
        expected("checks_total", "grpc", address),
    );
}
