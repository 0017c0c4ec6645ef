//! One file, as it was at one moment.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{Error, Problem, names};

/// The counters of one file.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) path: PathBuf,
    /// The kernel's number of the interface, in the file of one.
    pub(super) index: Option<u64>,
    /// With the kernel's names.
    pub(super) counters: Vec<(String, u64)>,
}

impl Reading {
    /// Lines of a name and a number. Those of another protocol are passed over.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let whole = |what: &str| Error::new(path, Problem::Whole(what.into()));
        if text.is_empty() {
            return Err(whole("the file is empty"));
        }
        if !text.ends_with('\n') {
            return Err(whole("the last line is cut off"));
        }

        let mut reading = Self {
            path: path.into(),
            index: None,
            counters: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (at, line) in text.lines().enumerate() {
            let fail = |what: String| Error::new(path, Problem::Line { number: at + 1, what });
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(value), None) = (words.next(), words.next(), words.next()) else {
                return Err(fail(format!("not a name and a number: {line:?}")));
            };
            if !name.starts_with(|first: char| first.is_ascii_alphabetic())
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                return Err(fail(format!("not a counter's name: {name:?}")));
            }
            if !value.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(fail(format!("not a number: {value:?}")));
            }
            let value = value
                .parse()
                .map_err(|error| fail(format!("{value} of {name}: {error}")))?;
            if name == "ifIndex" {
                reading.index = Some(value);
            } else if let Some(metric) = names::metric(name) {
                if !seen.insert(metric) {
                    return Err(fail(format!("{name} is there twice")));
                }
                reading.counters.push((name.into(), value));
            }
        }
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reading, String> {
        Reading::parse(Path::new("snmp6"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn counters_are_read_and_other_protocols_passed_over() {
        let reading = parse(
            "ifIndex                         \t7\n\
             Ip6InReceives                   \t18446744073709551615\n\
             Tcp6Something                   \t1\n\
             Udp6Unheard_Of\t3\n",
        )
        .unwrap();
        assert_eq!(reading.index, Some(7));
        let expected = [
            ("Ip6InReceives".to_owned(), u64::MAX),
            ("Udp6Unheard_Of".to_owned(), 3),
        ];
        assert_eq!(reading.counters, expected);
    }

    #[test]
    fn what_the_kernel_does_not_write_is_an_error() {
        for (text, error) in [
            ("", "snmp6: the file is empty"),
            ("Ip6InReceives 1", "snmp6: the last line is cut off"),
            (
                "Ip6InReceives 1\nIp6InDeliv\n",
                "snmp6, line 2: not a name and a number: \"Ip6InDeliv\"",
            ),
            ("\n", "snmp6, line 1: not a name and a number: \"\""),
            (
                "Ip6InReceives 1 2\n",
                "snmp6, line 1: not a name and a number: \"Ip6InReceives 1 2\"",
            ),
            ("Ip6InReceives -1\n", "snmp6, line 1: not a number: \"-1\""),
            ("Ip6InReceives +1\n", "snmp6, line 1: not a number: \"+1\""),
            (
                "Ip6InReceives 18446744073709551616\n",
                "snmp6, line 1: 18446744073709551616 of Ip6InReceives: number too large to fit in target type",
            ),
            (
                "Ip6\u{fc} 1\n",
                "snmp6, line 1: not a counter's name: \"Ip6\u{fc}\"",
            ),
            ("6 1\n", "snmp6, line 1: not a counter's name: \"6\""),
            (
                "Ip6InReceives 1\nIp6InReceives 1\n",
                "snmp6, line 2: Ip6InReceives is there twice",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
        }
    }
}
