//! The names and values that a label can have.

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
        let is_c1 = bytes[at] == 0xc2 && bytes[at + 1] < 0xa0;
        if bytes[at].is_ascii_control() || bytes[at] == b'\\' || is_c1 {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty()
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
