//! Packets that no ordinary socket sends.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

use crate::link_number;

/// A setup for a namespace: a link, with addresses that can be used immediately.
pub const LINK: &str = "ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
ip addr add fe80::a/64 dev v0 nodad
ip addr add fe80::b/64 dev v1 nodad";

/// Packets with an IP version of 5, over loopback.
pub fn send_broken_headers(count: usize) {
    let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    send_headers(count, 5, loopback, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
}

/// Packets to `::`, over [`LINK`]: on loopback they would be delivered.
pub fn send_to_no_address(count: usize) {
    let v1 = SocketAddrV6::new("fe80::b".parse().unwrap(), 0, 0, link_number("v0"));
    send_headers(count, 6, v1, "fe80::a".parse().unwrap(), Ipv6Addr::UNSPECIFIED);
}

/// Sends packets without a payload, routed via `via`.
fn send_headers(count: usize, version: u8, via: SocketAddrV6, source: Ipv6Addr, destination: Ipv6Addr) {
    const NO_NEXT_HEADER: u8 = 59;

    let mut header = [0; 40];
    header[0] = version << 4;
    header[6] = NO_NEXT_HEADER;
    header[7] = 64;
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
    // With this protocol number the sender writes the header itself.
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(255))).unwrap();
    for _ in 0..count {
        assert_eq!(socket.send_to(&header, &via.into()).unwrap(), header.len());
    }
}

/// Sends one byte from port 0 to a port of `127.0.0.1`.
pub fn send_from_port_0(port: u16, byte: u8) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
    // A UDP header: source, destination, length, no checksum.
    let mut packet = [0, 0, 0, 0, 0, 9, 0, 0, byte];
    packet[2..4].copy_from_slice(&port.to_be_bytes());
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert_eq!(socket.send_to(&packet, &loopback.into()).unwrap(), packet.len());
}
