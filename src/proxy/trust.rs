use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

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
    /// An entry is a network, such as `10.0.0.0/8` or `2001:db8::/32`, or an address, or `unix:` for every peer on a Unix
    /// socket. List the addresses from which your proxies connect, and no network with clients in it: a client in a
    /// trusted network can choose its labels.
    ///
    /// ```
    /// use dualstack_metrics::TrustedProxies;
    ///
    /// let proxies = TrustedProxies::new(["10.0.0.0/8", "::1", "unix:"])?;
    /// assert!(proxies.contains("::ffff:10.1.2.3".parse()?));
    /// assert!(!proxies.contains("192.0.2.7".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If an entry is none of these, or has bits set that are not part of the network, such as `10.0.0.1/8`.
    pub fn new<I>(networks: I) -> Result<Self, TrustedProxiesError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut unix = false;
        let mut ip = Vec::new();
        for network in networks {
            match network.as_ref() {
                UNIX => unix = true,
                text => ip.push(parse(text)?),
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

fn parse(text: &str) -> Result<IpNet, TrustedProxiesError> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            TrustedProxiesError(format!(
                "{text:?} is not a trusted proxy: write a network such as \"10.0.0.0/8\", an address such as \"::1\", or \
                 \"{UNIX}\" for Unix sockets"
            ))
        })?,
    };
    if network.trunc() != network {
        return Err(TrustedProxiesError(format!(
            "the trusted proxy {text:?} has bits that are not part of its network: write \"{}\" for the network, or leave \
             out the slash for one address",
            network.trunc()
        )));
    }
    Ok(canonical(network))
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
