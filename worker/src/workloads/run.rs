//! Runs: what the heap knows about a workload from its submission to its result.
//!
//! 1. A [`Run`] is entered at the head of a list under the root `runs`, by compare-exchange, so that a number is entered once.
//! 2. A [`RunTask`] takes the run: the first whose context stands in `owner` carries it, any other ends at once. 3. It spawns the
//!    workload's own task and waits for its [`Outcome`]. 4. It stores the outcome in the run. Steps 2 and 4 are stores that repeat
//!    to the same value, so they need not wait for the step's commit.
//!
//! **If a process dies** anywhere here the task runs again and finds what it had done. A run that has failed stays failed; the
//! reason is in the records of the tasks that were given up.
//! The list keeps the last [`KEPT`] finished runs, so that a late question finds its answer and the heap does not fill with old ones.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Release},
};

use coheap::{Cx, Error, Gc, GcStr, Join, Next, P, Result, Shared, Slot, Step, Task};

use super::{WorkloadSpec, gcbench, index, path_bytes, progress, trees};

/// Finished runs that stay in the list.
const KEPT: usize = 32;

/// One run: its arguments, who carries it, how it ended.
#[derive(Shared)]
pub struct Run {
    pub id: u64,
    kind: u32,
    /// Depth of `trees`; levels less of `gcbench`.
    pub depth: u32,
    pub dir: Slot<GcStr>,
    pub out: Slot<GcStr>,
    owner: Slot<RunTask>,
    outcome: Slot<Outcome>,
    next: Slot<Run>,
    cancelled: AtomicU32,
    failed: AtomicU32,
}

/// Why a run goes on no more ([`Run::cancelled`]): the greater reason stays. It travels with the cancelling, because the task that
/// gave the reason is marked as failed only afterwards, or never, when its process dies in between.
mod cancelled {
    pub const PART_FAILED: u32 = 1;
    pub const HEAP_FULL: u32 = 2;
}

mod kind {
    pub const INDEX: u32 = 1;
    pub const TREES: u32 = 2;
    pub const GCBENCH: u32 = 3;
}

/// How a workload ended.
#[derive(Shared, Default)]
pub struct Outcome {
    pub files: u64,
    pub words: u64,
    pub distinct: u64,
    pub hash: u64,
    pub unreadable: u64,
    pub ok: u32,
    pub failed: u32,
    /// Checks, or the reason of a failure.
    pub text: Slot<GcStr>,
    /// One problem a line.
    pub problems: Slot<GcStr>,
}

impl Outcome {
    pub fn text(&self, cx: &Cx<'_>) -> String {
        text(self.text.load(cx))
    }

    pub fn problems(&self, cx: &Cx<'_>) -> String {
        text(self.problems.load(cx))
    }
}

fn text(s: Option<Gc<'_, GcStr>>) -> String {
    s.map_or(String::new(), |s| {
        String::from_utf8_lossy(s.as_bytes()).into_owned()
    })
}

impl Run {
    /// Has a task taken it?
    pub fn has_begun(&self) -> bool {
        !self.owner.is_nil()
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Acquire) != 0
    }

    pub fn outcome<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, Outcome>> {
        self.outcome.load(cx)
    }

    /// Has a part of it failed, so that the other parts need not go on?
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Acquire) != 0
    }

    /// Is a lack of memory the reason?
    pub fn met_a_full_heap(&self) -> bool {
        self.cancelled.load(Acquire) == cancelled::HEAP_FULL
    }

    fn cancel(&self, why: u32) {
        // AcqRel: pairs with the Acquire loads of the other tasks of the run.
        self.cancelled.fetch_max(why, AcqRel);
    }

    fn is_over(&self) -> bool {
        !self.outcome.is_nil() || self.has_failed()
    }
}

/// Run number `id`, if the heap knows it.
///
/// # Errors
/// Those of [`Cx::root`].
pub fn find<'cx>(cx: &'cx Cx<'_>, id: u64) -> Result<Option<Gc<'cx, Run>>> {
    let mut at = cx.root::<Run>("runs")?.get(cx);
    while let Some(run) = at {
        if run.id == id {
            return Ok(Some(run));
        }
        at = run.next.load(cx);
    }
    Ok(None)
}

