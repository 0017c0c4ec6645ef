//! The address families and addresses of the relay sockets.

use std::net::{IpAddr, SocketAddr};

use dualstack_metrics::{SocketOptions, socket::BindError};
use tokio::net::UdpSocket;
use turn_server_proto::types::AddressFamily;

use crate::cli::RelayIps;

/// Derives a listener's relay sockets from its own address.
pub(crate) struct Families {
    options: SocketOptions,
    listener: IpAddr,
    is_dual_stack: bool,
    relay_ips: RelayIps,
}

impl Families {
    /// `listener` is the address that the listener is bound to, which is `0.0.0.0` on a host without IPv6.
    pub(crate) fn new(options: SocketOptions, listener: IpAddr, v6only: bool, relay_ips: RelayIps) -> Self {
        let is_dual_stack = listener.is_ipv6() && listener.is_unspecified() && !v6only;
        Self {
            options,
            listener,
            is_dual_stack,
            relay_ips,
        }
    }

    /// The address at which peers of `family` reach a client that sent its request to `asked`, if there is one.
    pub(crate) fn address(&self, family: AddressFamily, asked: IpAddr) -> Option<IpAddr> {
        let is_of_family = |ip: &IpAddr| ip.is_ipv4() == (family == AddressFamily::IPV4);
        if !self.is_dual_stack && !is_of_family(&self.listener.to_canonical()) {
            return None;
        }
        let configured = match family {
            AddressFamily::IPV4 => self.relay_ips.v4.map(IpAddr::from),
            AddressFamily::IPV6 => self.relay_ips.v6.map(IpAddr::from),
        };
        // A relayed address cannot carry a scope id, so a link-local address is not usable.
        let has_scope = matches!(asked, IpAddr::V6(ip) if ip.is_unicast_link_local());
        configured.or(Some(asked).filter(|ip| is_of_family(ip) && !has_scope))
    }

    /// Binds a socket with the listener's families, on a port that the system chooses.
    pub(crate) fn bind(&self) -> Result<UdpSocket, BindError> {
        self.options.bind_udp(SocketAddr::new(self.listener, 0))
    }
}
