//! `trees`: binary-trees of the Benchmarks Game, with its check values, in the shared heap.
//!
//! 1. A *stretch* tree one level deeper is built, counted and dropped. 2. The *long-lived* tree is built and kept. 3. For the depths
//!    4, 6, ... many trees are built, counted and dropped. 4. The long-lived tree is counted.
//!    Trees deeper than [`STEP_DEPTH`] are built and counted by a task per half, so that a step stays short and halves may be stolen;
//!    shallow ones many per step. Each tree of step 3 is whole before it is counted, as in the original.
//!
//! **If a process dies** its steps run again; counts travel as results of tasks, so each counts once.
//! **Rejected:** one task per tree: at depth 4 a tree is 31 nodes, less work than a task.

use std::cell::Cell;

use coheap::{
    Array, Cx, Error, Gc, GcStr, Join, JoinRef, Kinds, Next, Result, Shared, Slot, Step, Task,
};

use super::{
    FNV_START, fnv1a, progress,
    run::{self, Outcome, Run, present},
};

/// Deepest tree that one step builds: 32,767 nodes.
const STEP_DEPTH: u32 = 14;
/// Smallest depth of step 3.
const MIN_DEPTH: u32 = 4;
/// Tasks that share the trees of one depth.
const SHARES: u32 = 4;

/// A node.
#[derive(Shared, Default)]
pub struct Node {
    /// Left half.
    pub left: Slot<Node>,
    /// Right half.
    pub right: Slot<Node>,
}

/// A number, as a task's result.
#[derive(Shared)]
pub struct Number {
    /// The number.
    pub value: u64,
}

/// A tree of `depth`, from the leaves up. Recursive: for small depths.
///
/// # Errors
/// Those of an allocation.
pub fn bottom_up<'cx>(cx: &'cx Cx<'_>, depth: u32) -> Result<Gc<'cx, Node>> {
    let failed = Cell::new(None);
    grown(cx, depth, &failed).ok_or_else(|| failed.take().expect("no tree, so an error"))
}

/// The recursion of [`bottom_up`]: a node or nothing goes by a register, while a `Result` would go through memory at every level. The
/// error waits in `failed`.
fn grown<'cx>(cx: &'cx Cx<'_>, depth: u32, failed: &Cell<Option<Error>>) -> Option<Gc<'cx, Node>> {
    if depth == 0 {
        return noted(cx.alloc(Node::default()), failed);
    }
    let (left, right) = (grown(cx, depth - 1, failed)?, grown(cx, depth - 1, failed)?);
    noted(join_halves(cx, left, right), failed)
}

#[inline(always)]
fn noted<T>(result: Result<T>, failed: &Cell<Option<Error>>) -> Option<T> {
    result.map_err(|e| failed.set(Some(e))).ok()
}

#[inline(always)]
fn join_halves<'cx>(
    cx: &'cx Cx<'_>,
    left: Gc<'_, Node>,
    right: Gc<'_, Node>,
) -> Result<Gc<'cx, Node>> {
    let node = cx.alloc(Node::default())?;
    node.left.store(cx, Some(left));
    node.right.store(cx, Some(right));
    Ok(node)
}

/// Nodes of a tree. Recursive: for small depths.
pub fn count(cx: &Cx<'_>, node: Gc<'_, Node>) -> u64 {
    match (node.left.load(cx), node.right.load(cx)) {
        (Some(left), Some(right)) => 1 + count(cx, left) + count(cx, right),
        _ => 1,
    }
}

/// Nodes that a tree of `depth` must have.
pub fn nodes(depth: u32) -> u64 {
    (2 << depth) - 1
}

/// Adds the kinds of this workload.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .with::<TreesTask>()
        .with::<Build>()
        .with::<Count>()
        .with::<Churn>()
}

/// The error of a task whose part was given up.
fn part_failed(what: &str) -> Error {
    Error::Task {
        what: format!("{what} was given up"),
    }
}

/// A result that must be there once its join is over.
///
/// # Errors
/// [`Error::Task`] when the task behind it was given up.
pub(super) fn result_of<'cx, T: Shared>(
    cx: &'cx Cx<'_>,
    join: Gc<'_, Join<T>>,
    what: &str,
) -> Result<Gc<'cx, T>> {
    join.result(cx).ok_or_else(|| part_failed(what))
}

/// Builds a tree.
#[derive(Shared)]
pub struct Build {
    depth: u32,
    run: Slot<Run>,
    left: Slot<Join<Node>>,
    right: Slot<Join<Node>>,
}

