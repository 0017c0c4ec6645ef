//! Labels for tests that need many scopes.

use dualstack_metrics::{BoundedLabel, Scope};

/// A digit, with the name of its place.
#[derive(Clone, Copy, Debug)]
pub struct Digit<const PLACE: usize>(pub usize);

impl<const PLACE: usize> BoundedLabel for Digit<PLACE> {
    const NAME: &'static str = ["ones", "tens", "hundreds", "thousands"][PLACE];
    const VALUES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

    fn index(self) -> usize {
        self.0
    }
}

/// The scope of a number below 1,000.
pub fn numbered(number: usize) -> Scope {
    Scope::new(&(
        Digit::<0>(number % 10),
        Digit::<1>(number / 10 % 10),
        Digit::<2>(number / 100),
    ))
}
