//! Background mark workers: the seed's subject ("attach mark workers to P after they park", Go 1.6), made crash-safe.
//!
//! A worker is a context in the segment that any process can run, one at a time. Two words are involved, and they have different
//! jobs: the *worker word* owns the context (free, running by P, parked in P's custody, runnable by anybody); the *slot*
//! `gc_bg_mark_worker` of a P designates the worker that this P's scheduler may claim. In Go 1.5 the slot was set while the worker
//! was still running, and a second thread could run it; here as in the repaired Go the slot is set only after the worker has
//! been parked, and because status and owner are one word there is no half-parked worker at all.
//!
//! ```text
//! start    FREE -> RUNNING(me); home := (p, inc); init; park and attach
//! claim    slot FULL(g): PARKED -> RUNNING(me); the slot stays as it is
//! park     save; RUNNING -> PARKED(me). The last touch of the context
//! attach   after PARKED(me): slot of the home, EMPTY -> FULL(g), wake, touch nothing more; lost: PARKED(me) -> FREE, the worker exits
//! detach   slot FULL(g) -> EMPTY, before the worker may wait or migrate (gc_mark_done)
//! migrate  save; RUNNING -> RUNNABLE; anybody: RUNNABLE -> RUNNING(q)
//! ```
//! **`ParkInfo{m, attach}`** of Go has no counterpart in the segment: `m` (whom to unpin) is this process by construction, and
//! `attach` is derived: a parked worker is attached if the slot of its home designates it. What replaces the callback's false
//! return is [`Park::Lost`]. **Invariants** I1 to I9 of the design notes; a FULL slot is frozen unless one owns the worker in it.
//! **If a process dies**: a `RUNNING` worker is never resumed (its context may be torn): it is flushed and freed, and its home
//! starts a new one. A `PARKED` one that its custodian had not published is freed; published or `RUNNABLE` ones go on.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{
    MAX_P, MAX_WORKERS,
    trace::ev,
    word::{Owner, PhaseWord, ProcWord, SlotWord, WorkerWord},
    worker::{WorkerRecord, pc},
};

use super::{gc_drain::Until, gc_mark_done::MarkDone, handshake::acknowledged, markroot};
use crate::{
    failpoint, heap::oracle::Oracles, sched::proc::Proc, segment::Segment, throw::throw_unless,
    time::now_ns, twin,
};

/// How a worker runs: Go's gcMarkWorkerMode, with "not a worker" as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Mode {
    /// Until there is no work: the P is lost to tasks meanwhile.
    Dedicated = 1,
    /// Until its share of this P's time is used up.
    Fractional = 2,
    /// While there is nothing else to run.
    Idle = 3,
}

/// What became of a parking worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Park {
    /// It stands in its home's slot.
    Attached,
    /// The slot had a newer worker, was closed, or belongs to a later lease: the worker has exited.
    Lost,
}

/// How long a worker that was handed on is left to other P's.
const OTHERS_FIRST_NS: u64 = 1_000_000;

/// Is some worker being run?
pub(crate) fn any_worker_running(segment: &Segment) -> bool {
    used_workers(segment)
        .iter()
        .any(|w| WorkerWord(w.word.load(SeqCst)).state() == WorkerWord::RUNNING)
}

/// The worker records ever used.
pub(crate) fn used_workers(segment: &Segment) -> &'static [WorkerRecord] {
    // SeqCst: raised before a record is first claimed; partner of the double look in `gc_mark_done`.
    let high = segment.hdr.sched.worker_high.load(SeqCst) as usize;
    &segment.workers[..high.min(MAX_WORKERS)]
}

/// A hint: is there work that is in nobody's hands?
pub(crate) fn gc_mark_work_available(segment: &Segment, phase: PhaseWord) -> bool {
    segment.buf_full.any_below(segment.workbufs_used())
        || markroot::any_open(segment, phase.cycle())
}

/// Is some worker on its way through `gc_mark_done`, or running?
pub(crate) fn any_worker_active(segment: &Segment) -> bool {
    used_workers(segment).iter().any(|w| {
        matches!(
            WorkerWord(w.word.load(Acquire)).state(),
            WorkerWord::RUNNING | WorkerWord::RUNNABLE
        )
    })
}

