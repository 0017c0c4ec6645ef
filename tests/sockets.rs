//! Real sockets: which families they accept, and the errors when they cannot be bound.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dualstack_metrics::{BindError, Pair, SocketOptions};
#[cfg(target_os = "linux")]
use test_support::{Denied, Errno, block_on, denying, in_namespace};
use test_support::{Log, close, free_port, ipv6_or_say, report};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const MAPPED_LOOPBACK: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const V4_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6_LOOPBACK: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// The peer's address as the listener sees it, for a client that connects to `to`.
async fn tcp_peer(listener: &TcpListener, to: IpAddr) -> IpAddr {
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((to, port)).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.port(), client.local_addr().unwrap().port());
    peer.ip()
}

/// The peer's address as the socket sees it, for a client that sends to `to`.
async fn udp_peer(socket: &UdpSocket, to: IpAddr) -> IpAddr {
    let client = UdpSocket::bind((any(to), 0)).await.unwrap();
    client
        .connect((to, socket.local_addr().unwrap().port()))
        .await
        .unwrap();
    client.send(b"ping").await.unwrap();

    let mut buffer = [0; 16];
    let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..len], b"ping");
    assert_eq!(peer.port(), client.local_addr().unwrap().port());

    socket.send_to(b"pong", peer).await.unwrap();
    let len = client.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..len], b"pong");
    peer.ip()
}

async fn tcp_refused(to: IpAddr, port: u16) -> bool {
    matches!(TcpStream::connect((to, port)).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

async fn udp_refused(to: IpAddr, port: u16) -> bool {
    let client = UdpSocket::bind((any(to), 0)).await.unwrap();
    client.connect((to, port)).await.unwrap();
    client.send(b"ping").await.unwrap();
    matches!(client.recv(&mut [0; 16]).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

const fn any(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The system's error, as it is in the message.
fn os_error(error: &BindError) -> String {
    let os = error.io_error().to_string();
    if cfg!(target_os = "linux") && error.kind() == ErrorKind::AddrInUse {
        assert_eq!(os, "Address already in use (os error 98)");
    }
    os
}

#[track_caller]
fn assert_in_use(error: BindError, transport: &str, address: SocketAddr, hint: &str) {
    let expected = format!("cannot bind {transport} {address}: {}{hint}", os_error(&error));
    assert_eq!(report(&error), [&*expected]);
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(error.address(), address);

    let error = io::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(report(&error), [expected]);
}

fn ipv4_holds(port: u16) -> String {
    format!(
        ": an IPv4 socket holds port {port}, and a dual-stack socket needs it for both families; bind this one with \
         `SocketOptions::v6_only()`, or close the other"
    )
}

fn ipv6_holds(port: u16) -> String {
    format!(
        ": an IPv6 socket holds port {port}; if it is dual-stack it takes IPv4 as well: bind it with \
         `SocketOptions::v6_only()`"
    )
}

#[cfg(target_os = "linux")]
const NO_IPV6: &str = "IPv6 is missing or disabled on this host; bind an IPv4 address, or `[::]` with \
                       `SocketOptions::dual_stack()`, which also serves IPv4 alone";

/// What is logged while `f` runs.
fn logged<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    let log = Log::of_thread();
    let result = f();
    (result, log.lines())
}

#[tokio::test]
async fn dual_stack_takes_both_families() {
    let options = SocketOptions::dual_stack();
    let (listener, socket) = (options.bind_tcp(v6(0)).unwrap(), options.bind_udp(v6(0)).unwrap());
    if ipv6_or_say() {
        assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, MAPPED_LOOPBACK);
        assert_eq!(udp_peer(&socket, V4_LOOPBACK).await, MAPPED_LOOPBACK);
        assert_eq!(tcp_peer(&listener, V6_LOOPBACK).await, V6_LOOPBACK);
        assert_eq!(udp_peer(&socket, V6_LOOPBACK).await, V6_LOOPBACK);
    } else {
        assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await.to_canonical(), V4_LOOPBACK);
        assert_eq!(udp_peer(&socket, V4_LOOPBACK).await.to_canonical(), V4_LOOPBACK);
    }
}

async fn takes_ipv6_only() {
    let options = SocketOptions::v6_only();
    let port = free_port();
    let (listener, socket) = (
        options.bind_tcp(v6(port)).unwrap(),
        options.bind_udp(v6(port)).unwrap(),
    );

    assert!(tcp_refused(V4_LOOPBACK, port).await);
    assert!(udp_refused(V4_LOOPBACK, port).await);
    // The first datagram to be received is the one sent last: the IPv4 datagram did not arrive.
    assert_eq!(tcp_peer(&listener, V6_LOOPBACK).await, V6_LOOPBACK);
    assert_eq!(udp_peer(&socket, V6_LOOPBACK).await, V6_LOOPBACK);
}

#[tokio::test]
async fn v6_only_refuses_ipv4() {
    if ipv6_or_say() {
        takes_ipv6_only().await;
    }
}

#[tokio::test]
async fn an_ipv4_address_is_an_ipv4_socket_with_every_constructor() {
    for options in [
        SocketOptions::dual_stack(),
        SocketOptions::v6_only(),
        SocketOptions::system_default(),
    ] {
        let address = (V4_LOOPBACK, 0).into();
        let (listener, socket) = (
            options.bind_tcp(address).unwrap(),
            options.bind_udp(address).unwrap(),
        );
        assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, V4_LOOPBACK);
        assert_eq!(udp_peer(&socket, V4_LOOPBACK).await, V4_LOOPBACK);
    }
}

#[tokio::test]
async fn a_mapped_address_is_served_by_a_dual_stack_socket() {
    if !ipv6_or_say() {
        return;
    }
    let address = (MAPPED_LOOPBACK, 0).into();
    let listener = SocketOptions::dual_stack().bind_tcp(address).unwrap();
    assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, MAPPED_LOOPBACK);

    let error = SocketOptions::v6_only().bind_tcp(address).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot bind TCP [::ffff:127.0.0.1]:0: {}: an IPv6-only socket cannot be bound to an IPv4-mapped \
             address; bind 127.0.0.1",
            os_error(&error)
        )
    );
}

