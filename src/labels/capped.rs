use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use once_cell::race::OnceBox;

use super::{
    error::MAX_VALUES,
    grammar,
    list::{Alternatives, Part},
    names::OTHER,
    text::{LabelText, Overflow, OverflowReason},
    value::{LabelValue, Values},
};

/// A label whose values come from outside the program, such as a header of the request. It keeps the first few values,
/// and every later value becomes `other`.
///
/// Declare it as a `static`. [`value`](Self::value) takes no lock and allocates nothing for a value that it knows, and
/// for one that it cannot keep.
///
/// ```
/// use dualstack_metrics::{CappedLabel, Scope};
///
/// static REFERER: CappedLabel = CappedLabel::new("referer", 2);
///
/// for (header, referer) in [("a.example", "a.example"), ("b.example", "b.example"), ("c.example", "other")] {
///     assert_eq!(Scope::new(&REFERER.value(header)).pairs(), [("referer", referer)]);
/// }
/// // It knows the first two still.
/// assert_eq!(REFERER.value("a.example").as_str(), "a.example");
/// ```
///
/// # Values that become `other`
///
/// - A value that comes when the label is full.
/// - A value that is empty, or `None`. To see it as a value of its own, pass `header.unwrap_or("none")`.
/// - A value that is longer than [`max_len`](Self::max_len).
/// - A value that is not UTF-8, or has a control character or a backslash.
/// - An IP address, with or without a port: the address of a client must not become a label.
///
/// Each is counted in [`label_values_overflowed_total`](super::LABEL_VALUES_OVERFLOWED_TOTAL) with its reason, and the
/// first time that the label is full is logged as a warning.
///
/// # Choosing a cap
///
/// A counter has a series for each value, times the other labels of its scope: a cap of 20 with three classes of clients
/// makes up to 63. [`max_label_sets`](super::max_label_sets) tells. Clients choose which values are the first. To give
/// places to values that you know, call [`value`](Self::value) with each before the first client comes. If those are all
/// that count, list them in a [`FixedLabel`](super::FixedLabel).
///
/// # Queries for one value
///
/// The sum over all values is right, because `other` is one of them. A value that has a place is counted completely in
/// this process. But in another process, or after a restart, other values can be the first, and the rest is in `other`. So a query for *one* value can be too low. Do not alert on the value of a capped label, and read its values as
/// examples while the counter with the reason `full` grows.
pub struct CappedLabel {
    name: &'static str,
    cap: usize,
    max_len: usize,
    table: OnceBox<Table>,
    overflow: Overflow,
}

/// The values, found by their hashes. A value that is there stays.
struct Table {
    hasher: RandomState,
    slots: Box<[OnceLock<Box<str>>]>,
    len: AtomicUsize,
    inserting: Mutex<()>,
}

impl CappedLabel {
    /// A label that keeps the first `cap` values.
    ///
    /// # Panics
    ///
    /// If `name` is not a label name of Prometheus, or `cap` is not from 1 to 4,095. In a `static`, this is an error of
    /// the compiler:
    ///
    /// ```compile_fail
    /// # use dualstack_metrics::CappedLabel;
    /// static REFERER: CappedLabel = CappedLabel::new("not-a-name", 20);
    /// ```
    #[must_use]
    pub const fn new(name: &'static str, cap: usize) -> Self {
        assert!(
            grammar::is_name(name),
            "not a label name: use letters, digits, `_` and `.`, do not begin with a digit, a dot or `__`, and do not use \
             `le` or `quantile`"
        );
        assert!(
            cap > 0 && cap <= MAX_VALUES,
            "the cap of a label is from 1 to 4,095"
        );
        Self {
            name,
            cap,
            max_len: 128,
            table: OnceBox::new(),
            overflow: Overflow::new(),
        }
    }

    /// The length of the longest value that is kept, in bytes. The default is 128.
    #[must_use]
    pub const fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// The label's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The value of the label for a text, which is `other` if the text cannot be kept.
    pub fn value(&'static self, text: impl LabelText) -> LabelValue {
        match self.find_or_insert(text.label_text().unwrap_or_default()) {
            Ok(value) => self.with_value(value),
            Err(reason) => {
                self.overflow.count(self.name, reason);
                self.other()
            }
        }
    }

    /// The value `other`. It is not counted as an overflow.
    #[must_use]
    pub const fn other(&'static self) -> LabelValue {
        self.with_value(OTHER)
    }

    /// The values that the label has until now, in no particular order, and `other` at the end.
    pub fn values(&'static self) -> impl Iterator<Item = LabelValue> {
        self.all().map(|value| self.with_value(value))
    }

    const fn with_value(&'static self, value: &'static str) -> LabelValue {
        LabelValue {
            name: self.name,
            value,
            label: self,
        }
    }

