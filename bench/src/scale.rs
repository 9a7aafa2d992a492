//! `scale`: what grows with what. Each table has a size, the processor time of all processes for it, the time of one unit, and the exponent
//! `e` of `time ~ size^e`, by least squares of the logarithms: 1 is linear, a unit costs the same at any size.
//!
//! 1. *Live heap*: a collection and its sweep, over trees of 64-byte nodes. 2. *Objects*: the same with 16-byte nodes. 3. *P's*: the
//! same number of allocations by 1 to 16 processes, with 64 MB live and with nothing; here the time should not grow at all. 4. *Tasks alive*: submitted, then all run; a heap
//! has 4 Mi task records at most. 5. *Tasks ever*: spawned and run, some hundred alive.

use coheap::{Cx, Gc, Idle, Kinds, P, Shared, Slot};

use crate::{
    alloc,
    heap::{Flags, Result, Workers, kinds as all_kinds, median, segment, thread_cpu_ns},
    mark, sched,
};

/// Nodes of 64 bytes that are live while P's are counted. With none, cycles follow each other at every few MB, and the table tells what a
/// handshake of that many processes costs on so many processors.
const PROCS_LIVE: usize = (1 << 20) - 1;

/// 16 bytes, the least with two references and something to tell.
#[derive(Shared)]
#[shared(name = "bench.scale.Small")]
struct Small {
    left: Slot<Small>,
    right: Slot<Small>,
    x: u64,
}

fn small_tree<'a>(cx: &'a Cx<'_>, depth: u32) -> coheap::Result<Gc<'a, Small>> {
    let node = cx.alloc(Small {
        left: Slot::nil(),
        right: Slot::nil(),
        x: 0,
    })?;
    if depth > 0 {
        node.left.store(cx, Some(small_tree(cx, depth - 1)?));
        node.right.store(cx, Some(small_tree(cx, depth - 1)?));
    }
    Ok(node)
}

/// One table.
struct Table {
    rows: Vec<(f64, f64)>,
}

impl Table {
    fn new(what: &str, unit: &str) -> Table {
        println!("\n| {what} | CPU ms | CPU ns {unit} |\n|---|---|---|");
        Table { rows: Vec::new() }
    }

    /// A row; printed at once, as the large ones take their time.
    fn row(&mut self, label: String, size: f64, units: f64, ns: f64) {
        println!("| {label} | {:.2} | {:.1} |", ns / 1e6, ns / units);
        self.rows.push((size.ln(), ns.ln()));
    }

    /// The exponent.
    fn end(self) {
        let n = self.rows.len() as f64;
        let mean = |f: fn(&(f64, f64)) -> f64| self.rows.iter().map(f).sum::<f64>() / n;
        let (x, y) = (mean(|r| r.0), mean(|r| r.1));
        let cross: f64 = self.rows.iter().map(|r| (r.0 - x) * (r.1 - y)).sum();
        let square: f64 = self.rows.iter().map(|r| (r.0 - x).powi(2)).sum();
        println!("| **exponent** | **{:.2}** | |", cross / square);
    }
}

/// Processor time of a collection and the sweep after it, nanoseconds.
fn collection(p: &mut P) -> Result<f64> {
    p.collect();
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = thread_cpu_ns();
        if !p.collect() {
            return Err("a collection did not end".into());
        }
        p.run(&Kinds::new(), |_, idle| {
            if idle { Idle::Return } else { Idle::Continue }
        })?;
        times.push((thread_cpu_ns() - started) as f64);
    }
    Ok(median(times))
}

fn live_heap(sizes_mb: &[u64]) -> Result<()> {
    let mut table = Table::new("live heap, MB", "an object");
    for &mb in sizes_mb {
        // A tree has a power of two of nodes, less one.
        let nodes = ((mb << 20) / 64 + 1).next_power_of_two() / 2 - 1;
        let mut p = P::lease(segment(mb * 2 + 256, -1)?)?;
        mark::fill(&mut p, "tree", nodes as usize)?;
        let ns = collection(&mut p)?;
        let size = (nodes * 64) as f64 / 1e6;
        table.row(format!("{size:.0}"), size, nodes as f64, ns);
    }
    table.end();
    Ok(())
}

