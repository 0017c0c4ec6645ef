//! A blocking client for HTTP/1.1, which sees every byte of the answer.

use std::{
    borrow::Cow,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// In lower case.
    pub head: String,
    /// The body, of the length that the head says.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Sends what may be no request at all, and reads until the server closes. Nothing, where it does so with a reset.
pub fn raw(server: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let done = stream
        .write_all(request)
        .and_then(|()| stream.read_to_end(&mut answer));
    if let Err(error) = done {
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{error}"
        );
    }
    answer
}

pub fn request(server: SocketAddr, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let answer = raw(server, request.as_bytes());
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.expect("a head"));
    let (head, body) = (String::from_utf8_lossy(head).to_lowercase(), &body[4..]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("http/1.1 "));
    let length = format!("content-length: {}", body.len());
    assert!(lines.any(|line| line == length), "{length}, not: {head}");
    Answer {
        status: status.expect("a status")[..3].parse().unwrap(),
        body: body.to_vec(),
        head,
    }
}

pub fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, "GET", path)
}
