//! Span cursors: where a P's next object of a type goes (Go's mcache, one cursor per type instead of one per class).
//!
//! 1. The fast path bumps `cur` to `end`: a run of free slots, inlined into `Cx::alloc`.
//! 2. At the end of a run the next one is looked up in the span's bitmap; in the black phases the run is marked as it is taken,
//!    so black allocation costs nothing per object.
//! 3. At the end of the span the P gives it up as full and takes another: from the shape's partial list, by sweeping, or new.
//!
//! **Invariants.** C1: a cursor's span word is `CACHED` by this lease, at exactly the snapshot in `word`, unless this P has been
//! outside since a new sweep generation began. C2: every slot below the span's `free_index` is taken; `cur..end` ends there.
//! C3: in the black phases every slot of `cur..end` is marked.
//! **Rejected:** setting allocation bits per object (a store each); free lists through the objects (touches them, and a dying
//! process leaves a torn link).
//! **If the owner dies** recovery finds the span in the P's list, calls it full, and the next cycle decides by reachability.
#![expect(unsafe_code, reason = "address arithmetic inside the mapped heap")]

use std::{
    cell::Cell,
    ptr,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use shm_layout::{
    GRANULE_BYTES, PAGE_BYTES, PAGE_GRANULES, Ref, size_class, tables::scan, word::SpanWord,
};

use super::{
    marks,
    oracle::{self, Oracles},
    partial,
};
use crate::{error::Result, failpoint, sched::proc::Proc};

/// One cursor. All zero: no span, no run.
pub(crate) struct Cursor {
    /// Next slot.
    pub cur: Cell<*mut u8>,
    /// One past the run's last slot.
    pub end: Cell<*mut u8>,
    /// First page of the span plus one; 0 none.
    pub span: Cell<u32>,
    /// Shape of the objects plus one; 0 while the cursor belongs to no type.
    pub shape: Cell<u32>,
    /// The span's word when it was cached (C1).
    word: Cell<u64>,
}

/// A cursor's contents, for the explorer.
#[cfg(feature = "model")]
pub(crate) struct CursorImage(*mut u8, *mut u8, u32, u32, u64);

#[cfg(feature = "model")]
impl Cursor {
    pub fn image(&self) -> CursorImage {
        CursorImage(
            self.cur.get(),
            self.end.get(),
            self.span.get(),
            self.shape.get(),
            self.word.get(),
        )
    }

    pub fn put_back(&self, image: &CursorImage) {
        self.cur.set(image.0);
        self.end.set(image.1);
        self.span.set(image.2);
        self.shape.set(image.3);
        self.word.set(image.4);
    }
}

impl Cursor {
    pub fn new() -> Cursor {
        Cursor {
            cur: Cell::new(ptr::null_mut()),
            end: Cell::new(ptr::null_mut()),
            span: Cell::new(0),
            shape: Cell::new(0),
            word: Cell::new(0),
        }
    }

    fn forget(&self) {
        self.cur.set(ptr::null_mut());
        self.end.set(ptr::null_mut());
        self.span.set(0);
    }
}

impl Proc {
    /// Takes one slot of cursor `i`; the slow path of allocation.
    ///
    /// # Errors
    /// [`crate::Error::HeapFull`] and [`crate::Error::NoMemory`].
    #[cold]
    pub(crate) fn take_slot_slow(&self, i: usize) -> Result<*mut u8> {
        let cursor = &self.cursors[i];
        if Oracles::read(&self.seg).stress() {
            self.stress_collector();
        }
        if cursor.cur.get() == cursor.end.get() {
            self.refill(i)?;
        }
        let at = cursor.cur.get();
        let bytes = self.shape_bytes(cursor);
        cursor.cur.set(at.wrapping_add(bytes));
        Ok(at)
    }

    fn shape_bytes(&self, cursor: &Cursor) -> usize {
        // Relaxed: complete before the cursor was given the shape.
        self.seg.shapes[cursor.shape.get() as usize - 1]
            .bytes
            .load(Relaxed) as usize
    }

    fn refill(&self, i: usize) -> Result<()> {
        let cursor = &self.cursors[i];
        debug_assert!(cursor.shape.get() != 0);
        if cursor.span.get() != 0 {
            if self.take_run(cursor) {
                return Ok(());
            }
            self.release_span(i, SpanWord::FULL);
        }
        self.before_new_span(PAGE_BYTES * 2);
        loop {
            self.take_span(i)?;
            if self.take_run(cursor) {
                return Ok(());
            }
            self.release_span(i, SpanWord::FULL);
        }
    }

    /// Moves the cursor to the span's next run of free slots.
    fn take_run(&self, cursor: &Cursor) -> bool {
        let page = cursor.span.get() as usize - 1;
        let span = &self.seg.spans[page];
        let bytes = self.shape_bytes(cursor);
        let step = (bytes / GRANULE_BYTES) as u32;
        let objects = (span.pages.load(Relaxed) as usize * PAGE_BYTES / bytes) as u32;
        let bits = self
            .seg
            .marks_of(u32::from(SpanWord(cursor.word.get()).sweepgen()));
        let Some((first, last)) =
            marks::free_run(bits, page, step, objects, span.free_index.load(Relaxed))
        else {
            return false;
        };
        let modes = Oracles::read(&self.seg);
        // Runs of one slot: every allocation comes by the slow path.
        let last = if modes.stress() { first + 1 } else { last };
        let base = (page * PAGE_GRANULES) as u32 + first * step;
        if modes.clobber() {
            oracle::taken(&self.seg, base, (last - first) as usize * bytes);
        }
        if self.black.get() {
            self.paint_run(cursor, base, last - first, bytes);
        }
        failpoint!("cursor.painted");
        span.free_index.store(last, Release);
        let at = self.seg.object(base);
        cursor.cur.set(at);
        cursor
            .end
            .set(at.wrapping_add((last - first) as usize * bytes));
        self.charge(u64::from(last - first), (last - first) as usize * bytes);
        true
    }

    /// Gives cursor `i` a span with free slots.
    fn take_span(&self, i: usize) -> Result<()> {
        let shape = self.cursors[i].shape.get() as usize - 1;
        if self.take_listed(i, shape) {
            return Ok(());
        }
        // Lazy sweep: look for a span of ours among the unswept before taking new pages, but not for long.
        for _ in 0..4 {
            if !self.sweep_some() {
                break;
            }
            if self.take_listed(i, shape) {
                return Ok(());
            }
        }
        self.take_new(i, shape)
    }

    fn take_listed(&self, i: usize, shape: usize) -> bool {
        let sweepgen = self.alloc_gen();
        while let Some(page) = partial::pop(&self.seg, shape, sweepgen) {
            // Record, then take: recovery looks at every span in `cached`.
            self.area.cached[i].store(page as u32 + 1, Release);
            failpoint!("cursor.recorded");
            let record = &self.seg.spans[page];
            let word = SpanWord(record.word.load(Acquire));
            let cached = word.moved(SpanWord::CACHED, self.me);
            let ours = word.state() == SpanWord::PARTIAL
                && word.sweepgen() == sweepgen
                && record.shape.load(Relaxed) as usize == shape;
            // AcqRel: Acquire pairs with the Release of who gave the span up: its bits and `free_index` are ours to read.
            if ours
                && record
                    .word
                    .compare_exchange(word.0, cached.0, AcqRel, Relaxed)
                    .is_ok()
            {
                failpoint!("cursor.cached");
                self.install(i, page, cached);
                return true;
            }
            self.area.cached[i].store(0, Release);
        }
        false
    }

    fn take_new(&self, i: usize, shape: usize) -> Result<()> {
        let class = self.seg.shapes[shape].class.load(Relaxed) as usize;
        let pages = size_class::span_pages(class);
        let page = self.claim_pages(pages)?;
        if crate::gc::gctrace::debug().checkmark {
            let stale = marks::count(self.seg.marks[0], page, pages)
                + marks::count(self.seg.marks[1], page, pages);
            assert!(
                stale == 0,
                "free pages {page}+{pages} have {stale} mark bits"
            );
        }
        let word = self.fill_span(page, pages, shape);
        if Oracles::read(&self.seg).clobber() {
            oracle::fresh(&self.seg, page);
        }
        self.area.cached[i].store(page as u32 + 1, Release);
        failpoint!("cursor.recorded");
        let cached = word.moved(SpanWord::CACHED, self.me);
        // Release: the record's contents before the word that shows them. Nobody else moves a span that is `CLAIMED` by us.
        self.seg.spans[page].word.store(cached.0, Release);
        failpoint!("cursor.cached");
        self.seg.claim_done(self.me);
        self.install(i, page, cached);
        Ok(())
    }

    /// Fills the record of a span just claimed; returns its word, still `CLAIMED`, with the generation set.
    pub(crate) fn fill_span(&self, page: usize, pages: usize, shape: usize) -> SpanWord {
        let span = &self.seg.spans[page];
        span.free_index.store(0, Relaxed);
        span.live.store(0, Relaxed);
        span.listed.store(0, Relaxed);
        span.shape.store(shape as u32, Relaxed);
        for p in page..page + pages {
            self.seg.page_shapes[p].store(shape as u16, Relaxed);
        }
        SpanWord(span.word.load(Relaxed)).with_sweepgen(self.alloc_gen())
    }

    fn install(&self, i: usize, page: usize, word: SpanWord) {
        let cursor = &self.cursors[i];
        cursor.span.set(page as u32 + 1);
        cursor.word.set(word.0);
    }

    /// Gives up the span of cursor `i` within its generation.
    fn release_span(&self, i: usize, state: u8) {
        let cursor = &self.cursors[i];
        let page = cursor.span.get() as usize - 1;
        let word = SpanWord(cursor.word.get());
        // Release: bits and `free_index` before whoever takes the span next. Fails only when somebody swept it (C1).
        let given = self.seg.spans[page]
            .word
            .compare_exchange(word.0, word.released(state).0, AcqRel, Relaxed)
            .is_ok();
        failpoint!("cursor.released");
        if given && state == SpanWord::PARTIAL {
            partial::push(
                &self.seg,
                cursor.shape.get() as usize - 1,
                page,
                word.sweepgen(),
            );
        }
        self.area.cached[i].store(0, Release);
        cursor.forget();
    }

    /// Takes back the rest of the run: the slots were charged and, in the black phases, marked.
    fn return_run(&self, cursor: &Cursor) {
        let bytes = self.shape_bytes(cursor);
        let left = (cursor.end.get() as usize - cursor.cur.get() as usize) / bytes;
        if left == 0 {
            return;
        }
        let span = &self.seg.spans[cursor.span.get() as usize - 1];
        let first = self.seg.reference(cursor.cur.get());
        if Oracles::read(&self.seg).clobber() {
            oracle::returned(&self.seg, first, left * bytes);
        }
        if self.black.get() {
            let step = (bytes / GRANULE_BYTES) as u32;
            marks::paint(
                self.seg.marks_of(self.seen.get().cycle()),
                first,
                step,
                left as u32,
                false,
            );
            self.uncount_marked((left * bytes) as u64);
        }
        let index = span.free_index.load(Relaxed) - left as u32;
        span.free_index.store(index, Release);
        cursor.end.set(cursor.cur.get());
        self.uncharge(left as u64, left * bytes);
    }

    /// At the edge that turns allocation black: what is left of every run is marked (C3).
    pub(crate) fn blacken_runs(&self) {
        for i in self.held_cursors() {
            let cursor = &self.cursors[i];
            let bytes = self.shape_bytes(cursor);
            let left = (cursor.end.get() as usize - cursor.cur.get() as usize) / bytes;
            if left > 0 {
                self.paint_run(
                    cursor,
                    self.seg.reference(cursor.cur.get()),
                    left as u32,
                    bytes,
                );
            }
        }
    }

    /// Marks a run of free slots (C3). Slots that may hold references are zeroed first: a marked slot may be scanned, when the
    /// buffers have run out, before an object is in it.
    fn paint_run(&self, cursor: &Cursor, first: Ref, count: u32, bytes: usize) {
        let shape = &self.seg.shapes[cursor.shape.get() as usize - 1];
        if shape.scan.load(Relaxed) != scan::NONE {
            self.zero(self.seg.object(first), count as usize * bytes);
        }
        marks::paint(
            self.seg.marks_of(self.seen.get().cycle()),
            first,
            (bytes / GRANULE_BYTES) as u32,
            count,
            true,
        );
        self.count_marked(u64::from(count) * bytes as u64);
    }

    /// At the edge that sees a new sweep generation: every span is given up, and swept (rule 5 of the design).
    ///
    /// `black` still says what the runs were taken under. A span that somebody else swept while we were outside is only forgotten.
    pub(crate) fn give_up_spans(&self) {
        for i in self.held_cursors() {
            let cursor = &self.cursors[i];
            let page = cursor.span.get() as usize - 1;
            let word = SpanWord(cursor.word.get());
            if self.claim_sweep(page, word) {
                self.return_run(cursor);
                self.sweep_claimed(page);
            }
            self.area.cached[i].store(0, Release);
            cursor.forget();
        }
    }

    /// Gives up every span within its generation: before a detach, or before a long stay outside.
    pub(crate) fn release_spans(&self) {
        for i in self.held_cursors() {
            self.return_run(&self.cursors[i]);
            self.release_span(i, SpanWord::PARTIAL);
        }
    }

    fn held_cursors(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.cursors_used.get()).filter(|&i| self.cursors[i].span.get() != 0)
    }

    /// Writes a value into a slot.
    ///
    /// # Safety
    /// `at` is a slot of at least `size_of::<T>()` bytes that this P has just taken and nobody else knows.
    #[inline]
    pub(crate) unsafe fn init_slot<T>(&self, at: *mut u8, value: T) {
        #[cfg(feature = "model")]
        crate::model::plainly_stores(at, size_of::<T>());
        // SAFETY: promised by the caller; slots are granule-aligned and `T` needs no more (checked by `Shared`).
        unsafe { at.cast::<T>().write(value) }
        #[cfg(feature = "model")]
        crate::model::plainly_stored(at, size_of::<T>());
    }
}
