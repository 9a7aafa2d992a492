//! Tasks of the dead: what was running runs again from its old context, what was committed is finished, reservations go back.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use shm_layout::word::{Owner, TaskWord};

use crate::{
    failpoint,
    sched::{
        commit,
        given_up::GAVE_UP,
        join,
        lost_runs::{count_death, give_up, is_last_death, tell_failure},
        run_queue::{drain_dead, put_global},
    },
    segment::Segment,
    twin,
};

/// Deaths of one step that its record can count.
pub(crate) const DEATHS_MAX: u32 = u16::MAX as u32;

/// Settles every task that names `dead`. Returns how many run again.
pub(super) fn settle(segment: &Segment, dead: Owner) -> usize {
    let record = &segment.procs[dead.p as usize];
    let high = segment.tasks_used();
    let (mut requeued, mut failed, mut failed_before) = (0, 0, 0);
    // Commits first: a reservation that a commit names must not be freed (close before scan).
    if twin!("scan-before-close") {
        for task in 0..high {
            free_reserved(segment, task, dead);
        }
    }
    for task in 0..high {
        let word = TaskWord(segment.tasks[task].word.load(Acquire));
        if word.state() == TaskWord::COMMITTED && word.owner() == dead {
            crate::probe!(segment, TaskCommitted);
            commit::finish_dead(segment, task, word, dead);
        }
    }
    failpoint!("recover.committed");
    for task in 0..high {
        let word = TaskWord(segment.tasks[task].word.load(Acquire));
        match word.state() {
            TaskWord::RUNNING if word.owner() == dead => {
                requeued += usize::from(run_again(segment, task, word, dead))
            }
            TaskWord::RESERVED => free_reserved(segment, task, dead),
            // May have been made runnable by the dead and not queued yet. Standing in two queues is harmless.
            TaskWord::RUNNABLE => put_global(segment, task),
            // May have stood in the dead P's private cache. In a living one's too: the reservation decides.
            TaskWord::FREE => {
                segment.task_free.set(task);
            }
            TaskWord::FAILED => {
                failed += 1;
                failed_before += u64::from(is_last_death(segment, task, dead));
            }
            _ => {}
        }
    }
    count_given_up(segment, failed, failed_before);
    // The dead may have been looking at the timers.
    segment.hdr.sched.next_timer_ns.0.store(0, Release);
    settle_parked(segment, record.now.0.task.load(Acquire));
    drain_dead(segment, record);
    requeued
}

/// A task that was given up and not counted is one that nobody describes, in a run that reports no failure. The dead may have left one,
/// and so may a recoverer of this death before us (`before`); whether that had counted it too cannot be told, and one too many is
/// the lesser evil.
fn count_given_up(segment: &Segment, failed: u64, before: u64) {
    let gave_up = &segment.hdr.stats.gave_up;
    if before > 0 {
        gave_up.fetch_add(before, Relaxed);
    }
    // Forgotten ones (`forget`) stay counted, so this is a lower bound.
    gave_up.fetch_max(failed, Relaxed);
}

/// Gives a record back that `dead` had reserved and no commit has published.
fn free_reserved(segment: &Segment, task: usize, dead: Owner) {
    let word = TaskWord(segment.tasks[task].word.load(Acquire));
    if word.state() != TaskWord::RESERVED || word.owner() != dead {
        return;
    }
    crate::probe!(segment, TaskReserved);
    let free = word.moved(TaskWord::FREE, Owner::new(0, 0));
    let done = segment.tasks[task]
        .word
        .compare_exchange(word.0, free.0, AcqRel, Relaxed);
    if done.is_ok() {
        segment.task_free.set(task);
    }
}

/// Died in a step: from the last published context, or given up when that has happened too often.
fn run_again(segment: &Segment, task: usize, word: TaskWord, dead: Owner) -> bool {
    let record = &segment.tasks[task];
    let deaths = count_death(segment, task, word, dead);
    failpoint!("recover.counted");
    let attempts = word.attempts().saturating_add(1).min(15);
    let limit = segment.hdr.sched.redeliver_max.load(Relaxed);
    if limit != 0 && deaths > limit.min(DEATHS_MAX - 1) {
        crate::probe!(segment, TaskGaveUp);
        record.error_code.store(GAVE_UP, Release);
        give_up(segment, task, word, attempts);
        return false;
    }
    crate::probe!(segment, TaskRunning);
    let again = word
        .moved(TaskWord::RUNNABLE, Owner::new(0, 0))
        .with_attempts(attempts);
    let done = record
        .word
        .compare_exchange(word.0, again.0, AcqRel, Relaxed)
        .is_ok();
    if done {
        segment.hdr.stats.requeued.fetch_add(1, Relaxed);
        put_global(segment, task);
    }
    done
}

/// Died while parking or failing a task: a waiting one is woken for nothing, a failed one's waiter is told again.
fn settle_parked(segment: &Segment, task_plus_1: u32) {
    if task_plus_1 == 0 {
        return;
    }
    let task = task_plus_1 as usize - 1;
    match TaskWord(segment.tasks[task].word.load(Acquire)).state() {
        TaskWord::WAITING => {
            crate::probe!(segment, TaskParked);
            join::wake_task(segment, task);
        }
        TaskWord::FAILED => {
            crate::probe!(segment, TaskFailed);
            tell_failure(segment, task);
        }
        _ => {}
    }
}
