use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::client::Client;

/// The proxies that are believed about their clients. Everybody else is a client.
///
/// Addresses are compared in their canonical form: `10.0.0.0/8` also contains `::ffff:10.0.0.1`, which is how a proxy at
/// 10.0.0.1 reaches a dual-stack socket. Clones share their networks.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    shared: Arc<Networks>,
}

#[derive(Debug, Default)]
struct Networks {
    ip: Box<[IpNet]>,
    unix: bool,
}

/// The entry for all peers on Unix sockets. nginx has the same word.
const UNIX: &str = "unix:";

impl TrustedProxies {
    /// Trusts peers in these networks.
    ///
    /// An [entry](TrustedProxy) is a network, such as `10.0.0.0/8` or `2001:db8::/32`, or an address, or `unix:` for every
    /// peer on a Unix socket. List the addresses from which your proxies connect, and no network with clients in it: a
    /// client in a trusted network can choose its labels.
    ///
    /// ```
    /// use dualstack_metrics::TrustedProxies;
    /// use std::net::IpAddr;
    ///
    /// let proxies = TrustedProxies::new(["10.0.0.0/8", "::1", "unix:"])?;
    /// assert!(proxies.contains("::ffff:10.1.2.3".parse()?));
    /// assert!(!proxies.contains("192.0.2.7".parse()?));
    ///
    /// // From the address and the length of the prefix, which each type for networks has.
    /// let network: (IpAddr, u8) = ("10.0.0.0".parse()?, 8);
    /// assert!(TrustedProxies::new([network])?.contains("10.1.2.3".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If an entry is none of these, or has bits set that are not part of the network, such as `10.0.0.1/8`.
    pub fn new<I>(networks: I) -> Result<Self, TrustedProxiesError>
    where
        I: IntoIterator,
        I::Item: TrustedProxy,
    {
        let mut unix = false;
        let mut ip = Vec::new();
        for network in networks {
            match network.read()? {
                Entry::Unix => unix = true,
                Entry::Ip(network) => ip.push(network),
            }
        }
        let ip = IpNet::aggregate(&ip).into();
        Ok(Self {
            shared: Arc::new(Networks { ip, unix }),
        })
    }

    /// Whether a proxy with this address is trusted.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.shared.ip.iter().any(|network| network.contains(&address))
    }

    /// Whether a peer is trusted. A peer of which only the class is known is not.
    pub(super) fn trusts(&self, peer: Client) -> bool {
        match peer.ip() {
            Some(address) => self.contains(address),
            None => self.shared.unix && peer == Client::UNIX,
        }
    }
}

/// An entry of [`TrustedProxies::new`]: a text, an `IpAddr`, or an `IpAddr` and the length of a prefix.
///
/// For the networks of another crate, give their parts, such as `(network.addr(), network.prefix_len())` of `ipnet`. This
/// trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an entry of `TrustedProxies`",
    note = "an entry is a string, an `IpAddr`, or a network as `(IpAddr, u8)`"
)]
pub trait TrustedProxy: Read {}

impl<T: Read> TrustedProxy for T {}

/// Cannot be named by others, so that no method of it is public.
pub trait Read {
    fn read(&self) -> Result<Entry, TrustedProxiesError>;
}

#[derive(Debug)]
pub enum Entry {
    Ip(IpNet),
    Unix,
}

impl<T: Read + ?Sized> Read for &T {
    fn read(&self) -> Result<Entry, TrustedProxiesError> {
        T::read(self)
    }
}

impl Read for str {
    fn read(&self) -> Result<Entry, TrustedProxiesError> {
        if self == UNIX {
            return Ok(Entry::Unix);
        }
        if let Ok(address) = self.parse::<IpAddr>() {
            return address.read();
        }
        let network = self.parse().map_err(|_| {
            TrustedProxiesError(format!(
                "{self:?} is not a trusted proxy: write a network such as \"10.0.0.0/8\", an address such as \"::1\", or \
                 \"{UNIX}\" for Unix sockets"
            ))
        })?;
        read_network(network)
    }
}

macro_rules! read_text {
    ($($text:ty)+) => {
        $(impl Read for $text {
            fn read(&self) -> Result<Entry, TrustedProxiesError> {
                str::read(self)
            }
        })+
    };
}

read_text!(String Box<str> Arc<str> Cow<'_, str>);

impl Read for IpAddr {
    fn read(&self) -> Result<Entry, TrustedProxiesError> {
        Ok(Entry::Ip(canonical((*self).into())))
    }
}

impl Read for (IpAddr, u8) {
    fn read(&self) -> Result<Entry, TrustedProxiesError> {
        let &(address, length) = self;
        let network = match address {
            IpAddr::V4(address) => Ipv4Net::new(address, length).map(IpNet::V4),
            IpAddr::V6(address) => Ipv6Net::new(address, length).map(IpNet::V6),
        };
        read_network(network.map_err(|_| {
            TrustedProxiesError(format!(
                "the trusted proxy {address} has no prefix of {length} bits: write at most 32 for IPv4, and 128 for IPv6"
            ))
        })?)
    }
}

fn read_network(network: IpNet) -> Result<Entry, TrustedProxiesError> {
    if network.trunc() != network {
        return Err(TrustedProxiesError(format!(
            "the trusted proxy \"{network}\" has bits that are not part of its network: write \"{}\" for the network, or \
             leave out the slash for one address",
            network.trunc()
        )));
    }
    Ok(Entry::Ip(canonical(network)))
}

/// The IPv4 network if this is a network of mapped addresses.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;

    if let IpNet::V6(v6) = network
        && let Some(length) = v6.prefix_len().checked_sub(MAPPED_BITS)
        && let Some(address) = Ipv6Addr::to_ipv4_mapped(&v6.addr())
        && let Ok(v4) = Ipv4Net::new(address, length)
    {
        return v4.into();
    }
    network
}

