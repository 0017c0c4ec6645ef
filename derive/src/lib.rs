//! The derives of the bounded labels of `dualstack-metrics`, which exports them with its feature `derive`. Use them from
//! there.
//!
//! ```
//! use dualstack_metrics::{BoundedLabel, LabelSet, Scope};
//!
//! #[derive(Clone, Copy, BoundedLabel)]
//! enum Region {
//!     Eu,
//!     Us,
//! }
//!
//! #[derive(Clone, Copy, BoundedLabel)]
//! #[label(name = "plan")]
//! enum Tariff {
//!     Free,
//!     #[label(value = "pay-as-you-go")]
//!     PayAsYouGo,
//! }
//!
//! #[derive(Clone, Copy, LabelSet)]
//! struct Who {
//!     region: Region,
//!     tariff: Tariff,
//! }
//!
//! let scope = Scope::new(&Who { region: Region::Us, tariff: Tariff::PayAsYouGo });
//! assert_eq!(scope.pairs(), [("plan", "pay-as-you-go"), ("region", "us")]);
//! # let _ = (Region::Eu, Tariff::Free);
//! ```

mod attributes;
mod bounded_label;
mod label_set;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `BoundedLabel` for an enum. Each variant is one value of the label.
///
/// ```
/// use dualstack_metrics::BoundedLabel;
///
/// #[derive(Clone, Copy, BoundedLabel)]
/// #[label(name = "plan")]
/// enum Plan {
///     Free,
///     #[label(value = "pay-as-you-go")]
///     PayAsYouGo,
/// }
///
/// assert_eq!(Plan::NAME, "plan");
/// assert_eq!(Plan::VALUES, ["free", "pay-as-you-go"]);
/// # let _ = (Plan::Free, Plan::PayAsYouGo);
/// ```
///
/// The name of the label is the name of the enum in snake case, unless `#[label(name = "…")]` gives another. The value
/// of a variant is its name in snake case, unless `#[label(value = "…")]` gives another. Snake case puts a `_` before
/// each capital letter but the first: `PayAsYouGo` is `pay_as_you_go`.
///
/// If the library has another name in your program, as with `metrics_labels = { package = "dualstack-metrics", … }`, add
/// `#[label(crate = metrics_labels)]`.
///
/// # Errors
///
/// The type must be an enum with at least one variant and no data. A name must be a label name of Prometheus, and no
/// two variants can have the same value. Each error points to the variant or attribute that it is about.
#[proc_macro_derive(BoundedLabel, attributes(label))]
pub fn bounded_label(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    bounded_label::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Derives `LabelSet` for a struct whose fields are label sets. It has the labels of all of them.
///
/// ```
/// use dualstack_metrics::{ClientLabels, FixedLabel, LabelSet, Scope, labels::LabelValue};
///
/// #[derive(Clone, Copy, LabelSet)]
/// struct Who {
///     client: ClientLabels,
///     tenant: LabelValue,
/// }
///
/// let tenants = FixedLabel::new("tenant", ["acme"])?;
/// let scope = Scope::new(&Who { client: ClientLabels::UNKNOWN, tenant: tenants.value("acme") });
/// assert_eq!(scope.value_of("tenant"), Some("acme"));
/// # Ok::<(), dualstack_metrics::labels::LabelError>(())
/// ```
///
/// # Errors
///
/// The type must be a struct, and each field must be a label set. If two fields have a label of the same name, the label
/// of the later field is used. If the library has another name in your program, add `#[label(crate = …)]`, as for
/// [`BoundedLabel`](macro@BoundedLabel).
#[proc_macro_derive(LabelSet, attributes(label))]
pub fn label_set(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    label_set::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
