use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Member, Result, parse_quote, spanned::Spanned as _};

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

    let fields: Vec<_> = data
        .fields
        .members()
        .zip(&data.fields)
        .map(|(member, field)| (member, &field.ty))
        .collect();
    let (members, types): (Vec<_>, Vec<_>) = fields.iter().cloned().unzip();
    // At the type, so that an error about a field that is no label points there.
    let names: Vec<_> = types
        .iter()
        .map(|ty| quote_spanned!(ty.span()=> <#ty as ::dualstack_metrics::LabelSet>::NAMES))
        .collect();
    let appends = fields.iter().map(|(member, ty)| {
        quote_spanned!(ty.span()=> <#ty as ::dualstack_metrics::LabelSet>::append_to(&self.#member, list);)
    });
    let checks: Vec<_> = (0..fields.len())
        .flat_map(|later| (0..later).map(move |earlier| (earlier, later)))
        .map(|(earlier, later)| {
            let message = format!(
                "fields `{}` and `{}` have a label of the same name",
                shown(&members[earlier]),
                shown(&members[later])
            );
            let (first, second) = (&names[earlier], &names[later]);
            quote_spanned! {types[later].span()=>
                ::core::assert!(!#first.share_a_name(&#second), #message);
            }
        })
        .collect();

    let ident = &input.ident;
    let mut generics = input.generics.clone();
    let is_generic = !generics.params.is_empty();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::dualstack_metrics::LabelSet));
    }
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    // What is generic is checked when its type is known.
    let (check_here, check_when_used) = if is_generic {
        (None, Some(quote!(const { #(#checks)* })))
    } else {
        (Some(quote!(const _: () = { #(#checks)* };)), None)
    };
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::dualstack_metrics::LabelSet for #ident #ty_generics #where_clause {
            const NAMES: ::dualstack_metrics::labels::LabelNames =
                ::dualstack_metrics::labels::LabelNames::All(&[#(#names),*]);

            fn append_to(&self, list: &mut ::dualstack_metrics::LabelList) {
                #check_when_used
                #(#appends)*
            }
        }

        #check_here
    })
}

fn shown(member: &Member) -> String {
    match member {
        Member::Named(name) => name.to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