#[tokio::test]
async fn dual_stack_after_ipv4_names_the_ipv4_socket() {
    if !ipv6_or_say() {
        return;
    }
    let port = free_port();
    let v4_listener = SocketOptions::dual_stack().bind_tcp(v4(port)).unwrap();
    let v4_socket = SocketOptions::dual_stack()
        .bind_udp((V4_LOOPBACK, port).into())
        .unwrap();

    let options = SocketOptions::dual_stack();
    assert_in_use(
        options.bind_tcp(v6(port)).unwrap_err(),
        "TCP",
        v6(port),
        &ipv4_holds(port),
    );
    assert_in_use(
        options.bind_udp(v6(port)).unwrap_err(),
        "UDP",
        v6(port),
        &ipv4_holds(port),
    );

    // The advice works, and the probe left no socket behind.
    close(());
    let v6_listener = SocketOptions::v6_only().bind_tcp(v6(port)).unwrap();
    let v6_socket = SocketOptions::v6_only().bind_udp(v6(port)).unwrap();
    assert_eq!(tcp_peer(&v4_listener, V4_LOOPBACK).await, V4_LOOPBACK);
    assert_eq!(tcp_peer(&v6_listener, V6_LOOPBACK).await, V6_LOOPBACK);
    assert_eq!(udp_peer(&v4_socket, V4_LOOPBACK).await, V4_LOOPBACK);
    assert_eq!(udp_peer(&v6_socket, V6_LOOPBACK).await, V6_LOOPBACK);

    // Now IPv6 is taken as well, so the IPv4 socket is not the only cause.
    assert_in_use(options.bind_tcp(v6(port)).unwrap_err(), "TCP", v6(port), "");
    assert_in_use(options.bind_udp(v6(port)).unwrap_err(), "UDP", v6(port), "");
}

