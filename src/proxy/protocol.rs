//! The header of the PROXY protocol, versions 1 and 2.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>
//!
//! `proxy-header` parses a header that is complete. The listener of `proxy-protocol-rs` is not used: it reads one header at
//! a time, so a silent peer delays all others, takes a mapped address for an IPv6 address, and has TCP only.

use std::{future::poll_fn, net::SocketAddr, pin::Pin};

use bytes::Bytes;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, ReadBuf};

use super::reason::Rejection;

/// The client that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The client's address.
    Client(SocketAddr),
    /// The proxy itself is the client, which checks the health of the server (`LOCAL`).
    Local,
    /// The client has no IP address, or the proxy does not know it (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`).
    Unknown,
}

const V1_START: &[u8] = b"PROXY ";
/// The longest line of version 1, with its line feed.
const V1_MAX: usize = 107;

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// This many bytes always show whether they are the beginning of a header.
pub(super) const START_MAX: usize = V2_START.len();

/// The signature, the version and command, the family, and two bytes with the length of the rest.
const V2_FIXED: usize = 16;
/// The longest header of version 2 that is read. There is room for the certificate of a client. The protocol allows
/// 65,551 bytes.
const V2_MAX: usize = 8 * 1024;

/// Reads a header. `bytes` then has the bytes that arrived after it, or, if it cannot be used, all bytes.
pub(super) async fn read<S>(stream: &mut S, bytes: &mut Vec<u8>) -> Result<Header, Rejection>
where
    S: AsyncRead + Unpin,
{
    let length = loop {
        if let Some(length) = length_of(bytes)? {
            break length;
        }
        // The bytes are the beginning of a header.
        if !read_some(stream, bytes).await {
            return Err(Rejection::Closed);
        }
    };
    let header = parse(&bytes[..length])?;
    bytes.drain(..length);
    Ok(header)
}

/// Takes the header from the front of a datagram. Leaves it there if it cannot be used.
pub(super) fn split(datagram: &mut Bytes) -> Result<Header, Rejection> {
    let Some(length) = length_of(datagram)? else {
        // No more bytes will come.
        return Err(match is_header(datagram) {
            Some(true) => Rejection::Malformed,
            _ => Rejection::Missing,
        });
    };
    let header = parse(&datagram[..length])?;
    *datagram = datagram.slice(length..);
    Ok(header)
}

/// Appends the bytes that have arrived. Returns false if the stream has ended or failed.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 512];
    let mut buffer = ReadBuf::new(&mut bytes);
    let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await;
    into.extend_from_slice(buffer.filled());
    read.is_ok() && !buffer.filled().is_empty()
}

/// Whether this is the beginning of a header, or `None` if more bytes are needed to know that.
pub(super) fn is_header(bytes: &[u8]) -> Option<bool> {
    let has_start = [V1_START, V2_START].iter().any(|start| bytes.starts_with(start));
    match length_of(bytes) {
        Err(Rejection::Missing) => Some(false),
        _ => has_start.then_some(true),
    }
}

/// The length of the header at the beginning of `bytes`, or `None` if more bytes are needed to know that it is complete.
fn length_of(bytes: &[u8]) -> Result<Option<usize>, Rejection> {
    let begins_with = |start: &[u8]| {
        let common = start.len().min(bytes.len());
        start[..common] == bytes[..common]
    };
    if begins_with(V2_START) {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
            return Ok(None);
        };
        if fixed[12] >> 4 != 2 {
            return Err(Rejection::Malformed);
        }
        let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if length > V2_MAX {
            return Err(Rejection::Oversized);
        }
        Ok((length <= bytes.len()).then_some(length))
    } else if begins_with(V1_START) {
        let line = &bytes[..bytes.len().min(V1_MAX)];
        match line.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => Ok(Some(at + 2)),
            None if line.len() == V1_MAX => Err(Rejection::Oversized),
            None => Ok(None),
        }
    } else {
        Err(Rejection::Missing)
    }
}

