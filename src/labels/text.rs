//! Text that becomes the value of a label, or `other`.

use std::borrow::Cow;

use metrics::counter;

use crate::once::WarnOnce;

/// The counter of values that were written as `other`.
///
/// It has the labels `label`, which is the name of the label, and `reason`:
///
/// | `reason` | the value |
/// |---|---|
/// | `empty` | is empty, or there is none |
/// | `too_long` | is longer than the label allows |
/// | `address` | is an IP address, with or without a port |
/// | `invalid` | is not UTF-8, or has a control character or a backslash |
/// | `unknown` | is not one of the values of a [`FixedLabel`](super::FixedLabel) |
/// | `full` | came when a [`CappedLabel`](super::CappedLabel) had no place left |
///
/// It also has the labels of the scope in force, as every counter. It is a counter of the [`metrics`] crate only, and does
/// not reach OpenTelemetry.
pub const LABEL_VALUES_OVERFLOWED_TOTAL: &str = "label_values_overflowed_total";

/// Text that can become the value of a label: a string, bytes, the value of an HTTP header, or an `Option` of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the text of a label's value",
    note = "give a string, bytes, a `HeaderValue`, or an `Option` of one"
)]
pub trait LabelText {
    /// The bytes of the text, or `None` if there is no text.
    fn label_text(&self) -> Option<&[u8]>;
}

macro_rules! impl_label_text {
    ($($text:ty)+) => {$(
        impl LabelText for $text {
            fn label_text(&self) -> Option<&[u8]> {
                Some(self.as_ref() as &[u8])
            }
        }
    )+};
}

impl_label_text!(str [u8] String Vec<u8> bytes::Bytes);

impl LabelText for Box<str> {
    fn label_text(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }
}

impl LabelText for Cow<'_, str> {
    fn label_text(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }
}

impl<T: LabelText + ?Sized> LabelText for &T {
    fn label_text(&self) -> Option<&[u8]> {
        (*self).label_text()
    }
}

impl<T: LabelText> LabelText for Option<T> {
    fn label_text(&self) -> Option<&[u8]> {
        self.as_ref().and_then(T::label_text)
    }
}

/// Why a value is written as `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverflowReason {
    Empty,
    TooLong,
    Address,
    Invalid,
    Unknown,
    Full,
}

impl OverflowReason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Address => "address",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Full => "full",
        }
    }
}

/// Counts the values of one label that are written as `other`.
#[derive(Debug)]
pub(super) struct Overflow {
    has_warned: WarnOnce,
}

impl Overflow {
    pub(super) const fn new() -> Self {
        Self {
            has_warned: WarnOnce::new(),
        }
    }

    #[cold]
    pub(super) fn count(&self, label: &'static str, reason: OverflowReason) {
        counter!(LABEL_VALUES_OVERFLOWED_TOTAL, "label" => label, "reason" => reason.as_str()).increment(1);
        // A full label stays full, which needs somebody's attention. The other values are the clients' business.
        if reason == OverflowReason::Full && self.has_warned.first() {
            tracing::warn!(
                label,
                "the label has no place left for further values, so they are written as `other`: a query for one value \
                 can miss some of it. Raise the cap, or label with something that has fewer values"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_programs_have() {
        let header = http::HeaderValue::from_static("x");
        let some: [&dyn LabelText; 11] = [
            &"x",
            &&"x",
            &String::from("x"),
            &b"x".as_slice(),
            &vec![b'x'],
            &Cow::Borrowed("x"),
            &bytes::Bytes::from_static(b"x"),
            &Box::<str>::from("x"),
            &Some("x"),
            &header,
            &Some(&header),
        ];
        for text in some {
            assert_eq!(text.label_text(), Some(&b"x"[..]));
        }
        assert_eq!(None::<&str>.label_text(), None);
        assert_eq!(Some(None::<&str>).label_text(), None);
    }
}
