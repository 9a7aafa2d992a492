//! The write barrier: Dijkstra insertion. Whoever stores a reference shades it first.
//!
//! Stores into a `Slot`, a handle, a root, a queue, a context, and the initialising stores of a new object all come through here.
//! Whether the barrier is on is fixed for the length of a scope. *Shade, then store* (rule 2): a death between the two leaves
//! floating garbage, never an unmarked live object. The barrier is unconditional on the colour of the object stored into, so it
//! needs no fence between them.
//! **If the P dies while shading**, `in progress: shade` names the object: recovery marks it and pushes it.

use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use shm_layout::{Ref, sync::AtomicU64};

use crate::{failpoint, heap::marks, planted, sched::proc::Proc, twin};

impl Proc {
    /// Shades `r` if the barrier is on; nil needs none.
    #[inline]
    pub(crate) fn write_barrier(&self, r: Ref) {
        let skipped = twin!("no-barrier") || planted!(BarrierMissed);
        if self.barrier.get() && r != 0 && !skipped {
            let bits = self.seg.marks_of(self.seen.get().cycle());
            // Most are black: made in this cycle.
            if !marks::is_marked(bits, r) {
                self.shade(bits, r);
            }
        }
    }

    #[cold]
    fn shade(&self, bits: &[AtomicU64], r: Ref) {
        // Rule 3: record, then mark, then push, then clear the record.
        if !twin!("shade-without-record") {
            self.rec.now.0.shade.store(r, Release);
        }
        failpoint!("barrier.recorded");
        // Rule 4: a round that began before this must not end clean. SeqCst: partner of the look in `gc_mark_done`. Read first: it mostly
        // says so already, and every P that shades would fight for its line. A "1" that is being cleared meanwhile is no loss: who
        // clears it begins a round afterwards, which waits for this scope, and the scope's end says so again (`gcw_dispose`).
        let dirty = &self.seg.hdr.gc.dirty.0;
        if dirty.load(Relaxed) == 0 {
            dirty.store(1, SeqCst);
        }
        if marks::mark(bits, r) {
            crate::failpoint::ghost!(self.seg, Greyed);
            failpoint!("barrier.marked");
            self.gcw_put(r);
            failpoint!("barrier.pushed");
        }
        self.rec.now.0.shade.store(0, Release);
    }
}
