//! Run queues: a ring of 256 per P with steal-half, `runnext`, and a global queue (Go's figures).
//!
//! All derived: the truth is that a task's word says `RUNNABLE`. A task may stand in two queues, or twice in one; the claim of its
//! word decides. The global queue is a bitmap of task records looked through in turn, which makes putting idempotent.
//! **If a P dies**, everything in its ring's memory, stale or not, is put into the global queue; what is not runnable is dropped
//! by whoever tries to claim it. A task that a dying P had popped and not claimed stands in its `in progress: task`.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{
    proc::{ProcRecord, RUNQ},
    word::TaskWord,
};

use crate::{
    failpoint,
    sched::{proc::Proc, wake},
    segment::Segment,
    twin,
};

/// Puts a task into the global queue. Idempotent.
pub(crate) fn put_global(segment: &Segment, task: usize) {
    segment.task_run.set(task);
}

impl Proc {
    /// Puts a runnable task into our queue; `next` makes it the one to run next, and what stood there goes to the tail.
    pub(crate) fn runq_put(&self, task: usize, next: bool) {
        let mut task = task as u32;
        if next {
            let kicked = self.rec.runnext.swap(task + 1, SeqCst);
            if kicked == 0 {
                wake::wake_one(&self.seg);
                return;
            }
            task = kicked - 1;
        }
        let tail = self.rec.runq_tail.0.load(Relaxed);
        let head = self.rec.runq_head.0.load(Acquire);
        if tail.wrapping_sub(head) as usize >= RUNQ {
            put_global(&self.seg, task as usize);
            self.overflow();
        } else {
            self.rec.runq.0[tail as usize % RUNQ].store(task, Relaxed);
            failpoint!("runq.stored");
            // SeqCst (includes Release): the entry before the tail; then the look for sleepers.
            self.rec.runq_tail.0.store(tail.wrapping_add(1), SeqCst);
        }
        wake::wake_one(&self.seg);
    }

    /// Moves half of the ring to the global queue.
    fn overflow(&self) {
        // The caller's own record (a task being committed) must outlive the records of the entries on their way.
        let before = self.rec.now.0.task.load(Relaxed);
        for _ in 0..RUNQ / 2 {
            match self.pop_head() {
                Some(_) if twin!("overflow-forgets") => {}
                Some(task) => put_global(&self.seg, task as usize),
                None => break,
            }
        }
        self.rec.now.0.task.store(before, Release);
    }

    /// Moves everything to the global queue: before a dedicated mark worker, a resize, a detach.
    pub(crate) fn runq_to_global(&self) {
        let next = self.rec.runnext.swap(0, SeqCst);
        if next != 0 {
            put_global(&self.seg, next as usize - 1);
        }
        while let Some(task) = self.pop_head() {
            put_global(&self.seg, task as usize);
        }
        self.rec.now.0.task.store(0, Release);
        wake::wake_one(&self.seg);
    }

    /// Takes the oldest entry of our ring. Recorded in `in progress: task` before it is taken.
    fn pop_head(&self) -> Option<u32> {
        loop {
            let head = self.rec.runq_head.0.load(Acquire);
            if head == self.rec.runq_tail.0.load(Relaxed) {
                return None;
            }
            let task = self.rec.runq.0[head as usize % RUNQ].load(Relaxed);
            self.rec.now.0.task.store(task + 1, Release);
            if self
                .rec
                .runq_head
                .0
                .compare_exchange(head, head.wrapping_add(1), AcqRel, Relaxed)
                .is_ok()
            {
                failpoint!("runq.popped");
                return Some(task);
            }
        }
    }

    /// Claims the next task of our queue.
    pub(crate) fn runq_get(&self) -> Option<usize> {
        let next = self.rec.runnext.load(Acquire);
        if next != 0 {
            self.rec.now.0.task.store(next, Release);
            if self
                .rec
                .runnext
                .compare_exchange(next, 0, SeqCst, Relaxed)
                .is_ok()
                && self.claim_task(next as usize - 1)
            {
                return Some(next as usize - 1);
            }
        }
        while let Some(task) = self.pop_head() {
            if self.claim_task(task as usize) {
                return Some(task as usize);
            }
        }
        None
    }

    /// Claims a task of the global queue.
    pub(crate) fn globrunq_get(&self) -> Option<usize> {
        let next = &self.seg.hdr.sched.global_next.0;
        let used = self.seg.tasks_used();
        while let Some(task) = self
            .seg
            .task_run
            .first_below(next.load(Relaxed) as usize, used)
        {
            self.rec.now.0.task.store(task as u32 + 1, Release);
            failpoint!("globrunq.recorded");
            if self.seg.task_run.clear(task) {
                failpoint!("globrunq.taken");
                next.store(task as u32 + 1, Relaxed);
                if self.claim_task(task) {
                    return Some(task);
                }
            }
        }
        None
    }

