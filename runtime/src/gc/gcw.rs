//! The `gcw`: a P's cache of grey references, two buffers of 2 KiB in the segment (Go's wbuf1 and wbuf2).
//!
//! One buffer is filled and emptied; the other is slack, so that a P at the border of a buffer does not go to the global pool for
//! every object. A buffer's word owns it; `in progress: gcw` names the two for recovery. Publishing is one compare-exchange of
//! the buffer's word, after which its bit in the finder is set.
//!
//! **Invariants.** G1: a reference in a buffer below `len` is marked, and not yet scanned; in the active buffer of a P that is draining
//! it may have been scanned (`gc_drain` lowers `len` late). G2: outside a scope and outside a
//! mark worker a P's buffers are empty, so nobody needs to look into an outside P. G3: while the phase is "off" no buffer is
//! published.
//! **If the owner dies** its buffers are published or freed by recovery, after which its in-flight references are pushed again.
//! **Rejected:** an unbounded mark stack per P (256 of them), Go's lock-free lists (a popped node in a dead register is lost).

use std::{
    cell::Cell,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use shm_layout::{
    Ref,
    geometry::WORKBUF_STEP,
    word::{BufWord, Owner, PhaseWord},
    workbuf::{WORKBUF_BYTES, WORKBUF_REFS, Workbuf},
};

use crate::{
    error::Result,
    failpoint, planted,
    sched::proc::Proc,
    segment::{Segment, limits},
};

/// The two buffers, as indices plus one; 0 none.
pub(crate) struct Gcw {
    bufs: [Cell<u32>; 2],
}

impl Gcw {
    pub fn new() -> Gcw {
        Gcw {
            bufs: [Cell::new(0), Cell::new(0)],
        }
    }

    #[cfg(feature = "model")]
    pub fn image(&self) -> [u32; 2] {
        [self.bufs[0].get(), self.bufs[1].get()]
    }

    #[cfg(feature = "model")]
    pub fn put_back(&self, image: [u32; 2]) {
        self.bufs[0].set(image[0]);
        self.bufs[1].set(image[1]);
    }

    /// Has it no buffer? A P that holds buffers may hold grey references.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bufs[0].get() == 0
    }
}

impl Proc {
    /// Adds a grey reference. The caller has recorded it (rule 3), so it may die in here.
    #[inline]
    pub(crate) fn gcw_put(&self, r: Ref) {
        let full =
            self.gcw.bufs[0].get() == 0 || self.buf(0).len.load(Relaxed) as usize == WORKBUF_REFS;
        if full && !self.make_room() {
            // No buffer to be had: the object stays marked, in nobody's keeping, and the whole heap is looked through again
            // before marking may end (`gc_mark_done`).
            self.seg.hdr.gc.overflow.fetch_add(1, SeqCst);
            return;
        }
        let buf = self.buf(0);
        let n = buf.len.load(Relaxed);
        buf.refs[n as usize].store(r, Relaxed);
        // Release: the entry before the length that covers it, for recovery.
        buf.len.store(n + 1, Release);
    }

