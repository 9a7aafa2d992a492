//! Size classes: eight per doubling, so that rounding wastes at most one eighth.
//!
//! Sizes up to 128 bytes are exact multiples of a granule; from there each doubling is cut into eight. Larger than
//! [`MAX_SMALL_BYTES`] an object has a span of its own. **Rejected:** Go's hand-made table: it minimises waste for 8 KiB spans
//! and is not a formula; ours must be computed at compile time, from the size of a type, in every binary alike.

use crate::PAGE_BYTES;

/// Largest small object, in bytes.
pub const MAX_SMALL_BYTES: usize = 32 << 10;
/// Number of classes; class numbers are below this.
pub const CLASSES: usize = 80;

/// The class of an object of `bytes` (1 ..= [`MAX_SMALL_BYTES`]).
///
/// ```
/// use shm_layout::size_class::{class_of, class_bytes};
/// assert_eq!(class_bytes(class_of(24)), 24);
/// assert_eq!(class_bytes(class_of(129)), 144);
/// assert_eq!(class_bytes(class_of(32 << 10)), 32 << 10);
/// ```
///
/// # Panics
/// If `bytes` is larger than [`MAX_SMALL_BYTES`].
#[inline]
pub const fn class_of(bytes: usize) -> usize {
    assert!(bytes <= MAX_SMALL_BYTES);
    let bytes = if bytes == 0 { 1 } else { bytes };
    if bytes <= 128 {
        return bytes.div_ceil(8) - 1;
    }
    // 128 < bytes: the doubling d holds (64 << d, 128 << d], cut into eight steps of 8 << d.
    let doubling = (usize::BITS - (bytes - 1).leading_zeros()) as usize - 7;
    let step = (8usize) << doubling;
    let steps = (bytes - (64 << doubling)).div_ceil(step);
    8 + doubling * 8 + steps - 1
}

/// Bytes of an object of `class`.
#[inline]
pub const fn class_bytes(class: usize) -> usize {
    if class < 16 {
        return (class + 1) * 8;
    }
    let doubling = (class - 8) / 8;
    let steps = (class - 8) % 8 + 1;
    (64 << doubling) + steps * (8 << doubling)
}

/// Pages in a span of `class`: enough for eight objects, and for one doubling of a page at least.
pub const fn span_pages(class: usize) -> usize {
    let bytes = class_bytes(class) * 8;
    let pages = bytes.div_ceil(PAGE_BYTES);
    if pages < 2 { 2 } else { pages }
}

/// Objects in a span of `class`.
pub const fn span_objects(class: usize) -> usize {
    span_pages(class) * PAGE_BYTES / class_bytes(class)
}

const _: () = {
    let mut bytes = 1;
    while bytes <= MAX_SMALL_BYTES {
        let class = class_of(bytes);
        assert!(class < CLASSES);
        assert!(class_bytes(class) >= bytes);
        assert!(class == 0 || class_bytes(class - 1) < bytes);
        assert!(class_bytes(class) - bytes <= if bytes <= 128 { 7 } else { bytes / 8 });
        bytes += if bytes < 1024 { 1 } else { 61 };
    }
};