#[tokio::test]
async fn ipv4_after_dual_stack_names_the_ipv6_socket() {
    if !ipv6_or_say() {
        return;
    }
    let port = free_port();
    let listener = SocketOptions::dual_stack().bind_tcp(v6(port)).unwrap();
    let socket = SocketOptions::dual_stack().bind_udp(v6(port)).unwrap();

    let options = SocketOptions::dual_stack();
    for address in [
        v4(port),
        (V4_LOOPBACK, port).into(),
        (MAPPED_LOOPBACK, port).into(),
    ] {
        assert_in_use(
            options.bind_tcp(address).unwrap_err(),
            "TCP",
            address,
            &ipv6_holds(port),
        );
        assert_in_use(
            options.bind_udp(address).unwrap_err(),
            "UDP",
            address,
            &ipv6_holds(port),
        );
    }
    assert_in_use(
        options.bind_tcp_pair(port).unwrap_err(),
        "TCP",
        v4(port),
        &ipv6_holds(port),
    );
    assert_in_use(
        options.bind_udp_pair(port).unwrap_err(),
        "UDP",
        v4(port),
        &ipv6_holds(port),
    );

    // The advice works.
    close((listener, socket));
    let _listener = SocketOptions::v6_only().bind_tcp(v6(port)).unwrap();
    let _socket = SocketOptions::v6_only().bind_udp(v6(port)).unwrap();
    assert_eq!(
        options.bind_tcp(v4(port)).unwrap().local_addr().unwrap(),
        v4(port)
    );
    assert_eq!(
        options.bind_udp(v4(port)).unwrap().local_addr().unwrap(),
        v4(port)
    );
}

#[tokio::test]
async fn a_socket_of_the_same_family_gives_no_hint() {
    let port = free_port();
    let options = SocketOptions::dual_stack();
    let holders = (
        options.bind_tcp(v4(port)).unwrap(),
        options.bind_udp(v4(port)).unwrap(),
    );
    assert_in_use(options.bind_tcp(v4(port)).unwrap_err(), "TCP", v4(port), "");
    assert_in_use(options.bind_udp(v4(port)).unwrap_err(), "UDP", v4(port), "");
    close(holders);
    if !ipv6_or_say() {
        return;
    }

    let holders = (
        options.bind_tcp(v6(port)).unwrap(),
        options.bind_udp(v6(port)).unwrap(),
    );
    for options in [SocketOptions::dual_stack(), SocketOptions::v6_only()] {
        assert_in_use(options.bind_tcp(v6(port)).unwrap_err(), "TCP", v6(port), "");
        assert_in_use(options.bind_udp(v6(port)).unwrap_err(), "UDP", v6(port), "");
    }
    close(holders);

    let _holders = (
        options.bind_tcp_pair(port).unwrap(),
        options.bind_udp_pair(port).unwrap(),
    );
    assert_in_use(options.bind_tcp(v6(port)).unwrap_err(), "TCP", v6(port), "");
    assert_in_use(options.bind_udp(v6(port)).unwrap_err(), "UDP", v6(port), "");
    // On Linux the code finds that the IPv6 socket of the pair is not the cause.
    if cfg!(target_os = "linux") {
        assert_in_use(options.bind_tcp(v4(port)).unwrap_err(), "TCP", v4(port), "");
        assert_in_use(options.bind_udp(v4(port)).unwrap_err(), "UDP", v4(port), "");
        assert_in_use(options.bind_tcp_pair(port).unwrap_err(), "TCP", v4(port), "");
    }
}

#[tokio::test]
async fn v6_only_and_ipv4_share_a_port_in_both_orders() {
    if !ipv6_or_say() {
        return;
    }
    let options = SocketOptions::v6_only();
    for order in [[v4, v6], [v6, v4]] {
        let port = free_port();
        let [a, b] = order.map(|address| options.bind_tcp(address(port)).unwrap());
        let [c, d] = order.map(|address| options.bind_udp(address(port)).unwrap());
        for listener in [a, b] {
            let family = listener.local_addr().unwrap().ip();
            let client = if family.is_ipv4() {
                V4_LOOPBACK
            } else {
                V6_LOOPBACK
            };
            assert_eq!(tcp_peer(&listener, client).await, client);
        }
        for socket in [c, d] {
            let family = socket.local_addr().unwrap().ip();
            let client = if family.is_ipv4() {
                V4_LOOPBACK
            } else {
                V6_LOOPBACK
            };
            assert_eq!(udp_peer(&socket, client).await, client);
        }
    }
}

