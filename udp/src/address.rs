//! Translates addresses between a socket and its users.
//!
//! A dual-stack socket reports and takes IPv4 addresses in their mapped form. Everything else sees canonical addresses:
//! [`destination`] and [`canonical`] translate on the way in, [`Route`] on the way out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use quinn_udp::RecvMeta;

/// The prefix of mapped addresses.
const MAPPED: u128 = 0xffff << 32;

/// Turns a mapped address into the IPv4 address. Leaves any other as it is, with its scope id.
///
/// `IpAddr::to_canonical` compares byte by byte, which takes several times as long.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = address else {
        return address;
    };
    u32::try_from(v6.ip().to_bits() ^ MAPPED)
        .map_or(address, |bits| (Ipv4Addr::from_bits(bits), v6.port()).into())
}

/// Where a datagram was sent to, as the socket reported it. If it did not, the address that it is bound to.
///
/// Link-local addresses have their interface as the scope id. An IPv4 address has no scope id, so it is mapped if it or the
/// sender is link-local.
#[inline]
pub(crate) fn destination(meta: &RecvMeta, bound: SocketAddr) -> SocketAddr {
    let on_its_link = |ip| SocketAddrV6::new(ip, bound.port(), 0, meta.interface_index.unwrap_or(0)).into();
    match meta.dst_ip {
        Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => on_its_link(ip),
        Some(ip) if is_link_local_v4(ip) || is_link_local_v4(meta.addr.ip()) => on_its_link(match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        }),
        Some(ip) => SocketAddr::new(ip, bound.port()),
        None => bound,
    }
}

/// Whether it is in 169.254/16, mapped or not.
#[inline]
pub(crate) fn is_link_local_v4(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.to_bits() >> 16 == MAPPED >> 16 | 0xa9fe,
    }
}

/// Where a datagram is sent from and to, in the form that the socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None` lets the system choose: if the socket is bound to one address, it chooses that one.
    pub(crate) from: Option<IpAddr>,
    /// The number of the interface to send through, if an address is link-local and the socket cannot know its interface
    /// otherwise. 0 lets the system choose.
    pub(crate) interface: u32,
    pub(crate) to: SocketAddr,
}

impl Route {
    /// A route through a socket that is bound to `bound`. Addresses may be canonical or mapped. The port of `from` does
    /// not matter, because the socket has its own.
    ///
    /// `None` if nothing can be sent to `to`. A sender with port 0 takes no answer ([RFC 768]). The unspecified address
    /// belongs to no host ([RFC 4291 §2.5.2]); Linux would send to itself.
    ///
    /// [RFC 768]: https://www.rfc-editor.org/rfc/rfc768
    /// [RFC 4291 §2.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.2
    pub(crate) fn new(bound: SocketAddr, from: SocketAddr, to: SocketAddr) -> Option<Self> {
        if to.port() == 0 || canonical(to).ip().is_unspecified() {
            return None;
        }
        let fit = |address: SocketAddr| match address {
            SocketAddr::V4(v4) if bound.is_ipv6() => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            SocketAddr::V6(_) if bound.is_ipv4() => canonical(address),
            address => address,
        };
        let source = fit(from).ip();
        let interface = match from {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => match (v6.scope_id(), to) {
                (0, SocketAddr::V6(to)) => to.scope_id(),
                (interface, _) => interface,
            },
            SocketAddr::V6(v6) if v6.scope_id() != 0 && canonical(from).is_ipv4() => v6.scope_id(),
            _ => 0,
        };
        let lacks_interface =
            interface == 0 && matches!(from, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
        // An IPv4 address does not tell the system which interface it is on.
        let is_on_a_link = interface != 0 && canonical(from).is_ipv4();
        let is_source = can_be_a_source(canonical(from).ip())
            && (source != bound.ip() || is_on_a_link)
            && !lacks_interface;
        Some(Self {
            from: is_source.then_some(source),
            interface: if is_source || is_on_a_link { interface } else { 0 },
            to: fit(to),
        })
    }

    /// The source as a destination.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn source_as_destination(&self) -> Option<SocketAddr> {
        Some(match self.from? {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.to.port(), 0, self.interface).into(),
            IpAddr::V4(ip) => (ip, self.to.port()).into(),
        })
    }

    /// The same route from an address that the system chooses.
    pub(crate) fn without_source(self) -> Self {
        Self {
            from: None,
            interface: if canonical(self.to).is_ipv4() {
                self.interface
            } else {
                0
            },
            ..self
        }
    }

    /// Whether they are the same. Compares the ports first, because that is where most differ.
    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.to.port() == other.to.port() && self == other
    }

    /// Whether both leave from one address.
    #[inline]
    pub(crate) fn has_source_of(&self, other: &Self) -> bool {
        self.from == other.from && self.interface == other.interface
    }
}

