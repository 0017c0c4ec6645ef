//! Reads a header and the PROXY protocol with the oldest versions of the dependencies.

use dualstack_metrics::{ClientLabels, TrustedProxies, client::ClientSource};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proxies = TrustedProxies::new(["127.0.0.0/8", "::1"])?;
    let client: SocketAddr = "[2001:db8::7]:50000".parse()?;

    let peer: SocketAddr = "[::ffff:127.0.0.1]:1".parse()?;
    let source = proxies.x_forwarded_for().peer(peer);
    let request = http::Request::get("/").header("x-forwarded-for", "192.0.2.7, [2001:db8::7]:50000");
    let seen = source.client(&request.body(())?).map(|client| client.class());
    assert_eq!(seen, Some(ClientLabels::from(client)));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(listener.local_addr()?).await?;
    stream
        .write_all(b"PROXY TCP6 2001:db8::7 ::1 50000 80\r\nhello")
        .await?;
    let (mut accepted, info) = proxies.proxy_protocol(listener).accept().await?;
    assert_eq!(info.client_addr(), Some(client));
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).await?;
    assert_eq!(&hello, b"hello");
    Ok(())
}