    /// The active buffer.
    pub(crate) fn gcw_active(&self) -> Option<&'static Workbuf> {
        (self.gcw.bufs[0].get() != 0).then(|| self.buf(0))
    }

    #[inline]
    fn buf(&self, k: usize) -> &'static Workbuf {
        let seg = &self.seg;
        &seg.bufs[self.gcw.bufs[k].get() as usize - 1]
    }

    fn set_buf(&self, k: usize, index_plus_1: u32) {
        self.gcw.bufs[k].set(index_plus_1);
        self.rec.now.0.gcw[k].store(index_plus_1, Release);
    }

    fn swap_bufs(&self) {
        let (a, b) = (self.gcw.bufs[0].get(), self.gcw.bufs[1].get());
        // Both names stand in both places for a moment: recovery may see one buffer twice, never miss one.
        self.rec.now.0.workbuf.store(a, Release);
        self.set_buf(0, b);
        self.set_buf(1, a);
        self.rec.now.0.workbuf.store(0, Release);
    }

    /// The active buffer is empty: use the spare one, if it has work.
    pub(crate) fn gcw_swap_for_work(&self) -> bool {
        if self.gcw.bufs[1].get() != 0 && self.buf(1).len.load(Relaxed) > 0 {
            self.swap_bufs();
            return true;
        }
        false
    }

    /// The active buffer is full or absent: makes the spare one active; publishes it first if it is full too.
    #[cold]
    fn make_room(&self) -> bool {
        if self.gcw.bufs[1].get() != 0 {
            if self.buf(1).len.load(Relaxed) as usize == WORKBUF_REFS {
                let Some(fresh) = self.take_free_buf() else {
                    return false;
                };
                let full = self.gcw.bufs[1].get();
                self.replace_spare(fresh, full);
            }
            self.swap_bufs();
            return true;
        }
        let Some(fresh) = self.take_free_buf() else {
            return false;
        };
        self.set_buf(1, fresh);
        self.rec.now.0.workbuf.store(0, Release);
        if self.gcw.bufs[0].get() == 0 {
            let Some(fresh) = self.take_free_buf() else {
                return false;
            };
            self.set_buf(0, fresh);
            self.rec.now.0.workbuf.store(0, Release);
            return true;
        }
        self.swap_bufs();
        true
    }

    /// Gets grey references from the pool into the active buffer. False when there are none.
    pub(crate) fn gcw_fetch(&self) -> bool {
        while let Some(i) = self.seg.buf_full.first_below(0, self.seg.workbufs_used()) {
            let word = BufWord(self.seg.buf_words[i].load(Acquire));
            // Record, then take.
            self.rec.now.0.workbuf.store(i as u32 + 1, Release);
            let mine = word.moved(BufWord::OWNED, self.me);
            // AcqRel: Acquire pairs with the publisher's Release: its entries are ours to read.
            let won = word.state() == BufWord::FULL
                && self.seg.buf_words[i]
                    .compare_exchange(word.0, mine.0, AcqRel, Relaxed)
                    .is_ok();
            failpoint!("gcw.fetched");
            if won || BufWord(self.seg.buf_words[i].load(Acquire)).state() != BufWord::FULL {
                self.seg.buf_full.clear(i);
                // Somebody may have published it again between our look and the clearing.
                if !won && BufWord(self.seg.buf_words[i].load(SeqCst)).state() == BufWord::FULL {
                    self.seg.buf_full.set(i);
                }
            }
            if won {
                let empty = self.gcw.bufs[0].get();
                self.rec.now.0.workbuf2.store(empty, Release);
                self.set_buf(0, i as u32 + 1);
                if empty != 0 {
                    self.free_buf(empty as usize - 1);
                }
                self.rec.now.0.workbuf.store(0, Release);
                self.rec.now.0.workbuf2.store(0, Release);
                return true;
            }
        }
        self.rec.now.0.workbuf.store(0, Release);
        false
    }

    /// Shares work when others have none: publishes the spare buffer if it has any (Go's balance).
    pub(crate) fn gcw_balance(&self) {
        let spare = self.gcw.bufs[1].get();
        if spare == 0
            || self.buf(1).len.load(Relaxed) == 0
            || self.seg.buf_full.any_below(self.seg.workbufs_used())
        {
            return;
        }
        let Some(fresh) = self.take_free_buf() else {
            return;
        };
        self.replace_spare(fresh, spare);
    }

    /// Puts `fresh` in the place of the spare buffer `full`, which is published. Both are recorded until it is done.
    fn replace_spare(&self, fresh: u32, full: u32) {
        self.rec.now.0.workbuf2.store(full, Release);
        self.set_buf(1, fresh);
        self.rec.now.0.workbuf.store(0, Release);
        failpoint!("gcw.replaced");
        self.publish_buf(full as usize - 1);
        self.rec.now.0.workbuf2.store(0, Release);
    }

    /// Gives both buffers up: published where they hold work, free otherwise (G2). Says "dirty", because a round must not end
    /// that did not see this work (rule 4).
    ///
    /// A scope that is older than the end of marking may have shaded objects made after it. They concern no cycle, and the next one
    /// cannot begin before this scope has ended (G3): dropped.
    pub(crate) fn gcw_dispose(&self) {
        let over = self.seg.running_phase().kind() == PhaseWord::OFF;
        for k in [1, 0] {
            let index = self.gcw.bufs[k].get();
            if index == 0 {
                continue;
            }
            if !planted!(BufferNotRecorded) {
                self.rec.now.0.workbuf.store(index, Release);
            }
            self.set_buf(k, 0);
            if self.seg.bufs[index as usize - 1].len.load(Relaxed) > 0 && !over {
                self.seg.hdr.gc.dirty.0.store(1, SeqCst);
                self.publish_buf(index as usize - 1);
            } else {
                self.free_buf(index as usize - 1);
            }
            self.rec.now.0.workbuf.store(0, Release);
        }
    }

    fn publish_buf(&self, i: usize) {
        failpoint!("gcw.publishing");
        let word = BufWord(self.seg.buf_words[i].load(Relaxed));
        debug_assert_eq!((word.state(), word.owner()), (BufWord::OWNED, self.me));
        // Release: entries and length before the word.
        self.seg.buf_words[i].store(word.moved(BufWord::FULL, Owner::new(0, 0)).0, Release);
        failpoint!("gcw.published");
        self.seg.buf_full.set(i);
        crate::sched::wake::wake_one(&self.seg);
    }

    fn free_buf(&self, i: usize) {
        let word = BufWord(self.seg.buf_words[i].load(Relaxed));
        self.seg.bufs[i].len.store(0, Relaxed);
        self.seg.buf_words[i].store(word.moved(BufWord::FREE, Owner::new(0, 0)).0, Release);
        failpoint!("gcw.freed");
        self.seg.buf_free.set(i);
    }

    /// An empty buffer, index plus one, recorded in `in progress: workbuf`.
    fn take_free_buf(&self) -> Option<u32> {
        loop {
            let i = match self.seg.buf_free.first_below(0, self.seg.workbufs_used()) {
                Some(i) => i,
                None => new_buf(&self.seg).ok()??,
            };
            self.rec.now.0.workbuf.store(i as u32 + 1, Release);
            self.seg.buf_free.clear(i);
            let word = BufWord(self.seg.buf_words[i].load(Acquire));
            let mine = word.moved(BufWord::OWNED, self.me);
            if word.state() == BufWord::FREE
                && self.seg.buf_words[i]
                    .compare_exchange(word.0, mine.0, AcqRel, Relaxed)
                    .is_ok()
            {
                failpoint!("gcw.taken");
                self.seg.bufs[i].len.store(0, Release);
                return Some(i as u32 + 1);
            }
        }
    }
}

