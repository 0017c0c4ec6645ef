//! The relay as its users have it: the real binary, and two clients, that of `turn-client-proto` and that of coturn.

#[cfg(target_os = "linux")]
mod abuse;
mod client;

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use client::{BOTH, Client, IPV4, IPV6};
use test_support::{
    INET, INET6, MAPPED, PATIENCE, Program, Seen, V4, V6, and, assert_soon, eventually, free_port, http::get,
    ipv6_or_say, loopbacks, sample, samples, seven, spawning,
};
#[cfg(target_os = "linux")]
use test_support::{WITHOUT_IPV6_ADDRESSES, in_namespace};

const UNAUTHORIZED: u16 = 401;
const FAMILY_NOT_SUPPORTED: u16 = 440;
const PEER_FAMILY_MISMATCH: u16 = 443;
const INSUFFICIENT_CAPACITY: u16 = 508;

const BINARY: &str = env!("CARGO_BIN_EXE_turn_relay");

/// A relay that serves.
struct Relay {
    listener: SocketAddr,
    metrics: SocketAddr,
    program: Program,
}

impl Relay {
    fn start(args: &str) -> Self {
        let args = format!("{args} --user alice:secret --metrics 127.0.0.1:0");
        let (program, urls) = Program::listening(BINARY, &args);
        let address = |url: &str, scheme: &str, path: &str| {
            let address = url.strip_prefix(scheme).and_then(|rest| rest.strip_suffix(path));
            address.expect(url).parse().expect(url)
        };
        let [listener, metrics] = &urls[..] else {
            panic!("a listener and the metrics: {urls:?}");
        };
        Self {
            listener: address(listener, "udp://", ""),
            metrics: address(metrics, "http://", "/metrics"),
            program,
        }
    }

    /// Listens on all addresses, and relays from the loopback addresses.
    fn dual_stack() -> Self {
        let v6 = if ipv6_or_say() { "--relay-ip ::1" } else { "" };
        Self::start(&format!("--listen [::]:0 --relay-ip 127.0.0.1 {v6}"))
    }

    fn at(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.listener.port())
    }

    /// How a client at `ip` is seen.
    fn seen(&self, ip: IpAddr) -> Seen {
        match (ip.is_ipv4(), self.listener.is_ipv4()) {
            (true, true) => INET,
            (true, false) => MAPPED,
            _ => INET6,
        }
    }

    fn allocations(&self, client: IpAddr, count: u64) -> String {
        let labels = seven("udp", self.listener, self.seen(client));
        sample("turn_relay_allocations_total", &labels, count)
    }

    /// The samples of what was relayed to peers at `peer` and from them, in datagrams and bytes.
    fn relayed(&self, client: IpAddr, peer: IpAddr, to: (u64, u64), from: (u64, u64)) -> Vec<String> {
        let family = if peer.is_ipv4() { "inet" } else { "inet6" };
        let labels = seven("udp", self.listener, self.seen(client));
        let labels = and(labels, "peer_address_ip_family", family);
        let all = [("to_peer", to), ("from_peer", from)];
        let all = all.iter().filter(|(_, (datagrams, _))| *datagrams > 0);
        all.flat_map(|(direction, (datagrams, bytes))| {
            let labels = and(labels.clone(), "direction", direction);
            [
                sample("turn_relay_datagrams_total", &labels, *datagrams),
                sample("turn_relay_bytes_total", &labels, *bytes),
            ]
        })
        .collect()
    }

    /// Asserts all series of the relay. It counts a datagram after it has sent it.
    #[track_caller]
    fn assert_counts(&self, expected: impl IntoIterator<Item = String>) {
        let counts = || {
            let mut counts = samples(&get(self.metrics, "/metrics").text());
            counts.retain(|line| line.starts_with("turn_relay_"));
            counts
        };
        assert_soon(counts, expected);
    }
}

/// A host that the client wants to reach.
struct Peer(UdpSocket);

