//! Runs of a step that took no effect: counted, tried again, given up.
//!
//! A run is lost to a death of its process, or to a lack of memory. Each kind has its own count and limit; an error or a panic of
//! the step's own code ends the task at once.
//! 1. Hunger: the task runs again after a collection that it asks for; until that has ended no P runs a step ([`Proc::starved`]).
//!    After [`HUNGER_MAX`] such runs, or when [`BARREN_MAX`] collections in a row freed next to nothing, it fails.
//! 2. A death: recovery counts it ([`count_death`]) and requeues the task, or gives it up at the heap's limit.
//! 3. Giving up: the word becomes `FAILED`, then whoever waits for the result is told.
//!
//! **Invariants.** A death counts once, however many recoverers die at it. A step that was told it is the last that may end for lack
//! of memory is, whatever others free meanwhile: its program may have given up more because of it.
//! **If the process dies** between `FAILED` and the telling, the task stands in its `in progress: task`, and recovery tells again.
//! **Rejected:** one count for both kinds: a full heap would use up the patience that deaths have, and the other way round.

use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use shm_layout::word::{Owner, TaskWord};

use crate::{
    Error,
    api::Cx,
    failpoint,
    gc::gc_start,
    recover::DEATHS_MAX,
    sched::{join, proc::Proc, run_queue, task::Resolved},
    twin,
};

/// Runs of a step that may end for lack of memory before the task is given up. Deaths have a limit of their own, in the segment.
const HUNGER_MAX: u32 = 3;
/// Collections in a row that freed next to nothing for those who asked, no step having taken effect meanwhile: the heap is full of live objects, and each step that learns
/// it by three collections of its own would make a thousand waiting ones take minutes to say so.
const BARREN_MAX: u32 = 3;
impl Proc {
    /// Has a step run out of memory, and the collection it asked for not ended yet? Then no P runs tasks: each would only meet
    /// the full heap too, and lose one of its attempts.
    pub(super) fn starved(&self) -> bool {
        let wanted = self.seg.hdr.gc.starved_cycle.load(Relaxed);
        wanted != 0 && gc_start::finished_cycle(&self.seg) < wanted
    }

    /// A step took effect: the heap is not at its end. Read first: the word is everybody's and hardly ever set.
    pub(super) fn note_progress(&self) {
        let barren = &self.seg.hdr.gc.barren;
        if barren.load(Relaxed) != 0 {
            barren.store(0, Relaxed);
        }
    }

    /// A step that took no effect: tried again after a collection when memory was short, given up otherwise.
    pub(super) fn fail_task(&self, task: usize, error: &Error, kinds: &Resolved<'_>) {
        let record = &self.seg.tasks[task];
        let word = TaskWord(record.word.load(Relaxed));
        let attempts = word.attempts().saturating_add(1).min(15);
        let hungry = matches!(error, Error::HeapFull { .. } | Error::NoMemory { .. });
        let last = self.said_last.get() || is_last_try(&self.seg, task, word);
        if hungry && !last {
            count_hunger(&self.seg, task, word);
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

/// Lost runs of a task's present step: deaths in the upper half, hunger in the lower. The word's count says whether the record's
/// belongs to this step, because a commit clears the former only.
pub(crate) fn lost(segment: &crate::Segment, task: usize, word: TaskWord) -> u64 {
    if word.attempts() == 0 {
        0
    } else {
        segment.tasks[task].tries.load(Relaxed)
    }
}

/// Would a lack of memory in this run of the step be the end of its task?
pub(crate) fn is_last_try(segment: &crate::Segment, task: usize, word: TaskWord) -> bool {
    let starved = lost(segment, task, word) as u32;
    starved >= HUNGER_MAX || segment.hdr.gc.barren.load(Relaxed) >= BARREN_MAX
}

/// Counts one more run that ended for lack of memory. By the task's owner.
fn count_hunger(segment: &crate::Segment, task: usize, word: TaskWord) {
    let now = lost(segment, task, word) + 1;
    segment.tasks[task].tries.store(now, Relaxed);
}

/// Is the death of `dead` the last that was counted in this task?
pub(crate) fn is_last_death(segment: &crate::Segment, task: usize, dead: Owner) -> bool {
    segment.tasks[task].last_death.load(Relaxed) & !0xffff == death_id(dead)
}

fn death_id(dead: Owner) -> u64 {
    u64::from(dead.p) << 48 | u64::from(dead.inc) << 16
}

/// Counts the death of `dead` in this step, once, however many recoverers die at it. Returns the deaths of the step so far.
pub(crate) fn count_death(
    segment: &crate::Segment,
    task: usize,
    word: TaskWord,
    dead: Owner,
) -> u32 {
    let record = &segment.tasks[task];
    let before = lost(segment, task, word);
    let this = death_id(dead);
    let counted = record.last_death.load(Relaxed);
    let deaths = if counted & !0xffff == this {
        crate::probe!(segment, DeathCountedBefore);
        if twin!("death-then-count") {
            before >> 32
        } else {
            counted & 0xffff
        }
    } else {
        let deaths = (before >> 32).saturating_add(1).min(DEATHS_MAX.into());
        // Who died and the count it makes, in one store; the next says the same however often it is repeated.
        record.last_death.store(this | deaths, Relaxed);
        deaths
    };
    failpoint!("task.death_counted");
    record
        .tries
        .store(deaths << 32 | before & 0xffff_ffff, Relaxed);
    deaths as u32
}

/// `FAILED` keeps context and error for the report; who waits for the result is told. A death in between leaves the task in the
/// dead P's `in progress: task`, and recovery tells again.
pub(crate) fn give_up(segment: &crate::Segment, task: usize, word: TaskWord, attempts: u8) {
    let record = &segment.tasks[task];
    // Before the exchange, and by everybody who gives it up: if we die in between, the task is not waiting, so nobody takes this for a
    // time; its next commit stores one, and who gives it up after us stores this again.
    record
        .wake_at_ns
        .store(segment.hdr.sched.run.load(Relaxed), Relaxed);
    failpoint!("task.failing");
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

#[cfg(test)]
mod tests {
    use super::{BARREN_MAX, Relaxed};
    use crate::{Error, Kinds, Next, P, Result, Segment, Shared, Step, Task};

    #[derive(Shared)]
    struct Hungry {
        runs: std::sync::atomic::AtomicU64,
    }

    impl Task for Hungry {
        const KIND: &'static str = "hungry";
        type Output = Hungry;
        fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
            cx.context().runs.fetch_add(1, Relaxed);
            assert!(cx.is_last_try() && cx.context().runs.load(Relaxed) == 1);
            // Others find room, and their steps take effect.
            cx.segment().hdr.gc.barren.store(0, Relaxed);
            assert!(!cx.is_last_try());
            Err(Error::HeapFull {
                need_bytes: 8,
                live_bytes: 8,
                limit_bytes: 8,
            })
        }
    }

    #[test]
    fn a_step_that_was_told_it_is_the_last_try_is_taken_at_its_word() {
        let segment = Segment::create(&Default::default()).unwrap();
        let mut p = P::lease(segment.clone()).unwrap();
        p.submit(|cx| cx.alloc(Hungry { runs: 0.into() })).unwrap();
        segment.hdr.gc.barren.store(BARREN_MAX, Relaxed);
        p.run_until_idle(&Kinds::new().with::<Hungry>()).unwrap();
        let failed = segment.list_tasks(10);
        assert_eq!((failed[0].state, failed[0].error_code), ("failed", 6));
    }
}
