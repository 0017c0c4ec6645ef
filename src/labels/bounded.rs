use super::grammar;

/// A label whose values are known when the program is compiled. Usually an enum.
///
/// A value can only come from [`VALUES`](Self::VALUES), so the number of series is known. A `String`, an `IpAddr` or a
/// `u16` has no fixed set of values and does not compile as a label:
///
/// ```
/// use dualstack_metrics::{BoundedLabel, Scope};
///
/// #[derive(Clone, Copy)]
/// enum RequestKind {
///     Announce,
///     Scrape,
/// }
///
/// impl BoundedLabel for RequestKind {
///     const NAME: &'static str = "request_kind";
///     const VALUES: &'static [&'static str] = &["announce", "scrape"];
///
///     fn index(self) -> usize {
///         self as usize
///     }
/// }
///
/// let scope = Scope::new(&RequestKind::Announce);
/// assert_eq!(scope.pairs(), [("request_kind", "announce")]);
/// # let _ = RequestKind::Scrape;
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&String::from("192.0.2.7"));
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&std::net::IpAddr::from([192, 0, 2, 7]));
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&50_000_u16);
/// ```
///
/// For tenants from a configuration file, use a [`FixedLabel`](super::FixedLabel). For values that clients send, use a
/// [`CappedLabel`](super::CappedLabel).
///
/// # Errors
///
/// Names and values are checked when the program is compiled. `NAME` must be a label name of Prometheus that is free to
/// use. `VALUES` must have at least one value, none twice, none empty, and none with a control character or a backslash.
///
/// ```compile_fail
/// use dualstack_metrics::{BoundedLabel, Scope};
///
/// #[derive(Clone, Copy)]
/// struct Always;
///
/// impl BoundedLabel for Always {
///     const NAME: &'static str = "not-a-name";
///     const VALUES: &'static [&'static str] = &["yes"];
///
///     fn index(self) -> usize {
///         0
///     }
/// }
///
/// let scope = Scope::new(&Always);
/// ```
pub trait BoundedLabel: Copy {
    /// The label's name.
    const NAME: &'static str;

    /// All values that the label can have.
    const VALUES: &'static [&'static str];

    /// The position of this value in [`VALUES`](Self::VALUES).
    ///
    /// A position outside of `VALUES` is a mistake, but it does not panic. The label gets the value `other`, and a warning
    /// with the name of the label is logged once.
    fn index(self) -> usize;
}

/// Checks labels that are written by hand. The derive makes the same checks, at the place of the mistake.
pub(super) const fn check<L: BoundedLabel>() {
    assert!(
        grammar::is_name(L::NAME),
        "`BoundedLabel::NAME` is not a label name: use letters, digits, `_` and `.`, do not begin with a digit, a dot or \
         `__`, and do not use `le` or `quantile`"
    );
    assert!(!L::VALUES.is_empty(), "`BoundedLabel::VALUES` is empty");
    // The compiler limits the work of a constant, so only values whose hash occurs twice are compared with all others.
    let mut hashes = [0_u64; 1024];
    let mut at = 0;
    while at < L::VALUES.len() {
        let value = L::VALUES[at];
        assert!(
            grammar::is_value(value),
            "one of `BoundedLabel::VALUES` is empty, or has a control character or a backslash"
        );
        let hash = grammar::hash(value);
        let (word, bit) = ((hash / 64) as usize % hashes.len(), 1 << (hash % 64));
        let mut other = if hashes[word] & bit == 0 { at } else { 0 };
        while other < at {
            assert!(
                !grammar::is_same(value, L::VALUES[other]),
                "one of `BoundedLabel::VALUES` is there twice"
            );
            other += 1;
        }
        hashes[word] |= bit;
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! sixteen_times {
        ($value:ident $($before:expr)?) => {
            [
                $value!($($before,)? "0"), $value!($($before,)? "1"), $value!($($before,)? "2"), $value!($($before,)? "3"),
                $value!($($before,)? "4"), $value!($($before,)? "5"), $value!($($before,)? "6"), $value!($($before,)? "7"),
                $value!($($before,)? "8"), $value!($($before,)? "9"), $value!($($before,)? "a"), $value!($($before,)? "b"),
                $value!($($before,)? "c"), $value!($($before,)? "d"), $value!($($before,)? "e"), $value!($($before,)? "f"),
            ]
        };
    }

    macro_rules! value {
        ($first:expr, $second:expr) => {
            concat!(
                "a_value_that_begins_like_all_others_and_has_sixty_characters_",
                $first,
                $second,
                "_and_that_ends_like_all_others"
            )
        };
    }

    macro_rules! row {
        ($first:expr) => {
            sixteen_times!(value $first)
        };
    }

    #[derive(Clone, Copy)]
    struct Many;

    impl BoundedLabel for Many {
        const NAME: &'static str = "many";
        const VALUES: &'static [&'static str] = {
            const ROWS: [[&str; 16]; 16] = sixteen_times!(row);
            ROWS.as_flattened()
        };

        fn index(self) -> usize {
            0
        }
    }

    #[test]
    fn many_long_values_are_checked_within_the_limit_of_the_compiler() {
        const { check::<Many>() };
        assert_eq!(Many::VALUES.len(), 256);
    }
}
