//! Scope edges: the only safepoints there are.
//!
//! Inside a scope a P may hold references on its stack, and works under the phase it saw on the way in; outside it holds none, and
//! needs nothing from anyone. **Enter**: store the scope word ("inside, under this phase"), then look at the phase word once more;
//! if it has moved, take over the new phase and try again. The collector stores a new phase, then looks at the scope words. Both
//! sides store before they look, sequentially consistent, so one of them sees the other: a P is either met by a handshake or
//! enters under the new phase. **Leave** is a store.
//!
//! **If the P dies inside**, its scope word stays "inside" until recovery, which a handshake waits for: what the P was in the
//! middle of is settled first.

use crate::throw::throw_unless;
use std::{
    sync::atomic::Ordering::{Release, SeqCst},
    time::Duration,
};

use shm_layout::word::PhaseWord;

use super::proc::Proc;
use crate::{failpoint, futex, heap::sweep::sweepgen_of, time::now_ns};

/// Set in the scope word while inside.
const INSIDE: u64 = 1 << 3;

/// Is this the scope word of a P that may hold references?
#[inline]
pub(crate) fn is_inside(scope: u64) -> bool {
    scope & INSIDE != 0
}

/// The phase in a scope word.
#[inline]
pub(crate) fn phase_in(scope: u64) -> PhaseWord {
    PhaseWord(scope & !INSIDE)
}

impl Proc {
    /// Enters a scope.
    #[inline]
    pub(crate) fn enter_scope(&self) {
        let seen = self.seen.get();
        self.inside.set(true);
        // SeqCst: see the module: store, then look.
        self.rec.scope.0.swap(seen.0 | INSIDE, SeqCst);
        if self.seg.phase() != seen {
            self.enter_new_phase();
        }
    }

    /// Leaves the scope.
    #[inline]
    pub(crate) fn leave_scope(&self) {
        if self.barrier.get() {
            self.leave_marking();
        }
        self.inside.set(false);
        // Release: everything done inside comes before "outside"; partner of the collector's SeqCst look.
        self.rec.scope.0.store(self.seen.get().0, Release);
    }

    /// What was shaded must be in everybody's reach before "outside" is said: an outside P keeps nothing grey.
    #[cold]
    fn leave_marking(&self) {
        if !self.gcw.is_empty() {
            self.gcw_dispose();
        }
        self.flush_marked();
    }

    #[cold]
    fn enter_new_phase(&self) {
        let started = now_ns();
        loop {
            let phase = self.seg.phase();
            if phase.kind() == PhaseWord::STOPPED {
                self.wait_for_start(phase);
                continue;
            }
            self.rec.scope.0.swap(phase.0 | INSIDE, SeqCst);
            failpoint!("scope.seen");
            if self.seg.phase() == phase {
                self.take_over(phase);
                break;
            }
        }
        self.note_pause(now_ns() - started);
    }

    /// Waits outside until the world is started again; helps when its stopper has died.
    fn wait_for_start(&self, stopped: PhaseWord) {
        self.rec.scope.0.store(self.seen.get().0, SeqCst);
        let word = &self.seg.hdr.gc.phase.0;
        futex::wait(
            futex::low_half(word),
            stopped.0 as u32,
            Duration::from_millis(1),
        );
        if self.seg.phase() == stopped {
            crate::recover::recover_dead(&self.seg);
        }
    }

    /// What this P has marked goes into the cycle's sum at each of its handshakes. What is left when the cycle is over belongs to no sum:
    /// slots returned since were marked in that cycle, and would be missing in the next one's.
    fn settle_marked(&self, before: PhaseWord, phase: PhaseWord) {
        let over = before.cycle() != phase.cycle() || phase.kind() == PhaseWord::OFF;
        if over {
            self.unflushed_marked.set(0);
        } else if phase.black() {
            self.flush_marked();
        }
    }

    /// The flush work of a handshake, done by the P for itself.
    fn take_over(&self, phase: PhaseWord) {
        throw_unless!(
            phase.kind() != PhaseWord::OFF || self.gcw.is_empty(),
            "P has cached GC work at end of mark termination"
        );
        let before = self.seen.get();
        if sweepgen_of(before) != sweepgen_of(phase) || before.0 == 0 {
            self.give_up_spans();
            self.page_hint.set(self.home_word());
        }
        // After the spans were given up, and before runs are painted: these count for the cycle that begins.
        self.settle_marked(before, phase);
        self.seen.set(phase);
        if phase.black() && !self.black.get() {
            self.blacken_runs();
        }
        if before.cycle() != phase.cycle() {
            self.start_assist_account();
            self.held_back_ns.set(0);
        }
        self.barrier.set(phase.barrier());
        self.collector_due.set(phase.barrier());
        self.black.set(phase.black());
    }
}
