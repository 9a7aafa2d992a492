//! Entering and leaving scopes, under each phase; and how a victim begins.

use coheap::testing::phase;
use coheap::*;

use super::world::{Node, Rare, node, tree};
use crate::mark::mark;

pub(super) fn lease(segment: &Segment) -> P {
    P::lease(segment.clone()).expect("a vacant P")
}

pub(super) fn enter(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

pub(super) fn leave(segment: &Segment) {
    let p = lease(segment);
    p.bench().enter();
    mark();
    p.bench().leave();
    mark();
}

/// With a cached span and a run begun.
pub(super) fn with_run(segment: &Segment) -> P {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        let top = tree(cx, 2)?;
        cx.root::<Node>("out")?.set(cx, Some(top));
        for i in 0..10 {
            node(cx, i)?;
        }
        cx.alloc(Rare {
            one: Slot::nil(),
            two: 0,
        })?;
        Ok::<_, Error>(())
    })
    .expect("room");
    p
}

/// Asks for a cycle, and sweeps what is left of the last: the next step starts it.
pub(super) fn ask_swept(p: &P) {
    p.bench().enter();
    while p.bench().sweep() {}
    p.bench().leave();
    p.bench().request();
}

pub(super) fn enter_barrier(segment: &Segment) {
    let p = with_run(segment);
    ask_swept(&p);
    p.bench().step();
    assert_eq!(p.bench().phase(), phase::BARRIER);
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

pub(super) fn enter_black(segment: &Segment) {
    let p = with_run(segment);
    ask_swept(&p);
    p.bench().step();
    p.bench().edge();
    p.bench().step();
    assert_eq!(p.bench().phase(), phase::BLACK);
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

/// The edge that meets "off": cached spans are given up and swept, one of them empty.
pub(super) fn enter_off(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

pub(super) fn leave_marking(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().enter();
    p.bench().shade_root("tree");
    mark();
    p.bench().leave();
    mark();
}
