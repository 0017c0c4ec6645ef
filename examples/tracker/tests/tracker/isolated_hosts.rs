//! Hosts without IPv6, and one where the default ports are free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use test_support::{
    Denied, Errno, INET, MAPPED, Seen, WITHOUT_IPV6_ADDRESSES, denying, in_namespace, ipv6_available,
};

use crate::{
    command_line::demo_shows,
    requests::every_counter_is_exact,
    running::{Tracker, run},
};

const NO_IPV6: &str = "IPv6 is missing or disabled on this host; bind an IPv4 address, or `[::]` with \
                       `SocketOptions::dual_stack()`, which also serves IPv4 alone";

/// Serves IPv4 clients on `[::]`, and refuses to bind `[::1]`.
fn serves_ipv4_only(wildcard: IpAddr, client: Seen, os_error: &str) {
    assert!(!ipv6_available());
    assert_eq!(demo_shows(false), client);
    let tracker = Tracker::dual_stack();
    assert_eq!((tracker.udp[0].ip(), tracker.http[0].ip()), (wildcard, wildcard));
    every_counter_is_exact(tracker);

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
    in_namespace(WITHOUT_IPV6_ADDRESSES, || {
        // The kernel still has IPv6 sockets, which take IPv4.
        serves_ipv4_only(
            Ipv6Addr::UNSPECIFIED.into(),
            MAPPED,
            "Cannot assign requested address (os error 99)",
        );
    });
}

#[test]
fn ipv4_is_served_where_the_kernel_has_no_ipv6() {
    denying(Errno::EAFNOSUPPORT, Denied::IPV6_SOCKET, || {
        serves_ipv4_only(
            Ipv4Addr::UNSPECIFIED.into(),
            INET,
            "cannot create a socket: Address family not supported by protocol (os error 97)",
        );
    });
}

#[test]
fn without_arguments_it_serves_on_the_default_ports() {
    in_namespace("", || {
        let tracker = Tracker::start_as("");
        let ports =
            [&tracker.udp, &tracker.http].map(|all| all.iter().map(SocketAddr::port).collect::<Vec<_>>());
        assert_eq!(ports, [[6969], [7070]]);
        assert_eq!(tracker.metrics, "127.0.0.1:1212".parse().unwrap());
        every_counter_is_exact(tracker);
    });
}
