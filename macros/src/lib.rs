//! `#[derive(Shared)]` for coheap: a crate of its own because a procedural macro must be one.

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, LitStr, spanned::Spanned};

/// Makes a struct shareable: every field is plain data, an atomic, a `Slot`, or an array or shareable struct of those.
///
/// The type's name in the segment is the struct's; `#[shared(name = "...")]` gives another. The struct becomes an array element
/// and a field of other shared structs too. Not for enums, unions and generic types: their layout is not the same everywhere.
#[proc_macro_derive(Shared, attributes(shared))]
pub fn derive_shared(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new(
            input.span(),
            "only structs can be Shared: an enum's tag could be any byte in another process",
        ));
    };
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new(
            input.generics.span(),
            "a generic struct cannot be Shared: write one struct per type it is used with",
        ));
    }
    let ident = &input.ident;
    let name = shared_name(input)?;
    let fields: Vec<_> = match &data.fields {
        Fields::Named(f) => f.named.iter().collect(),
        Fields::Unnamed(f) => f.unnamed.iter().collect(),
        Fields::Unit => Vec::new(),
    };
    let members: Vec<syn::Member> = data.fields.members().collect();
    let types: Vec<_> = fields.iter().map(|f| &f.ty).collect();
    let names: Vec<String> = members.iter().map(member_name).collect();
    let checks = types
        .iter()
        .map(|ty| quote_spanned! { ty.span() => let _ = field::<#ty>; });
    Ok(quote! {
        const _: () = {
            const REFS: ::coheap::RefMap = ::coheap::RefMap::NONE
                #( .with(::core::mem::offset_of!(#ident, #members), <#types as ::coheap::Field>::REFS) )*;
            // SAFETY: every field is a `Field` (checked below), which promises that zero bytes are valid and nothing is to drop;
            // `REFS` is the union of the fields' maps at their offsets; alignment is checked where the type is allocated.
            #[allow(unsafe_code)]
            unsafe impl ::coheap::Shared for #ident {
                const NAME: &'static str = #name;
                const FIELDS: &'static [::coheap::FieldDesc] = &[
                    #( ::coheap::FieldDesc {
                        name: #names,
                        type_name: <#types as ::coheap::Field>::TYPE_NAME,
                        offset: ::core::mem::offset_of!(#ident, #members),
                        key: <#types as ::coheap::Field>::KEY,
                    } ),*
                ];
                const REFS: ::coheap::RefMap = REFS;
                #[inline]
                fn cell() -> &'static ::coheap::TypeCell {
                    static CELL: ::coheap::TypeCell = ::coheap::TypeCell::new();
                    &CELL
                }
                fn targets(types: &mut ::coheap::Types<'_>) {
                    #( <#types as ::coheap::Field>::targets(types); )*
                }
            }
            // SAFETY: as above; a shareable struct may be a field of another.
            #[allow(unsafe_code)]
            unsafe impl ::coheap::Field for #ident {
                const TYPE_NAME: &'static str = #name;
                const REFS: ::coheap::RefMap = REFS;
                const KEY: u64 = <#ident as ::coheap::Shared>::KEY;
                fn targets(types: &mut ::coheap::Types<'_>) {
                    <#ident as ::coheap::Shared>::targets(types);
                }
            }
            #[allow(dead_code)]
            fn all_fields_are_shareable() {
                fn field<F: ::coheap::Field>() {}
                #( #checks )*
            }
        };
    })
}

fn shared_name(input: &DeriveInput) -> syn::Result<String> {
    let mut name = input.ident.to_string();
    for attr in input.attrs.iter().filter(|a| a.path().is_ident("shared")) {
        attr.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("the only option is name = \"...\""));
            }
            name = meta.value()?.parse::<LitStr>()?.value();
            Ok(())
        })?;
    }
    if name.is_empty() || name.len() > 90 {
        return Err(syn::Error::new(
            input.ident.span(),
            "a shared type's name must have 1 to 90 bytes",
        ));
    }
    Ok(name)
}

fn member_name(member: &syn::Member) -> String {
    match member {
        syn::Member::Named(ident) => ident.to_string(),
        syn::Member::Unnamed(index) => index.index.to_string(),
    }
}
