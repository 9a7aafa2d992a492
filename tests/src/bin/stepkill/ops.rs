//! The critical operations, each between two marks.
//!
//! An operation is a function that the victim process runs: it leases a P, brings it to where the operation starts, passes
//! [`mark()`], does the one thing, passes `mark` again, and then puts everything in order, so that a victim that was only stopped
//! can end well. What the survivor P0 does beforehand stands in `before`, what it does at the first mark in `at_mark`.

use std::{any::Any, time::Duration};

use coheap::testing::phase;
use coheap::*;

use crate::mark::{self, mark};

/// An operation.
pub struct Op {
    pub name: &'static str,
    /// What the survivor does before the victim starts. What it returns is kept until the end.
    pub before: fn(&mut P) -> Box<dyn Any>,
    /// What the victim does.
    pub run: fn(&Segment),
    /// What the survivor does when the victim has reached the first mark.
    pub at_mark: fn(&mut P),
    /// Is the survivor inside a scope during the operation?
    pub p0_inside: bool,
    /// Has the task lost so many runs that a death in the middle is its last?
    pub may_give_up: bool,
    /// May garbage stay reachable for a while after a death in the middle, behind a hint that lags?
    pub lags: bool,
    /// Too long for the short form, which meets the same steps elsewhere?
    pub long: bool,
}

#[derive(Shared)]
pub struct Node {
    left: Slot<Node>,
    right: Slot<Node>,
    value: u64,
}

/// A type that only the victim uses.
#[derive(Shared)]
struct Rare {
    one: Slot<Node>,
    two: u64,
}

/// Children of a wide object.
#[derive(Shared)]
struct Wide {
    all: Slot<Array<Slot<Node>>>,
}

#[derive(Shared)]
pub struct Entry {
    next: Slot<Entry>,
    id: u64,
}

#[derive(Shared)]
pub struct Sum {
    value: u64,
}

/// Logs its number, and ends with it.
#[derive(Shared)]
pub struct Leaf {
    id: u64,
}

/// Spawns a leaf, waits for it, logs.
#[derive(Shared)]
struct Parent {
    id: u64,
    stage: u64,
    join: Slot<Join<Sum>>,
}

/// Sleeps, then logs.
#[derive(Shared)]
struct Sleeper {
    id: u64,
    stage: u64,
}

/// Fails.
#[derive(Shared)]
struct Failing {
    id: u64,
}

/// Moves one entry from a queue to another.
#[derive(Shared)]
struct Mover {
    id: u64,
}

impl Task for Mover {
    const KIND: &'static str = "mover";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let from = cx.root::<Queue<Entry>>("from")?.get(cx).expect("a queue");
        let to = cx.root::<Queue<Entry>>("to")?.get(cx).expect("a queue");
        if let Some(entry) = cx.take(from)? {
            cx.push(to, entry)?;
        }
        mark::if_wanted(mark::STEP_END);
        Ok(Next::Done(None))
    }
}

pub fn kinds() -> Kinds {
    Kinds::new()
        .with::<Leaf>()
        .with::<Parent>()
        .with::<Sleeper>()
        .with::<Failing>()
        .with::<Mover>()
}

fn node<'a>(cx: &'a Cx<'_>, value: u64) -> Result<Gc<'a, Node>> {
    cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
        value,
    })
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
    let top = node(cx, depth.into())?;
    if depth > 0 {
        top.left.store(cx, Some(tree(cx, depth - 1)?));
        top.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(top)
}

/// Appends to the log when the step takes effect.
fn log<T: Task>(cx: &Step<'_, T>, id: u64) -> Result<()> {
    let root = cx.root::<Entry>("log")?;
    let entry = cx.alloc(Entry {
        next: Slot::nil(),
        id,
    })?;
    entry.next.store(cx, root.get(cx));
    cx.set_root(root, Some(entry))
}

impl Task for Leaf {
    const KIND: &'static str = "leaf";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        log(cx, cx.context().id)?;
        let sum = cx.alloc(Sum {
            value: cx.context().id,
        })?;
        mark::if_wanted(mark::STEP_END);
        Ok(Next::Done(Some(sum)))
    }
}

