//! Draining: grey objects are scanned, what they refer to is marked and becomes grey (Go's gcDrain, scanobject, greyobject).
//!
//! 1. Root jobs first. 2. Then objects: take the newest grey reference, record it in flight, drop it from the buffer, scan it,
//! clear the record. A short queue of taken references is prefetched, so that an object's memory is on its way when it is scanned.
//! 3. For each unmarked child: record, mark, push (rule 3).
//!
//! Objects have no header: the page's shape says where the references are. Objects larger than 128 KiB are scanned in oblets, which
//! are grey references into the object's inside.
//! **If the drainer dies**: its in-flight references are pushed again; scanning is idempotent, because marking is.
#![expect(
    unsafe_code,
    reason = "reads reference fields of objects through addresses in the mapped heap"
)]

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use shm_layout::{
    GRANULE_BYTES, PAGE_BYTES, Ref,
    proc::INFLIGHT,
    tables::{ShapeRecord, scan},
};

use crate::{failpoint, heap::marks, planted, sched::proc::Proc};

/// Bytes of a large object scanned at once: Go's maxObletBytes.
pub(crate) const OBLET_BYTES: usize = 128 << 10;
/// References in the prefetch queue.
const PREFETCH: usize = 16;

const _: () = assert!(PREFETCH < INFLIGHT && PREFETCH.is_power_of_two());

/// When a drain returns, apart from running out of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Out of work, or the phase moved on (dedicated).
    NoWork,
    /// Also when asked to yield, or when the fractional share is used up.
    Preempt,
    /// Also when there is something else to run (idle).
    OtherWork,
    /// Also after this many bytes of scan work (assist).
    Bytes(u64),
}

/// Scan work between two looks at the outside world, in bytes: well below 100 microseconds.
const CHECK_BYTES: u64 = 32 << 10;
/// What a root job counts as, in bytes of scan work.
const ROOT_JOB_BYTES: u64 = 2 << 10;

impl Proc {
    /// Marks until there is nothing left or `until` says so. Returns bytes scanned.
    pub(crate) fn gc_drain(&self, until: Until, started_ns: u64) -> u64 {
        let mut done = 0u64;
        let mut flushed = 0u64;
        let background = !matches!(until, Until::Bytes(_));
        let phase = self.seg.phase();
        let bits = self.seg.marks_of(phase.cycle());
        while self.markroot_next(bits) {
            done += ROOT_JOB_BYTES;
            if self.should_stop(until, done, started_ns) {
                self.flush_scan_work(done, background);
                return done;
            }
        }
        let mut queue = Queue::new();
        loop {
            self.fill(&mut queue);
            let Some(r) = queue.pop() else {
                if self.gcw_fetch() {
                    continue;
                }
                break;
            };
            done += self.scan_object(bits, r);
            self.rec.now.0.inflight[queue.last_slot()].store(0, Release);
            if done - flushed >= CHECK_BYTES {
                self.flush_scan_work(done - flushed, background);
                flushed = done;
                self.gcw_balance();
                if self.should_stop(until, done, started_ns) {
                    break;
                }
            }
        }
        self.unqueue(&mut queue);
        self.flush_scan_work(done - flushed, background);
        self.flush_marked();
        done
    }

    /// Moves references from the buffers into the prefetch queue: recorded in flight, then dropped from the buffer.
    #[inline]
    fn fill(&self, queue: &mut Queue) {
        while queue.len < PREFETCH {
            let Some(r) = self.gcw_top() else { return };
            let slot = queue.push(r);
            self.rec.now.0.inflight[slot].store(r, Release);
            self.gcw_drop_top();
            prefetch(self.seg.object(r));
        }
    }

    /// Returns what the queue still holds: pushed, then the record cleared.
    fn unqueue(&self, queue: &mut Queue) {
        while let Some(r) = queue.pop() {
            self.gcw_put(r);
            self.rec.now.0.inflight[queue.last_slot()].store(0, Release);
        }
    }

    fn should_stop(&self, until: Until, done: u64, started_ns: u64) -> bool {
        if !self.seg.phase().blacken() {
            return true;
        }
        match until {
            Until::NoWork => false,
            Until::Preempt => {
                self.rec.preempt.load(Relaxed) != 0 || self.fractional_share_used(started_ns)
            }
            Until::OtherWork => self.has_other_work(),
            Until::Bytes(bytes) => done >= bytes,
        }
    }

