//! Starting a cycle, and taking it from handshake to handshake (Go's gcStart; `gc_step` is ours: nobody owns a cycle).
//!
//! 1. When the pacer or a person wants a cycle, and everybody has acknowledged "off": sweep what is left, empty stale buffers,
//!    start workers for P's without one, compute the pacer's figures. 2. `OFF -> BARRIER`. 3. All acknowledged: `BARRIER -> BLACK`.
//! 4. All acknowledged: count the root jobs, `BLACK -> MARK` (rule 1: two handshakes before the first object is blackened).
//!
//! Every preparation is idempotent and belongs to no one; every transition is one compare-exchange. The end is in `gc_mark_done`.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{trace::ev, word::PhaseWord};

use super::{
    gc_bg_mark_worker::any_worker_running, gc_controller, handshake::acknowledged, markroot,
};
use crate::{api::Inside, failpoint, sched::proc::Proc, segment::Segment, time::now_ns, twin};

/// Why a cycle was started. The numbers are those of `coheap_gc_cycles_total{trigger}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Trigger {
    /// The heap grew to the pacer's trigger.
    Pace = 0,
    /// The heap came near its limit.
    Limit = 1,
    /// Somebody asked.
    Forced = 2,
}

/// Asks for a cycle that begins after this call; returns the number of the cycle to wait for.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// assert_eq!(coheap::gc::request(&segment), 1);
/// ```
pub fn request(segment: &Segment) -> u32 {
    let phase = segment.phase();
    // A cycle that is already marking may have passed what the caller wants collected: then the next one.
    let wanted = phase.cycle() + 1;
    segment.hdr.gc.requested_cycle.fetch_max(wanted, AcqRel);
    crate::sched::wake::wake_all(segment);
    wanted
}

/// The cycle whose marking has ended last.
pub(crate) fn finished_cycle(segment: &Segment) -> u32 {
    let phase = segment.phase();
    if phase.kind() == PhaseWord::OFF {
        phase.cycle()
    } else {
        phase.cycle().wrapping_sub(1)
    }
}

/// Should a cycle start now, and why?
pub(crate) fn wanted(segment: &Segment, phase: PhaseWord) -> Option<Trigger> {
    let gc = &segment.hdr.gc;
    if gc.requested_cycle.load(Relaxed) > phase.cycle() {
        return Some(Trigger::Forced);
    }
    let live = gc.heap_live.0.load(Relaxed);
    if live < gc.trigger.0.load(Relaxed) {
        return None;
    }
    Some(if live >= gc.soft_limit.load(Relaxed) {
        Trigger::Limit
    } else {
        Trigger::Pace
    })
}

impl Proc {
    /// Takes the cycle a step further if nothing is in the way. Cheap when there is nothing to do; inside or outside a scope.
    pub(crate) fn gc_step(&self) {
        let phase = self.seg.phase();
        match phase.kind() {
            PhaseWord::OFF => {
                if let Some(trigger) = wanted(&self.seg, phase) {
                    self.gc_start(phase, trigger);
                }
            }
            PhaseWord::BARRIER if acknowledged(&self.seg, phase) => self.turn_black(phase),
            PhaseWord::BLACK if acknowledged(&self.seg, phase) => self.start_marking(phase),
            _ => {}
        }
    }

    /// `gcstress`: an allocation asks for a cycle, and takes the one there is a step further.
    #[cold]
    pub(crate) fn stress_collector(&self) {
        if self.seg.phase().kind() == PhaseWord::OFF {
            request(&self.seg);
        }
        self.gc_step();
    }

