//! What state a segment is in: leases, the world, tasks, and the run of a cursor.
//!
//! Each is a look at the words as they are: **nothing is changed**, and nothing holds still while it is looked at.

use std::sync::atomic::Ordering::SeqCst;

use shm_layout::word::{PhaseWord, ProcWord, TaskWord};

use crate::segment::Segment;

/// Is this P's record vacant?
pub fn is_vacant(segment: &Segment, p: usize) -> bool {
    ProcWord(segment.procs[p].word.0.load(SeqCst)).state() == ProcWord::VACANT
}

/// Leases that are not vacant.
pub fn live_leases(segment: &Segment) -> usize {
    (0..segment.used_procs().len())
        .filter(|&p| !is_vacant(segment, p))
        .count()
}

/// Is the world stopped?
pub fn is_stopped(segment: &Segment) -> bool {
    segment.phase().kind() == PhaseWord::STOPPED
}

/// Leases that are neither vacant nor live.
pub fn unsettled(segment: &Segment) -> Vec<String> {
    let mut out = Vec::new();
    for (p, record) in segment.used_procs().iter().enumerate() {
        let word = ProcWord(record.word.0.load(SeqCst));
        if !matches!(word.state(), ProcWord::VACANT | ProcWord::LIVE) {
            out.push(format!("P{p} is in state {}", word.state()));
        }
    }
    out
}

/// Tasks by state.
pub fn tasks_by_state(segment: &Segment) -> [usize; 8] {
    let mut counts = [0; 8];
    let high = segment.hdr.sched.task_high.load(SeqCst) as usize;
    for task in &segment.tasks[..high] {
        counts[TaskWord(task.word.load(SeqCst)).state() as usize & 7] += 1;
    }
    counts[0] = 0;
    counts
}

/// Has the cursor of `T` a slot left in its run?
pub fn run_left<T: crate::Shared>(cx: &crate::Cx<'_>) -> bool {
    cx.proc()
        .cursors
        .get(T::cell().number())
        .is_some_and(|c| c.cur.get() != c.end.get())
}
