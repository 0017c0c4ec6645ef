use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Result, parse_quote, spanned::Spanned as _};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "`LabelSet` can be derived for a struct only; for an enum, derive `BoundedLabel`",
        ));
    };
    let attributes = data
        .fields
        .iter()
        .flat_map(|field| &field.attrs)
        .chain(&input.attrs);
    if let Some(attribute) = attributes
        .into_iter()
        .find(|attribute| attribute.path().is_ident("label"))
    {
        return Err(Error::new_spanned(
            attribute,
            "`LabelSet` has no attributes: names and values belong to the labels in the fields",
        ));
    }

    let appends = data.fields.members().zip(&data.fields).map(|(member, field)| {
        let ty = &field.ty;
        // At the type, so that an error about a field that is no label points there.
        quote_spanned!(ty.span()=> <#ty as ::dualstack_metrics::LabelSet>::append_to(&self.#member, list);)
    });

    let ident = &input.ident;
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::dualstack_metrics::LabelSet));
    }
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::dualstack_metrics::LabelSet for #ident #ty_generics #where_clause {
            #[inline]
            fn append_to(&self, list: &mut ::dualstack_metrics::LabelList) {
                #(#appends)*
            }
        }
    })
}