fn build<'cx>(cx: &'cx Cx<'_>, run: Option<Gc<'_, Run>>, depth: u32) -> Result<Gc<'cx, Build>> {
    let task = cx.alloc(Build {
        depth,
        run: Slot::nil(),
        left: Slot::nil(),
        right: Slot::nil(),
    })?;
    task.run.store(cx, run);
    Ok(task)
}

impl Task for Build {
    const KIND: &'static str = "trees.build";
    type Output = Node;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let run = present(cx.context().run.load(cx))?;
        if run.is_cancelled() {
            return Ok(Next::Done(None));
        }
        run::or_cancel(run, cx.is_last_try(), build_on(cx))
    }

    fn describe(&self, _cx: &Cx<'_>) -> String {
        format!("depth {}", self.depth)
    }
}

fn build_on<'a>(cx: &'a Step<'_, Build>) -> Result<Next<'a, Build>> {
    let me = cx.context();
    if me.depth <= STEP_DEPTH {
        return Ok(Next::Done(Some(bottom_up(cx, me.depth)?)));
    }
    let (Some(left), Some(right)) = (me.left.load(cx), me.right.load(cx)) else {
        let run = me.run.load(cx);
        let next = build(cx, run, me.depth)?;
        let left = cx.spawn_join(build(cx, run, me.depth - 1)?)?;
        let right = cx.spawn_join(build(cx, run, me.depth - 1)?)?;
        next.left.store(cx, Some(left));
        next.right.store(cx, Some(right));
        return Ok(Next::Join(next, left.to_join()));
    };
    for half in [left, right] {
        if !half.is_over() {
            return Ok(Next::Join(me, half.to_join()));
        }
    }
    let left = result_of(cx, left, "half of a tree")?;
    let right = result_of(cx, right, "half of a tree")?;
    Ok(Next::Done(Some(join_halves(cx, left, right)?)))
}

/// Counts a tree.
#[derive(Shared)]
pub struct Count {
    depth: u32,
    node: Slot<Node>,
    left: Slot<Join<Number>>,
    right: Slot<Join<Number>>,
}

fn count_task<'cx>(cx: &'cx Cx<'_>, node: Gc<'_, Node>, depth: u32) -> Result<Gc<'cx, Count>> {
    let task = cx.alloc(Count {
        depth,
        node: Slot::nil(),
        left: Slot::nil(),
        right: Slot::nil(),
    })?;
    task.node.store(cx, Some(node));
    Ok(task)
}

impl Task for Count {
    const KIND: &'static str = "trees.count";
    type Output = Number;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let node = present(me.node.load(cx))?;
        if me.depth <= STEP_DEPTH {
            let value = count(cx, node);
            return Ok(Next::Done(Some(cx.alloc(Number { value })?)));
        }
        let (Some(left), Some(right)) = (me.left.load(cx), me.right.load(cx)) else {
            let next = count_task(cx, node, me.depth)?;
            let half = |slot: &Slot<Node>| {
                let half = present(slot.load(cx))?;
                cx.spawn_join(count_task(cx, half, me.depth - 1)?)
            };
            let left = half(&node.left)?;
            next.left.store(cx, Some(left));
            next.right.store(cx, Some(half(&node.right)?));
            return Ok(Next::Join(next, left.to_join()));
        };
        let mut value = 1;
        for half in [left, right] {
            if !half.is_over() {
                return Ok(Next::Join(me, half.to_join()));
            }
            value += result_of(cx, half, "counting half of a tree")?.value;
        }
        Ok(Next::Done(Some(cx.alloc(Number { value })?)))
    }
}

/// Builds, counts and drops trees of one depth.
#[derive(Shared, Default)]
pub struct Churn {
    left: u64,
    sum: u64,
    depth: u32,
    run: Slot<Run>,
    building: Slot<Join<Node>>,
    counting: Slot<Join<Number>>,
}

impl Task for Churn {
    const KIND: &'static str = "trees.churn";
    type Output = Number;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let run = present(me.run.load(cx))?;
        if run.is_cancelled() {
            return Ok(Next::Done(None));
        }
        let next = if me.left == 0 {
            cx.alloc(Number { value: me.sum })
                .map(|n| Next::Done(Some(n)))
        } else if me.depth <= STEP_DEPTH {
            churn_many(cx)
        } else {
            churn_one(cx)
        };
        run::or_cancel(run, cx.is_last_try(), next)
    }

    fn describe(&self, _cx: &Cx<'_>) -> String {
        format!("{} trees of depth {}", self.left, self.depth)
    }
}

