//! Mark assists: an allocation in a cycle pays for itself in scan work, so that the heap cannot outrun the collector.
//!
//! 1. Allocating charges the P's account; below zero it owes scan work in proportion. 2. It takes credit of background workers
//! first. 3. What is left it does itself, inside its scope, in its own `gcw`, a bounded piece per allocation: the rest stays owed. It
//! never waits: what it cannot find it does not owe.
//! **Rejected:** Go's queue of parked assists: a step cannot be parked in the middle.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    gc_controller::{ASSIST_BYTES, HASTY_ASSIST_BYTES, OVER_ASSIST_BYTES},
    gc_drain::Until,
};
use crate::{sched::proc::Proc, time::now_ns, twin};

impl Proc {
    /// A new cycle: no debt, no advance.
    pub(crate) fn start_assist_account(&self) {
        self.assist_bytes.set(0);
        self.rec.stats.0.fractional_ns.store(0, Relaxed);
    }

    /// Charges `bytes` of allocation (Go's gcAssistAlloc).
    pub(crate) fn gc_assist_alloc(&self, bytes: i64) {
        let left = self.assist_bytes.get() - bytes;
        self.assist_bytes.set(left);
        if left < 0 && (self.seg.phase().blacken() || twin!("assist-unasked")) {
            self.assist();
        }
    }

    #[cold]
    fn assist(&self) {
        let gc = &self.seg.hdr.gc;
        let ratio = gc.assist_ratio.load(Relaxed).max(1);
        let debt = self.assist_bytes.get().unsigned_abs();
        let work = ((u128::from(debt) * u128::from(ratio)) >> 16) as u64;
        let most = if gc.heap_live.0.load(Relaxed) < gc.goal.load(Relaxed) {
            ASSIST_BYTES
        } else {
            HASTY_ASSIST_BYTES
        };
        let work = work.clamp(OVER_ASSIST_BYTES, most);
        let stolen = self.steal_credit(work);
        let mut done = stolen;
        if stolen < work {
            let started = now_ns();
            done += self.gc_drain(Until::Bytes(work - stolen), started);
            let ns = now_ns() - started;
            self.seg.hdr.stats.mark_ns[3].fetch_add(ns, Relaxed);
            self.rec.stats.0.mark_ns[3].fetch_add(ns, Relaxed);
            self.note_pause(ns);
        }
        // Out of work means there is nothing to pay with: marking is nearly over.
        let paid = if done < work {
            debt + OVER_ASSIST_BYTES
        } else {
            ((u128::from(done) << 16) / u128::from(ratio)) as u64
        };
        self.assist_bytes.set(self.assist_bytes.get() + paid as i64);
    }

    pub(crate) fn steal_credit(&self, work: u64) -> u64 {
        let credit = &self.seg.hdr.gc.bg_scan_credit.0;
        let available = credit.load(Relaxed);
        if available <= 0 {
            return 0;
        }
        // May dip below zero when several steal at once; the next ones find nothing. As in Go.
        let take = if twin!("credit-unasked") {
            work
        } else {
            work.min(available as u64)
        };
        credit.fetch_sub(take as i64, Relaxed);
        take
    }
}
