//! One port, two families: as one socket, or as a socket for each. What `docs/dual-stack-sockets.md` says is shown here.

#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "shared with tests/tracker.rs")]
#[path = "common/clients.rs"]
mod clients;
#[allow(dead_code, reason = "shared with tests/tracker.rs")]
#[path = "common/running.rs"]
mod running;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use aquatic_udp_protocol::AnnounceEvent::Started;
use clients::{TORRENT, UdpClient, announce, announced};
use dualstack_metrics::{BindError, SocketOptions};
use running::{Http, Swarm, Tracker, Udp, run};
use test_support::{
    INET, INET6, MAPPED, V4, V6, close, free_port, in_namespace, inside, ipv6_or_say, under_seccomp,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const MAPPED_V4: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const BAD_ID: &str = "connection ID mismatch";

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Both protocols, on one address.
struct Both {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Both {
    fn bind(options: &SocketOptions, address: SocketAddr) -> Result<Self, Box<[BindError; 2]>> {
        match (options.bind_tcp(address), options.bind_udp(address)) {
            (Ok(tcp), Ok(udp)) => Ok(Self { tcp, udp }),
            (Err(tcp), Err(udp)) => Err(Box::new([tcp, udp])),
            (tcp, udp) => panic!("one of the two: {tcp:?}, {udp:?}"),
        }
    }

    /// How a client at `ip` is seen over both protocols, or `None` where it is refused.
    async fn sees(&self, ip: IpAddr) -> Option<IpAddr> {
        let port = self.tcp.local_addr().unwrap().port();
        let over_tcp = match TcpStream::connect((ip, port)).await {
            Ok(_stream) => Some(self.tcp.accept().await.unwrap().1.ip()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                None
            }
        };
        let client = UdpSocket::bind((ip, 0)).await.unwrap();
        client
            .connect((ip, self.udp.local_addr().unwrap().port()))
            .await
            .unwrap();
        client.send(b"ping").await.unwrap();
        let (mut buffer, mut unused) = ([0; 8], [0; 8]);
        let over_udp = tokio::select! {
            received = self.udp.recv_from(&mut buffer) => {
                let (_, peer) = received.unwrap();
                assert_eq!(peer.port(), client.local_addr().unwrap().port());
                Some(peer.ip())
            }
            refused = client.recv(&mut unused) => {
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
                None
            }
        };
        assert_eq!(over_tcp, over_udp);
        over_tcp
    }
}

#[track_caller]
fn assert_in_use(errors: &[BindError; 2], address: SocketAddr, why: &str) {
    for (error, protocol) in errors.iter().zip(["TCP", "UDP"]) {
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let expected =
            format!("cannot bind {protocol} {address}: Address already in use (os error 98): {why}");
        assert_eq!(error.to_string(), expected);
    }
}

// 1. Without the option.

#[test]
fn without_the_option_the_second_of_the_two_has_no_port() {
    if ipv6_or_say() {
        in_namespace(
            "echo 0 > /proc/sys/net/ipv6/bindv6only",
            "inside_without_the_option_the_second_of_the_two_has_no_port",
        );
    }
}

#[tokio::test]
#[ignore = "is run by without_the_option_the_second_of_the_two_has_no_port"]
async fn inside_without_the_option_the_second_of_the_two_has_no_port() {
    if !inside() {
        return;
    }
    // What a program sees that sets no option at all.
    let port = free_port();
    let first = std::net::UdpSocket::bind(v4(port)).unwrap();
    let error = std::net::UdpSocket::bind(v6(port)).unwrap_err();
    assert_eq!(error.to_string(), "Address already in use (os error 98)");
    close(first);
    let _first = std::net::UdpSocket::bind(v6(port)).unwrap();
    let error = std::net::UdpSocket::bind(v4(port)).unwrap_err();
    assert_eq!(error.to_string(), "Address already in use (os error 98)");

    for options in [SocketOptions::system_default(), SocketOptions::dual_stack()] {
        let port = free_port();
        let first = Both::bind(&options, v4(port)).unwrap();
        let why = format!(
            "an IPv4 socket holds port {port}, and a dual-stack socket needs it for both families; bind this one with \
             `SocketOptions::v6_only()`, or close the other"
        );
        assert_in_use(&Both::bind(&options, v6(port)).err().unwrap(), v6(port), &why);
        close(first);

        let first = Both::bind(&options, v6(port)).unwrap();
        let why = format!(
            "an IPv6 socket holds port {port}; if it is dual-stack it takes IPv4 as well: bind it with \
             `SocketOptions::v6_only()`"
        );
        assert_in_use(&Both::bind(&options, v4(port)).err().unwrap(), v4(port), &why);
        assert_eq!(first.sees(V4).await, Some(MAPPED_V4));
    }
}

// 2. With it, whatever the system's default is.

#[test]
fn with_the_option_both_bind_whatever_the_system_is_set_to() {
    if ipv6_or_say() {
        for default in [0, 1] {
            in_namespace(
                &format!("echo {default} > /proc/sys/net/ipv6/bindv6only"),
                "inside_with_the_option_both_bind_whatever_the_system_is_set_to",
            );
        }
    }
}

#[tokio::test]
#[ignore = "is run by with_the_option_both_bind_whatever_the_system_is_set_to"]
async fn inside_with_the_option_both_bind_whatever_the_system_is_set_to() {
    if !inside() {
        return;
    }
    let options = SocketOptions::v6_only();
    for order in [[v4, v6], [v6, v4]] {
        // Of the system's choice, and one of ours.
        for chosen in [0, free_port()] {
            let first_udp = options.bind_udp(order[0](chosen)).unwrap();
            let port = first_udp.local_addr().unwrap().port();
            let first = Both {
                tcp: options.bind_tcp(order[0](port)).unwrap(),
                udp: first_udp,
            };
            let second = Both::bind(&options, order[1](port)).unwrap();
            let [inet, inet6] = if order[0](0).is_ipv4() {
                [first, second]
            } else {
                [second, first]
            };
            // Each would answer for the other, were one missing: the port has both families.
            assert_eq!(inet.sees(V4).await, Some(V4));
            assert_eq!(inet6.sees(V6).await, Some(V6));
            close((inet, inet6));
        }
    }

    let alone = Both::bind(&options, v6(free_port())).unwrap();
    assert_eq!(alone.sees(V4).await, None);
    assert_eq!(alone.sees(V6).await, Some(V6));

    let dual = Both::bind(&SocketOptions::dual_stack(), v6(free_port())).unwrap();
    assert_eq!(dual.sees(V4).await, Some(MAPPED_V4));
    assert_eq!(dual.sees(V6).await, Some(V6));

    let default = Both::bind(&SocketOptions::system_default(), v6(free_port())).unwrap();
    let setting = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap();
    let seen = if setting.trim() == "0" {
        Some(MAPPED_V4)
    } else {
        None
    };
    assert_eq!(default.sees(V4).await, seen);
}

// 3. What the metrics of the two strategies say.

fn three_requests() -> Udp {
    Udp {
        received: 3,
        sent: 3,
        connects: 1,
        announces: 2,
        ..Udp::default()
    }
}

fn one_request() -> Http {
    Http {
        announces: 1,
        scrapes: 0,
    }
}

#[test]
fn separate_bindings_separate_the_families_in_the_metrics() {
    if !ipv6_or_say() {
        return;
    }
    let port = free_port();
    let tracker = Tracker::start(&format!(
        "--v6only --udp 0.0.0.0:{port} --udp [::]:{port} --http 0.0.0.0:{port} --http [::]:{port}"
    ));
    assert_eq!(tracker.udp, [v4(port), v6(port)]);
    assert_eq!(tracker.http, [v4(port), v6(port)]);

    let mut expected = Swarm {
        torrents: 1,
        downloads: 0,
    }
    .samples();
    for (ip, seen, socket, before) in [(V4, INET, v4(port), 0), (V6, INET6, v6(port), 1)] {
        let to = SocketAddr::new(ip, port);
        let client = UdpClient::connected(to);
        client.announce(TORRENT, 1, Started);
        assert_eq!(
            client.announce(TORRENT, 1, Started),
            announced(0, 1 + before, ip, [])
        );
        assert_eq!(announce(to, TORRENT, 1), announced(0, 1 + before, ip, []));
        expected.extend(three_requests().of(seen, socket));
        expected.extend(one_request().of(seen, socket));
    }
    // All there is: two classes of clients, each on the socket of its family, and none of them `v4_mapped_v6`.
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn one_binding_separates_them_as_well() {
    if !ipv6_or_say() {
        return;
    }
    let tracker = Tracker::dual_stack();
    let (udp, http) = (tracker.udp[0], tracker.http[0]);
    let mut expected = Swarm {
        torrents: 1,
        downloads: 0,
    }
    .samples();
    for (ip, seen) in [(V4, MAPPED), (V6, INET6)] {
        let client = UdpClient::connected((ip, udp.port()).into());
        client.announce(TORRENT, 1, Started);
        client.announce(TORRENT, 1, Started);
        announce((ip, http.port()).into(), TORRENT, 1);
        expected.extend(three_requests().of(seen, udp));
        expected.extend(one_request().of(seen, http));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

// 4. One client, several sockets.

#[test]
fn a_connection_id_belongs_to_one_of_the_two_sockets() {
    if !ipv6_or_say() {
        return;
    }
    let (port, http) = (free_port(), free_port());
    let tracker = Tracker::start(&format!(
        "--v6only --udp 0.0.0.0:{port} --udp [::]:{port} --http 127.0.0.1:{http}"
    ));
    let mut inet = UdpClient::connected((V4, port).into());
    let mut inet6 = UdpClient::connected((V6, port).into());
    std::mem::swap(&mut inet.connection_id, &mut inet6.connection_id);
    assert_eq!(inet.refusal(inet.announcement(TORRENT, 1, Started)), BAD_ID);
    for _ in 0..2 {
        assert_eq!(inet6.refusal(inet6.announcement(TORRENT, 1, Started)), BAD_ID);
    }
    std::mem::swap(&mut inet.connection_id, &mut inet6.connection_id);
    assert_eq!(inet.announce(TORRENT, 1, Started), announced(0, 1, V4, []));

    let mut expected = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        announces: 1,
        errors: 1,
        ..Udp::default()
    }
    .of(INET, v4(port));
    let inet6_counts = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        errors: 2,
        ..Udp::default()
    };
    expected.extend(inet6_counts.of(INET6, v6(port)));
    let swarm = Swarm {
        torrents: 1,
        downloads: 0,
    };
    expected.extend(swarm.samples());
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn a_mapped_client_is_the_client_of_its_ipv4_address() {
    if !ipv6_or_say() {
        return;
    }
    // One program with a socket of either kind: the first sees 127.0.0.1 mapped, the second plain.
    let tracker = Tracker::start("--udp [::]:0 --udp 127.0.0.1:0 --http [::]:0");
    let [mapped_socket, plain_socket] = tracker.udp[..] else {
        panic!("two sockets: {:?}", tracker.udp);
    };
    let http = tracker.http[0];
    let mapped = UdpClient::connected((V4, mapped_socket.port()).into());
    let plain = UdpClient::connected((V4, plain_socket.port()).into());

    // One peer in the swarm, with one address that IPv4 clients can use.
    assert_eq!(mapped.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(plain.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(
        announce((V4, http.port()).into(), TORRENT, 1),
        announced(0, 1, V4, [])
    );
    assert_eq!(plain.announce(TORRENT, 2, Started), announced(0, 2, V4, [1]));

    let mut expected = Udp {
        received: 2,
        sent: 2,
        connects: 1,
        announces: 1,
        ..Udp::default()
    }
    .of(MAPPED, mapped_socket);
    let plain_counts = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        announces: 2,
        ..Udp::default()
    };
    expected.extend(plain_counts.of(INET, plain_socket));
    expected.extend(one_request().of(MAPPED, http));
    let swarm = Swarm {
        torrents: 1,
        downloads: 0,
    };
    expected.extend(swarm.samples());
    tracker.assert_counts(expected);
    tracker.stop();
}

// 5. Without IPv6.

const NO_IPV6: &str = "IPv6 is missing or disabled on this host; bind an IPv4 address, or `[::]` with \
                       `SocketOptions::dual_stack()`, which also serves IPv4 alone";

/// Serves an IPv4 client on `[::]`; refuses to bind `[::1]`.
fn serves_without_ipv6(is_bound_to: IpAddr, seen: test_support::Seen, os_error: &str) {
    let tracker = Tracker::dual_stack();
    let (udp, http) = (tracker.udp[0], tracker.http[0]);
    assert_eq!((udp.ip(), http.ip()), (is_bound_to, is_bound_to));
    let client = UdpClient::connected((V4, udp.port()).into());
    client.announce(TORRENT, 1, Started);
    client.announce(TORRENT, 1, Started);
    announce((V4, http.port()).into(), TORRENT, 1);
    let mut expected = three_requests().of(seen, udp);
    expected.extend(one_request().of(seen, http));
    let swarm = Swarm {
        torrents: 1,
        downloads: 0,
    };
    expected.extend(swarm.samples());
    tracker.assert_counts(expected);
    let said = tracker.stop();
    let fell_back = said.contains("this host has no IPv6: a dual-stack socket is bound for IPv4 only");
    assert_eq!(fell_back, is_bound_to.is_ipv4(), "{said}");

    for (args, transport) in [
        ("--udp [::1]:6969 --http 127.0.0.1:0", "UDP [::1]:6969"),
        ("--udp 127.0.0.1:0 --http [::1]:7070", "TCP [::1]:7070"),
    ] {
        let output = run(&format!("{args} --metrics 127.0.0.1:0"));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!("error: cannot bind {transport}: {os_error}: {NO_IPV6}\n")
        );
    }
}

#[test]
fn ipv4_is_served_where_ipv6_is_switched_off() {
    if ipv6_or_say() {
        in_namespace(
            test_support::WITHOUT_IPV6_ADDRESSES,
            "inside_ipv4_is_served_where_ipv6_is_switched_off",
        );
    }
}

#[test]
#[ignore = "is run by ipv4_is_served_where_ipv6_is_switched_off"]
fn inside_ipv4_is_served_where_ipv6_is_switched_off() {
    if inside() {
        // The kernel still has IPv6 sockets, which take IPv4.
        serves_without_ipv6(
            Ipv6Addr::UNSPECIFIED.into(),
            MAPPED,
            "Cannot assign requested address (os error 99)",
        );
    }
}

#[test]
fn ipv4_is_served_where_the_kernel_has_no_ipv6() {
    under_seccomp(
        test_support::WITHOUT_IPV6_SOCKETS,
        "inside_ipv4_is_served_where_the_kernel_has_no_ipv6",
    );
}

#[test]
#[ignore = "is run by ipv4_is_served_where_the_kernel_has_no_ipv6"]
fn inside_ipv4_is_served_where_the_kernel_has_no_ipv6() {
    if inside() {
        serves_without_ipv6(
            Ipv4Addr::UNSPECIFIED.into(),
            INET,
            "cannot create a socket: Address family not supported by protocol (os error 97)",
        );
    }
}

// 6. Other systems, as far as this one can be made to look like them.

const NO_DUAL_STACK: &str = "this system does not support dual-stack sockets; bind one socket per family with \
                             `SocketOptions::bind_tcp_pair` or `SocketOptions::bind_udp_pair`";

#[test]
fn a_system_that_is_always_ipv6_only_is_told_from_one_that_is_not() {
    if ipv6_or_say() {
        // OpenBSD refuses a 0, and takes a 1.
        for (error, test) in [
            ("errno.EINVAL", "inside_a_system_that_refuses_dual_stack"),
            ("errno.EOPNOTSUPP", "inside_a_system_that_refuses_dual_stack"),
            ("0", "inside_a_system_that_ignores_the_option"),
        ] {
            under_seccomp(&format!("deny({error}, 'setsockopt', (1, 41), (2, 26))"), test);
        }
    }
}

#[tokio::test]
#[ignore = "is run by a_system_that_is_always_ipv6_only_is_told_from_one_that_is_not"]
async fn inside_a_system_that_refuses_dual_stack() {
    if !inside() {
        return;
    }
    for error in *Both::bind(&SocketOptions::dual_stack(), v6(0)).err().unwrap() {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().ends_with(&format!(": {NO_DUAL_STACK}")),
            "{error}"
        );
    }
}

#[tokio::test]
#[ignore = "is run by a_system_that_is_always_ipv6_only_is_told_from_one_that_is_not"]
async fn inside_a_system_that_ignores_the_option() {
    if !inside() {
        return;
    }
    // This one's default is dual-stack: what is ignored, and must be noticed, is the wish for the other.
    let errors = Both::bind(&SocketOptions::v6_only(), v6(0)).err().unwrap();
    assert_eq!(
        errors.map(|error| error.to_string()),
        ["TCP", "UDP"].map(|protocol| format!(
            "cannot bind {protocol} [::]:0: cannot set IPV6_V6ONLY: the system ignored the option"
        ))
    );
    Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap();
}
