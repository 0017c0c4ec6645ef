//! One port for both families: one socket, or a socket for each. The evidence for `docs/dual-stack-sockets.md`.

#![cfg(target_os = "linux")]

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dualstack_metrics::{SocketOptions, socket::BindError};
use test_support::{Denied, Errno, V4, V6, block_on, close, denying, free_port, in_namespace, ipv6_or_say};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const MAPPED_V4: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

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

#[test]
fn without_the_option_the_second_of_the_two_has_no_port() {
    if !ipv6_or_say() {
        return;
    }
    in_namespace("echo 0 > /proc/sys/net/ipv6/bindv6only", || {
        block_on(async {
            // A program that sets no option.
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
        });
    });
}

#[test]
fn with_the_option_both_bind_whatever_the_system_is_set_to() {
    if !ipv6_or_say() {
        return;
    }
    for default in ["0", "1"] {
        let setup = format!("echo {default} > /proc/sys/net/ipv6/bindv6only");
        in_namespace(&setup, || block_on(both_bind(default == "0")));
    }
}

async fn both_bind(default_is_dual_stack: bool) {
    let options = SocketOptions::v6_only();
    for order in [[v4, v6], [v6, v4]] {
        // A port that the system chooses, and one that we choose.
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
    assert_eq!(default.sees(V4).await, default_is_dual_stack.then_some(MAPPED_V4));
}

const NO_DUAL_STACK: &str = "this system does not support dual-stack sockets; bind one socket per family with \
                             `SocketOptions::bind_tcp_pair` or `SocketOptions::bind_udp_pair`";

#[test]
fn a_system_that_is_always_ipv6_only_is_told_from_one_that_is_not() {
    if !ipv6_or_say() {
        return;
    }
    // OpenBSD refuses to switch the option off.
    for error in [Errno::EINVAL, Errno::EOPNOTSUPP] {
        denying(error, Denied::V6ONLY, || {
            block_on(async {
                for error in *Both::bind(&SocketOptions::dual_stack(), v6(0)).err().unwrap() {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    let error = error.to_string();
                    assert!(error.ends_with(&format!(": {NO_DUAL_STACK}")), "{error}");
                }
            });
        });
    }
    // The call succeeds and the socket stays dual-stack.
    denying(Errno::UnknownErrno, Denied::V6ONLY, || {
        block_on(async {
            let errors = Both::bind(&SocketOptions::v6_only(), v6(0)).err().unwrap();
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
