//! `sh6bench` (MicroQuill's, as Ralloc and CXL-SHM run it): a call makes objects of nine sizes from 64 to 400 bytes, the small ones more
//! often, 1,250 in all, into a ring of references; when the ring is full a fifth of it stays, what lies before is dropped in the order of
//! making, what lies behind in reverse. 100,000 calls, shared among the workers; each has a ring of 100,000 / T.
//!
//! Dropping is clearing the only slot that refers to an object; the collector's share is in the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coheap::{Array, Cx, Gc, Kinds, Next, Shared, Slot, Step, Task};
use serde_json::json;

use crate::heap::{Flags, Result, Workers, round};

const SMALLEST: usize = 64;
const LARGEST: usize = 400;
/// Calls of one step.
const STEP_CALLS: u64 = 8;

/// The ring.
type Objects = Array<Slot<Array<u64>>>;

/// One worker.
#[derive(Shared)]
#[shared(name = "bench.sh6bench.Worker")]
pub struct Worker {
    left: AtomicU64,
    made: AtomicU64,
    /// Where the next object goes.
    at: AtomicU64,
    /// The part that stays.
    saved_from: AtomicU64,
    saved_to: AtomicU64,
    objects: Slot<Objects>,
}

/// A worker's ring in a step.
struct Ring<'cx> {
    objects: Gc<'cx, Objects>,
    at: usize,
    saved: std::ops::Range<usize>,
}

impl Ring<'_> {
    fn put(&mut self, cx: &Cx<'_>, bytes: usize) -> coheap::Result<()> {
        let object = cx.array::<u64>(bytes / 8 - 1)?;
        self.objects[self.at].store(cx, Some(object));
        self.at += 1;
        if self.at == self.saved.start {
            self.at = self.saved.end;
        }
        if self.at >= self.objects.len() {
            self.turn(cx);
        }
        Ok(())
    }

    /// The ring is full: another fifth stays.
    fn turn(&mut self, cx: &Cx<'_>) {
        let n = self.objects.len();
        let start = if self.saved.end >= n {
            0
        } else {
            self.saved.end
        };
        self.saved = start..(start + n / 5).min(n);
        let (before, behind) = (0..self.saved.start, (self.saved.end..n).rev());
        for i in before.chain(behind) {
            self.objects[i].store(cx, None);
        }
        self.at = if self.saved.start == 0 {
            self.saved.end
        } else {
            0
        };
    }
}

/// The sizes of one call, and how many of each.
fn sizes() -> impl Iterator<Item = (usize, usize)> {
    let bases = std::iter::successors(Some(SMALLEST), |b| Some(b * 3 / 2 + 1));
    let bases = bases.take_while(|&b| b < LARGEST);
    let halves = |b| std::iter::successors(Some(b), |s| Some(s / 2)).take_while(|&s| s >= SMALLEST);
    bases
        .flat_map(halves)
        .map(|s| (s, if s < 100 { 250 } else { 50 }))
}

impl Task for Worker {
    const KIND: &'static str = "bench.sh6bench";
    type Output = Worker;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let left = me.left.load(Relaxed);
        if left == 0 {
            return Ok(Next::Done(Some(me)));
        }
        let mut ring = Ring {
            objects: me.objects.load(cx).expect("set when it was made"),
            at: me.at.load(Relaxed) as usize,
            saved: me.saved_from.load(Relaxed) as usize..me.saved_to.load(Relaxed) as usize,
        };
        let calls = left.min(STEP_CALLS);
        for _ in 0..calls {
            for (bytes, n) in sizes() {
                for _ in 0..n {
                    ring.put(cx, bytes)?;
                }
                me.made.fetch_add(n as u64, Relaxed);
            }
        }
        me.at.store(ring.at as u64, Relaxed);
        me.saved_from.store(ring.saved.start as u64, Relaxed);
        me.saved_to.store(ring.saved.end as u64, Relaxed);
        me.left.store(left - calls, Relaxed);
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Worker>()
}

/// Seconds for all calls; processor time of an object in nanoseconds.
fn measure(procs: usize, flags: &Flags) -> Result<(f64, f64)> {
    let calls = flags.number("--calls", 100_000);
    let mut workers = Workers::start(procs, flags)?;
    let slots = calls as usize / procs;
    let mut made = 0;
    let spent = workers.run(
        |cx, _| {
            let worker = cx.alloc(Worker {
                left: AtomicU64::new(calls / procs as u64),
                made: AtomicU64::new(0),
                at: AtomicU64::new(0),
                saved_from: AtomicU64::new(slots as u64),
                saved_to: AtomicU64::new(slots as u64),
                objects: Slot::nil(),
            })?;
            worker.objects.store(cx, Some(cx.array(slots)?));
            Ok(worker)
        },
        |worker| made += worker.made.load(Relaxed),
    )?;
    workers.stop()?;
    Ok((
        spent.wall_ns as f64 / 1e9,
        spent.cpu_ns as f64 / made as f64,
    ))
}

/// Flags: `--calls`, `--procs` the larger number of workers, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let procs = flags.number("--procs", 2) as usize;
    let (one, many) = (measure(1, flags)?, measure(procs, flags)?);
    println!(
        "{}",
        json!({
            "bench": "sh6bench", "calls": flags.number("--calls", 100_000), "procs": procs,
            "one_worker_s": round(one.0), "one_worker_cpu_ns_per_object": round(one.1),
            "all_s": round(many.0), "cpu_ns_per_object": round(many.1),
        })
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_call_makes_1250_objects_of_nine_sizes() {
        let sizes: Vec<_> = super::sizes().collect();
        assert_eq!(sizes.len(), 9);
        assert_eq!(sizes.iter().map(|s| s.1).sum::<usize>(), 1250);
    }
}
