//! Datagrams of nobody's client, and clients that harm others.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use test_support::{PATIENCE, Signal, V4, in_namespace};

use crate::{
    Peer, Relay,
    client::{Client, IPV4},
    exchange,
};

const SECOND: Duration = Duration::from_secs(1);

/// An allocate request without attributes, which is the shortest.
fn allocate(transaction: u32) -> [u8; 20] {
    let mut request = [0; 20];
    request[1] = 3;
    request[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    request[16..].copy_from_slice(&transaction.to_be_bytes());
    request
}

fn socket_at(ip: IpAddr, relay: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.connect(relay).unwrap();
    socket
}

/// An address of this host, another for each number.
fn loopback(network: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, network, high, low).into()
}

/// A client that gets an allocation and an answer within a second.
#[track_caller]
fn assert_prompt(client: &mut Client, peer: &Peer, relayed: SocketAddr) {
    let start = Instant::now();
    exchange(client, peer, relayed, b"there", b"back");
    let took = start.elapsed();
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn nobody_waits_for_neighbours_that_do_not_exist() {
    const LINK: &str = "ip link add v0 type veth peer name v1
        ip addr add 192.0.2.1/24 dev v0
        ip link set v0 up
        ip link set v1 up";
    in_namespace(LINK, || {
        let relay = Relay::start("--listen 0.0.0.0:0");
        let (mut client, peer) = (Client::new(relay.at(V4)), Peer::at(V4));
        let relayed = client.allocate(IPV4).unwrap()[0];
        client.permit(V4).unwrap();

        let mut flooder = Client::new(relay.at(V4));
        flooder.allocate(IPV4).unwrap();
        let nobody: Vec<IpAddr> = (2..10).map(|host| [192, 0, 2, host].into()).collect();
        for ip in &nobody {
            flooder.permit(*ip).unwrap();
        }
        for _ in 0..10 {
            for ip in &nobody {
                for _ in 0..10 {
                    flooder.send((*ip, 9).into(), &[0; 1_200]);
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_prompt(&mut client, &peer, relayed);
        }
    });
}

/// Sends 4,000 requests without a password, and asserts that the answers keep to the limit of one prefix.
#[track_caller]
fn assert_limited(sockets: &[&UdpSocket]) {
    let (start, mut received) = (Instant::now(), 0);
    for request in 0..4_000 {
        sockets[request % sockets.len()]
            .send(&allocate(u32::try_from(request).unwrap()))
            .unwrap();
        if request % 50 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    for socket in sockets {
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while let Ok(length) = socket.recv(&mut [0; 2_000]) {
            received += length;
        }
    }
    // What a second takes can come at once.
    let limit = 8_192.0 * (1.0 + start.elapsed().as_secs_f64());
    assert!(received > 1_000, "{received} bytes");
    assert!(
        f64::from(u32::try_from(received).unwrap()) <= limit,
        "{received} of {limit} bytes"
    );
}

#[test]
fn answers_without_a_password_are_limited_for_each_prefix() {
    let relay = Relay::start("--listen 127.0.0.1:0");
    // The source of a datagram can be a client with an allocation.
    let mut client = Client::new(relay.listener);
    client.allocate(IPV4).unwrap();
    assert_limited(&[&client.socket]);

    let strangers: Vec<_> = (0..100)
        .map(|n| socket_at(loopback(1, n), relay.listener))
        .collect();
    let sockets: Vec<_> = strangers.iter().collect();
    assert_limited(&sockets);

    let other = socket_at(loopback(2, 1), relay.listener);
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.send(&allocate(0)).unwrap();
    assert!(other.recv(&mut [0; 2_000]).unwrap() <= 80);
}

#[test]
fn strangers_take_no_memory() {
    let relay = Relay::start("--listen 0.0.0.0:0");
    let port = relay.listener.port();
    let send = |from: std::ops::Range<u16>| {
        for number in from {
            let socket = UdpSocket::bind((loopback(3, number), 0)).unwrap();
            socket.send_to(&allocate(0), (loopback(4, number), port)).unwrap();
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        // Its answer says that all were read.
        Client::new(relay.at(V4)).allocate(IPV4).unwrap();
    };
    send(0..1_000);
    let before = relay.program.resident();
    send(1_000..21_000);
    let grown = relay.program.resident().saturating_sub(before);
    assert!(grown < 2_000_000, "{grown} bytes");
}

#[test]
fn datagrams_write_no_log_lines() {
    let relay = Relay::start("--listen 127.0.0.1:0");
    let socket = socket_at(V4, relay.listener);
    for number in 0..2_000_u32 {
        // Among them are headers of STUN with a wrong length, or none, and channels.
        let mut datagram = allocate(number).to_vec();
        datagram[3] = number.to_be_bytes()[3];
        datagram[0] = number.to_be_bytes()[2] << 4;
        datagram.truncate(usize::try_from(number % 24).unwrap());
        socket.send(&datagram).unwrap();
        if number % 50 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let mut client = Client::new(relay.at(V4));
    client.allocate(IPV4).unwrap();
    let said = relay.program.stop(Signal::SIGINT);
    assert_eq!(said, "");
}
