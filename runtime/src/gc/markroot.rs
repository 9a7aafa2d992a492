//! Root jobs: what a cycle starts from, cut into pieces that processes claim (Go's markroot, markrootNext).
//!
//! Job 0 scans the named roots; jobs 1 to 256 the handle tables of the P's; each further one 1,024 task records. A job's word names
//! cycle, claimer and whether it is done: a claim is not a completion, and a process that dies after claiming must not lose a root.
//! **If the claimer dies** recovery opens the job again. Marking is idempotent, so half of it done twice is harmless.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use shm_layout::sync::AtomicU64;
use shm_layout::{
    MAX_P,
    geometry::{ROOT_JOBS, TASKS_PER_JOB},
    word::{JobWord, Owner, ProcWord, RootWord, TaskWord},
};

use crate::{failpoint, planted, sched::proc::Proc, segment::Segment};

/// Jobs of a cycle that starts now. Tasks made later are born under the barrier.
pub(crate) fn jobs(segment: &Segment) -> u32 {
    // Scenarios keep everything in named roots: one job.
    #[cfg(feature = "model")]
    if crate::model::named_roots_only() {
        return 1;
    }
    let tasks = segment.hdr.sched.task_high.load(Acquire) as usize;
    (1 + MAX_P + tasks.div_ceil(TASKS_PER_JOB)).min(ROOT_JOBS) as u32
}

/// Is every root job of the cycle done?
pub(crate) fn all_done(segment: &Segment, cycle: u32) -> bool {
    let jobs = segment.hdr.gc.root_jobs.load(Acquire) as usize;
    segment.root_jobs[..jobs].iter().all(|word| {
        let word = JobWord(word.load(Acquire));
        word.cycle() == cycle && word.state() == JobWord::DONE
    })
}

/// Lets an open job be found again that the mark of the next job has passed: its opener died between opening it and moving the
/// mark back, or a claimer of a later job moved the mark forward at the same time. Asked when marking seems over and is not.
pub(crate) fn find_again(segment: &Segment, cycle: u32) {
    let jobs = segment.hdr.gc.root_jobs.load(Acquire) as usize;
    let open = segment.root_jobs[..jobs]
        .iter()
        .position(|word| is_open(JobWord(word.load(Acquire)), cycle));
    if let Some(job) = open {
        segment.hdr.gc.root_next.fetch_min(job as u32, AcqRel);
    }
}

/// Is there a root job that nobody has claimed? A hint.
pub(crate) fn any_open(segment: &Segment, cycle: u32) -> bool {
    let jobs = segment.hdr.gc.root_jobs.load(Relaxed);
    segment.hdr.gc.root_next.load(Relaxed) < jobs
        && segment.hdr.gc.root_jobs.load(Acquire) != 0
        && {
            let first = segment.hdr.gc.root_next.load(Relaxed) as usize;
            segment.root_jobs[first..jobs as usize]
                .iter()
                .any(|word| is_open(JobWord(word.load(Acquire)), cycle))
        }
}

fn is_open(word: JobWord, cycle: u32) -> bool {
    word.cycle() != cycle || word.state() == JobWord::OPEN
}

impl Proc {
    /// Claims one root job and does it. False when none is open.
    pub(crate) fn markroot_next(&self, bits: &'static [AtomicU64]) -> bool {
        let cycle = self.seg.phase().cycle();
        let jobs = self.seg.hdr.gc.root_jobs.load(Acquire);
        let next = &self.seg.hdr.gc.root_next;
        let mut job = next.load(Acquire);
        while job < jobs {
            let word = JobWord(self.seg.root_jobs[job as usize].load(Acquire));
            if is_open(word, cycle) && self.claim_job(job as usize, word, cycle) {
                next.fetch_max(job + 1, AcqRel);
                if planted!(JobDoneEarly) {
                    let done = JobWord(0).with_state(JobWord::DONE).with_cycle(cycle);
                    self.seg.root_jobs[job as usize].store(done.0, Release);
                }
                self.markroot(bits, job as usize);
                failpoint!("markroot.marked");
                let done = JobWord(0).with_state(JobWord::DONE).with_cycle(cycle);
                // Release: all its roots are marked before it is done; partner of `all_done`.
                self.seg.root_jobs[job as usize].store(done.0, Release);
                self.rec.now.0.root_job.store(0, Release);
                return true;
            }
            job += 1;
        }
        false
    }