impl Proc {
    /// Makes sure that every live P below `gomaxprocs` has a worker (Go's gcBgMarkStartWorkers). Whoever starts the cycle does it
    /// for all; running it twice, or while a P joins or leaves, is harmless.
    pub(crate) fn gc_bg_mark_start_workers(&self) {
        let procs = self.seg.hdr.sched.gomaxprocs.0.load(Acquire) as usize;
        for p in 0..procs.min(MAX_P) {
            let owner = ProcWord(self.seg.procs[p].word.0.load(Acquire));
            let slot = SlotWord(self.seg.slots[p].word.load(Acquire));
            if owner.state() == ProcWord::LIVE
                && (slot.state() == SlotWord::EMPTY || twin!("start-unasked"))
                && slot.inc() == owner.inc()
            {
                self.start_worker(p, slot);
            }
        }
    }

    /// In a cycle: starts a worker for this P if it has none, because it joined after the cycle began or because its worker died.
    /// A worker that is away in `gc_mark_done` is not replaced; the one that comes second to the slot would exit.
    fn ensure_own_worker(&self) {
        let slot = SlotWord(self.seg.slots[self.index()].word.load(Acquire));
        if slot != SlotWord::empty(self.inc) || twin!("no-late-worker") {
            return;
        }
        let home = (self.me.p as u64) << 32 | u64::from(self.inc);
        let away = |w: &WorkerRecord| {
            let free = WorkerWord(w.word.load(Acquire)).state() == WorkerWord::FREE;
            !free && w.home.load(Acquire) == home
        };
        if !used_workers(&self.seg).iter().any(away) {
            self.start_worker(self.index(), slot);
        }
    }

    /// Starts a worker for a slot that is taken, as a starter does that has read the slot before: its attach is lost.
    #[cfg(feature = "testing")]
    pub(crate) fn start_worker_as_if(&self, home: usize, slot: SlotWord) {
        self.start_worker(home, slot);
    }

    pub(crate) fn start_worker(&self, home: usize, slot: SlotWord) {
        for g in 0..MAX_WORKERS {
            let w = &self.seg.workers[g];
            let word = WorkerWord(w.word.load(Acquire));
            if word.state() != WorkerWord::FREE {
                continue;
            }
            self.rec.now.0.worker.store(g as u32 + 1, Release);
            self.seg
                .hdr
                .sched
                .worker_high
                .fetch_max(g as u32 + 1, SeqCst);
            failpoint!("worker.recorded");
            if w.word
                .compare_exchange(
                    word.0,
                    word.moved(WorkerWord::RUNNING, self.me).0,
                    SeqCst,
                    Relaxed,
                )
                .is_err()
            {
                continue;
            }
            failpoint!("worker.started");
            w.home
                .store((home as u64) << 32 | u64::from(slot.inc()), Release);
            w.pc.store(pc::START, Relaxed);
            w.mode.store(0, Relaxed);
            for counter in [&w.runs, &w.migrations, &w.scanned] {
                counter.store(0, Relaxed);
            }
            // A lost attach means that somebody else started a worker there, or that the P has gone.
            let _ = self.park_worker(g);
            break;
        }
        self.rec.now.0.worker.store(0, Release);
    }

    /// Parks the worker we run and sees to it that its home's slot designates it. After `PARKED` nothing of the context is
    /// touched: whoever sees the slot may be running it.
    pub(crate) fn park_worker(&self, g: usize) -> Park {
        let w = &self.seg.workers[g];
        let home = w.home.load(Relaxed);
        w.parked_by
            .store((self.me.p as u64) << 32 | u64::from(self.inc), Relaxed);
        w.moved_at_ns.store(now_ns(), Relaxed);
        let running = WorkerWord(w.word.load(Relaxed));
        throw_unless!(
            running.state() == WorkerWord::RUNNING && running.owner() == self.me,
            "gopark: bad status: this P does not run the worker that it parks"
        );
        let parked = running.moved(WorkerWord::PARKED, self.me);
        self.trace(ev::GO_PARK, g as u32, (home >> 32) as u32);
        failpoint!("worker.saved");
        if twin!("attach-before-park") {
            let outcome = self.attach(g, home, parked);
            #[cfg(test)]
            std::thread::sleep(std::time::Duration::from_millis(1)); // a window for whoever watches the slot
            w.word.store(parked.0, Release);
            self.rec.now.0.worker.store(0, Release);
            return outcome;
        }
        // Release: partner of the claimer's Acquire: the context before the word. Only we move a word that says "running by me".
        w.word.store(parked.0, Release);
        failpoint!("worker.parked");
        let outcome = self.attach(g, home, parked);
        if !twin!("worker-kept-on-record") {
            self.rec.now.0.worker.store(0, Release);
        }
        outcome
    }

