//! Real sockets: the families that they accept, and the errors when they cannot be bound. `docs/dual-stack-sockets.md`
//! cites some of it as evidence.

use std::{
    fmt::Debug,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dualstack_metrics::{
    SocketOptions,
    socket::{BindError, Pair, parse_address},
};
#[cfg(target_os = "linux")]
use test_support::{Denied, Errno, block_on, denying, in_namespace};
use test_support::{Log, V4, V6, close, free_port, ipv6_or_say, report};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn constructors() -> [SocketOptions; 3] {
    [
        SocketOptions::dual_stack(),
        SocketOptions::v6_only(),
        SocketOptions::system_default(),
    ]
}

/// Both protocols, on one address.
#[derive(Debug)]
struct Both {
    tcp: TcpListener,
    udp: UdpSocket,
}

type BothErrors = Box<[BindError; 2]>;

impl Both {
    fn bind(options: &SocketOptions, address: SocketAddr) -> Result<Self, BothErrors> {
        match (options.bind_tcp(address), options.bind_udp(address)) {
            (Ok(tcp), Ok(udp)) => Ok(Self { tcp, udp }),
            (Err(tcp), Err(udp)) => Err(Box::new([tcp, udp])),
            (tcp, udp) => panic!("one of the two: {tcp:?}, {udp:?}"),
        }
    }

    /// A socket for IPv4 and one for IPv6.
    fn pairs(options: &SocketOptions, port: u16) -> Result<[Self; 2], BothErrors> {
        match (options.bind_tcp_pair(port), options.bind_udp_pair(port)) {
            (Ok(tcp), Ok(udp)) => Ok([
                Self {
                    tcp: tcp.v4,
                    udp: udp.v4,
                },
                Self {
                    tcp: tcp.v6,
                    udp: udp.v6,
                },
            ]),
            (Err(tcp), Err(udp)) => Err(Box::new([tcp, udp])),
            (tcp, udp) => panic!("one of the two: {tcp:?}, {udp:?}"),
        }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.tcp.local_addr().unwrap(), self.udp.local_addr().unwrap()]
    }

    /// How a client at `ip` is seen over both protocols, or `None` where it is refused.
    async fn sees(&self, ip: IpAddr) -> Option<IpAddr> {
        let [tcp, udp] = self.addresses().map(|address| address.port());
        let over_tcp = match TcpStream::connect((ip, tcp)).await {
            Ok(stream) => {
                let (_, peer) = self.tcp.accept().await.unwrap();
                assert_eq!(peer.port(), stream.local_addr().unwrap().port());
                Some(peer.ip())
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                None
            }
        };
        let client = UdpSocket::bind((ip, 0)).await.unwrap();
        client.connect((ip, udp)).await.unwrap();
        client.send(b"ping").await.unwrap();
        let (mut buffer, mut answer) = ([0; 8], [0; 8]);
        let over_udp = tokio::select! {
            received = self.udp.recv_from(&mut buffer) => {
                let (_, peer) = received.unwrap();
                assert_eq!(peer.port(), client.local_addr().unwrap().port());
                self.udp.send_to(b"pong", peer).await.unwrap();
                assert_eq!(client.recv(&mut answer).await.unwrap(), 4);
                Some(peer.ip())
            }
            refused = client.recv(&mut answer) => {
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
                None
            }
        };
        assert_eq!(over_tcp, over_udp);
        over_tcp
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
fn assert_in_use(errors: Result<impl Debug, BothErrors>, address: SocketAddr, hint: &str) {
    for (error, protocol) in errors.unwrap_err().into_iter().zip(["TCP", "UDP"]) {
        let expected = format!("cannot bind {protocol} {address}: {}{hint}", os_error(&error));
        assert_eq!(report(&error), [&*expected]);
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(error.address(), address);

        let error = io::Error::from(error);
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(report(&error), [expected]);
    }
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

/// The result of `f`, and the log meanwhile.
fn logged<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    let log = Log::of_thread();
    let result = f();
    (result, log.lines())
}

async fn the_option_decides() {
    let dual = Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap();
    assert_eq!(dual.sees(V4).await, Some(MAPPED));
    assert_eq!(dual.sees(V6).await, Some(V6));

    let options = SocketOptions::v6_only();
    let alone = Both::bind(&options, v6(free_port())).unwrap();
    assert_eq!(alone.sees(V4).await, None);
    assert_eq!(alone.sees(V6).await, Some(V6));

    // An IPv4 socket has the same port, in either order.
    for order in [[v4, v6], [v6, v4]] {
        // A port that the system chooses, and one that we choose.
        for chosen in [0, free_port()] {
            let udp = options.bind_udp(order[0](chosen)).unwrap();
            let port = udp.local_addr().unwrap().port();
            let tcp = options.bind_tcp(order[0](port)).unwrap();
            let mut both = [Both { tcp, udp }, Both::bind(&options, order[1](port)).unwrap()];
            both.sort_by_key(|both| both.addresses()[0].is_ipv6());
            assert_eq!(both[0].sees(V4).await, Some(V4));
            assert_eq!(both[1].sees(V6).await, Some(V6));
            close(both);
        }
    }
}

#[tokio::test]
async fn dual_stack_takes_both_families_and_v6_only_refuses_ipv4() {
    if ipv6_or_say() {
        the_option_decides().await;
    } else {
        let dual = Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap();
        assert_eq!(dual.sees(V4).await.map(|ip| ip.to_canonical()), Some(V4));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn with_the_option_both_bind_whatever_the_system_is_set_to() {
    if !ipv6_or_say() {
        return;
    }
    for (default, seen) in [(0, Some(MAPPED)), (1, None)] {
        in_namespace(&format!("echo {default} > /proc/sys/net/ipv6/bindv6only"), || {
            block_on(async {
                the_option_decides().await;
                let default = Both::bind(&SocketOptions::system_default(), v6(free_port())).unwrap();
                assert_eq!(default.sees(V4).await, seen);
                assert_eq!(default.sees(V6).await, Some(V6));
            });
        });
    }
}

#[tokio::test]
async fn an_ipv4_address_is_an_ipv4_socket_with_every_constructor() {
    for options in constructors() {
        let both = Both::bind(&options, (V4, 0).into()).unwrap();
        assert_eq!(both.sees(V4).await, Some(V4));
    }
}

#[tokio::test]
async fn a_mapped_address_is_served_by_a_dual_stack_socket() {
    if !ipv6_or_say() {
        return;
    }
    let address = (MAPPED, 0).into();
    let both = Both::bind(&SocketOptions::dual_stack(), address).unwrap();
    assert_eq!(both.sees(V4).await, Some(MAPPED));

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

/// The second of two sockets on a port names the first, if that has the other family, and the advice.
async fn the_second_names_the_first(options: &SocketOptions) {
    let port = free_port();
    for holder in [v4(port), (V4, port).into()] {
        let inet = Both::bind(options, holder).unwrap();
        assert_in_use(Both::bind(options, v6(port)), v6(port), &ipv4_holds(port));
        // The advice works, and the probe left no socket behind.
        close(());
        let inet6 = Both::bind(&SocketOptions::v6_only(), v6(port)).unwrap();
        assert_eq!(inet.sees(V4).await, Some(V4));
        assert_eq!(inet6.sees(V6).await, Some(V6));
        // Now IPv6 is taken as well, so the IPv4 socket is not the only cause.
        assert_in_use(Both::bind(options, v6(port)), v6(port), "");
        close((inet, inet6));
    }

    let dual = Both::bind(options, v6(port)).unwrap();
    for address in [v4(port), (V4, port).into(), (MAPPED, port).into()] {
        assert_in_use(Both::bind(options, address), address, &ipv6_holds(port));
    }
    assert_in_use(Both::pairs(options, port), v4(port), &ipv6_holds(port));
    assert_eq!(dual.sees(V4).await, Some(MAPPED));
    close(dual);
    let _inet6 = Both::bind(&SocketOptions::v6_only(), v6(port)).unwrap();
    assert_eq!(Both::bind(options, v4(port)).unwrap().addresses(), [v4(port); 2]);
}

#[tokio::test]
async fn the_second_socket_on_a_port_names_the_first_of_the_other_family() {
    if ipv6_or_say() {
        the_second_names_the_first(&SocketOptions::dual_stack()).await;
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_the_option_the_second_of_the_two_has_no_port() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("echo 0 > /proc/sys/net/ipv6/bindv6only", || {
        block_on(async {
            // A program that sets no option.
            let port = free_port();
            for [first, second] in [[v4, v6], [v6, v4]] {
                let first = std::net::UdpSocket::bind(first(port)).unwrap();
                let error = std::net::UdpSocket::bind(second(port)).unwrap_err();
                assert_eq!(error.to_string(), "Address already in use (os error 98)");
                close(first);
            }
            the_second_names_the_first(&SocketOptions::system_default()).await;
        });
    });
}

#[tokio::test]
async fn a_socket_of_the_same_family_gives_no_hint() {
    let port = free_port();
    let options = SocketOptions::dual_stack();
    let holders = Both::bind(&options, v4(port)).unwrap();
    assert_in_use(Both::bind(&options, v4(port)), v4(port), "");
    close(holders);
    if !ipv6_or_say() {
        return;
    }

    let holders = Both::bind(&options, v6(port)).unwrap();
    for options in [SocketOptions::dual_stack(), SocketOptions::v6_only()] {
        assert_in_use(Both::bind(&options, v6(port)), v6(port), "");
    }
    close(holders);

    let _holders = Both::pairs(&options, port).unwrap();
    assert_in_use(Both::bind(&options, v6(port)), v6(port), "");
    // On Linux the code finds that the IPv6 socket of the pair is not the cause.
    if cfg!(target_os = "linux") {
        assert_in_use(Both::bind(&options, v4(port)), v4(port), "");
        assert_in_use(Both::pairs(&options, port), v4(port), "");
    }
}

#[tokio::test]
async fn a_pair_is_two_sockets_on_one_port() {
    if !ipv6_or_say() {
        return;
    }
    for options in constructors() {
        for port in [0, free_port()] {
            let [inet, inet6] = Both::pairs(&options, port).unwrap();
            let bound = inet.addresses().map(|address| address.port());
            assert!(!bound.contains(&0) && (port == 0 || bound == [port; 2]));
            assert_eq!(inet.addresses(), bound.map(v4));
            assert_eq!(inet6.addresses(), bound.map(v6));
            assert_eq!(inet.sees(V4).await, Some(V4));
            assert_eq!(inet6.sees(V6).await, Some(V6));
        }
    }
}

#[tokio::test]
async fn a_pair_is_both_sockets_or_none() {
    if !ipv6_or_say() {
        return;
    }
    let port = free_port();
    let options = SocketOptions::dual_stack();
    let _holders = Both::bind(&SocketOptions::v6_only(), v6(port)).unwrap();
    assert_in_use(Both::pairs(&options, port), v6(port), "");
    close(());
    Both::bind(&options, v4(port)).unwrap();
}

#[tokio::test]
async fn a_shared_port_is_shared_when_all_ask() {
    let options = SocketOptions::dual_stack().reuse_port(true);
    let port = free_port();
    let both = [(); 2].map(|()| Both::bind(&options, v6(port)).unwrap());
    let address = both[0].addresses()[0];
    assert_in_use(Both::bind(&options.reuse_port(false), address), address, "");

    if ipv6_or_say() {
        let options = SocketOptions::dual_stack().reuse_port(true);
        let port = free_port();
        let _pairs = [(); 2].map(|()| Both::pairs(&options, port).unwrap());
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
    let ((Both { tcp, udp }, pair), lines) = logged(|| {
        let both = Both::bind(&options, (V4, 0).into()).unwrap();
        (both, ipv6_or_say().then(|| options.bind_udp_pair(0).unwrap()))
    });
    assert_eq!(lines, [""; 0]);
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
            .bind_udp((V4, 0).into())
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
        assert_eq!(lines, [""; 0]);
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
    let _ = SocketOptions::dual_stack().bind_udp((V4, 0).into());
}

#[cfg(target_os = "linux")]
#[test]
fn ipv6_that_is_switched_off_leaves_ipv4() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace(test_support::WITHOUT_IPV6_ADDRESSES, || {
        block_on(async {
            // The kernel still has IPv6 sockets, so nothing falls back.
            let both = Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap();
            assert_eq!(both.sees(V4).await, Some(MAPPED));

            for options in constructors() {
                for ip in [V6, "2001:db8::7".parse().unwrap()] {
                    let address = SocketAddr::new(ip, 0);
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
                (SocketOptions::dual_stack(), (V6, 0).into()),
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
            let _holder = Both::bind(&SocketOptions::dual_stack(), v4(port)).unwrap();
            assert_in_use(Both::bind(&SocketOptions::dual_stack(), v6(port)), v4(port), "");
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

    let (both, lines) = logged(|| Both::bind(&options, v6(port)).unwrap());
    assert_eq!(lines, [&*warning, &*warning]);
    assert_eq!(both.addresses(), [v4(port); 2]);
    assert_eq!(both.sees(V4).await, Some(V4));
}

#[cfg(target_os = "linux")]
#[test]
fn a_system_that_is_always_ipv6_only_is_told_from_one_that_is_not() {
    if !ipv6_or_say() {
        return;
    }
    // OpenBSD refuses to switch the option off.
    for (error, text) in [
        (Errno::EINVAL, "Invalid argument (os error 22)"),
        (Errno::EOPNOTSUPP, "Operation not supported (os error 95)"),
    ] {
        denying(error, Denied::V6ONLY, || {
            block_on(async {
                let errors = Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap_err();
                for (error, protocol) in errors.iter().zip(["TCP", "UDP"]) {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    let expected = format!(
                        "cannot bind {protocol} [::]:0: cannot set IPV6_V6ONLY: {text}: this system does not \
                         support dual-stack sockets; bind one socket per family with \
                         `SocketOptions::bind_tcp_pair` or `SocketOptions::bind_udp_pair`"
                    );
                    assert_eq!(error.to_string(), expected);
                }
                SocketOptions::system_default().bind_tcp(v6(0)).unwrap();
            });
        });
    }
    // The call succeeds and the socket stays dual-stack.
    denying(Errno::UnknownErrno, Denied::V6ONLY, || {
        block_on(async {
            let errors = Both::bind(&SocketOptions::v6_only(), v6(0)).unwrap_err();
            let expected = ["TCP", "UDP"].map(|protocol| {
                format!(
                    "cannot bind {protocol} [::]:0: cannot set IPV6_V6ONLY: the system ignored the option"
                )
            });
            assert_eq!(errors.map(|error| error.to_string()), expected);
            Both::bind(&SocketOptions::dual_stack(), v6(0)).unwrap();
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_that_is_still_checked_for_duplicates_is_named_and_can_be_bound() {
    // Each of the checks takes a second.
    const CHECKED: &str = "ip link add v0 type veth peer name v1
        echo 60 > /proc/sys/net/ipv6/conf/v0/dad_transmits
        ip link set v0 up
        ip link set v1 up
        ip addr add 2001:db8::7/64 dev v0";
    if !ipv6_or_say() {
        return;
    }
    in_namespace(CHECKED, || {
        block_on(async {
            let address: SocketAddr = "[2001:db8::7]:0".parse().unwrap();
            for options in [SocketOptions::dual_stack(), SocketOptions::v6_only()] {
                let error = options.bind_udp(address).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
                assert_eq!(
                    error.to_string(),
                    format!(
                        "cannot bind UDP {address}: {}: the host still checks that no other one on v0 has this \
                         address (duplicate address detection); try again in some seconds, or bind it with \
                         `SocketOptions::freebind(true)`",
                        os_error(&error)
                    )
                );
                let options = options.freebind(true);
                let socket = options.bind_udp(address).unwrap();
                assert_eq!(socket.local_addr().unwrap().ip(), address.ip());
                options.bind_tcp(address).unwrap();
            }
            // An address that this host does not have.
            let options = SocketOptions::dual_stack().freebind(true);
            for address in [
                v4(0),
                "203.0.113.99:0".parse().unwrap(),
                "[2001:db8::dead]:0".parse().unwrap(),
            ] {
                options.bind_udp(address).unwrap();
            }
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_is_read_with_the_name_of_an_interface() {
    in_namespace(test_support::raw::LINK, || {
        let number = test_support::link_number("v0");
        let read = |text: &str| parse_address(text).map_err(|error| error.to_string());
        for text in ["[fe80::a%v0]:6969", &format!("[fe80::a%{number}]:6969")] {
            let SocketAddr::V6(address) = read(text).unwrap() else {
                panic!("{text}");
            };
            assert_eq!(address.ip().to_string(), "fe80::a");
            assert_eq!((address.scope_id(), address.port()), (number, 6969), "{text}");
            block_on(async { SocketOptions::v6_only().bind_udp(address.into()).unwrap() });
        }
        assert_eq!(read("0.0.0.0:1"), Ok(v4(1)));
        assert_eq!(
            read("[fe80::a%v7]:6969"),
            Err("no interface `v7` has link-local addresses".to_owned())
        );
        for text in [
            "",
            "6969",
            "localhost:1",
            "[::]",
            "[fe80::a%v0]",
            "[fe80::a%v0]:x",
            "[a%v0]:1",
            "[fe80::a%]:1",
        ] {
            let expected = "write an IP address and a port, such as `[::]:6969` or `[fe80::1%eth0]:6969`";
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
    });
}