/// An entry of [`TrustedProxies`] that is no proxy. The message names it, with the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxiesError(String);

impl fmt::Display for TrustedProxiesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrustedProxiesError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::ClientLabels;

    fn contains(proxies: &TrustedProxies, address: &str) -> bool {
        proxies.contains(address.parse().unwrap())
    }

    #[test]
    fn compares_canonical_addresses() {
        for networks in [
            ["127.0.0.0/8", "10.1.2.3"],
            ["::ffff:127.0.0.0/104", "::ffff:10.1.2.3"],
        ] {
            let proxies = TrustedProxies::new(networks).unwrap();
            for address in ["127.0.0.1", "127.255.255.255", "10.1.2.3"] {
                assert!(contains(&proxies, address));
                assert!(contains(&proxies, &format!("::ffff:{address}")));
            }
            for address in ["128.0.0.1", "10.1.2.4", "::1", "::127.0.0.1", "::ffff:10.1.2.4"] {
                assert!(!contains(&proxies, address), "{address}");
            }
        }
        let all_ipv6 = TrustedProxies::new(["::/0"]).unwrap();
        assert!(contains(&all_ipv6, "2001:db8::7"));
        assert!(!contains(&all_ipv6, "::ffff:192.0.2.7"));
    }

    #[test]
    fn takes_texts_and_parsed_networks() {
        let address: IpAddr = "::ffff:10.1.2.0".parse().unwrap();
        for proxies in [
            TrustedProxies::new(["10.1.2.0"]),
            TrustedProxies::new(&[String::from("10.1.2.0")]),
            TrustedProxies::new([Cow::from("10.1.2.0")]),
            TrustedProxies::new([Box::<str>::from("10.1.2.0")]),
            TrustedProxies::new([Arc::<str>::from("10.1.2.0")]),
            TrustedProxies::new([address]),
            TrustedProxies::new([&address]),
            TrustedProxies::new([(address, 128)]),
            TrustedProxies::new(Some((address.to_canonical(), 32))),
        ] {
            let proxies = proxies.unwrap();
            assert!(contains(&proxies, "10.1.2.0"));
            assert!(!contains(&proxies, "10.1.2.1"));
        }
        let network = TrustedProxies::new([(address, 120)]).unwrap();
        assert!(contains(&network, "10.1.2.255"));
        assert!(!contains(&network, "10.1.3.0"));
        for (length, expected) in [
            (
                129,
                "the trusted proxy ::ffff:10.1.2.0 has no prefix of 129 bits: write at most 32 for IPv4, and 128 for IPv6",
            ),
            (
                104,
                "the trusted proxy \"::ffff:10.1.2.0/104\" has bits that are not part of its network: write \
                 \"::ffff:10.0.0.0/104\" for the network, or leave out the slash for one address",
            ),
        ] {
            assert_eq!(
                TrustedProxies::new([(address, length)]).unwrap_err().to_string(),
                expected
            );
        }
    }

    #[test]
    fn trusts_nobody_by_default() {
        for nobody in [TrustedProxies::default(), TrustedProxies::new([""; 0]).unwrap()] {
            for address in ["127.0.0.1", "::1", "::", "0.0.0.0"] {
                assert!(!contains(&nobody, address));
            }
            assert!(!nobody.trusts(Client::UNIX));
        }
    }

    #[test]
    fn trusts_unix_sockets_only_if_they_are_listed() {
        let unix = TrustedProxies::new([String::from("unix:")]).unwrap();
        assert!(unix.trusts(Client::UNIX));
        // A class cannot be looked up.
        for &class in ClientLabels::EVERY {
            assert!(!unix.trusts(class.into()));
        }
        assert!(!contains(&unix, "127.0.0.1"));
        let ip = TrustedProxies::new(["0.0.0.0/0", "::/0"]).unwrap();
        assert!(!ip.trusts(Client::UNIX));
    }

    #[test]
    fn refuses_a_text_that_is_no_network() {
        let error = |text: &str| TrustedProxies::new([text]).unwrap_err().to_string();
        for text in [
            "",
            "nginx",
            "10.0.0.0/33",
            "::1/129",
            "unix",
            "10.0.0.1 ",
            "[::1]",
            "fe80::1%eth0",
        ] {
            assert!(error(text).starts_with(&format!("{text:?} is not a trusted proxy: ")));
        }
        assert_eq!(
            error("10.0.0.1/8"),
            "the trusted proxy \"10.0.0.1/8\" has bits that are not part of its network: write \"10.0.0.0/8\" for the \
             network, or leave out the slash for one address"
        );
    }
}