async fn pairs_have_one_socket_per_family(options: SocketOptions, port: u16) {
    let tcp: Pair<TcpListener> = options.bind_tcp_pair(port).unwrap();
    let bound = tcp.v4.local_addr().unwrap().port();
    assert!(bound != 0 && (port == 0 || bound == port));
    assert_eq!(tcp.v4.local_addr().unwrap(), v4(bound));
    assert_eq!(tcp.v6.local_addr().unwrap(), v6(bound));
    assert_eq!(tcp_peer(&tcp.v4, V4_LOOPBACK).await, V4_LOOPBACK);
    assert_eq!(tcp_peer(&tcp.v6, V6_LOOPBACK).await, V6_LOOPBACK);

    let udp: Pair<UdpSocket> = options.bind_udp_pair(port).unwrap();
    let bound = udp.v4.local_addr().unwrap().port();
    assert!(bound != 0 && (port == 0 || bound == port));
    assert_eq!(udp.v4.local_addr().unwrap(), v4(bound));
    assert_eq!(udp.v6.local_addr().unwrap(), v6(bound));
    assert_eq!(udp_peer(&udp.v4, V4_LOOPBACK).await, V4_LOOPBACK);
    assert_eq!(udp_peer(&udp.v6, V6_LOOPBACK).await, V6_LOOPBACK);
}

#[tokio::test]
async fn a_pair_is_two_sockets_on_one_port() {
    if !ipv6_or_say() {
        return;
    }
    for options in [
        SocketOptions::dual_stack(),
        SocketOptions::v6_only(),
        SocketOptions::system_default(),
    ] {
        pairs_have_one_socket_per_family(options.clone(), 0).await;
        pairs_have_one_socket_per_family(options, free_port()).await;
    }
}

#[tokio::test]
async fn a_pair_is_both_sockets_or_none() {
    if !ipv6_or_say() {
        return;
    }
    let port = free_port();
    let options = SocketOptions::dual_stack();
    let _holders = (
        SocketOptions::v6_only().bind_tcp(v6(port)).unwrap(),
        SocketOptions::v6_only().bind_udp(v6(port)).unwrap(),
    );
    assert_in_use(options.bind_tcp_pair(port).unwrap_err(), "TCP", v6(port), "");
    assert_in_use(options.bind_udp_pair(port).unwrap_err(), "UDP", v6(port), "");
    close(());
    options.bind_tcp(v4(port)).unwrap();
    options.bind_udp(v4(port)).unwrap();
}

#[tokio::test]
async fn a_shared_port_is_shared_when_all_ask() {
    let options = SocketOptions::dual_stack().reuse_port(true);
    let first = options.bind_udp(v6(0)).unwrap();
    let address = first.local_addr().unwrap();
    let second = options.bind_udp(address).unwrap();
    assert_eq!(second.local_addr().unwrap(), address);

    let first = options.bind_tcp(v6(0)).unwrap();
    let address = first.local_addr().unwrap();
    let second = options.bind_tcp(address).unwrap();
    assert_eq!(second.local_addr().unwrap(), address);

    let plain = options.reuse_port(false);
    assert_in_use(plain.bind_tcp(address).unwrap_err(), "TCP", address, "");

    if ipv6_or_say() {
        let options = SocketOptions::dual_stack().reuse_port(true);
        let port = free_port();
        let _pairs = [
            options.bind_tcp_pair(port).unwrap(),
            options.bind_tcp_pair(port).unwrap(),
        ];
        let _pairs = [
            options.bind_udp_pair(port).unwrap(),
            options.bind_udp_pair(port).unwrap(),
        ];
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_smaller_buffer_than_requested_is_logged() {
    let sizes = |socket: socket2::SockRef<'_>| {
        (
            socket.recv_buffer_size().unwrap(),
            socket.send_buffer_size().unwrap(),
        )
    };
    let options = SocketOptions::dual_stack()
        .recv_buffer_size(50_000)
        .send_buffer_size(40_000);
    let ((tcp, udp, pair), lines) = logged(|| {
        (
            options.bind_tcp((V4_LOOPBACK, 0).into()).unwrap(),
            options.bind_udp((V4_LOOPBACK, 0).into()).unwrap(),
            ipv6_or_say().then(|| options.bind_udp_pair(0).unwrap()),
        )
    });
    assert_eq!(lines, Vec::<String>::new());
    // The kernel doubles what it grants.
    assert_eq!(sizes((&tcp).into()), (100_000, 80_000));
    assert_eq!(sizes((&udp).into()), (100_000, 80_000));
    if let Some(Pair { v4, v6 }) = pair {
        assert_eq!(sizes((&v4).into()), (100_000, 80_000));
        assert_eq!(sizes((&v6).into()), (100_000, 80_000));
    }

    let (udp, lines) = logged(|| {
        SocketOptions::dual_stack()
            .recv_buffer_size(usize::MAX)
            .bind_udp((V4_LOOPBACK, 0).into())
            .unwrap()
    });
    let granted = sizes((&udp).into()).0 / 2;
    assert!(granted > 100_000);
    assert_eq!(
        lines,
        [format!(
            "WARN dualstack_metrics::socket: the system granted a smaller socket buffer than requested \
             option=\"SO_RCVBUF\" address=127.0.0.1:0 requested={} granted={granted}",
            usize::MAX
        )]
    );
}

#[tokio::test]
async fn the_backlog_is_a_number_of_waiting_connections() {
    for backlog in [1, u32::MAX] {
        let listener = SocketOptions::dual_stack()
            .backlog(backlog)
            .bind_tcp(v6(0))
            .unwrap();
        assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await.to_canonical(), V4_LOOPBACK);
    }
}

