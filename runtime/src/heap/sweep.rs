//! Sweeping: after a cycle, each span is looked at once; its unmarked slots are free from then on.
//!
//! Nothing in the objects is touched: the bitmap that the cycle marked *becomes* the bitmap of taken slots, the other one is
//! cleared for the next cycle, and a span without a mark gives its pages back.
//!
//! 1. Claim the span's word: `PARTIAL` or `FULL` of an older generation, or `CACHED` by a P that is outside, to `SWEEPING`.
//! 2. Clear the old bitmap over the span. 3. Count the marks. 4. Call it partial, full, or free its pages.
//!
//! Who sweeps: an allocator that needs a span (lazily), every allocation a little (proportionally), idle P's (background), and
//! whoever starts the next cycle, all that is left.
//! **Invariants.** W1: a new cycle starts only when every span has the generation of the last. W2: nobody sweeps a span that a P
//! may still be allocating from: a `CACHED` span is taken only when its P is outside, after the phase word had said "off"; that P
//! meets the new phase at its next edge and finds its word moved.
//! W3: whoever sweeps is in a scope that it entered under the present "off": a sweeper left behind by a whole cycle would take
//! spans of the next generation for unswept, and give away what is allocated in them.
//! **If the sweeper dies** the span's word names it: recovery sweeps again, from step 2. A block it had claimed is swept by setting
//! the cursor back.

use crate::throw::{throw_unless, throw_unless_debug};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{
    PAGE_BYTES,
    proc::ProcRecord,
    size_class,
    word::{Owner, PhaseWord, ProcWord, SpanWord},
};

use super::{
    marks,
    oracle::{self, Oracles},
    partial,
    shapes::Shape,
};
use crate::{
    failpoint,
    sched::{proc::Proc, scope},
    segment::Segment,
    twin,
};

/// Pages claimed at once by a sweeper: what an allocation sweeps, it waits for.
pub(crate) const BLOCK_PAGES: usize = 16;
/// Blocks swept at once by who wants to start a cycle: 1 MiB of heap.
const BURST_BLOCKS: usize = 8;
/// Span records looked at at once by who wants to start a cycle.
const REST_PAGES: usize = 4096;

/// Sweep generation of spans in a phase: those of the last finished cycle.
pub(crate) fn sweepgen_of(phase: PhaseWord) -> u8 {
    let cycle = if phase.kind() == PhaseWord::OFF {
        phase.cycle()
    } else {
        phase.cycle().wrapping_sub(1)
    };
    cycle as u8
}

impl Proc {
    /// Sweep generation of the spans this P allocates from.
    pub(crate) fn alloc_gen(&self) -> u8 {
        sweepgen_of(self.seen.get())
    }

    /// Sweeps one block of pages. False when the cursor has reached the end, or there is nothing to sweep now.
    pub(crate) fn sweep_some(&self) -> bool {
        let phase = self.seg.phase();
        if phase.kind() != PhaseWord::OFF || self.seen.get() != phase {
            return false;
        }
        let Some(block) = self.claim_block(phase.cycle()) else {
            return false;
        };
        self.sweep_pages(
            block * BLOCK_PAGES,
            (block + 1) * BLOCK_PAGES,
            sweepgen_of(phase),
        );
        self.rec.now.0.sweep_block.store(0, Release);
        self.rec
            .stats
            .0
            .swept_pages
            .fetch_add(BLOCK_PAGES as u64, Relaxed);
        self.seg
            .hdr
            .gc
            .pages_swept
            .fetch_add(BLOCK_PAGES as u64, Relaxed);
        true
    }

