//! What collections have in common: what they may hold, and how a typed collection wraps an untyped one.
//!
//! The words of a collection do not depend on what it holds, so each is a struct that derive makes [`Shared`](crate::Shared), in a
//! transparent shell that adds the type. The shell's name in the segment contains the item's: a root that holds a `GcVec<A>`
//! refuses to be read as a `GcVec<B>`.

use super::{GcStr, Shared};

mod sealed {
    pub trait Sealed {}
    impl<T: super::Shared> Sealed for T {}
    impl Sealed for super::GcStr {}
}

/// What a collection may refer to: every [`Shared`] type, and [`GcStr`]. A list that is closed: the name must stand for the type.
///
/// ```
/// use coheap::*;
/// assert_eq!(<GcVec<GcMap<GcStr>>>::NAME, "coheap::GcVec<coheap::GcMap<GcStr>>");
/// ```
pub trait Item: sealed::Sealed + 'static {
    /// The name that all programs use for it.
    const ITEM_NAME: &'static str;
}

impl<T: Shared> Item for T {
    const ITEM_NAME: &'static str = T::NAME;
}

impl Item for GcStr {
    const ITEM_NAME: &'static str = "GcStr";
}

/// Longest name of a collection.
const NAME_BYTES: usize = 256;

/// A name under construction: bytes, and how many.
pub(crate) struct Name([u8; NAME_BYTES], usize);

impl Name {
    /// `shell<item>`.
    pub const fn of(shell: &str, item: &str) -> Name {
        Name([0; NAME_BYTES], 0)
            .with(shell)
            .with("<")
            .with(item)
            .with(">")
    }

    const fn with(mut self, text: &str) -> Name {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            assert!(
                self.1 < NAME_BYTES,
                "the name of this collection is too long"
            );
            self.0[self.1] = bytes[i];
            self.1 += 1;
            i += 1;
        }
        self
    }

    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.0.split_at(self.1).0) {
            Ok(name) => name,
            Err(_) => panic!("made of whole strings"),
        }
    }
}

/// Makes `$shell<T>`, a transparent shell around the shareable `$cell`, shareable itself.
macro_rules! shareable_shell {
    ($shell:ident, $cell:ident) => {
        impl<T: $crate::api::item::Item> $shell<T> {
            const NAME_OF: $crate::api::item::Name =
                $crate::api::item::Name::of(concat!("coheap::", stringify!($shell)), T::ITEM_NAME);
        }

        // SAFETY: 1. A transparent shell around a struct for which derive has shown all of this. 2. One cell for all `T`: they look the
        // same to the allocator and the collector. The name, which guards roots, contains the name of `T`.
        unsafe impl<T: $crate::api::item::Item> $crate::Shared for $shell<T> {
            const NAME: &'static str = Self::NAME_OF.as_str();
            const FIELDS: &'static [$crate::FieldDesc] = <$cell as $crate::Shared>::FIELDS;
            const REFS: $crate::RefMap = <$cell as $crate::Shared>::REFS;
            fn cell() -> &'static $crate::TypeCell {
                static CELL: $crate::TypeCell = $crate::TypeCell::new();
                &CELL
            }
        }
    };
}
pub(crate) use shareable_shell;
