//! Tasks of the dead: what was running runs again from its old context, what was committed is finished, reservations go back.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use shm_layout::word::{Owner, TaskWord};

use crate::{
    failpoint,
    sched::{
        commit,
        find_runnable::{Lost, count_lost, give_up, tell_failure},
        join,
        run_queue::{drain_dead, put_global},
    },
    segment::Segment,
};

/// Settles every task that names `dead`. Returns how many run again.
pub(super) fn settle(segment: &Segment, dead: Owner) -> usize {
    let record = &segment.procs[dead.p as usize];
    let high = segment.hdr.sched.task_high.load(Acquire) as usize;
    let mut requeued = 0;
    // Commits first: a reservation that a commit names must not be freed (close before scan).
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
            TaskWord::RESERVED if word.owner() == dead => {
                crate::probe!(segment, TaskReserved);
                let free = word.moved(TaskWord::FREE, Owner::new(0, 0));
                if segment.tasks[task]
                    .word
                    .compare_exchange(word.0, free.0, AcqRel, Relaxed)
                    .is_ok()
                {
                    segment.task_free.set(task);
                }
            }
            // May have been made runnable by the dead and not queued yet. Standing in two queues is harmless.
            TaskWord::RUNNABLE => put_global(segment, task),
            // May have stood in the dead P's private cache. In a living one's too: the reservation decides.
            TaskWord::FREE => {
                segment.task_free.set(task);
            }
            _ => {}
        }
    }
    // The dead may have been looking at the timers.
    segment.hdr.sched.next_timer_ns.0.store(0, Release);
    settle_parked(segment, record.now.0.task.load(Acquire));
    drain_dead(segment, record);
    requeued
}

/// Died in a step: from the last published context, or given up when that has happened too often.
fn run_again(segment: &Segment, task: usize, word: TaskWord, dead: Owner) -> bool {
    let record = &segment.tasks[task];
    let this = u64::from(dead.p) << 32 | u64::from(dead.inc);
    // A second recoverer, after the first died below, finds the death counted.
    let tries = if record.last_death.swap(this, Relaxed) == this {
        record.tries.load(Relaxed)
    } else {
        count_lost(segment, task, word, Lost::Death)
    };
    let deaths = (tries >> 32) as u32;
    let attempts = word.attempts().saturating_add(1).min(15);
    let limit = segment.hdr.sched.redeliver_max.load(Relaxed);
    if limit != 0 && deaths > limit {
        crate::probe!(segment, TaskGaveUp);
        record.error_code.store(8, Release);
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
        TaskWord::FAILED => tell_failure(segment, task),
        _ => {}
    }
}
