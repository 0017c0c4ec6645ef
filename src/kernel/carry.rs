//! Counters that only ever rise, of files whose numbers may start again from zero.

use std::collections::HashMap;

use metrics::{Key, Label, Level, Metadata};

use super::{Error, Problem, help, names, reading::Reading};

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// What was read of one file so far, in all its lives.
#[derive(Debug, Default)]
pub(super) struct Carried {
    index: Option<u64>,
    counters: HashMap<String, Total>,
}

#[derive(Debug)]
struct Total {
    key: Key,
    /// What it had in former lives.
    before: u64,
    last: u64,
}

impl Carried {
    /// Finds a file that was cut off between two lines: a kernel does not lose a counter.
    pub(super) fn check(&self, reading: &Reading) -> Result<(), Error> {
        let is_there = |name: &str| reading.counters.iter().any(|(other, _)| other == name);
        // Those by type are shown from the first message on, and start again with the interface.
        let mut lost = self
            .counters
            .iter()
            .filter(|(name, total)| total.key.labels().all(|label| label.key() != "type") && !is_there(name));
        match lost.next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                &reading.path,
                Problem::Whole(format!("{name} was there before, and is not any more")),
            )),
        }
    }

    /// Sets the counters of the recorder.
    pub(super) fn set(&mut self, reading: Reading, interface: Option<&str>) {
        let is_new_life = self.is_new_life(&reading);
        if is_new_life {
            for total in self.counters.values_mut() {
                total.begin_again();
            }
        }
        self.index = reading.index;
        metrics::with_recorder(|recorder| {
            for (name, value) in reading.counters {
                let total = self.counters.entry(name).or_insert_with_key(|name| {
                    let total = Total::new(name, interface);
                    recorder.describe_counter(
                        total.key.name().to_owned().into(),
                        None,
                        help::text(name, interface.is_some()).into(),
                    );
                    total
                });
                if value < total.last {
                    total.begin_again();
                }
                total.last = value;
                let counter = recorder.register_counter(&total.key, &METADATA);
                counter.absolute(total.before.saturating_add(value));
            }
        });
    }

    /// Another interface under the same name, or the same with IPv6 switched off and on: all its counters began again.
    /// Those of `Ip6` have 64 bits on every machine; another that falls alone has wrapped at 32.
    fn is_new_life(&self, reading: &Reading) -> bool {
        let has_fallen = |name: &str, value| self.counters.get(name).is_some_and(|total| value < total.last);
        self.index != reading.index
            || reading
                .counters
                .iter()
                .any(|(name, value)| name.starts_with("Ip6") && has_fallen(name, *value))
    }
}

impl Total {
    fn new(kernel: &str, interface: Option<&str>) -> Self {
        let (name, number) = names::metric(kernel).unwrap_or_default();
        let mut labels = Vec::new();
        labels.extend(interface.map(|interface| Label::new("interface", interface.to_owned())));
        labels.extend(number.map(|number| Label::new("type", number.to_owned())));
        let name = match interface {
            Some(_) => format!("interface_{name}"),
            None => name,
        };
        Self {
            key: Key::from_parts(name, labels),
            before: 0,
            last: 0,
        }
    }

    fn begin_again(&mut self) {
        self.before = self.before.saturating_add(self.last);
        self.last = 0;
    }
}
