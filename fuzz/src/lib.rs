//! What must hold for everything that a client sends through a proxy. `tests/fuzzed.rs` calls it without a fuzzer.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, TrustedProxies,
    client::{ClientConnectInfo, ClientSource as _, DatagramClient, DatagramSource as _},
    proxy::{Accept, HeaderSource, ProxyProtocolDatagrams},
};
use http::{HeaderName, HeaderValue, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

const NAMES: [&str; 4] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "cloudfront-viewer-address",
];

const PROXY: &str = "[::ffff:10.0.0.1]:50000";
const INET: &str = "192.0.2.7:50000";
const INET6: &str = "[2001:db8::7]:50000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn class(text: &str) -> ClientLabels {
    address(text).into()
}

fn proxies() -> TrustedProxies {
    TrustedProxies::new(["10.0.0.0/8"]).unwrap()
}

/// Lines of a header, with a line feed between them.
pub fn headers(data: &[u8]) {
    const FORWARDED: [(&str, &str); 3] = [
        ("for=192.0.2.7", INET),
        (
            r#"for="[2001:db8::7]:50000";by="_\"x";host="a, b;for=10.0.0.1""#,
            INET6,
        ),
        (r#"proto=https;for="[2001:db8::7]", for=10.0.0.2"#, INET6),
    ];
    const X_FORWARDED_FOR: [(&str, &str); 3] = [
        ("192.0.2.7", INET),
        ("\"[2001:db8::7]:50000\"", INET6),
        ("2001:db8::7, 10.0.0.2, [::ffff:10.0.0.3]:1", INET6),
    ];
    thread_local! {
        static SOURCES: [HeaderSource; 4] = NAMES.map(|name| proxies().header(name));
    }

    let lines: Vec<_> = data.split(|&byte| byte == b'\n').collect();
    for (source, name) in NAMES.into_iter().enumerate() {
        let seen =
            |peer: &str, lines: &[&[u8]]| SOURCES.with(|sources| seen(&sources[source], peer, name, lines));
        // Nobody else is believed.
        for peer in [INET, INET6] {
            assert_eq!(seen(peer, &lines), class(peer));
        }
        seen(PROXY, &lines);
        // Two hops from the right, there is no other client, whatever is to the left.
        if name != "forwarded" {
            let platform = [&lines[..], &[b"2001:db8::7:50000, 192.0.2.7:1"]].concat();
            let source = proxies().header(name).hops(2);
            assert_eq!(self::seen(&source, PROXY, name, &platform), class(INET6));
        }
        let hops = match name {
            "x-forwarded-for" => X_FORWARDED_FOR,
            "forwarded" => FORWARDED,
            _ => {
                // Of two lines, none is used.
                let twice = [&lines[..], &[b"192.0.2.7:1", b"192.0.2.7:1"]].concat();
                assert_eq!(seen(PROXY, &twice), ClientLabels::UNKNOWN);
                continue;
            }
        };
        // What a proxy adds at the right end is what counts, in the same line or in another.
        for (hop, client) in hops {
            let mut added = lines.clone();
            added.push(hop.as_bytes());
            assert_eq!(seen(PROXY, &added), class(client));
            let joined = [data, b", ", hop.as_bytes()].concat();
            let joined: Vec<_> = joined.split(|&byte| byte == b'\n').collect();
            if is_value(joined[joined.len() - 1]) {
                assert_eq!(seen(PROXY, &joined), class(client));
            }
        }
    }
}

fn is_value(line: &[u8]) -> bool {
    HeaderValue::from_bytes(line).is_ok()
}

fn seen(source: &HeaderSource, peer: &str, name: &'static str, lines: &[&[u8]]) -> ClientLabels {
    let mut request = Request::new(());
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    let source = source.clone().peer(address(peer));
    source.client(&request).unwrap().class()
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

/// A number that says how the stream comes in pieces, and the stream. It is also read as a datagram.
pub fn proxy_protocol(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let piece = usize::from(piece) + 1;

    // Not read from somebody else.
    for peer in [INET, INET6] {
        let (info, bytes) = accept(stream, piece, peer).unwrap();
        assert_eq!(info, ClientConnectInfo::direct(Some(address(peer))));
        assert_eq!(bytes, stream);
    }

    // The same in pieces of any size, and nothing is lost or invented.
    let in_pieces = accept(stream, piece, PROXY);
    assert_eq!(in_pieces, accept(stream, stream.len().max(1), PROXY));
    if let Some((info, bytes)) = &in_pieces {
        assert!(stream.ends_with(bytes));
        assert_eq!(info.peer_addr(), Some(address(PROXY)));
    }

    let in_datagram = read_datagram(stream, PROXY);
    for peer in [INET, INET6] {
        let untouched = (Ok(DatagramClient::Peer), stream.to_vec());
        assert_eq!(read_datagram(stream, peer), untouched);
    }
    match in_datagram {
        // A refused datagram is left as it is, and its stream is closed.
        (Err(client), payload) => {
            assert_eq!((client, &*payload), (DatagramClient::Unknown, stream));
            assert_eq!(in_pieces, None);
        }
        (Ok(client), payload) => {
            let (info, bytes) = in_pieces.unwrap();
            assert_eq!(payload, bytes);
            let expected = match client {
                DatagramClient::Behind(client) => Some(client),
                DatagramClient::Peer => Some(address(PROXY)),
                // The enum is not exhaustive.
                _ => None,
            };
            assert_eq!(info.client_addr(), expected);
        }
    }

    // What the proxy sent counts, and not what its client sent after it.
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 80\r\n";
    let v2 = |rest: &[u8]| {
        let length = u16::try_from(12 + rest.len()).unwrap().to_be_bytes();
        let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
        let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0xc3, 0x50, 0, 80];
        [start, &length[..], &addresses, rest].concat()
    };
    let additional = &stream[..stream.len().min(1_000)];
    for (header, client) in [(&v1[..], INET6), (&v2(&[]), INET), (&v2(additional), INET)] {
        let (info, bytes) = accept(&[header, stream].concat(), piece, PROXY).unwrap();
        assert_eq!(
            info,
            ClientConnectInfo::new(Some(address(client)), Some(address(PROXY)))
        );
        assert_eq!(bytes, stream);
        let datagram = read_datagram(&[header, stream].concat(), PROXY);
        assert_eq!(
            datagram,
            (Ok(DatagramClient::Behind(address(client))), stream.to_vec())
        );
    }
}

/// The client, and what is left of the datagram.
fn read_datagram(bytes: &[u8], peer: &str) -> (Result<DatagramClient, DatagramClient>, Vec<u8>) {
    thread_local! {
        static SOURCE: ProxyProtocolDatagrams = proxies().proxy_protocol_datagrams();
    }
    let mut payload = Bytes::copy_from_slice(bytes);
    let client = SOURCE.with(|source| source.read_client(&mut payload, address(peer)));
    (client, payload.into())
}

/// The addresses, and all bytes that can be read, unless the connection is closed.
fn accept(bytes: &[u8], piece: usize, peer: &str) -> Option<(ClientConnectInfo, Vec<u8>)> {
    let run = |runtime: &Runtime| {
        runtime.block_on(async {
            let stream = Pieces {
                bytes: bytes.to_vec().into(),
                piece,
            };
            let once = Once {
                stream: Some(stream),
                peer: address(peer),
            };
            let (mut stream, info) = proxies().proxy_protocol(once).accept().await.ok()?;
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            Some((info, read))
        })
    };
    RUNTIME.with(run)
}

/// One connection. Waiting for another is an error, which ends `accept` if the first was closed.
struct Once {
    stream: Option<Pieces>,
    peer: SocketAddr,
}

impl Accept for Once {
    type Io = Pieces;

    async fn accept(&mut self) -> io::Result<(Pieces, Option<SocketAddr>)> {
        if let Some(stream) = self.stream.take() {
            return Ok((stream, Some(self.peer)));
        }
        // Now the header is read, by a task that is never pending.
        tokio::task::yield_now().await;
        Err(io::ErrorKind::NotConnected.into())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }
}

struct Pieces {
    bytes: VecDeque<u8>,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.bytes.len()).min(buffer.remaining());
        let piece: Vec<_> = self.bytes.drain(..length).collect();
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
