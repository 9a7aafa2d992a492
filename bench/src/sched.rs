//! `sched`: spawn and run, with effects and crash safety. A parent's steps each spawn a batch of tasks without a result;
//! `spawn_join` waits for each.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use coheap::{Idle, Join, Kinds, Next, P, Shared, Slot, Step, Task};
use serde_json::json;

use crate::heap::{Children, Clock, Flags, Result, kinds as all_kinds, median, round, segment};

/// Tasks spawned by one step.
const BATCH: u64 = 100;

/// Where the tasks of one parent are counted.
#[derive(Shared)]
pub struct Counter {
    done: AtomicU64,
}

/// Does nothing but count itself.
#[derive(Shared)]
pub struct Leaf {
    counter: Slot<Counter>,
}

impl Task for Leaf {
    const KIND: &'static str = "bench.leaf";
    type Output = Counter;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        if let Some(counter) = cx.context().counter.load(cx) {
            counter.done.fetch_add(1, Relaxed);
        }
        Ok(Next::Done(None))
    }
}

/// Spawns leaves.
#[derive(Shared)]
pub struct Spawner {
    left: u64,
    counter: Slot<Counter>,
}

impl Task for Spawner {
    const KIND: &'static str = "bench.spawner";
    type Output = Counter;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let counter = me.counter.load(cx);
        if me.left == 0 {
            return Ok(Next::Done(counter));
        }
        let n = me.left.min(BATCH);
        for _ in 0..n {
            let leaf = cx.alloc(Leaf {
                counter: Slot::nil(),
            })?;
            leaf.counter.store(cx, counter);
            cx.spawn(leaf)?;
        }
        let next = cx.alloc(Spawner {
            left: me.left - n,
            counter: Slot::nil(),
        })?;
        next.counter.store(cx, counter);
        Ok(Next::Continue(next))
    }
}

/// Spawns a leaf, waits for it, and again.
#[derive(Shared)]
pub struct Waiter {
    left: u64,
    join: Slot<Join<Counter>>,
}

impl Task for Waiter {
    const KIND: &'static str = "bench.waiter";
    type Output = Counter;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if let Some(join) = me.join.load(cx).filter(|join| !join.is_over()) {
            return Ok(Next::Join(me, join.to_join()));
        }
        if me.left == 0 {
            return Ok(Next::Done(None));
        }
        let next = cx.alloc(Waiter {
            left: me.left - 1,
            join: Slot::nil(),
        })?;
        let join = cx.spawn_join(cx.alloc(Leaf {
            counter: Slot::nil(),
        })?)?;
        next.join.store(cx, Some(join));
        Ok(Next::Join(next, join.to_join()))
    }
}

/// Yields until none is left.
#[derive(Shared)]
pub struct Yielder {
    left: AtomicU64,
}

impl Task for Yielder {
    const KIND: &'static str = "bench.yielder";
    type Output = Counter;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if me.left.load(Relaxed) == 0 {
            return Ok(Next::Done(None));
        }
        me.left.fetch_sub(1, Relaxed);
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .with::<Leaf>()
        .with::<Spawner>()
        .with::<Waiter>()
        .with::<Yielder>()
}

fn until_idle(p: &mut P, kinds: &Kinds) -> Result<()> {
    p.run(kinds, |p, idle| {
        let status = idle.then(|| p.segment().status());
        if status.is_some_and(|s| s.tasks[..3].iter().sum::<u64>() == 0) {
            Idle::Return
        } else {
            Idle::Continue
        }
    })?;
    Ok(())
}

/// Flags: `--n` tasks, `--procs`, `--reps`.
pub fn run(flags: &Flags) -> Result<()> {
    let n = flags.number("--n", 1_000_000);
    let procs = flags.number("--procs", 1) as usize;
    let segment = segment(2048, 100)?;
    let mut p = P::lease(segment.clone())?;
    let children = Children::start(&segment, procs - 1)?;
    let kinds = all_kinds();
    let (mut spawn, mut join, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..flags.number("--reps", 5) {
        let clock = Clock::start();
        p.submit(|cx| {
            let spawner = cx.alloc(Spawner {
                left: n,
                counter: Slot::nil(),
            })?;
            let counter = cx.alloc(Counter {
                done: AtomicU64::new(0),
            })?;
            spawner.counter.store(cx, Some(counter));
            cx.root("counter")?.set(cx, Some(counter));
            Ok(spawner)
        })?;
        until_idle(&mut p, &kinds)?;
        spawn.push(clock.ns(procs) / n as f64);
        let done = p.enter(|cx| {
            let counter = cx.root::<Counter>("counter")?.get(cx);
            Ok::<_, coheap::Error>(counter.map(|c| c.done.load(Relaxed)))
        })?;
        assert_eq!(black_box(done), Some(n), "tasks run");
        let clock = Clock::start();
        p.submit(|cx| {
            cx.alloc(Waiter {
                left: n / 4,
                join: Slot::nil(),
            })
        })?;
        until_idle(&mut p, &kinds)?;
        join.push(clock.ns(procs) / (n / 4) as f64);
        let clock = Clock::start();
        for _ in 0..2 {
            p.submit(|cx| {
                cx.alloc(Yielder {
                    left: AtomicU64::new(n / 2),
                })
            })?;
        }
        until_idle(&mut p, &kinds)?;
        again.push(clock.ns(procs) / n as f64);
    }
    children.stop()?;
    println!(
        "{}",
        json!({
            "bench": "sched", "procs": procs, "n": n,
            "spawn_run_ns": round(median(spawn)),
            "spawn_join_ns": round(median(join)),
            "yield_ns": round(median(again)),
        })
    );
    Ok(())
}
