//! The scheduler's loop: what a P runs next (Go's schedule and findRunnable).
//!
//! Order: stop requests and the collector's handshakes; a mark worker while the collector's budget lasts; every 61st time the
//! global queue; the own queue; the global queue; stealing; an idle mark worker; background sweep; sleep. The question "may I
//! sleep?" is the same as "is there anything to run?", collector work included (Go issue 13645).

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
    api::{Cx, Inside, P},
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

/// Runs of a step that may end for lack of memory before the task is given up. Deaths have a limit of their own, in the segment.
const HUNGER_MAX: u32 = 3;
/// Looks for work before a P sleeps.
const SPINS: u32 = 20;
/// A sleep's longest: whatever was missed is found then.
const NAP: Duration = Duration::from_millis(10);
/// Memory is given back when no cycle has ended for this long.
const SCAVENGE_AFTER_NS: u64 = 50_000_000;
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
        for _ in 0..1_000_000u32 {
            if gc_start::finished_cycle(&proc.seg) >= wanted {
                return true;
            }
            // An edge acknowledges the handshakes for this P.
            drop(Inside::enter(proc));
            if !proc.collector_work(true) {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        false
    }
}

impl Proc {
    /// Finds one piece of work and does it. False when there was none.
    pub(crate) fn schedule(&self, kinds: &Resolved<'_>) -> bool {
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
            return true;
        }
        if self.tick.get().is_multiple_of(256) {
            crate::recover::recover_dead(&self.seg);
        }
        self.wake_timers();
        self.yield_to_laggards();
        if self.starved() {
            return self.collector_work(true);
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
        self.collector_work(true) || self.background_sweep()
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
        self.gc_step();
        if let Some(g) = self.find_migrating_worker() {
            self.rec.activity.store(activity::MARK, Relaxed);
            self.go_on_with_mark_done(g);
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
        self.trace(ev::PROC_START, 0, 0);
        self.scavenge();
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
        let phase = self.seg.phase();
        let collector = || {
            phase.kind() == PhaseWord::OFF && gc_start::wanted(&self.seg, phase).is_some()
                || phase.blacken() && gc_bg_mark_worker::gc_mark_work_available(&self.seg, phase)
        };
        procresize::shutdown_requested(&self.seg)
            || self.is_active() && (self.any_runnable() || collector())
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

    /// Has a step run out of memory, and the collection it asked for not ended yet? Then no P runs tasks: each would only meet
    /// the full heap too, and lose one of its attempts.
    fn starved(&self) -> bool {
        let wanted = self.seg.hdr.gc.starved_cycle.load(Relaxed);
        wanted != 0 && gc_start::finished_cycle(&self.seg) < wanted
    }

    /// While a handshake waits and the heap is past its goal, a P that has been descheduled inside its scope may need this
    /// processor: offered once per piece of work. Nobody waits for it.
    fn yield_to_laggards(&self) {
        let phase = self.seg.phase();
        let handshake = matches!(
            phase.kind(),
            PhaseWord::BARRIER | PhaseWord::BLACK | PhaseWord::ROUND
        );
        let gc = &self.seg.hdr.gc;
        if handshake && gc.heap_live.0.load(Relaxed) > gc.goal.load(Relaxed) {
            std::thread::yield_now();
        }
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
            let plan = catch_unwind(AssertUnwindSafe(|| step(self, task)))
                .unwrap_or_else(|panic| Err(panicked(&panic)));
            match plan.and_then(|plan| self.commit(task, plan)) {
                Ok(again) => again,
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

    /// A step that took no effect: tried again after a collection when memory was short, given up otherwise.
    fn fail_task(&self, task: usize, error: &Error, kinds: &Resolved<'_>) {
        let record = &self.seg.tasks[task];
        let word = TaskWord(record.word.load(Relaxed));
        let attempts = word.attempts().saturating_add(1).min(15);
        let hungry = matches!(error, Error::HeapFull { .. } | Error::NoMemory { .. });
        if hungry && count_lost(&self.seg, task, word, Lost::Hunger) as u32 <= HUNGER_MAX {
            self.seg
                .hdr
                .gc
                .starved_cycle
                .fetch_max(gc_start::request(&self.seg), AcqRel);
            let again = word
                .moved(TaskWord::RUNNABLE, Owner::new(0, 0))
                .with_attempts(attempts);
            if record
                .word
                .compare_exchange(word.0, again.0, AcqRel, Relaxed)
                .is_ok()
            {
                run_queue::put_global(&self.seg, task);
            }
            return;
        }
        let input = kinds.describe(self, task);
        let text = if input.is_empty() {
            error.to_string()
        } else {
            format!("{input}: {error}")
        };
        // A full heap may have no room for the text; the code is kept in any case.
        if let Ok(text) = Cx::new(self).str(&text) {
            let r = self.seg.reference(text.as_bytes_ptr());
            self.write_barrier(r);
            record.error.store(r, Release);
        }
        record.error_code.store(error.exit_code() as u32, Relaxed);
        give_up(&self.seg, task, word, attempts);
    }
}

/// Why a run of a step took no effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Its process died.
    Death,
    /// Memory was short.
    Hunger,
}

/// Lost runs of a task's present step: deaths in the upper half, hunger in the lower. The word's count says whether the record's
/// belongs to this step, because a commit clears the former only.
pub(crate) fn lost(segment: &crate::Segment, task: usize, word: TaskWord) -> u64 {
    if word.attempts() == 0 {
        0
    } else {
        segment.tasks[task].tries.load(Relaxed)
    }
}

/// Counts one more. By the task's owner, or by the recoverer of a dead one.
pub(crate) fn count_lost(segment: &crate::Segment, task: usize, word: TaskWord, why: Lost) -> u64 {
    let before = lost(segment, task, word);
    let now = match why {
        Lost::Death => before.saturating_add(1 << 32),
        Lost::Hunger => before + 1,
    };
    segment.tasks[task].tries.store(now, Relaxed);
    now
}

/// `FAILED` keeps context and error for the report; who waits for the result is told. A death in between leaves the task in the
/// dead P's `in progress: task`, and recovery tells again.
pub(crate) fn give_up(segment: &crate::Segment, task: usize, word: TaskWord, attempts: u8) {
    let record = &segment.tasks[task];
    let failed = word
        .moved(TaskWord::FAILED, Owner::new(0, 0))
        .with_attempts(attempts);
    if record
        .word
        .compare_exchange(word.0, failed.0, AcqRel, Relaxed)
        .is_ok()
    {
        segment.hdr.stats.gave_up.fetch_add(1, Relaxed);
        failpoint!("task.failed");
        tell_failure(segment, task);
    }
}

/// Completes the join of a failed task. Idempotent.
pub(crate) fn tell_failure(segment: &crate::Segment, task: usize) {
    let cell = segment.tasks[task].join.load(Relaxed);
    if cell != 0 {
        join::complete(segment, cell, 0, true);
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
