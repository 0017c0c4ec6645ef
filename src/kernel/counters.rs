//! The counters of one file: its numbers now, and totals that never fall.

use std::collections::BTreeMap;

use metrics::{Key, Label, Level, Metadata};

use super::{error::Problem, help, names};

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The counters of one file. The numbers in it start from zero when an interface comes back.
#[derive(Debug, Default)]
pub(super) struct Counters {
    interface: Option<String>,
    /// The kernel's number of the interface.
    index: Option<u64>,
    /// `ifIndex` in the file, until it is set.
    read_index: Option<u64>,
    /// By the kernel's names.
    totals: BTreeMap<String, Total>,
}

#[derive(Debug)]
struct Total {
    key: Key,
    /// Taken when the metric is described, at the first `set`.
    help: Option<String>,
    /// The number in the file, until it is set.
    read: Option<u64>,
    last: u64,
    /// The sum of the last numbers of all earlier lives of the interface.
    before: u64,
}

impl Counters {
    pub(super) fn of_interface(name: &str) -> Self {
        Self {
            interface: Some(name.into()),
            ..Self::default()
        }
    }

    /// Reads the text of the file. Counters of other protocols are skipped.
    pub(super) fn read(&mut self, text: &str) -> Result<(), Problem> {
        if text.is_empty() {
            return Err(Problem::Whole("the file is empty".into()));
        }
        if !text.ends_with('\n') {
            return Err(Problem::Whole("the last line is incomplete".into()));
        }
        self.read_index = None;
        for total in self.totals.values_mut() {
            total.read = None;
        }
        for (at, line) in text.lines().enumerate() {
            self.read_line(line).map_err(|message| Problem::Line {
                number: at + 1,
                message,
            })?;
        }
        // The kernel never drops a counter while it runs: without this one the file is cut off between two lines. Only
        // a counter by type appears with its first message, and again after the interface came back.
        let missing = self.totals.iter().find(|(_, total)| {
            total.read.is_none() && total.was_set() && total.key.labels().all(|label| label.key() != "type")
        });
        match missing {
            None => Ok(()),
            Some((name, _)) => Err(Problem::Whole(format!(
                "{name} is missing, although an earlier update had it"
            ))),
        }
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
        let (name, value) = parse(line)?;
        if name == "ifIndex" {
            self.read_index = Some(value);
            return Ok(());
        }
        if !self.totals.contains_key(name) {
            let Some(total) = Total::new(name, self.interface.as_deref()) else {
                return Ok(());
            };
            // Two names of the kernel must not become one series.
            if self.totals.values().any(|other| other.key == total.key) {
                return Err(format!("{name} appears twice"));
            }
            self.totals.insert(name.into(), total);
        }
        match self
            .totals
            .get_mut(name)
            .and_then(|total| total.read.replace(value))
        {
            None => Ok(()),
            Some(_) => Err(format!("{name} appears twice")),
        }
    }

    /// Sets the counters of the recorder.
    pub(super) fn set(&mut self) {
        let is_new_life = self.is_new_life();
        self.index = self.read_index;
        metrics::with_recorder(|recorder| {
            for total in self.totals.values_mut() {
                if is_new_life {
                    total.begin_again();
                }
                let Some(value) = total.read else { continue };
                if value < total.last {
                    total.begin_again();
                }
                total.last = value;
                if let Some(help) = total.help.take() {
                    recorder.describe_counter(total.key.name().to_owned().into(), None, help.into());
                }
                let counter = recorder.register_counter(&total.key, &METADATA);
                counter.absolute(total.before.saturating_add(value));
            }
        });
    }

    /// Another interface has the name, or IPv6 was switched off and on: all counters started again. `Ip6` counters
    /// have 64 bits on every machine. Any other that falls alone has wrapped at 32.
    fn is_new_life(&self) -> bool {
        let has_fallen = |total: &Total| total.read.is_some_and(|value| value < total.last);
        self.index != self.read_index
            || self
                .totals
                .iter()
                .any(|(name, total)| name.starts_with("Ip6") && has_fallen(total))
    }
}

