//! `mark`: a collection of a gigabyte of 64-byte nodes: a tree in memory order, the same shuffled, a random graph. The shapes of
//! the limit program and of `go/mark`.

use std::time::Instant;

use coheap::{Array, Cx, Gc, P, Shared, Slot};
use serde_json::json;

use crate::heap::{Children, Flags, Result, median, round, segment};

#[derive(Shared, Default)]
struct Node {
    e: [Slot<Node>; 4],
    x: [u64; 6],
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> coheap::Result<Gc<'a, Node>> {
    let node = cx.alloc(Node::default())?;
    if depth > 0 {
        node.e[0].store(cx, Some(tree(cx, depth - 1)?));
        node.e[1].store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

/// What the named root holds.
#[derive(Shared)]
struct Top {
    roots: Slot<Array<Slot<Node>>>,
}

/// Makes the objects; returns those that the roots hold.
fn build<'a>(cx: &'a Cx<'_>, kind: &str, n: usize) -> coheap::Result<Gc<'a, Array<Slot<Node>>>> {
    let roots = cx.array::<Slot<Node>>(64)?;
    if kind == "tree" {
        roots[0].store(cx, Some(tree(cx, (n + 1).ilog2() - 1)?));
        return Ok(roots);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut nodes = (0..n)
        .map(|_| cx.alloc(Node::default()))
        .collect::<coheap::Result<Vec<_>>>()?;
    rng.shuffle(&mut nodes);
    if kind == "shuffled" {
        for i in 0..n {
            for (k, child) in [2 * i + 1, 2 * i + 2].into_iter().enumerate() {
                nodes[i].e[k].store(cx, nodes.get(child).copied());
            }
        }
        roots[0].store(cx, Some(nodes[0]));
    } else {
        for node in &nodes {
            for slot in &node.e {
                slot.store(cx, Some(nodes[rng.usize(..n)]));
            }
        }
        for (slot, node) in roots.iter().zip(&nodes) {
            slot.store(cx, Some(*node));
        }
    }
    Ok(roots)
}

/// Fills the heap with `n` nodes, which a root holds.
pub fn fill(p: &mut P, kind: &str, n: usize) -> Result<()> {
    p.enter(|cx| {
        let cx = &*cx;
        let roots = build(cx, kind, n)?;
        let top = cx.alloc(Top { roots: Slot::nil() })?;
        top.roots.store(cx, Some(roots));
        cx.root("bench")?.set(cx, Some(top));
        Ok::<_, coheap::Error>(())
    })?;
    Ok(())
}

/// Flags: `--kind tree|shuffled|graph`, `--n` nodes, `--reps`, `--procs`: with two or more, the others help as idle workers.
///
/// `busiest_cpu_ns_per_object` is the processor time of the process that took most of it: what a collection would last if each had a
/// processor to itself. The quotient of one P's and this is the speed-up, however busy the machine is.
pub fn run(flags: &Flags) -> Result<()> {
    let kind = flags.text("--kind").unwrap_or("tree");
    let n = flags.number(
        "--n",
        if kind == "graph" {
            10_000_000
        } else {
            (1 << 24) - 1
        },
    ) as usize;
    let reps = flags.number("--reps", 5);
    let segment = segment(((n as u64 * 64) >> 20) + 512, -1)?;
    let mut p = P::lease(segment.clone())?;
    fill(&mut p, kind, n)?;
    // The first collection meets the page faults of the bitmaps.
    if !p.collect() {
        return Err("the collection did not end".into());
    }
    let procs = flags.number("--procs", 1) as usize;
    let children = Children::start(&segment, procs - 1)?;
    // The children meet their page faults here.
    p.collect();
    let (mut cpu, mut wall, mut mark) = (Vec::new(), Vec::new(), Vec::new());
    let mut busiest = Vec::new();
    for _ in 0..reps {
        let marked = segment.status().mark_ns.iter().sum::<u64>();
        let (started, cpu_ns, each) = (Instant::now(), children.cpu_ns(), children.each_cpu_ns());
        p.collect();
        cpu.push((children.cpu_ns() - cpu_ns) as f64);
        let used = children.each_cpu_ns().into_iter().zip(each);
        busiest.push(used.map(|(now, before)| now - before).max().unwrap_or(0) as f64);
        wall.push(started.elapsed().as_nanos() as f64);
        mark.push((segment.status().mark_ns.iter().sum::<u64>() - marked) as f64);
    }
    let live = segment.status().marked_live as f64 / 64.0;
    println!(
        "{}",
        json!({
            "bench": "mark", "kind": kind, "objects": live as u64,
            "mark_ns_per_object": round(median(mark) / live),
            "collect_cpu_ns_per_object": round(median(cpu) / live),
            "collect_wall_ns_per_object": round(median(wall) / live),
            "busiest_cpu_ns_per_object": round(median(busiest) / live), "procs": procs,
        })
    );
    children.stop()?;
    Ok(())
}
