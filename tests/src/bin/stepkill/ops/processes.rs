//! Processes: they come and go, stop the world, hold handles, set roots, enter names.

use coheap::*;

use super::{
    collector::marking,
    scopes::{lease, with_run},
    world::{Node, Rare, node},
};
use crate::mark::mark;

pub(super) fn resize(segment: &Segment) {
    let mut p = lease(segment);
    mark();
    sched::resize(&mut p, 3).expect("nobody in the way");
    mark();
}

pub(super) fn stop(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().stop().expect("nobody in the way");
    mark();
}

pub(super) fn attach(segment: &Segment) {
    mark();
    let p = P::lease(segment.clone());
    mark();
    drop(p);
}

pub(super) fn detach(segment: &Segment) {
    let mut p = with_run(segment);
    p.bench().localize(3);
    p.bench().localize_next();
    let kept = p
        .enter(|cx| {
            let n = node(cx, 1)?;
            cx.handle(n)
        })
        .expect("room");
    p.bench().start_workers();
    mark();
    drop(p);
    mark();
    drop(kept);
}

pub(super) fn detach_marking(segment: &Segment) {
    let p = marking(segment);
    mark();
    drop(p);
    mark();
}

pub(super) fn handle(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let n = node(cx, 1).expect("room");
        mark();
        let kept = cx.handle(n);
        mark();
        drop(kept);
    });
}

pub(super) fn handle_marking(segment: &Segment) {
    let mut p = marking(segment);
    p.enter(|cx| {
        let cx = &*cx;
        let tree = cx
            .root::<Node>("tree")
            .expect("a root")
            .get(cx)
            .expect("set");
        mark();
        let kept = cx.handle(tree);
        drop(kept);
        mark();
    });
}

pub(super) fn root_set(segment: &Segment) {
    let mut p = marking(segment);
    p.enter(|cx| {
        let cx = &*cx;
        let tree = cx
            .root::<Node>("tree")
            .expect("a root")
            .get(cx)
            .expect("set");
        let child = tree.left.load(cx);
        let out = cx.root::<Node>("out").expect("a root");
        mark();
        out.set(cx, child);
        mark();
    });
}

pub(super) fn names(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        mark();
        let root = cx.root::<Rare>("a new name");
        mark();
        drop(root);
    });
}
