//! Growing: what an allocation waits for, and what is done before the next step instead.
//!
//! An allocation that finds no page sweeps a little ([`RECLAIM_BLOCKS`]), then commits one chunk: that is about a millisecond, and several where
//! the machine is a guest and its host has to find the memory. Where one was missing more will be. So the P notes it, and reserves further ones between
//! steps and scopes, a piece at a time, until a sixteenth has been added. From then on it looks ahead: at the end of each turn (`sched::give_way`) whether there
//! is still as much beyond what is allocated, as far as the collector's goal lets the heap grow.
//!
//! Each process meets its own page faults, one to two microseconds for every 4 KiB that others have touched before. So a P looks for pages where it found
//! them last time, and maps half a megabyte in one call when it has claimed an eighth of that: a tenth of the price of the faults.
//!
//! **If the P dies** the note is lost with it; nothing else. **Rejected:** sweeping until a page is found: where a gigabyte is live
//! that was a step of 150 ms; several chunks at once: tens of milliseconds; the daemon's sysmon reserving ahead, in huge pages made from nothing (a
//! quarter of the work): it wants a processor that the P's are using, for milliseconds at a time.

use std::sync::atomic::Ordering::Relaxed;

use shm_layout::CHUNK_BYTES;

use super::sweep::BLOCK_PAGES;
use crate::{error::Result, sched::proc::Proc};

/// Blocks swept at most for one page before the heap grows: 2 MiB of it, an eighth of a millisecond.
const RECLAIM_BLOCKS: usize = 16;
/// Pages whose small pages are mapped together: 512 KiB, as many as a word has bits.
const KNOWN_PAGES: usize = 64;
/// Claimed pages of such a block after which the rest is mapped too: 64 KiB. Below, a process that does little would pay for what it never touches.
const KNOWN_AFTER: u8 = 8;
/// Chunks committed ahead at most.
const AHEAD_MAX: usize = 8;
/// Part of the heap that is ahead at most.
const AHEAD_PART: usize = 16;

impl Proc {
    /// Claims pages, sweeping a little before the heap grows: what is not found soon is left to who sweeps in proportion. Only a
    /// heap that cannot grow any more is swept to its end.
    pub(crate) fn claim_pages(&self, pages: usize) -> Result<usize> {
        let mut hint = self.page_hint.get();
        let mut left = RECLAIM_BLOCKS + pages / BLOCK_PAGES;
        let mut refused = false;
        let found = self.seg.claim_pages(pages, self.me, &mut hint, &mut || {
            left = left.saturating_sub(1);
            if left > 0 && self.sweep_some() {
                return true;
            }
            // Asked once: each refusal costs system calls, and sweeping the rest may take thousands of turns.
            refused = refused || !self.grow_for(pages);
            !refused || self.sweep_some()
        });
        self.page_hint.set(hint);
        if let Ok(first) = found {
            self.get_to_know(first, pages);
        }
        found
    }

    /// Where this P begins to look for pages after each cycle: every P at a place of its own, so that it meets the pages again that it has mapped, and
    /// no two of them fight for the same words.
    pub(crate) fn home_word(&self) -> usize {
        if cfg!(feature = "model") {
            return 0; // The explorer wants them to meet.
        }
        let procs = self.seg.used_procs().len().max(1);
        self.seg.bit_words() * self.index() / procs
    }

    /// Counts pages of a block that this P has claimed; maps the whole block when they are some.
    fn get_to_know(&self, first: usize, count: usize) {
        let mut known = self.blocks_known.borrow_mut();
        let (mut page, end) = (first, first + count);
        while page < end {
            let block = page / KNOWN_PAGES;
            let next = (block + 1) * KNOWN_PAGES;
            if known.len() <= block {
                known.resize(self.seg.bit_words().max(block + 1), 0);
            }
            let claimed = (next.min(end) - page).min(KNOWN_PAGES) as u8;
            page = next;
            if known[block] < KNOWN_AFTER {
                known[block] += claimed.min(KNOWN_AFTER);
                if known[block] >= KNOWN_AFTER {
                    self.seg.map_pages(block * KNOWN_PAGES, KNOWN_PAGES);
                }
            }
        }
    }

    /// Grows the heap because an allocation found no page. False when it cannot grow.
    fn grow_for(&self, pages: usize) -> bool {
        let ready = self.seg.ready_chunks();
        let ahead = ahead_of(ready);
        self.grow_until
            .set(if ahead > 0 { ready + 1 + ahead } else { 0 });
        self.seg.grow(pages, self.me).is_ok()
    }

    /// Between steps: a piece of the chunks that are to be committed ahead. True when there was one.
    #[inline]
    pub(crate) fn grow_ahead(&self) -> bool {
        self.grow_until.get() > 0 && self.grow_a_piece_ahead()
    }

    #[cold]
    fn grow_a_piece_ahead(&self) -> bool {
        let begun = self.piece_ahead.take();
        // Others want the same: what counts is how many there are.
        if begun.is_none() && self.seg.ready_chunks() >= self.grow_until.get() {
            self.grow_until.set(0);
            return false;
        }
        match self.seg.grow_by_a_piece(begun, self.me) {
            Ok(piece) => self.piece_ahead.set(piece),
            // Whoever needs it will be told.
            Err(_) => self.grow_until.set(0),
        }
        true
    }