impl Peer {
    fn at(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2_000];
        let (length, from) = self.0.recv_from(&mut buffer).expect("a datagram");
        (buffer[..length].to_vec(), from)
    }
}

/// Sends a datagram each way. The peer sees the relayed address, and the client sees the peer's.
fn exchange(client: &mut Client, peer: &Peer, relayed: SocketAddr, there: &[u8], back: &[u8]) {
    client.send(peer.address(), there);
    assert_eq!(peer.receive(), (there.to_vec(), relayed));
    peer.0.send_to(back, relayed).unwrap();
    assert_eq!(client.receive(), (peer.address(), back.to_vec()));
}

#[test]
fn one_socket_reaches_peers_of_both_families() {
    if !ipv6_or_say() {
        return;
    }
    let relay = Relay::dual_stack();
    let mut expected = Vec::new();
    for ip in [V4, V6] {
        let mut client = Client::new(relay.at(ip));
        let relayed = client.allocate(BOTH).unwrap();
        let [v4, v6] = relayed[..] else {
            panic!("two addresses: {relayed:?}");
        };
        assert_eq!((v4.ip(), v6.ip()), (V4, V6));
        assert_eq!(v4.port(), v6.port(), "of one socket");

        for (peer, relayed) in [(V4, v4), (V6, v6)] {
            let peer = Peer::at(peer);
            client.permit(peer.address().ip()).unwrap();
            exchange(&mut client, &peer, relayed, b"an indication", b"and back");
            client.bind_channel(peer.address()).unwrap();
            exchange(&mut client, &peer, relayed, b"a channel", b"");
            let (to, from) = ((2, 13 + 9), (2, 8));
            expected.extend(relay.relayed(ip, peer.address().ip(), to, from));
        }
        expected.push(relay.allocations(ip, 1));
    }
    relay.assert_counts(expected);
}

#[test]
fn a_client_that_names_no_family_gets_ipv4() {
    let relay = Relay::dual_stack();
    let mut expected = Vec::new();
    for ip in loopbacks() {
        let mut client = Client::new(relay.at(ip));
        let relayed = client.allocate(IPV4).unwrap();
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip(), V4);
        // The socket can reach the peer, but the allocation is for IPv4.
        assert_eq!(client.permission_error(V6), Some(PEER_FAMILY_MISMATCH));

        let peer = Peer::at(V4);
        client.permit(V4).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");
        expected.extend(relay.relayed(ip, V4, (1, 5), (1, 10)));
        expected.push(relay.allocations(ip, 1));
    }
    relay.assert_counts(expected);
}

#[test]
fn an_ipv4_client_can_ask_for_ipv6() {
    if !ipv6_or_say() {
        return;
    }
    let relay = Relay::dual_stack();
    let mut expected = Vec::new();
    for ip in [V4, V6] {
        let mut client = Client::new(relay.at(ip));
        let relayed = client.allocate(IPV6).unwrap();
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip(), V6);
        assert_eq!(client.permission_error(V4), Some(PEER_FAMILY_MISMATCH));

        let peer = Peer::at(V6);
        client.permit(V6).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");
        expected.extend(relay.relayed(ip, V6, (1, 5), (1, 10)));
        expected.push(relay.allocations(ip, 1));
    }
    relay.assert_counts(expected);
}

#[test]
fn a_mapped_address_does_not_reach_an_ipv4_peer() {
    if !ipv6_or_say() {
        return;
    }
    let relay = Relay::dual_stack();
    let mut client = Client::new(relay.at(V6));
    let relayed = client.allocate(BOTH).unwrap();
    let peer = Peer::at(V4);
    let IpAddr::V4(v4) = V4 else { unreachable!() };
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), peer.address().port());
    // To the protocol this is an IPv6 address, so the permission is granted.
    client.permit(mapped.ip()).unwrap();
    client.permit(V4).unwrap();
    client.send(mapped, b"in disguise");
    exchange(&mut client, &peer, relayed[0], b"as itself", b"");
    let mut expected = relay.relayed(V6, V4, (1, 9), (1, 0));
    expected.push(relay.allocations(V6, 1));
    relay.assert_counts(expected);
}

