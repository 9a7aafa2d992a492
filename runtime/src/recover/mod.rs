//! Recovery: what a dead P was in the middle of is finished or undone, from the words it left.
//!
//! The daemon runs this when a life word says "dead"; without a daemon, the first survivor that waits for the answer or has time.
//! 1. *Certificate*: the life word (or, before it was armed, the absence of the process). No certificate, no step. 2. The P's word
//! goes to `DEAD`. 3. Pages, spans, marking, mark workers, tasks, handles, a stopped world: each from its primary words. 4. Only then
//! its scope word says "outside" and the record is vacant: handshakes wait for what was repaired.
//!
//! **Idempotent**: every arm looks at a word that names the dead, and moves it on. **Killable**: a recoverer that dies leaves the P
//! in `DEAD`, and the next one starts again at step 3. **One at a time**: a robust mutex, because some arms store without
//! compare-exchange; its holder's death hands it to the next. **Rejected:** deciding anything by time.
#![expect(unsafe_code, reason = "locks a robust pthread mutex in the segment")]

mod log;
mod marking;
mod spans;
mod tasks;

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use shm_layout::{
    header::Header,
    proc::ProcRecord,
    word::{Owner, ProcWord},
};

pub use log::Death;
pub(crate) use tasks::DEATHS_MAX;

use crate::{error::Result, failpoint, life, robust, segment::Segment, time::now_ns, twin};

/// What is known about a death that was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathReport {
    /// Index of the P.
    pub p: usize,
    /// Process that had leased it.
    pub pid: u32,
    /// Its lease.
    pub incarnation: u32,
    /// What it was doing.
    pub activity: &'static str,
    /// Task it was running, if any.
    pub task: Option<usize>,
    /// Nanoseconds the repair took.
    pub repair_ns: u64,
    /// Tasks put back into the queues.
    pub requeued: usize,
    /// Grey objects taken over.
    pub adopted: usize,
}

/// Recovers every P that is certified dead. Returns what it recovered; empty also when somebody else is at it.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// assert!(coheap::recover::recover_dead(&segment).is_empty());
/// ```
pub fn recover_dead(segment: &Segment) -> Vec<DeathReport> {
    if !segment.used_procs().iter().any(needs_recovery) {
        return Vec::new();
    }
    let Some(_lock) = RecoveryLock::try_take(segment) else {
        return Vec::new();
    };
    let mut reports = Vec::new();
    loop {
        let before = reports.len();
        for p in 0..segment.used_procs().len() {
            if needs_recovery(&segment.procs[p]) {
                reports.extend(recover_one(segment, p));
            }
        }
        // One of several dead may wait for another of them (`settle_pages`).
        if reports.len() == before || !segment.used_procs().iter().any(needs_recovery) {
            break;
        }
    }
    if !reports.is_empty() {
        // Handshakes that the dead had held up are over. A death before this leaves it to the sleepers' time-outs.
        wake(segment);
    }
    reports
}

#[cfg(feature = "model")]
pub(crate) fn any_needs_recovery(segment: &Segment) -> bool {
    segment.procs.iter().any(needs_recovery)
}

/// In the explorer one thread plays every process, so the recoverers' mutex is a word of its own: this is its holder's death.
#[cfg(feature = "model")]
pub(crate) fn model_release_lock(header: &Header, process: u64) {
    let _ = header.recovery.0[7].compare_exchange(process, 0, AcqRel, Relaxed);
}

fn needs_recovery(record: &ProcRecord) -> bool {
    let word = ProcWord(record.word.0.load(Acquire));
    match word.state() {
        ProcWord::VACANT => false,
        ProcWord::DEAD => true,
        // The twin takes who runs a mark worker for dead without a certificate, as a recoverer would that went by time.
        ProcWord::LIVE => {
            life::is_dead(record) || twin!("steal-live") && record.now.0.worker.load(Acquire) != 0
        }
        _ => life::is_dead(record) || life::is_stillborn(record, word),
    }
}

fn recover_one(segment: &Segment, p: usize) -> Option<DeathReport> {
    let record = &segment.procs[p];
    let word = ProcWord(record.word.0.load(Acquire));
    if word.state() != ProcWord::DEAD
        && record
            .word
            .0
            .compare_exchange(word.0, word.with_state(ProcWord::DEAD).0, AcqRel, Relaxed)
            .is_err()
    {
        return None;
    }
    failpoint!("recover.dead");
    let started = now_ns();
    let number = log::open(segment, p, word);
    failpoint!("recover.logged");
    let dead = Owner::new(p as u16, word.inc());
    let had_area = record.armed.load(Acquire) == 1;
    if !had_area {
        crate::probe!(segment, Stillborn);
    }
    let task = record.now.0.task.load(Acquire);
    let activity = activity_name(record.activity.load(Relaxed));
    let settled = crate::segment::settle_pages(segment, dead);
    failpoint!("recover.pages");
    if had_area {
        spans::settle(segment, dead);
        failpoint!("recover.spans");
    }
    let adopted = marking::settle(segment, dead);
    failpoint!("recover.marking");
    marking::settle_workers(segment, dead, word.inc());
    failpoint!("recover.workers");
    let requeued = tasks::settle(segment, dead);
    failpoint!("recover.tasks");
    if had_area {
        drop_handles(segment, p);
    }
    crate::gc::stop_the_world::release_dead(segment, dead);
    mend_finders(segment);
    failpoint!("recover.settled");
    if !settled {
        // Stays `DEAD`: the next call looks again. A living P is in the middle of the same pages, in a scope, so handshakes do not
        // wait longer for the dead than for it.
        return None;
    }
    if record.dedicated.load(Acquire) != 0 {
        crate::probe!(segment, DedicatedReturned);
    }
    log::close(segment, number, requeued, adopted);
    // While the record still says "dead": if this recoverer dies, the next one wakes them.
    wake(segment);
    failpoint!("recover.woken");
    vacate(record, word);
    let idle = &segment.hdr.sched.idle.0[p / 64];
    idle.fetch_and(!(1 << (p % 64)), SeqCst);
    let task = (task != 0).then(|| task as usize - 1);
    Some(DeathReport {
        p,
        pid: word.pid(),
        incarnation: word.inc(),
        activity,
        task,
        repair_ns: now_ns() - started,
        requeued,
        adopted,
    })
}