    fn all(&'static self) -> impl Iterator<Item = &'static str> {
        let slots = self.table.get().map_or(&[][..], |table| &table.slots);
        slots
            .iter()
            .filter_map(|slot| slot.get().map(|value| &**value))
            .chain([OTHER])
    }

    fn find_or_insert(&'static self, text: &[u8]) -> Result<&'static str, OverflowReason> {
        if text.is_empty() {
            return Err(OverflowReason::Empty);
        }
        if text.len() > self.max_len {
            return Err(OverflowReason::TooLong);
        }
        if text == OTHER.as_bytes() {
            return Ok(OTHER);
        }
        let table = self
            .table
            .get_or_init(|| Box::new(Table::with_room_for(self.cap)));
        let hash = table.hasher.hash_one(text);
        if let Some(value) = table.find(hash, text) {
            return Ok(value);
        }
        let text = str::from_utf8(text).map_err(|_| OverflowReason::Invalid)?;
        if !grammar::is_value(text) {
            return Err(OverflowReason::Invalid);
        }
        if grammar::is_address(text) {
            return Err(OverflowReason::Address);
        }
        table.insert(hash, text, self.cap)
    }
}

impl Table {
    fn with_room_for(values: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            // At most half full, so that a search is short.
            slots: (0..(2 * values).next_power_of_two())
                .map(|_| OnceLock::new())
                .collect(),
            len: AtomicUsize::new(0),
            inserting: Mutex::new(()),
        }
    }

    /// The slots where a value can be, up to the first empty one.
    fn slots(&self, hash: u64) -> impl Iterator<Item = &OnceLock<Box<str>>> {
        // Their number is a power of two.
        let at = usize::try_from(hash & (self.slots.len() as u64 - 1)).unwrap_or(0);
        let (end, start) = self.slots.split_at(at);
        start.iter().chain(end)
    }

    #[inline]
    fn find(&self, hash: u64, text: &[u8]) -> Option<&str> {
        self.slots(hash)
            .map_while(OnceLock::get)
            .find(|value| value.as_bytes() == text)
            .map(|value| &**value)
    }

    #[cold]
    fn insert(&self, hash: u64, text: &str, cap: usize) -> Result<&str, OverflowReason> {
        if self.len.load(Ordering::Relaxed) == cap {
            return Err(OverflowReason::Full);
        }
        let mut value = Box::<str>::from(text);
        let inserting = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.len.load(Ordering::Relaxed);
        if len < cap && self.find(hash, text.as_bytes()).is_none() {
            for slot in self.slots(hash) {
                match slot.set(value) {
                    Ok(()) => break,
                    Err(back) => value = back,
                }
            }
            self.len.store(len + 1, Ordering::Relaxed);
        }
        drop(inserting);
        self.find(hash, text.as_bytes()).ok_or(OverflowReason::Full)
    }
}

impl fmt::Debug for CappedLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CappedLabel")
            .field("name", &self.name)
            .field("cap", &self.cap)
            .finish_non_exhaustive()
    }
}

impl Values for CappedLabel {
    fn alternatives(&'static self) -> Alternatives {
        let known: Vec<_> = self.all().map(|value| Part::Pair(self.name, value)).collect();
        Alternatives {
            later: (self.cap + 1).saturating_sub(known.len()),
            known,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, thread};

    use test_support::eventually;

    use super::*;

    static_assertions::assert_impl_all!(CappedLabel: Send, Sync);

    #[test]
    fn the_first_values_are_kept() {
        static LABEL: CappedLabel = CappedLabel::new("label", 3);

        for round in 0..2 {
            for (text, value) in [
                ("a", "a"),
                ("", "other"),
                ("b", "b"),
                ("other", "other"),
                ("c", "c"),
                ("d", "other"),
            ] {
                assert_eq!(LABEL.value(text).as_str(), value, "{text:?} in round {round}");
            }
        }
        let values: BTreeSet<_> = LABEL.values().map(LabelValue::as_str).collect();
        assert_eq!(values, ["a", "b", "c", "other"].into());
    }

    #[test]
    fn what_cannot_be_a_value_takes_no_place() {
        static LABEL: CappedLabel = CappedLabel::new("label", 2).max_len(4);

        let long = [b'x'; 5];
        for text in [
            &b""[..],
            &long,
            b"\xff",
            b"a\\b",
            b"a\n",
            b"\0",
            "\u{85}".as_bytes(),
            b"::1",
        ] {
            assert_eq!(LABEL.value(text), LABEL.other(), "{text:?}");
        }
        assert_eq!(LABEL.value(None::<&str>), LABEL.other());
        assert_eq!(LABEL.value(&long[..4]).as_str(), "xxxx");
        assert_eq!(LABEL.value("x::").as_str(), "x::");
    }

    #[test]
    fn a_value_that_is_known_or_comes_too_late_waits_for_no_lock() {
        static LABEL: CappedLabel = CappedLabel::new("label", 1);

        _ = LABEL.value("a");
        let _inserting = LABEL.table.get().unwrap().inserting.lock().unwrap();
        let look_up = thread::spawn(|| ["a", "b"].map(|text| LABEL.value(text).as_str()));
        eventually("both are looked up", || look_up.is_finished());
        assert_eq!(look_up.join().unwrap(), ["a", "other"]);
    }

    #[test]
    fn threads_that_bring_the_same_values_agree_on_the_first() {
        static LABEL: CappedLabel = CappedLabel::new("label", 50);

        let texts: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        let of_thread = |thread: usize| -> BTreeSet<&'static str> {
            let texts = texts.iter().cycle().skip(thread * 25).take(texts.len());
            texts.map(|text| LABEL.value(text).as_str()).collect()
        };
        let seen: BTreeSet<_> = thread::scope(|threads| {
            let work: Vec<_> = (0..8)
                .map(|thread| threads.spawn(move || of_thread(thread)))
                .collect();
            work.into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(seen.len(), 51);
        assert_eq!(
            LABEL.values().map(LabelValue::as_str).collect::<BTreeSet<_>>(),
            seen
        );
        for text in &texts {
            let value = LABEL.value(text).as_str();
            assert_eq!(value, if seen.contains(&**text) { &**text } else { "other" });
        }
    }
}