#[test]
fn a_listener_of_one_family_relays_that_family_only() {
    if !ipv6_or_say() {
        return;
    }
    for (listen, ip, own, other) in [
        ("127.0.0.1:0", V4, IPV4, IPV6),
        ("0.0.0.0:0", V4, IPV4, IPV6),
        ("[::1]:0", V6, IPV6, IPV4),
        ("[::]:0 --v6only", V6, IPV6, IPV4),
    ] {
        let relay = Relay::start(&format!("--listen {listen}"));
        let refused = Client::new(relay.at(ip)).allocate(other);
        assert_eq!(refused, Err(Some(FAMILY_NOT_SUPPORTED)), "{listen}");

        let mut client = Client::new(relay.at(ip));
        let relayed = client.allocate(own).unwrap();
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip(), ip, "{listen}");
        let foreign = if ip == V4 { V6 } else { V4 };
        assert_eq!(client.permission_error(foreign), Some(PEER_FAMILY_MISMATCH));
        let peer = Peer::at(ip);
        client.permit(ip).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");

        // If only one of two families is available, the answer names the reason for the other (RFC 8656).
        let mut client = Client::new(relay.at(ip));
        let relayed = client.allocate(BOTH).unwrap();
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip(), ip, "{listen}");
        assert_eq!(client.failed, [if ip == V4 { IPV6[0] } else { IPV4[0] }]);
        client.permit(ip).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");

        let mut expected = relay.relayed(ip, ip, (2, 10), (2, 20));
        expected.push(relay.allocations(ip, 2));
        relay.assert_counts(expected);
    }
}

#[test]
fn a_family_without_an_address_is_not_relayed() {
    // On a wildcard socket, only the address that the client has asked is known.
    let relay = Relay::start("--listen [::]:0");
    let refused = Client::new(relay.at(V4)).allocate(IPV6);
    assert_eq!(refused, Err(Some(FAMILY_NOT_SUPPORTED)));

    // That address is the one to relay from.
    let second = IpAddr::from([127, 0, 0, 2]);
    if cfg!(target_os = "linux") {
        let mut client = Client::new(relay.at(second));
        let relayed = client.allocate(IPV4).unwrap();
        assert_eq!(relayed[0].ip(), second);
        let peer = Peer::at(V4);
        client.permit(V4).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");
        let mut expected = relay.relayed(V4, V4, (1, 5), (1, 10));
        expected.push(relay.allocations(V4, 1));
        relay.assert_counts(expected);
    }
}

#[test]
fn a_wrong_password_gets_no_allocation() {
    let relay = Relay::dual_stack();
    let mut client = Client::with_password(relay.at(V4), "wrong");
    assert_eq!(client.allocate(IPV4), Err(Some(UNAUTHORIZED)));
    relay.assert_counts([]);
}

