//! Effects exactly once: the commit of a step (`commit.md` of the design notes).
//!
//! ```text
//! prepare  the next context goes into the record's other context field; the effects into a commit record, an object of the heap
//! COMMIT   RUNNING(p) -> COMMITTED(p), which also turns `sel`: before it nothing happened, after it everything will
//! apply    effect i, then applied := i + 1; every effect can be repeated
//! finish   COMMITTED -> RUNNABLE | WAITING | FREE, the last touch
//! ```
//! A step without effects skips the record: its next context and its next state are one compare-exchange.
//!
//! **If the process dies** before COMMIT the task runs again from the old context, and what the step had made is garbage; after it,
//! whoever finds the record applies the rest. The record is never cleared by its publisher: after the last compare-exchange
//! another process may own the task and have its own record there.
//! **Rejected:** clearing the record before finishing (a death in between loses the next state).
#![expect(
    unsafe_code,
    reason = "reads and writes commit records by their reference, from recovery too"
)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::sync::{AtomicU32, AtomicU64};
use shm_layout::{
    Ref,
    trace::ev,
    word::{Owner, TaskWord},
};

use crate::{
    Error,
    api::{Elements, Handle, RefMap, queue, root},
    error::Result,
    failpoint, planted,
    sched::{join, proc::Proc, run_queue::put_global, task::make_runnable},
    segment::Segment,
    twin,
};

/// One effect of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    /// A reserved task becomes runnable.
    Spawn { task: usize, word: TaskWord },
    /// A root gets a value, as update `seq` of the committing P.
    Root { index: usize, r: Ref, seq: u32 },
    /// A node enters its queue.
    Push { node: Ref },
    /// A node that this step has reserved is taken.
    Take { node: Ref },
}

/// What comes after a step, without types.
#[derive(Default)]
pub(crate) struct Plan {
    /// Next state of the task.
    pub state: u8,
    /// Next context; 0 keeps the present one.
    pub context: Ref,
    /// Join to wait for; 0 none.
    pub wait_join: Ref,
    /// Time to wait for; 0 none.
    pub wake_at_ns: u64,
    /// Result; 0 none.
    pub result: Ref,
    pub effects: Vec<Effect>,
    /// Keeps the effects' objects alive until the commit record does.
    pub kept: Vec<Handle<()>>,
}

impl Plan {
    pub fn to(state: u8, context: Ref) -> Plan {
        Plan {
            state,
            context,
            ..Plan::default()
        }
    }
}

/// A commit record's entries: the first says how far applying got, the others are effects.
#[repr(C)]
struct Entry {
    /// Object of the effect.
    slot: AtomicU32,
    /// Which effect, or, in the first entry, the next state.
    kind: AtomicU32,
    /// Effects applied (first entry), or the effect's own number.
    data: AtomicU64,
}

const ENTRY_BYTES: usize = size_of::<Entry>();
const _: () = assert!(ENTRY_BYTES == 16);

mod kind {
    pub const SPAWN: u32 = 1;
    pub const ROOT: u32 = 2;
    pub const RESULT: u32 = 3;
    pub const WAIT: u32 = 4;
    pub const PUSH: u32 = 5;
    pub const TAKE: u32 = 6;
}

