//! Forgetting tasks that were given up: their records, and what only they keep alive.
//!
//! A failed task stays, with context, join and error text as roots, so that people can look at its input. For ever would be too
//! long: a run that failed because the heap was full would leave it full.
//!
//! 1. `FAILED -> FREE`, by compare-exchange: from here on nothing in the record is a root. 2. The record is found again by its bit.
//! A task whose failure is still being told (it stands in a P's `in progress: task`) is left alone. That record also names a task
//! whose claim a P has just lost, for as long as it looks for another: what is held back by it is forgotten the next time.
//! **If the process dies** between the two, recovery sets the bit of every free record. **Rejected:** dropping the context when the
//! task fails: a text may still be made from it (`given_up`).

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use shm_layout::word::TaskWord;

use crate::{api::P, failpoint, segment::Segment};

impl P {
    /// Forgets every task that was given up; how many. What only they kept alive is garbage then.
    ///
    /// ```
    /// let p = coheap::P::lease(coheap::Segment::create(&Default::default())?)?;
    /// assert_eq!(p.forget_failed(), 0);
    /// # Ok::<(), coheap::Error>(())
    /// ```
    pub fn forget_failed(&self) -> usize {
        let segment = self.segment();
        (0..segment.tasks_used())
            .filter(|&task| forget(segment, task))
            .count()
    }
}

fn forget(segment: &Segment, task: usize) -> bool {
    let record = &segment.tasks[task];
    // Acquire: pairs with the exchange in `give_up`. Who failed it named it before, and names it until everybody was told.
    let word = TaskWord(record.word.load(Acquire));
    if word.state() != TaskWord::FAILED || is_being_told(segment, task) {
        return false;
    }
    let forgotten = record
        .word
        .compare_exchange(word.0, word.released(TaskWord::FREE).0, AcqRel, Relaxed)
        .is_ok();
    if forgotten {
        failpoint!("task.forgotten");
        segment.task_free.set(task);
    }
    forgotten
}

fn is_being_told(segment: &Segment, task: usize) -> bool {
    let procs = segment.used_procs().iter();
    procs
        .map(|record| record.now.0.task.load(Acquire))
        .any(|in_hand| in_hand == task as u32 + 1)
}

#[cfg(test)]
mod tests {
    use crate::{Error, Kinds, Next, P, Result, Segment, Shared, Step, Task};

    #[derive(Shared)]
    struct Bad {
        n: u64,
    }

    impl Task for Bad {
        const KIND: &'static str = "bad";
        type Output = Bad;
        fn step<'a>(_: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
            Err(Error::Task {
                what: "no luck".into(),
            })
        }
    }

    #[test]
    fn a_failed_task_that_an_idle_p_could_not_claim_is_forgotten() {
        let segment = Segment::create(&Default::default()).unwrap();
        let mut p = P::lease(segment.clone()).unwrap();
        let kinds = Kinds::new().with::<Bad>();
        p.submit(|cx| cx.alloc(Bad { n: 1 })).unwrap();
        p.run_until_idle(&kinds).unwrap();
        let failed = (0..segment.tasks_used())
            .find(|&task| segment.tasks[task].word.load(super::Acquire) != 0)
            .expect("a failed task stays");
        // A task may stand in two queues: here it is met again, and its claim is lost.
        p.proc().runq_put(failed, false);
        p.run_until_idle(&kinds).unwrap();
        assert_eq!(p.forget_failed(), 1);
    }
}
