//! The header `Forwarded` (RFC 7239).

use std::{borrow::Cow, net::IpAddr};

use super::{node, reason::Rejection, trust::TrustedProxies};

/// Reads the parameter `for` of one element, such as `for="[2001:db8::7]:50000";proto=https`.
pub(super) fn node_of(element: &[u8], proxies: &TrustedProxies) -> Result<IpAddr, Rejection> {
    let mut rest = element;
    let mut node = None;
    while !rest.is_empty() {
        let Parameter { name, value, next } = parameter(rest)?;
        if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return Err(Rejection::Contradictory);
        }
        rest = next;
    }
    node::parse(&node.ok_or(Rejection::Missing)?, proxies)
}

/// A parameter, its value without quotes, and the parameters behind its semicolon.
struct Parameter<'a> {
    name: &'a [u8],
    value: Cow<'a, [u8]>,
    next: &'a [u8],
}

fn parameter(text: &[u8]) -> Result<Parameter<'_>, Rejection> {
    let equals = text
        .iter()
        .position(|&byte| byte == b'=')
        .ok_or(Rejection::Malformed)?;
    let name = text[..equals].trim_ascii();
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(Rejection::Malformed);
    }
    let after = text[equals + 1..].trim_ascii_start();
    let (value, rest) = if let Some(quoted) = after.strip_prefix(b"\"") {
        unquote(quoted)?
    } else {
        let end = after.iter().position(|&byte| byte == b';').unwrap_or(after.len());
        let (value, rest) = after.split_at(end);
        if value.contains(&b'"') {
            return Err(Rejection::Malformed);
        }
        (value.into(), rest)
    };
    let next = match rest.trim_ascii_start().split_first() {
        None => b"",
        Some((b';', next)) => next.trim_ascii_start(),
        Some(_) => return Err(Rejection::Malformed),
    };
    Ok(Parameter { name, value, next })
}

/// Splits behind the closing quote (RFC 9110 §5.6.4).
fn unquote(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Rejection> {
    let end = text
        .iter()
        .position(|&byte| matches!(byte, b'"' | b'\\'))
        .ok_or(Rejection::Malformed)?;
    if text[end] == b'"' {
        return Ok((text[..end].into(), &text[end + 1..]));
    }
    let mut value = text[..end].to_vec();
    let mut bytes = text[end..].iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return Ok((value.into(), bytes.as_slice())),
            b'\\' => value.push(*bytes.next().ok_or(Rejection::Malformed)?),
            _ => value.push(byte),
        }
    }
    Err(Rejection::Malformed)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_of(element: &[u8]) -> Result<IpAddr, Rejection> {
        super::node_of(element, &TrustedProxies::default())
    }

    #[test]
    fn reads_the_examples_of_the_rfc_and_the_forms_of_proxies() {
        let v4 = Ok("192.0.2.43".parse().unwrap());
        let v6 = Ok("2001:db8:cafe::17".parse().unwrap());
        for (element, expected) in [
            ("for=192.0.2.43", v4),
            ("For=\"[2001:db8:cafe::17]:4711\"", v6),
            ("for=192.0.2.43;proto=http;by=203.0.113.43", v4),
            ("proto=http; by=203.0.113.43 ; for=192.0.2.43", v4),
            ("for = 192.0.2.43", v4),
            ("for=\"192.0.2.43:4711\";", v4),
            ("for=\"\\[2001:db8:cafe::17\\]\"", v6),
            ("host=\"a;for=192.0.2.1\";for=192.0.2.43", v4),
            ("host=\"a\\\";for=192.0.2.1\";for=192.0.2.43", v4),
            // Not allowed without quotes, but seen.
            ("for=[2001:db8:cafe::17]:4711;proto=http", v6),
            ("for=2001:db8:cafe::17", v6),
            ("for=192.0.2.43:4711", v4),
            ("for=unknown", Err(Rejection::Unknown)),
            ("for=\"_gazonk\"", Err(Rejection::Obfuscated)),
            ("for=_SEVKISEK;proto=http", Err(Rejection::Obfuscated)),
            ("proto=https", Err(Rejection::Missing)),
            ("for=\"\"", Err(Rejection::Missing)),
            ("for=", Err(Rejection::Missing)),
            ("for=192.0.2.43;For=192.0.2.43", Err(Rejection::Contradictory)),
        ] {
            assert_eq!(node_of(element.as_bytes()), expected, "{element}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for element in [
            "192.0.2.43",
            "for",
            "=192.0.2.43",
            ";for=192.0.2.43",
            "for=192.0.2.43;;proto=http",
            "for=192.0.2.43 proto=http",
            "for=\"192.0.2.43",
            "for=\"192.0.2.43\\",
            "for=\"192.0.2.43\\\"",
            "for=192.0.2.43\"",
            "for=\"192.0.2.43\"x",
            "for=\"192.0.2.43\";x",
            "f or=192.0.2.43",
            "for=for=192.0.2.43",
            "for=localhost",
            "x=\";for=192.0.2.43",
        ] {
            assert_eq!(
                node_of(element.as_bytes()),
                Err(Rejection::Malformed),
                "{element}"
            );
        }
    }
}
