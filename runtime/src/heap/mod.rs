//! The heap: spans of equal objects, found by size class and reference map; bits beside them, nothing in them.
//!
//! A reference is a granule count and a mark bit's index at once: bit `r` of the bitmap of the cycle. Two bitmaps alternate: cycle
//! n marks in bitmap n mod 2, and a span of sweep generation n finds its free slots in it: a clear bit, at or after the span's
//! `free_index`, is a free slot. Pages that belong to no span have clear bits in both.

pub(crate) mod cursor;
pub(crate) mod growth;
pub(crate) mod large;
pub(crate) mod marks;
pub(crate) mod oracle;
pub(crate) mod partial;
pub(crate) mod shapes;
pub(crate) mod sweep;
