//! One address, as proxies write it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{reason::Rejection, trust::TrustedProxies};
use crate::labels::{ClientLabels, Nat64Prefix};

/// The length of the longest address: 45 characters, brackets, quotes, a port, and an interface name as zone.
pub(super) const MAX_LENGTH: usize = 80;

/// Reads `192.0.2.7`, `192.0.2.7:50000`, `2001:db8::7`, `[2001:db8::7]` and `[2001:db8::7]:50000`, in quotes or not.
/// An IPv6 address may have a zone, `fe80::1%eth0`.
///
/// A node of RFC 7239 that has no address is [`Rejection::Unknown`] or [`Rejection::Obfuscated`].
pub(super) fn parse(text: &[u8], proxies: &TrustedProxies) -> Result<IpAddr, Rejection> {
    let text = text_of(unquoted(text.trim_ascii()))?;
    // The usual form first.
    if let Ok(address) = v4(text) {
        return Ok(address.into());
    }
    if text.is_empty() {
        return Err(Rejection::Missing);
    }
    let name = text.split(':').next().unwrap_or(text);
    if name.eq_ignore_ascii_case("unknown") {
        return Err(Rejection::Unknown);
    }
    if name.starts_with('_') {
        return Err(Rejection::Obfuscated);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(Rejection::Malformed)?;
        check_port(port)?;
        return v6(address).map(IpAddr::V6);
    }
    let (address, port) = text.split_at(text.rfind(':').ok_or(Rejection::Malformed)?);
    let without_port = check_port(port).map(|()| address);
    if address.contains(':') {
        v6_without_brackets(v6(text), without_port.and_then(v6), proxies).map(IpAddr::V6)
    } else {
        v4(without_port?).map(IpAddr::V4)
    }
}

/// Chooses one of the readings of a text such as `2001:db8::7:443`: an address, or an address with a port.
///
/// Many texts have both readings. Then all of the text is the address, because the usual form has no port. If the readings
/// differ in the family of the client, or only one of them is a proxy, neither is taken.
fn v6_without_brackets(
    whole: Result<Ipv6Addr, Rejection>,
    without_port: Result<Ipv6Addr, Rejection>,
    proxies: &TrustedProxies,
) -> Result<Ipv6Addr, Rejection> {
    let (Ok(address), Ok(other)) = (whole, without_port) else {
        return whole.or(without_port);
    };
    let nature = |ip| {
        (
            ClientLabels::from_ip(IpAddr::V6(ip)),
            Nat64Prefix::WELL_KNOWN.contains(ip),
            proxies.contains(IpAddr::V6(ip)),
        )
    };
    if is_ipv4_compatible(other) {
        Ok(address)
    } else if is_ipv4_compatible(address) {
        Ok(other)
    } else if nature(address) == nature(other) {
        Ok(address)
    } else {
        Err(Rejection::Malformed)
    }
}

/// Nobody has such an address (RFC 4291 §2.5.5.1).
fn is_ipv4_compatible(address: Ipv6Addr) -> bool {
    address != Ipv6Addr::LOCALHOST && address.segments()[..6] == [0; 6]
}

/// Reads an address that always has a port, and an IPv6 address without brackets, such as `2001:db8::7:50000`.
pub(super) fn parse_with_port(text: &[u8]) -> Result<IpAddr, Rejection> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(Rejection::Missing);
    }
    let text = text_of(text)?;
    let colon = text.rfind(':').ok_or(Rejection::Malformed)?;
    check_port(&text[colon..])?;
    let address = &text[..colon];
    let in_brackets = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => v6(address).map(IpAddr::V6),
        None => address.parse().map_err(|_| Rejection::Malformed),
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, Rejection> {
    if bytes.len() > MAX_LENGTH {
        return Err(Rejection::Oversized);
    }
    str::from_utf8(bytes).map_err(|_| Rejection::Malformed)
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(text)
}

fn v4(text: &str) -> Result<Ipv4Addr, Rejection> {
    text.parse().map_err(|_| Rejection::Malformed)
}

fn v6(text: &str) -> Result<Ipv6Addr, Rejection> {
    let address = match text.split_once('%') {
        Some((_, "")) => return Err(Rejection::Malformed),
        Some((address, _)) => address,
        None => text,
    };
    address.parse().map_err(|_| Rejection::Malformed)
}

