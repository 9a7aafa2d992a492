//! Scanning one object: where its shape says that references are (Go's scanobject).
//!
//! 1. One word of map covers a small object. 2. A larger one has a map of more words; an array one for each element. 3. Objects of more than [`OBLET_BYTES`]
//! are scanned in oblets: the first pushes the others, grey references into the object's inside. The object is marked before, its parts never are:
//! the sweeper would count them as objects. `gc_drain` scans the objects of one shape after the other by itself, without coming here.
//!
//! **If the scanner dies** object and oblets stand in its record or in a buffer, and are scanned again.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::{
    GRANULE_BYTES, PAGE_BYTES, PAGE_GRANULES, Ref,
    tables::{ShapeRecord, scan},
};

use super::{Drain, Small};
use crate::gc::weak;

/// Bytes of a large object scanned at once: Go's maxObletBytes.
const OBLET_BYTES: usize = 128 << 10;

impl Drain<'_> {
    /// Scans the object or oblet `r`.
    pub(super) fn scan(&mut self, r: Ref) {
        let page = self.proc.seg.page_of(r);
        let number = u32::from(self.page_shapes[page].load(Relaxed));
        let shape = &self.shapes[number as usize];
        let bytes = shape.bytes.load(Relaxed);
        // One word of map covers most small objects. (Large ones have no bytes in their shape.)
        if (1..=256).contains(&bytes) && shape.scan.load(Relaxed) == scan::MAP {
            let map = shape.map[0].load(Relaxed);
            self.last = Small::new(number, bytes, map);
            self.scanned += u64::from(bytes);
            self.scan_word(self.object(r), map);
            return;
        }
        self.scan_large_or_array(r, page, shape, bytes);
    }

    /// Scans what is not said by one word of map.
    fn scan_large_or_array(&mut self, r: Ref, page: usize, shape: &ShapeRecord, bytes: u32) {
        if bytes == 0 {
            self.scanned += self.scan_large(r, page, shape);
            return;
        }
        self.scanned += u64::from(bytes);
        let at = self.proc.seg.object(r);
        match shape.scan.load(Relaxed) {
            scan::NONE => {}
            scan::MAP => self.scan_map(at, shape, bytes as usize),
            scan::WEAK => weak::look_again(&self.proc.seg, r),
            _ => self.scan_elements(at, shape),
        }
    }

    fn scan_map(&mut self, at: *mut u8, shape: &ShapeRecord, bytes: usize) {
        let words = bytes.div_ceil(256).min(shm_layout::tables::MAP_WORDS);
        for (w, map) in shape.map[..words].iter().enumerate() {
            self.scan_word(at.wrapping_add(w * 256), map.load(Relaxed));
        }
    }

    /// Visits the references that `map` (one bit per four bytes) shows from `at`, last first.
    #[inline(always)]
    fn scan_word(&mut self, at: *mut u8, mut map: u64) {
        while let Some(i) = map.checked_ilog2() {
            map &= !(1 << i);
            let child = self.reference(at, i as usize);
            if child != 0 {
                self.found(child);
            }
        }
    }

    /// The `i`th four bytes from `at`, where the shape says "reference".
    #[inline(always)]
    pub(super) fn reference(&self, at: *mut u8, i: usize) -> Ref {
        // Acquire: pairs with the Release store of the reference: the object it names is initialised.
        self.proc.field(at.wrapping_add(i * 4)).load(Acquire)
    }

    fn scan_elements(&mut self, at: *mut u8, shape: &ShapeRecord) {
        let count = self.proc.field(at).load(Acquire) as usize;
        self.scan_range(at, shape, 0, count);
    }

    fn scan_range(&mut self, at: *mut u8, shape: &ShapeRecord, from: usize, to: usize) {
        let stride = shape.stride.load(Relaxed) as usize;
        let words = stride.div_ceil(256);
        for i in (from..to).rev() {
            let element = at.wrapping_add(8 + i * stride);
            for w in 0..words {
                self.scan_word(element.wrapping_add(w * 256), shape.map[w].load(Relaxed));
            }
        }
    }

    /// A large object, or one oblet of it: the first oblet pushes the others. Returns the bytes it stands for.
    fn scan_large(&mut self, r: Ref, page: usize, shape: &ShapeRecord) -> u64 {
        let seg = &self.proc.seg;
        let head = seg.span_head(page);
        let base = (head * PAGE_GRANULES) as Ref;
        let object = seg.object(base);
        let offset = (r - base) as usize * GRANULE_BYTES;
        let span_bytes = seg.spans[head].pages.load(Relaxed) as usize * PAGE_BYTES;
        match shape.scan.load(Relaxed) {
            scan::NONE | scan::WEAK => return span_bytes as u64,
            scan::MAP => {
                self.scan_map(object, shape, span_bytes);
                return span_bytes as u64;
            }
            _ => {}
        }
        if offset == 0 {
            for k in (1..span_bytes.div_ceil(OBLET_BYTES)).rev() {
                // The object itself stands in the record until all are pushed.
                self.push(base + (k * OBLET_BYTES / GRANULE_BYTES) as Ref);
            }
        }
        let stride = shape.stride.load(Relaxed) as usize;
        let count = self.proc.field(object).load(Acquire) as usize;
        // Elements that begin in this oblet.
        let first = offset.saturating_sub(8).div_ceil(stride);
        let last = (offset + OBLET_BYTES)
            .saturating_sub(8)
            .div_ceil(stride)
            .min(count);
        self.scan_range(object, shape, first.min(last), last);
        OBLET_BYTES.min(span_bytes - offset) as u64
    }
}