fn objects(largest: u32) -> Result<()> {
    let mut table = Table::new("live objects of 16 bytes", "an object");
    for depth in (13..largest).step_by(3).chain([largest]) {
        let nodes = (1u64 << depth) - 1;
        let mut p = P::lease(segment((nodes >> 16) * 2 + 256, -1)?)?;
        p.enter(|cx| {
            let cx = &*cx;
            cx.root("bench")?.set(cx, Some(small_tree(cx, depth - 1)?));
            Ok::<_, coheap::Error>(())
        })?;
        let ns = collection(&mut p)?;
        table.row(nodes.to_string(), nodes as f64, nodes as f64, ns);
    }
    table.end();
    Ok(())
}

fn procs(flags: &Flags, what: &str, live: usize, objects: u64) -> Result<()> {
    let mut table = Table::new(what, "an object");
    let chosen = flags.number("--procs", 0) as usize;
    for procs in [1, 2, 4, 8, 16] {
        if chosen != 0 && procs != chosen {
            continue;
        }
        let mut workers = Workers::start(procs, flags)?;
        if live > 0 {
            mark::fill(workers.p(), "tree", live)?;
        }
        let each = objects / procs as u64;
        // The first time meets the page faults.
        let mut ns = 0.0;
        for _ in 0..2 {
            ns = workers
                .run(|cx, _| cx.alloc(alloc::refs16(each)), |_| {})?
                .cpu_ns as f64;
        }
        workers.stop()?;
        table.row(procs.to_string(), procs as f64, objects as f64, ns);
    }
    table.end();
    Ok(())
}

fn tasks_alive(counts: &[u64]) -> Result<()> {
    let mut table = Table::new("tasks alive at once", "a task");
    for &n in counts {
        let mut p = P::lease(segment(4096, 100)?)?;
        let started = thread_cpu_ns();
        for _ in 0..n {
            p.submit(|cx| cx.alloc(sched::Leaf::alone()))?;
        }
        sched::until_idle(&mut p, &all_kinds())?;
        let ns = (thread_cpu_ns() - started) as f64;
        table.row(n.to_string(), n as f64, n as f64, ns);
    }
    table.end();
    Ok(())
}

fn tasks_ever(counts: &[u64]) -> Result<()> {
    let mut table = Table::new("tasks ever", "a task");
    for &n in counts {
        let mut p = P::lease(segment(1024, 100)?)?;
        let started = thread_cpu_ns();
        sched::spawn_leaves(&mut p, n)?;
        sched::until_idle(&mut p, &all_kinds())?;
        let ns = (thread_cpu_ns() - started) as f64;
        table.row(n.to_string(), n as f64, n as f64, ns);
    }
    table.end();
    Ok(())
}

/// Flags: `--short`, which leaves the largest sizes out; `--only heap|objects|procs|live|empty|tasks` (of the P's: both tables,
/// or one of them); `--procs N`, only that row of the P's, for a profiler.
pub fn run(flags: &Flags) -> Result<()> {
    let short = flags.has("--short");
    let wants = |name: &str| flags.text("--only").is_none_or(|only| only == name);
    let cut = |sizes: &'static [u64], n: usize| if short { &sizes[..n] } else { sizes };
    if wants("heap") {
        live_heap(cut(&[16, 64, 256, 1024, 4096], 3))?;
    }
    if wants("objects") {
        // 8,191 objects, times eight, and so on: to a million, to 134 million.
        objects(if short { 20 } else { 27 })?;
    }
    let n = if short { 100_000_000 } else { 400_000_000 };
    if wants("procs") || wants("live") {
        procs(flags, "P's, 64 MB live", PROCS_LIVE, n)?;
    }
    if wants("procs") || wants("empty") {
        procs(flags, "P's, nothing live", 0, n)?;
    }
    if wants("tasks") {
        tasks_alive(cut(&[1_000, 10_000, 100_000, 1_000_000, 4_000_000], 3))?;
        tasks_ever(cut(&[1_000, 10_000, 100_000, 1_000_000, 10_000_000], 4))?;
    }
    Ok(())
}