/// Accepts nothing, `:50000`, and the obfuscated port of RFC 7239, such as `:_p1`.
fn check_port(text: &str) -> Result<(), Rejection> {
    match text.strip_prefix(':') {
        Some(port) if port.starts_with('_') => Ok(()),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok() => Ok(()),
        None if text.is_empty() => Ok(()),
        _ => Err(Rejection::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn parse(text: &[u8]) -> Result<IpAddr, Rejection> {
        super::parse(text, &TrustedProxies::default())
    }

    #[test]
    fn reads_the_forms_of_proxies() {
        let v4 = Ok("192.0.2.7".parse().unwrap());
        let v6 = Ok("2001:db8::7".parse().unwrap());
        for (text, expected) in [
            ("192.0.2.7", v4),
            (" 192.0.2.7\t", v4),
            ("192.0.2.7:0", v4),
            ("192.0.2.7:50000", v4),
            ("\"192.0.2.7:50000\"", v4),
            ("192.0.2.7:_gazonk", v4),
            ("2001:db8::7", v6),
            ("2001:DB8:0:0::7", v6),
            ("[2001:db8::7]", v6),
            ("[2001:db8::7]:50000", v6),
            ("\"[2001:db8::7]:50000\"", v6),
            ("\"2001:db8::7\"", v6),
            ("2001:db8::7%eth0", v6),
            ("[2001:db8::7%25eth0]:1", v6),
            ("2001:db8::7%eth0:50000", v6),
            // A port without brackets: too many digits or groups for an address.
            ("2001:db8::7:50000", v6),
            ("2001:db8::7:00443", v6),
            ("2001:db8::7:_gazonk", v6),
            ("2001:db8:0:0:0:0:0:7:443", v6),
            ("::1:2:3:4:5:6:7:8", Ok("::1:2:3:4:5:6:7".parse().unwrap())),
            ("::ffff:192.0.2.7:8080", Ok("::ffff:192.0.2.7".parse().unwrap())),
            // An address, as always without a port.
            ("2001:db8::7:443", Ok("2001:db8::7:443".parse().unwrap())),
            // Not `::ffff:c000` or `::1:443`, because nobody has these.
            ("::ffff:c000:207", Ok("::ffff:192.0.2.7".parse().unwrap())),
            ("::1:443", Ok("::1".parse().unwrap())),
            ("::ffff:192.0.2.7", Ok("::ffff:192.0.2.7".parse().unwrap())),
            ("[::ffff:c000:207]:1", Ok("::ffff:192.0.2.7".parse().unwrap())),
            ("unknown", Err(Rejection::Unknown)),
            ("Unknown:50000", Err(Rejection::Unknown)),
            ("_hidden", Err(Rejection::Obfuscated)),
            ("\"_SEVKISEK:50000\"", Err(Rejection::Obfuscated)),
            ("", Err(Rejection::Missing)),
            (" ", Err(Rejection::Missing)),
            ("\"\"", Err(Rejection::Missing)),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "localhost",
            "192.0.2",
            "192.0.2.07",
            "192.0.2.256",
            "3232235777",
            "0x7f.1",
            "192.0.2.7:",
            "192.0.2.7:65536",
            "192.0.2.7:+1",
            "192.0.2.7:http",
            "192.0.2.7, 192.0.2.8",
            "192.0.2.7 192.0.2.8",
            "192.0.2.7%eth0",
            "[192.0.2.7]",
            "[2001:db8::7",
            "2001:db8::7]",
            "[2001:db8::7]50000",
            "[2001:db8::7]:",
            "[]",
            "2001:db8::7%",
            "2001:db8::7::1",
            ":",
            "2001:db8::7:65536",
            "1:2:3:4:5:6:7:8:9:10",
            // An IPv6 address, or an IPv4 client and a port.
            "::ffff:c000:207:8080",
            "64:ff9b::c000:207:8080",
            "\"192.0.2.7",
            "192.0.2.7\"",
            "'192.0.2.7'",
            "\"\"192.0.2.7\"\"",
            "192.0.2.7\0",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Rejection::Malformed), "{text}");
        }
        assert_eq!(parse(b"192.0.2.7\xff"), Err(Rejection::Malformed));
    }

    /// `2001:db8::1:443` is a client, or a proxy and its port.
    #[test]
    fn a_text_that_may_be_a_proxy_with_a_port_is_refused() {
        for (proxy, text, expected) in [
            ("2001:db8::1", "2001:db8::1:443", Err(Rejection::Malformed)),
            ("2001:db8::1:443", "2001:db8::1:443", Err(Rejection::Malformed)),
            (
                "2001:db8::/64",
                "2001:db8::1:443",
                Ok("2001:db8::1:443".parse().unwrap()),
            ),
            ("::1", "::1:443", Ok("::1".parse().unwrap())),
        ] {
            let proxies = TrustedProxies::new([proxy]).unwrap();
            assert_eq!(
                super::parse(text.as_bytes(), &proxies),
                expected,
                "{proxy} {text}"
            );
        }
    }

    /// Every address that a text can mean: all of it, or the part before a colon if a port follows.
    fn readings(text: &str) -> Vec<Ipv6Addr> {
        let before_port = text.match_indices(':').filter_map(|(at, _)| {
            let port = &text[at + 1..];
            let is_port = port.parse::<u16>().is_ok() && !port.starts_with('+');
            is_port.then_some(&text[..at])
        });
        let texts = [text].into_iter().chain(before_port);
        let read: Vec<Ipv6Addr> = texts.filter_map(|text| text.parse().ok()).collect();
        let is_possible =
            |ip: &&Ipv6Addr| ip.to_ipv4().is_none() || ip.to_ipv4_mapped().is_some() || ip.is_loopback();
        let possible: Vec<_> = read.iter().filter(is_possible).copied().collect();
        if possible.is_empty() { read } else { possible }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// Never the wrong family, and refused only if there is no reading, or two of different families.
        #[test]
        fn a_port_without_brackets_never_changes_the_family(
            groups in vec(select(&["", "0", "1", "64", "ff9b", "ffff", "c000", "207", "8080", "50000", "192.0.2.7"]), 3..11),
        ) {
            let text = groups.join(":");
            let readings = readings(&text);
            let natures = |ip: &Ipv6Addr| (ClientLabels::from_ip((*ip).into()), Nat64Prefix::WELL_KNOWN.contains(*ip));
            let agree = readings.windows(2).all(|pair| natures(&pair[0]) == natures(&pair[1]));
            match parse(text.as_bytes()) {
                Ok(IpAddr::V6(address)) => prop_assert!(agree && readings[0] == address, "{text}: {readings:?}"),
                Ok(IpAddr::V4(address)) => prop_assert!(false, "{text}: {address}"),
                Err(reason) => {
                    prop_assert_eq!(reason, Rejection::Malformed);
                    prop_assert!(readings.is_empty() || !agree, "{}: {:?}", text, readings);
                }
            }
        }
    }

    #[test]
    fn refuses_a_text_that_is_longer_than_any_address() {
        for text in [
            ":".repeat(100_000),
            format!("_{}", "x".repeat(MAX_LENGTH)),
            format!("192.0.2.7{}", " ".repeat(MAX_LENGTH) + "x"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Rejection::Oversized));
            assert_eq!(parse_with_port(text.as_bytes()), Err(Rejection::Oversized));
        }
        let longest = format!(
            "[fe80:1234:1234:1234:1234:1234:192.168.100.100%{}]:65535",
            "x".repeat(26)
        );
        assert_eq!(longest.len(), MAX_LENGTH);
        assert!(parse(longest.as_bytes()).is_ok());
    }

    #[test]
    fn reads_an_address_with_a_port_and_no_brackets() {
        for (text, expected) in [
            ("192.0.2.7:50000", Ok("192.0.2.7".parse().unwrap())),
            ("2001:db8::7:50000", Ok("2001:db8::7".parse().unwrap())),
            ("::1:443", Ok("::1".parse().unwrap())),
            ("[2001:db8::7]:50000", Ok("2001:db8::7".parse().unwrap())),
            ("192.0.2.7", Err(Rejection::Malformed)),
            ("2001:db8::beef", Err(Rejection::Malformed)),
            ("192.0.2.7:50000:1", Err(Rejection::Malformed)),
            ("[192.0.2.7]:50000", Err(Rejection::Malformed)),
            ("", Err(Rejection::Missing)),
        ] {
            assert_eq!(parse_with_port(text.as_bytes()), expected, "{text}");
        }
    }
}
