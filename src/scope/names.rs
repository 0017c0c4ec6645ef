//! Label names that Prometheus takes for one name.

use std::sync::{Mutex, PoisonError};

use crate::labels::written;

/// The names of labels in this process, each spelling once.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes the names of labels. Logs a warning if a name is written like another one that was noted, once for each spelling.
pub(crate) fn note_names<'a>(names: impl IntoIterator<Item = &'a str>) {
    for name in names {
        if let Some(other) = note(name) {
            tracing::warn!(
                "the label names {other:?} and {name:?} are one name to Prometheus: it refuses each scrape that has \
                 both in one series, and takes series that differ only in the spelling for one, so spell the name alike \
                 everywhere, also in global labels"
            );
        }
    }
}

/// Returns the other spelling of a name that is new.
fn note(name: &str) -> Option<String> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if names.iter().any(|other| other == name) {
        return None;
    }
    let alike = names
        .iter()
        .find(|other| written(other).eq(written(name)))
        .cloned();
    names.push(name.to_owned());
    alike
}