/// The next context of a share.
fn churn_context<'cx>(
    cx: &'cx Cx<'_>,
    run: Option<Gc<'_, Run>>,
    depth: u32,
    left: u64,
    sum: u64,
) -> Result<Gc<'cx, Churn>> {
    let task = cx.alloc(Churn {
        left,
        sum,
        depth,
        ..Churn::default()
    })?;
    task.run.store(cx, run);
    Ok(task)
}

/// As many whole trees as one of depth [`STEP_DEPTH`] has nodes.
fn churn_many<'a>(cx: &'a Step<'_, Churn>) -> Result<Next<'a, Churn>> {
    let me = cx.context();
    let n = me.left.min(1 << (STEP_DEPTH - me.depth));
    let mut sum = me.sum;
    for _ in 0..n {
        sum += count(cx, bottom_up(cx, me.depth)?);
    }
    let next = churn_context(cx, me.run.load(cx), me.depth, me.left - n, sum)?;
    Ok(Next::Continue(next))
}

/// One deep tree: built by a task, then counted by one.
fn churn_one<'a>(cx: &'a Step<'_, Churn>) -> Result<Next<'a, Churn>> {
    let me = cx.context();
    let run = me.run.load(cx);
    if let Some(join) = me.counting.load(cx) {
        if !join.is_over() {
            return Ok(Next::Join(me, join.to_join()));
        }
        let n = result_of(cx, join, "counting a tree")?.value;
        let next = churn_context(cx, run, me.depth, me.left - 1, me.sum + n)?;
        return Ok(Next::Continue(next));
    }
    let next = churn_context(cx, run, me.depth, me.left, me.sum)?;
    let Some(join) = me.building.load(cx) else {
        let join = cx.spawn_join(build(cx, run, me.depth)?)?;
        next.building.store(cx, Some(join));
        return Ok(Next::Join(next, join.to_join()));
    };
    if !join.is_over() {
        return Ok(Next::Join(me, join.to_join()));
    }
    let tree = result_of(cx, join, "building a tree")?;
    let join = cx.spawn_join(count_task(cx, tree, me.depth)?)?;
    next.counting.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

/// The root task.
#[derive(Shared, Default)]
pub struct TreesTask {
    stage: u32,
    /// Of the trees of step 3 that are being made.
    depth: u32,
    /// Nodes counted so far, in all.
    items: u64,
    /// Trees counted so far.
    trees: u64,
    ok: u32,
    run: Slot<Run>,
    building: Slot<Join<Node>>,
    counting: Slot<Join<Number>>,
    long_lived: Slot<Node>,
    shares: Slot<Array<Slot<Join<Number>>>>,
    text: Slot<GcStr>,
}

mod stage {
    pub const BUILD_STRETCH: u32 = 0;
    pub const COUNT_STRETCH: u32 = 1;
    pub const BUILD_LONG_LIVED: u32 = 2;
    pub const CHURN: u32 = 3;
    pub const COUNT_LONG_LIVED: u32 = 4;
}

/// The context of the root task of `run`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(cx: &'cx Cx<'_>, run: Gc<'_, Run>) -> Result<Gc<'cx, TreesTask>> {
    let task = cx.alloc(TreesTask {
        ok: 1,
        ..TreesTask::default()
    })?;
    task.run.store(cx, Some(run));
    Ok(task)
}

/// Depth of the long-lived tree: the original makes it at least 6.
fn max_depth(run: &Run) -> u32 {
    run.depth.max(MIN_DEPTH + 2)
}

fn trees_of(depth: u32, max: u32) -> u64 {
    1 << (max - depth + MIN_DEPTH)
}

impl Task for TreesTask {
    const KIND: &'static str = "trees";
    type Output = Outcome;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let run = present(me.run.load(cx))?;
        match waits(cx)? {
            Some(Wait::For(join)) => return Ok(Next::Join(me, join)),
            Some(Wait::Failed) => {
                return Ok(Next::Done(run::cancel(cx, run, "a tree was given up")?));
            }
            None => {}
        }
        cx.segment()
            .progress_set(progress::TOTAL, total_trees(max_depth(&run)));
        match me.stage {
            stage::BUILD_STRETCH => build_next(cx, max_depth(&run) + 1, stage::COUNT_STRETCH),
            stage::COUNT_STRETCH => count_next(cx, max_depth(&run) + 1),
            stage::BUILD_LONG_LIVED => stretched(cx),
            stage::CHURN => churn(cx),
            _ => finish(cx),
        }
    }

    fn describe(&self, cx: &Cx<'_>) -> String {
        self.run
            .load(cx)
            .map_or(String::new(), |run| format!("depth {}", run.depth))
    }
}

