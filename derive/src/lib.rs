//! The derive macros of `dualstack-metrics`, which re-exports them with its feature `derive`. Use them from there.

mod bounded_label;
mod label_set;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `BoundedLabel` for an enum. Each variant is one value of the label.
///
/// ```ignore
/// #[derive(Clone, Copy, BoundedLabel)]
/// #[label(name = "plan")]
/// enum Plan {
///     Free,
///     #[label(value = "pay-as-you-go")]
///     PayAsYouGo,
/// }
/// ```
///
/// The name of the label is the name of the enum in snake case, unless `#[label(name = "…")]` gives another. The value
/// of a variant is its name in snake case, unless `#[label(value = "…")]` gives another. Snake case puts a `_` before
/// each capital letter but the first: `PayAsYouGo` is `pay_as_you_go`.
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
/// ```ignore
/// #[derive(Clone, Copy, LabelSet)]
/// struct Who {
///     plan: Plan,
///     region: Region,
/// }
/// ```
///
/// # Errors
///
/// The type must be a struct, each field must be a label set, and no two fields can have a label of the same name. For
/// a generic struct, the names are compared when it is used. The names of a `FixedLabel` and of a `CappedLabel` are not
/// known when the program is compiled; if two are the same, the label of the later field is used.
#[proc_macro_derive(LabelSet, attributes(label))]
pub fn label_set(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    label_set::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
