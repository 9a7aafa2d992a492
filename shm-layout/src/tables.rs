//! Tables that grow only: shapes, types, task kinds, named roots.
//!
//! An entry is claimed by one compare-exchange of its 64-bit key from zero, and its contents are a function of the key: whoever
//! has the key may write them again. So a death in the middle leaves nothing to repair: the next process that asks for the same
//! key completes the entry.

use crate::sync::{AtomicU32, AtomicU64};

/// Entries of the shape table.
pub const SHAPES: usize = 1024;
/// Entries of the type table.
pub const TYPES: usize = 1024;
/// Entries of the kind table.
pub const KINDS: usize = 256;
/// Entries of the root table.
pub const ROOTS: usize = crate::small(16, 1024);
/// Words in a reference map: one bit per four bytes of the object, so maps reach 4 KiB.
pub const MAP_WORDS: usize = 16;
/// Bytes of a name, zero padded.
pub const NAME_BYTES: usize = 96;
/// Bytes of a type's field description.
pub const FIELDS_BYTES: usize = 760;

/// How to find the references in an object.
pub mod scan {
    /// None.
    pub const NONE: u32 = 0;
    /// By the reference map, from the object's first byte.
    pub const MAP: u32 = 1;
    /// An array: a `u32` count, four bytes, then elements of `stride` bytes that the map describes.
    pub const ARRAY: u32 = 2;
    /// A weak reference, which is not followed: the object is one [`WeakWord`](crate::word::WeakWord), looked at in each cycle.
    pub const WEAK: u32 = 3;
}

/// A shape: size class and reference map of all objects in a span.
#[repr(C, align(64))]
pub struct ShapeRecord {
    /// Hash of the contents; 0 free.
    pub key: AtomicU64,
    /// 1 once the contents are complete.
    pub ready: AtomicU32,
    /// Size class; `u32::MAX` for objects with a span of their own.
    pub class: AtomicU32,
    /// One of [`scan`].
    pub scan: AtomicU32,
    /// Bytes of an array element.
    pub stride: AtomicU32,
    /// Bytes of an object (its class's), 0 for large ones.
    pub bytes: AtomicU32,
    /// Reserved.
    pub pad: AtomicU32,
    /// A [`crate::word::ListHead`]: spans with free slots. Derived.
    pub partial: AtomicU64,
    /// Bit i: the four bytes at 4 i hold a reference.
    pub map: [AtomicU64; MAP_WORDS],
}

/// A type or a task kind, by name.
#[repr(C, align(64))]
pub struct TypeRecord {
    /// Hash of the name; 0 free.
    pub key: AtomicU64,
    /// Hash of the fields' names, offsets and types; 0 not yet known.
    pub layout: AtomicU64,
    /// 1 once name and fields are complete.
    pub ready: AtomicU32,
    /// Bytes of the type.
    pub bytes: AtomicU32,
    /// UTF-8, zero padded.
    pub name: [AtomicU64; NAME_BYTES / 8],
    /// `name:type@offset` per field, `;` between, zero padded: lets a mismatch name the first field that differs.
    pub fields: [AtomicU64; FIELDS_BYTES / 8],
}

/// A named root.
#[repr(C, align(64))]
pub struct RootRecord {
    /// Hash of the name; 0 free.
    pub key: AtomicU64,
    /// A [`crate::word::RootWord`]. Primary.
    pub value: AtomicU64,
    /// Key of the type it holds; 0 not yet known.
    pub type_key: AtomicU64,
    /// 1 once the name is complete.
    pub ready: AtomicU32,
    /// Reserved.
    pub pad: AtomicU32,
    /// UTF-8, zero padded.
    pub name: [AtomicU64; NAME_BYTES / 8],
}

const _: () = {
    assert!(size_of::<ShapeRecord>() == 192);
    assert!(size_of::<TypeRecord>() == 896);
    assert!(size_of::<RootRecord>() == 128);
};