/// Enters a run into the list, unless it stands there.
///
/// # Errors
/// Those of an allocation and of [`Cx::root`].
pub fn enter<'cx>(cx: &'cx Cx<'_>, id: u64, spec: &WorkloadSpec) -> Result<Gc<'cx, Run>> {
    let root = cx.root::<Run>("runs")?;
    let fresh = make(cx, id, spec)?;
    loop {
        let head = root.get(cx);
        if let Some(run) = find(cx, id)? {
            return Ok(run);
        }
        fresh.next.store(cx, head);
        if root.compare_exchange(cx, head, Some(fresh)) {
            forget_old(cx, fresh);
            return Ok(fresh);
        }
    }
}

fn make<'cx>(cx: &'cx Cx<'_>, id: u64, spec: &WorkloadSpec) -> Result<Gc<'cx, Run>> {
    let (kind, depth) = match spec {
        WorkloadSpec::Index { .. } => (kind::INDEX, 0),
        WorkloadSpec::Trees { depth } => (kind::TREES, *depth),
        WorkloadSpec::GcBench { smaller } => (kind::GCBENCH, *smaller),
    };
    let run = cx.alloc(Run {
        id,
        kind,
        depth,
        dir: Slot::nil(),
        out: Slot::nil(),
        owner: Slot::nil(),
        outcome: Slot::nil(),
        next: Slot::nil(),
        cancelled: AtomicU32::new(0),
        failed: AtomicU32::new(0),
    })?;
    if let WorkloadSpec::Index { dir, out } = spec {
        run.dir.store(cx, Some(cx.str(path_bytes(dir))?));
        if let Some(out) = out {
            run.out.store(cx, Some(cx.str(path_bytes(out))?));
        }
    }
    Ok(run)
}

/// Cuts the list behind [`KEPT`] runs, if all that follow are over. Repeated or done by two at once it is the same cut.
fn forget_old(cx: &Cx<'_>, head: Gc<'_, Run>) {
    let mut last = None;
    let mut at = head.next.load(cx);
    for _ in 0..KEPT {
        let Some(run) = at else { return };
        at = run.next.load(cx);
        last = Some(run);
    }
    let Some(last) = last else { return };
    while let Some(run) = at {
        if !run.is_over() {
            return;
        }
        at = run.next.load(cx);
    }
    last.next.store(cx, None);
}

/// The context of a task that carries run `id`.
///
/// # Errors
/// Those of an allocation; [`Error::NotRunning`] when the run has been forgotten meanwhile.
pub fn task<'cx>(cx: &'cx Cx<'_>, id: u64) -> Result<Gc<'cx, RunTask>> {
    let run = find(cx, id)?.ok_or_else(|| Error::NotRunning {
        what: format!("run {id:016x}"),
    })?;
    let task = cx.alloc(RunTask {
        run: Slot::nil(),
        join: Slot::nil(),
    })?;
    task.run.store(cx, Some(run));
    Ok(task)
}

/// Carries a run from its first task to its outcome.
#[derive(Shared)]
pub struct RunTask {
    run: Slot<Run>,
    join: Slot<Join<Outcome>>,
}

impl Task for RunTask {
    const KIND: &'static str = "run";
    type Output = Outcome;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let run = present(me.run.load(cx))?;
        match me.join.load(cx) {
            None => begin(cx, run),
            Some(join) if !join.is_over() => Ok(Next::Join(me, join.to_join())),
            Some(join) => {
                let outcome = join.result(cx);
                match outcome {
                    Some(outcome) => run.outcome.store(cx, Some(outcome)),
                    None => run.failed.store(1, Release),
                }
                cx.segment().progress_set(progress::FINISHED, run.id);
                Ok(Next::Done(outcome))
            }
        }
    }

    fn describe(&self, cx: &Cx<'_>) -> String {
        self.run
            .load(cx)
            .map_or(String::new(), |run| format!("run {:016x}", run.id))
    }
}

