use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitStr, Result, Variant, ext::IdentExt as _};

use crate::attributes::Attributes;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "`BoundedLabel` can be derived for an enum only; for a struct of labels, derive `LabelSet`",
        ));
    };
    if data.variants.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            "a label needs at least one value: add a variant",
        ));
    }

    let mut errors = Errors::default();
    let Attributes { text, library } = errors
        .keep(Attributes::of(&input.attrs, Some("name"), true))
        .unwrap_or_default();
    let name = errors.keep(match text {
        Some(name) => label_name(name, ""),
        None => label_name(
            snake_case(&input.ident),
            "; give the enum a label name with `#[label(name = \"…\")]`",
        ),
    });

    let values = values_of(&data.variants, &mut errors);
    errors.finish()?;

    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    let variants = data.variants.iter().map(|variant| &variant.ident);
    let indices = 0..values.len();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #library::BoundedLabel for #ident #ty_generics #where_clause {
            const NAME: &'static ::core::primitive::str = #name;
            const VALUES: &'static [&'static ::core::primitive::str] = &[#(#values),*];

            fn index(self) -> ::core::primitive::usize {
                match self {
                    #(Self::#variants => #indices,)*
                }
            }
        }
    })
}

/// The value of each variant.
fn values_of<'a>(variants: impl IntoIterator<Item = &'a Variant>, errors: &mut Errors) -> Vec<LitStr> {
    let mut values: Vec<LitStr> = Vec::new();
    for variant in variants {
        if !matches!(variant.fields, Fields::Unit) {
            errors.push(Error::new_spanned(
                &variant.fields,
                "a variant of a label cannot have data, because each value would be a time series",
            ));
        }
        let given = Attributes::of(&variant.attrs, Some("value"), false)
            .and_then(|attributes| attributes.text.map(label_value).transpose());
        let value = errors
            .keep(given)
            .flatten()
            .unwrap_or_else(|| snake_case(&variant.ident));
        if values.iter().any(|other| other.value() == value.value()) {
            errors.push(Error::new(
                value.span(),
                format!("another variant has the value {:?} already", value.value()),
            ));
        }
        values.push(value);
    }
    values
}

/// `dualstack_metrics::labels` has the same rules for labels that are written by hand.
fn label_name(name: LitStr, advice: &str) -> Result<LitStr> {
    let text = name.value();
    let is_valid = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !text.starts_with("__")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    let problem = if !is_valid {
        "is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, a dot or `__`"
    } else if matches!(&*text, "le" | "quantile") {
        "is the name of a label that Prometheus gives to histograms and summaries: use another"
    } else {
        return Ok(name);
    };
    Err(Error::new(name.span(), format!("{text:?} {problem}{advice}")))
}

fn label_value(value: LitStr) -> Result<LitStr> {
    let text = value.value();
    let problem = if text.is_empty() {
        "a label without a value is no label to Prometheus: give it a value"
    } else if text.contains(|c: char| c.is_control() || c == '\\') {
        "a value cannot have control characters or backslashes, because not every exporter writes them correctly"
    } else {
        return Ok(value);
    };
    Err(Error::new(value.span(), problem))
}

fn snake_case(ident: &Ident) -> LitStr {
    let mut text = String::new();
    for c in ident.unraw().to_string().chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    LitStr::new(&text, ident.span())
}

/// All errors are reported, not only the first.
#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
