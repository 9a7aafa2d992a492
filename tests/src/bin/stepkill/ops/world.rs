//! What operations work on: types, tasks, and what is left of them where everybody can see it.

use std::time::Duration;

use coheap::*;

use crate::mark;

#[derive(Shared)]
pub struct Node {
    pub left: Slot<Node>,
    pub right: Slot<Node>,
    pub value: u64,
}

/// A type that only the victim uses.
#[derive(Shared)]
pub(super) struct Rare {
    pub one: Slot<Node>,
    pub two: u64,
}

/// An element as large as they come: few of them make a large array.
#[derive(Shared)]
pub(super) struct Row {
    pub first: Slot<Node>,
    pub rest: [u64; 500],
}

/// Holder of a large array.
#[derive(Shared)]
pub(super) struct Table {
    pub rows: Slot<Array<Row>>,
}

/// Children of a wide object.
#[derive(Shared)]
pub(super) struct Wide {
    pub all: Slot<Array<Slot<Node>>>,
}

#[derive(Shared)]
pub struct Entry {
    pub next: Slot<Entry>,
    pub id: u64,
}

#[derive(Shared)]
pub struct Sum {
    pub value: u64,
}

/// Logs its number, and ends with it.
#[derive(Shared)]
pub struct Leaf {
    pub id: u64,
}

/// Spawns a leaf, waits for it, logs.
#[derive(Shared)]
pub(super) struct Parent {
    pub id: u64,
    pub stage: u64,
    pub join: Slot<Join<Sum>>,
}

/// Sleeps, then logs.
#[derive(Shared)]
pub(super) struct Sleeper {
    pub id: u64,
    pub stage: u64,
}

/// Fails.
#[derive(Shared)]
pub(super) struct Failing {
    pub id: u64,
}

/// Moves one entry from a queue to another.
#[derive(Shared)]
pub(super) struct Mover {
    pub id: u64,
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

pub(super) fn node<'a>(cx: &'a Cx<'_>, value: u64) -> Result<Gc<'a, Node>> {
    cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
        value,
    })
}

pub(super) fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
    let top = node(cx, depth.into())?;
    if depth > 0 {
        top.left.store(cx, Some(tree(cx, depth - 1)?));
        top.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(top)
}

/// Appends to the log when the step takes effect.
pub(super) fn log<T: Task>(cx: &Step<'_, T>, id: u64) -> Result<()> {
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
        let weak = cx.root::<Weak<Node>>("weak").expect("a root").get(cx);
        let weak = weak.map(|w| w.get(cx).map_or(0, |n| n.value));
        let queued = |name: &str| {
            let queue = cx.root::<Queue<Entry>>(name).expect("a root").get(cx);
            queue.map_or(Vec::new(), |q| q.iter(cx).map(|e| e.id).collect())
        };
        let (from, to) = (queued("from"), queued("to"));
        format!(
            "log {ids:?}, queues {from:?} {to:?}, weak {weak:?}, tree {}, out {}",
            tree.map_or(0, |t| count(cx, t)),
            out.map_or(0, |t| count(cx, t))
        )
    })
}

pub(super) fn count(cx: &Cx<'_>, node: Gc<'_, Node>) -> u64 {
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

pub(super) fn entry<'a>(cx: &'a Cx<'_>, id: u64) -> Result<Gc<'a, Entry>> {
    cx.alloc(Entry {
        next: Slot::nil(),
        id,
    })
}