fn total_trees(max: u32) -> u64 {
    2 + (MIN_DEPTH..=max)
        .step_by(2)
        .map(|d| trees_of(d, max))
        .sum::<u64>()
}

enum Wait<'a> {
    For(JoinRef<'a>),
    Failed,
}

/// What the context waits for, if any of it is not over.
fn waits<'a>(cx: &'a Step<'_, TreesTask>) -> Result<Option<Wait<'a>>> {
    let me = cx.context();
    if let Some(join) = me.building.load(cx)
        && let Some(wait) = wait(cx, join)
    {
        return Ok(Some(wait));
    }
    if let Some(join) = me.counting.load(cx)
        && let Some(wait) = wait(cx, join)
    {
        return Ok(Some(wait));
    }
    if let Some(shares) = me.shares.load(cx) {
        for slot in shares.to_ref().iter() {
            if let Some(wait) = wait(cx, present(slot.load(cx))?) {
                return Ok(Some(wait));
            }
        }
    }
    Ok(None)
}

fn wait<'a, T: Shared>(cx: &'a Cx<'_>, join: Gc<'a, Join<T>>) -> Option<Wait<'a>> {
    // Over without a result: cancelled.
    if join.is_over() && join.result(cx).is_none() {
        Some(Wait::Failed)
    } else {
        (!join.is_over()).then(|| Wait::For(join.to_join()))
    }
}

/// A context for `stage` that keeps what lasts, with a line more of text and `trees` more trees counted.
fn next<'a>(cx: &'a Step<'_, TreesTask>, stage: u32, line: Line) -> Result<Gc<'a, TreesTask>> {
    let me = cx.context();
    let next = cx.alloc(TreesTask {
        stage,
        depth: me.depth,
        items: me.items + line.nodes,
        trees: me.trees + line.trees,
        ok: me.ok & u32::from(line.ok),
        ..TreesTask::default()
    })?;
    next.run.store(cx, me.run.load(cx));
    next.long_lived.store(cx, me.long_lived.load(cx));
    let mut text = me
        .text
        .load(cx)
        .map_or(Vec::new(), |t| t.as_bytes().to_vec());
    text.extend_from_slice(line.text.as_bytes());
    next.text.store(cx, Some(cx.str(text)?));
    cx.segment().progress_set(progress::DONE, next.trees);
    cx.segment().progress_set(progress::ITEMS, next.items);
    Ok(next)
}

/// What a stage adds to the report.
struct Line {
    text: String,
    nodes: u64,
    trees: u64,
    ok: bool,
}

impl Line {
    fn none() -> Line {
        Line {
            text: String::new(),
            nodes: 0,
            trees: 0,
            ok: true,
        }
    }
}

fn build_next<'a>(
    cx: &'a Step<'_, TreesTask>,
    depth: u32,
    stage: u32,
) -> Result<Next<'a, TreesTask>> {
    let next = next(cx, stage, Line::none())?;
    let join = cx.spawn_join(build(cx, cx.context().run.load(cx), depth)?)?;
    next.building.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

