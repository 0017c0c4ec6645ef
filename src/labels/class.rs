//! The class of a client's address: its family and its type, in one byte.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::names::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, UNKNOWN};

/// An address family, named as in `socket(2)` and `ip(8)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpFamily {
    /// IPv4, written `inet`. An IPv4-mapped IPv6 address belongs to this family.
    Inet,
    /// IPv6, written `inet6`.
    Inet6,
}

impl IpFamily {
    /// The label value: `inet` or `inet6`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an address is written: as one of its own family, mapped, or translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpType {
    /// An address of its own family, written `plain`.
    Plain,
    /// An IPv4-mapped IPv6 address, `::ffff:a.b.c.d` ([RFC 4291 §2.5.5.2]), written `v4_mapped_v6`.
    ///
    /// [RFC 4291 §2.5.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
    V4MappedV6,
    /// An IPv6 address that a translator made from the IPv4 address of the client ([RFC 6052]), written `nat64`.
    ///
    /// Only for scopes that know the prefix of the translator: see
    /// [`ClientScopesBuilder::nat64`](crate::ClientScopesBuilder::nat64).
    ///
    /// [RFC 6052]: https://www.rfc-editor.org/rfc/rfc6052
    Nat64,
}

impl IpType {
    /// The label value: `plain`, `v4_mapped_v6` or `nat64`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::V4MappedV6 => "v4_mapped_v6",
            Self::Nat64 => "nat64",
        }
    }
}

impl fmt::Display for IpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Class {
    InetPlain,
    InetMapped,
    Inet6Plain,
    Unknown,
    InetNat64,
}

/// The class of a client's address, in one byte that does not contain the address.
///
/// | client seen by the socket | family | type |
/// |---|---|---|
/// | `192.0.2.7` | `inet` | `plain` |
/// | `::ffff:192.0.2.7` | `inet` | `v4_mapped_v6` |
/// | `2001:db8::7`, and every other IPv6 address | `inet6` | `plain` |
/// | no known address | `unknown` | `unknown` |
/// | an address in a NAT64 prefix that the scopes know | `inet` | `nat64` |
///
/// "Every other" includes `::1`, link-local, 6to4 (`2002::/16`) and the deprecated IPv4-compatible `::a.b.c.d`, because
/// these clients use IPv6 to reach this host. It includes `64:ff9b::/96` unless the scopes were made with
/// [`nat64`](crate::ClientScopesBuilder::nat64).
///
/// Made from a [`SocketAddr`], an [`IpAddr`] or an `Option` of one (`None` is [`UNKNOWN`](Self::UNKNOWN)).
/// [`pairs`](Self::pairs) returns the two labels, for any metrics system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientLabels(Class);

impl ClientLabels {
    /// The class of a client without a known address. The server is misconfigured, or listens on a Unix socket.
    pub const UNKNOWN: Self = Self(Class::Unknown);

    /// The class of an IPv4 client behind a translator, for your own check with
    /// [`Nat64Prefix::contains`](crate::Nat64Prefix::contains). Scopes do the check if they were made with
    /// [`nat64`](crate::ClientScopesBuilder::nat64).
    pub const NAT64: Self = Self(Class::InetNat64);

    /// All classes but [`NAT64`](Self::NAT64), which only scopes with a NAT64 prefix use. A counter of a server has at
    /// most one series for each class, and one more with such a prefix.
    pub const ALL: &'static [Self] = Self::EVERY.split_at(Self::NAT64.index()).0;

    pub(crate) const EVERY: &'static [Self] = &[
        Self(Class::InetPlain),
        Self(Class::InetMapped),
        Self(Class::Inet6Plain),
        Self(Class::Unknown),
        Self(Class::InetNat64),
    ];

    /// The class of an address. Pass the address as the socket reports it, not its canonical form.
    #[must_use]
    pub const fn from_ip(ip: IpAddr) -> Self {
        match class(ip) {
            (IpFamily::Inet, IpType::V4MappedV6) => Self(Class::InetMapped),
            (IpFamily::Inet, _) => Self(Class::InetPlain),
            (IpFamily::Inet6, _) => Self(Class::Inet6Plain),
        }
    }

    /// The client's own family, or `None` if no address is known.
    #[must_use]
    pub const fn family(self) -> Option<IpFamily> {
        match self.0 {
            Class::InetPlain | Class::InetMapped | Class::InetNat64 => Some(IpFamily::Inet),
            Class::Inet6Plain => Some(IpFamily::Inet6),
            Class::Unknown => None,
        }
    }

    /// How the client's address reached the socket, or `None` if no address is known.
    #[must_use]
    pub const fn ip_type(self) -> Option<IpType> {
        match self.0 {
            Class::InetPlain | Class::Inet6Plain => Some(IpType::Plain),
            Class::InetMapped => Some(IpType::V4MappedV6),
            Class::InetNat64 => Some(IpType::Nat64),
            Class::Unknown => None,
        }
    }

    /// The label value of the family: `inet`, `inet6` or `unknown`.
    #[must_use]
    pub const fn family_str(self) -> &'static str {
        match self.family() {
            Some(family) => family.as_str(),
            None => UNKNOWN,
        }
    }

    /// The label value of the type: `plain`, `v4_mapped_v6`, `nat64` or `unknown`.
    #[must_use]
    pub const fn ip_type_str(self) -> &'static str {
        match self.ip_type() {
            Some(ip_type) => ip_type.as_str(),
            None => UNKNOWN,
        }
    }

    /// The two labels, as name and value, for any metrics system.
    #[must_use]
    pub const fn pairs(self) -> &'static [(&'static str, &'static str)] {
        const fn pairs(family: &'static str, ip_type: &'static str) -> [(&'static str, &'static str); 2] {
            [
                (CLIENT_ADDRESS_IP_FAMILY, family),
                (CLIENT_ADDRESS_IP_TYPE, ip_type),
            ]
        }

        match self.0 {
            Class::InetPlain => const { &pairs(IpFamily::Inet.as_str(), IpType::Plain.as_str()) },
            Class::InetMapped => const { &pairs(IpFamily::Inet.as_str(), IpType::V4MappedV6.as_str()) },
            Class::Inet6Plain => const { &pairs(IpFamily::Inet6.as_str(), IpType::Plain.as_str()) },
            Class::Unknown => const { &pairs(UNKNOWN, UNKNOWN) },
            Class::InetNat64 => const { &pairs(IpFamily::Inet.as_str(), IpType::Nat64.as_str()) },
        }
    }

    /// The position in [`EVERY`](Self::EVERY).
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ClientLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLabels")
            .field("family", &format_args!("{}", self.family_str()))
            .field("ip_type", &format_args!("{}", self.ip_type_str()))
            .finish()
    }
}

