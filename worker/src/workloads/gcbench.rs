//! `gcbench`: the shape of Boehm's GCBench (after Ellis and Kovac).
//!
//! 1. A stretch tree of depth 18 is built from the leaves up, counted and dropped. 2. A long-lived tree of depth 16 is filled from its
//!    root down, and an array of 500,000 doubles is made; both stay. 3. For the depths 4, 6, ... 16 short-lived trees are made, half of
//!    the work from the root down, half from the leaves up; all together as many nodes per depth and direction as twice the stretch tree.
//! 4. The long-lived tree is counted, element 1000 of the array must be 1/1001.
//!
//! **If a process dies** its steps run again; node counts travel in contexts and results, so each counts once.
//! **Rejected:** taking the node of `trees`: GCBench's has two integers in it, and from the root down a node's references are stored
//! after it is reachable, which is what the write barrier is for.

use coheap::{Array, Cx, Gc, GcStr, Join, JoinRef, Kinds, Next, Result, Shared, Slot, Step, Task};

use super::{
    FNV_START, fnv1a, progress,
    run::{self, Outcome, Run, present},
    trees::{Number, result_of},
};

const STRETCH_DEPTH: u32 = 18;
const LONG_LIVED_DEPTH: u32 = 16;
const ARRAY_SIZE: usize = 500_000;
const MIN_DEPTH: u32 = 4;
const MAX_DEPTH: u32 = 16;
/// Nodes after which a step of short-lived trees ends.
const STEP_NODES: u64 = 1 << 15;
/// Levels of the stretch tree above the parts that one step makes.
const STRETCH_TOP: u32 = 4;
/// Tasks that share the trees of one depth and direction.
const SHARES: usize = 2;

/// A node.
#[derive(Shared, Default)]
pub struct GcNode {
    left: Slot<GcNode>,
    right: Slot<GcNode>,
    i: i32,
    j: i32,
}

/// The depths of a run: the original's, or less for tests.
struct Depths {
    stretch: u32,
    long_lived: u32,
    max: u32,
}

fn depths(run: &Run) -> Depths {
    Depths {
        stretch: (STRETCH_DEPTH - run.depth).max(STRETCH_TOP),
        long_lived: LONG_LIVED_DEPTH - run.depth,
        max: (MAX_DEPTH - run.depth).max(MIN_DEPTH),
    }
}

fn nodes(depth: u32) -> u64 {
    (2 << depth) - 1
}

/// Trees of a depth and direction.
fn trees_of(depth: u32, stretch: u32) -> u64 {
    2 * nodes(stretch) / nodes(depth)
}

fn bottom_up<'cx>(cx: &'cx Cx<'_>, depth: u32) -> Result<Gc<'cx, GcNode>> {
    if depth == 0 {
        return cx.alloc(GcNode::default());
    }
    let (left, right) = (bottom_up(cx, depth - 1)?, bottom_up(cx, depth - 1)?);
    join_halves(cx, left, right)
}

fn join_halves<'cx>(
    cx: &'cx Cx<'_>,
    left: Gc<'_, GcNode>,
    right: Gc<'_, GcNode>,
) -> Result<Gc<'cx, GcNode>> {
    let node = cx.alloc(GcNode::default())?;
    node.left.store(cx, Some(left));
    node.right.store(cx, Some(right));
    Ok(node)
}

/// Fills a tree from its root down.
fn populate(cx: &Cx<'_>, depth: u32, node: Gc<'_, GcNode>) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    let (left, right) = (cx.alloc(GcNode::default())?, cx.alloc(GcNode::default())?);
    node.left.store(cx, Some(left));
    node.right.store(cx, Some(right));
    populate(cx, depth - 1, left)?;
    populate(cx, depth - 1, right)
}

fn top_down<'cx>(cx: &'cx Cx<'_>, depth: u32) -> Result<Gc<'cx, GcNode>> {
    let root = cx.alloc(GcNode::default())?;
    populate(cx, depth, root)?;
    Ok(root)
}

fn count(cx: &Cx<'_>, node: Gc<'_, GcNode>) -> u64 {
    match (node.left.load(cx), node.right.load(cx)) {
        (Some(left), Some(right)) => 1 + count(cx, left) + count(cx, right),
        _ => 1,
    }
}

/// Adds the kinds of this workload.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<GcBenchTask>().with::<Construct>()
}

/// Makes, counts and drops trees of one depth in one direction.
#[derive(Shared)]
pub struct Construct {
    left: u64,
    sum: u64,
    depth: u32,
    top_down: u32,
}

impl Task for Construct {
    const KIND: &'static str = "gcbench.construct";
    type Output = Number;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if me.left == 0 {
            return Ok(Next::Done(Some(cx.alloc(Number { value: me.sum })?)));
        }
        let n = me.left.min((STEP_NODES / nodes(me.depth)).max(1));
        let mut sum = me.sum;
        for _ in 0..n {
            let tree = if me.top_down != 0 {
                top_down(cx, me.depth)?
            } else {
                bottom_up(cx, me.depth)?
            };
            sum += count(cx, tree);
        }
        Ok(Next::Continue(cx.alloc(Construct {
            left: me.left - n,
            sum,
            depth: me.depth,
            top_down: me.top_down,
        })?))
    }

    fn describe(&self, _cx: &Cx<'_>) -> String {
        format!("{} trees of depth {}", self.left, self.depth)
    }
}

