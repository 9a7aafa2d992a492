//! The end of marking (Go's gcMarkDone), without a stop: rounds of flush and re-check.
//!
//! A worker that finds no work left leaves its slot and comes here. 1. Clear "dirty". 2. *Quiet?* No published buffer, all root
//! jobs done, no other worker running: the worker words are read twice, and must not have moved. 3. `MARK -> ROUND`, a handshake.
//! 4. Wait until every P has acknowledged it: not by waiting, but by becoming `RUNNABLE`: whoever schedules next looks again.
//! 5. Quiet again, and nobody shaded, flushed or weakly loaded since step 1: `ROUND -> OFF`, marking is over. Otherwise
//! `ROUND -> MARK`, and the worker goes back to its slot.
//!
//! Why this is enough (rule 4): a clean round is a handshake that began with no grey object and during which none was made; so
//! every scope that could still hold a white reference has ended. The look of step 2 does not see what is grey in scopes (shaded, or
//! being scanned by an assist); whoever has it there says "dirty" before the scope ends, which is what the handshake waits for.
//! **If the process dies** at any step, the phase word says what is true; another worker, or an idle P that finds no worker
//! active, goes on. Two workers here at once are harmless: the phase word decides.

use crate::throw::throw_unless_debug;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use shm_layout::{
    MAX_WORKERS,
    trace::ev,
    word::{PhaseWord, WorkerWord},
};

use super::{
    checkmark, gc_bg_mark_worker::used_workers, gc_controller, gctrace, handshake::acknowledged,
    markroot, verify,
};
use crate::{failpoint, futex, heap::oracle::Oracles, sched::proc::Proc, time::now_ns, twin};

/// What a look at the end of marking found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum MarkDone {
    /// A round is on and not everybody has acknowledged it: look again later.
    Wait,
    /// There is more to mark, or somebody else decides.
    NotYet,
    /// Marking is over.
    Over,
}

impl Proc {
    /// Looks whether marking is over, as worker `g`, which has left its slot.
    pub(crate) fn gc_mark_done(&self, g: usize) -> MarkDone {
        let phase = self.seg.phase();
        match phase.kind() {
            PhaseWord::MARK => self.begin_round(g, phase),
            PhaseWord::ROUND => self.judge_round(g, phase),
            _ => MarkDone::NotYet,
        }
    }

    fn begin_round(&self, g: usize, phase: PhaseWord) -> MarkDone {
        let gc = &self.seg.hdr.gc;
        if gc.overflow.load(SeqCst) != 0 {
            self.rescan_heap();
            self.gcw_dispose();
            return MarkDone::NotYet;
        }
        // Cleared before the look: what is flushed after this dirties the round.
        gc.dirty.0.store(0, SeqCst);
        failpoint!("mark_done.cleared");
        if !self.is_quiet(g, phase) && !twin!("round-from-grey") {
            return self.no_round();
        }
        gc.at_ns[3].store(now_ns(), Relaxed);
        let round = phase.next(PhaseWord::ROUND);
        if gc
            .phase
            .0
            .compare_exchange(phase.0, round.0, SeqCst, Relaxed)
            .is_err()
        {
            return self.no_round();
        }
        crate::failpoint::ghost!(self.seg, RoundBegun);
        failpoint!("mark_done.round");
        gc.rounds.fetch_add(1, Relaxed);
        self.seg.workers[g]
            .round_epoch
            .store(round.epoch(), Relaxed);
        self.trace(ev::GC_PHASE, PhaseWord::ROUND.into(), round.cycle());
        if Oracles::read(&self.seg).migrate() {
            return MarkDone::Wait; // somebody else judges it
        }
        self.judge_round(g, round)
    }

    /// We have cleared "dirty" and begun no round: somebody else may have, before that, and what we cleared may have been meant for
    /// it. Nobody judges a round while we run, so saying "dirty" again before we park is in time (recovery does it for the dead).
    fn no_round(&self) -> MarkDone {
        if !twin!("clear-dirty-of-others") {
            self.seg.hdr.gc.dirty.0.store(1, SeqCst);
        }
        MarkDone::NotYet
    }

    fn judge_round(&self, g: usize, round: PhaseWord) -> MarkDone {
        let gc = &self.seg.hdr.gc;
        let clean = self.is_quiet(g, round) && self.is_clean() && gc.overflow.load(SeqCst) == 0;
        if clean && !acknowledged(&self.seg, round) && !twin!("no-end-round") {
            return MarkDone::Wait;
        }
        // Acknowledged by all: whatever they flushed on the way is visible now. Look once more.
        let clean =
            clean && self.is_quiet(g, round) && self.is_clean() && gc.overflow.load(SeqCst) == 0;
        failpoint!("mark_done.judged");
        if clean {
            return self.mark_termination(round);
        }
        let mark = round.next(PhaseWord::MARK);
        if gc
            .phase
            .0
            .compare_exchange(round.0, mark.0, SeqCst, Relaxed)
            .is_ok()
        {
            self.trace(ev::GC_PHASE, PhaseWord::MARK.into(), mark.cycle());
        }
        MarkDone::NotYet
    }

