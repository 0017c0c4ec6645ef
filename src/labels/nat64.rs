use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
    str::FromStr,
};

/// A prefix from which a NAT64 or SIIT translator makes the IPv6 addresses of its IPv4 clients ([RFC 6052]).
///
/// Its length is 32, 40, 48, 56, 64 or 96 bits.
///
/// ```
/// use dualstack_metrics::Nat64Prefix;
///
/// let prefix: Nat64Prefix = "64:ff9b::/96".parse()?;
/// assert_eq!(prefix, Nat64Prefix::WELL_KNOWN);
/// assert!(prefix.contains("64:ff9b::192.0.2.7".parse()?));
/// assert!(!prefix.contains("2001:db8::7".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [RFC 6052]: https://www.rfc-editor.org/rfc/rfc6052#section-2.2
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nat64Prefix {
    // The bytes past the length are 0.
    prefix: [u8; 12],
    bytes: NonZeroU8,
}

/// Bits 64 to 71, which are 0 in every address that a translator makes.
const RESERVED: usize = 8;

impl Nat64Prefix {
    /// The well-known prefix, `64:ff9b::/96` ([RFC 6052 §2.1]).
    ///
    /// [RFC 6052 §2.1]: https://www.rfc-editor.org/rfc/rfc6052#section-2.1
    pub const WELL_KNOWN: Self = Self {
        prefix: [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        bytes: NonZeroU8::new(12).expect("not 0"),
    };

    /// A prefix of `length` bits.
    ///
    /// # Errors
    ///
    /// If RFC 6052 does not have the length, or a bit of the address is set that is not part of the prefix or is
    /// reserved (bits 64 to 71). If addresses with the prefix have another meaning: `::`, `::1`, IPv4-mapped, link-local
    /// and multicast addresses.
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Self, InvalidNat64Prefix> {
        let octets = address.octets();
        let (32 | 40 | 48 | 56 | 64 | 96) = length else {
            return Err(InvalidNat64Prefix::Length(length));
        };
        let (Some(bytes), Some(&prefix)) = (NonZeroU8::new(length / 8), octets.first_chunk()) else {
            return Err(InvalidNat64Prefix::Length(length));
        };
        if octets[usize::from(bytes.get())..].iter().any(|&byte| byte != 0) {
            return Err(InvalidNat64Prefix::HostBits(address, length));
        }
        if octets[RESERVED] != 0 {
            return Err(InvalidNat64Prefix::ReservedBits(address));
        }
        let new = Self { prefix, bytes };
        let has_special = [Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()]
            .into_iter()
            .any(|special| new.contains(special));
        if has_special || address.is_unicast_link_local() || address.is_multicast() {
            return Err(InvalidNat64Prefix::Special(address, length));
        }
        Ok(new)
    }

    /// Whether a translator with this prefix made the address.
    #[must_use]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let octets = address.octets();
        octets.starts_with(&self.prefix[..usize::from(self.bytes.get())]) && octets[RESERVED] == 0
    }
}

impl FromStr for Nat64Prefix {
    type Err = InvalidNat64Prefix;

    /// Reads an address, a slash and the number of bits, such as `2001:db8:64::/96`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || InvalidNat64Prefix::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        let address = address.parse().map_err(|_| syntax())?;
        let length = length.parse().map_err(|_| syntax())?;
        Self::new(address, length)
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = [0; 16];
        octets[..self.prefix.len()].copy_from_slice(&self.prefix);
        write!(f, "{}/{}", Ipv6Addr::from(octets), self.bytes.get() * 8)
    }
}

impl fmt::Debug for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nat64Prefix({self})")
    }
}

/// Why there is no such [`Nat64Prefix`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidNat64Prefix {
    /// The text is not an IPv6 address, a slash and a number.
    Syntax(String),
    /// RFC 6052 has no prefixes of this number of bits.
    Length(u8),
    /// The address has bits that are not part of the prefix.
    HostBits(Ipv6Addr, u8),
    /// One of the bits 64 to 71 is set.
    ReservedBits(Ipv6Addr),
    /// Addresses with this prefix of this length have another meaning.
    Special(Ipv6Addr, u8),
}

impl fmt::Display for InvalidNat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(text) => write!(
                f,
                "{text:?} is not a NAT64 prefix: write an IPv6 address, a slash and a number of bits, such as \
                 \"64:ff9b::/96\""
            ),
            Self::Length(length) => write!(
                f,
                "a NAT64 prefix cannot have {length} bits: use 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)"
            ),
            Self::HostBits(address, length) => write!(
                f,
                "{address} has bits that are not part of a prefix of {length} bits: set them to 0"
            ),
            Self::ReservedBits(address) => write!(
                f,
                "{address} cannot be a NAT64 prefix, because the bits 64 to 71 must be 0 (RFC 6052 §2.2)"
            ),
            Self::Special(address, length) => write!(
                f,
                "{address}/{length} cannot be a NAT64 prefix, because no translator makes its addresses: they include \
                 IPv4-mapped, loopback, link-local or multicast addresses; use the prefix of your translator, such as \
                 \"64:ff9b::/96\""
            ),
        }
    }
}

impl std::error::Error for InvalidNat64Prefix {}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Nat64Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn contains_what_rfc_6052_writes() {
        // The table of RFC 6052 §2.4.
        for (of, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            assert!(prefix(of).contains(address.parse().unwrap()), "{of} {address}");
            assert_eq!(prefix(of).to_string(), of);
            assert!(!prefix(of).contains("2001:db9::7".parse().unwrap()));
        }
        assert!(!Nat64Prefix::WELL_KNOWN.contains("64:ff9b::1:192.0.2.33".parse().unwrap()));
        // Bits 64 to 71 are set, so no translator made it.
        assert!(!prefix("2001:db8::/32").contains("2001:db8:c000:221:100::".parse().unwrap()));
    }

    #[test]
    fn refuses_what_rfc_6052_does_not_have() {
        let error = |text: &str| text.parse::<Nat64Prefix>().unwrap_err().to_string();
        for text in [
            "",
            "64:ff9b::",
            "64:ff9b::/",
            "64:ff9b::/256",
            "192.0.2.0/24",
            "a/96",
        ] {
            assert!(error(text).starts_with(&format!("{text:?} is not a NAT64 prefix: ")));
        }
        assert_eq!(
            error("64:ff9b::/95"),
            "a NAT64 prefix cannot have 95 bits: use 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)"
        );
        assert_eq!(
            error("64:ff9b::1/96"),
            "64:ff9b::1 has bits that are not part of a prefix of 96 bits: set them to 0"
        );
        assert_eq!(
            error("2001:db8:0:0:100::/96"),
            "2001:db8:0:0:100:: cannot be a NAT64 prefix, because the bits 64 to 71 must be 0 (RFC 6052 §2.2)"
        );
        let special = [
            "::/96",
            "::/64",
            "::/32",
            "::ffff:0:0/96",
            "fe80::/64",
            "ff02::/96",
        ];
        for text in special {
            let words = "cannot be a NAT64 prefix, because no translator makes its addresses: ";
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
        for text in ["64:ff9b:1::/48", "fd00:64::/96", "2001:db8::/32"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }
}
