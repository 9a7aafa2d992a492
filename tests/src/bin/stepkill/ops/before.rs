//! What the survivor does: before the victim starts, and when the victim has reached its first mark.

use std::any::Any;

use coheap::testing::phase;
use coheap::*;

use super::world::{
    Entry, Failing, Leaf, Mover, Node, Parent, Row, Sleeper, Table, entry, node, tree,
};

pub(super) fn nothing(_: &mut P) -> Box<dyn Any> {
    Box::new(())
}

pub(super) fn stays(_: &mut P) {}

/// A tree under a root.
pub(super) fn a_tree(p: &mut P) -> Box<dyn Any> {
    p.enter(|cx| {
        let cx = &*cx;
        cx.root::<Node>("tree")?.set(cx, Some(tree(cx, 3)?));
        Ok::<_, Error>(())
    })
    .expect("room for a tree");
    Box::new(())
}

/// An array of three oblets: a tree hangs on the first of its elements, on one in the middle, and on the last.
pub(super) fn a_large_array(p: &mut P) -> Box<dyn Any> {
    p.enter(|cx| {
        let cx = &*cx;
        let rows = cx.array::<Row>(300 << 10 >> 12)?;
        for i in [0, rows.len() / 2, rows.len() - 1] {
            rows[i].first.store(cx, Some(tree(cx, 1)?));
        }
        let table = cx.alloc(Table { rows: Slot::nil() })?;
        table.rows.store(cx, Some(rows));
        cx.root::<Table>("large")?.set(cx, Some(table));
        Ok::<_, Error>(())
    })
    .expect("room for an array");
    Box::new(())
}

/// A tree, a collection, and a holder of every second of 400 nodes, so that spans are partial.
pub(super) fn holes(p: &mut P) -> Box<dyn Any> {
    a_tree(p);
    p.enter(|cx| {
        let cx = &*cx;
        let root = cx.root::<Node>("tree")?;
        for i in 0..400 {
            let n = node(cx, i)?;
            if i % 2 == 0 {
                n.left.store(cx, root.get(cx));
                root.set(cx, Some(n));
            }
        }
        Ok::<_, Error>(())
    })
    .expect("room for nodes");
    assert!(p.collect());
    Box::new(())
}

pub(super) fn submit_leaves(p: &mut P, n: u64) -> Box<dyn Any> {
    let all: Vec<Submitted<Leaf>> = (0..n)
        .map(|id| {
            p.submit(|cx| cx.alloc(Leaf { id: id + 1 }))
                .expect("room for a task")
        })
        .collect();
    Box::new(all)
}

pub(super) fn leaves(p: &mut P) -> Box<dyn Any> {
    a_tree(p);
    submit_leaves(p, 5)
}

pub(super) fn many_leaves(p: &mut P) -> Box<dyn Any> {
    submit_leaves(p, 257)
}

pub(super) fn one_leaf(p: &mut P) -> Box<dyn Any> {
    submit_leaves(p, 1)
}

/// Five tasks in the survivor's own ring.
pub(super) fn local_leaves(p: &mut P) -> Box<dyn Any> {
    let kept = leaves(p);
    p.bench().localize(5);
    kept
}

pub(super) fn next_leaf(p: &mut P) -> Box<dyn Any> {
    let kept = one_leaf(p);
    p.bench().localize_next();
    kept
}

pub(super) fn parent(p: &mut P) -> Box<dyn Any> {
    Box::new(
        p.submit(|cx| {
            cx.alloc(Parent {
                id: 1,
                stage: 0,
                join: Slot::nil(),
            })
        })
        .expect("room for a task"),
    )
}

pub(super) fn sleeper(p: &mut P) -> Box<dyn Any> {
    Box::new(
        p.submit(|cx| cx.alloc(Sleeper { id: 7, stage: 0 }))
            .expect("room for a task"),
    )
}

/// Two queues, three entries in the first.
pub(super) fn queues(p: &mut P) -> Box<dyn Any> {
    p.enter(|cx| {
        let cx = &*cx;
        let from = Queue::<Entry>::new(cx)?;
        cx.root("from")?.set(cx, Some(from));
        cx.root("to")?.set(cx, Some(Queue::<Entry>::new(cx)?));
        for id in 1..4 {
            from.push(cx, entry(cx, id)?)?;
        }
        Ok::<_, Error>(())
    })
    .expect("room for queues");
    Box::new(())
}

pub(super) fn mover(p: &mut P) -> Box<dyn Any> {
    queues(p);
    Box::new(
        p.submit(|cx| cx.alloc(Mover { id: 1 }))
            .expect("room for a task"),
    )
}

pub(super) fn failing(p: &mut P) -> Box<dyn Any> {
    Box::new(
        p.submit(|cx| cx.alloc(Failing { id: 9 }))
            .expect("room for a task"),
    )
}

/// A task that has lost all the runs it may lose.
pub(super) fn worn_leaf(p: &mut P) -> Box<dyn Any> {
    let kept = one_leaf(p);
    p.bench().wear_out(1);
    kept
}

/// The survivor marks, and stays in its scope.
pub(super) fn inside_marking(p: &mut P) -> Box<dyn Any> {
    let kept = a_tree(p);
    p.bench().drive(phase::MARK);
    p.bench().enter();
    kept
}

pub(super) fn goes_outside(p: &mut P) {
    p.bench().leave();
}

/// Shades some nodes and leaves: a buffer is published.
pub(super) fn publishes(p: &mut P) {
    p.bench().scope(|cx| {
        let tree = cx
            .root::<Node>("tree")
            .expect("a root")
            .get(cx)
            .expect("a tree");
        // Nothing is allocated: it would be paid for by marking all of it.
        tree.left.store(cx, tree.left.load(cx));
        tree.right.store(cx, tree.right.load(cx));
    });
    p.bench().dispose();
}

pub(super) fn garbage(p: &mut P) -> Box<dyn Any> {
    a_tree(p);
    p.enter(|cx| {
        let cx = &*cx;
        for i in 0..600 {
            node(cx, i)?;
        }
        cx.array::<u64>(5 << 10)?;
        Ok::<_, Error>(())
    })
    .expect("room");
    p.bench().edge();
    p.bench().release_spans();
    Box::new(())
}

pub(super) fn survivor_marks(p: &mut P) -> Box<dyn Any> {
    let kept = a_tree(p);
    p.bench().drive(phase::MARK);
    kept
}

/// A weak reference under this root to a node of its own.
fn weak(p: &mut P, name: &str, value: u64) -> Handle<Node> {
    p.enter(|cx| {
        let cx = &*cx;
        let target = node(cx, value)?;
        cx.root::<Weak<Node>>(name)?.set(cx, Some(cx.weak(target)?));
        cx.handle(target)
    })
    .expect("room for a weak reference")
}

/// Two weak references that the next cycle looks at again: one to what the survivor holds, one to what nobody holds.
pub(super) fn weak_ones(p: &mut P) -> Box<dyn Any> {
    a_tree(p);
    let kept = weak(p, "weak", 1);
    drop(weak(p, "weak to nothing", 2));
    assert!(p.collect());
    Box::new(kept)
}

/// A weak reference to what has survived the last cycle and is held by nobody since. The survivor marks, and stays in its scope.
pub(super) fn weak_only(p: &mut P) -> Box<dyn Any> {
    let held = weak(p, "weak", 1);
    assert!(p.collect());
    drop(held);
    inside_marking(p)
}
