//! What a task that was given up after deaths had been about: its input in words, written down by a P that knows its kind.
//!
//! A task that fails by an error is described by the P whose step it was. One that is given up because its processes died is given
//! up by a recoverer, which may be the daemon and knows no kinds. So:
//! 1. Whoever gives a task up counts it (`stats.gave_up`), before anybody who waits for the task is told. 2. Each P compares that
//! count, once per piece of work, with what it saw last; when it has changed, it looks for tasks that failed with code 8 and have
//! no text, and whose kind it knows. 3. It counts its try in the record, describes, and puts the text into `error` by
//! compare-exchange. So a waiter that is told, and runs on a P that knows the kind, finds the text.
//!
//! **Invariant.** A description is tried [`TRIES`] times at most: a context that kills whoever runs its step may kill whoever
//! describes it too, and must not go on killing one process after the other.
//! **If the process dies** in it the try is counted and there is no text; the next P tries. Two that try at once: the second's text
//! is garbage. **Rejected:** describing before each step (costs every step for the sake of the one that fails); a text made by the
//! recoverer from the bytes alone (a path is three references away from the context).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use shm_layout::word::TaskWord;

use crate::{
    api::{Cx, Inside},
    failpoint,
    sched::{proc::Proc, task::Resolved},
};

/// Exit code of "given up after deaths", in the task's record.
pub(crate) const GAVE_UP: u32 = 8;
/// Times that a description is begun.
const TRIES: u64 = 3;
/// In place of the last death's P and incarnation, which count no more: a description was begun. The tries are in the lowest bits.
const DESCRIBING: u64 = !7;

impl Proc {
    /// Describes what was given up since this P looked last.
    pub(crate) fn describe_given_up(&self, kinds: &Resolved<'_>) {
        let now = self.seg.hdr.stats.gave_up.load(Relaxed);
        if self.gave_up_seen.replace(now) == now {
            return;
        }
        for task in 0..self.seg.tasks_used() {
            if self.needs_description(task)
                && kinds.knows(self, task)
                && self.begin_describing(task)
            {
                failpoint!("task.describing");
                self.describe_one(task, kinds);
            }
        }
    }

    fn needs_description(&self, task: usize) -> bool {
        let record = &self.seg.tasks[task];
        TaskWord(record.word.load(Acquire)).state() == TaskWord::FAILED
            && record.error_code.load(Relaxed) == GAVE_UP
            && record.error.load(Acquire) == 0
    }

    /// Counts the try; false when there were enough, or somebody else begins one right now.
    fn begin_describing(&self, task: usize) -> bool {
        let mark = &self.seg.tasks[task].last_death;
        let seen = mark.load(Relaxed);
        let next = match seen & DESCRIBING == DESCRIBING {
            true if seen & !DESCRIBING >= TRIES => return false,
            true => seen + 1,
            false => DESCRIBING + 1,
        };
        mark.compare_exchange(seen, next, AcqRel, Relaxed).is_ok()
    }

    fn describe_one(&self, task: usize, kinds: &Resolved<'_>) {
        let _inside = Inside::enter(self);
        // A panic is no reason to lose the process, and no more is known afterwards than before.
        let input =
            catch_unwind(AssertUnwindSafe(|| kinds.describe(self, task))).unwrap_or_default();
        let why = "its process died each time";
        let text = if input.is_empty() {
            why.to_owned()
        } else {
            format!("{input}: {why}")
        };
        // Without room for the text the code remains, and the next P tries.
        let cx = Cx::new(self);
        let Ok(text) = cx.str(&text) else {
            return;
        };
        let r = self.seg.reference(text.as_bytes_ptr());
        self.write_barrier(r);
        // Release: the text before the reference to it. It is a root from here on.
        let _ = self.seg.tasks[task]
            .error
            .compare_exchange(0, r, Release, Relaxed);
        failpoint!("task.described");
    }
}
