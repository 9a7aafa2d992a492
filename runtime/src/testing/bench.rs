//! The bench: what the scheduler and the collector call, one call at a time, in the order that a test wants.
//!
//! [`P::bench`] gives a P's. Most methods are one call inside. [`Bench::drive`], [`Bench::finish_cycle`] and those "within" a time take
//! as many as it needs, and give up after so many rounds or so much time.
//!
//! **A method does what some path of the scheduler does**, apart from those that only prepare a scene: they store what a race, a
//! death or a lack of memory would have left ([`Bench::localize`], [`Bench::wear_out`], [`Bench::say_overflow`], and such).

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, SeqCst},
    time::{Duration, Instant},
};

use shm_layout::word::{Owner, PhaseWord, SlotWord, TaskWord};

use crate::{
    api::{Cx, Inside, P},
    error::Result,
    gc::{gc_bg_mark_worker::Mode, gc_start},
    sched::{
        proc::Proc,
        task::{Kinds, Resolved},
    },
};

/// Kinds of phase, for [`Bench::drive`].
pub mod phase {
    use shm_layout::word::PhaseWord;
    /// No cycle.
    pub const OFF: u8 = PhaseWord::OFF;
    /// First handshake.
    pub const BARRIER: u8 = PhaseWord::BARRIER;
    /// Second handshake.
    pub const BLACK: u8 = PhaseWord::BLACK;
    /// Marking.
    pub const MARK: u8 = PhaseWord::MARK;
    /// A round that may end it.
    pub const ROUND: u8 = PhaseWord::ROUND;
}

/// A claimed mark worker.
pub struct Claimed(usize, Mode);

impl Claimed {
    /// Its number.
    pub fn number(&self) -> usize {
        self.0
    }
}

/// Kinds, entered into the segment.
pub struct Loop<'k>(Resolved<'k>);

/// The methods of a P that the scheduler and the collector call.
#[derive(Clone, Copy)]
pub struct Bench<'p>(&'p Proc);

impl P {
    /// Its internals.
    pub fn bench(&self) -> Bench<'_> {
        Bench(self.proc())
    }
}