    fn claim_job(&self, job: usize, word: JobWord, cycle: u32) -> bool {
        self.rec.now.0.root_job.store(job as u32 + 1, Release);
        failpoint!("markroot.recorded");
        let mine = JobWord(0)
            .with_state(JobWord::CLAIMED)
            .with_p(self.me.p)
            .with_inc(self.me.inc)
            .with_cycle(cycle);
        let won = self.seg.root_jobs[job]
            .compare_exchange(word.0, mine.0, AcqRel, Relaxed)
            .is_ok();
        failpoint!("markroot.claimed");
        if !won {
            self.rec.now.0.root_job.store(0, Release);
        }
        won
    }

    fn markroot(&self, bits: &'static [AtomicU64], job: usize) {
        match job {
            0 => self.markroot_named(bits),
            1..=MAX_P => self.markroot_handles(bits, job - 1),
            _ => self.markroot_tasks(bits, job - 1 - MAX_P),
        }
    }

    fn markroot_named(&self, bits: &'static [AtomicU64]) {
        for root in self.seg.roots {
            if root.key.load(Acquire) != 0 {
                self.grey_root(bits, RootWord(root.value.load(Acquire)).reference());
            }
        }
    }

    fn markroot_handles(&self, bits: &'static [AtomicU64], p: usize) {
        // A record that was never leased has no area behind it: it must not be touched (S4).
        if ProcWord(self.seg.procs[p].word.0.load(Acquire)).state() == ProcWord::VACANT
            || self.seg.procs[p].armed.load(Acquire) == 0
        {
            return;
        }
        for handle in &self.seg.areas[p].handles {
            self.grey_root(bits, handle.load(Acquire));
        }
    }

    fn markroot_tasks(&self, bits: &'static [AtomicU64], block: usize) {
        let first = block * TASKS_PER_JOB;
        let high = self.seg.hdr.sched.task_high.load(Acquire) as usize;
        for task in &self.seg.tasks[first..high.min(first + TASKS_PER_JOB)] {
            let word = TaskWord(task.word.load(Acquire));
            let unfilled = word.state() == TaskWord::RESERVED && word.sel() == 1;
            if word.state() == TaskWord::FREE || unfilled {
                continue;
            }
            self.grey_root(bits, task.context[word.sel() as usize].load(Acquire));
            self.grey_root(bits, task.join.load(Acquire));
            self.grey_root(bits, task.error.load(Acquire));
            // Before the commit the record is its maker's business (it was stored with the barrier); after the last step of a
            // commit it is stale.
            if word.state() == TaskWord::COMMITTED {
                self.grey_root(bits, task.commit.load(Acquire));
            }
        }
    }

    fn grey_root(&self, bits: &'static [AtomicU64], r: shm_layout::Ref) {
        if r != 0 && !crate::heap::marks::is_marked(bits, r) {
            self.grey_object(bits, r);
        }
    }
}

/// Opens the root job that `dead` had claimed.
pub(crate) fn settle_job(segment: &Segment, dead: Owner, job: usize) {
    let word = JobWord(segment.root_jobs[job].load(Acquire));
    if word.state() == JobWord::CLAIMED && Owner::new(word.p(), word.inc()) == dead {
        crate::probe!(segment, RootJobClaimed);
        segment
            .hdr
            .gc
            .dirty
            .0
            .store(1, std::sync::atomic::Ordering::SeqCst);
        if segment.root_jobs[job]
            .compare_exchange(word.0, word.with_state(JobWord::OPEN).0, AcqRel, Relaxed)
            .is_ok()
        {
            segment.hdr.gc.root_next.fetch_min(job as u32, AcqRel);
        }
    }
}