    /// Designates a parked worker in its home's slot, unless it stands there already.
    fn attach(&self, g: usize, home: u64, parked: WorkerWord) -> Park {
        let (p, inc) = ((home >> 32) as usize, home as u32);
        let slot = &self.seg.slots[p].word;
        let inc = if twin!("no-slot-epoch") {
            SlotWord(slot.load(Acquire)).inc()
        } else {
            inc
        };
        let full = SlotWord::full(g as u16, inc);
        if slot.load(Acquire) == full.0 {
            return Park::Attached;
        }
        if twin!("store-instead-of-cas") {
            slot.store(full.0, Release);
            return Park::Attached;
        }
        // AcqRel: Release publishes the parked worker to its home's scheduler.
        if slot
            .compare_exchange(SlotWord::empty(inc).0, full.0, AcqRel, Acquire)
            .is_ok()
        {
            failpoint!("worker.attached");
            self.trace(ev::ATTACH, g as u32, p as u32);
            crate::sched::wake::wake(&self.seg, p);
            return Park::Attached;
        }
        self.seg.hdr.stats.attach_lost.fetch_add(1, Relaxed);
        self.trace(ev::ATTACH_LOST, g as u32, p as u32);
        // Fails only when a recoverer that took us for dead has freed it; it takes nobody without a certificate, so never.
        let freed = self.seg.workers[g].word.compare_exchange(
            parked.0,
            parked.moved(WorkerWord::FREE, Owner::new(0, 0)).0,
            AcqRel,
            Relaxed,
        );
        debug_assert!(freed.is_ok() || twin!("attach-before-park"));
        Park::Lost
    }

    /// Takes the worker out of its home's slot before it may wait or migrate. True when it stood there.
    pub(crate) fn detach_worker(&self, g: usize) -> bool {
        let home = self.seg.workers[g].home.load(Relaxed);
        let (p, inc) = ((home >> 32) as usize, home as u32);
        let full = SlotWord::full(g as u16, inc);
        let done = self.seg.slots[p]
            .word
            .compare_exchange(full.0, SlotWord::empty(inc).0, AcqRel, Relaxed)
            .is_ok();
        failpoint!("worker.detached");
        self.trace(ev::DETACH, g as u32, p as u32);
        done
    }

    /// Lets anybody go on with the worker: it is in the middle of `gc_mark_done` and would have to wait.
    pub(crate) fn release_worker(&self, g: usize) {
        let w = &self.seg.workers[g];
        w.parked_by
            .store((self.me.p as u64) << 32 | u64::from(self.inc), Relaxed);
        w.moved_at_ns.store(now_ns(), Relaxed);
        let running = WorkerWord(w.word.load(Relaxed));
        self.trace(ev::MIGRATE, g as u32, 0);
        failpoint!("worker.saved");
        w.word.store(
            running.moved(WorkerWord::RUNNABLE, Owner::new(0, 0)).0,
            Release,
        );
        failpoint!("worker.runnable");
        self.rec.now.0.worker.store(0, Release);
    }

    /// The mark worker that this P should run now, claimed, with its mode (Go's findRunnableGCWorker): dedicated while the budget
    /// lasts, else fractional while this P's share lasts.
    pub(crate) fn find_runnable_gc_worker(&self) -> Option<(usize, Mode)> {
        let phase = self.seg.phase();
        if !phase.blacken() && !twin!("run-unasked") {
            return None;
        }
        self.ensure_own_worker();
        if !gc_mark_work_available(&self.seg, phase) {
            // Nobody left to end the cycle: the last one out died, or two looked at the same time and each saw the other. One look
            // per turn: what keeps marking from being over may be in the hands of a stopped process, and tasks go on meanwhile.
            return if any_worker_active(&self.seg) || self.end_looked.replace(true) {
                None
            } else {
                self.claim_slot_worker(Mode::Fractional)
            };
        }
        let mode = if self.take_dedicated() {
            Mode::Dedicated
        } else if self.fractional_share_left() {
            Mode::Fractional
        } else {
            return None;
        };
        let claimed = self.claim_slot_worker(mode);
        if claimed.is_none() {
            self.give_dedicated();
        }
        claimed
    }

    /// The mark worker to run because there is nothing else (Go's idle worker), or because marking may be over and nobody is
    /// looking: the last one out may have died.
    pub(crate) fn find_idle_gc_worker(&self) -> Option<(usize, Mode)> {
        let phase = self.seg.phase();
        if !phase.blacken() {
            return None;
        }
        let stuck = !any_worker_active(&self.seg) && !twin!("last-out-only");
        let room = self.idle_workers() < self.seg.hdr.gc.idle_max.load(Relaxed);
        if !(stuck || room && gc_mark_work_available(&self.seg, phase)) {
            return None;
        }
        self.claim_slot_worker(Mode::Idle)
    }

