//! `threadtest`: pairs of allocating and giving up objects of 8 bytes, without work between (Berger's, as Ralloc, CXL-SHM and cxlalloc
//! run it): each of T workers makes 100,000 / T objects, drops them all, and again. Here workers are processes, an object is dropped
//! by clearing the only slot that refers to it, and the collector's share is in the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coheap::{Array, Idle, Kinds, Next, P, Shared, Slot, Step, Task};
use serde_json::json;

use crate::heap::{Children, Flags, Result, kinds as all_kinds, now_ns, round, segment};

/// Objects of all workers together that are live at once.
const OBJECTS: usize = 100_000;

/// 8 bytes.
#[derive(Shared, Default)]
#[shared(name = "bench.threadtest.Small")]
struct Small {
    x: u64,
}

/// One worker: a step is an iteration.
#[derive(Shared)]
#[shared(name = "bench.threadtest.Worker")]
pub struct Worker {
    left: AtomicU64,
    slots: Slot<Array<Slot<Small>>>,
}

impl Task for Worker {
    const KIND: &'static str = "bench.threadtest";
    type Output = Worker;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let left = me.left.load(Relaxed);
        if left == 0 {
            return Ok(Next::Done(Some(me)));
        }
        let slots = me.slots.load(cx).expect("set when it was made");
        for slot in slots.iter() {
            slot.store(cx, Some(cx.alloc(Small::default())?));
        }
        for slot in slots.iter() {
            slot.store(cx, None);
        }
        me.left.store(left - 1, Relaxed);
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Worker>()
}

/// Of each of `procs` workers: million pairs per second, processor time of a pair in nanoseconds; and cycles.
fn measure(procs: usize, iterations: u64, gc_percent: i32) -> Result<(f64, f64, u64)> {
    let segment = segment(1024, gc_percent)?;
    let mut p = P::lease(segment.clone())?;
    let children = Children::start(&segment, procs - 1)?;
    let objects = OBJECTS / procs;
    let (mut rate, mut cpu) = (0.0, 0.0);
    // The first pass meets the page faults.
    for iterations in [iterations / 10 + 1, iterations] {
        let (started, cpu_ns) = (now_ns(), children.cpu_ns());
        let tasks = (0..procs)
            .map(|_| {
                p.submit(|cx| {
                    let worker = cx.alloc(Worker {
                        left: AtomicU64::new(iterations),
                        slots: Slot::nil(),
                    })?;
                    worker.slots.store(cx, Some(cx.array(objects)?));
                    Ok(worker)
                })
            })
            .collect::<coheap::Result<Vec<_>>>()?;
        p.run(&all_kinds(), |p, _| {
            let over = p.enter(|cx| tasks.iter().all(|t| t.is_over(cx)));
            if over { Idle::Return } else { Idle::Continue }
        })?;
        let seconds = (now_ns() - started) as f64 / 1e9;
        let pairs = (iterations * objects as u64) as f64;
        rate = pairs / seconds / 1e6;
        cpu = (children.cpu_ns() - cpu_ns) as f64 / (pairs * procs as f64);
        p.enter(|cx| {
            let done = tasks.iter().filter(|t| t.result(cx).is_some()).count();
            assert_eq!(done, procs, "workers that ended in order");
        });
    }
    let cycles = segment.status().gc_cycles;
    children.stop()?;
    Ok((round(rate), round(cpu), cycles))
}

/// Flags: `--iterations`, `--procs` the larger number of workers, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let iterations = flags.number("--iterations", 1000);
    let procs = flags.number("--procs", 2) as usize;
    let percent = flags.number("--gc-percent", 100) as i32;
    let (one, one_cpu, one_cycles) = measure(1, iterations, percent)?;
    let (many, many_cpu, many_cycles) = measure(procs, iterations, percent)?;
    println!(
        "{}",
        json!({
            "bench": "threadtest", "iterations": iterations, "procs": procs,
            "one_worker_m_pairs_per_s": one, "one_worker_cpu_ns_per_pair": one_cpu, "one_worker_cycles": one_cycles,
            "each_worker_m_pairs_per_s": many, "cpu_ns_per_pair": many_cpu, "cycles": many_cycles, "all_m_pairs_per_s": round(many * procs as f64),
        })
    );
    Ok(())
}