    /// Is the heap going to grow further? Then more chunks are to be committed ahead.
    pub(crate) fn look_ahead(&self) {
        // After a refusal nobody wishes: an allocation that needs memory asks, and takes the note back when it gets some.
        let refused = self.seg.hdr.stats.growth_refused.load(Relaxed) != 0;
        if self.grow_until.get() > 0 || refused {
            return;
        }
        let gc = &self.seg.hdr.gc;
        // All that ever had memory: where some was given back there is no hurry.
        let committed = self.seg.chunks_used();
        let live = gc.heap_live.0.load(Relaxed);
        // Not all that is free is free in whole pages.
        let taken = live
            .saturating_add(live / 64)
            .min(gc.goal.load(Relaxed))
            .div_ceil(CHUNK_BYTES as u64) as usize;
        let ahead = ahead_of(committed);
        let wanted = (taken.min(committed) + ahead).min(self.seg.geo.chunks);
        if wanted > committed {
            self.grow_until.set(wanted);
        }
    }
}

/// Chunks ahead of a heap of so many.
fn ahead_of(chunks: usize) -> usize {
    (chunks / AHEAD_PART).min(AHEAD_MAX)
}

#[cfg(test)]
mod tests {
    use crate::{Array, Cx, Gc, P, Segment, SegmentConfig, Slot};
    use std::sync::atomic::Ordering::Relaxed;

    /// Blocks that all parts of an allocation together may sweep: for its price, for its type, for its page, for the next cycle.
    const BLOCKS: u64 = 40;

    /// Pieces of a chunk.
    const PIECES: usize = shm_layout::CHUNK_BYTES / crate::segment::grow::PIECE_BYTES;

    fn committed(p: &P) -> u32 {
        p.segment().hdr.committed_chunks.0.load(Relaxed)
    }

    #[test]
    fn a_chunk_ahead_is_many_short_pieces_of_work() {
        let p = P::lease(Segment::create(&SegmentConfig::default()).expect("memory")).expect("a P");
        let proc = p.proc();
        assert!(!proc.grow_ahead(), "nothing was asked for");
        proc.grow_until.set(2);
        for _ in 1..PIECES {
            assert!(proc.grow_ahead() && committed(&p) == 1);
        }
        assert!(proc.grow_ahead() && committed(&p) == 2);
        assert!(!proc.grow_ahead(), "one was asked for");
    }

    #[test]
    fn a_chunk_that_another_commits_meanwhile_is_left_to_it() {
        let p = P::lease(Segment::create(&SegmentConfig::default()).expect("memory")).expect("a P");
        let proc = p.proc();
        proc.grow_until.set(3);
        assert!(proc.grow_ahead() && proc.seg.grow(0, proc.me).is_ok());
        let steps = std::iter::repeat_with(|| proc.grow_ahead()).take_while(|&more| more);
        // One to see it, then the next one, from its beginning.
        assert_eq!((steps.count(), committed(&p)), (1 + PIECES, 3));
    }

    #[test]
    fn who_looks_ahead_sees_what_the_goal_allows() {
        let config = SegmentConfig {
            max_bytes: 512 << 20,
            ..SegmentConfig::default()
        };
        let p = P::lease(Segment::create(&config).expect("memory")).expect("a P");
        let (proc, gc) = (p.proc(), &p.segment().hdr.gc);
        proc.seg
            .grow(31 * shm_layout::CHUNK_PAGES, proc.me)
            .expect("memory");
        let asked = |live_mb: u64, goal_mb: u64| {
            proc.grow_until.set(0);
            gc.heap_live.0.store(live_mb << 20, Relaxed);
            gc.goal.store(goal_mb << 20, Relaxed);
            proc.look_ahead();
            proc.grow_until.get()
        };
        // 128 MiB: a sixteenth, two chunks, is to be there beyond what is taken.
        assert_eq!(committed(&p), 32);
        assert_eq!(asked(100, 500), 0);
        assert_eq!(asked(120, 500), 33);
        assert_eq!(asked(127, 500), 34);
        assert_eq!(asked(127, 120), 0);
        // A heap at its limit of 128 chunks, and one that was refused memory.
        p.segment().hdr.committed_chunks.0.store(128, Relaxed);
        assert_eq!(asked(511, 600), 0);
        p.segment().hdr.committed_chunks.0.store(32, Relaxed);
        p.segment().hdr.stats.growth_refused.store(2, Relaxed);
        assert_eq!(asked(127, 500), 0);
    }

    fn object<'cx>(cx: &'cx Cx<'_>) -> Gc<'cx, Array<u64>> {
        cx.array::<u64>(1000).expect("room")
    }

    #[test]
    fn no_allocation_sweeps_or_commits_much() {
        let segment = Segment::create(&SegmentConfig {
            max_bytes: 256 << 20,
            gc_percent: -1,
            ..SegmentConfig::default()
        })
        .expect("memory");
        let mut p = P::lease(segment.clone()).expect("a P");
        // Live, all of it: whoever sweeps finds no page.
        let kept = p.enter(|cx| {
            let cx = &*cx;
            let all = cx.array::<Slot<Array<u64>>>(5000).expect("room");
            all.iter().for_each(|slot| slot.store(cx, Some(object(cx))));
            cx.handle(all)
        });
        assert!(p.collect());
        let done = || {
            let committed = segment.hdr.committed_chunks.0.load(Relaxed);
            (segment.hdr.gc.pages_swept.load(Relaxed), committed)
        };
        let before = done();
        p.enter(|cx| {
            let cx = &*cx;
            for _ in 0..2000 {
                let (swept, committed) = done();
                object(cx);
                let (swept_now, committed_now) = done();
                let blocks = (swept_now - swept) / super::BLOCK_PAGES as u64;
                assert!(blocks <= BLOCKS, "{blocks} blocks at once");
                assert!(committed_now <= committed + 1, "several chunks at once");
            }
        });
        drop(kept);
        // The case that this is about has happened: the heap grew while spans were waiting for a sweeper.
        assert!(done().1 > before.1, "{before:?} {:?}", done());
    }
}
