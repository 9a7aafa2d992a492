//! Span records, one per page; the record of a span is that of its first page.
//!
//! Primary: [`SpanRecord::word`]. Everything else in the record is written by the word's owner before the word says so, except
//! `next` and `listed` (derived: the per-shape list of partial spans, emptied at every sweep generation).

use crate::sync::{AtomicU32, AtomicU64};

/// One page's record. 32 bytes for 8 KiB of heap.
#[repr(C)]
pub struct SpanRecord {
    /// A [`crate::word::SpanWord`].
    pub word: AtomicU64,
    /// Pages in the span (head only); in a `BODY` page: distance to the head.
    pub pages: AtomicU32,
    /// Objects before this index are allocated whatever the bitmap says; from here on the bitmap decides.
    pub free_index: AtomicU32,
    /// Objects in use after the last sweep.
    pub live: AtomicU32,
    /// Next span of the partial list, first page plus one; 0 ends the list.
    pub next: AtomicU32,
    /// Sweep generation plus one of the list this span stands in, 0 for none.
    pub listed: AtomicU32,
    /// Shape of the objects: index in the shape table.
    pub shape: AtomicU32,
}

const _: () = assert!(size_of::<SpanRecord>() == 32);