#[test]
fn a_deleted_allocation_no_longer_counts_towards_the_limit() {
    let relay = Relay::start("--listen 127.0.0.1:0 --max-allocations 1");
    let mut first = Client::new(relay.at(V4));
    let relayed = first.allocate(IPV4).unwrap()[0];
    let refused = Client::new(relay.at(V4)).allocate(IPV4);
    assert_eq!(refused, Err(Some(INSUFFICIENT_CAPACITY)));

    first.delete();
    // Nobody listens there.
    let peer = Peer::at(V4);
    peer.0.connect(relayed).unwrap();
    eventually("the relay socket is closed", || {
        let _ = peer.0.send(b"x");
        peer.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        matches!(peer.0.recv(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
    });
    Client::new(relay.at(V4)).allocate(IPV4).unwrap();
    relay.assert_counts([relay.allocations(V4, 2)]);
}

#[cfg(target_os = "linux")]
#[test]
fn without_ipv6_it_relays_ipv4() {
    in_namespace(WITHOUT_IPV6_ADDRESSES, || {
        let relay = Relay::start("--listen [::]:0");
        let mut client = Client::new(relay.at(V4));
        let relayed = client.allocate(BOTH).unwrap();
        assert_eq!(client.failed, IPV6);
        let peer = Peer::at(V4);
        client.permit(V4).unwrap();
        exchange(&mut client, &peer, relayed[0], b"there", b"back again");
    });
}

#[test]
fn the_help_names_every_option() {
    let output = Program::run(BINARY, "--help");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for option in [
        "--listen",
        "--relay-ip",
        "--user",
        "--realm",
        "--max-allocations",
        "--v6only",
        "--metrics",
    ] {
        assert!(help.contains(option), "{option}\n{help}");
    }
    for bad in [
        "",
        "--user alice",
        "--user :secret",
        "--user a:b --relay-ip ::1 --relay-ip ::2",
    ] {
        let output = Program::run(BINARY, bad);
        assert!(
            !output.status.success() && !output.stderr.is_empty() && output.stdout.is_empty(),
            "{bad}"
        );
    }
}

/// coturn's peer, which sends back what it receives.
struct EchoPeer {
    address: SocketAddr,
    _program: Program,
}

impl EchoPeer {
    /// `None`, with a line that says so, where coturn is not installed.
    fn start(ip: IpAddr) -> Option<Self> {
        let address = SocketAddr::new(ip, free_port());
        let mut command = Command::new("turnutils_peer");
        command.args(["-L", &ip.to_string(), "-p", &address.port().to_string()]);
        let probe = UdpSocket::bind((ip, 0)).unwrap();
        probe.connect(address).unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let answers = || probe.send(b"x").is_ok() && probe.recv(&mut [0]).is_ok();
        Some(Self {
            address,
            _program: Program::start(&mut command, answers)?,
        })
    }
}

/// Runs coturn's client to its end: `MESSAGES` of `LENGTH` bytes, each of which must come back.
fn uclient(relay: &Relay, ip: IpAddr, peer: SocketAddr, flags: &str) {
    let mut command = Command::new("turnutils_uclient");
    command
        .args(flags.split_whitespace())
        .args(["-c", "-u", "alice", "-w", "secret", "-z", "5"])
        .args(["-n", &MESSAGES.to_string(), "-l", &LENGTH.to_string()])
        .args(["-p", &relay.listener.port().to_string()])
        .args(["-L", &ip.to_string()])
        .args(["-e", &peer.ip().to_string(), "-r", &peer.port().to_string()])
        .arg(ip.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawning(|| command.spawn()).unwrap();
    eventually("the client has ended", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{command:?}\n{said}");
    assert!(
        said.contains("Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)"),
        "{command:?}\n{said}"
    );
}

const MESSAGES: u64 = 10;
const LENGTH: u64 = 120;

#[test]
fn coturns_client_relays_over_both_families_to_both() {
    let (relay, ips) = (Relay::dual_stack(), loopbacks());
    let Some(peers) = ips
        .iter()
        .map(|ip| EchoPeer::start(*ip))
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let mut expected = Vec::new();
    thread::scope(|scope| {
        let relay = &relay;
        for ip in &ips {
            for peer in &peers {
                let family = if peer.address.is_ipv4() { "" } else { "-x" };
                // With channels, and with indications.
                scope.spawn(move || uclient(relay, *ip, peer.address, family));
                scope.spawn(move || uclient(relay, *ip, peer.address, &format!("{family} -s")));
                let all = (2 * MESSAGES, 2 * MESSAGES * LENGTH);
                expected.extend(relay.relayed(*ip, peer.address.ip(), all, all));
            }
            // Each run makes two allocations, and deletes the first.
            expected.push(relay.allocations(*ip, 4 * peers.len() as u64));
        }
    });
    relay.assert_counts(expected);
}
