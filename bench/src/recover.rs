//! `recover`: what a kill costs those who live on. A victim process allocates and enters scopes as fast as it can, after it has
//! touched every page of a large array; two survivors, processes too, run short steps with 50 µs between them. The victim is killed at
//! a random moment, again and again.
//!
//! 1. *Detection*: from the call of `kill` until the repair begins: the kernel ends the thread and marks its life word, the watcher
//! (`life::Watch`) wakes, and takes the death. 2. *Repair*: `DeathReport::repair_ns`. 3. *Gap*: the longest time between the ends of
//! two steps of a survivor, their pause of 50 µs and its wake-up included, from 1 ms before the kill to 8 ms after it; *step* is the
//! longest time inside one. A window of the same length without a kill precedes each, as a yardstick: what shows in both is the
//! machine, not the death.
//! 4. *Reaped*: from `kill` until `wait` returns, which a supervisor by pidfd or SIGCHLD would have waited for: it grows with what
//! the dead had mapped.

use std::{
    hint::black_box,
    process::Child,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use coheap::{
    Array, Cx, Gc, Handle, Idle, Kinds, Next, P, Segment, Shared, Slot, Step, Task, life, recover,
};
use serde_json::json;

use crate::{
    heap::{Children, Flags, Result, attach, kinds as all_kinds, now_ns, segment, spawn},
    histogram::Histogram,
};

/// Between two steps of a survivor.
const THINK: Duration = Duration::from_micros(50);
/// The window around a kill.
const BEFORE: Duration = Duration::from_millis(1);
const AFTER: Duration = Duration::from_millis(8);
/// Objects that a survivor's step makes, and that a victim's scope makes.
const STEP_OBJECTS: u64 = 16;
const SCOPE_OBJECTS: u64 = 200;
const PAGE_WORDS: usize = 512;

#[derive(Shared, Default)]
#[shared(name = "bench.recover.Node")]
struct Node {
    next: Slot<Node>,
    x: [u64; 3],
}

fn chain<'a>(cx: &'a Cx<'_>, n: u64) -> coheap::Result<Gc<'a, Node>> {
    let mut head = cx.alloc(Node::default())?;
    for _ in 1..n {
        let node = cx.alloc(Node::default())?;
        node.next.store(cx, Some(head));
        head = node;
    }
    Ok(head)
}

/// A survivor's task, and what is known about its steps.
#[derive(Shared)]
#[shared(name = "bench.recover.Survivor")]
pub struct Survivor {
    steps: AtomicU64,
    ended_ns: AtomicU64,
    longest_gap_ns: AtomicU64,
    longest_step_ns: AtomicU64,
    kept: Slot<Node>,
}

impl Task for Survivor {
    const KIND: &'static str = "bench.survivor";
    type Output = Survivor;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let began = now_ns();
        let cx = &*cx;
        let me = cx.context();
        me.kept.store(cx, Some(chain(cx, STEP_OBJECTS)?));
        let now = now_ns();
        let last = me.ended_ns.swap(now, Relaxed);
        me.longest_gap_ns.fetch_max(now - last.min(now), Relaxed);
        me.longest_step_ns.fetch_max(now - began, Relaxed);
        me.steps.fetch_add(1, Release);
        Ok(Next::Again)
    }
}

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Survivor>()
}

/// The program of a survivor.
pub fn survivor(flags: &Flags) -> Result<()> {
    attach(flags)?.run(&all_kinds(), |_, _| {
        std::thread::sleep(THINK);
        Idle::Continue
    })?;
    Ok(())
}