    /// Scans the object or oblet `r`; returns its bytes.
    #[inline]
    pub(crate) fn scan_object(&self, bits: &'static [std::sync::atomic::AtomicU64], r: Ref) -> u64 {
        failpoint!("drain.scanning");
        let page = self.seg.page_of(r);
        let shape = &self.seg.shapes[self.seg.page_shapes[page].load(Relaxed) as usize];
        let bytes = shape.bytes.load(Relaxed);
        let at = self.seg.object(r);
        match shape.scan.load(Relaxed) {
            scan::NONE => {}
            _ if bytes == 0 => return self.scan_large(bits, r, page, shape),
            scan::MAP => self.scan_map(bits, at, shape),
            _ => self.scan_elements(bits, at, shape),
        }
        u64::from(bytes)
    }

    #[inline]
    fn scan_map(
        &self,
        bits: &'static [std::sync::atomic::AtomicU64],
        at: *mut u8,
        shape: &ShapeRecord,
    ) {
        // Small objects need one word of map; larger ones stop at the first of the all-zero tail.
        let words = (shape.bytes.load(Relaxed) as usize)
            .div_ceil(256)
            .min(shm_layout::tables::MAP_WORDS);
        for w in 0..words {
            self.scan_word(bits, at.wrapping_add(w * 256), shape.map[w].load(Relaxed));
        }
    }

    /// Visits the references that `map` (one bit per four bytes) shows from `at`, last first: with a stack of grey references the
    /// first child is scanned next, and memory order ascends.
    #[inline]
    fn scan_word(&self, bits: &'static [std::sync::atomic::AtomicU64], at: *mut u8, mut map: u64) {
        while map != 0 {
            let i = 63 - map.leading_zeros() as usize;
            map &= !(1 << i);
            self.visit(bits, at.wrapping_add(i * 4));
        }
    }

    fn scan_elements(
        &self,
        bits: &'static [std::sync::atomic::AtomicU64],
        at: *mut u8,
        shape: &ShapeRecord,
    ) {
        let count = self.field(at).load(Acquire) as usize;
        self.scan_range(bits, at, shape, 0, count);
    }

    fn scan_range(
        &self,
        bits: &'static [std::sync::atomic::AtomicU64],
        at: *mut u8,
        shape: &ShapeRecord,
        from: usize,
        to: usize,
    ) {
        let stride = shape.stride.load(Relaxed) as usize;
        let words = stride.div_ceil(256);
        for i in (from..to).rev() {
            let element = at.wrapping_add(8 + i * stride);
            for w in 0..words {
                self.scan_word(
                    bits,
                    element.wrapping_add(w * 256),
                    shape.map[w].load(Relaxed),
                );
            }
        }
    }

    /// A large array, or one oblet of it: the first oblet pushes the others.
    fn scan_large(
        &self,
        bits: &'static [std::sync::atomic::AtomicU64],
        r: Ref,
        page: usize,
        shape: &ShapeRecord,
    ) -> u64 {
        let head = self.seg.span_head(page);
        let base = (head * shm_layout::PAGE_GRANULES) as Ref;
        let object = self.seg.object(base);
        let offset = (r - base) as usize * GRANULE_BYTES;
        let span_bytes = self.seg.spans[head].pages.load(Relaxed) as usize * PAGE_BYTES;
        if shape.scan.load(Relaxed) == scan::MAP {
            self.scan_map_large(bits, object, shape);
            return span_bytes as u64;
        }
        if offset == 0 {
            for k in (1..span_bytes.div_ceil(OBLET_BYTES)).rev() {
                self.gcw_put(base + (k * OBLET_BYTES / GRANULE_BYTES) as Ref);
            }
        }
        let stride = shape.stride.load(Relaxed) as usize;
        let count = self.field(object).load(Acquire) as usize;
        // Elements that begin in this oblet.
        let first = offset.saturating_sub(8).div_ceil(stride);
        let last = (offset + OBLET_BYTES)
            .saturating_sub(8)
            .div_ceil(stride)
            .min(count);
        self.scan_range(bits, object, shape, first.min(last), last);
        OBLET_BYTES.min(span_bytes - offset) as u64
    }

