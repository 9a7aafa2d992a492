//! `larson`: a server's pattern (Larson and Krishnan's, as Ralloc runs it): each worker keeps 1,000 objects of 64 to 400 bytes and
//! replaces one drawn at random, 10,000 rounds of 1,000; then it hands its objects to a new worker and ends. Here workers are tasks, of which
//! any process may take the next generation, so objects die far from where they were made; for a fixed time.
//!
//! An operation is one object made and one given up, as in the published figures; the collector's share is in the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coheap::{Array, Kinds, Next, Shared, Slot, Step, Task};
use serde_json::json;

use crate::heap::{Flags, Result, Workers, now_ns, round};

/// Objects of a worker; and replacements of a step.
const OBJECTS: usize = 1000;
/// Sizes in bytes, the count in front included.
const BYTES: std::ops::Range<usize> = 64..400;

/// One generation of one worker.
#[derive(Shared)]
#[shared(name = "bench.larson.Worker")]
pub struct Worker {
    until_ns: u64,
    left: AtomicU64,
    seed: AtomicU64,
    operations: AtomicU64,
    objects: Slot<Array<Slot<Array<u64>>>>,
    generation_rounds: u64,
}

impl Task for Worker {
    const KIND: &'static str = "bench.larson";
    type Output = Worker;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if now_ns() >= me.until_ns {
            return Ok(Next::Done(Some(me)));
        }
        let objects = me.objects.load(cx).expect("set when it was made");
        let mut rng = fastrand::Rng::with_seed(me.seed.load(Relaxed));
        for _ in 0..OBJECTS {
            let object = cx.array::<u64>(rng.usize(BYTES) / 8 - 1)?;
            objects[rng.usize(..OBJECTS)].store(cx, Some(object));
        }
        me.seed.store(rng.get_seed(), Relaxed);
        me.operations.fetch_add(OBJECTS as u64, Relaxed);
        let left = me.left.load(Relaxed);
        if left > 1 {
            me.left.store(left - 1, Relaxed);
            return Ok(Next::Again);
        }
        let heir = cx.alloc(Worker {
            until_ns: me.until_ns,
            left: AtomicU64::new(me.generation_rounds),
            seed: AtomicU64::new(rng.get_seed()),
            operations: AtomicU64::new(me.operations.load(Relaxed)),
            objects: Slot::nil(),
            generation_rounds: me.generation_rounds,
        })?;
        heir.objects.store(cx, Some(objects));
        Ok(Next::Continue(heir))
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Worker>()
}

/// Million operations a second of all workers together, and processor time of one in nanoseconds.
fn measure(procs: usize, flags: &Flags) -> Result<(f64, f64)> {
    let mut workers = Workers::start(procs, flags)?;
    let until_ns = now_ns() + flags.number("--seconds", 10) * 1_000_000_000;
    let generation_rounds = flags.number("--rounds", 10_000);
    let mut operations = 0;
    let spent = workers.run(
        |cx, i| {
            let worker = cx.alloc(Worker {
                until_ns,
                left: AtomicU64::new(generation_rounds),
                // The seed of the published runs, and one for each.
                seed: AtomicU64::new(123 + i as u64),
                operations: AtomicU64::new(0),
                objects: Slot::nil(),
                generation_rounds,
            })?;
            worker.objects.store(cx, Some(cx.array(OBJECTS)?));
            Ok(worker)
        },
        |worker| operations += worker.operations.load(Relaxed),
    )?;
    workers.stop()?;
    let n = operations as f64;
    Ok((n * 1e3 / spent.wall_ns as f64, spent.cpu_ns as f64 / n))
}

/// Flags: `--seconds`, `--rounds` of a generation, `--procs` the larger number of workers, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let procs = flags.number("--procs", 2) as usize;
    let (one, many) = (measure(1, flags)?, measure(procs, flags)?);
    println!(
        "{}",
        json!({
            "bench": "larson", "procs": procs, "one_worker_m_ops_per_s": round(one.0), "one_worker_cpu_ns_per_op": round(one.1),
            "all_m_ops_per_s": round(many.0), "cpu_ns_per_op": round(many.1),
        })
    );
    Ok(())
}