/// The program of a victim: touches the array, says so, and allocates until it is killed.
pub fn victim(flags: &Flags) -> Result<()> {
    let mut p = attach(flags)?;
    let ready = p.enter(|cx| {
        let cx = &*cx;
        let touched = cx.root::<Touched>("touched")?.get(cx);
        let touched = touched.ok_or("a victim before its array")?;
        if let Some(words) = touched.words.load(cx) {
            for word in words.iter().step_by(PAGE_WORDS) {
                word.fetch_add(1, Relaxed);
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(cx.handle(touched)?)
    })?;
    p.enter(|cx| {
        ready
            .get(cx)
            .ready
            .store(u64::from(std::process::id()), Release)
    });
    loop {
        for _ in 0..1000 {
            let full = p.enter(|cx| chain(cx, SCOPE_OBJECTS).map(black_box).is_err());
            if full {
                p.collect();
            }
        }
    }
}

/// What a victim maps before it is killed.
#[derive(Shared)]
#[shared(name = "bench.recover.Touched")]
struct Touched {
    ready: AtomicU64,
    words: Slot<Array<AtomicU64>>,
}

/// Figures of one size.
#[derive(Default)]
struct Figures {
    detect: Vec<u64>,
    repair: Vec<u64>,
    reaped: Vec<u64>,
    gap: Vec<u64>,
    step: Vec<u64>,
    calm_gap: Vec<u64>,
    calm_step: Vec<u64>,
    by_watcher: u64,
}

/// Waits until `done`, which must come within 20 s.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > Duration::from_secs(20) {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// The parent's look at the survivors.
struct Observer {
    p: P,
    survivors: Vec<Handle<Survivor>>,
}

impl Observer {
    fn reset(&mut self) {
        let survivors = &self.survivors;
        self.p.enter(|cx| {
            for s in survivors {
                s.get(cx).longest_gap_ns.store(0, Relaxed);
                s.get(cx).longest_step_ns.store(0, Relaxed);
            }
        });
    }

    fn steps(&mut self) -> Vec<u64> {
        let survivors = &self.survivors;
        self.p.enter(|cx| {
            let steps = |s: &Handle<Survivor>| s.get(cx).steps.load(Acquire);
            survivors.iter().map(steps).collect()
        })
    }

    /// The longest gap and step since the reset, those that last over this call included.
    fn longest(&mut self) -> Result<(u64, u64)> {
        let before = self.steps();
        wait_until("a survivor's next steps", || {
            self.steps()
                .iter()
                .zip(&before)
                .all(|(now, b)| *now >= b + 2)
        })?;
        let survivors = &self.survivors;
        Ok(self.p.enter(|cx| {
            let longest = survivors.iter().map(|s| {
                let s = s.get(cx);
                (
                    s.longest_gap_ns.load(Relaxed),
                    s.longest_step_ns.load(Relaxed),
                )
            });
            longest.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
        }))
    }
}

/// One kill: waits for a victim in full run, a calm window, then the window around the kill.
fn one_kill(
    observer: &mut Observer,
    segment: &Segment,
    victim: &mut Child,
    wait: Duration,
    figures: &mut Figures,
) -> Result<()> {
    std::thread::sleep(wait);
    observer.reset();
    std::thread::sleep(BEFORE + AFTER);
    let (gap, step) = observer.longest()?;
    figures.calm_gap.push(gap);
    figures.calm_step.push(step);
    observer.reset();
    std::thread::sleep(BEFORE);
    let killed_ns = now_ns();
    victim.kill()?;
    std::thread::sleep(AFTER);
    let (gap, step) = observer.longest()?;
    figures.gap.push(gap);
    figures.step.push(step);
    let pid = victim.id();
    let mut found = None;
    wait_until("the recovery of a victim", || {
        let deaths = segment.deaths();
        found = deaths
            .into_iter()
            .rev()
            .find(|d| d.pid == pid && d.repair_ns.is_some());
        found.is_some()
    })?;
    let death = found.ok_or("a death that was there a moment ago")?;
    figures
        .detect
        .push(death.began_ns.saturating_sub(killed_ns));
    figures.repair.extend(death.repair_ns);
    figures.by_watcher += u64::from(death.recoverer == std::process::id());
    Ok(())
}

/// Time from the kill to the end of `wait`, measured on a victim of its own: waiting at once would disturb the other figures.
fn reap(victim: &mut Child, figures: &mut Figures) -> Result<()> {
    let killed_ns = now_ns();
    victim.kill()?;
    victim.wait()?;
    figures.reaped.push(now_ns() - killed_ns);
    Ok(())
}

fn measure(mb: u64, kills: u64, rng: &mut fastrand::Rng) -> Result<serde_json::Value> {
    let segment = segment(mb * 2 + 512, 100)?;
    let mut p = P::lease(segment.clone())?;
    let touched = p.enter(|cx| {
        let cx = &*cx;
        let touched = cx.alloc(Touched {
            ready: AtomicU64::new(0),
            words: Slot::nil(),
        })?;
        let words = cx.array::<AtomicU64>((mb << 20) as usize / 8)?;
        touched.words.store(cx, Some(words));
        cx.root("touched")?.set(cx, Some(touched));
        cx.handle(touched)
    })?;
    let mut survivors = Vec::new();
    for i in 0..2 {
        let name = format!("survivor {i}");
        survivors.push(p.enter(|cx| {
            let survivor = cx.alloc(Survivor {
                steps: AtomicU64::new(0),
                ended_ns: AtomicU64::new(now_ns()),
                longest_gap_ns: AtomicU64::new(0),
                longest_step_ns: AtomicU64::new(0),
                kept: Slot::nil(),
            })?;
            cx.root(&name)?.set(cx, Some(survivor));
            cx.handle(survivor)
        })?);
        p.submit(|cx| Ok(cx.root::<Survivor>(&name)?.get(cx).expect("set just now")))?;
    }
    let children = Children::start_as("recover-survivor", &segment, 2)?;
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (segment, stop) = (segment.clone(), stop.clone());
        move || {
            let watch = life::Watch::new(segment.clone());
            while !stop.load(Acquire) {
                if watch.wait(Duration::from_millis(5)) {
                    recover::recover_dead(&segment);
                }
            }
        }
    });
    let mut observer = Observer { p, survivors };
    let mut figures = Figures::default();
    for k in 0..kills + kills / 4 {
        let mut victim = spawn("recover-victim", &segment)?;
        let pid = u64::from(victim.id());
        wait_until("a victim", || {
            observer.p.enter(|cx| {
                touched
                    .get(cx)
                    .ready
                    .compare_exchange(pid, 0, AcqRel, Relaxed)
                    .is_ok()
            })
        })?;
        // Longer than the watcher's patience: it waits for this victim's life word too.
        let wait = Duration::from_micros(12_000 + rng.u64(..5000));
        if k % 5 == 4 {
            std::thread::sleep(wait);
            reap(&mut victim, &mut figures)?;
        } else {
            let done = one_kill(&mut observer, &segment, &mut victim, wait, &mut figures);
            // Ended already, unless something went wrong.
            victim.kill()?;
            victim.wait()?;
            done?;
        }
    }
    let status = segment.status();
    children.stop()?;
    stop.store(true, Release);
    watcher.join().map_err(|_| "the watcher panicked")?;
    recover::recover_dead(&segment);
    let of = |values: &[u64]| Histogram::of_values(values).to_json();
    Ok(json!({
        "touched_mb": mb, "kills": figures.detect.len(), "recovered_by_watcher": figures.by_watcher, "gc_cycles": status.gc_cycles,
        "detect": of(&figures.detect), "repair": of(&figures.repair), "reaped": of(&figures.reaped),
        "gap": of(&figures.gap), "calm_gap": of(&figures.calm_gap),
        "step": of(&figures.step), "calm_step": of(&figures.calm_step),
    }))
}

/// Flags: `--kills` of each size, `--mb` sizes as in `16,256,2048`, `--seed`.
pub fn run(flags: &Flags) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(flags.number("--seed", 1));
    let kills = flags.number("--kills", 200);
    let mut sizes = Vec::new();
    for mb in flags.text("--mb").unwrap_or("16,256").split(',') {
        sizes.push(measure(mb.parse()?, kills, &mut rng)?);
    }
    println!("{}", json!({"bench": "recover", "sizes": sizes}));
    Ok(())
}
