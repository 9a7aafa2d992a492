//! `sched`: spawn and run, with effects and crash safety. A parent's steps each spawn a batch of tasks without a result;
//! `spawn_join` waits for each. `steal` and `wake` are between processes: this one makes tasks and runs none of them, and looks at
//! their counter until the other has.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use coheap::{Gc, Idle, Join, Kinds, Next, P, Shared, Slot, Step, Task};
use rustix::thread::futex;
use serde_json::json;

use crate::heap::{
    Children, Clock, Flags, Result, kinds as all_kinds, median, now_ns, round, segment,
};

/// Tasks spawned by one step.
pub const BATCH: u64 = 100;

/// Where the tasks of one parent are counted.
#[derive(Shared)]
pub struct Counter {
    done: AtomicU64,
    /// When the first of a batch ran, and the last.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl Counter {
    fn count(&self) {
        match self.done.fetch_add(1, Relaxed) {
            0 => self.first_ns.store(now_ns(), Relaxed),
            n if n + 1 == BATCH => self.last_ns.store(now_ns(), Relaxed),
            _ => {}
        }
    }
}

/// Does nothing but count itself.
#[derive(Shared)]
pub struct Leaf {
    counter: Slot<Counter>,
}

impl Leaf {
    /// One that is not counted.
    pub fn alone() -> Leaf {
        Leaf {
            counter: Slot::nil(),
        }
    }
}

impl Task for Leaf {
    const KIND: &'static str = "bench.leaf";
    type Output = Counter;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        if let Some(counter) = cx.context().counter.load(cx) {
            counter.count();
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

/// Submits the task that spawns `n` leaves; they are counted under the root `counter`.
pub fn spawn_leaves(p: &mut P, n: u64) -> Result<()> {
    p.submit(|cx| {
        let spawner = cx.alloc(Spawner {
            left: n,
            counter: Slot::nil(),
        })?;
        let counter = cx.alloc(Counter {
            done: AtomicU64::new(0),
            first_ns: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
        })?;
        spawner.counter.store(cx, Some(counter));
        cx.root("counter")?.set(cx, Some(counter));
        Ok(spawner)
    })?;
    Ok(())
}

/// Leaves that have run since the last [`spawn_leaves`].
pub fn leaves_run(p: &mut P) -> Result<u64> {
    Ok(p.enter(|cx| {
        let counter = cx.root::<Counter>("counter")?.get(cx);
        Ok::<_, coheap::Error>(counter.map_or(0, |c| c.done.load(Relaxed)))
    })?)
}

/// Runs until no task is left.
pub fn until_idle(p: &mut P, kinds: &Kinds) -> Result<()> {
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

/// What another process needs for tasks that this one makes.
struct Across {
    /// From the first task's run to the last's, nanoseconds a task: stealing half again and again, and running.
    steal_run_ns: f64,
    /// From the submission of a task to a sleeping process until it has run, microseconds: p50, p99.
    wake_us: [f64; 2],
    /// The same by a thread that waits on a futex and only answers.
    futex_us: [f64; 2],
}

/// Waits until `n` leaves have run.
fn until_run(p: &mut P, n: u64) -> Result<u64> {
    while leaves_run(p)? < n {
        std::hint::spin_loop();
    }
    Ok(now_ns())
}

fn quantiles_us(mut ns: Vec<f64>) -> [f64; 2] {
    ns.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|q| round(ns[(ns.len() as f64 * q) as usize] / 1e3))
}

fn across(rounds: u64) -> Result<Across> {
    let segment = segment(256, 100)?;
    let mut p = P::lease(segment.clone())?;
    let child = Children::start(&segment, 1)?;
    let kinds = all_kinds();
    let (mut steal, mut wake) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let steals = segment.status().steals;
        spawn_leaves(&mut p, BATCH)?;
        // The spawner's step, unless the other process was first: its leaves stand in our queue afterwards.
        p.run(&kinds, |_, _| Idle::Return)?;
        until_run(&mut p, BATCH)?;
        // Half of a hundred, half of the rest: fewer steals mean that the other process made them itself.
        if segment.status().steals >= steals + 4 {
            let took = p.enter(|cx| {
                let counter = cx.root::<Counter>("counter")?.get(cx);
                let took = |c: Gc<'_, Counter>| c.last_ns.load(Relaxed) - c.first_ns.load(Relaxed);
                Ok::<_, coheap::Error>(counter.map_or(0, took))
            })?;
            steal.push(took as f64 / (BATCH - 1) as f64);
        }
    }
    let counter = p.enter(|cx| {
        let counter = cx.root::<Counter>("counter")?.get(cx);
        counter.map(|c| cx.handle(c)).transpose()
    })?;
    let counter = counter.ok_or("no counter")?;
    let mut run = BATCH;
    for _ in 0..rounds {
        // Long enough for it to fall asleep.
        std::thread::sleep(Duration::from_millis(2));
        let started = now_ns();
        p.submit(|cx| {
            let leaf = cx.alloc(Leaf {
                counter: Slot::nil(),
            })?;
            leaf.counter.store(cx, Some(counter.get(cx)));
            Ok(leaf)
        })?;
        run += 1;
        wake.push((until_run(&mut p, run)? - started) as f64);
    }
    child.stop()?;
    Ok(Across {
        steal_run_ns: round(median(steal)),
        wake_us: quantiles_us(wake),
        futex_us: quantiles_us(futex_wakes(rounds)),
    })
}

/// Nanoseconds from waking a thread that sleeps on a futex until it has answered.
fn futex_wakes(rounds: u64) -> Vec<f64> {
    let (bell, answers) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..rounds as u32 {
                while bell.load(SeqCst) == i {
                    // Rung meanwhile or interrupted: looked at again.
                    let _ = futex::wait(&bell, futex::Flags::PRIVATE, i, None);
                }
                answers.store(i + 1, SeqCst);
            }
        });
        let wake = |i: u64| {
            std::thread::sleep(Duration::from_millis(2));
            let started = now_ns();
            bell.store(i as u32 + 1, SeqCst);
            // Fails only for an address that is not mapped.
            let _ = futex::wake(&bell, futex::Flags::PRIVATE, 1);
            while u64::from(answers.load(SeqCst)) <= i {
                std::hint::spin_loop();
            }
            (now_ns() - started) as f64
        };
        (0..rounds).map(wake).collect()
    })
}

/// Flags: `--n` tasks, `--procs`, `--reps`, `--rounds` of stealing and waking.
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
        spawn_leaves(&mut p, n)?;
        until_idle(&mut p, &kinds)?;
        spawn.push(clock.ns(procs) / n as f64);
        assert_eq!(leaves_run(&mut p)?, n, "tasks run");
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
    let across = across(flags.number("--rounds", 500))?;
    println!(
        "{}",
        json!({
            "bench": "sched", "procs": procs, "n": n,
            "spawn_run_ns": round(median(spawn)),
            "spawn_join_ns": round(median(join)),
            "yield_ns": round(median(again)),
            "steal_run_ns": across.steal_run_ns,
            "wake_p50_us": across.wake_us[0], "wake_p99_us": across.wake_us[1],
            "futex_wake_p50_us": across.futex_us[0], "futex_wake_p99_us": across.futex_us[1],
        })
    );
    Ok(())
}
