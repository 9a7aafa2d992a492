//! The scheduler's loop: what a P runs next (Go's schedule and findRunnable).
//!
//! Order: stop requests and the collector's handshakes; a mark worker while the collector's budget lasts; every 61st time the
//! global queue; the own queue; the global queue; stealing; an idle mark worker; background sweep; sleep. The question "may I
//! sleep?" is the same as "is there anything to run?", collector work included (Go issue 13645).

use crate::throw::throw_unless;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst},
    time::Duration,
};

use shm_layout::{
    trace::ev,
    word::{Owner, PhaseWord, TaskWord},
};

use crate::{
    Error,
    api::{Inside, P},
    error::Result,
    failpoint,
    gc::{gc_bg_mark_worker, gc_start},
    sched::{
        join,
        proc::Proc,
        procresize, run_queue,
        task::{Kinds, Resolved},
        wake,
    },
    time::now_ns,
    twin,
};

/// Looks for work before a P sleeps.
const SPINS: u32 = 20;
/// A sleep's longest: whatever was missed is found then.
const NAP: Duration = Duration::from_millis(10);
/// Memory is given back when no cycle has ended for this long.
const SCAVENGE_AFTER_NS: u64 = 50_000_000;
/// Steps between two looks at the life words of the others: two loads each, of lines that hardly ever change.
const LOOK_FOR_DEAD: u32 = 16;
/// Nanoseconds after which the next step's beginning looks at them in any case. The daemon's watcher may be waiting for the processor
/// that the dying one has.
const LOOK_AGAIN_NS: u64 = 100_000;
/// Activities, for people (`ProcRecord::activity`).
pub(crate) mod activity {
    pub const IDLE: u32 = 0;
    pub const SCHEDULING: u32 = 1;
    pub const TASK: u32 = 2;
    pub const MARK: u32 = 3;
    pub const SWEEP: u32 = 6;
    pub const STOPPED: u32 = 7;
}

/// What a P's owner says between two pieces of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Go on.
    Continue,
    /// Return from [`P::run`].
    Return,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tasks that were given up, in the whole heap.
    pub gave_up: u64,
}

impl P {
    /// Runs tasks, steals, marks and sweeps until no task of the heap is left that could run.
    ///
    /// # Errors
    /// [`Error::TableFull`] when the kinds do not fit into the segment, [`Error::TypeMismatch`] when another program has other ones.
    pub fn run_until_idle(&mut self, kinds: &Kinds) -> Result<Outcome> {
        self.run(kinds, |p, idle| {
            if idle && !p.proc().any_task_alive() {
                Idle::Return
            } else {
                Idle::Continue
            }
        })
    }

    /// Runs tasks, steals, marks and sweeps until the heap is shut down or `between` says so. `between` is asked after each piece of
    /// work, and before each sleep with `true`.
    ///
    /// # Errors
    /// As [`P::run_until_idle`].
    pub fn run(
        &mut self,
        kinds: &Kinds,
        mut between: impl FnMut(&mut P, bool) -> Idle,
    ) -> Result<Outcome> {
        let resolved = kinds.resolve(self.proc())?;
        while !procresize::shutdown_requested(self.segment()) {
            let worked = self.proc().schedule(&resolved);
            if between(self, !worked) == Idle::Return {
                break;
            }
            if !worked {
                self.proc().idle();
            }
        }
        self.proc().flush_accounts();
        Ok(Outcome {
            gave_up: self.segment().hdr.stats.gave_up.load(Relaxed),
        })
    }

