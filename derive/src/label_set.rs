use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Result, parse_quote, spanned::Spanned as _};

use crate::attributes::Attributes;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "`LabelSet` can be derived for a struct only; for an enum, derive `BoundedLabel`",
        ));
    };
    for field in &data.fields {
        if let Some(attribute) = field
            .attrs
            .iter()
            .find(|attribute| attribute.path().is_ident("label"))
        {
            return Err(Error::new_spanned(
                attribute,
                "a field of a `LabelSet` has no attributes: names and values belong to its label",
            ));
        }
    }
    let Attributes { library, .. } = Attributes::of(&input.attrs, None, true)?;
    let appends = data.fields.members().zip(&data.fields).map(|(member, field)| {
        let ty = &field.ty;
        // At the type, so that an error about a field that is no label points there.
        quote_spanned!(ty.span()=> <#ty as #library::LabelSet>::append_to(&self.#member, list);)
    });

    let ident = &input.ident;
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#library::LabelSet));
    }
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #library::LabelSet for #ident #ty_generics #where_clause {
            #[inline]
            fn append_to(&self, list: &mut #library::LabelList) {
                #(#appends)*
            }
        }
    })
}
