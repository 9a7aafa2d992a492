//! Tasks: the queues, steps and their commits, timers, queues of values.

use std::time::Duration;

use coheap::*;

use super::{
    scopes::lease,
    world::{Entry, Leaf, entry, kinds},
};
use crate::mark::{self, mark};

/// What was claimed goes back. In stop mode a survivor may have been quicker.
pub(super) fn give_back(p: &P, task: Option<usize>) {
    if let Some(task) = task {
        p.bench().unclaim(task, false);
    }
}

pub(super) fn steal(segment: &Segment) {
    let p = lease(segment);
    mark();
    let task = p.bench().steal();
    mark();
    give_back(&p, task);
}

pub(super) fn queue_push(segment: &Segment) {
    let p = lease(segment);
    let task = p.bench().pop_global().expect("a task");
    let second = p.bench().pop_global().expect("a task");
    p.bench().unclaim(second, true);
    mark();
    p.bench().unclaim(task, true);
    mark();
}

/// A push that finds the ring full.
pub(super) fn queue_overflow(segment: &Segment) {
    let p = lease(segment);
    let task = p.bench().pop_global().expect("a task");
    p.bench().localize(256);
    mark();
    p.bench().unclaim(task, false);
    mark();
}

pub(super) fn queue_pop(segment: &Segment) {
    let p = lease(segment);
    p.bench().localize(3);
    p.bench().localize_next();
    mark();
    let a = p.bench().pop();
    mark();
    give_back(&p, a);
}

pub(super) fn queue_pop_ring(segment: &Segment) {
    let p = lease(segment);
    p.bench().localize(3);
    mark();
    let a = p.bench().pop();
    mark();
    give_back(&p, a);
}

pub(super) fn queue_global(segment: &Segment) {
    let p = lease(segment);
    mark();
    let a = p.bench().pop_global();
    mark();
    give_back(&p, a);
}

pub(super) fn submit(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        cx.alloc(Leaf { id: 0 }).expect("room");
    });
    mark();
    let kept = p.submit(|cx| cx.alloc(Leaf { id: 1 }));
    mark();
    drop(kept);
}

/// Runs turns of the scheduler; the marks are in the step, and after the turn number `turn`.
pub(super) fn in_step(segment: &Segment, want: u32, turn: usize) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    for _ in 1..turn {
        assert!(p.bench().schedule(&turns));
    }
    mark::want(want);
    p.bench().schedule(&turns);
    mark::want(0);
    if want != mark::SPAWN {
        mark();
    }
}

pub(super) fn spawn(segment: &Segment) {
    in_step(segment, mark::SPAWN, 1);
}

pub(super) fn commit(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}

/// The parent's second step, before its child has run: it waits.
pub(super) fn park(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    assert!(p.bench().schedule(&turns));
    // The child stands in front of its parent: put it behind.
    let child = p.bench().pop().expect("the child");
    p.bench().unclaim(child, false);
    mark::want(mark::STEP_END);
    assert!(p.bench().schedule(&turns));
    mark::want(0);
    mark();
}

/// The child's step, with its parent waiting.
pub(super) fn complete(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    assert!(p.bench().schedule(&turns));
    let child = p.bench().pop().expect("the child");
    p.bench().unclaim(child, false);
    assert!(p.bench().schedule(&turns));
    mark::want(mark::STEP_END);
    assert!(p.bench().schedule(&turns));
    mark::want(0);
    mark();
}

pub(super) fn run_task(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    mark();
    p.bench().schedule(&turns);
    mark();
}

pub(super) fn sleep(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}

pub(super) fn timer(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    assert!(p.bench().schedule(&turns));
    std::thread::sleep(Duration::from_millis(1));
    mark();
    p.bench().schedule(&turns);
    mark();
}

pub(super) fn queue_of_values(segment: &Segment, push: bool) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        let from = cx.root::<Queue<Entry>>("from").expect("a root");
        let from = from.get(cx).expect("a queue");
        let four = entry(cx, 4).expect("room");
        mark();
        if push {
            from.push(cx, four).expect("room");
        } else {
            from.pop(cx);
        }
        mark();
    });
}

pub(super) fn value_push(segment: &Segment) {
    queue_of_values(segment, true);
}

pub(super) fn value_pop(segment: &Segment) {
    queue_of_values(segment, false);
}

pub(super) fn fail(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}
