//! `map`: get and put in one map that every process reads and changes: 100,000 keys of eight bytes, values of eight bytes, keys drawn
//! evenly, with 0, 10 and 50 % puts, by one process and by two. The loop of `go/smap`. A put allocates its value, and the old one is
//! collected: that is in the time.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use coheap::{GcMap, Idle, Kinds, Next, P, Shared, Slot, Step, Task};
use serde_json::{Value as Json, json};

use crate::heap::{Children, Flags, Result, kinds as all_kinds, median, now_ns, round, segment};

const KEYS: u64 = 100_000;
/// Operations of one step.
const STEP: u64 = 10_000;

/// What a key maps to.
#[derive(Shared)]
#[shared(name = "bench.map.Value")]
struct Value {
    n: u64,
}

/// What the named root holds.
#[derive(Shared)]
#[shared(name = "bench.map.Top")]
struct Top {
    map: Slot<GcMap<Value>>,
}

/// One process's share of the operations.
#[derive(Shared)]
#[shared(name = "bench.map.Client")]
pub struct Client {
    left: AtomicU64,
    seed: AtomicU64,
    found: AtomicU64,
    put_percent: u64,
    map: Slot<GcMap<Value>>,
}

impl Task for Client {
    const KIND: &'static str = "bench.client";
    type Output = Client;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let left = me.left.load(Relaxed);
        if left == 0 {
            return Ok(Next::Done(Some(me)));
        }
        let map = me.map.load(cx).expect("set when it was made");
        let mut x = me.seed.load(Relaxed);
        let mut found = 0;
        let n = left.min(STEP);
        for _ in 0..n {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let key = (x >> 20) % KEYS;
            if x % 100 < me.put_percent {
                map.insert(cx, key.to_ne_bytes(), cx.alloc(Value { n: x })?)?;
                found += 1;
            } else {
                found += u64::from(
                    map.get(cx, key.to_ne_bytes())
                        .map(|v| black_box(v.n))
                        .is_some(),
                );
            }
        }
        me.seed.store(x, Relaxed);
        me.found.fetch_add(found, Relaxed);
        me.left.store(left - n, Relaxed);
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Client>()
}

/// Million operations per second, all processes together, and processor time of one, for each share of puts.
fn measure(procs: usize, n: u64, reps: u64, gc_percent: i32) -> Result<Json> {
    let segment = segment(1024, gc_percent)?;
    let mut p = P::lease(segment.clone())?;
    p.enter(|cx| {
        let cx = &*cx;
        let top = cx.alloc(Top { map: Slot::nil() })?;
        let map = GcMap::<Value>::new(cx)?;
        top.map.store(cx, Some(map));
        cx.root("top")?.set(cx, Some(top));
        for key in 0..KEYS {
            map.insert(cx, key.to_ne_bytes(), cx.alloc(Value { n: key })?)?;
        }
        Ok::<_, coheap::Error>(())
    })?;
    let children = Children::start(&segment, procs - 1)?;
    let mut line = json!({});
    for put_percent in [0, 10, 50] {
        let (mut rates, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..reps {
            let (started, cpu_ns) = (now_ns(), children.cpu_ns());
            let tasks = (0..procs as u64)
                .map(|i| {
                    p.submit(|cx| {
                        let client = cx.alloc(Client {
                            left: AtomicU64::new(n),
                            seed: AtomicU64::new(88_172_645_463_325_252 + i * 7919),
                            found: AtomicU64::new(0),
                            put_percent,
                            map: Slot::nil(),
                        })?;
                        let top = cx.root::<Top>("top")?.get(cx);
                        client.map.store(cx, top.and_then(|top| top.map.load(cx)));
                        Ok(client)
                    })
                })
                .collect::<coheap::Result<Vec<_>>>()?;
            p.run(&all_kinds(), |p, _| {
                let over = p.enter(|cx| tasks.iter().all(|t| t.is_over(cx)));
                if over { Idle::Return } else { Idle::Continue }
            })?;
            let operations = (n * procs as u64) as f64;
            rates.push(operations * 1e3 / (now_ns() - started) as f64);
            cpu.push((children.cpu_ns() - cpu_ns) as f64 / operations);
            p.enter(|cx| {
                for task in &tasks {
                    let found = task.result(cx).map(|c| c.found.load(Relaxed));
                    assert_eq!(found, Some(n), "keys found or put");
                }
            });
        }
        line[format!("put{put_percent}")] = json!(round(median(rates)));
        line[format!("put{put_percent}_cpu_ns")] = json!(round(median(cpu)));
    }
    children.stop()?;
    Ok(line)
}

/// Flags: `--n` operations per process, `--reps`, `--procs` the larger number of processes, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let n = flags.number("--n", 2_000_000);
    let reps = flags.number("--reps", 5);
    let procs = flags.number("--procs", 2) as usize;
    let percent = flags.number("--gc-percent", 100) as i32;
    let one = measure(1, n, reps, percent)?;
    let many = measure(procs, n, reps, percent)?;
    let mut line = json!({"bench": "map", "n": n, "procs": procs, "unit": "M ops/s in all"});
    for (name, figures) in [("one", one), ("many", many)] {
        for put in ["put0", "put10", "put50"] {
            for figure in [put.to_string(), format!("{put}_cpu_ns")] {
                line[format!("{name}_{figure}")] = figures[figure.as_str()].clone();
            }
        }
    }
    println!("{line}");
    Ok(())
}
