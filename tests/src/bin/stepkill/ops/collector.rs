//! The collector: phases, mark workers, root jobs, marking and its end, work buffers.

use coheap::testing::phase;
use coheap::*;

use super::{
    scopes::{ask_swept, lease, with_run},
    world::Node,
};
use crate::mark::mark;

pub(super) fn gc_start(segment: &Segment) {
    let p = with_run(segment);
    ask_swept(&p);
    mark();
    p.bench().step();
    mark();
}

/// The start of a cycle while spans of the last are not swept yet.
pub(super) fn gc_start_unswept(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    p.bench().edge();
    p.bench().request();
    mark();
    // Each step sweeps a burst; the last of them starts the cycle.
    while p.bench().phase() == phase::OFF {
        p.bench().step();
    }
    mark();
}

pub(super) fn gc_black(segment: &Segment) {
    let p = with_run(segment);
    ask_swept(&p);
    p.bench().step();
    p.bench().edge();
    mark();
    p.bench().step();
    mark();
}

pub(super) fn gc_mark(segment: &Segment) {
    let p = with_run(segment);
    ask_swept(&p);
    p.bench().step();
    p.bench().edge();
    p.bench().step();
    p.bench().edge();
    mark();
    p.bench().step();
    mark();
}

pub(super) fn worker_start(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().start_workers();
    mark();
}

pub(super) fn worker_lost(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    p.bench().start_workers();
    mark();
    p.bench().start_second_worker(p.index());
    mark();
}

pub(super) fn marking(segment: &Segment) -> P {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p
}

pub(super) fn worker_claim(segment: &Segment) {
    let p = marking(segment);
    mark();
    let worker = p.bench().claim_worker();
    mark();
    if let Some(worker) = worker {
        p.bench().park_worker(worker);
    }
}

/// A unit of the budget, then the worker.
pub(super) fn worker_claim_dedicated(segment: &Segment) {
    let p = marking(segment);
    p.bench().want_dedicated(1);
    mark();
    let worker = p.bench().claim_worker();
    mark();
    if let Some(worker) = worker {
        p.bench().park_worker(worker);
    }
}

/// A dedicated worker gives the P's queue away first.
pub(super) fn worker_dedicated(segment: &Segment) {
    let p = marking(segment);
    p.bench().localize(3);
    p.bench().want_dedicated(1);
    mark();
    if let Some(worker) = p.bench().claim_worker() {
        p.bench().run_worker(worker);
    }
    mark();
}

pub(super) fn worker_park(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().park_worker(worker);
    mark();
}

pub(super) fn worker_reattach(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().detach_worker(&worker);
    p.bench().park_worker(worker);
    mark();
}

pub(super) fn root_job(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().root_job();
    mark();
    p.bench().dispose();
    p.bench().park_worker(worker);
}

/// The objects of a small tree, and the buffers they go through.
pub(super) fn mark_objects(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    while p.bench().root_job() {}
    mark();
    p.bench().drain();
    mark();
    p.bench().dispose();
    p.bench().park_worker(worker);
}

/// Everything marked, its worker claimed.
pub(super) fn all_marked(p: &P) -> testing::Claimed {
    let worker = p.bench().claim_worker().expect("a worker");
    p.bench().drain();
    p.bench().dispose();
    worker
}

/// From the last drain to "off": detach, round, termination, park, attach.
pub(super) fn mark_done(segment: &Segment) {
    let p = marking(segment);
    let worker = all_marked(&p);
    mark();
    p.bench().run_worker(worker);
    mark();
}

/// The survivor is inside: the round has to wait, the worker becomes runnable.
pub(super) fn mark_wait(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    let worker = all_marked(&p);
    mark();
    p.bench().run_worker(worker);
    mark();
}

/// Whoever schedules next goes on with it.
pub(super) fn migrate(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    let worker = all_marked(&p);
    p.bench().run_worker(worker);
    assert_eq!(p.bench().phase(), phase::ROUND);
    mark();
    p.bench().migrate();
    mark();
}

/// A second look after the buffers had run out.
pub(super) fn rescan(segment: &Segment) {
    let p = marking(segment);
    let worker = all_marked(&p);
    p.bench().say_overflow();
    p.bench().detach_worker(&worker);
    mark();
    p.bench().mark_done(worker);
    mark();
}

pub(super) fn buffer_fetch(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    let worker = p.bench().claim_worker().expect("a worker");
    while p.bench().root_job() {}
    mark();
    p.bench().fetch();
    mark();
    p.bench().dispose();
    p.bench().park_worker(worker);
}

pub(super) fn buffer_dispose(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    while p.bench().root_job() {}
    mark();
    p.bench().dispose();
    mark();
    p.bench().park_worker(worker);
}

/// A weak reference is made strong while others mark, and the object kept.
pub(super) fn weak_load(segment: &Segment) {
    let mut p = marking(segment);
    p.enter(load_weak);
}

/// The same in the round that may end marking, which nobody has found the object in: the round is over by this load.
pub(super) fn weak_load_in_round(segment: &Segment) {
    let mut p = lease(segment);
    p.bench().edge();
    let worker = all_marked(&p);
    p.bench().run_worker(worker);
    assert_eq!(p.bench().phase(), phase::ROUND);
    p.enter(load_weak);
}

fn load_weak(cx: &mut Cx<'_>) {
    let cx = &*cx;
    let weak = cx.root::<Weak<Node>>("weak").expect("a root");
    let weak = weak.get(cx).expect("set beforehand");
    mark();
    let kept = weak.get(cx).map(|target| cx.handle(target));
    mark();
    drop(kept);
}