/// The root task.
#[derive(Shared, Default)]
pub struct GcBenchTask {
    /// Nodes counted so far, in all.
    items: u64,
    stage: u32,
    depth: u32,
    ok: u32,
    run: Slot<Run>,
    /// Parts of the stretch tree; later its upper levels.
    parts: Slot<Array<Slot<GcNode>>>,
    long_lived: Slot<GcNode>,
    array: Slot<Array<f64>>,
    top_down: Slot<Array<Slot<Join<Number>>>>,
    bottom_up: Slot<Array<Slot<Join<Number>>>>,
    text: Slot<GcStr>,
}

mod stage {
    pub const STRETCH: u32 = 0;
    pub const LONG_LIVED: u32 = 1;
    pub const CHURN: u32 = 2;
}

/// The context of the root task of `run`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(cx: &'cx Cx<'_>, run: Gc<'_, Run>) -> Result<Gc<'cx, GcBenchTask>> {
    let task = cx.alloc(GcBenchTask {
        ok: 1,
        ..GcBenchTask::default()
    })?;
    task.run.store(cx, Some(run));
    Ok(task)
}

impl Task for GcBenchTask {
    const KIND: &'static str = "gcbench";
    type Output = Outcome;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let run = present(me.run.load(cx))?;
        let depths = depths(&run);
        match me.stage {
            stage::STRETCH => stretch(cx, &depths),
            stage::LONG_LIVED => long_lived(cx, &depths),
            _ => match waits(cx)? {
                Some(Wait::For(join)) => Ok(Next::Join(me, join)),
                Some(Wait::Failed) => {
                    let what = "short-lived trees were given up";
                    Ok(Next::Done(run::cancel(cx, run, what)?))
                }
                None => churn(cx, &depths),
            },
        }
    }
}

/// What a stage adds to the report.
struct Line {
    text: String,
    nodes: u64,
    ok: bool,
}

/// A context for `stage` that keeps what lasts, with lines more of text.
fn next<'a>(
    cx: &'a Step<'_, GcBenchTask>,
    stage: u32,
    depth: u32,
    line: Line,
) -> Result<Gc<'a, GcBenchTask>> {
    let me = cx.context();
    let next = cx.alloc(GcBenchTask {
        items: me.items + line.nodes,
        stage,
        depth,
        ok: me.ok & u32::from(line.ok),
        ..GcBenchTask::default()
    })?;
    next.run.store(cx, me.run.load(cx));
    next.long_lived.store(cx, me.long_lived.load(cx));
    next.array.store(cx, me.array.load(cx));
    let mut text = me
        .text
        .load(cx)
        .map_or(Vec::new(), |t| t.as_bytes().to_vec());
    text.extend_from_slice(line.text.as_bytes());
    next.text.store(cx, Some(cx.str(text)?));
    cx.segment().progress_set(progress::ITEMS, next.items);
    Ok(next)
}

/// One more part of the stretch tree; when all are there, the levels above them.
fn stretch<'a>(cx: &'a Step<'_, GcBenchTask>, depths: &Depths) -> Result<Next<'a, GcBenchTask>> {
    let me = cx.context();
    let old = me.parts.load(cx);
    let done = old.map_or(0, |parts| parts.len());
    if done == 1 << STRETCH_TOP {
        return stretched(cx, present(old)?, depths);
    }
    let parts = cx.array::<Slot<GcNode>>(done + 1)?;
    for (i, slot) in parts.iter().take(done).enumerate() {
        slot.store(cx, present(old)?[i].load(cx));
    }
    parts[done].store(cx, Some(bottom_up(cx, depths.stretch - STRETCH_TOP)?));
    let line = Line {
        text: String::new(),
        nodes: 0,
        ok: true,
    };
    let next = next(cx, stage::STRETCH, 0, line)?;
    next.parts.store(cx, Some(parts));
    Ok(Next::Continue(next))
}

fn stretched<'a>(
    cx: &'a Step<'_, GcBenchTask>,
    parts: Gc<'a, Array<Slot<GcNode>>>,
    depths: &Depths,
) -> Result<Next<'a, GcBenchTask>> {
    let mut level: Vec<Gc<'_, GcNode>> = parts.iter().filter_map(|p| p.load(cx)).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| join_halves(cx, pair[0], pair[1]))
            .collect::<Result<_>>()?;
    }
    let n = count(cx, level[0]);
    let depth = depths.stretch;
    let line = Line {
        text: format!("stretch tree of depth {depth}\t nodes: {n}\n"),
        nodes: n,
        ok: n == nodes(depth),
    };
    Ok(Next::Continue(next(cx, stage::LONG_LIVED, 0, line)?))
}

