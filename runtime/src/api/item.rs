//! What collections have in common: how a typed collection wraps an untyped one.
//!
//! The words of a collection do not depend on what it holds, so each is a struct that derive makes [`Shared`](crate::Shared), with
//! slots for anything, in a transparent shell that adds the type. The shell's key has the item's mixed in: a root that holds a
//! `GcVec<A>` refuses to be read as a `GcVec<B>`.
#![expect(unsafe_code, reason = "declares the target of an untyped slot")]

use super::{Target, Types};
use crate::names;

// SAFETY: `()` stands for an object of any type: it says nothing about its contents, and nothing can be read through it.
unsafe impl Target for () {
    const KEY: u64 = names::hash(b"coheap::Anything");
    fn declare(_types: &mut Types<'_>) {}
}

/// Makes `$shell<T>`, a transparent shell around the shareable `$cell`, shareable itself.
macro_rules! shareable_shell {
    ($shell:ident, $cell:ident) => {
        // SAFETY: 1. A transparent shell around a struct for which derive has shown all of this. 2. One cell for all `T`: they look the
        // same to the allocator and the collector. The key, which guards roots and slots, contains that of `T`.
        unsafe impl<T: $crate::Target> $crate::Shared for $shell<T> {
            const NAME: &'static str = concat!("coheap::", stringify!($shell));
            const FIELDS: &'static [$crate::FieldDesc] = <$cell as $crate::Shared>::FIELDS;
            const REFS: $crate::RefMap = <$cell as $crate::Shared>::REFS;
            const KEY: u64 = $crate::mix_keys($crate::names::hash(Self::NAME.as_bytes()), T::KEY);
            fn cell() -> &'static $crate::TypeCell {
                static CELL: $crate::TypeCell = $crate::TypeCell::new();
                &CELL
            }
            fn targets(types: &mut $crate::Types<'_>) {
                <$cell as $crate::Shared>::targets(types);
                <T as $crate::Target>::declare(types);
            }
        }
    };
}
pub(crate) use shareable_shell;