fn begin<'a>(cx: &'a Step<'_, RunTask>, run: Gc<'a, Run>) -> Result<Next<'a, RunTask>> {
    let me = cx.context();
    if !run.owner.compare_exchange(cx, None, Some(me))
        && !run.owner.load(cx).is_some_and(|owner| owner.is(me))
    {
        return Ok(Next::Done(None));
    }
    for counter in [progress::DONE, progress::TOTAL, progress::ITEMS] {
        cx.segment().progress_set(counter, 0);
    }
    let join = match run.kind {
        kind::INDEX => cx.spawn_join(index::task(cx, run)?)?,
        kind::TREES => cx.spawn_join(trees::task(cx, run)?)?,
        kind::GCBENCH => cx.spawn_join(gcbench::task(cx, run)?)?,
        other => {
            return Err(Error::Task {
                what: format!("workload {other} is unknown here: workers of two versions?"),
            });
        }
    };
    let next = cx.alloc(RunTask {
        run: Slot::nil(),
        join: Slot::nil(),
    })?;
    next.run.store(cx, Some(run));
    next.join.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

/// A reference that a context always has.
///
/// # Errors
/// [`Error::Task`]: the context was made by something else.
pub fn present<T>(found: Option<T>) -> Result<T> {
    found.ok_or_else(|| Error::Task {
        what: "the task's context lacks a reference it was made with".into(),
    })
}

/// Ends a workload because a part of it was given up: the other parts stop too, and what they had made becomes garbage.
///
/// # Errors
/// Those of an allocation.
pub fn cancel<'cx>(
    cx: &'cx Cx<'_>,
    run: Gc<'_, Run>,
    what: &str,
) -> Result<Option<Gc<'cx, Outcome>>> {
    run.cancel(cancelled::PART_FAILED);
    let outcome = cx.alloc(Outcome {
        failed: 1,
        ..Outcome::default()
    })?;
    outcome.text.store(cx, Some(cx.str(what)?));
    Ok(Some(outcome))
}

/// Passes a step's result on. If it will be the end of the task, because memory was short once too often, the run is cancelled with
/// it: its other tasks would wait for a collection each, only to end the same way.
///
/// # Errors
/// That of the step.
pub fn or_cancel<T>(run: Gc<'_, Run>, last: bool, result: Result<T>) -> Result<T> {
    if let Err(Error::HeapFull { .. } | Error::NoMemory { .. }) = result
        && last
    {
        run.cancel(cancelled::HEAP_FULL);
    }
    result
}

/// What a step asks the heap for when its present span is full: named when there was no room for the error's own text.
const SPAN_BYTES: u64 = 16 << 10;

/// The error of a failed run: that it met a full heap, or the most telling one of the tasks that were given up.
pub fn error(p: &mut P, what: String, full: bool) -> Error {
    let failed = p.failed_tasks(1000);
    // A full heap makes other parts fail in its wake, so it is the reason if it is there at all.
    let hungry = failed.iter().find(|t| t.error_code == 6);
    if full || hungry.is_some() {
        return no_room(
            p,
            hungry.map_or(SPAN_BYTES, |task| bytes_wanted(&task.error)),
        );
    }
    let telling = failed.iter().find(|t| !t.error.is_empty());
    let Some(task) = telling.or(failed.first()) else {
        return Error::Task { what };
    };
    if task.error_code == 8 {
        return Error::GaveUp {
            name: task.kind.clone(),
            attempts: task.attempts,
            reason: [
                task.error.clone(),
                what,
                "its process died each time".into(),
            ]
            .into_iter()
            .find(|reason| !reason.is_empty())
            .unwrap_or_default(),
        };
    }
    Error::Task {
        what: format!("{}: {}", task.kind, task.error),
    }
}

/// The heap's limit was met, or the machine's.
fn no_room(p: &P, need_bytes: u64) -> Error {
    let status = p.segment().status();
    match status.growth_refused {
        Some(reason) => Error::NoMemory { need_bytes, reason },
        None => Error::HeapFull {
            need_bytes,
            live_bytes: status.heap_live,
            limit_bytes: status.limit_bytes,
        },
    }
}

/// The first number before "bytes wanted", as [`Error::HeapFull`] words it.
fn bytes_wanted(text: &str) -> u64 {
    text.split(" bytes")
        .next()
        .and_then(|head| head.rsplit(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(SPAN_BYTES)
}
