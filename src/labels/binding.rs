//! A listening socket, and its labels.

use std::{borrow::Cow, fmt, net::SocketAddr};

use super::{
    class::{IpFamily, IpType, class, value_of},
    names::{
        SERVER_BINDING_ADDRESS_IP_FAMILY, SERVER_BINDING_ADDRESS_IP_TYPE, SERVER_BINDING_IP,
        SERVER_BINDING_PORT, SERVER_BINDING_PROTOCOL, UNKNOWN,
    },
};

/// The protocol of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC, written `grpc`.
    Grpc,
    /// HTTP over TCP, written `http`.
    Http,
    /// HTTP over QUIC, written `http3`.
    Http3,
    /// HTTP over TLS, written `https`.
    Https,
    /// Any other protocol over TCP, written `tcp`.
    Tcp,
    /// A protocol over UDP, written `udp`.
    Udp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 6] = [
        Self::Grpc,
        Self::Http,
        Self::Http3,
        Self::Https,
        Self::Tcp,
        Self::Udp,
    ];

    /// The label value: `grpc`, `http`, `http3`, `https`, `tcp` or `udp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Http3 => "http3",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A listening socket: its protocol and the address it is bound to, if it has one. It has five labels.
///
/// Make it from the listener, not from the configuration: with port 0 in the configuration, the system chooses the
/// port.
///
/// ```
/// use dualstack_metrics::{Protocol, ServerBinding};
///
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
///
/// assert_eq!(binding.to_string(), format!("http://{}", listener.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerBinding {
    protocol: Protocol,
    address: Option<SocketAddr>,
}

impl ServerBinding {
    /// A binding of `protocol` at the *bound* `address`, which the listener's `local_addr` returns.
    ///
    /// A port of 0 is accepted, but logged as a warning, because the port of a bound socket is never 0.
    #[must_use]
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        if address.port() == 0 {
            tracing::warn!(
                %protocol,
                %address,
                "the address of a server binding has port 0: make the binding from the listener's `local_addr()`"
            );
        }
        Self {
            protocol,
            address: Some(address),
        }
    }

    /// A binding of `protocol` on a Unix socket. It has no IP address, so its four address labels are `unknown`.
    ///
    /// ```
    /// use dualstack_metrics::{Protocol, ServerBinding};
    ///
    /// let binding = ServerBinding::unix(Protocol::Http);
    /// assert_eq!(binding.address(), None);
    /// assert_eq!(binding.to_string(), "http+unix");
    /// ```
    #[must_use]
    pub const fn unix(protocol: Protocol) -> Self {
        Self {
            protocol,
            address: None,
        }
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The family of the address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub fn family(&self) -> Option<IpFamily> {
        self.address.map(|address| class(address.ip()).0)
    }

    /// The type of the address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub fn ip_type(&self) -> Option<IpType> {
        self.address.map(|address| class(address.ip()).1)
    }

    /// The labels, as name and value, for any metrics system.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let of_address = |value: fn(SocketAddr) -> String| {
            self.address
                .map_or(Cow::Borrowed(UNKNOWN), |address| value(address).into())
        };
        vec![
            (
                SERVER_BINDING_ADDRESS_IP_FAMILY,
                value_of(self.family(), IpFamily::as_str).into(),
            ),
            (
                SERVER_BINDING_ADDRESS_IP_TYPE,
                value_of(self.ip_type(), IpType::as_str).into(),
            ),
            (SERVER_BINDING_IP, of_address(ip)),
            (
                SERVER_BINDING_PORT,
                of_address(|address| address.port().to_string()),
            ),
            (SERVER_BINDING_PROTOCOL, self.protocol.as_str().into()),
        ]
    }
}

/// Two sockets can have one link-local address, on two interfaces. The scope id tells them apart.
pub(crate) fn ip(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            format!("{}%{}", address.ip(), address.scope_id())
        }
        _ => address.ip().to_string(),
    }
}

impl fmt::Display for ServerBinding {
    /// Writes the binding as a URL, such as `udp://[::]:6969`, or as `http+unix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}://{address}", self.protocol),
            None => write!(f, "{}+unix", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_has_five_labels() {
        let written = |binding: ServerBinding| -> Vec<_> {
            binding
                .pairs()
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        let of = |address: &str| written(ServerBinding::new(Protocol::Udp, address.parse().unwrap()));
        assert_eq!(
            of("[::]:6969"),
            [
                "server_binding_address_ip_family=inet6",
                "server_binding_address_ip_type=plain",
                "server_binding_ip=::",
                "server_binding_port=6969",
                "server_binding_protocol=udp",
            ]
        );
        assert_eq!(of("0.0.0.0:1")[0], "server_binding_address_ip_family=inet");
        assert_eq!(
            of("[::ffff:192.0.2.1]:1")[..3],
            [
                "server_binding_address_ip_family=inet",
                "server_binding_address_ip_type=v4_mapped_v6",
                "server_binding_ip=::ffff:192.0.2.1",
            ]
        );

        for (address, ip) in [
            ("[fe80::1%2]:6969", "fe80::1%2"),
            ("[fe80::1%3]:6969", "fe80::1%3"),
            ("[fe80::1]:6969", "fe80::1"),
        ] {
            assert_eq!(of(address)[2], format!("server_binding_ip={ip}"));
        }

        let unix = ServerBinding::unix(Protocol::Grpc);
        assert_eq!(
            written(unix),
            [
                "server_binding_address_ip_family=unknown",
                "server_binding_address_ip_type=unknown",
                "server_binding_ip=unknown",
                "server_binding_port=unknown",
                "server_binding_protocol=grpc",
            ]
        );
        assert_eq!((unix.family(), unix.ip_type()), (None, None));
    }
}
