//! A blocking HTTP/1.1 client that sees every byte of the answer.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::PATIENCE;

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    /// Of the length that the head tells.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (head, body) = bytes.split_at(end.expect("a head"));
        let (head, mut body) = (String::from_utf8_lossy(head).to_lowercase(), body[4..].to_vec());
        if head.contains("\r\ntransfer-encoding: chunked") {
            body = unchunked(&body);
        } else {
            let length = format!("\r\ncontent-length: {}", body.len());
            assert!(head.contains(&length), "{length}, not: {head}");
        }
        let status = head.strip_prefix("http/1.1 ").expect("a status");
        Self {
            status: status[..3].parse().unwrap(),
            head,
            body,
        }
    }
}

fn unchunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = chunks
            .windows(2)
            .position(|bytes| bytes == b"\r\n")
            .expect("a chunk");
        let length = usize::from_str_radix(str::from_utf8(&chunks[..line]).unwrap(), 16).unwrap();
        let (chunk, rest) = chunks[line + 2..].split_at(length);
        if chunk.is_empty() {
            return body;
        }
        body.extend(chunk);
        chunks = &rest[2..];
    }
}

/// Sends bytes, which need not be a request, and reads until the server closes. Empty if the server resets the
/// connection.
pub fn raw(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    let done = stream
        .write_all(request)
        .and_then(|()| stream.read_to_end(&mut answer));
    match done {
        Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Err(error)
        }
        _ => Ok(answer),
    }
}

/// Asks a server, which may not be there yet.
pub fn request(server: SocketAddr, method: &str, path: &str) -> io::Result<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    raw(server, request.as_bytes()).map(|answer| Answer::parse(&answer))
}

pub fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, "GET", path).unwrap()
}
