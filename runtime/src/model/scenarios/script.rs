//! The words that scripts are written in: objects and chains under roots, the collector's looks, tasks of three kinds.

use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::{
    Cx, Error, Gc, Kinds, Next, Shared, Slot, Step, Task,
    api::Inside,
    model::world::World,
    sched::{proc::Proc, task::Resolved},
};

/// An object of the scenarios' heaps.
#[derive(Shared)]
pub(in crate::model) struct Node {
    pub next: Slot<Node>,
    pub id: u64,
}

pub(in crate::model) fn node<'a>(
    cx: &'a Cx<'_>,
    id: u64,
    next: Option<Gc<'_, Node>>,
) -> Gc<'a, Node> {
    let node = cx
        .alloc(Node {
            next: Slot::nil(),
            id,
        })
        .expect("room for a few objects");
    node.next.store(cx, next);
    node
}

/// Runs `f` in a scope of `p`.
pub(in crate::model) fn scope<R>(p: &Proc, f: impl FnOnce(&Cx<'_>) -> R) -> R {
    let _inside = Inside::enter(p);
    f(&Cx::new(p))
}

pub(in crate::model) fn set_root(cx: &Cx<'_>, name: &str, node: Option<Gc<'_, Node>>) {
    cx.root::<Node>(name).expect("a root").set(cx, node);
}

pub(in crate::model) fn get_root<'a>(cx: &'a Cx<'_>, name: &str) -> Option<Gc<'a, Node>> {
    cx.root::<Node>(name).expect("a root").get(cx)
}

/// A chain of objects under the root `name`.
pub(in crate::model) fn chain(p: &Proc, name: &str, ids: &[u64]) {
    scope(p, |cx| {
        let mut next = None;
        for &id in ids.iter().rev() {
            next = Some(node(cx, id, next));
        }
        set_root(cx, name, next);
    });
}

/// The ids of the chain under the root `name`.
pub(in crate::model) fn chain_ids(p: &Proc, name: &str) -> Vec<u64> {
    scope(p, |cx| {
        let mut ids = Vec::new();
        let mut at = get_root(cx, name);
        while let Some(n) = at {
            ids.push(n.id);
            at = n.next.load(cx);
            assert!(ids.len() < 100, "the chain under {name} has become a ring");
        }
        ids
    })
}

/// Passes an edge, then does what the scheduler would do for the collector.
pub(in crate::model) fn work(p: &Proc) -> bool {
    drop(Inside::enter(p));
    p.collector_work(true)
}

/// Takes the collector to `kind` with the help of all P's, none of which is in a scope.
pub(in crate::model) fn take_to(world: &World, kind: u8) {
    for _ in 0..200 {
        if world.seg.phase().kind() == kind {
            world.procs.iter().for_each(|p| drop(Inside::enter(p)));
            // Idle workers may run side by side.
            world.seg.hdr.gc.idle_max.store(8, Relaxed);
            return;
        }
        for p in &world.procs {
            drop(Inside::enter(p));
            p.gc_step();
        }
    }
    panic!("the collector does not get to phase {kind}");
}

/// The collector, as process `name` on P `p`: `times` looks.
pub(in crate::model) fn collector(w: &mut World, name: &'static str, p: usize, times: usize) {
    w.process(name, p, true, move |p| {
        for _ in 0..times {
            work(p);
        }
    });
}

/// `n` runnable tasks that each put an object into the log, in `p`'s ring.
pub(in crate::model) fn children(p: &Proc, n: u64) {
    scope(p, |cx| {
        let kind = p.kind_index::<Child>().expect("a kind");
        for id in 0..n {
            let context = cx.alloc(Child { id }).expect("room");
            let (task, word) = p
                .reserve_task(kind, cx.raw(Some(context)), 0)
                .expect("a task");
            crate::sched::task::make_runnable(&p.seg, task, word);
            p.runq_put(task, false);
        }
    });
    p.rec.now.0.task.store(0, Release);
}

/// Each P has its cursors, roots and commit records' shapes before the story begins.
pub(in crate::model) fn warm(w: &World) -> &'static Resolved<'static> {
    let table = kinds(&w.procs[0]);
    for p in &w.procs {
        scope(p, |cx| {
            node(cx, 0, None);
            for entries in 2..6 {
                let elements = const { &crate::api::Elements::of(16, crate::RefMap::ONE) };
                let record = p.array_of(entries, 16, elements, true);
                record.expect("room for a commit record");
            }
            cx.root::<Node>("parent").expect("a root");
            cx.root::<Node>("done").expect("a root");
            for id in 0..9 {
                cx.root::<Node>(&format!("log{id}")).expect("a root");
            }
        });
    }
    table
}

/// A task that spawns a child and goes on.
#[derive(Shared)]
pub(in crate::model) struct Forker {
    pub stage: u64,
}

impl Task for Forker {
    const KIND: &'static str = "model.forker";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        if cx.context().stage == 0 {
            cx.spawn(cx.alloc(Child { id: 8 })?)?;
            return Ok(Next::Continue(cx.alloc(Forker { stage: 1 })?));
        }
        Ok(Next::Done(None))
    }
}

