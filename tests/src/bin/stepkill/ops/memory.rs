//! Memory: allocation on each path, stores, sweeping, chunks and pages.

use coheap::testing::phase;
use coheap::*;

use super::{
    scopes::{lease, with_run},
    world::{Node, Rare, Wide, node},
};
use crate::mark::mark;

pub(super) fn alloc_fast(segment: &Segment) {
    let mut p = with_run(segment);
    p.enter(|cx| {
        let cx = &*cx;
        node(cx, 1).expect("room");
        mark();
        let n = node(cx, 2);
        mark();
        drop(n);
    });
}

pub(super) fn alloc_until_run_ends(p: &mut P) {
    p.enter(|cx| {
        let cx = &*cx;
        node(cx, 1).expect("room");
        while p_run_left(cx) {
            node(cx, 2).expect("room");
        }
        mark();
        let n = node(cx, 3);
        mark();
        drop(n);
    });
}

pub(super) fn p_run_left(cx: &Cx<'_>) -> bool {
    testing::run_left::<Node>(cx)
}

pub(super) fn alloc_next_run(segment: &Segment) {
    alloc_until_run_ends(&mut lease(segment));
}

pub(super) fn alloc_next_run_black(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        node(cx, 1).expect("room");
    });
    p.bench().drive(phase::MARK);
    alloc_until_run_ends(&mut p);
}

pub(super) fn alloc_partial(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        mark();
        let n = node(cx, 1);
        mark();
        drop(n);
    });
}

pub(super) fn alloc_new_span(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        mark();
        let n = cx.alloc(Rare {
            one: Slot::nil(),
            two: 1,
        });
        mark();
        drop(n);
    });
}

pub(super) fn alloc_array(segment: &Segment, words: usize, marking: bool) {
    let mut p = lease(segment);
    if marking {
        p.bench().drive(phase::MARK);
    }
    p.enter(|cx| {
        let cx = &*cx;
        mark();
        let n = cx.array::<u64>(words);
        mark();
        drop(n);
    });
}

pub(super) fn alloc_large(segment: &Segment) {
    alloc_array(segment, 5 << 10, false);
}

pub(super) fn alloc_large_black(segment: &Segment) {
    alloc_array(segment, 5 << 10, true);
}

pub(super) fn alloc_large_multi(segment: &Segment) {
    alloc_array(segment, 70 << 10, false);
}

pub(super) fn store_in(segment: &Segment, marking: bool) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        cx.root::<Node>("out")?.set(cx, Some(node(cx, 5)?));
        Ok::<_, Error>(())
    })
    .expect("room");
    if marking {
        p.bench().drive(phase::MARK);
    }
    p.enter(|cx| {
        let cx = &*cx;
        let out = cx
            .root::<Node>("out")
            .expect("a root")
            .get(cx)
            .expect("set");
        let tree = cx
            .root::<Node>("tree")
            .expect("a root")
            .get(cx)
            .expect("set");
        let child = tree.left.load(cx);
        mark();
        out.left.store(cx, child);
        mark();
    });
}

pub(super) fn store_off(segment: &Segment) {
    store_in(segment, false);
}

pub(super) fn store_on(segment: &Segment) {
    store_in(segment, true);
}

/// The store that finds both work buffers full.
pub(super) fn store_full(segment: &Segment) {
    const N: usize = 1040;
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        let wide = cx.alloc(Wide { all: Slot::nil() })?;
        let all = cx.array::<Slot<Node>>(N)?;
        for slot in all.iter() {
            slot.store(cx, Some(node(cx, 0)?));
        }
        wide.all.store(cx, Some(all));
        cx.root::<Wide>("wide")?.set(cx, Some(wide));
        Ok::<_, Error>(())
    })
    .expect("room");
    p.bench().drive(phase::MARK);
    p.enter(|cx| {
        let cx = &*cx;
        let wide = cx
            .root::<Wide>("wide")
            .expect("a root")
            .get(cx)
            .expect("set");
        let all = wide.all.load(cx).expect("set");
        let holder = node(cx, 0).expect("room");
        let full = 2 * testing::WORKBUF_REFS;
        for slot in all.iter().take(full) {
            holder.left.store(cx, slot.load(cx));
        }
        let last = all[full].load(cx);
        mark();
        holder.left.store(cx, last);
        mark();
    });
    p.enter(|cx| {
        let cx = &*cx;
        cx.root::<Wide>("wide").expect("a root").set(cx, None);
    });
}

/// One block with a full, a partial and an empty span.
pub(super) fn sweep(segment: &Segment) {
    let p = lease(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    p.bench().enter();
    mark();
    p.bench().sweep();
    mark();
    p.bench().leave();
}

/// A chunk of which every page is free goes back to the kernel.
pub(super) fn release(segment: &Segment) {
    let p = lease(segment);
    p.bench().grow(1).expect("memory");
    mark();
    p.bench().release_chunk();
    mark();
}

/// The second chunk, then the third.
pub(super) fn grow(segment: &Segment) {
    let p = lease(segment);
    mark();
    p.bench().grow(1).expect("memory");
    mark();
}

/// The second chunk, in pieces.
pub(super) fn grow_ahead(segment: &Segment) {
    let p = lease(segment);
    mark();
    p.bench().grow_ahead();
    mark();
}

pub(super) fn pages(segment: &Segment, n: usize) {
    let p = lease(segment);
    p.bench().enter();
    mark();
    let first = p.bench().claim(n).expect("pages");
    p.bench().free(first);
    mark();
    p.bench().leave();
}

pub(super) fn pages_few(segment: &Segment) {
    pages(segment, 3);
}

pub(super) fn pages_multi(segment: &Segment) {
    pages(segment, 70);
}