    fn scan_map_large(
        &self,
        bits: &'static [std::sync::atomic::AtomicU64],
        at: *mut u8,
        shape: &ShapeRecord,
    ) {
        for (w, map) in shape.map.iter().enumerate() {
            self.scan_word(bits, at.wrapping_add(w * 256), map.load(Relaxed));
        }
    }

    #[inline]
    fn visit(&self, bits: &'static [std::sync::atomic::AtomicU64], at: *mut u8) {
        // Acquire: pairs with the Release store of the reference: the object it names is initialised.
        let child = self.field(at).load(Acquire);
        if child != 0 && !marks::is_marked(bits, child) {
            self.grey_object(bits, child);
        }
    }

    #[inline]
    fn field(&self, at: *mut u8) -> &AtomicU32 {
        // SAFETY: 1. `at` is a four-byte aligned address inside an object of a span whose shape says "reference" or "count" here,
        // so inside the mapping. 2. Every process accesses it as an atomic.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// Marks `r` and makes it grey, if it was white. Rule 3: record, then mark, then push, then clear the record.
    #[inline]
    pub(crate) fn grey_object(&self, bits: &'static [std::sync::atomic::AtomicU64], r: Ref) {
        if !planted!(PushNotRecorded) {
            self.rec.now.0.shade.store(r, Release);
        }
        failpoint!("drain.recorded");
        if marks::mark(bits, r) {
            failpoint!("drain.marked");
            if self.seg.hdr.gc.dirty.0.load(Relaxed) == 0 {
                self.seg.hdr.gc.dirty.0.store(1, SeqCst);
            }
            self.count_marked(self.object_bytes(r) as u64);
            self.gcw_put(r);
            failpoint!("drain.pushed");
        }
        self.rec.now.0.shade.store(0, Release);
    }

    /// Bytes of the slot that holds object `r`.
    #[inline]
    pub(crate) fn object_bytes(&self, r: Ref) -> usize {
        let page = self.seg.page_of(r);
        let shape = &self.seg.shapes[self.seg.page_shapes[page].load(Relaxed) as usize];
        match shape.bytes.load(Relaxed) {
            0 => self.seg.spans[page].pages.load(Relaxed) as usize * PAGE_BYTES,
            bytes => bytes as usize,
        }
    }

    /// Looks through every marked object again: what was marked when the buffers had run out is found by its unmarked children.
    pub(crate) fn rescan_heap(&self) {
        self.seg.hdr.gc.overflow.store(0, SeqCst);
        let bits = self.seg.marks_of(self.seg.phase().cycle());
        let words = self.seg.hdr.committed_chunks.0.load(Acquire) as usize
            * shm_layout::CHUNK_PAGES
            * marks::PAGE_WORDS;
        for (w, bits_of_word) in bits[..words].iter().enumerate() {
            let mut word = bits_of_word.load(Acquire);
            while word != 0 {
                let r = (w * 64) as Ref + word.trailing_zeros();
                word &= word - 1;
                if r as usize >= shm_layout::PAGE_GRANULES {
                    self.scan_object(bits, r);
                }
            }
        }
    }

    /// Fills memory with zeroes.
    pub(crate) fn zero(&self, at: *mut u8, bytes: usize) {
        debug_assert!(self.seg.contains(at));
        // SAFETY: the range is a slot or span that this P has just taken, inside the mapping, unknown to everybody else.
        unsafe { std::ptr::write_bytes(at, 0, bytes) }
    }
}

/// The in-flight references, oldest first.
struct Queue {
    refs: [Ref; PREFETCH],
    head: usize,
    len: usize,
}

impl Queue {
    fn new() -> Queue {
        Queue {
            refs: [0; PREFETCH],
            head: 0,
            len: 0,
        }
    }

    /// Adds a reference; returns its slot in the in-flight record.
    #[inline]
    fn push(&mut self, r: Ref) -> usize {
        let slot = (self.head + self.len) % PREFETCH;
        self.refs[slot] = r;
        self.len += 1;
        slot
    }

    #[inline]
    fn pop(&mut self) -> Option<Ref> {
        if self.len == 0 {
            return None;
        }
        let r = self.refs[self.head];
        self.head = (self.head + 1) % PREFETCH;
        self.len -= 1;
        Some(r)
    }

    /// In-flight slot of what was popped last.
    #[inline]
    fn last_slot(&self) -> usize {
        (self.head + PREFETCH - 1) % PREFETCH
    }
}

#[inline]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address changes nothing and cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