#[tokio::test]
async fn an_address_of_another_host_is_a_clear_error() {
    // Documentation addresses (RFC 5737 and RFC 3849) belong to no host.
    let hint = |ip: &str, wildcard: &str| {
        format!("{ip} is not an address of this host; bind one that is, or `{wildcard}` for all addresses")
    };
    let error = SocketOptions::dual_stack()
        .bind_tcp("203.0.113.99:0".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot bind TCP 203.0.113.99:0: {}: {}",
            os_error(&error),
            hint("203.0.113.99", "0.0.0.0")
        )
    );

    if !ipv6_or_say() {
        return;
    }
    for options in [SocketOptions::dual_stack(), SocketOptions::v6_only()] {
        let address = "[2001:db8::dead]:0".parse().unwrap();
        let (error, lines) = logged(|| options.bind_udp(address).unwrap_err());
        assert_eq!(lines, Vec::<String>::new());
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert_eq!(
            error.to_string(),
            format!(
                "cannot bind UDP {address}: {}: {}",
                os_error(&error),
                hint("2001:db8::dead", "[::]")
            )
        );
    }
    if cfg!(target_os = "linux") {
        let error = SocketOptions::dual_stack()
            .bind_udp("[fe80::1]:6969".parse().unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot bind UDP [fe80::1]:6969: Invalid argument (os error 22): a link-local address needs a scope id, \
             the number of its interface, as in `[fe80::1%2]:6969`"
        );
    }
}

#[test]
#[should_panic(expected = "runtime")]
fn outside_of_a_runtime_it_panics() {
    let _ = SocketOptions::dual_stack().bind_udp((V4_LOOPBACK, 0).into());
}