    /// Has nobody made a grey object since the round began (rule 4)?
    fn is_clean(&self) -> bool {
        self.seg.hdr.gc.dirty.0.load(SeqCst) == 0 || twin!("ignore-dirty")
    }

    /// `ROUND -> OFF`: from here on spans are swept. The bookkeeping before it is idempotent.
    pub(super) fn mark_termination(&self, round: PhaseWord) -> MarkDone {
        let gc = &self.seg.hdr.gc;
        gc.at_ns[4].store(now_ns(), Relaxed);
        gc.pages_swept.store(0, Relaxed);
        gc.sweep_cursor
            .0
            .store(u64::from(round.cycle()) << 32, Release);
        if gctrace::debug().checkmark {
            self.checkmark(round);
        }
        self.check_nothing_is_left(round);
        failpoint!("mark_done.settled");
        let off = round.next(PhaseWord::OFF);
        if gc
            .phase
            .0
            .compare_exchange(round.0, off.0, SeqCst, Relaxed)
            .is_err()
        {
            return MarkDone::NotYet;
        }
        crate::failpoint::ghost!(self.seg, MarkingOver);
        failpoint!("mark_done.off");
        gc_controller::end_cycle(&self.seg);
        let stats = &self.seg.hdr.stats;
        stats.cycles.fetch_add(1, Relaxed);
        stats.cycles_by[gc.trigger_kind.load(Relaxed) as usize % 5].fetch_add(1, Relaxed);
        stats.cycle_ns.fetch_add(
            gc.at_ns[4]
                .load(Relaxed)
                .saturating_sub(gc.at_ns[0].load(Relaxed)),
            Relaxed,
        );
        self.trace(ev::GC_DONE, off.cycle(), 0);
        gctrace::cycle(&self.seg, off.cycle());
        // Who has stepped aside waits for the word itself.
        futex::wake(futex::low_half(&gc.phase.0), u32::MAX >> 1);
        crate::sched::wake::wake_all(&self.seg);
        MarkDone::Over
    }

    /// Where checks may cost something: what the round has judged holds until it is over. Somebody else may have ended it, and begun another cycle.
    fn check_nothing_is_left(&self, round: PhaseWord) {
        if !crate::throw::LOOKS_AROUND {
            return;
        }
        let all_done = markroot::all_done(&self.seg, round.cycle());
        let published = self.seg.buf_full.any_below(self.seg.workbufs_used());
        let still = self.seg.phase() == round;
        throw_unless_debug!(
            all_done || !still,
            "left over markroot jobs at the end of marking"
        );
        throw_unless_debug!(
            !published || !still,
            "work.full != 0 at the end of marking: a work buffer is published"
        );
    }

    /// Ends this process with a report when the cycle has missed a reachable object: going on would free it.
    fn checkmark(&self, round: PhaseWord) {
        let cycle = round.cycle();
        let missed = checkmark::missed(&self.seg, cycle);
        if self.seg.phase() != round {
            return; // somebody else has ended the cycle: what is allocated since then is white
        }
        if let Some((parent, child)) = missed.first() {
            let line = format!(
                "coheap: checkmark found unmarked object {child:#x} ({}), referred to by {parent:#x} ({}), and {} more, in cycle {cycle}\n",
                verify::describe(&self.seg, *child),
                verify::describe(&self.seg, *parent),
                missed.len() - 1
            );
            // Not through the logger: this must be seen whatever the program has set up.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            std::process::abort();
        }
        self.seg.hdr.gc.checkmarks.fetch_add(1, Relaxed);
    }

    /// No grey object anywhere but in scopes: no published buffer, all roots done, no worker running but `g`. The worker words are
    /// read before and after, and compared whole: a worker that ran in between has moved its generation.
    fn is_quiet(&self, g: usize, phase: PhaseWord) -> bool {
        let mut before = [0u64; MAX_WORKERS];
        let workers = used_workers(&self.seg);
        for (word, w) in before.iter_mut().zip(workers) {
            *word = w.word.load(SeqCst);
        }
        let others_run = before
            .iter()
            .enumerate()
            .any(|(i, &w)| i != g && WorkerWord(w).state() == WorkerWord::RUNNING);
        // Exact: "none" is a conclusion here, not a hint.
        let none_published = self
            .seg
            .buf_full
            .none_below(self.seg.hdr.sched.workbuf_high.load(SeqCst) as usize);
        if others_run && !twin!("others-unasked") || !none_published {
            return false;
        }
        if !markroot::all_done(&self.seg, phase.cycle()) {
            markroot::find_again(&self.seg, phase.cycle());
            return false;
        }
        failpoint!("mark_done.looked");
        if twin!("single-collect") {
            return true;
        }
        workers
            .iter()
            .zip(before)
            .all(|(w, seen)| w.word.load(SeqCst) == seen)
            && used_workers(&self.seg).len() == workers.len()
    }
}