impl Total {
    /// `None` for a counter of another protocol.
    fn new(kernel: &str, interface: Option<&str>) -> Option<Self> {
        let (name, number) = names::metric(kernel)?;
        let help = help::text(kernel, number, interface.is_some());
        let number = number.map(|number| Label::new("type", number.to_owned()));
        let key = match interface {
            None => Key::from_parts(name, Vec::from_iter(number)),
            Some(interface) => {
                let mut labels = vec![Label::new("interface", interface.to_owned())];
                labels.extend(number);
                Key::from_parts(format!("interface_{name}"), labels)
            }
        };
        Some(Self {
            key,
            help: Some(help),
            read: None,
            last: 0,
            before: 0,
        })
    }

    fn was_set(&self) -> bool {
        self.help.is_none()
    }

    fn begin_again(&mut self) {
        self.before = self.before.saturating_add(self.last);
        self.last = 0;
    }
}

/// The name and the value in a line.
fn parse(line: &str) -> Result<(&str, u64), String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(value), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!("expected a name and a number, found {line:?}"));
    };
    if !name.starts_with(|first: char| first.is_ascii_alphabetic())
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Err(format!("expected the name of a counter, found {name:?}"));
    }
    // `u64::from_str` takes a plus sign.
    if !value.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("expected a number, found {value:?}"));
    }
    match value.parse() {
        Ok(number) => Ok((name, number)),
        Err(error) => Err(format!("{value} of {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_other_protocols_skipped() {
        let mut counters = Counters::default();
        counters
            .read(
                "ifIndex                         \t7\n\
                 Ip6InReceives                   \t18446744073709551615\n\
                 Tcp6Something                   \t1\n\
                 Udp6Unheard_Of\t3\n",
            )
            .unwrap();
        assert_eq!(counters.read_index, Some(7));
        let read: Vec<_> = counters
            .totals
            .iter()
            .map(|(name, total)| (&**name, total.read))
            .collect();
        assert_eq!(
            read,
            [("Ip6InReceives", Some(u64::MAX)), ("Udp6Unheard_Of", Some(3))]
        );
    }

    #[test]
    fn a_text_that_the_kernel_does_not_write_is_an_error() {
        for (text, error) in [
            ("", "snmp6: the file is empty"),
            ("Ip6InReceives 1", "snmp6: the last line is incomplete"),
            (
                "Ip6InReceives 1\nIp6InDeliv\n",
                "snmp6, line 2: expected a name and a number, found \"Ip6InDeliv\"",
            ),
            ("\n", "snmp6, line 1: expected a name and a number, found \"\""),
            (
                "Ip6InReceives 1 2\n",
                "snmp6, line 1: expected a name and a number, found \"Ip6InReceives 1 2\"",
            ),
            (
                "Ip6InReceives -1\n",
                "snmp6, line 1: expected a number, found \"-1\"",
            ),
            (
                "Ip6InReceives +1\n",
                "snmp6, line 1: expected a number, found \"+1\"",
            ),
            (
                "Ip6InReceives 18446744073709551616\n",
                "snmp6, line 1: 18446744073709551616 of Ip6InReceives: number too large to fit in target type",
            ),
            (
                "Ip6\u{fc} 1\n",
                "snmp6, line 1: expected the name of a counter, found \"Ip6\u{fc}\"",
            ),
            (
                "6 1\n",
                "snmp6, line 1: expected the name of a counter, found \"6\"",
            ),
            (
                "Ip6InReceives 1\nIp6InReceives 1\n",
                "snmp6, line 2: Ip6InReceives appears twice",
            ),
            // Both would be ip6_in_receives_total.
            (
                "Ip6InReceives 1\nIp6In_receives 1\n",
                "snmp6, line 2: Ip6In_receives appears twice",
            ),
        ] {
            let problem = Counters::default().read(text).unwrap_err();
            assert_eq!(problem.at("snmp6".as_ref()).to_string(), error, "{text:?}");
        }
    }
}
