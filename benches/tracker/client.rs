//! A client of a tracker.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

const TORRENTS: u64 = 1_000;
const PORTS: std::ops::Range<u16> = 1..101;
/// A connect is sent before so many announces.
const ANNOUNCES: u64 = 7;
/// A request without an answer in this time is lost.
const PATIENCE: Duration = Duration::from_millis(200);

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const PROTOCOL: u64 = 0x417_2710_1980;

pub(crate) struct Client {
    socket: UdpSocket,
    connection: u64,
    /// How many peers an answer of about 180 bytes has.
    wanted: u32,
    requests: u64,
}

impl Client {
    /// A client that is connected to the tracker.
    pub(crate) fn new(tracker: SocketAddr) -> Self {
        let any = match tracker {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(tracker).expect("a tracker");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut client = Self {
            socket,
            connection: 0,
            wanted: if tracker.is_ipv4() { 27 } else { 9 },
            requests: 0,
        };
        client.send(&connect(0));
        assert!(client.receive().is_some(), "{tracker} does not answer a connect");
        client
    }

    /// Runs several clients on this thread, each with so many requests under way. Returns the number of answers and their
    /// bytes.
    pub(crate) fn run_all(
        tracker: SocketAddr,
        clients: usize,
        in_flight: usize,
        time: Duration,
    ) -> (u64, u64) {
        let mut clients: Vec<_> = (0..clients).map(|_| Self::new(tracker)).collect();
        let (mut answers, mut bytes) = (0, 0);
        for client in &mut clients {
            for _ in 0..in_flight {
                client.ask();
            }
        }
        let start = Instant::now();
        while start.elapsed() < time {
            for client in &mut clients {
                client.set_waiting(true);
                let mut received = 0;
                while let Some(length) = client.receive() {
                    client.set_waiting(false);
                    received += 1;
                    bytes += length as u64;
                }
                answers += received;
                let lost = if received == 0 { in_flight as u64 } else { 0 };
                for _ in 0..received + lost {
                    client.ask();
                }
            }
        }
        (answers, bytes)
    }

    pub(crate) fn set_waiting(&self, waits: bool) {
        self.socket.set_nonblocking(!waits).expect("a socket");
    }

    /// Sends the next request. Its transaction ID is its number.
    pub(crate) fn ask(&mut self) -> u32 {
        self.requests += 1;
        let transaction = u32::try_from(self.requests).expect("not so many");
        if self.requests.is_multiple_of(ANNOUNCES + 1) {
            self.send(&connect(transaction));
        } else {
            self.send(&self.announce(transaction));
        }
        transaction
    }

    fn send(&self, request: &[u8]) {
        match self.socket.send(request) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot send: {error}"),
        }
    }

    /// Receives an answer, and returns its length. `None` if there is none.
    pub(crate) fn receive(&mut self) -> Option<usize> {
        self.receive_transaction().map(|(length, _)| length)
    }

    pub(crate) fn receive_transaction(&mut self) -> Option<(usize, u32)> {
        let mut answer = [0; 4_096];
        let length = match self.socket.recv(&mut answer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) => panic!("cannot receive: {error}"),
        };
        let number =
            |at: usize| u32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
        match number(0) {
            CONNECT => self.connection = u64::from(number(8)) << 32 | u64::from(number(12)),
            ANNOUNCE => {}
            _ => panic!("not an answer: {}", String::from_utf8_lossy(&answer[8..length])),
        }
        Some((length, number(4)))
    }

    fn announce(&self, transaction: u32) -> [u8; 98] {
        let mut request = [0; 98];
        let mut at = 0;
        let mut write = |bytes: &[u8]| {
            request[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let port = fastrand::u16(PORTS);
        write(&self.connection.to_be_bytes());
        write(&ANNOUNCE.to_be_bytes());
        write(&transaction.to_be_bytes());
        // The info hash, with the different bytes in front.
        write(
            &fastrand::u64(..TORRENTS)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_be_bytes(),
        );
        write(&[7; 12]);
        write(b"-XX0000-");
        write(&[[0; 10].as_slice(), &port.to_be_bytes()].concat());
        // Downloaded, left, uploaded; no event, no address, no key.
        write(&[0; 8]);
        write(&1_u64.to_be_bytes());
        write(&[0; 8 + 4 + 4 + 4]);
        write(&self.wanted.to_be_bytes());
        write(&port.to_be_bytes());
        request
    }
}

fn connect(transaction: u32) -> [u8; 16] {
    let mut request = [0; 16];
    request[..8].copy_from_slice(&PROTOCOL.to_be_bytes());
    request[8..12].copy_from_slice(&CONNECT.to_be_bytes());
    request[12..].copy_from_slice(&transaction.to_be_bytes());
    request
}