    /// The part of a program that runs no tasks, at the end of a scope: takes the cycle a step further, and runs its mark worker for
    /// one short slice, whatever the budget says. Three times as long as that took it is left alone, unless the heap has outrun
    /// the collector: then it waits for it, as a step would.
    #[cold]
    pub(crate) fn help_at_edge(&self) {
        while self.hold_back() {
            // An edge takes the phase over: who starts a cycle must have seen the last one's end.
            drop(crate::api::Inside::enter(self));
        }
        let started = now_ns();
        self.give_way(started);
        self.grow_ahead();
        if started < self.help_again_ns.get() {
            return;
        }
        self.gc_step();
        if let Some(g) = self.find_migrating_worker() {
            self.go_on_with_mark_done(g);
        } else if self.seg.phase().blacken() {
            self.ensure_own_worker();
            if let Some((g, mode)) = self.claim_slot_worker(Mode::Fractional) {
                self.gc_bg_mark_worker(g, mode);
            }
        }
        let phase = self.seg.phase();
        let wanted =
            phase.kind() != PhaseWord::OFF || super::gc_start::wanted(&self.seg, phase).is_some();
        self.collector_due.set(wanted || self.grow_until.get() > 0);
        let now = now_ns();
        self.help_again_ns.set(now + 3 * (now - started));
    }

    /// A worker that waits in the middle of `gc_mark_done` for somebody to go on with it.
    pub(crate) fn find_migrating_worker(&self) -> Option<usize> {
        let phase = self.seg.phase();
        let stopped = phase.kind() == PhaseWord::STOPPED;
        // While the handshake is on there is nothing to decide.
        if stopped || phase.kind() == PhaseWord::ROUND && !acknowledged(&self.seg, phase) {
            return None;
        }
        used_workers(&self.seg)
            .iter()
            .enumerate()
            .find_map(|(g, w)| {
                let word = WorkerWord(w.word.load(Acquire));
                let ready = word.state() == WorkerWord::RUNNABLE && !self.is_for_others(w);
                (ready && self.claim_worker(g, word)).then_some(g)
            })
    }

    /// `migrateevery`: what we have let go is left to others for a while; for ever would be too long when we are alone.
    fn is_for_others(&self, w: &WorkerRecord) -> bool {
        Oracles::read(&self.seg).migrate()
            && w.parked_by.load(Relaxed) == (self.me.p as u64) << 32 | u64::from(self.inc)
            && now_ns().saturating_sub(w.moved_at_ns.load(Relaxed)) < OTHERS_FIRST_NS
    }

    pub(crate) fn claim_slot_worker(&self, mode: Mode) -> Option<(usize, Mode)> {
        let of = if twin!("first-slot") { 0 } else { self.index() };
        let slot = SlotWord(self.seg.slots[of].word.load(Acquire));
        if slot.state() != SlotWord::FULL || slot.inc() != self.inc {
            return None;
        }
        let g = slot.worker() as usize;
        let word = WorkerWord(self.seg.workers[g].word.load(Acquire));
        if word.state() != WorkerWord::PARKED || !self.claim_worker(g, word) {
            return None;
        }
        self.seg.workers[g].mode.store(mode as u32, Relaxed);
        self.trace(ev::GO_UNPARK, g as u32, mode as u32);
        Some((g, mode))
    }

    /// The claim: one compare-exchange, after which nobody else touches the context.
    fn claim_worker(&self, g: usize, word: WorkerWord) -> bool {
        let w = &self.seg.workers[g];
        self.rec.now.0.worker.store(g as u32 + 1, Release);
        failpoint!("worker.recorded");
        if twin!("claim-by-store") {
            w.word
                .store(word.moved(WorkerWord::RUNNING, self.me).0, SeqCst);
            return true;
        }
        // Acquire: pairs with the parker's Release: the context is complete.
        if w.word
            .compare_exchange(
                word.0,
                word.moved(WorkerWord::RUNNING, self.me).0,
                SeqCst,
                Relaxed,
            )
            .is_err()
        {
            self.rec.now.0.worker.store(0, Release);
            return false;
        }
        failpoint!("worker.claimed");
        w.runs.fetch_add(1, Relaxed);
        if w.parked_by.load(Relaxed) != (self.me.p as u64) << 32 | u64::from(self.inc) {
            w.migrations.fetch_add(1, Relaxed);
            self.seg.hdr.stats.migrations.fetch_add(1, Relaxed);
        }
        true
    }