/// A buffer that was never used, its memory reserved. `None` when the table is used up.
fn new_buf(segment: &Segment) -> Result<Option<usize>> {
    let high = &segment.hdr.sched.workbuf_high;
    loop {
        let i = high.load(Acquire) as usize;
        if i >= segment.geo.workbufs {
            return Ok(None);
        }
        if i.is_multiple_of(WORKBUF_STEP) {
            let n = WORKBUF_STEP.min(segment.geo.workbufs - i);
            limits::reserve(
                segment.fd(),
                segment.geo.workbufs_at + i * WORKBUF_BYTES,
                n * WORKBUF_BYTES,
            )?;
        }
        if high
            .compare_exchange(i as u32, i as u32 + 1, AcqRel, Relaxed)
            .is_ok()
        {
            return Ok(Some(i));
        }
    }
}

/// Makes every free buffer findable again. The dead may have raised the mark of used buffers, or hidden one that it was about to
/// take, and not have named it yet; who takes one decides by its word.
pub(crate) fn find_free_again(segment: &Segment) {
    let high = segment.hdr.sched.workbuf_high.load(Acquire) as usize;
    for (i, word) in segment.buf_words[..high].iter().enumerate() {
        let hidden = segment.buf_free.bits[i / 64].load(Relaxed) >> (i % 64) & 1 == 0;
        if hidden && BufWord(word.load(Acquire)).state() == BufWord::FREE {
            crate::probe!(segment, WorkbufHidden);
            segment.buf_free.set(i);
        }
    }
}