impl Task for Parent {
    const KIND: &'static str = "parent";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let next = cx.alloc(Parent {
            id: me.id,
            stage: 1,
            join: Slot::nil(),
        })?;
        if me.stage == 0 {
            let leaf = cx.alloc(Leaf { id: me.id + 10 })?;
            mark::if_wanted(mark::SPAWN);
            let join = cx.spawn_join(leaf)?;
            mark::if_wanted(mark::SPAWN);
            next.join.store(cx, Some(join));
            log(cx, me.id)?;
            mark::if_wanted(mark::STEP_END);
            return Ok(Next::Continue(next));
        }
        let join = me.join.load(cx).expect("stored in stage 0");
        next.join.store(cx, Some(join));
        if !join.is_over() {
            mark::if_wanted(mark::STEP_END);
            return Ok(Next::Join(next, join.to_join()));
        }
        let value = join.result(cx).map_or(0, |s| s.value);
        log(cx, me.id * 1000 + value)?;
        Ok(Next::Done(Some(cx.alloc(Sum { value })?)))
    }
}

impl Task for Sleeper {
    const KIND: &'static str = "sleeper";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if me.stage == 0 {
            let next = cx.alloc(Sleeper {
                id: me.id,
                stage: 1,
            })?;
            mark::if_wanted(mark::STEP_END);
            return Ok(Next::Sleep(next, Duration::from_micros(200)));
        }
        log(cx, me.id)?;
        Ok(Next::Done(None))
    }
}

impl Task for Failing {
    const KIND: &'static str = "failing";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        mark::if_wanted(mark::STEP_END);
        Err(Error::Task {
            what: format!("task {} fails", cx.context().id),
        })
    }
}

/// What the operation has left where everybody can see it: the log, sorted, and the named roots.
pub fn outcome(p: &mut P) -> String {
    p.enter(|cx| {
        let mut ids = Vec::new();
        let mut at = cx.root::<Entry>("log").expect("a root").get(cx);
        while let Some(entry) = at {
            ids.push(entry.id);
            at = entry.next.load(cx);
        }
        ids.sort_unstable();
        assert!(
            ids.windows(2).all(|w| w[0] != w[1]),
            "an effect happened twice: {ids:?}"
        );
        let tree = cx.root::<Node>("tree").expect("a root").get(cx);
        let out = cx.root::<Node>("out").expect("a root").get(cx);
        let queued = |name: &str| {
            let queue = cx.root::<Queue<Entry>>(name).expect("a root").get(cx);
            queue.map_or(Vec::new(), |q| q.iter(cx).map(|e| e.id).collect())
        };
        let (from, to) = (queued("from"), queued("to"));
        format!(
            "log {ids:?}, queues {from:?} {to:?}, tree {}, out {}",
            tree.map_or(0, |t| count(cx, t)),
            out.map_or(0, |t| count(cx, t))
        )
    })
}

fn count(cx: &Cx<'_>, node: Gc<'_, Node>) -> u64 {
    1 + node.left.load(cx).map_or(0, |n| count(cx, n))
        + node.right.load(cx).map_or(0, |n| count(cx, n))
}

/// A task of the survivor's own.
pub fn submit_own(p: &mut P) -> Result<Submitted<Leaf>> {
    p.submit(|cx| cx.alloc(Leaf { id: 500 }))
}

/// What a survivor does for itself: objects, a reference, a root.
pub fn own_work(cx: &mut Cx<'_>) -> Result<()> {
    let cx = &*cx;
    let top = tree(cx, 3)?;
    let mine = cx.root::<Node>("mine")?;
    mine.set(cx, Some(top));
    mine.set(cx, None);
    Ok(())
}

// ---- what the survivor does beforehand ----

fn nothing(_: &mut P) -> Box<dyn Any> {
    Box::new(())
}

fn stays(_: &mut P) {}

/// A tree under a root.
fn a_tree(p: &mut P) -> Box<dyn Any> {
    p.enter(|cx| {
        let cx = &*cx;
        cx.root::<Node>("tree")?.set(cx, Some(tree(cx, 3)?));
        Ok::<_, Error>(())
    })
    .expect("room for a tree");
    Box::new(())
}