impl Proc {
    /// Publishes a step. Inside the scope the step ran in. Returns the task if it is runnable again and still ours to queue.
    ///
    /// # Errors
    /// Those of allocating the commit record; nothing has happened then.
    pub(crate) fn commit(&self, task: usize, plan: Plan) -> Result<Option<usize>> {
        let record = &self.seg.tasks[task];
        let running = TaskWord(record.word.load(Relaxed));
        debug_assert_eq!(
            (running.state(), running.owner()),
            (TaskWord::RUNNING, self.me)
        );
        let sel = running.sel();
        if plan.context != 0 {
            self.write_barrier(plan.context);
            record.context[1 - sel as usize].store(plan.context, Release);
        }
        let next_sel = if plan.context != 0 { 1 - sel } else { sel };
        record.wake_at_ns.store(plan.wake_at_ns, Relaxed);
        let joins = plan.state == TaskWord::FREE && record.join.load(Relaxed) != 0;
        let next = running.with_sel(next_sel).with_attempts(0);
        if plan.effects.is_empty() && plan.wait_join == 0 && !joins {
            return Ok(self.finish(task, running, next, plan.state, plan.wake_at_ns));
        }
        let commit = match self.make_record(record.join.load(Relaxed), &plan) {
            Ok(commit) => commit,
            Err(e) => {
                // Nothing happened: reserved children go back.
                for effect in &plan.effects {
                    if let Effect::Spawn { task, word } = *effect {
                        self.unreserve_task(task, word);
                    }
                }
                return Err(e);
            }
        };
        self.write_barrier(commit);
        record.commit.store(commit, Release);
        failpoint!("commit.prepared");
        if planted!(EffectBeforeCommit) || twin!("effects-before-commit") {
            apply(&self.seg, task, commit, (self.me.p, First), &mut |child| {
                self.runq_put(child, false)
            });
        }
        let committed = next.moved(TaskWord::COMMITTED, self.me);
        // The commit. AcqRel: Release publishes context and record to whoever applies them. Nobody else moves a word that says
        // "running by me".
        if record
            .word
            .compare_exchange(running.0, committed.0, AcqRel, Relaxed)
            .is_err()
        {
            return Err(Error::Violation {
                what: format!("task {task} was taken from a live P"),
            });
        }
        failpoint!("commit.committed");
        drop(plan.kept);
        apply(&self.seg, task, commit, (self.me.p, First), &mut |child| {
            self.runq_put(child, false)
        });
        failpoint!("commit.applied");
        if twin!("clear-commit-before-finish") {
            record.commit.store(0, Release);
        }
        let again = self.finish(task, committed, committed, plan.state, plan.wake_at_ns);
        if plan.wait_join != 0 && !twin!("join-unasked") && join::is_over(&self.seg, plan.wait_join)
        {
            // Completed between our entering as waiter and our parking: nobody saw us waiting.
            join::wake_task(&self.seg, task);
        }
        Ok(again)
    }

