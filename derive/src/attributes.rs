use syn::{Attribute, Error, LitStr, Path, Result, parse_quote};

/// The content of the attributes `#[label(…)]` of one item.
pub(crate) struct Attributes {
    /// The label's name, or the value of a variant.
    pub(crate) text: Option<LitStr>,
    /// The path of the library.
    pub(crate) library: Path,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            text: None,
            library: parse_quote!(::dualstack_metrics),
        }
    }
}

impl Attributes {
    /// Reads `#[label(key = "text")]`, and `#[label(crate = path)]` if the item can have it.
    pub(crate) fn of(attributes: &[Attribute], key: Option<&str>, takes_crate: bool) -> Result<Self> {
        let known = match (key, takes_crate) {
            (Some(key), false) => format!("`#[label({key} = \"…\")]`"),
            (Some(key), true) => format!("`#[label({key} = \"…\")]` or `#[label(crate = path)]`"),
            (None, _) => "`#[label(crate = path)]`".to_owned(),
        };
        let (mut text, mut library) = (None, None);
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("label"))
        {
            let mut is_empty = true;
            attribute.parse_nested_meta(|meta| {
                is_empty = false;
                let is_repeated = if key.is_some_and(|key| meta.path.is_ident(key)) {
                    text.replace(meta.value()?.parse::<LitStr>()?).is_some()
                } else if takes_crate && meta.path.is_ident("crate") {
                    library.replace(meta.value()?.parse::<Path>()?).is_some()
                } else {
                    return Err(meta.error(format!("unknown attribute: only {known} is known here")));
                };
                if is_repeated {
                    let key = if meta.path.is_ident("crate") {
                        "crate"
                    } else {
                        key.unwrap_or_default()
                    };
                    return Err(meta.error(format!("`{key}` is given twice")));
                }
                Ok(())
            })?;
            if is_empty {
                return Err(Error::new_spanned(
                    attribute,
                    format!("the attribute is empty: write {known}"),
                ));
            }
        }
        let default = Self::default();
        Ok(Self {
            text,
            library: library.unwrap_or(default.library),
        })
    }
}