/// Wakes who sleeps through a wake-up that the dead owed them, or for whom there is work now. The dead may have been counted as
/// looking for work, which keeps others from waking anybody.
fn wake(segment: &Segment) {
    if !twin!("sleep-no-wake-all") {
        segment.hdr.sched.spinning.0.store(0, SeqCst);
        crate::sched::wake::wake_all(segment);
    }
}

/// The dead may have stood between the two levels of a finder.
fn mend_finders(segment: &Segment) {
    segment.task_run.mend_below(segment.tasks_used());
    segment.task_free.mend_below(segment.tasks_used());
    segment.buf_full.mend_below(segment.workbufs_used());
    segment.buf_free.mend_below(segment.workbufs_used());
}

/// The last step: what says that the P is inside a scope goes only now.
fn vacate(record: &ProcRecord, word: ProcWord) {
    let now = &record.now.0;
    for field in [
        &now.shade,
        &now.task,
        &now.root_job,
        &now.sweep_span,
        &now.sweep_block,
        &now.workbuf,
        &now.workbuf2,
        &now.worker,
        &now.gcw[0],
        &now.gcw[1],
    ] {
        field.store(0, Relaxed);
    }
    for r in &now.inflight {
        r.store(0, Relaxed);
    }
    record.dedicated.store(0, SeqCst);
    record.mark_mode.store(0, SeqCst);
    record.preempt.store(0, Relaxed);
    record.scope.0.store(0, SeqCst);
    record.armed.store(0, SeqCst);
    record.start_time.store(0, SeqCst);
    failpoint!("recover.vacating");
    record
        .word
        .0
        .store(word.with_state(ProcWord::VACANT).0, SeqCst);
}

fn drop_handles(segment: &Segment, p: usize) {
    let mut dropped = false;
    for handle in &segment.areas[p].handles {
        if handle.load(Relaxed) != 0 {
            handle.store(0, Relaxed);
            dropped = true;
        }
    }
    if dropped {
        crate::probe!(segment, HandlesDropped);
    }
}

/// Names of `ProcRecord::activity`, for people.
pub(crate) fn activity_name(activity: u32) -> &'static str {
    match activity {
        0 => "idle",
        1 => "scheduling",
        2 => "task",
        3 => "mark",
        4 => "outside",
        5 => "assist",
        6 => "sweep",
        7 => "stopped",
        _ => "?",
    }
}

/// The recoverers' mutex.
pub(crate) struct RecoveryLock(*mut libc::pthread_mutex_t);

impl RecoveryLock {
    fn at(header: &Header) -> *mut libc::pthread_mutex_t {
        (&raw const header.recovery.0).cast_mut().cast()
    }

    pub(crate) fn try_take(segment: &Segment) -> Option<RecoveryLock> {
        #[cfg(feature = "model")]
        if crate::model::active() {
            let me = crate::model::current();
            let taken = segment.hdr.recovery.0[7].compare_exchange(0, me + 1, AcqRel, Relaxed);
            return taken.is_ok().then(|| RecoveryLock(Self::at(segment.hdr)));
        }
        let at = Self::at(segment.hdr);
        // SAFETY: initialised by `init_lock` when the segment was made, robust and process-shared, never moved or reused.
        match unsafe { libc::pthread_mutex_trylock(at) } {
            0 => Some(RecoveryLock(at)),
            libc::EOWNERDEAD => {
                // The last recoverer died in here; every arm can be run again.
                crate::probe!(segment, RecoveryTakenOver);
                // SAFETY: locked by this thread just now.
                unsafe { libc::pthread_mutex_consistent(at) };
                Some(RecoveryLock(at))
            }
            _ => None,
        }
    }
}

impl Drop for RecoveryLock {
    fn drop(&mut self) {
        #[cfg(feature = "model")]
        if crate::model::active() {
            let at = self.0.cast::<shm_layout::sync::AtomicU64>().wrapping_add(7);
            // SAFETY: the last of the eight words that `Header::recovery` consists of.
            let word = unsafe { &*at };
            return word.store(0, SeqCst);
        }
        // SAFETY: locked by this thread.
        unsafe { libc::pthread_mutex_unlock(self.0) };
    }
}

/// Makes the recoverers' mutex, in a new segment.
pub(crate) fn init_lock(header: &Header) -> Result<()> {
    // SAFETY: bytes of the header set aside for it, in a segment that nobody else has opened yet.
    unsafe { robust::init(RecoveryLock::at(header)) }
}
