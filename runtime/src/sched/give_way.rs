//! Giving way: where P's outnumber processors, a P ends its turn by itself, at a place of its choice.
//!
//! The kernel takes a processor away at its ticks, every 4 ms on most machines and wherever the P happens to be: often inside a scope,
//! where a handshake has to wait until it has run again, and so has the thread that somebody has killed, which must run to die.
//! 1. A turn lasts [`TURN_NS`]. 2. Where one step, scope or piece of marking ends, and the turn with it, the P says `sched_yield`, outside,
//! where nobody waits for it. 3. A scope that does not end is looked at where it allocates, every [`LOOK_BYTES`]; it gives way inside when it is
//! twice as long as a turn. Where P's have enough processors nobody gives way: the kernel is told nothing, and other programs gain nothing.
//!
//! Private to a P; a death leaves nothing behind. Under the explorer there is no time, and nobody gives way.
//! **Measured**: of two survivors and a computing victim on two processors, detection p99 5.1 -> 0.56 ms, longest gap p99 4.6 -> 2.0 ms; a
//! program of 16 P's takes 0.81 of the time with 64 MB live, 1.04 with nothing live (bench/README.md).
//! **Rejected:** shorter slices (`sched_setattr`): without a high-resolution tick the kernel looks at them at its ticks only. Turns
//! of a millisecond: detection p99 1.05 ms.

use std::sync::atomic::Ordering::Relaxed;

use shm_layout::{proc::ProcRecord, word::ProcWord};

use super::{hold_back::processors, proc::Proc};
use crate::time::now_ns;

/// How long a P goes on at most while others wait for its processor.
const TURN_NS: u64 = 500_000;
/// Allocated bytes between two looks at the clock: at least 25 microseconds' worth.
const LOOK_BYTES: usize = 256 << 10;

impl Proc {
    /// At an edge, outside a scope, at `now`: ends the turn when it has lasted long enough.
    #[inline]
    pub(crate) fn give_way(&self, now: u64) {
        if now >= self.turn_ends_ns.get() && !cfg!(feature = "model") {
            self.end_turn();
        }
    }

    /// A turn begins: this thread has just been given a processor.
    pub(crate) fn begin_turn(&self) {
        self.turn_ends_ns.set(now_ns() + TURN_NS);
    }

    #[cold]
    fn end_turn(&self) {
        if self.is_crowded() {
            std::thread::yield_now();
            // The next step begins when this P has its processor again.
            self.step_ended_ns.set(0);
        }
        self.look_ahead();
        self.begin_turn();
    }

    /// An allocation inside a scope takes `bytes` of the heap: sees to it that the turn ends soon when it should.
    #[inline]
    pub(crate) fn look_at_turn(&self, bytes: usize) {
        let bytes = self.turn_bytes.get() + bytes;
        self.turn_bytes.set(bytes);
        if bytes >= LOOK_BYTES && !cfg!(feature = "model") {
            self.turn_bytes.set(0);
            self.end_turn_soon(now_ns());
        }
    }

    #[cold]
    fn end_turn_soon(&self, now: u64) {
        let late = now.saturating_sub(self.turn_ends_ns.get());
        if late == 0 {
            return;
        }
        // The edge of this scope ends the turn (`help_at_edge`).
        self.collector_due.set(true);
        // No edge has come. A handshake that waits for this one comes first.
        if late > TURN_NS && self.seen.get() == self.seg.phase() {
            self.end_turn();
        }
    }

    /// Are there more P's that may want a processor than processors?
    fn is_crowded(&self) -> bool {
        let sched = &self.seg.hdr.sched;
        let asleep = |p: usize| sched.idle.0[p / 64].load(Relaxed) >> (p % 64) & 1 != 0;
        let live = |r: &ProcRecord| ProcWord(r.word.0.load(Relaxed)).state() == ProcWord::LIVE;
        let used = self.seg.used_procs().iter().enumerate();
        used.take(sched.gomaxprocs.0.load(Relaxed) as usize)
            .filter(|&(p, record)| live(record) && !asleep(p))
            .nth(processors())
            .is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{atomic::Ordering::Relaxed, mpsc},
        thread,
    };

    use super::TURN_NS;
    use crate::{
        P, Segment, SegmentConfig,
        api::Inside,
        sched::{hold_back::processors, proc::Proc},
    };

    /// Runs `f` with a P beside `others` that want a processor.
    fn beside<R>(others: usize, f: impl FnOnce(&Proc) -> R) -> R {
        let segment = Segment::create(&SegmentConfig::default()).expect("a small segment");
        let p = P::lease(segment.clone()).expect("a P");
        // Each other one ends when its sender is gone, by a panic of `f` too.
        let (senders, threads): (Vec<_>, Vec<_>) = (0..others)
            .map(|_| {
                let (over, until_over) = mpsc::channel::<()>();
                let (leased, is_leased) = mpsc::channel();
                let segment = segment.clone();
                let thread = thread::spawn(move || {
                    let _p = P::lease(segment).expect("a P");
                    leased.send(()).expect("somebody waits for it");
                    // An error: nobody will send anything.
                    let _ = until_over.recv();
                });
                is_leased.recv().expect("a P");
                (over, thread)
            })
            .unzip();
        let result = f(p.proc());
        drop(senders);
        for thread in threads {
            thread.join().expect("no panic");
        }
        result
    }

    /// Does the P give way, by `end` called with its turn ended? Then the next step looks at the clock by itself.
    fn gives_way(p: &Proc, end: impl FnOnce(&Proc)) -> bool {
        p.turn_ends_ns.set(1000);
        p.step_ended_ns.set(1);
        end(p);
        p.step_ended_ns.get() == 0
    }

    #[test]
    fn at_an_edge_only_those_beyond_the_processors_give_way() {
        for (others, expected) in [(processors() - 1, false), (processors(), true)] {
            beside(others, |p| {
                assert!(!gives_way(p, |p| p.give_way(999)));
                assert_eq!(p.turn_ends_ns.get(), 1000, "the turn has not ended");
                assert_eq!(gives_way(p, |p| p.give_way(1000)), expected);
                assert!(p.turn_ends_ns.get() > 1000, "the next turn has begun");
            });
        }
    }

    #[test]
    fn a_sleeping_p_wants_no_processor() {
        beside(processors(), |p| {
            p.seg.hdr.sched.idle.0[0].fetch_or(2, Relaxed);
            assert!(!gives_way(p, |p| p.give_way(1000)));
        });
    }

    #[test]
    fn a_long_scope_is_asked_for_an_edge_first() {
        beside(processors(), |p| {
            // Nobody's handshake waits.
            drop(Inside::enter(p));
            let asked = |late| {
                p.collector_due.set(false);
                let gave = gives_way(p, |p| p.end_turn_soon(1000 + late));
                (p.collector_due.get(), gave)
            };
            assert_eq!(asked(0), (false, false));
            assert_eq!(asked(TURN_NS), (true, false));
            assert_eq!(asked(TURN_NS + 1), (true, true));
        });
    }
}