    /// The next block of this cycle that nobody has claimed.
    fn claim_block(&self, cycle: u32) -> Option<usize> {
        let cursor = &self.seg.hdr.gc.sweep_cursor.0;
        let end =
            self.seg.hdr.committed_chunks.0.load(Acquire) as u64 * shm_layout::CHUNK_PAGES as u64;
        loop {
            let seen = cursor.load(Acquire);
            let page = seen & 0xffff_ffff;
            if (seen >> 32) as u32 != cycle || page >= end {
                // Recorded in an earlier turn of the loop, and lost to another sweeper.
                self.rec.now.0.sweep_block.store(0, Release);
                return None;
            }
            let block = page as usize / BLOCK_PAGES;
            // Record, then take: recovery sets the cursor back to a block that a dead sweeper had claimed.
            self.rec.now.0.sweep_block.store(block as u32 + 1, Release);
            failpoint!("sweep.block_recorded");
            if cursor
                .compare_exchange(seen, seen + BLOCK_PAGES as u64, AcqRel, Relaxed)
                .is_ok()
            {
                failpoint!("sweep.block_claimed");
                return Some(block);
            }
        }
    }

    /// Sweeps what needs it among the spans that begin in `from..to`.
    fn sweep_pages(&self, from: usize, to: usize, sweepgen: u8) {
        for page in from..to {
            let word = SpanWord(self.seg.spans[page].word.load(Acquire));
            if needs_sweep(&self.seg, word, sweepgen) && self.claim_sweep(page, word) {
                self.sweep_claimed(page);
            }
        }
    }

    /// Sweeps what is left of the last cycle, or a good part of it; true when nothing is left.
    pub(crate) fn sweep_all(&self) -> bool {
        let phase = self.seg.phase();
        if phase.kind() != PhaseWord::OFF {
            return false;
        }
        // In bursts: whoever wants to start a cycle is in the middle of an allocation or between two steps, and asks again. It has
        // seen everybody acknowledge this phase (`sweep_rest`).
        for _ in 0..BURST_BLOCKS {
            if !self.sweep_some() {
                return self.sweep_rest(phase);
            }
        }
        false
    }

    /// Nobody has a block left to claim: what was missed is swept by looking at every span; true when nothing is left.
    ///
    /// A part per call, from where the last one ended, whoever made it: when everybody has acknowledged "off", a span that has its generation
    /// keeps it, and new ones get it, so what was found swept need not be looked at again after this cycle, by nobody. A late caller does no harm: it is
    /// in its scope, so the next cycle has not ended, and the word names this one.
    fn sweep_rest(&self, phase: PhaseWord) -> bool {
        let sweepgen = sweepgen_of(phase);
        let pages =
            self.seg.hdr.committed_chunks.0.load(Acquire) as usize * shm_layout::CHUNK_PAGES;
        let seen = self.seg.hdr.gc.rest_swept.load(Acquire);
        let cycle = u64::from(phase.cycle());
        let from = if seen >> 32 == cycle {
            (seen & 0xffff_ffff) as usize
        } else {
            0
        };
        let to = pages.min(from + REST_PAGES);
        self.sweep_pages(from, to, sweepgen);
        let unswept = (from..to).find(|&page| {
            let word = SpanWord(self.seg.spans[page].word.load(Acquire));
            is_span(word) && word.sweepgen() != sweepgen
        });
        let swept = cycle << 32 | unswept.unwrap_or(to) as u64;
        // Release: what was seen swept, before the word that says so. Lost to another who says the same or more.
        let _ = self
            .seg
            .hdr
            .gc
            .rest_swept
            .compare_exchange(seen, swept, AcqRel, Relaxed);
        unswept.is_none() && to == pages
    }

    /// Claims a span for sweeping, if its word is still `word`.
    pub(crate) fn claim_sweep(&self, page: usize, word: SpanWord) -> bool {
        self.rec.now.0.sweep_span.store(page as u32 + 1, Release);
        failpoint!("sweep.recorded");
        // AcqRel: Acquire pairs with the Release of who gave the span up.
        let won = self.seg.spans[page]
            .word
            .compare_exchange(
                word.0,
                word.moved(SpanWord::SWEEPING, self.me).0,
                AcqRel,
                Relaxed,
            )
            .is_ok();
        failpoint!("sweep.claimed");
        if !won {
            self.rec.now.0.sweep_span.store(0, Release);
        }
        won
    }

