//! `pause`: what collecting 500 MB costs those who keep working. Two P's, each a process, run one task each; an operation is a step:
//! it makes a tree of 255 nodes of 64 bytes and puts it in the place of one that is live. The same shape and operation as `go/pause`.
//!
//! Two latencies are kept, in histograms in the heap. *Operation*: from the step's first instruction to its last, assists included:
//! what `go/pause` measures; with `--clock cpu` in processor time, which leaves out what other programs of the machine do. *Turn*: from the end of one operation to the end of the next: also the marking and sweeping that the
//! scheduler does between two steps, and whatever else kept the task from running. `heap_pause` are the delays that the collector
//! itself counted (a phase taken over, an assist), by powers of two.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coheap::{Array, Cx, Gc, Idle, Kinds, Next, P, Segment, Shared, Slot, Step, Task};
use serde_json::json;

use crate::{
    heap::{Children, Flags, Result, kinds as all_kinds, now_ns, round, segment},
    histogram::{BUCKETS, Histogram, bucket},
};

/// Levels of a live tree, of a new one, and from a live tree's root to what is replaced.
const LIVE_DEPTH: u32 = 16;
const NEW_DEPTH: u32 = 7;
const DOWN: u32 = LIVE_DEPTH - NEW_DEPTH - 1;
/// Bytes of a live tree.
const LIVE_BYTES: u64 = ((1 << (LIVE_DEPTH + 1)) - 1) * 64;
/// Objects of an operation.
const OBJECTS: u64 = (1 << (NEW_DEPTH + 1)) - 1;

