//! Joins: where a task's result is waited for.
//!
//! A join is an object of the heap: state, result, and at most one waiting task. The result is stored first, the state after it;
//! who waits stores its name first and looks at the state after it. One of the two sees the other. Completing a join is
//! idempotent, so it can be an effect of a commit.
#![expect(
    unsafe_code,
    reason = "reaches a join cell by its reference, from recovery too"
)]

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{Acquire, Release, SeqCst},
};

use shm_layout::sync::AtomicU32;
use shm_layout::{
    Ref,
    word::{Owner, TaskWord},
};

use crate::{
    api::{Cx, Field, FieldDesc, Gc, RefMap, Shared, Slot, Target, TypeCell, Types, mix_keys},
    failpoint, names,
    sched::run_queue::put_global,
    segment::Segment,
};

/// Result of a task, when it has one. Made by [`crate::Step::spawn_join`]; keep it in a `Slot<Join<T>>`.
#[repr(C)]
pub struct Join<T> {
    state: AtomicU32,
    /// Task that waits, plus one.
    waiter: AtomicU32,
    result: Slot<T>,
    target: PhantomData<fn() -> T>,
}

const OPEN: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;

// SAFETY: one reference at offset 8 (asserted), two atomics; zero bytes are an open join without result.
unsafe impl<T: Shared> Shared for Join<T> {
    const NAME: &'static str = "coheap::Join";
    const FIELDS: &'static [FieldDesc] = &[
        FieldDesc {
            name: "state",
            type_name: "AtomicU32",
            offset: 0,
            key: <AtomicU32 as Field>::KEY,
        },
        FieldDesc {
            name: "waiter",
            type_name: "AtomicU32",
            offset: 4,
            key: <AtomicU32 as Field>::KEY,
        },
        FieldDesc {
            name: "result",
            type_name: "Slot",
            offset: 8,
            key: <Slot<T> as Field>::KEY,
        },
    ];
    const REFS: RefMap = RefMap::NONE.with(8, RefMap::ONE);
    const KEY: u64 = mix_keys(names::hash(Self::NAME.as_bytes()), T::KEY);
    fn cell() -> &'static TypeCell {
        // One number for all: they look the same to the collector.
        static CELL: TypeCell = TypeCell::new();
        &CELL
    }
    fn targets(types: &mut Types<'_>) {
        <T as Target>::declare(types);
    }
}

const _: () = assert!(std::mem::offset_of!(Join<()>, result) == 8 && size_of::<Join<()>>() == 12);

impl<T: Shared> Join<T> {
    /// A join that nobody has completed.
    pub(crate) fn open() -> Join<T> {
        Join {
            state: AtomicU32::new(OPEN),
            waiter: AtomicU32::new(0),
            result: Slot::nil(),
            target: PhantomData,
        }
    }

    /// Is the task over, one way or the other?
    pub fn is_over(&self) -> bool {
        self.state.load(Acquire) != OPEN
    }

    /// Was the task given up, or did it fail?
    pub fn has_failed(&self) -> bool {
        self.state.load(Acquire) == FAILED
    }

    /// The result: `None` while the task runs, when it failed, and when it ended without one.
    pub fn result<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T>> {
        (self.state.load(Acquire) == DONE)
            .then(|| self.result.load(cx))
            .flatten()
    }
}

/// The parts of a join that do not depend on its type.
#[repr(C)]
struct Cell {
    state: AtomicU32,
    waiter: AtomicU32,
    result: AtomicU32,
}

fn cell(segment: &Segment, join: Ref) -> &Cell {
    // SAFETY: `join` comes from a task record or a commit record, which only ever hold references to joins here; the object is
    // alive: those are roots. Atomics only.
    unsafe { &*segment.object(join).cast::<Cell>() }
}

/// Completes a join and wakes who waits for it. Idempotent. `result` has been shaded by whoever made it an effect.
pub(crate) fn complete(segment: &Segment, join: Ref, result: Ref, failed: bool) -> Option<usize> {
    let cell = cell(segment, join);
    cell.result.store(result, Release);
    failpoint!("join.result");
    // SeqCst: store the state, then look for a waiter; partner of `wait`.
    cell.state.store(if failed { FAILED } else { DONE }, SeqCst);
    failpoint!("join.done");
    let waiter = cell.waiter.load(SeqCst);
    (waiter != 0)
        .then(|| wake_task(segment, waiter as usize - 1))
        .flatten()
}

/// Enters `task` as the one that waits.
pub(crate) fn wait(segment: &Segment, join: Ref, task: usize) {
    cell(segment, join).waiter.store(task as u32 + 1, SeqCst);
}

/// Is the join over? Asked again after the task has been parked.
pub(crate) fn is_over(segment: &Segment, join: Ref) -> bool {
    cell(segment, join).state.load(SeqCst) != OPEN
}

/// Makes a waiting task runnable; returns it if it was this call that did. A task must bear being woken for nothing.
pub(crate) fn wake_task(segment: &Segment, task: usize) -> Option<usize> {
    let record = segment.tasks.get(task)?;
    let word = TaskWord(record.word.load(SeqCst));
    if word.state() == TaskWord::RUNNABLE {
        // Woken by somebody who may have died before queueing it.
        put_global(segment, task);
    }
    if word.state() != TaskWord::WAITING {
        return None;
    }
    let runnable = word.moved(TaskWord::RUNNABLE, Owner::new(0, 0));
    record
        .word
        .compare_exchange(word.0, runnable.0, SeqCst, Acquire)
        .ok()?;
    failpoint!("join.woken");
    put_global(segment, task);
    crate::sched::wake::wake_one(segment);
    Some(task)
}