#[cfg(target_os = "linux")]
#[test]
fn the_systems_default_does_not_matter_where_it_is_ipv6_only() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("echo 1 > /proc/sys/net/ipv6/bindv6only", || {
        block_on(async {
            let options = SocketOptions::dual_stack();
            let (listener, socket) = (options.bind_tcp(v6(0)).unwrap(), options.bind_udp(v6(0)).unwrap());
            assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, MAPPED_LOOPBACK);
            assert_eq!(udp_peer(&socket, V4_LOOPBACK).await, MAPPED_LOOPBACK);
            assert_eq!(tcp_peer(&listener, V6_LOOPBACK).await, V6_LOOPBACK);
            assert_eq!(udp_peer(&socket, V6_LOOPBACK).await, V6_LOOPBACK);

            takes_ipv6_only().await;

            let options = SocketOptions::system_default();
            let listener = options.bind_tcp(v6(0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(tcp_peer(&listener, V6_LOOPBACK).await, V6_LOOPBACK);
            assert!(tcp_refused(V4_LOOPBACK, port).await);
            options.bind_tcp(v4(port)).unwrap();
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn ipv6_that_is_switched_off_leaves_ipv4() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace(test_support::WITHOUT_IPV6_ADDRESSES, || {
        block_on(async {
            let options = SocketOptions::dual_stack();
            // The kernel still has IPv6 sockets, so nothing falls back.
            let (listener, socket) = (options.bind_tcp(v6(0)).unwrap(), options.bind_udp(v6(0)).unwrap());
            assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, MAPPED_LOOPBACK);
            assert_eq!(udp_peer(&socket, V4_LOOPBACK).await, MAPPED_LOOPBACK);

            for options in [options, SocketOptions::v6_only(), SocketOptions::system_default()] {
                for address in [(V6_LOOPBACK, 0), ("2001:db8::7".parse().unwrap(), 0)] {
                    let address = SocketAddr::from(address);
                    let error = options.bind_udp(address).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
                    assert_eq!(
                        error.to_string(),
                        format!(
                            "cannot bind UDP {address}: Cannot assign requested address (os error 99): {NO_IPV6}"
                        )
                    );
                }
            }
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_kernel_without_ipv6_serves_ipv4() {
    denying(Errno::EAFNOSUPPORT, Denied::IPV6_SOCKET, || {
        block_on(async {
            falls_back_to_ipv4("Address family not supported by protocol (os error 97)").await;

            let no_socket = |address: SocketAddr| {
                format!(
                    "cannot bind UDP {address}: cannot create a socket: Address family not supported by protocol \
                     (os error 97): {NO_IPV6}"
                )
            };
            for (options, address) in [
                (SocketOptions::dual_stack(), (V6_LOOPBACK, 0).into()),
                (SocketOptions::v6_only(), v6(0)),
                (SocketOptions::system_default(), v6(0)),
            ] {
                let error = options.bind_udp(address).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert_eq!(error.to_string(), no_socket(address));
                assert_eq!(io::Error::from(error).kind(), ErrorKind::Unsupported);
            }

            let port = free_port();
            let error = SocketOptions::dual_stack().bind_udp_pair(port).unwrap_err();
            assert_eq!(error.to_string(), no_socket(v6(port)));

            // No IPv6 socket can be to blame, and that there is none is no hint either.
            let _holder = SocketOptions::dual_stack().bind_udp(v4(port)).unwrap();
            let error = SocketOptions::dual_stack().bind_udp(v6(port)).unwrap_err();
            assert_in_use(error, "UDP", v4(port), "");
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_wildcard_that_is_no_address_here_falls_back() {
    denying(Errno::EADDRNOTAVAIL, Denied::IPV6_BIND, || {
        block_on(async {
            falls_back_to_ipv4("Cannot assign requested address (os error 99)").await;

            let error = SocketOptions::v6_only().bind_tcp(v6(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
            assert_eq!(
                error.to_string(),
                format!("cannot bind TCP [::]:0: Cannot assign requested address (os error 99): {NO_IPV6}")
            );
        });
    });
}

#[cfg(target_os = "linux")]
async fn falls_back_to_ipv4(os_error: &str) {
    let options = SocketOptions::dual_stack();
    let port = free_port();
    let warning = format!(
        "WARN dualstack_metrics::socket: this host has no IPv6: a dual-stack socket is bound for IPv4 only \
         address=[::]:{port} fallback=0.0.0.0:{port} error={os_error}"
    );

    let (listener, lines) = logged(|| options.bind_tcp(v6(port)).unwrap());
    assert_eq!(lines, [&*warning]);
    assert_eq!(listener.local_addr().unwrap(), v4(port));
    assert_eq!(tcp_peer(&listener, V4_LOOPBACK).await, V4_LOOPBACK);

    let (socket, lines) = logged(|| options.bind_udp(v6(port)).unwrap());
    assert_eq!(lines, [&*warning]);
    assert_eq!(socket.local_addr().unwrap(), v4(port));
    assert_eq!(udp_peer(&socket, V4_LOOPBACK).await, V4_LOOPBACK);
}

#[cfg(target_os = "linux")]
#[test]
fn a_system_without_dual_stack_sockets_names_the_pair() {
    if !ipv6_or_say() {
        return;
    }
    // As on OpenBSD.
    denying(Errno::EINVAL, Denied::V6ONLY, || {
        block_on(async {
            let error = SocketOptions::dual_stack().bind_tcp(v6(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(
                error.to_string(),
                "cannot bind TCP [::]:0: cannot set IPV6_V6ONLY: Invalid argument (os error 22): this system does \
                 not support dual-stack sockets; bind one socket per family with `SocketOptions::bind_tcp_pair` or \
                 `SocketOptions::bind_udp_pair`"
            );
            SocketOptions::system_default().bind_tcp(v6(0)).unwrap();
        });
    });
}