    /// Waits for a collection that begins after this call, helping with it. True when it has ended.
    pub fn collect(&mut self) -> bool {
        let wanted = gc_start::request(self.segment());
        let proc = self.proc();
        // Asked for, so it may take its time: it will be the shorter for this.
        while proc.seg.make_huge() {}
        for _ in 0..1_000_000u32 {
            if gc_start::finished_cycle(&proc.seg) >= wanted {
                return true;
            }
            // An edge acknowledges the handshakes for this P.
            drop(Inside::enter(proc));
            if !proc.collector_work(true) && !proc.background_sweep() {
                // Whom the cycle waits for may be dead, and nobody else here to see it.
                crate::recover::recover_dead(&proc.seg);
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        false
    }
}

impl Proc {
    /// Finds one piece of work and does it. False when there was none.
    pub(crate) fn schedule(&self, kinds: &Resolved<'_>) -> bool {
        throw_unless!(
            !self.inside.get(),
            "schedule: holding locks: this P is in a scope"
        );
        self.rec.activity.store(activity::SCHEDULING, Relaxed);
        if !self.may_run() {
            return false;
        }
        if self.seen.get() != self.seg.phase() {
            // An edge: takes over the phase, acknowledges the handshake, gives up old spans.
            drop(Inside::enter(self));
        }
        if self.collector_work(false) {
            self.step_ended_ns.set(0);
            self.give_way(now_ns());
            // A slice of marking is long.
            crate::recover::recover_dead(&self.seg);
            return true;
        }
        self.give_way(self.step_ended_ns.get());
        self.look_for_dead();
        self.describe_given_up(kinds);
        self.wake_timers();
        if self.grow_ahead() {
            self.step_ended_ns.set(0);
        }
        if self.starved() {
            return self.collector_work(true);
        }
        if self.hold_back() {
            return true;
        }
        let tick = self.tick.get().wrapping_add(1);
        self.tick.set(tick);
        self.end_looked.set(false);
        let fair = if tick.is_multiple_of(61) {
            self.globrunq_get()
        } else {
            None
        };
        if let Some(task) = fair
            .or_else(|| self.runq_get())
            .or_else(|| self.globrunq_get())
        {
            self.run_task(task, kinds);
            return true;
        }
        if let Some(task) = self.find_by_spinning() {
            self.run_task(task, kinds);
            return true;
        }
        self.nothing_in_hand();
        self.collector_work(true) || self.background_sweep()
    }

    /// Every so many steps, or after a long one.
    fn look_for_dead(&self) {
        // The clock as the last step left it: another look at it would cost more than the one at the life words.
        let now = self.step_ended_ns.get();
        if self.tick.get().is_multiple_of(LOOK_FOR_DEAD) || now >= self.look_again_ns.get() {
            crate::recover::recover_dead(&self.seg);
            self.look_again_ns.set(now + LOOK_AGAIN_NS);
        }
    }

    /// A claim that was lost leaves its task in `in progress: task`. Nobody's business any more: a record that says so for as long as
    /// this P is idle would keep a failed task from being forgotten. Read first, because an idle P comes here often.
    fn nothing_in_hand(&self) {
        let in_hand = &self.rec.now.0.task;
        if in_hand.load(Relaxed) != 0 {
            // Release: pairs with the Acquire of recovery and of `forget`, after the lost claim.
            in_hand.store(0, Release);
        }
    }

    /// Steals; counted as spinning meanwhile, so that submitters need not wake others.
    fn find_by_spinning(&self) -> Option<usize> {
        let sched = &self.seg.hdr.sched;
        sched.spinning.0.fetch_add(1, SeqCst);
        let found = self.steal_work();
        // A death in between leaves the count too high: wake-ups become rarer until the next recovery sets it to zero.
        let last = sched
            .spinning
            .0
            .fetch_update(SeqCst, SeqCst, |n| Some(n.saturating_sub(1)))
            == Ok(1);
        if found.is_some() && last {
            wake::wake_one(&self.seg);
        }
        found
    }

    /// Takes the collector's cycle further, and marks: with `idle`, also as an idle worker.
    pub(crate) fn collector_work(&self, idle: bool) -> bool {
        self.gcverify();
        self.gc_step();
        if let Some(g) = self.find_migrating_worker() {
            self.rec.activity.store(activity::MARK, Relaxed);
            self.go_on_with_worker(g);
            return true;
        }
        let picked = self.find_runnable_gc_worker().or_else(|| {
            if idle {
                self.find_idle_gc_worker()
            } else {
                None
            }
        });
        if let Some((g, mode)) = picked {
            self.rec.activity.store(activity::MARK, Relaxed);
            self.gc_bg_mark_worker(g, mode);
            return true;
        }
        false
    }

    pub(crate) fn background_sweep(&self) -> bool {
        self.step_ended_ns.set(0);
        self.rec.activity.store(activity::SWEEP, Relaxed);
        // In a scope, so that no cycle can begin marking, let alone end, while we sweep by the marks of the last (W3).
        let _inside = (!twin!("sweep-outside")).then(|| Inside::enter(self));
        self.sweep_some()
    }

    /// Sleeps until there is something to do. Spins a little first: work often comes at once.
    fn idle(&self) {
        self.rec.activity.store(activity::IDLE, Relaxed);
        self.step_ended_ns.set(0);
        self.flush_accounts();
        for _ in 0..SPINS {
            if self.work_in_sight() {
                return;
            }
            std::thread::yield_now();
        }
        self.trace(ev::PROC_STOP, 0, 0);
        let until_timer = self
            .seg
            .hdr
            .sched
            .next_timer_ns
            .0
            .load(SeqCst)
            .saturating_sub(now_ns());
        let patience = NAP.min(Duration::from_nanos(until_timer.max(1)));
        // In a handshake the last P to acknowledge wakes nobody: look again soon.
        let patience = if self.seg.phase().kind() == PhaseWord::OFF {
            patience
        } else {
            patience.min(Duration::from_millis(1))
        };
        self.stop_p(patience, || !self.work_in_sight());
        // Woken for work: it comes first. Each of these takes a millisecond or two.
        if !self.work_in_sight() {
            self.scavenge();
        }
        if !self.work_in_sight() {
            self.seg.make_huge();
        }
        // Only now: what is done for want of work takes milliseconds, and keeps nobody waiting.
        self.trace(ev::PROC_START, 0, 0);
        // Without a daemon the first survivor that has time recovers the dead.
        crate::recover::recover_dead(&self.seg);
    }

    /// Gives memory back that the heap has not needed for a while (Go's scavenger): one chunk per sleep, above a tenth over the goal.
    fn scavenge(&self) {
        let gc = &self.seg.hdr.gc;
        let swept = gc.pages_swept.load(Relaxed)
            >= u64::from(self.seg.hdr.committed_chunks.0.load(Relaxed))
                * shm_layout::CHUNK_PAGES as u64;
        let settled = now_ns().saturating_sub(gc.at_ns[4].load(Relaxed)) > SCAVENGE_AFTER_NS;
        if self.seg.phase().kind() == PhaseWord::OFF && swept && settled {
            let keep = gc.goal.load(Relaxed) / 10 * 11 + 2 * shm_layout::CHUNK_BYTES as u64;
            if self.seg.ready_bytes() > keep {
                self.seg.release_chunk(self.me);
            }
        }
    }

    /// The question of `schedule`, without doing anything.
    fn work_in_sight(&self) -> bool {
        procresize::shutdown_requested(&self.seg)
            || self.is_active() && (self.any_runnable() || self.collector_work_in_sight())
    }

    /// The collector's part of that question.
    pub(super) fn collector_work_in_sight(&self) -> bool {
        let phase = self.seg.phase();
        phase.kind() == PhaseWord::OFF && gc_start::wanted(&self.seg, phase).is_some()
            || phase.blacken() && gc_bg_mark_worker::gc_mark_work_available(&self.seg, phase)
    }

    /// Is there a task that runs, may run, or waits for one that does? Failed ones do not count.
    pub(crate) fn any_task_alive(&self) -> bool {
        let high = self.seg.hdr.sched.task_high.load(SeqCst) as usize;
        self.seg.tasks[..high].iter().any(|t| {
            !matches!(
                TaskWord(t.word.load(SeqCst)).state(),
                TaskWord::FREE | TaskWord::FAILED
            )
        })
    }

    /// Makes sleeping tasks runnable whose time has come.
    fn wake_timers(&self) {
        let next = &self.seg.hdr.sched.next_timer_ns.0;
        let earliest = next.load(Relaxed);
        if earliest == u64::MAX {
            return;
        }
        let now = now_ns();
        if earliest > now {
            return;
        }
        // Set first, looked at afterwards: a task that goes to sleep meanwhile lowers it again.
        next.store(u64::MAX, SeqCst);
        let high = self.seg.hdr.sched.task_high.load(SeqCst) as usize;
        for (i, task) in self.seg.tasks[..high].iter().enumerate() {
            let at = task.wake_at_ns.load(Relaxed);
            if at == 0 || TaskWord(task.word.load(SeqCst)).state() != TaskWord::WAITING {
                continue;
            }
            if at <= now {
                join::wake_task(&self.seg, i);
            } else {
                next.fetch_min(at, SeqCst);
            }
        }
    }

    pub(crate) fn run_task(&self, task: usize, kinds: &Resolved<'_>) {
        let record = &self.seg.tasks[task];
        let kind = record.kind.load(Relaxed) as usize;
        let Some(step) = kinds.step(kind) else {
            self.put_back(task);
            return;
        };
        // A step that follows another begins when that one ended.
        let started = match self.step_ended_ns.take() {
            0 => now_ns(),
            ended => ended,
        };
        self.rec.activity.store(activity::TASK, Relaxed);
        self.rec.preempt.store(0, Relaxed);
        self.rec.stats.0.edge_at_ns.store(
            self.trace_at(ev::GO_START, task as u32, kind as u32, started),
            Relaxed,
        );
        let again = {
            let _inside = Inside::enter(self);
            failpoint!("task.running");
            self.said_last.set(false);
            let plan = catch_unwind(AssertUnwindSafe(|| step(self, task)))
                .unwrap_or_else(|panic| Err(panicked(&panic)));
            match plan.and_then(|plan| self.commit(task, plan)) {
                Ok(again) => {
                    self.note_progress();
                    again
                }
                Err(e) => {
                    self.fail_task(task, &e, kinds);
                    None
                }
            }
        };
        let stats = &self.rec.stats.0;
        stats.steps.store(stats.steps.load(Relaxed) + 1, Relaxed);
        if let Some(task) = again {
            self.runq_put(task, false);
        }
        self.rec.now.0.task.store(0, Release);
    }

    /// A kind that this program does not know: somebody else's. Not looked at again at once.
    fn put_back(&self, task: usize) {
        let record = &self.seg.tasks[task];
        let word = TaskWord(record.word.load(Relaxed));
        if record
            .word
            .compare_exchange(
                word.0,
                word.moved(TaskWord::RUNNABLE, Owner::new(0, 0)).0,
                AcqRel,
                Relaxed,
            )
            .is_ok()
        {
            run_queue::put_global(&self.seg, task);
        }
        self.rec.now.0.task.store(0, Release);
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn panicked(panic: &Box<dyn std::any::Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Task {
        what: format!(
            "step panicked: {}",
            text.unwrap_or_else(|| "no message".into())
        ),
    }
}