    /// Steps 2 to 4 for a span whose word names us.
    pub(crate) fn sweep_claimed(&self, page: usize) {
        finish_sweep(&self.seg, page, self.me, self.seg.phase().cycle(), false);
        self.rec.now.0.sweep_span.store(0, Release);
    }
}

/// The repeatable part of sweeping a span that is `SWEEPING` by `owner`, after cycle `cycle`; `again` after the death of a sweeper.
pub(crate) fn finish_sweep(segment: &Segment, page: usize, owner: Owner, cycle: u32, again: bool) {
    let span = &segment.spans[page];
    throw_unless_debug!(
        {
            let word = SpanWord(span.word.load(Relaxed));
            word.state() == SpanWord::SWEEPING && word.owner() == owner
        },
        "bad span state: the span is not being swept, or by somebody else"
    );
    let shape = span.shape.load(Relaxed) as usize;
    let class = segment.shapes[shape].class.load(Relaxed);
    let pages = match class {
        // One object, one mark, on its first page: the bitmap of a gigabyte takes milliseconds to look through.
        Shape::LARGE => 1,
        _ => span.pages.load(Relaxed) as usize,
    };
    marks::clear(segment.marks_of(cycle.wrapping_add(1)), page, pages);
    failpoint!("sweep.cleared");
    if Oracles::read(segment).clobber() {
        oracle::swept(segment, page, cycle, again);
        failpoint!("sweep.clobbered");
    }
    let live = marks::count(segment.marks_of(cycle), page, pages);
    let objects = if class == Shape::LARGE {
        1
    } else {
        (pages * PAGE_BYTES / size_class::class_bytes(class as usize)) as u32
    };
    throw_unless!(
        live <= objects,
        "sweep increased allocation count: more marks than objects"
    );
    if live == 0 {
        segment.free_pages(page, owner);
        return;
    }
    span.live.store(live, Relaxed);
    span.free_index
        .store(if class == Shape::LARGE { 1 } else { 0 }, Relaxed);
    let state = if live < objects {
        SpanWord::PARTIAL
    } else {
        SpanWord::FULL
    };
    let word = SpanWord(span.word.load(Relaxed)).with_sweepgen(cycle as u8);
    failpoint!("sweep.counted");
    // Release: counts and cleared bits before the word that lets others in. Nobody else moves a span that is `SWEEPING` by us.
    span.word.store(word.released(state).0, Release);
    failpoint!("sweep.released");
    if state == SpanWord::PARTIAL {
        partial::push(segment, shape, page, cycle as u8);
    }
}

/// Is this the word of a span's first page?
pub(crate) fn is_span(word: SpanWord) -> bool {
    matches!(
        word.state(),
        SpanWord::CACHED | SpanWord::PARTIAL | SpanWord::FULL | SpanWord::SWEEPING
    )
}

fn needs_sweep(segment: &Segment, word: SpanWord, sweepgen: u8) -> bool {
    if word.sweepgen() == sweepgen {
        return false;
    }
    match word.state() {
        SpanWord::PARTIAL | SpanWord::FULL => true,
        SpanWord::CACHED => {
            is_outside(&segment.procs[word.p() as usize], word) || twin!("sweep-cached")
        }
        _ => false,
    }
}

/// Has the P that caches this span left its scope? It cannot come back without meeting the present phase (W2).
fn is_outside(record: &ProcRecord, word: SpanWord) -> bool {
    let owner = ProcWord(record.word.0.load(Acquire));
    let lease = Owner::new(word.p(), owner.inc());
    // SeqCst: partner of the store of the scope word in `scope::edge`; the phase was stored before we look.
    let scope = record.scope.0.load(SeqCst);
    lease == word.owner()
        && matches!(owner.state(), ProcWord::LIVE | ProcWord::JOINING)
        && !scope::is_inside(scope)
}
