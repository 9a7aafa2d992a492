//! Holding steps back while the heap has outrun the collector: what Go's assists do by parking.
//!
//! A step cannot be parked in the middle, so its successor waits. Assists (`gc::gc_assist`) keep the balance in ordinary cycles;
//! this is for what they cannot reach: a P that holds up a handshake because the kernel has descheduled it inside its scope.
//! 1. The heap is above its goal by a tenth and [`SLACK_BYTES`]. 2. This P marks, if there is anything to mark. 3. Otherwise it sleeps
//! for [`HOLD_BACK_NAP`] and looks again, [`HOLD_BACK_NS`] in one cycle at most: a process that was stopped inside a scope delays
//! the cycle, not the work of the others.
//!
//! No state in the segment but the wait itself, which is bounded: a death leaves nothing behind.

use std::{
    sync::{OnceLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::{
    futex,
    gc::gc_controller::active_procs,
    sched::{find_runnable::activity, proc::Proc},
    time::now_ns,
};

/// The heap may be a tenth above its goal, and this much, before steps wait for the collector.
const SLACK_BYTES: u64 = 1 << 20;
/// How long such a step waits before it looks again: this for each P that shares its processor.
const HOLD_BACK_NAP: Duration = Duration::from_micros(500);
/// How long a P waits for the collector in one cycle.
const HOLD_BACK_NS: u64 = 100_000_000;

impl Proc {
    /// Waits, or helps the collector, if the heap has outrun it: false when this P may begin a step.
    pub(crate) fn hold_back(&self) -> bool {
        let held = self.held_back_ns.get();
        if !self.outrun() || held >= patience_of_a_cycle() {
            return false;
        }
        self.step_ended_ns.set(0);
        if self.collector_work(true) {
            return true;
        }
        let started = now_ns();
        let sharing = (active_procs(&self.seg) / processors()).max(1) as u32;
        if sharing > 1 {
            self.step_aside(HOLD_BACK_NAP * sharing);
        } else {
            // Woken by a published work buffer or the end of the cycle. Short, because a handshake's last P wakes nobody.
            self.stop_p(HOLD_BACK_NAP, || {
                self.outrun() && !self.collector_work_in_sight()
            });
        }
        self.held_back_ns.set(held + (now_ns() - started));
        // What the collector waits for may be dead.
        crate::recover::recover_dead(&self.seg);
        true
    }

    /// Waits for the end of the cycle where P's share processors. Not as a sleeping P: each task that somebody puts into a queue would
    /// wake one, to see that it may not run it. Nobody's help is missed: another P has the processor and takes the cycle further.
    fn step_aside(&self, patience: Duration) {
        self.rec.activity.store(activity::IDLE, Relaxed);
        let phase = self.seg.phase();
        if self.outrun() {
            // Woken by `mark_termination`; a phase that has moved meanwhile is seen by the kernel.
            let word = futex::low_half(&self.seg.hdr.gc.phase.0);
            futex::wait(word, phase.0 as u32, patience);
            self.begin_turn();
        }
    }

    /// Is the heap above its goal by more than the collector should have let it?
    fn outrun(&self) -> bool {
        let gc = &self.seg.hdr.gc;
        let goal = gc.goal.load(Relaxed);
        let hard = goal.saturating_add(goal / 10).saturating_add(SLACK_BYTES);
        gc.heap_live.0.load(Relaxed) > hard
    }
}

/// Processors that this process may run on.
pub(super) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// How long a P may be held back in one cycle. Longer where the cycle does the work of a debugger.
fn patience_of_a_cycle() -> u64 {
    let debug = crate::gc::gctrace::debug();
    if debug.checkmark || debug.verify {
        HOLD_BACK_NS * 100
    } else {
        HOLD_BACK_NS
    }
}