fn count_next<'a>(cx: &'a Step<'_, TreesTask>, depth: u32) -> Result<Next<'a, TreesTask>> {
    let next = next(cx, stage::BUILD_LONG_LIVED, Line::none())?;
    let tree = result_of(
        cx,
        present(cx.context().building.load(cx))?,
        "the stretch tree",
    )?;
    let join = cx.spawn_join(count_task(cx, tree, depth)?)?;
    next.counting.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

fn stretched<'a>(cx: &'a Step<'_, TreesTask>) -> Result<Next<'a, TreesTask>> {
    let me = cx.context();
    let depth = max_depth(&*present(me.run.load(cx))?) + 1;
    let check = result_of(cx, present(me.counting.load(cx))?, "the stretch tree")?.value;
    let line = Line {
        text: format!("stretch tree of depth {depth}\t check: {check}\n"),
        nodes: check,
        trees: 1,
        ok: check == nodes(depth),
    };
    let next = next(cx, stage::CHURN, line)?;
    let join = cx.spawn_join(build(cx, me.run.load(cx), depth - 1)?)?;
    next.building.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

/// Takes what the last depth has left, and begins the next.
fn churn<'a>(cx: &'a Step<'_, TreesTask>) -> Result<Next<'a, TreesTask>> {
    let me = cx.context();
    let max = max_depth(&*present(me.run.load(cx))?);
    let (line, depth) = match me.shares.load(cx) {
        None => (Line::none(), MIN_DEPTH),
        Some(shares) => (churned(cx, shares, max)?, me.depth + 2),
    };
    let over = depth > max;
    let next = next(
        cx,
        if over {
            stage::COUNT_LONG_LIVED
        } else {
            stage::CHURN
        },
        line,
    )?;
    if let Some(join) = me.building.load(cx) {
        let tree = result_of(cx, join, "the long-lived tree")?;
        next.long_lived.store(cx, Some(tree));
    }
    if over {
        let tree = present(next.long_lived.load(cx))?;
        let join = cx.spawn_join(count_task(cx, tree, max)?)?;
        next.counting.store(cx, Some(join));
        return Ok(Next::Join(next, join.to_join()));
    }
    let with_depth = at_depth(cx, next, depth)?;
    with_depth
        .shares
        .store(cx, Some(spawn_shares(cx, depth, trees_of(depth, max))?));
    Ok(Next::Continue(with_depth))
}

fn at_depth<'a>(
    cx: &'a Step<'_, TreesTask>,
    from: Gc<'a, TreesTask>,
    depth: u32,
) -> Result<Gc<'a, TreesTask>> {
    let next = cx.alloc(TreesTask {
        stage: from.stage,
        depth,
        items: from.items,
        trees: from.trees,
        ok: from.ok,
        ..TreesTask::default()
    })?;
    next.run.store(cx, from.run.load(cx));
    next.long_lived.store(cx, from.long_lived.load(cx));
    next.text.store(cx, from.text.load(cx));
    Ok(next)
}

fn spawn_shares<'a>(
    cx: &'a Step<'_, TreesTask>,
    depth: u32,
    trees: u64,
) -> Result<Gc<'a, Array<Slot<Join<Number>>>>> {
    let shares = cx.array::<Slot<Join<Number>>>(SHARES as usize)?;
    for (i, slot) in shares.iter().enumerate() {
        let run = cx.context().run.load(cx);
        let task = churn_context(cx, run, depth, share(trees, i as u64), 0)?;
        slot.store(cx, Some(cx.spawn_join(task)?));
    }
    Ok(shares)
}

/// Part `i` of `n` trees, cut into [`SHARES`].
fn share(n: u64, i: u64) -> u64 {
    n * (i + 1) / u64::from(SHARES) - n * i / u64::from(SHARES)
}

fn churned(
    cx: &Step<'_, TreesTask>,
    shares: Gc<'_, Array<Slot<Join<Number>>>>,
    max: u32,
) -> Result<Line> {
    let mut check = 0;
    for slot in shares.iter() {
        check += result_of(cx, present(slot.load(cx))?, "trees of one depth")?.value;
    }
    let depth = cx.context().depth;
    let trees = trees_of(depth, max);
    Ok(Line {
        text: format!("{trees}\t trees of depth {depth}\t check: {check}\n"),
        nodes: check,
        trees,
        ok: check == trees * nodes(depth),
    })
}

fn finish<'a>(cx: &'a Step<'_, TreesTask>) -> Result<Next<'a, TreesTask>> {
    let me = cx.context();
    let max = max_depth(&*present(me.run.load(cx))?);
    let check = result_of(cx, present(me.counting.load(cx))?, "the long-lived tree")?.value;
    let line = Line {
        text: format!("long lived tree of depth {max}\t check: {check}\n"),
        nodes: check,
        trees: 1,
        ok: check == nodes(max),
    };
    let last = next(cx, me.stage, line)?;
    let text = present(last.text.load(cx))?;
    let outcome = cx.alloc(Outcome {
        hash: fnv1a(FNV_START, text.as_bytes()),
        ok: last.ok,
        ..Outcome::default()
    })?;
    outcome.text.store(cx, Some(text));
    Ok(Next::Done(Some(outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for n in [0, 1, 3, 16, 1 << 20] {
            assert_eq!((0..u64::from(SHARES)).map(|i| share(n, i)).sum::<u64>(), n);
        }
        assert_eq!((nodes(0), nodes(22)), (1, 8_388_607));
    }
}