    /// Runs a claimed worker until it parks, migrates or exits (Go's gcBgMarkWorker, from wake to park).
    ///
    /// Order at the end of a run: dispose the cache, account the time, return the budget, leave the set of active workers (by
    /// parking), and only then ask whether marking is over.
    pub(crate) fn gc_bg_mark_worker(&self, g: usize, mode: Mode) {
        let w = &self.seg.workers[g];
        let started = now_ns();
        self.rec.mark_mode.store(mode as u32, Relaxed);
        w.pc.store(pc::DRAIN, Relaxed);
        let until = match mode {
            Mode::Dedicated => Until::NoWork,
            Mode::Fractional => Until::Preempt,
            Mode::Idle => Until::OtherWork,
        };
        if mode == Mode::Dedicated {
            // Tasks queued here would wait for the whole cycle.
            self.runq_to_global();
        }
        let work = if self.seg.phase().blacken() {
            self.gc_drain(until, started)
        } else {
            0
        };
        let for_later =
            twin!("cache-kept-for-later") && gc_mark_work_available(&self.seg, self.seg.phase());
        if !(twin!("cache-kept") || for_later) {
            self.gcw_dispose();
        }
        self.account_worker(mode, now_ns() - started);
        w.scanned.fetch_add((work >> 3) as u32, Relaxed);
        self.give_dedicated();
        self.rec.mark_mode.store(0, Relaxed);
        let phase = self.seg.phase();
        if phase.blacken() && !gc_mark_work_available(&self.seg, phase) {
            if !twin!("wait-in-slot") {
                self.detach_worker(g);
            }
            w.pc.store(pc::MARK_DONE, Relaxed);
            self.go_on_with_mark_done(g);
        } else if phase.blacken() && Oracles::read(&self.seg).migrate() {
            // `migrateevery`: the rest is somebody else's, as after a change of phase.
            self.detach_worker(g);
            self.release_worker(g);
            crate::sched::wake::wake_one(&self.seg);
        } else {
            let _ = self.park_worker(g);
        }
    }

    /// Goes on with a claimed worker that was `RUNNABLE`, where its context says.
    pub(crate) fn go_on_with_worker(&self, g: usize) {
        if self.seg.workers[g].pc.load(Relaxed) == pc::DRAIN {
            // Whose budget it ran on has been given back.
            self.gc_bg_mark_worker(g, Mode::Fractional);
        } else {
            self.go_on_with_mark_done(g);
        }
    }

    /// Goes on with a worker in `gc_mark_done`, until it would have to wait.
    pub(crate) fn go_on_with_mark_done(&self, g: usize) {
        match self.gc_mark_done(g) {
            MarkDone::Wait => self.release_worker(g),
            MarkDone::NotYet | MarkDone::Over => {
                self.seg.workers[g].pc.store(pc::DRAIN, Relaxed);
                // Publish after park, in all cases: early return, transition, end of the cycle.
                let _ = self.park_worker(g);
            }
        }
    }

    /// Empties and closes our slot before the lease ends (Go's procresize for a P that goes).
    pub(crate) fn retire_slot(&self) {
        let slot = &self.seg.slots[self.index()].word;
        loop {
            let seen = SlotWord(slot.load(Acquire));
            match seen.state() {
                SlotWord::EMPTY => {
                    if slot
                        .compare_exchange(seen.0, SlotWord::closed(self.inc).0, AcqRel, Relaxed)
                        .is_ok()
                    {
                        return;
                    }
                }
                SlotWord::FULL => self.retire_worker(seen.worker() as usize),
                _ => return,
            }
        }
    }

    /// Claims our parked worker, takes it out of the slot, frees it.
    fn retire_worker(&self, g: usize) {
        let w = &self.seg.workers[g];
        let word = WorkerWord(w.word.load(Acquire));
        if word.state() == WorkerWord::PARKED && self.claim_worker(g, word) {
            self.detach_worker(g);
            let running = WorkerWord(w.word.load(Relaxed));
            failpoint!("worker.retiring");
            w.word
                .store(running.moved(WorkerWord::FREE, Owner::new(0, 0)).0, Release);
            self.rec.now.0.worker.store(0, Release);
        }
    }
}

#[cfg(test)]
#[path = "invariants.rs"]
mod invariants;
#[cfg(test)]
#[path = "migrate_every.rs"]
mod migrate_every;
#[cfg(test)]
#[path = "throws.rs"]
mod throws;