fn long_lived<'a>(cx: &'a Step<'_, GcBenchTask>, depths: &Depths) -> Result<Next<'a, GcBenchTask>> {
    let tree = top_down(cx, depths.long_lived)?;
    let array = cx.array_from_fn::<f64>(ARRAY_SIZE, |i| 1.0 / (i + 1) as f64)?;
    let n = count(cx, tree);
    let line = Line {
        text: format!(
            "long-lived tree of depth {}\t nodes: {n}\nlong-lived array\t doubles: {}\n",
            depths.long_lived,
            array.len()
        ),
        nodes: n,
        ok: n == nodes(depths.long_lived),
    };
    let next = next(cx, stage::CHURN, MIN_DEPTH, line)?;
    next.long_lived.store(cx, Some(tree));
    next.array.store(cx, Some(array));
    Ok(Next::Continue(next))
}

enum Wait<'a> {
    For(JoinRef<'a>),
    Failed,
}

fn waits<'a>(cx: &'a Step<'_, GcBenchTask>) -> Result<Option<Wait<'a>>> {
    let me = cx.context();
    for joins in [me.top_down.load(cx), me.bottom_up.load(cx)]
        .into_iter()
        .flatten()
    {
        for slot in joins.iter() {
            let join = present(slot.load(cx))?;
            if join.has_failed() {
                return Ok(Some(Wait::Failed));
            }
            if !join.is_over() {
                return Ok(Some(Wait::For(join.to_join())));
            }
        }
    }
    Ok(None)
}

/// Takes what the last depth has left, and begins the next.
fn churn<'a>(cx: &'a Step<'_, GcBenchTask>, depths: &Depths) -> Result<Next<'a, GcBenchTask>> {
    let me = cx.context();
    let (line, depth) = match (me.top_down.load(cx), me.bottom_up.load(cx)) {
        (Some(down), Some(up)) => {
            let (down, up) = (sum(cx, down)?, sum(cx, up)?);
            let trees = trees_of(me.depth, depths.stretch);
            let line = Line {
                text: format!(
                    "{trees}\t trees of depth {}\t nodes top down: {down}\t bottom up: {up}\n",
                    me.depth
                ),
                nodes: down + up,
                ok: down == trees * nodes(me.depth) && up == down,
            };
            (line, me.depth + 2)
        }
        _ => (
            Line {
                text: String::new(),
                nodes: 0,
                ok: true,
            },
            MIN_DEPTH,
        ),
    };
    if depth > depths.max {
        return finish(cx, line, depths);
    }
    let next = next(cx, stage::CHURN, depth, line)?;
    let trees = trees_of(depth, depths.stretch);
    next.top_down
        .store(cx, Some(spawn_shares(cx, depth, trees, 1)?));
    next.bottom_up
        .store(cx, Some(spawn_shares(cx, depth, trees, 0)?));
    Ok(Next::Continue(next))
}

fn sum(cx: &Step<'_, GcBenchTask>, joins: Gc<'_, Array<Slot<Join<Number>>>>) -> Result<u64> {
    joins.iter().try_fold(0, |sum, slot| {
        let join = present(slot.load(cx))?;
        Ok(sum + result_of(cx, join, "short-lived trees")?.value)
    })
}

fn spawn_shares<'a>(
    cx: &'a Step<'_, GcBenchTask>,
    depth: u32,
    trees: u64,
    top_down: u32,
) -> Result<Gc<'a, Array<Slot<Join<Number>>>>> {
    let shares = cx.array::<Slot<Join<Number>>>(SHARES)?;
    let half = trees / 2;
    for (slot, left) in shares.iter().zip([half, trees - half]) {
        let task = cx.alloc(Construct {
            left,
            sum: 0,
            depth,
            top_down,
        })?;
        slot.store(cx, Some(cx.spawn_join(task)?));
    }
    Ok(shares)
}

fn finish<'a>(
    cx: &'a Step<'_, GcBenchTask>,
    line: Line,
    depths: &Depths,
) -> Result<Next<'a, GcBenchTask>> {
    let me = cx.context();
    let last = next(cx, me.stage, me.depth, line)?;
    let n = count(cx, present(me.long_lived.load(cx))?);
    let element = present(me.array.load(cx))?[1000];
    let right = element == 1.0 / 1001.0;
    let mut text = present(last.text.load(cx))?.as_bytes().to_vec();
    text.extend_from_slice(
        format!(
            "long-lived tree of depth {}\t nodes: {n}\nlong-lived array\t element 1000: {}\n",
            depths.long_lived,
            if right { "1/1001" } else { "wrong" }
        )
        .as_bytes(),
    );
    let ok = last.ok != 0 && right && n == nodes(depths.long_lived);
    let outcome = cx.alloc(Outcome {
        hash: fnv1a(FNV_START, &text),
        ok: ok.into(),
        ..Outcome::default()
    })?;
    outcome.text.store(cx, Some(cx.str(text)?));
    Ok(Next::Done(Some(outcome)))
}
