//! `alloc`: objects of 16 to 128 bytes, with and without references, of which the last 4,096 of each P are live; collection
//! included. Each P runs one task whose steps allocate 20,000 objects. The same loop as `go/alloc`.

use coheap::{Array, Gc, Idle, Next, P, Shared, Slot, Step, Task};
use serde_json::json;

use crate::heap::{Children, Clock, Flags, Result, kinds as all_kinds, round, segment};

const RING: usize = 1 << 12;
const STEP_OBJECTS: u64 = 20_000;

/// How many objects were made.
#[derive(Shared)]
pub struct Made {
    objects: u64,
}

macro_rules! kase {
    ($object:ident, $task:ident, $kind:literal, { $($field:ident : $ty:ty),* }) => {
        /// What is allocated.
        #[derive(Shared, Default)]
        pub struct $object { $($field: $ty),* }

        /// Allocates until none is left to make.
        #[derive(Shared)]
        pub struct $task { left: u64, made: u64, ring: Slot<Array<Slot<$object>>> }

        impl Task for $task {
            const KIND: &'static str = $kind;
            type Output = Made;
            fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
                let cx = &*cx;
                let me = cx.context();
                let ring = match me.ring.load(cx) {
                    Some(ring) => ring,
                    None => cx.array(RING)?,
                };
                let n = me.left.min(STEP_OBJECTS);
                for i in 0..n as usize {
                    ring[(me.made as usize + i) % RING].store(cx, Some(cx.alloc($object::default())?));
                }
                if me.left == n {
                    return Ok(Next::Done(Some(cx.alloc(Made { objects: me.made + n })?)));
                }
                let next = cx.alloc($task { left: me.left - n, made: me.made + n, ring: Slot::nil() })?;
                next.ring.store(cx, Some(ring));
                Ok(Next::Continue(next))
            }
        }

        impl Kase for $task {
            fn of(n: u64) -> Self { $task { left: n, made: 0, ring: Slot::nil() } }
            fn made(done: Gc<'_, Made>) -> u64 { done.objects }
        }
    };
}

trait Kase: Task {
    fn of(n: u64) -> Self;
    fn made(done: Gc<'_, Self::Output>) -> u64;
}

kase!(Refs16, AllocRefs16, "bench.refs16", { a: Slot<Refs16>, b: Slot<Refs16>, x: u64 });
kase!(Refs64, AllocRefs64, "bench.refs64", { a: Slot<Refs64>, b: Slot<Refs64>, x: [u64; 7] });
kase!(Refs128, AllocRefs128, "bench.refs128", { a: Slot<Refs128>, b: Slot<Refs128>, x: [u64; 15] });
kase!(Plain16, AllocPlain16, "bench.plain16", { x: [u64; 2] });

/// The context of a task that allocates `n` objects of 16 bytes with references.
pub fn refs16(n: u64) -> AllocRefs16 {
    AllocRefs16::of(n)
}

/// Adds the kinds of this program.
pub fn kinds(kinds: coheap::Kinds) -> coheap::Kinds {
    kinds
        .with::<AllocRefs16>()
        .with::<AllocRefs64>()
        .with::<AllocRefs128>()
        .with::<AllocPlain16>()
}

fn measure<T: Kase>(procs: usize, n: u64, gc_percent: i32, max_mb: u64) -> Result<(f64, u64)> {
    let segment = segment(max_mb, gc_percent)?;
    let mut p = P::lease(segment.clone())?;
    let children = Children::start(&segment, procs - 1)?;
    let kinds = all_kinds();
    // Warm: the first pass meets the page faults of fresh memory.
    let mut best = 0.0;
    for objects in [n / 4, n] {
        let clock = Clock::start();
        let tasks = (0..procs)
            .map(|_| p.submit(|cx| cx.alloc(T::of(objects))))
            .collect::<coheap::Result<Vec<_>>>()?;
        p.run(&kinds, |p, _| {
            let over = p.enter(|cx| tasks.iter().all(|t| t.is_over(cx)));
            if over { Idle::Return } else { Idle::Continue }
        })?;
        best = clock.ns(procs) / objects as f64;
        p.enter(|cx| {
            for t in &tasks {
                let made = t.result(cx).map(T::made);
                assert_eq!(made, Some(objects), "objects of one task");
            }
        });
    }
    let cycles = segment.status().gc_cycles;
    children.stop()?;
    Ok((round(best), cycles))
}

/// Flags: `--n` objects per P, `--procs`, `--gc-percent`, `--max-mb`.
pub fn run(flags: &Flags) -> Result<()> {
    let n = flags.number("--n", 20_000_000);
    let procs = flags.number("--procs", 1) as usize;
    let percent = flags.number("--gc-percent", 100) as i32;
    let max_mb = flags.number("--max-mb", 4096);
    let mut line = json!({"bench": "alloc", "procs": procs, "n": n});
    let mut add = |name: &str, (ns, cycles): (f64, u64)| {
        line[format!("{name}_ns_per_object_per_core")] = json!(ns);
        line[format!("{name}_cycles")] = json!(cycles);
    };
    let only = flags.text("--only").unwrap_or("");
    let wants = |name: &str| only.is_empty() || only == name;
    if wants("refs16") {
        add("refs16", measure::<AllocRefs16>(procs, n, percent, max_mb)?);
    }
    if wants("refs64") {
        add("refs64", measure::<AllocRefs64>(procs, n, percent, max_mb)?);
    }
    if wants("refs128") {
        add(
            "refs128",
            measure::<AllocRefs128>(procs, n, percent, max_mb)?,
        );
    }
    if wants("plain16") {
        add(
            "plain16",
            measure::<AllocPlain16>(procs, n, percent, max_mb)?,
        );
    }
    println!("{line}");
    Ok(())
}
