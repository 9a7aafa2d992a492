//! Large objects: more than 32 KiB, each with a span of its own.
//!
//! The span's pages are claimed, filled, and called `FULL` in one word; its single mark bit decides at the next sweep.
//! **If the owner dies** before that word the pages go back; after it the object is garbage unless somebody can reach it.

use std::sync::atomic::Ordering::{Relaxed, Release};

use shm_layout::{PAGE_BYTES, PAGE_GRANULES, Ref, word::SpanWord};

use super::marks;
use crate::{error::Result, failpoint, sched::proc::Proc};

impl Proc {
    /// A new large object of `bytes`, all zero, of a shape whose class is `LARGE`.
    pub(crate) fn alloc_large(&self, bytes: usize, shape: usize) -> Result<*mut u8> {
        let pages = bytes.div_ceil(PAGE_BYTES);
        self.before_new_span(pages * PAGE_BYTES);
        let page = self.claim_pages(pages)?;
        let word = self.fill_span(page, pages, shape);
        let r = (page * PAGE_GRANULES) as Ref;
        let at = self.seg.object(r);
        self.zero(at, pages * PAGE_BYTES);
        if self.black.get() {
            marks::mark(self.seg.marks_of(self.seen.get().cycle()), r);
            self.count_marked((pages * PAGE_BYTES) as u64);
        }
        let span = &self.seg.spans[page];
        span.free_index.store(1, Relaxed);
        failpoint!("large.filled");
        // Release: contents and record before the word.
        span.word.store(word.released(SpanWord::FULL).0, Release);
        self.seg.claim_done(self.me);
        self.charge(1, pages * PAGE_BYTES);
        Ok(at)
    }
}