impl<'p> Bench<'p> {
    /// Enters a scope.
    pub fn enter(self) {
        self.0.enter_scope();
    }
    /// Leaves it.
    pub fn leave(self) {
        self.0.leave_scope();
    }
    /// Enters and leaves one.
    pub fn edge(self) {
        drop(Inside::enter(self.0));
    }
    /// Kind of the phase.
    pub fn phase(self) -> u8 {
        self.0.seg.phase().kind()
    }
    /// Asks for a cycle.
    pub fn request(self) {
        gc_start::request(&self.0.seg);
    }
    /// Takes the cycle a step further.
    pub fn step(self) {
        self.0.gc_step();
    }
    /// Takes a cycle to a phase, with edges of this P in between. The other P's are outside, or this panics.
    pub fn drive(self, kind: u8) {
        self.request();
        for _ in 0..10_000 {
            if self.phase() == kind {
                self.edge();
                return;
            }
            self.edge();
            if matches!(kind, PhaseWord::OFF | PhaseWord::ROUND) {
                self.0.collector_work(true);
            } else {
                self.step();
            }
        }
        panic!("no way from phase {} to {kind}", self.phase());
    }
    /// Takes a running cycle to its end without an edge of this P: it meets "off" at the next one.
    pub fn finish_cycle(self) {
        for _ in 0..10_000 {
            if self.phase() == PhaseWord::OFF {
                return;
            }
            self.0.collector_work(true);
        }
        panic!("the cycle does not end");
    }
    /// Helps a running cycle to its end, for a limited time. True when there is none any more.
    pub fn finish_within(self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.phase() != PhaseWord::OFF {
            if Instant::now() > until {
                return false;
            }
            self.edge();
            if !self.0.collector_work(true) {
                std::thread::yield_now();
            }
        }
        self.edge();
        true
    }
    /// Collects, for a limited time. True when a cycle that began after the call has ended.
    pub fn collect_within(self, patience: Duration) -> bool {
        let wanted = gc_start::request(&self.0.seg);
        let until = Instant::now() + patience;
        while gc_start::finished_cycle(&self.0.seg) < wanted {
            if Instant::now() > until {
                return false;
            }
            self.edge();
            if !self.0.collector_work(true) {
                std::thread::yield_now();
            }
        }
        self.edge();
        true
    }
    /// What an idle P does for the collector. False when there was nothing.
    pub fn work(self) -> bool {
        self.0.collector_work(true)
    }
    /// Enters kinds into the segment.
    pub fn resolve(self, kinds: &Kinds) -> Result<Loop<'_>> {
        Ok(Loop(kinds.resolve(self.0)?))
    }
    /// One turn of the scheduler.
    pub fn schedule(self, kinds: &Loop<'_>) -> bool {
        self.0.schedule(&kinds.0)
    }
    /// Is a task alive that is not failed?
    pub fn any_task_alive(self) -> bool {
        self.0.any_task_alive()
    }
    /// Moves up to `n` tasks of the global queue into this P's ring, unclaimed.
    pub fn localize(self, n: usize) {
        for _ in 0..n {
            if let Some(task) = self.0.seg.task_run.first(0) {
                self.0.seg.task_run.clear(task);
                self.0.runq_put(task, false);
            }
        }
    }
    /// Puts the first task of the global queue into `runnext`, unclaimed.
    pub fn localize_next(self) {
        if let Some(task) = self.0.seg.task_run.first(0) {
            self.0.seg.task_run.clear(task);
            self.0.runq_put(task, true);
        }
    }
    /// Steals and claims a task.
    pub fn steal(self) -> Option<usize> {
        self.0.steal_work()
    }
    /// Claims a task of the own queue.
    pub fn pop(self) -> Option<usize> {
        self.0.runq_get()
    }
    /// Claims a task of the global queue.
    pub fn pop_global(self) -> Option<usize> {
        self.0.globrunq_get()
    }
    /// Gives a claimed task back, runnable, to the own queue.
    pub fn unclaim(self, task: usize, next: bool) {
        let word = &self.0.seg.tasks[task].word;
        let seen = TaskWord(word.load(Acquire));
        word.store(seen.moved(TaskWord::RUNNABLE, Owner::new(0, 0)).0, SeqCst);
        self.0.runq_put(task, next);
        self.0.rec.now.0.task.store(0, SeqCst);
    }
    /// Queues a runnable task.
    pub fn put(self, task: usize, next: bool) {
        self.0.runq_put(task, next);
    }
    /// Says that the first `n` tasks have lost all the runs that deaths may cost them.
    pub fn wear_out(self, n: usize) {
        let limit = u64::from(self.0.seg.hdr.sched.redeliver_max.load(Relaxed));
        for task in &self.0.seg.tasks[..n] {
            task.tries.store(limit << 32, SeqCst);
            let seen = TaskWord(task.word.load(Acquire));
            task.word.store(seen.with_attempts(1).0, SeqCst);
        }
    }
    /// The mark worker to run now, claimed.
    pub fn claim_worker(self) -> Option<Claimed> {
        self.0
            .find_runnable_gc_worker()
            .or_else(|| self.0.find_idle_gc_worker())
            .map(|(g, mode)| Claimed(g, mode))
    }
    /// Runs it until it parks, migrates or exits.
    pub fn run_worker(self, worker: Claimed) {
        self.0.gc_bg_mark_worker(worker.0, worker.1);
    }
    /// Parks it.
    pub fn park_worker(self, worker: Claimed) {
        self.0.give_dedicated();
        let _ = self.0.park_worker(worker.0);
    }
    /// Takes it out of its slot.
    pub fn detach_worker(self, worker: &Claimed) {
        self.0.detach_worker(worker.0);
    }
    /// Lets it look whether marking is over.
    pub fn mark_done(self, worker: Claimed) {
        self.0.give_dedicated();
        self.0.go_on_with_mark_done(worker.0);
    }
    /// A worker that waits in the middle of `gc_mark_done`, claimed, goes on.
    pub fn migrate(self) -> bool {
        let found = self.0.find_migrating_worker();
        if let Some(g) = found {
            self.0.go_on_with_worker(g);
        }
        found.is_some()
    }
    /// Starts missing mark workers.
    pub fn start_workers(self) {
        self.0.gc_bg_mark_start_workers();
    }
    /// Starts, or adds, a mark worker for the slot of P `p` although it is taken: the attach is lost.
    pub fn start_second_worker(self, p: usize) {
        let slot = &self.0.seg.slots[p].word;
        let full = slot.load(SeqCst);
        let empty = SlotWord::empty(SlotWord(full).inc());
        self.0.start_worker_as_if(p, empty);
    }
    /// Starts a mark worker for the slot of P `p`, as a starter does that reads the slot now. False when it is not empty.
    pub fn start_worker(self, p: usize) -> bool {
        let slot = SlotWord(self.0.seg.slots[p].word.load(SeqCst));
        let empty = slot.state() == SlotWord::EMPTY;
        if empty {
            self.0.start_worker(p, slot);
        }
        empty
    }
    /// Claims the worker in this P's slot, whatever the phase.
    pub fn claim_slot_worker(self) -> Option<Claimed> {
        self.0
            .claim_slot_worker(Mode::Fractional)
            .map(|(g, mode)| Claimed(g, mode))
    }
    /// Says that work buffers had run out.
    pub fn say_overflow(self) {
        self.0.seg.hdr.gc.overflow.store(1, SeqCst);
    }
    /// One root job.
    pub fn root_job(self) -> bool {
        let bits = self.0.seg.marks_of(self.0.seg.phase().cycle());
        self.0.markroot_next(bits)
    }
    /// Marks until there is no work that is in nobody's hands.
    pub fn drain(self) {
        let started = crate::time::now_ns();
        self.0.gc_drain(crate::gc::gc_drain::Until::NoWork, started);
    }
    /// Publishes the spare work buffer.
    pub fn balance(self) {
        self.0.gcw_balance();
    }
    /// Fetches a published work buffer.
    pub fn fetch(self) -> bool {
        self.0.gcw_fetch()
    }
    /// Runs `f` in a scope, without the collector's share of work that [`P::enter`] does behind it.
    pub fn scope<R>(self, f: impl FnOnce(&Cx<'_>) -> R) -> R {
        let _inside = Inside::enter(self.0);
        f(&Cx::new(self.0))
    }
    /// Gives both work buffers up.
    pub fn dispose(self) {
        self.0.gcw_dispose();
    }
    /// Sweeps one block of pages.
    pub fn sweep(self) -> bool {
        self.0.sweep_some()
    }
    /// Commits chunks.
    pub fn grow(self, pages: usize) -> Result<()> {
        self.0.seg.grow(pages, self.0.me)
    }

    /// Commits one chunk ahead, piece by piece.
    pub fn grow_ahead(self) {
        self.0.grow_until.set(self.0.seg.ready_chunks() + 1);
        while self.0.grow_ahead() {}
    }
    /// Gives a free chunk back to the kernel.
    pub fn release_chunk(self) -> bool {
        self.0.seg.release_chunk(self.0.me)
    }
    /// Claims pages.
    pub fn claim(self, pages: usize) -> Result<usize> {
        self.0.claim_pages(pages)
    }
    /// Gives claimed pages back.
    pub fn free(self, first: usize) {
        self.0.seg.free_pages(first, self.0.me);
    }
    /// Shades the children-to-be of a root: the object it names. Inside a scope.
    pub fn shade_root(self, name: &str) {
        let Ok(index) = self.0.seg.root_index(name) else {
            return;
        };
        let word = shm_layout::word::RootWord(self.0.seg.roots[index].value.load(Acquire));
        self.0.write_barrier(word.reference());
    }
    /// Gives the private cache of free task records back.
    pub fn return_tasks(self) {
        for task in self.0.task_cache.borrow_mut().drain(..) {
            self.0.seg.task_free.set(task as usize);
        }
    }
    /// Asks for so many dedicated mark workers in this cycle.
    pub fn want_dedicated(self, n: u32) {
        self.0.seg.hdr.gc.dedicated_wanted.store(n, Relaxed);
    }
    /// Gives up every cached span within its generation.
    pub fn release_spans(self) {
        self.0.release_spans();
    }
    /// Stops the world and starts it again.
    pub fn stop(self) -> Result<()> {
        self.0.stop_the_world().map(drop)
    }
}