/// Parses a header of the length that [`length_of`] returned.
fn parse(header: &[u8]) -> Result<Header, Rejection> {
    const LOCAL: u8 = 0x20;

    // The protocol demands that the rest is ignored.
    if header.starts_with(V2_START) && header[V2_START.len()] == LOCAL {
        return Ok(Header::Local);
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(header, config) {
        Ok((parsed, length)) if length == header.len() => match parsed.proxied_address() {
            None => Ok(Header::Unknown),
            Some(_) if header.starts_with(V1_START) && !has_ports(header) => Err(Rejection::Malformed),
            Some(address) => Ok(Header::Client(address.source)),
        },
        _ => Err(Rejection::Malformed),
    }
}

/// Whether a line of version 1 ends with two ports as they must be written. `proxy-header` also takes `+80` and `080`.
fn has_ports(line: &[u8]) -> bool {
    let mut ports = line.trim_ascii_end().rsplit(|&byte| byte == b' ').take(2);
    ports.all(|port| port == b"0" || (!port.starts_with(b"0") && port.iter().all(u8::is_ascii_digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2: version and command, family and protocol, and the rest.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, rest].concat()
    }

    const INET: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xc3, 0x50, 0, 80];

    fn inet6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0xc3, 0x50, 0, 80]].concat()
    }

    fn client(address: &str) -> Header {
        Header::Client(address.parse().unwrap())
    }

    /// In pieces of each size.
    fn read_all(bytes: &[u8]) -> (Result<Header, Rejection>, Vec<u8>) {
        let in_pieces = |size: usize| {
            let mut stream = Pieces(bytes, size);
            let mut after = Vec::new();
            let header = poll_once(read(&mut stream, &mut after));
            after.extend_from_slice(stream.0);
            (header, after)
        };
        let whole = in_pieces(bytes.len().max(1));
        for size in 1..bytes.len().min(200) {
            let pieces = in_pieces(size);
            assert_eq!(pieces.0, whole.0, "pieces of {size}");
            assert!(pieces.0.is_err() || pieces.1 == whole.1);
        }
        whole
    }

    struct Pieces<'a>(&'a [u8], usize);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let length = self.1.min(self.0.len()).min(buffer.remaining());
            let (piece, rest) = self.0.split_at(length);
            buffer.put_slice(piece);
            self.0 = rest;
            Ok(()).into()
        }
    }

    fn poll_once<F: Future>(future: F) -> F::Output {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut cx) {
            std::task::Poll::Ready(output) => output,
            std::task::Poll::Pending => unreachable!("the stream is always ready"),
        }
    }

    #[test]
    fn reads_both_versions_and_nothing_of_what_follows() {
        let v1 = |line: &str| line.as_bytes().to_vec();
        let mapped = inet6("::ffff:192.0.2.7");
        let with_tlv = [&INET[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (header, expected) in [
            (
                v1("PROXY TCP4 192.0.2.7 192.0.2.1 50000 80\r\n"),
                client("192.0.2.7:50000"),
            ),
            (
                v1("PROXY TCP4 192.0.2.7 192.0.2.1 0 0\r\n"),
                client("192.0.2.7:0"),
            ),
            (
                v1("PROXY TCP6 2001:db8::7 ::1 50000 80\r\n"),
                client("[2001:db8::7]:50000"),
            ),
            (
                v1("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 50000 80\r\n"),
                client("[::ffff:192.0.2.7]:50000"),
            ),
            (v1("PROXY UNKNOWN\r\n"), Header::Unknown),
            (v1("PROXY UNKNOWN ::1 ::1 1 1\r\n"), Header::Unknown),
            (v2(0x21, 0x11, &INET), client("192.0.2.7:50000")),
            (v2(0x21, 0x11, &with_tlv), client("192.0.2.7:50000")),
            (
                v2(0x21, 0x21, &inet6("2001:db8::7")),
                client("[2001:db8::7]:50000"),
            ),
            (v2(0x21, 0x21, &mapped), client("[::ffff:192.0.2.7]:50000")),
            (v2(0x21, 0x00, &[]), Header::Unknown),
            (v2(0x21, 0x31, &[b'/'; 216]), Header::Unknown),
            // The families of datagrams, in a stream.
            (v2(0x21, 0x12, &INET), client("192.0.2.7:50000")),
            (v2(0x21, 0x22, &mapped), client("[::ffff:192.0.2.7]:50000")),
            (v2(0x20, 0x00, &[]), Header::Local),
            (v2(0x20, 0x11, &INET), Header::Local),
            // The rest of `LOCAL` is ignored.
            (v2(0x20, 0xff, b"anything"), Header::Local),
            (v2(0x20, 0x11, &[]), Header::Local),
        ] {
            for after in [
                &b""[..],
                b"GET / HTTP/1.1\r\n\r\n",
                b"PROXY UNKNOWN\r\n",
                &[0; 5_000],
            ] {
                let stream = [&header, after].concat();
                assert_eq!(read_all(&stream), (Ok(expected), after.to_vec()), "{header:?}");
            }
        }
    }

    #[test]
    fn refuses_everything_else() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for (bytes, reason) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Rejection::Missing),
            (b"POST / HTTP/1.1\r\n\r\n", Rejection::Missing),
            (b"PROXYTCP4 192.0.2.7 192.0.2.1 50000 80\r\n", Rejection::Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", Rejection::Missing),
            (b"\x16\x03\x01", Rejection::Missing),
            (b"", Rejection::Closed),
            (b"PRO", Rejection::Closed),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 80\r", Rejection::Closed),
            (&v2(0x21, 0x11, &INET)[..27], Rejection::Closed),
            (long.as_bytes(), Rejection::Oversized),
            (&v2(0x21, 0x11, &[0; V2_MAX]), Rejection::Oversized),
            (&v2(0x20, 0x00, &[0; V2_MAX]), Rejection::Oversized),
            (b"PROXY \r\n", Rejection::Malformed),
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 80 \r\n",
                Rejection::Malformed,
            ),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000\r\n", Rejection::Malformed),
            (b"PROXY TCP4 2001:db8::7 ::1 50000 80\r\n", Rejection::Malformed),
            (
                b"PROXY TCP6 192.0.2.7 192.0.2.1 50000 80\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 80\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 +50000 80\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 080\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.07 192.0.2.1 50000 80\r\n",
                Rejection::Malformed,
            ),
            (b"PROXY TCP6 fe80::7%eth0 ::1 50000 80\r\n", Rejection::Malformed),
            (
                b"PROXY TCP4 192.0.2.7  192.0.2.1 50000 80\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY UDP4 192.0.2.7 192.0.2.1 50000 80\r\n",
                Rejection::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.\xff 192.0.2.1 50000 80\r\n",
                Rejection::Malformed,
            ),
            (&v2(0x11, 0x11, &INET), Rejection::Malformed),
            (&v2(0x22, 0x11, &INET), Rejection::Malformed),
            (&v2(0x21, 0x11, &INET[..11]), Rejection::Malformed),
            (&v2(0x21, 0x21, &INET), Rejection::Malformed),
            (&v2(0x21, 0x31, &INET), Rejection::Malformed),
            (&v2(0x21, 0x41, &INET), Rejection::Malformed),
            (&v2(0x21, 0x13, &INET), Rejection::Malformed),
        ] {
            assert_eq!(
                read_all(bytes).0,
                Err(reason),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