impl From<IpAddr> for ClientLabels {
    fn from(ip: IpAddr) -> Self {
        Self::from_ip(ip)
    }
}

impl From<SocketAddr> for ClientLabels {
    fn from(address: SocketAddr) -> Self {
        Self::from_ip(address.ip())
    }
}

/// For [`ALL`](ClientLabels::ALL), which is a slice.
impl From<&ClientLabels> for ClientLabels {
    fn from(client: &ClientLabels) -> Self {
        *client
    }
}

impl<T: Into<ClientLabels>> From<Option<T>> for ClientLabels {
    fn from(address: Option<T>) -> Self {
        address.map_or(Self::UNKNOWN, Into::into)
    }
}

pub(super) fn value_of<T>(known: Option<T>, as_str: impl FnOnce(T) -> &'static str) -> &'static str {
    known.map_or(UNKNOWN, as_str)
}

pub(super) const fn class(ip: IpAddr) -> (IpFamily, IpType) {
    match ip {
        IpAddr::V4(_) => (IpFamily::Inet, IpType::Plain),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(_) => (IpFamily::Inet, IpType::V4MappedV6),
            None => (IpFamily::Inet6, IpType::Plain),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::LabelSet;

    static_assertions::assert_eq_size!(ClientLabels, u8);
    static_assertions::assert_impl_all!(ClientLabels: Copy, Send, Sync, LabelSet);
    static_assertions::assert_impl_all!((ClientLabels, (ClientLabels,)): LabelSet);

    fn pairs(ip: &str) -> (&'static str, &'static str) {
        let ip: IpAddr = ip.parse().unwrap();
        let labels = ClientLabels::from(ip);
        assert_eq!(labels, ClientLabels::from(SocketAddr::new(ip, 50_000)));
        assert_eq!(labels, ClientLabels::from(Some(ip)));
        let &[(family_name, family), (type_name, ip_type)] = labels.pairs() else {
            panic!("two labels")
        };
        assert_eq!(family_name, "client_address_ip_family");
        assert_eq!(type_name, "client_address_ip_type");
        assert_eq!(family, labels.family_str());
        assert_eq!(ip_type, labels.ip_type_str());
        (family, ip_type)
    }

    #[test]
    fn the_table_of_the_label_contract() {
        for ip in [
            "192.0.2.7",
            "0.0.0.0",
            "127.0.0.1",
            "255.255.255.255",
            "169.254.1.1",
        ] {
            assert_eq!(pairs(ip), ("inet", "plain"), "{ip}");
        }
        for ip in [
            "::ffff:192.0.2.7",
            "::ffff:0:0",
            "::ffff:127.0.0.1",
            "::ffff:255.255.255.255",
        ] {
            assert_eq!(pairs(ip), ("inet", "v4_mapped_v6"), "{ip}");
        }
        for ip in [
            "2001:db8::7",
            "::",
            "::1",
            "fe80::1",
            "2002:c000:207::",
            "64:ff9b::192.0.2.7",
            "::192.0.2.7",
            "::fffe:192.0.2.7",
            "0:0:0:0:ffff:0:192.0.2.7",
            "1::ffff:192.0.2.7",
            "ff02::1",
        ] {
            assert_eq!(pairs(ip), ("inet6", "plain"), "{ip}");
        }
        assert_eq!(
            ClientLabels::NAT64.pairs(),
            [
                ("client_address_ip_family", "inet"),
                ("client_address_ip_type", "nat64")
            ]
        );
        assert_eq!(
            ClientLabels::from(None::<SocketAddr>).pairs(),
            [
                ("client_address_ip_family", "unknown"),
                ("client_address_ip_type", "unknown")
            ]
        );
    }

    #[test]
    fn each_class_is_at_its_index() {
        for (at, class) in ClientLabels::EVERY.iter().enumerate() {
            assert_eq!(class.index(), at);
            let texts = class.pairs().iter().map(|&(_, value)| value);
            assert!(texts.eq([class.family_str(), class.ip_type_str()]));
        }
        assert_eq!(
            [ClientLabels::ALL, &[ClientLabels::NAT64]].concat(),
            ClientLabels::EVERY
        );
    }

    #[test]
    fn debug_shows_no_address() {
        let labels = ClientLabels::from("::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(
            format!("{labels:?}"),
            "ClientLabels { family: inet, ip_type: v4_mapped_v6 }"
        );
    }
}
