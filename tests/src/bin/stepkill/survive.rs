//! What survivors do after a death: recover, work, collect, verify; and what is then left, as a signature.
//!
//! The signature is what can be told from outside: objects, bytes and pages that are reachable, tasks by state, the log. A death in
//! the middle of an operation must leave what a death before it leaves, or what a death after it leaves, and nothing else.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use coheap::{Idle, P, Segment, gc, recover, testing};

use crate::ops;

/// What is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    objects: u64,
    bytes: u64,
    spans: u64,
    tasks: [usize; 8],
    outcome: String,
}

impl Signature {
    /// Is this what `other` left? With `lags`, apart from objects that the next operation would let go.
    pub fn is(&self, other: &Signature, lags: bool) -> bool {
        self == other || lags && self.outcome == other.outcome && self.tasks == other.tasks
    }

    /// As [`Signature::is`], wherever the objects lie: a survivor that was there all the time goes on in its spans, or finds others, by
    /// when it meets the new phase: a span more or less for each of the two types it allocates. The audit accounts for every page in any case.
    pub fn is_elsewhere(&self, other: &Signature, lags: bool) -> bool {
        let there = Signature {
            spans: other.spans,
            ..self.clone()
        };
        self.spans.abs_diff(other.spans) <= 2 && there.is(other, lags)
    }

    /// One task given up, and no effect of it.
    pub fn gave_up(&self) -> bool {
        self.tasks == [0, 0, 0, 0, 0, 0, 1, 0] && self.outcome.starts_with("log []")
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} objects, {} bytes, {} spans, tasks {:?}, {}",
            self.objects, self.bytes, self.spans, self.tasks, self.outcome
        )
    }
}

/// Patience with tasks, and with collections.
const PATIENCE: Duration = Duration::from_secs(2);

/// Recovers the dead. `vacant` says whether there is anybody to recover.
pub fn recover(segment: &Segment) -> Result<Vec<recover::DeathReport>, String> {
    let reports = catch_unwind(AssertUnwindSafe(|| recover::recover_dead(segment)))
        .map_err(|e| format!("recovery panicked: {}", panic_text(&*e)))?;
    let left = testing::unsettled(segment);
    if let Some(first) = left.first() {
        return Err(format!("not recovered: {first}"));
    }
    Ok(reports)
}

/// A new survivor in a copy of the segment: works, collects, verifies, leaves.
pub fn newcomer(segment: &Segment) -> Result<Signature, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut p = P::lease(segment.clone()).map_err(|e| format!("lease: {e}"))?;
        let signature = work(&mut p);
        drop(p);
        signature.and_then(|s| audited(segment).map(|()| s))
    }));
    result.unwrap_or_else(|e| Err(format!("a survivor panicked: {}", panic_text(&*e))))
}

/// The survivor that was there all the time.
pub fn old_survivor(p: &mut P) -> Result<Signature, String> {
    let result = catch_unwind(AssertUnwindSafe(|| work(p)));
    result.unwrap_or_else(|e| Err(format!("the survivor panicked: {}", panic_text(&*e))))
}

/// What must not be when nobody works.
pub fn audited(segment: &Segment) -> Result<(), String> {
    let found = testing::audit(segment);
    match found.first() {
        None => Ok(()),
        Some(first) => Err(format!("audit: {first} ({} findings)", found.len())),
    }
}

/// As [`audited`], when the survivor's private cache of task records may hold free ones.
pub fn audited_with_survivor(p: &mut P) -> Result<(), String> {
    p.bench().return_tasks();
    audited(p.segment())
}

/// Allocates, runs every task, without collecting.
pub fn run_tasks(p: &mut P, patience: Duration) -> Result<(), String> {
    allocate(p)?;
    let kinds = ops::kinds();
    let until = Instant::now() + patience;
    let mut late = false;
    p.run(&kinds, |p, idle| {
        late = Instant::now() > until;
        if late || idle && !p.bench().any_task_alive() {
            Idle::Return
        } else {
            Idle::Continue
        }
    })
    .map_err(|e| format!("running tasks: {e}"))?;
    if late {
        return Err(format!(
            "tasks do not end: {:?}, failed: {:?}",
            p.segment().list_tasks(10),
            p.failed_tasks(3)
        ));
    }
    Ok(())
}

/// The survivor's own work: it waits for nobody.
pub fn allocate(p: &mut P) -> Result<(), String> {
    p.enter(ops::own_work)
        .map_err(|e| format!("allocating: {e}"))
}

/// The survivor's own work while another P stands still: objects, and a task.
pub fn own_work(p: &mut P, patience: Duration) -> Result<(), String> {
    allocate(p)?;
    let mine = ops::submit_own(p).map_err(|e| format!("submitting: {e}"))?;
    let until = Instant::now() + patience;
    let mut over = false;
    p.run(&ops::kinds(), |p, _| {
        over = p.enter(|cx| mine.is_over(cx));
        if over || Instant::now() > until {
            Idle::Return
        } else {
            Idle::Continue
        }
    })
    .map_err(|e| format!("running tasks: {e}"))?;
    if over {
        Ok(())
    } else {
        Err(format!(
            "the survivor's own task did not end within {patience:?}"
        ))
    }
}

fn work(p: &mut P) -> Result<Signature, String> {
    run_tasks(p, PATIENCE)?;
    // The cycle that the death fell into first, by itself: what it missed would be found again by the next.
    if !p.bench().finish_within(PATIENCE) {
        return Err("the cycle that was on does not end".into());
    }
    verify(p, "after the running cycle")?;
    for _ in 0..2 {
        if !p.bench().collect_within(PATIENCE) {
            return Err("a collection does not end".into());
        }
    }
    let report = verify(p, "at the end")?;
    let outcome = ops::outcome(p);
    Ok(Signature {
        objects: report.objects,
        bytes: report.bytes,
        spans: report.spans,
        tasks: testing::tasks_by_state(p.segment()),
        outcome,
    })
}

fn verify(p: &mut P, when: &str) -> Result<gc::verify::Report, String> {
    gc::verify::verify_clean(p, true).map_err(|e| format!("verification {when}: {e}"))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
