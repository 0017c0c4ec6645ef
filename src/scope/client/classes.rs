use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nat64::Nat64Prefixes;
use crate::labels::{ClientLabels, ServerBinding};

/// A set of classes, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Classes(u8);

impl Classes {
    /// The classes that the socket can see. Without a socket, all classes with an address.
    pub(super) fn of_binding(binding: Option<&ServerBinding>) -> Self {
        let v4 = ClientLabels::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let mapped = ClientLabels::from(IpAddr::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()));
        let v6 = ClientLabels::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let Some(binding) = binding else {
            return [v4, mapped, v6].into_iter().collect();
        };
        match binding.address().map(|address| address.ip()) {
            None => [ClientLabels::UNKNOWN].into_iter().collect(),
            Some(IpAddr::V4(_)) => [v4].into_iter().collect(),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => [mapped, v6].into_iter().collect(),
            Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => [mapped].into_iter().collect(),
            Some(IpAddr::V6(_)) => [v6].into_iter().collect(),
        }
    }

    /// Translated clients come over IPv6.
    pub(super) fn with_nat64(self, nat64: Nat64Prefixes) -> Self {
        let v6 = ClientLabels::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
        if self.has(v6) && !nat64.is_empty() {
            Self(self.0 | 1 << ClientLabels::NAT64.index())
        } else {
            self
        }
    }

    pub(super) fn has(self, client: ClientLabels) -> bool {
        self.0 & (1 << client.index()) != 0
    }
}

impl FromIterator<ClientLabels> for Classes {
    fn from_iter<T: IntoIterator<Item = ClientLabels>>(classes: T) -> Self {
        const { assert!(ClientLabels::EVERY.len() <= u8::BITS as usize) };
        Self(
            classes
                .into_iter()
                .fold(0, |bits, client| bits | 1 << client.index()),
        )
    }
}
