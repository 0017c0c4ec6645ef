//! The names and values that a label can have.

use std::net::{IpAddr, Ipv4Addr};

use super::error::LabelError;

/// Whether `name` is a label name of Prometheus that is free to use.
///
/// The exporter writes a dot as an underscore. Prometheus keeps names that begin with two underscores to itself, and
/// gives `le` and `quantile` to histograms and summaries.
pub(crate) const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes[0] == b'.' || bytes[0].is_ascii_digit() {
        return false;
    }
    if bytes.len() > 1 && bytes[0] == b'_' && bytes[1] == b'_' {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_alphanumeric() && bytes[at] != b'_' && bytes[at] != b'.' {
            return false;
        }
        at += 1;
    }
    !is_same(name, "le") && !is_same(name, "quantile")
}

/// Whether an exporter writes `value` as it is. The Prometheus exporter writes some different values with backslashes
/// in the same way, so that two series become one.
pub(crate) const fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // U+0080 to U+009F are control characters too.
        if bytes[at] < b' '
            || bytes[at] == b'\\'
            || bytes[at] == 0x7f
            || (bytes[at] == 0xc2 && bytes[at + 1] < 0xa0)
        {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty()
}

/// Whether `text` is an IP address or a socket address, also in brackets or with a zone.
pub(super) fn is_address(text: &str) -> bool {
    let is_ip = |text: &str| {
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        address.parse::<IpAddr>().is_ok()
    };
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match (bracketed, text.rsplit_once(':')) {
        (Some((address, port)), _) => {
            is_ip(address) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        }
        (None, Some((address, port))) if is_port(port) && address.parse::<Ipv4Addr>().is_ok() => true,
        _ => is_ip(text),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// The characters of a label name as the Prometheus exporter writes them. `client.address` and `client_address` are
/// the same name.
pub(crate) fn written(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |_| false)
}

/// A metric name as the Prometheus exporter writes it: unlike a label's, it may contain colons.
pub(crate) fn written_metric(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |c| c == ':')
}

fn written_with(name: &str, also_valid: fn(char) -> bool) -> impl Iterator<Item = char> {
    name.chars().enumerate().map(move |(at, c)| match c {
        'a'..='z' | 'A'..='Z' | '_' => c,
        '0'..='9' if at > 0 => c,
        c if also_valid(c) => c,
        _ => '_',
    })
}

/// A hash of a text, in a constant.
pub(super) const fn hash(text: &str) -> u64 {
    const MANY_ONES: u64 = 0x9e37_79b9_7f4a_7c15;

    let (mut rest, mut hash) = (text.as_bytes(), 0_u64);
    while let Some((first, others)) = rest.split_first_chunk() {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*first)).wrapping_mul(MANY_ONES);
        rest = others;
    }
    while let Some((first, others)) = rest.split_first() {
        hash = (hash.rotate_left(5) ^ *first as u64).wrapping_mul(MANY_ONES);
        rest = others;
    }
    hash >> 32
}

/// Whether two texts are equal, in a constant.
pub(super) const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Checks a label whose name or value comes from outside the program's code.
pub(crate) fn check(name: &str, value: &str) -> Result<(), LabelError> {
    if !is_name(name) {
        return Err(LabelError::InvalidName(name.to_owned()));
    }
    if !is_value(value) {
        return Err(LabelError::InvalidValue {
            label: name.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prometheus_and_free() {
        for name in ["a", "_a9", "url.scheme", "A_b", "_", "lee"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "", "9a", ".a", "a b", "a-b", "ä", "__", "__name__", "a\"", "a\n", "le", "quantile",
        ] {
            assert!(!is_name(name), "{name}");
            let error = check(name, "x").unwrap_err();
            assert_eq!(error, LabelError::InvalidName(name.into()));
            assert!(error.to_string().starts_with(&format!("{name:?} is ")), "{error}");
        }
    }

    #[test]
    fn values_are_written_unchanged() {
        for (value, is_valid) in [
            ("a", true),
            ("an \"ä\" {b}=#c: d", true),
            ("::", true),
            ("", false),
            ("a\\b", false),
            ("a\nb", false),
            ("\u{7f}", false),
            ("\u{80}", false),
            ("\u{a0}", true),
        ] {
            assert_eq!(is_value(value), is_valid, "{value:?}");
            assert_eq!(
                is_valid,
                !value.is_empty() && !value.contains(|c: char| c.is_control() || c == '\\')
            );
        }
    }

    #[test]
    fn addresses_are_recognized_in_each_notation() {
        for text in [
            "192.0.2.7",
            "192.0.2.7:80",
            "::1",
            "2001:db8::7",
            "::ffff:192.0.2.7",
            "fe80::1%eth0",
            "[2001:db8::7]",
            "[2001:db8::7]:443",
            "[fe80::1%3]:443",
            "[192.0.2.7]:80",
        ] {
            assert!(is_address(text), "{text}");
        }
        for text in [
            "",
            ":",
            "a",
            "192.0.2",
            "192.0.2.7:",
            "192.0.2.7:http",
            "192.0.2.7:65536",
            "192.0.2.7/24",
            "localhost:80",
            "[acme]",
            "[]:80",
            "[::1]80",
            "udp://192.0.2.7:80",
            "10",
            "1.2.3",
            "ab:cd",
        ] {
            assert!(!is_address(text), "{text}");
        }
    }

    #[test]
    fn errors_name_the_culprit() {
        let error = |value: &str| check("tenant", value).unwrap_err().to_string();
        assert_eq!(
            error(""),
            r#"the label "tenant" cannot have the value "": an empty value is no label to Prometheus"#
        );
        assert_eq!(
            error("a\tb"),
            r#"the label "tenant" cannot have the value "a\tb": a value has no control characters and no backslashes"#
        );
    }

    #[test]
    fn names_are_written_as_the_exporter_writes_them() {
        let written = |name| written(name).collect::<String>();
        assert_eq!(written("a.b:c-d9"), "a_b_c_d9");
        assert_eq!(written("9a"), "_a");
        assert_eq!(written("øl"), "_l");
        assert_eq!(written_metric("9a.b:c-d9").collect::<String>(), "_a_b:c_d9");
    }
}