    fn gc_start(&self, phase: PhaseWord, trigger: Trigger) {
        // In a scope: a P that is late in here has not acknowledged the barrier, so what it resets below is not in use yet; and
        // whoever stops the world stops sweeping too.
        let outside = !self.inside.get() && !twin!("start-outside");
        let _inside = outside.then(|| Inside::enter(self));
        if self.verification_due(phase) {
            return;
        }
        if self.seen.get() != phase || !acknowledged(&self.seg, phase) || !self.sweep_all() {
            return;
        }
        // A worker that was claimed when the last cycle ended may still be on its way out; it must not meet this one's work.
        if any_worker_running(&self.seg) {
            return;
        }
        self.gc_bg_mark_start_workers();
        self.gc_bg_mark_prepare(phase.cycle().wrapping_add(1), trigger);
        failpoint!("gc.prepared");
        let first = if twin!("one-handshake") {
            PhaseWord::BLACK
        } else {
            PhaseWord::BARRIER
        };
        let next = phase.next(first).with_cycle(phase.cycle().wrapping_add(1));
        // SeqCst: store, then look at scope words (`handshake`).
        if self
            .seg
            .hdr
            .gc
            .phase
            .0
            .compare_exchange(phase.0, next.0, SeqCst, Relaxed)
            .is_ok()
        {
            failpoint!("gc.barrier");
            self.trace(ev::GC_START, next.cycle(), trigger as u32);
            crate::sched::wake::wake_all(&self.seg);
        }
    }

    /// Resets what a cycle counts (Go's gcBgMarkPrepare and startCycle). Idempotent, and before the phase that uses it.
    fn gc_bg_mark_prepare(&self, cycle: u32, trigger: Trigger) {
        let gc = &self.seg.hdr.gc;
        gc.root_jobs.store(0, Release);
        gc.root_next.store(0, Release);
        gc.bytes_marked.0.store(0, Release);
        gc.bg_scan_credit.0.store(0, Release);
        gc.scan_work.0.store(0, Release);
        gc.rounds.store(0, Relaxed);
        gc.trigger_kind.store(trigger as u32, Relaxed);
        gc.at_ns[0].store(now_ns(), Relaxed);
        gc.live_at_start
            .store(gc.heap_live.0.load(Relaxed), Relaxed);
        for (sum, at_start) in self
            .seg
            .hdr
            .stats
            .mark_ns
            .iter()
            .zip(&self.seg.hdr.stats.mark_ns_at_start)
        {
            at_start.store(sum.load(Relaxed), Relaxed);
        }
        gc_controller::start_cycle(&self.seg);
        debug_assert!(cycle != 0);
    }

    /// Outside a scope this P may stand in here while others end the cycle and begin the next: the word compared names both.
    pub(crate) fn turn_black(&self, phase: PhaseWord) {
        self.seg.hdr.gc.at_ns[1].store(now_ns(), Relaxed);
        failpoint!("gc.barrier_everywhere");
        let phase = if twin!("no-cycle-tag") && self.seg.phase().kind() == phase.kind() {
            self.seg.phase()
        } else {
            phase
        };
        let next = phase.next(PhaseWord::BLACK);
        if twin!("phase-by-store") {
            self.seg.hdr.gc.phase.0.store(next.0, SeqCst);
        }
        if self
            .seg
            .hdr
            .gc
            .phase
            .0
            .compare_exchange(phase.0, next.0, SeqCst, Relaxed)
            .is_ok()
        {
            self.trace(ev::GC_PHASE, PhaseWord::BLACK.into(), next.cycle());
        }
    }

    fn start_marking(&self, phase: PhaseWord) {
        let gc = &self.seg.hdr.gc;
        gc.at_ns[2].store(now_ns(), Relaxed);
        // Everybody who gets here stores the same or a larger number; tasks beyond it are born under the barrier.
        gc.root_jobs.fetch_max(markroot::jobs(&self.seg), AcqRel);
        failpoint!("gc.black_everywhere");
        let next = phase.next(PhaseWord::MARK);
        if gc
            .phase
            .0
            .compare_exchange(phase.0, next.0, SeqCst, Acquire)
            .is_ok()
        {
            failpoint!("gc.marking");
            self.trace(ev::GC_PHASE, PhaseWord::MARK.into(), next.cycle());
            crate::sched::wake::wake_all(&self.seg);
        }
    }
}
