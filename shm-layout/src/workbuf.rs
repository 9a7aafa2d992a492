//! Work buffers: grey references on their way from who found them to who scans them.
//!
//! Primary: the [`crate::word::BufWord`] of each buffer. Derived: the bitmaps that say which buffers may be full or free
//! (repaired by a scan of the words). Contents belong to the word's owner while `OWNED`, to nobody while `FULL`.

use crate::sync::AtomicU32;

/// Bytes of a work buffer, header included: Go's figure.
pub const WORKBUF_BYTES: usize = 2048;
/// References in a work buffer.
pub const WORKBUF_REFS: usize = WORKBUF_BYTES / 4 - 2;

/// A buffer of grey references. Entries below `len` are grey, or were while their owner drains.
#[repr(C)]
pub struct Workbuf {
    /// How many entries are valid. Written by the owner only.
    pub len: AtomicU32,
    /// Keeps the entries 8-byte aligned; always 0.
    pub pad: AtomicU32,
    /// References; an entry inside a large object names an oblet.
    pub refs: [AtomicU32; WORKBUF_REFS],
}

const _: () = assert!(size_of::<Workbuf>() == WORKBUF_BYTES);
