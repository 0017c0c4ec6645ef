//! One address, as proxies write it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reason::Rejection;

/// The length of the longest address: 45 characters, brackets, quotes, a port, and an interface name as zone.
pub(super) const MAX_LENGTH: usize = 80;

/// Reads `192.0.2.7`, `192.0.2.7:50000`, `2001:db8::7`, `[2001:db8::7]` and `[2001:db8::7]:50000`, in quotes or not.
/// An IPv6 address may have a zone, `fe80::1%eth0`.
///
/// A node of RFC 7239 that has no address is [`Rejection::Unknown`] or [`Rejection::Obfuscated`].
pub(super) fn parse(text: &[u8]) -> Result<IpAddr, Rejection> {
    let text = text_of(unquoted(text.trim_ascii()))?;
    // The usual form first.
    if let Ok(address) = text.parse() {
        return Ok(address);
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
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(Rejection::Malformed)?;
        check_port(port)?;
        IpAddr::V6(v6(address)?)
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => IpAddr::V6(v6(text)?),
            Some((address, _)) => {
                check_port(&text[address.len()..])?;
                IpAddr::V4(v4(address)?)
            }
            None => IpAddr::V4(v4(text)?),
        }
    };
    Ok(address)
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
    use super::*;

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
            "::1:2:3:4:5:6:7:8",
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