    /// Is there anything in our queue, or in the global one, or to be stolen? The question before sleeping.
    pub(crate) fn any_runnable(&self) -> bool {
        self.has_other_work()
            || self.seg.used_procs().iter().any(|r| {
                r.runnext.load(SeqCst) != 0
                    || r.runq_head.0.load(SeqCst) != r.runq_tail.0.load(SeqCst)
            })
    }

    /// Is there a task for this P to run, without stealing?
    pub(crate) fn has_other_work(&self) -> bool {
        self.rec.runnext.load(SeqCst) != 0
            || self.rec.runq_head.0.load(Relaxed) != self.rec.runq_tail.0.load(Relaxed)
            || self.seg.task_run.any_below(self.seg.tasks_used())
    }

    /// Steals half of another P's ring, or its `runnext`, and claims one of it.
    pub(crate) fn steal_work(&self) -> Option<usize> {
        let procs = self.seg.used_procs().len();
        let start = self.rng.borrow_mut().usize(0..procs);
        for round in 0..2 {
            for k in 0..procs {
                let victim = (start + k) % procs;
                if victim == self.index() {
                    continue;
                }
                let rec = &self.seg.procs[victim];
                let found = self.steal_ring(rec).or_else(|| {
                    if round == 1 {
                        self.steal_next(rec)
                    } else {
                        None
                    }
                });
                if let Some(task) = found {
                    self.rec.stats.0.steals.fetch_add(1, Relaxed);
                    self.trace(shm_layout::trace::ev::STEAL, victim as u32, task as u32);
                    return Some(task);
                }
            }
        }
        self.rec.stats.0.steal_misses.fetch_add(1, Relaxed);
        None
    }

    /// Copies half of `rec`'s ring behind our tail, then moves its head: only then the copies count. Our ring is empty.
    fn steal_ring(&self, rec: &ProcRecord) -> Option<usize> {
        loop {
            let head = rec.runq_head.0.load(Acquire);
            let tail = rec.runq_tail.0.load(Acquire);
            let have = tail.wrapping_sub(head);
            let n = have - have / 2;
            if n == 0 {
                return None;
            }
            if n as usize > RUNQ / 2 {
                continue; // head and tail were read at different times
            }
            let ours = self.rec.runq_tail.0.load(Relaxed);
            for i in 0..n {
                let task = rec.runq.0[head.wrapping_add(i) as usize % RUNQ].load(Relaxed);
                self.rec.runq.0[ours.wrapping_add(i) as usize % RUNQ].store(task, Relaxed);
            }
            failpoint!("steal.copied");
            if twin!("steal-by-add") {
                rec.runq_head.0.fetch_add(n, AcqRel);
                self.rec.runq_tail.0.store(ours.wrapping_add(n), Release);
                return self.runq_get();
            }
            if rec
                .runq_head
                .0
                .compare_exchange(head, head.wrapping_add(n), AcqRel, Relaxed)
                .is_ok()
            {
                failpoint!("steal.taken");
                self.rec.runq_tail.0.store(ours.wrapping_add(n), Release);
                return self.runq_get();
            }
        }
    }

    fn steal_next(&self, rec: &ProcRecord) -> Option<usize> {
        let next = rec.runnext.load(Acquire);
        if next == 0 {
            return None;
        }
        self.rec.now.0.task.store(next, Release);
        let task = next as usize - 1;
        (rec.runnext
            .compare_exchange(next, 0, SeqCst, Relaxed)
            .is_ok()
            && self.claim_task(task))
        .then_some(task)
    }

    /// Claims a task: one compare-exchange from `RUNNABLE`.
    fn claim_task(&self, task: usize) -> bool {
        let record = &self.seg.tasks[task];
        let word = TaskWord(record.word.load(Acquire));
        if twin!("claim-task-by-store") && word.state() == TaskWord::RUNNABLE {
            let claimed = word.moved(TaskWord::RUNNING, self.me);
            record.word.store(claimed.0, Release);
            return true;
        }
        // Acquire: pairs with the Release of who made it runnable: context and kind are complete.
        let won = word.state() == TaskWord::RUNNABLE
            && record
                .word
                .compare_exchange(
                    word.0,
                    word.moved(TaskWord::RUNNING, self.me).0,
                    AcqRel,
                    Relaxed,
                )
                .is_ok();
        failpoint!("task.claimed");
        won
    }
}

/// Puts everything that a dead P's queues may hold into the global queue.
pub(crate) fn drain_dead(segment: &Segment, record: &ProcRecord) {
    let high = segment.hdr.sched.task_high.load(Acquire);
    let put = |plus_1: u32| {
        if plus_1 != 0 && plus_1 <= high {
            put_global(segment, plus_1 as usize - 1);
        }
    };
    put(record.runnext.swap(0, SeqCst));
    for entry in &record.runq.0 {
        put(entry.load(Relaxed).wrapping_add(1));
    }
    put(record.now.0.task.load(Acquire));
    let tail = record.runq_tail.0.load(Relaxed);
    record.runq_head.0.store(tail, Release);
    crate::probe!(segment, RunqDrained);
}