/// 64 bytes.
#[derive(Shared, Default)]
#[shared(name = "bench.pause.Node")]
struct Node {
    e: [Slot<Node>; 2],
    x: [u64; 7],
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> coheap::Result<Gc<'a, Node>> {
    let node = cx.alloc(Node::default())?;
    if depth > 0 {
        node.e[0].store(cx, Some(tree(cx, depth - 1)?));
        node.e[1].store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

/// Replaces parts of the live trees until its time is over.
#[derive(Shared)]
#[shared(name = "bench.pause.Mutator")]
pub struct Mutator {
    until_ns: u64,
    /// 1: an operation is timed by its thread's processor time.
    by_cpu: u64,
    ended_ns: AtomicU64,
    seed: AtomicU64,
    live: Slot<Array<Slot<Node>>>,
    operation: Slot<Array<AtomicU64>>,
    turn: Slot<Array<AtomicU64>>,
}

impl Task for Mutator {
    const KIND: &'static str = "bench.mutator";
    type Output = Mutator;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let now = now_ns();
        let cx = &*cx;
        let me = cx.context();
        if now > me.until_ns {
            return Ok(Next::Done(Some(me)));
        }
        let clock = || {
            if me.by_cpu == 1 {
                cpu_now_ns()
            } else {
                now_ns()
            }
        };
        let began = clock();
        let new = tree(cx, NEW_DEPTH)?;
        // xorshift: which live tree, and which way down.
        let mut x = me.seed.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        me.seed.store(x, Relaxed);
        let live = me.live.load(cx).expect("set when it was made");
        let mut at = live[(x >> 40) as usize % live.len()].load(cx);
        for level in 0..DOWN {
            at = at.and_then(|node| node.e[(x >> level & 1) as usize].load(cx));
        }
        let at = at.expect("live trees are whole");
        at.e[(x >> DOWN & 1) as usize].store(cx, Some(new));
        let ended = now_ns();
        let last = me.ended_ns.swap(ended, Relaxed);
        let add = |histogram: &Slot<Array<AtomicU64>>, ns| {
            if let Some(counts) = histogram.load(cx) {
                counts[bucket(ns)].fetch_add(1, Relaxed);
            }
        };
        add(&me.operation, clock() - began);
        if last != 0 {
            add(&me.turn, ended - last);
        }
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Mutator>()
}

/// What the named root holds.
#[derive(Shared)]
#[shared(name = "bench.pause.Top")]
struct Top {
    live: Slot<Array<Slot<Node>>>,
}

/// Makes the live trees, and collects what that left behind.
fn build(p: &mut P, trees: usize) -> Result<()> {
    p.enter(|cx| {
        let cx = &*cx;
        let top = cx.alloc(Top { live: Slot::nil() })?;
        top.live.store(cx, Some(cx.array(trees)?));
        cx.root("top")?.set(cx, Some(top));
        Ok::<_, coheap::Error>(())
    })?;
    for i in 0..trees {
        p.enter(|cx| {
            let cx = &*cx;
            let live = cx
                .root::<Top>("top")?
                .get(cx)
                .and_then(|top| top.live.load(cx));
            live.expect("set just now")[i].store(cx, Some(tree(cx, LIVE_DEPTH)?));
            Ok::<_, coheap::Error>(())
        })?;
    }
    if p.collect() {
        Ok(())
    } else {
        Err("the collection did not end".into())
    }
}

/// The histogram of the heap's own pauses since `before`: quantiles are upper bounds of a power of two.
fn heap_pause(segment: &Segment, before: &[u64]) -> serde_json::Value {
    let counts: Vec<u64> = segment
        .status()
        .pause_hist
        .iter()
        .zip(before)
        .map(|(now, b)| now - b)
        .collect();
    let total: u64 = counts.iter().sum();
    let quantile = |q: f64| {
        let mut seen = 0;
        let at = counts.iter().position(|n| {
            seen += n;
            seen as f64 >= total as f64 * q && seen > 0
        });
        at.map_or(0.0, |b| (2u64 << b) as f64 / 1000.0)
    };
    json!({
        "n": total, "p50_us_below": quantile(0.5), "p99_us_below": quantile(0.99), "p999_us_below": quantile(0.999),
        "max_us_below": quantile(1.0),
    })
}

/// Processor time of this thread by its clock, in nanoseconds.
fn cpu_now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Flags: `--clock wall|cpu` of an operation's latency, `--seconds`, `--live-mb`, `--procs`, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let seconds = flags.number("--seconds", 8);
    let by_cpu = u64::from(flags.text("--clock") == Some("cpu"));
    let live_mb = flags.number("--live-mb", 512);
    let procs = flags.number("--procs", 2) as usize;
    let percent = flags.number("--gc-percent", 100) as i32;
    let trees = ((live_mb << 20) / LIVE_BYTES).max(1) as usize;
    let segment = segment(live_mb * 6 + 256, percent)?;
    let mut p = P::lease(segment.clone())?;
    build(&mut p, trees)?;
    let children = Children::start(&segment, procs - 1)?;
    let before = segment.status();
    let started = now_ns();
    let until_ns = started + seconds * 1_000_000_000;
    let tasks = (0..procs as u64)
        .map(|i| {
            p.submit(|cx| {
                let mutator = cx.alloc(Mutator {
                    until_ns,
                    by_cpu,
                    ended_ns: AtomicU64::new(0),
                    seed: AtomicU64::new(88_172_645_463_325_252 + i * 7919),
                    live: Slot::nil(),
                    operation: Slot::nil(),
                    turn: Slot::nil(),
                })?;
                let top = cx.root::<Top>("top")?.get(cx);
                mutator
                    .live
                    .store(cx, top.and_then(|top| top.live.load(cx)));
                mutator.operation.store(cx, Some(cx.array(BUCKETS)?));
                mutator.turn.store(cx, Some(cx.array(BUCKETS)?));
                Ok(mutator)
            })
        })
        .collect::<coheap::Result<Vec<_>>>()?;
    let mut turns = 0u64;
    p.run(&all_kinds(), |p, idle| {
        turns += 1;
        let look = idle || turns.is_multiple_of(256);
        if look && p.enter(|cx| tasks.iter().all(|t| t.is_over(cx))) {
            Idle::Return
        } else {
            Idle::Continue
        }
    })?;
    let elapsed = (now_ns() - started) as f64 / 1e9;
    let after = segment.status();
    let (operation, turn) = p.enter(|cx| {
        let cx = &*cx;
        let mut sums = [vec![0u64; BUCKETS], vec![0u64; BUCKETS]];
        for task in &tasks {
            let done = task.result(cx).expect("ended by its time");
            for (sum, slot) in sums.iter_mut().zip([&done.operation, &done.turn]) {
                let counts = slot.load(cx).expect("set when it was made");
                for (sum, n) in sum.iter_mut().zip(counts.iter()) {
                    *sum += n.load(Relaxed);
                }
            }
        }
        let [operation, turn] = sums.map(|s| Histogram::of_counts(s.into_iter()));
        (operation, turn)
    });
    let cycles = after.gc_cycles - before.gc_cycles;
    println!(
        "{}",
        json!({
            "bench": "pause", "procs": procs, "live_mb": (trees as u64 * LIVE_BYTES) >> 20, "seconds": round(elapsed), "clock": if by_cpu == 1 { "cpu" } else { "wall" },
            "m_objects_per_s": round((operation.count() * OBJECTS) as f64 / elapsed / 1e6),
            "operation": operation.to_json(), "turn": turn.to_json(), "heap_pause": heap_pause(&segment, &before.pause_hist),
            "operation_p99_us": operation.quantile(0.99) as f64 / 1e3, "operation_p9999_us": operation.quantile(0.9999) as f64 / 1e3,
            "gc_cycles": cycles, "peak_committed_mb": after.committed_bytes >> 20,
        })
    );
    children.stop()?;
    Ok(())
}
