//! Whose address it is.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv6 host can take any address of its /64, so one /64 is one address here.
pub(crate) fn owner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