    fn make_record(&self, join: Ref, plan: &Plan) -> Result<Ref> {
        let n = plan.effects.len()
            + usize::from(plan.wait_join != 0)
            + usize::from(plan.state == TaskWord::FREE && join != 0);
        let elements = const { &Elements::of(ENTRY_BYTES, RefMap::ONE) };
        let at = self.array_of(1 + n, ENTRY_BYTES, elements, true)?;
        let commit = self.seg.reference(at);
        let entries = entries(&self.seg, commit);
        entries[0].kind.store(plan.state.into(), Relaxed);
        let mut rest = entries[1..].iter();
        let mut add = |slot: Ref, kind: u32, data: u64| {
            let entry = rest.next().expect("counted above");
            self.write_barrier(slot);
            entry.slot.store(slot, Relaxed);
            entry.kind.store(kind, Relaxed);
            entry.data.store(data, Relaxed);
        };
        for effect in &plan.effects {
            match *effect {
                Effect::Spawn { task, word } => {
                    add(0, kind::SPAWN, u64::from(word.r#gen()) << 32 | task as u64)
                }
                Effect::Root { index, r, seq } => {
                    add(r, kind::ROOT, u64::from(seq) << 32 | index as u64)
                }
                Effect::Push { node } => add(node, kind::PUSH, 0),
                Effect::Take { node } => add(node, kind::TAKE, 0),
            }
        }
        if plan.wait_join != 0 {
            add(plan.wait_join, kind::WAIT, 0);
        }
        if plan.state == TaskWord::FREE && join != 0 {
            add(plan.result, kind::RESULT, 0);
        }
        Ok(commit)
    }

    /// The last compare-exchange of a step. After it the task may be anybody's.
    fn finish(
        &self,
        task: usize,
        from: TaskWord,
        next: TaskWord,
        state: u8,
        wake_at_ns: u64,
    ) -> Option<usize> {
        let record = &self.seg.tasks[task];
        // Ours alone until the word moves.
        record
            .steps
            .store(record.steps.load(Relaxed).wrapping_add(1), Relaxed);
        finish_record(&self.seg, task, from, next, state, wake_at_ns);
        failpoint!("commit.finished");
        self.step_ended_ns
            .set(self.trace(ev::GO_STOP, task as u32, state.into()));
        if state == TaskWord::FREE {
            self.recycle_task(task);
        }
        (state == TaskWord::RUNNABLE).then_some(task)
    }
}

fn finish_record(
    segment: &Segment,
    task: usize,
    from: TaskWord,
    next: TaskWord,
    state: u8,
    wake_at_ns: u64,
) -> bool {
    let record = &segment.tasks[task];
    let to = next.moved(state, Owner::new(0, 0));
    // SeqCst (includes Release): everything of the step before the word; a task that waits for a time is seen by whoever looks
    // at the timers after this.
    let done = record
        .word
        .compare_exchange(from.0, to.0, SeqCst, Relaxed)
        .is_ok();
    if wake_at_ns != 0 {
        segment
            .hdr
            .sched
            .next_timer_ns
            .0
            .fetch_min(wake_at_ns, SeqCst);
    }
    done
}

/// Can an effect that is not known to be applied have been applied?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// No: nobody but us has tried.
    First,
    /// Yes: whoever was at it has died.
    Again,
}
use Pass::{Again, First};

/// Does what is left of a commit. Anybody may, any number of times. `p` is the P under whose name root updates were numbered.
pub(crate) fn apply(
    segment: &Segment,
    task: usize,
    commit: Ref,
    (p, pass): (u16, Pass),
    run: &mut dyn FnMut(usize),
) {
    let entries = entries(segment, commit);
    let done = entries[0].data.load(Acquire) as usize;
    for (i, entry) in entries[1..].iter().enumerate().skip(done) {
        let (slot, data) = (entry.slot.load(Relaxed), entry.data.load(Relaxed));
        if twin!("applied-before-effect") {
            entries[0].data.store(i as u64 + 1, Release);
        }
        match entry.kind.load(Relaxed) {
            kind::SPAWN => apply_spawn(segment, data as u32 as usize, (data >> 32) as u32, run),
            kind::ROOT => {
                root::update_root(segment, data as u32 as usize, slot, p, (data >> 32) as u32)
            }
            kind::WAIT => join::wait(segment, slot, task),
            kind::PUSH => queue::append(segment, slot, pass),
            kind::TAKE => queue::taken(segment, slot),
            kind::RESULT => {
                let join = segment.tasks[task].join.load(Relaxed);
                if join != 0 {
                    join::complete(segment, join, slot, false);
                }
            }
            _ => {}
        }
        failpoint!("commit.effect");
        // Release: after the effect: a repeated effect is harmless, a skipped one is not.
        entries[0].data.store(i as u64 + 1, Release);
    }
}

/// `RESERVED` of that generation becomes runnable; any other word says that it was done. Queued in either case: a death may have
/// come between the two.
fn apply_spawn(segment: &Segment, child: usize, generation: u32, queue: &mut dyn FnMut(usize)) {
    let word = TaskWord(segment.tasks[child].word.load(Acquire));
    if word.state() == TaskWord::RESERVED && word.r#gen() == generation {
        make_runnable(segment, child, word);
        queue(child);
    } else if word.state() == TaskWord::RUNNABLE {
        put_global(segment, child);
    }
}

/// Applies and finishes a commit that its process did not live to finish. `word` is `COMMITTED` by the recoverer.
pub(crate) fn finish_dead(segment: &Segment, task: usize, word: TaskWord, dead: Owner) {
    let record = &segment.tasks[task];
    let commit = record.commit.load(Acquire);
    let state = entries(segment, commit)[0].kind.load(Relaxed) as u8;
    apply(segment, task, commit, (dead.p, Again), &mut |child| {
        put_global(segment, child)
    });
    let waits = entries(segment, commit)[1..]
        .iter()
        .find(|e| e.kind.load(Relaxed) == kind::WAIT)
        .map(|e| e.slot.load(Relaxed));
    finish_record(
        segment,
        task,
        word,
        word,
        state,
        record.wake_at_ns.load(Relaxed),
    );
    match state {
        TaskWord::RUNNABLE => put_global(segment, task),
        TaskWord::FREE => {
            segment.task_free.set(task);
        }
        _ => {}
    }
    if waits.is_some_and(|join| join::is_over(segment, join)) {
        join::wake_task(segment, task);
    }
}

fn entries(segment: &Segment, commit: Ref) -> &[Entry] {
    let at = segment.object(commit);
    // SAFETY: a commit record is an array of entries (`make_record`): count in the first word.
    let len = unsafe { AtomicU32::from_ptr(at.cast()) }.load(Acquire) as usize;
    // SAFETY: as above: `len` entries of atomics behind eight bytes, in an object that the task's record keeps alive.
    unsafe { std::slice::from_raw_parts(at.wrapping_add(8).cast::<Entry>(), len) }
}
