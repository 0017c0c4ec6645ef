use axum::{Router, routing::get};
use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ServerBinding};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use super::recorder;

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello"
}

#[tokio::test]
async fn counts_an_unknown_client() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let path = std::env::temp_dir().join(format!("docs-tried-{}", std::process::id()));
    _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();

    let binding = ServerBinding::unix(Protocol::Http);
    let layer = ClientLabelsLayer::new(binding).source(ClientLabels::UNKNOWN);
    let app = Router::new().route("/", get(hello)).layer(layer);
    let server = axum::serve(listener, app);

    tokio::spawn(async { server.await });
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(
        recorder.get_ref().handle().render().trim_end(),
        "# TYPE hellos_total counter\n\
         hellos_total{client_address_ip_family=\"unknown\",client_address_ip_type=\"unknown\",\
         server_binding_address_ip_family=\"unknown\",server_binding_address_ip_type=\"unknown\",\
         server_binding_ip=\"unknown\",server_binding_port=\"unknown\",server_binding_protocol=\"http\"} 1",
    );
}