/// A tree, a collection, and a holder of every second of 400 nodes, so that spans are partial.
fn holes(p: &mut P) -> Box<dyn Any> {
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

fn submit_leaves(p: &mut P, n: u64) -> Box<dyn Any> {
    let all: Vec<Submitted<Leaf>> = (0..n)
        .map(|id| {
            p.submit(|cx| cx.alloc(Leaf { id: id + 1 }))
                .expect("room for a task")
        })
        .collect();
    Box::new(all)
}

fn leaves(p: &mut P) -> Box<dyn Any> {
    a_tree(p);
    submit_leaves(p, 5)
}

fn many_leaves(p: &mut P) -> Box<dyn Any> {
    submit_leaves(p, 257)
}

fn one_leaf(p: &mut P) -> Box<dyn Any> {
    submit_leaves(p, 1)
}

/// Five tasks in the survivor's own ring.
fn local_leaves(p: &mut P) -> Box<dyn Any> {
    let kept = leaves(p);
    p.bench().localize(5);
    kept
}

fn next_leaf(p: &mut P) -> Box<dyn Any> {
    let kept = one_leaf(p);
    p.bench().localize_next();
    kept
}

fn parent(p: &mut P) -> Box<dyn Any> {
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

fn sleeper(p: &mut P) -> Box<dyn Any> {
    Box::new(
        p.submit(|cx| cx.alloc(Sleeper { id: 7, stage: 0 }))
            .expect("room for a task"),
    )
}

/// Two queues, three entries in the first.
fn queues(p: &mut P) -> Box<dyn Any> {
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

fn mover(p: &mut P) -> Box<dyn Any> {
    queues(p);
    Box::new(
        p.submit(|cx| cx.alloc(Mover { id: 1 }))
            .expect("room for a task"),
    )
}

fn entry<'a>(cx: &'a Cx<'_>, id: u64) -> Result<Gc<'a, Entry>> {
    cx.alloc(Entry {
        next: Slot::nil(),
        id,
    })
}

fn failing(p: &mut P) -> Box<dyn Any> {
    Box::new(
        p.submit(|cx| cx.alloc(Failing { id: 9 }))
            .expect("room for a task"),
    )
}

/// A task that has lost all the runs it may lose.
fn worn_leaf(p: &mut P) -> Box<dyn Any> {
    let kept = one_leaf(p);
    p.bench().wear_out(1);
    kept
}

/// The survivor marks, and stays in its scope.
fn inside_marking(p: &mut P) -> Box<dyn Any> {
    let kept = a_tree(p);
    p.bench().drive(phase::MARK);
    p.bench().enter();
    kept
}

fn goes_outside(p: &mut P) {
    p.bench().leave();
}

/// Shades some nodes and leaves: a buffer is published.
fn publishes(p: &mut P) {
    p.enter(|cx| {
        let cx = &*cx;
        let tree = cx
            .root::<Node>("tree")
            .expect("a root")
            .get(cx)
            .expect("a tree");
        let holder = node(cx, 0).expect("room");
        holder.left.store(cx, tree.left.load(cx));
        holder.left.store(cx, tree.right.load(cx));
    });
}

// ---- the operations ----

fn lease(segment: &Segment) -> P {
    P::lease(segment.clone()).expect("a vacant P")
}

fn enter(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

fn leave(segment: &Segment) {
    let p = lease(segment);
    p.bench().enter();
    mark();
    p.bench().leave();
    mark();
}

/// With a cached span and a run begun.
fn with_run(segment: &Segment) -> P {
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

fn enter_barrier(segment: &Segment) {
    let p = with_run(segment);
    p.bench().request();
    p.bench().step();
    assert_eq!(p.bench().phase(), phase::BARRIER);
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

fn enter_black(segment: &Segment) {
    let p = with_run(segment);
    p.bench().request();
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
fn enter_off(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    mark();
    p.bench().enter();
    mark();
    p.bench().leave();
}

fn leave_marking(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().enter();
    p.bench().shade_root("tree");
    mark();
    p.bench().leave();
    mark();
}

fn alloc_fast(segment: &Segment) {
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

fn alloc_until_run_ends(p: &mut P) {
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

fn p_run_left(cx: &Cx<'_>) -> bool {
    testing::run_left::<Node>(cx)
}

fn alloc_next_run(segment: &Segment) {
    alloc_until_run_ends(&mut lease(segment));
}

fn alloc_next_run_black(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        node(cx, 1).expect("room");
    });
    p.bench().drive(phase::MARK);
    alloc_until_run_ends(&mut p);
}

fn alloc_partial(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let cx = &*cx;
        mark();
        let n = node(cx, 1);
        mark();
        drop(n);
    });
}

fn alloc_new_span(segment: &Segment) {
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

fn alloc_array(segment: &Segment, words: usize, marking: bool) {
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

fn alloc_large(segment: &Segment) {
    alloc_array(segment, 5 << 10, false);
}

fn alloc_large_black(segment: &Segment) {
    alloc_array(segment, 5 << 10, true);
}

fn alloc_large_multi(segment: &Segment) {
    alloc_array(segment, 70 << 10, false);
}

fn store_in(segment: &Segment, marking: bool) {
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

fn store_off(segment: &Segment) {
    store_in(segment, false);
}

fn store_on(segment: &Segment) {
    store_in(segment, true);
}

/// The store that finds both work buffers full.
fn store_full(segment: &Segment) {
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
fn sweep(segment: &Segment) {
    let p = lease(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    p.bench().enter();
    mark();
    p.bench().sweep();
    mark();
    p.bench().leave();
}

fn garbage(p: &mut P) -> Box<dyn Any> {
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

/// A chunk of which every page is free goes back to the kernel.
fn release(segment: &Segment) {
    let p = lease(segment);
    p.bench().grow(1).expect("memory");
    mark();
    p.bench().release_chunk();
    mark();
}

/// The second chunk, then the third.
fn grow(segment: &Segment) {
    let p = lease(segment);
    mark();
    p.bench().grow(1).expect("memory");
    mark();
}

fn pages(segment: &Segment, n: usize) {
    let p = lease(segment);
    p.bench().enter();
    mark();
    let first = p.bench().claim(n).expect("pages");
    p.bench().free(first);
    mark();
    p.bench().leave();
}

fn pages_few(segment: &Segment) {
    pages(segment, 3);
}

fn pages_multi(segment: &Segment) {
    pages(segment, 70);
}

/// What was claimed goes back. In stop mode a survivor may have been quicker.
fn give_back(p: &P, task: Option<usize>) {
    if let Some(task) = task {
        p.bench().unclaim(task, false);
    }
}

fn steal(segment: &Segment) {
    let p = lease(segment);
    mark();
    let task = p.bench().steal();
    mark();
    give_back(&p, task);
}

fn queue_push(segment: &Segment) {
    let p = lease(segment);
    let task = p.bench().pop_global().expect("a task");
    let second = p.bench().pop_global().expect("a task");
    p.bench().unclaim(second, true);
    mark();
    p.bench().unclaim(task, true);
    mark();
}

/// A push that finds the ring full.
fn queue_overflow(segment: &Segment) {
    let p = lease(segment);
    let task = p.bench().pop_global().expect("a task");
    p.bench().localize(256);
    mark();
    p.bench().unclaim(task, false);
    mark();
}

fn queue_pop(segment: &Segment) {
    let p = lease(segment);
    p.bench().localize(3);
    p.bench().localize_next();
    mark();
    let a = p.bench().pop();
    mark();
    give_back(&p, a);
}

fn queue_pop_ring(segment: &Segment) {
    let p = lease(segment);
    p.bench().localize(3);
    mark();
    let a = p.bench().pop();
    mark();
    give_back(&p, a);
}

fn queue_global(segment: &Segment) {
    let p = lease(segment);
    mark();
    let a = p.bench().pop_global();
    mark();
    give_back(&p, a);
}

fn submit(segment: &Segment) {
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
fn in_step(segment: &Segment, want: u32, turn: usize) {
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

fn spawn(segment: &Segment) {
    in_step(segment, mark::SPAWN, 1);
}

fn commit(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}

/// The parent's second step, before its child has run: it waits.
fn park(segment: &Segment) {
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
fn complete(segment: &Segment) {
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

fn run_task(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    mark();
    p.bench().schedule(&turns);
    mark();
}

fn sleep(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}

fn timer(segment: &Segment) {
    let p = lease(segment);
    let kinds = kinds();
    let turns = p.bench().resolve(&kinds).expect("room for kinds");
    assert!(p.bench().schedule(&turns));
    std::thread::sleep(Duration::from_millis(1));
    mark();
    p.bench().schedule(&turns);
    mark();
}

fn queue_of_values(segment: &Segment, push: bool) {
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

fn value_push(segment: &Segment) {
    queue_of_values(segment, true);
}

fn value_pop(segment: &Segment) {
    queue_of_values(segment, false);
}

fn fail(segment: &Segment) {
    in_step(segment, mark::STEP_END, 1);
}

fn gc_start(segment: &Segment) {
    let p = with_run(segment);
    p.bench().request();
    mark();
    p.bench().step();
    mark();
}

/// The start of a cycle while spans of the last are not swept yet.
fn gc_start_unswept(segment: &Segment) {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p.bench().finish_cycle();
    p.bench().edge();
    p.bench().request();
    mark();
    p.bench().step();
    mark();
}

fn gc_black(segment: &Segment) {
    let p = with_run(segment);
    p.bench().request();
    p.bench().step();
    p.bench().edge();
    mark();
    p.bench().step();
    mark();
}

fn gc_mark(segment: &Segment) {
    let p = with_run(segment);
    p.bench().request();
    p.bench().step();
    p.bench().edge();
    p.bench().step();
    p.bench().edge();
    mark();
    p.bench().step();
    mark();
}

fn worker_start(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().start_workers();
    mark();
}

fn worker_lost(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    p.bench().start_workers();
    mark();
    p.bench().start_second_worker(p.index());
    mark();
}

fn marking(segment: &Segment) -> P {
    let p = with_run(segment);
    p.bench().drive(phase::MARK);
    p
}

fn worker_claim(segment: &Segment) {
    let p = marking(segment);
    mark();
    let worker = p.bench().claim_worker();
    mark();
    if let Some(worker) = worker {
        p.bench().park_worker(worker);
    }
}

/// A unit of the budget, then the worker.
fn worker_claim_dedicated(segment: &Segment) {
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
fn worker_dedicated(segment: &Segment) {
    let p = marking(segment);
    p.bench().localize(3);
    p.bench().want_dedicated(1);
    mark();
    if let Some(worker) = p.bench().claim_worker() {
        p.bench().run_worker(worker);
    }
    mark();
}

fn worker_park(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().park_worker(worker);
    mark();
}

fn worker_reattach(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().detach_worker(&worker);
    p.bench().park_worker(worker);
    mark();
}

fn root_job(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    mark();
    p.bench().root_job();
    mark();
    p.bench().dispose();
    p.bench().park_worker(worker);
}

/// The objects of a small tree, and the buffers they go through.
fn mark_objects(segment: &Segment) {
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
fn all_marked(p: &P) -> testing::Claimed {
    let worker = p.bench().claim_worker().expect("a worker");
    p.bench().drain();
    p.bench().dispose();
    worker
}

/// From the last drain to "off": detach, round, termination, park, attach.
fn mark_done(segment: &Segment) {
    let p = marking(segment);
    let worker = all_marked(&p);
    mark();
    p.bench().run_worker(worker);
    mark();
}

/// The survivor is inside: the round has to wait, the worker becomes runnable.
fn mark_wait(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    let worker = all_marked(&p);
    mark();
    p.bench().run_worker(worker);
    mark();
}

/// Whoever schedules next goes on with it.
fn migrate(segment: &Segment) {
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
fn rescan(segment: &Segment) {
    let p = marking(segment);
    let worker = all_marked(&p);
    p.bench().say_overflow();
    p.bench().detach_worker(&worker);
    mark();
    p.bench().mark_done(worker);
    mark();
}

fn survivor_marks(p: &mut P) -> Box<dyn Any> {
    let kept = a_tree(p);
    p.bench().drive(phase::MARK);
    kept
}

fn buffer_fetch(segment: &Segment) {
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

fn buffer_dispose(segment: &Segment) {
    let p = marking(segment);
    let worker = p.bench().claim_worker().expect("a worker");
    while p.bench().root_job() {}
    mark();
    p.bench().dispose();
    mark();
    p.bench().park_worker(worker);
}

fn resize(segment: &Segment) {
    let mut p = lease(segment);
    mark();
    sched::resize(&mut p, 3).expect("nobody in the way");
    mark();
}

fn stop(segment: &Segment) {
    let p = lease(segment);
    p.bench().edge();
    mark();
    p.bench().stop().expect("nobody in the way");
    mark();
}

fn attach(segment: &Segment) {
    mark();
    let p = P::lease(segment.clone());
    mark();
    drop(p);
}

fn detach(segment: &Segment) {
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

fn detach_marking(segment: &Segment) {
    let p = marking(segment);
    mark();
    drop(p);
    mark();
}

fn handle(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        let n = node(cx, 1).expect("room");
        mark();
        let kept = cx.handle(n);
        mark();
        drop(kept);
    });
}

fn handle_marking(segment: &Segment) {
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

fn root_set(segment: &Segment) {
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

fn names(segment: &Segment) {
    let mut p = lease(segment);
    p.enter(|cx| {
        mark();
        let root = cx.root::<Rare>("a new name");
        mark();
        drop(root);
    });
}

macro_rules! ops {
    ($($name:literal: $before:ident, $run:ident $(, at_mark $at:ident)? $(, inside $inside:literal)? $(, worn $worn:literal)? $(, lags $lags:literal)? $(, long $long:literal)?;)+) => {
        &[$(Op {
            name: $name,
            before: $before,
            run: $run,
            at_mark: { let at: fn(&mut P) = stays; $(let at: fn(&mut P) = { let _ = at; $at };)? at },
            p0_inside: { let inside = false; $(let inside = { let _ = inside; $inside };)? inside },
            may_give_up: { let worn = false; $(let worn = { let _ = worn; $worn };)? worn },
            lags: { let lags = false; $(let lags = { let _ = lags; $lags };)? lags },
            long: { let long = false; $(let long = { let _ = long; $long };)? long },
        }),+]
    };
}

/// Every operation.
pub const OPS: &[Op] = ops! {
    "enter": a_tree, enter;
    "enter-barrier": a_tree, enter_barrier;
    "enter-black": a_tree, enter_black;
    "enter-off": a_tree, enter_off;
    "leave": nothing, leave;
    "leave-marking": a_tree, leave_marking;
    "alloc-fast": a_tree, alloc_fast;
    "alloc-next-run": holes, alloc_next_run;
    "alloc-next-run-black": holes, alloc_next_run_black;
    "alloc-partial": holes, alloc_partial;
    "alloc-new-span": a_tree, alloc_new_span;
    "alloc-large": nothing, alloc_large;
    "alloc-large-black": a_tree, alloc_large_black, long true;
    "alloc-large-multi": nothing, alloc_large_multi;
    "store": a_tree, store_off;
    "store-marking": a_tree, store_on;
    "store-full": a_tree, store_full;
    "sweep": garbage, sweep;
    "grow": nothing, grow;
    "release": nothing, release;
    "pages": nothing, pages_few;
    "pages-multi": nothing, pages_multi;
    "steal": local_leaves, steal;
    "steal-next": next_leaf, steal;
    "queue-push": leaves, queue_push;
    "queue-pop": leaves, queue_pop;
    "queue-pop-ring": leaves, queue_pop_ring;
    "queue-global": leaves, queue_global;
    "queue-overflow": many_leaves, queue_overflow, long true;
    "submit": nothing, submit;
    "spawn": parent, spawn;
    "commit": parent, commit;
    "commit-done": one_leaf, commit;
    "run-task": leaves, run_task;
    "park": parent, park;
    "complete": parent, complete;
    "sleep": sleeper, sleep;
    "timer": sleeper, timer;
    "value-push": queues, value_push;
    "value-pop": queues, value_pop, lags true;
    "value-move": mover, run_task, lags true;
    "value-commit": mover, commit, lags true;
    "fail": failing, fail;
    "give-up": worn_leaf, run_task, worn true;
    "gc-start": a_tree, gc_start;
    "gc-start-unswept": garbage, gc_start_unswept;
    "gc-black": a_tree, gc_black;
    "gc-mark": a_tree, gc_mark;
    "worker-start": nothing, worker_start;
    "worker-lost": nothing, worker_lost;
    "worker-claim": a_tree, worker_claim;
    "worker-claim-dedicated": leaves, worker_claim_dedicated;
    "worker-dedicated": leaves, worker_dedicated, long true;
    "worker-park": a_tree, worker_park;
    "worker-reattach": a_tree, worker_reattach;
    "root-job": a_tree, root_job;
    "mark": a_tree, mark_objects;
    "mark-done": a_tree, mark_done;
    "mark-wait": inside_marking, mark_wait, inside true;
    "migrate": inside_marking, migrate, at_mark goes_outside;
    "rescan": a_tree, rescan, long true;
    "buffer-fetch": survivor_marks, buffer_fetch, at_mark publishes;
    "buffer-dispose": a_tree, buffer_dispose;
    "resize": a_tree, resize;
    "stop": a_tree, stop;
    "attach": leaves, attach;
    "attach-marking": survivor_marks, attach;
    "detach": leaves, detach;
    "detach-marking": a_tree, detach_marking;
    "handle": nothing, handle;
    "handle-marking": a_tree, handle_marking;
    "root-set": a_tree, root_set;
    "names": nothing, names;
};
