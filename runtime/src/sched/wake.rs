//! Parking and waking P's: futex words in the segment, shared, always timed.
//!
//! A P that goes to sleep sets its bit in the idle mask, looks once more whether there is anything to run (the same question that
//! its scheduler asks), and waits on its event count. Whoever makes work sets it up first and looks at the mask then. Both are
//! sequentially consistent, so one sees the other. **If the waker dies** between store and wake, the sleeper's time-out finds the
//! work; recovery wakes everybody.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, SeqCst},
    time::Duration,
};

use crate::{failpoint, futex, sched::proc::Proc, segment::Segment};

/// Wakes P `p` if it sleeps.
pub(crate) fn wake(segment: &Segment, p: usize) {
    let bit = 1u64 << (p % 64);
    if segment.hdr.sched.idle.0[p / 64].fetch_and(!bit, SeqCst) & bit != 0 {
        bump(segment, p);
    }
}

/// Wakes P `p` if it sleeps, so that its owner is asked "between" at once: for a thread beside the P's that has something for it. A P that is about to
/// fall asleep may miss it, and looks up 10 ms later.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// coheap::sched::poke(&segment, 0);
/// ```
pub fn poke(segment: &Segment, p: usize) {
    wake(segment, p);
}

/// Wakes one sleeping P, if any, unless some P is looking for work already.
pub(crate) fn wake_one(segment: &Segment) {
    if segment.hdr.sched.spinning.0.load(SeqCst) != 0 {
        return;
    }
    wake_any(segment);
}

fn wake_any(segment: &Segment) -> bool {
    for (w, mask) in segment.hdr.sched.idle.0.iter().enumerate() {
        let mut idle = mask.load(SeqCst);
        while idle != 0 {
            let bit = idle & idle.wrapping_neg();
            if mask.fetch_and(!bit, SeqCst) & bit != 0 {
                bump(segment, w * 64 + bit.trailing_zeros() as usize);
                return true;
            }
            idle &= !bit;
        }
    }
    false
}

/// Wakes every sleeping P.
pub(crate) fn wake_all(segment: &Segment) {
    while wake_any(segment) {}
}

fn bump(segment: &Segment, p: usize) {
    let ev = &segment.procs[p].ev.0;
    ev.fetch_add(1, SeqCst);
    failpoint!("wake.stored");
    futex::wake(ev, u32::MAX >> 1);
}

impl Proc {
    /// Sleeps until woken, at most for `patience`. `nothing` is asked once more after the sleep has been announced.
    pub(crate) fn stop_p(&self, patience: Duration, nothing: impl FnOnce() -> bool) {
        let p = self.index();
        let ev = self.rec.ev.0.load(Acquire);
        self.seg.hdr.sched.idle.0[p / 64].fetch_or(1 << (p % 64), SeqCst);
        failpoint!("park.announced");
        if nothing() {
            self.rec.stats.0.sleeps.fetch_add(1, Relaxed);
            futex::wait(&self.rec.ev.0, ev, patience);
            self.begin_turn();
            if self.rec.ev.0.load(Acquire) != ev {
                self.rec.stats.0.woken.fetch_add(1, Relaxed);
            }
        }
        self.seg.hdr.sched.idle.0[p / 64].fetch_and(!(1 << (p % 64)), SeqCst);
    }
}