/// Settles a buffer that `dead` may own: published when it holds work, free otherwise.
pub(crate) fn settle_buf(segment: &Segment, dead: Owner, i: usize) {
    let word = BufWord(segment.buf_words[i].load(Acquire));
    match word.state() {
        BufWord::OWNED if word.owner() == dead => {
            // G3: what was shaded after the end of marking concerns no cycle; the dead P's scope keeps the next from beginning.
            let over = segment.running_phase().kind() == PhaseWord::OFF;
            let full = segment.bufs[i].len.load(Acquire) > 0 && !over;
            if full {
                crate::probe!(segment, WorkbufOwnedFull);
                segment.hdr.gc.dirty.0.store(1, SeqCst);
            } else {
                crate::probe!(segment, WorkbufOwnedEmpty);
            }
            if !full {
                segment.bufs[i].len.store(0, Relaxed);
            }
            let to = word.moved(
                if full { BufWord::FULL } else { BufWord::FREE },
                Owner::new(0, 0),
            );
            if segment.buf_words[i]
                .compare_exchange(word.0, to.0, AcqRel, Relaxed)
                .is_ok()
            {
                if full {
                    &segment.buf_full
                } else {
                    &segment.buf_free
                }
                .set(i);
            }
        }
        BufWord::FULL => {
            crate::probe!(segment, WorkbufPublished);
            segment.buf_full.set(i);
        }
        BufWord::FREE => {
            segment.buf_free.set(i);
        }
        _ => {}
    }
}

/// Publishes one grey reference on behalf of nobody: recovery pushes what a dead P had in flight.
pub(crate) fn publish_one(segment: &Segment, owner: Owner, r: Ref) {
    loop {
        let i = match segment.buf_free.first_below(0, segment.workbufs_used()) {
            Some(i) => i,
            None => match new_buf(segment) {
                Ok(Some(i)) => i,
                _ => {
                    segment.hdr.gc.overflow.fetch_add(1, SeqCst);
                    return;
                }
            },
        };
        segment.procs[owner.p as usize]
            .now
            .0
            .workbuf
            .store(i as u32 + 1, Release);
        segment.buf_free.clear(i);
        let word = BufWord(segment.buf_words[i].load(Acquire));
        let mine = word.moved(BufWord::OWNED, owner);
        if word.state() != BufWord::FREE
            || segment.buf_words[i]
                .compare_exchange(word.0, mine.0, AcqRel, Relaxed)
                .is_err()
        {
            continue;
        }
        segment.bufs[i].refs[0].store(r, Relaxed);
        segment.bufs[i].len.store(1, Release);
        segment.hdr.gc.dirty.0.store(1, SeqCst);
        segment.buf_words[i].store(mine.moved(BufWord::FULL, Owner::new(0, 0)).0, Release);
        segment.buf_full.set(i);
        segment.procs[owner.p as usize]
            .now
            .0
            .workbuf
            .store(0, Release);
        return;
    }
}

#[cfg(test)]
mod tests {
    use coheap::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[derive(Shared)]
    struct Node {
        left: Slot<Node>,
        right: Slot<Node>,
    }

    fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
        let node = cx.alloc(Node {
            left: Slot::nil(),
            right: Slot::nil(),
        })?;
        if depth > 0 {
            node.left.store(cx, Some(tree(cx, depth - 1)?));
            node.right.store(cx, Some(tree(cx, depth - 1)?));
        }
        Ok(node)
    }

    /// The table of buffers is used up: nothing can be pushed, so every level of the tree is found by looking through the heap again.
    #[test]
    fn marking_ends_without_any_buffer() {
        let segment = Segment::create(&SegmentConfig {
            max_bytes: 32 << 20,
            ..SegmentConfig::default()
        })
        .unwrap();
        let mut p = P::lease(segment.clone()).unwrap();
        let kept = p.enter(|cx| cx.handle(tree(cx, 10)?)).unwrap();
        segment
            .hdr
            .sched
            .workbuf_high
            .store(segment.geo.workbufs as u32, SeqCst);
        p.enter(|cx| tree(cx, 12).map(|_| ())).unwrap();
        assert!(p.collect());
        let report = gc::verify::verify_clean(&mut p, true).unwrap();
        assert_eq!(report.objects, (1 << 11) - 1);
        drop(kept);
        assert!(p.collect());
        assert_eq!(gc::verify::verify_clean(&mut p, true).unwrap().objects, 0);
    }
}
