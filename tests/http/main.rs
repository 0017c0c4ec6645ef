//! The layer under real servers: axum and hyper, HTTP/1.1 and HTTP/2, clients of both families on one socket.

mod examples;
mod many_requests_on_one_connection;
mod response_bodies;
mod sources;
mod stacks;
mod tasks_and_threads;
mod unfinished_requests;
mod who_the_client_is;
mod wrapped_values;

use std::net::{IpAddr, SocketAddr};

use axum::{Router, body::Body, extract::ConnectInfo, routing::get};
use bytes::Bytes;
use dualstack_metrics::{ClientLabelsLayer, ClientScopes, Protocol, ServerBinding, SocketOptions};
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::counter;
use test_support::{Labels, Metrics, Seen, loopbacks, sample, seen, seven};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A listener for both families, and the addresses of its clients.
fn dual_stack() -> (TcpListener, Vec<IpAddr>) {
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse().unwrap());
    (listener.unwrap(), loopbacks())
}

fn binding(listener: &TcpListener) -> ServerBinding {
    ServerBinding::new(Protocol::Http, listener.local_addr().unwrap())
}

fn labels_of(client: IpAddr, server: SocketAddr) -> Labels {
    seven("http", server, seen(client, server))
}

/// A router that counts `requests_total`.
fn counting() -> Router {
    Router::new().route("/", get(async || counter!("requests_total").increment(1)))
}

/// Serves a router with connect info, in the background, until the runtime is dropped.
fn serve(listener: TcpListener, app: Router) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Serves a router under the layer, to clients of both families.
fn serve_layered(app: Router) -> (SocketAddr, Vec<IpAddr>) {
    let (listener, clients) = dual_stack();
    let layer = ClientLabelsLayer::new(binding(&listener));
    (serve(listener, app.layer(layer)), clients)
}

async fn tcp(client: IpAddr, server: SocketAddr) -> TcpStream {
    TcpStream::connect((client, server.port())).await.unwrap()
}

async fn http1(client: IpAddr, server: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
    handshake1(tcp(client, server).await).await
}

async fn handshake1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> http1::SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn http2(client: IpAddr, server: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(tcp(client, server).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A `GET` request for HTTP/1.1 or HTTP/2.
fn request_to(server: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://{server}{path}"));
    request
        .header(header::HOST, "test")
        .body(Full::default())
        .unwrap()
}

/// Sends a request on a new connection, which is closed with the response.
async fn send(
    version: Version,
    client: IpAddr,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let server = request.uri().authority().unwrap().as_str().parse().unwrap();
    if version == Version::HTTP_2 {
        http2(client, server).await.send_request(request).await
    } else {
        http1(client, server).await.send_request(request).await
    }
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// `GET path` on an open HTTP/1.1 connection, read to the end.
async fn ask(connection: &mut http1::SendRequest<Full<Bytes>>, path: &str) -> String {
    connection.ready().await.unwrap();
    let request = Request::get(path)
        .header(header::HOST, "test")
        .body(Full::default());
    let response = connection.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    text(response).await
}

/// Counts when it is dropped.
struct CountDrop(&'static str);

impl Drop for CountDrop {
    fn drop(&mut self) {
        counter!(self.0).increment(1);
    }
}

/// Asserts that nothing but `name` was counted, `value` times for each client.
#[track_caller]
fn assert_each(metrics: &Metrics, clients: &[IpAddr], server: SocketAddr, name: &str, value: u64) {
    let of = |&client: &IpAddr| sample(name, &labels_of(client, server), value);
    metrics.assert(clients.iter().map(of));
}

/// A sample without labels.
fn plain(name: &str, value: u64) -> String {
    sample(name, &Labels::new(), value)
}

// For tests without a socket.

const SERVER: &str = "[::]:7070";

fn mock_binding() -> ServerBinding {
    ServerBinding::new(Protocol::Http, SERVER.parse().unwrap())
}

fn mock_layer() -> ClientLabelsLayer {
    ClientLabelsLayer::new(mock_binding())
}

fn mock_scopes() -> ClientScopes {
    ClientScopes::new(mock_binding())
}

fn mock_labels(client: Seen) -> Labels {
    seven("http", SERVER.parse().unwrap(), client)
}

fn mock(name: &str, client: Seen, value: u64) -> String {
    sample(name, &mock_labels(client), value)
}

/// A request as a server with connect info hands it over.
fn request_from(client: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let client: SocketAddr = client.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(client));
    request
}