/// A task that spawns a child with a join, updates a root, waits for the child, and ends.
#[derive(Shared)]
pub(in crate::model) struct Parent {
    pub child: Slot<crate::Join<Node>>,
    pub stage: u64,
}

/// A task that puts an object in front of the root "log".
#[derive(Shared)]
pub(in crate::model) struct Child {
    pub id: u64,
}

impl Task for Parent {
    const KIND: &'static str = "model.parent";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        if cx.context().stage == 0 {
            let join = cx.spawn_join(cx.alloc(Child { id: 7 })?)?;
            cx.set_root(cx.root::<Node>("parent")?, Some(node(cx, 5, None)))?;
            let next = cx.alloc(Parent {
                child: Slot::nil(),
                stage: 1,
            })?;
            next.child.store(cx, Some(join));
            return Ok(Next::Join(next, join.to_join()));
        }
        let join = cx.context().child.load(cx).expect("a child");
        if !join.is_over() {
            return Ok(Next::Join(cx.context(), join.to_join()));
        }
        let old = get_root(cx, "done");
        cx.set_root(cx.root::<Node>("done")?, Some(node(cx, 6, old)))?;
        Ok(Next::Done(join.result(cx)))
    }
}

impl Task for Child {
    const KIND: &'static str = "model.child";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        // A root of its own: setting a root is not a read and a write in one.
        let log = format!("log{}", cx.context().id);
        let old = get_root(cx, &log);
        let new = node(cx, cx.context().id, old);
        cx.set_root(cx.root::<Node>(&log)?, Some(new))?;
        Ok(Next::Done(Some(new)))
    }
}

pub(in crate::model) fn kinds(p: &Proc) -> &'static Resolved<'static> {
    let kinds: &'static Kinds = Box::leak(Box::new(
        Kinds::new()
            .with::<Parent>()
            .with::<Child>()
            .with::<Forker>(),
    ));
    Box::leak(Box::new(kinds.resolve(p).expect("room for two kinds")))
}

pub(in crate::model) fn run_tasks(p: &Proc, kinds: &Resolved<'_>, times: usize) {
    for _ in 0..times {
        if let Some(task) = p.runq_get().or_else(|| p.globrunq_get()) {
            p.run_task(task, kinds);
        }
    }
}

/// A task of kind `Forker` in the global queue.
pub(in crate::model) fn forker(p: &Proc) {
    scope(p, |cx| {
        let kind = p.kind_index::<Forker>().expect("a kind");
        let context = cx.alloc(Forker { stage: 0 }).expect("room");
        let (task, word) = p
            .reserve_task(kind, cx.raw(Some(context)), 0)
            .expect("a task");
        crate::sched::task::make_runnable(&p.seg, task, word);
        crate::sched::run_queue::put_global(&p.seg, task);
    });
}

/// A task of kind `Parent` in the global queue.
pub(in crate::model) fn parent(w: &World) {
    scope(&w.procs[0], |cx| {
        let p = cx.proc();
        let context = cx
            .alloc(Parent {
                child: Slot::nil(),
                stage: 0,
            })
            .expect("room");
        let kind = p.kind_index::<Parent>().expect("a kind");
        let (task, word) = p
            .reserve_task(kind, cx.raw(Some(context)), 0)
            .expect("a task");
        crate::sched::task::make_runnable(&p.seg, task, word);
        crate::sched::run_queue::put_global(&p.seg, task);
    });
}