fn can_be_a_source(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(bound: &str, from: &str, to: &str) -> (Option<String>, String) {
        let route = Route::new(
            bound.parse().unwrap(),
            SocketAddr::new(from.parse().unwrap(), 0),
            to.parse().unwrap(),
        )
        .unwrap();
        (route.from.map(|ip| ip.to_string()), route.to.to_string())
    }

    #[test]
    fn a_route_fits_the_family_of_the_socket() {
        let of = |from: &str, to: &str| (Some(from.to_owned()), to.to_owned());
        for from in ["192.0.2.1", "::ffff:192.0.2.1"] {
            for to in ["192.0.2.7:5", "[::ffff:192.0.2.7]:5"] {
                assert_eq!(
                    route("[::]:6", from, to),
                    of("::ffff:192.0.2.1", "[::ffff:192.0.2.7]:5")
                );
                assert_eq!(route("0.0.0.0:6", from, to), of("192.0.2.1", "192.0.2.7:5"));
            }
        }
        assert_eq!(
            route("[::]:6", "fe80::1", "[fe80::7%3]:5"),
            of("fe80::1", "[fe80::7%3]:5")
        );
    }

    #[test]
    fn a_socket_with_one_address_needs_no_source() {
        assert_eq!(route("192.0.2.1:6", "192.0.2.1", "192.0.2.7:5").0, None);
        assert_eq!(route("[::ffff:192.0.2.1]:6", "192.0.2.1", "192.0.2.7:5").0, None);
        assert_eq!(route("[fe80::1%3]:6", "fe80::1", "[fe80::7%3]:5").0, None);
        let other = route("192.0.2.1:6", "192.0.2.2", "192.0.2.7:5").0;
        assert_eq!(other.as_deref(), Some("192.0.2.2"));
    }

    #[test]
    fn a_link_local_address_names_its_interface() {
        for (from, to, is_source, interface) in [
            ("[fe80::1%3]:6", "[2001:db8::7]:5", true, 3),
            ("[fe80::1]:0", "[2001:db8::7]:5", false, 0),
            ("[fe80::1]:0", "[fe80::7%3]:5", true, 3),
            ("[2001:db8::1%3]:6", "[2001:db8::7]:5", true, 0),
            ("[ff02::1]:6", "[fe80::7%3]:5", false, 0),
            ("192.0.2.1:6", "192.0.2.7:5", true, 0),
            ("[::ffff:169.254.1.1%3]:6", "169.254.0.7:5", true, 3),
            ("[::ffff:255.255.255.255%3]:6", "169.254.0.7:5", false, 3),
        ] {
            let bound = "[::]:6".parse().unwrap();
            let route = Route::new(bound, from.parse().unwrap(), to.parse().unwrap()).unwrap();
            assert_eq!(
                (route.from.is_some(), route.interface),
                (is_source, interface),
                "{from}"
            );
        }
    }

    #[test]
    fn only_the_address_of_one_host_is_a_source() {
        for from in [
            "255.255.255.255",
            "::ffff:255.255.255.255",
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "239.1.2.3",
            "::ffff:239.1.2.3",
            "ff02::1",
        ] {
            assert_eq!(route("[::]:6", from, "[::1]:5").0, None, "{from}");
        }
    }

    #[test]
    fn there_is_no_route_to_port_0_and_to_the_unspecified_address() {
        for to in [
            "192.0.2.7:0",
            "[2001:db8::7]:0",
            "0.0.0.0:5",
            "[::]:5",
            "[::ffff:0.0.0.0]:5",
        ] {
            let bound = "[::]:6".parse().unwrap();
            assert_eq!(Route::new(bound, bound, to.parse().unwrap()), None, "{to}");
        }
    }
}
