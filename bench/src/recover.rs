//! `recover`: what a kill costs those who live on. Two survivors ([`mod@survivor`]) compute on two processors, step after step. A third process,
//! the victim ([`mod@victim`]), has touched every page of a large array, and is killed at a random moment; then comes the next one.
//!
//! 1. *Detection*: from the call of `kill` until the repair begins: the kernel ends the thread and marks its life word, the watcher
//! (`life::Watch`) wakes, and takes the death. Of that, *starved* is what the dying thread waited for a processor, to die and while
//! dying: the kernel certifies a death only when the dead one has run to its end. 2. *Repair*: `DeathReport::repair_ns`.
//! 3. *Gaps*: the longest time between the ends of two steps of a survivor, in three windows of [`WINDOW`]: `two`, without a third
//! process; `three`, while the victim computes; `kill`, from the call of `kill` on, in which nobody but the survivors, the dying one
//! and the watcher has anything to do: the victim's replacement is held back. With `--replace` it is not, and starts as soon as the death is
//! recovered, as a daemon starts it. Each gap is given whole (begun before the window or not) and within the window. What those of more than
//! a millisecond consist of is summed up in `long`: computing, waiting for a processor, blocked. `alone` leaves out the windows that
//! were *shared*: other programs had the processors for more than a millisecond ([`mod@others`]); `shared_with` names and counts them.
//! 4. *Reaped*: from `kill` until `wait` returns, which a supervisor by pidfd or SIGCHLD would have waited for: it grows with what
//! the dead had mapped.
//!
//! **The heap's pages are huge**, as a daemon makes them in the first seconds of a heap (`sysmon`, a chunk each half second). The kernel
//! takes a dead process apart page by page and does not give way meanwhile, so a survivor waits for 4,096 small pages or 8 huge ones;
//! with `--small-pages` they stay small.
//!
//! **What it was before, and why not:** survivors that slept for 50 µs between steps. Asleep they had no processor, and what was measured
//! was how soon the kernel gives one back to a thread that a timer wakes beside a computing one: up to a slice, death or not.

mod others;
mod survivor;
mod victim;

use std::{
    collections::BTreeMap,
    process::Child,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use coheap::{Handle, Kinds, P, Segment, life, recover, sched};
use serde_json::{Value, json};

use crate::{
    heap::{Flags, Result, now_ns, segment, spawn_with},
    histogram::Histogram,
};
use others::Others;
pub use survivor::program as survivor;
use survivor::{Gap, Gauge, Survivor, gauge_name};
use victim::Touched;
pub use victim::program as victim;

/// What is looked at: a multiple of the kernel's ticks, and of the slices it gives.
const WINDOW: Duration = Duration::from_millis(9);
/// After this time nobody waits any more for what the looking around before a window has taken.
const SETTLED: Duration = Duration::from_millis(5);
/// Survivors, as many as processors of the machine whose figures we publish.
const SURVIVORS: u64 = 2;
/// Tasks, so that no survivor is without one while another has stolen some.
const TASKS: u64 = 8;
/// A gap whose contents are told.
const LONG: u64 = 1_000_000;
/// How long the watcher waits without a death: as the daemon's.
const PATIENCE: Duration = Duration::from_millis(100);

/// Adds the kinds of this program.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds.with::<Survivor>()
}

/// The longest gap of a window, and with whom it was shared.
struct Window {
    gap: Gap,
    shared_with: Option<String>,
}

/// Windows of one sort.
#[derive(Default)]
struct Windows(Vec<Window>);

impl Windows {
    fn to_json(&self) -> Value {
        let of = |wanted: fn(&Window) -> bool, f: fn(&Gap) -> u64| {
            let windows = self.0.iter().filter(|w| wanted(w));
            let all: Vec<u64> = windows.map(|w| f(&w.gap)).collect();
            Histogram::of_values(&all).to_json()
        };
        let gaps = self.0.iter().map(|w| &w.gap);
        let long: Vec<&Gap> = gaps.filter(|g| g.whole_ns > LONG).collect();
        let sum = |f: fn(&Gap) -> u64| long.iter().map(|g| f(g)).sum::<u64>() / 1000;
        let mut shared = BTreeMap::<&str, u64>::new();
        for name in self.0.iter().filter_map(|w| w.shared_with.as_deref()) {
            *shared.entry(name).or_default() += 1;
        }
        json!({
            "whole": of(|_| true, |g| g.whole_ns), "within": of(|_| true, |g| g.within_ns),
            "alone": of(|w| w.shared_with.is_none(), |g| g.whole_ns), "shared_with": shared,
            "long": {
                "n": long.len(), "us": sum(|g| g.whole_ns), "computing_us": sum(|g| g.computing_ns),
                "waiting_us": sum(|g| g.waiting_ns), "blocked_us": sum(Gap::blocked_ns),
            },
        })
    }
}

/// Figures of one size.
#[derive(Default)]
struct Figures {
    detect: Vec<u64>,
    starved: Vec<u64>,
    repair: Vec<u64>,
    reaped: Vec<u64>,
    two: Windows,
    three: Windows,
    kill: Windows,
    by_watcher: u64,
}

impl Figures {
    fn to_json(&self) -> Value {
        let of = |values: &[u64]| Histogram::of_values(values).to_json();
        json!({
            "kills": self.detect.len(), "recovered_by_watcher": self.by_watcher,
            "detect": of(&self.detect), "starved": of(&self.starved), "repair": of(&self.repair), "reaped": of(&self.reaped),
            "two": self.two.to_json(), "three": self.three.to_json(), "kill": self.kill.to_json(),
        })
    }
}

/// What was asked for.
struct Wanted<'f> {
    /// Of each size.
    kills: u64,
    /// What victims do.
    victim: &'f str,
    /// Whether the next victim starts as soon as the death is recovered.
    replace: bool,
    /// Long gaps are told one by one, in nanoseconds of the monotonic clock.
    show: bool,
    /// What the survivors are told.
    think_us: &'f str,
    /// Whether the heap's pages stay small.
    small_pages: bool,
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

/// A thread that recovers the dead, as the daemon's, and says so.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    died: Receiver<()>,
}

impl Watcher {
    fn start(segment: &Segment) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let (say, died) = channel();
        let (segment, over) = (segment.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let promptness = life::be_prompt();
            eprintln!("the watcher runs as {promptness:?}");
            let watch = life::Watch::new(segment.clone());
            let mut known = 0;
            while !over.load(Acquire) {
                watch.recover(PATIENCE);
                let ever = segment.deaths_ever();
                if ever != known {
                    known = ever;
                    // Nobody listens any more at the end.
                    let _ = say.send(());
                }
            }
        });
        Watcher { stop, thread, died }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Release);
        self.thread
            .join()
            .map_err(|_| "the watcher panicked".into())
    }
}

/// A heap with two survivors, and a watcher.
struct Scene<'f> {
    segment: Segment,
    p: P,
    gauges: Vec<Handle<Gauge>>,
    touched: Handle<Touched>,
    survivors: Vec<Child>,
    watcher: Watcher,
    wanted: &'f Wanted<'f>,
    /// What the others had used when the window was opened.
    before: Others,
}

impl<'f> Scene<'f> {
    fn set(mb: u64, wanted: &'f Wanted<'f>) -> Result<Scene<'f>> {
        let segment = segment(mb * 2 + 512, 100)?;
        let mut p = P::lease(segment.clone())?;
        let touched = p.enter(|cx| {
            let touched = victim::prepare(cx, mb)?;
            cx.handle(touched)
        })?;
        if !wanted.small_pages {
            // A collection that somebody asks for makes all pages huge, as a daemon does one chunk after the other.
            p.collect();
        }
        for _ in 0..TASKS {
            p.submit(|cx| cx.alloc(Survivor::default()))?;
        }
        let (mut gauges, mut survivors) = (Vec::new(), Vec::new());
        for i in 0..SURVIVORS {
            gauges.push(p.enter(|cx| {
                let gauge = cx.alloc(Gauge::default())?;
                cx.root(&gauge_name(i))?.set(cx, Some(gauge));
                cx.handle(gauge)
            })?);
            let flags = ["--number", &i.to_string(), "--think-us", wanted.think_us];
            survivors.push(spawn_with("recover-survivor", &segment, &flags)?);
        }
        let watcher = Watcher::start(&segment);
        let mut scene = Scene {
            segment,
            p,
            gauges,
            touched,
            survivors,
            watcher,
            wanted,
            before: Others::now(&[]),
        };
        scene.two_more_steps()?;
        Ok(scene)
    }

    /// What others have used; `third`: the process that is ours besides the survivors.
    fn others(&self, third: Option<u32>) -> Others {
        let survivors = self.survivors.iter().map(Child::id);
        Others::now(&survivors.chain(third).collect::<Vec<_>>())
    }

    /// Opens a window of every survivor, now.
    fn open(&mut self, third: Option<u32>) {
        self.before = self.others(third);
        // Looking has taken a processor from somebody.
        std::thread::sleep(SETTLED);
        let gauges = &self.gauges;
        self.p.enter(|cx| {
            for gauge in gauges {
                gauge.get(cx).open(now_ns());
            }
        });
    }

    /// The longest gap since then, those that last over this call included.
    fn close(&mut self, sort: &str, third: Option<u32>) -> Result<Window> {
        self.two_more_steps()?;
        let gauges = &self.gauges;
        let gaps: Vec<Gap> = self
            .p
            .enter(|cx| gauges.iter().map(|g| g.get(cx).close()).collect());
        let shared_with = self.others(third).since(&self.before);
        for (gap, survivor) in gaps.iter().zip(&self.survivors) {
            if self.wanted.show && gap.whole_ns > LONG {
                let with = shared_with.as_deref().unwrap_or("nobody");
                eprintln!(
                    "{sort} of process {}, shared with {with}: {gap:?}",
                    survivor.id()
                );
            }
        }
        let longest = gaps.into_iter().max_by_key(|g| g.whole_ns);
        let gap = longest.unwrap_or_default();
        Ok(Window { gap, shared_with })
    }

    /// Waits until every survivor has ended two steps more.
    fn two_more_steps(&mut self) -> Result<()> {
        let before = self.steps();
        wait_until("a survivor's next steps", || {
            let now = self.steps();
            now.iter().zip(&before).all(|(now, b)| *now >= b + 2)
        })
    }

    fn steps(&mut self) -> Vec<u64> {
        let gauges = &self.gauges;
        self.p
            .enter(|cx| gauges.iter().map(|g| g.get(cx).steps()).collect())
    }

    /// A window in which nothing happens but what goes on already.
    fn calm(&mut self, sort: &str, third: Option<u32>) -> Result<Window> {
        self.open(third);
        std::thread::sleep(WINDOW);
        self.close(sort, third)
    }

    fn start_victim(&self) -> Result<Child> {
        let flags = ["--victim", self.wanted.victim];
        spawn_with("recover-victim", &self.segment, &flags)
    }

    /// Waits until a victim has touched everything and does what it was started for.
    fn wait_for(&mut self, victim: &Child) -> Result<()> {
        let pid = u64::from(victim.id());
        let (p, touched) = (&mut self.p, &self.touched);
        wait_until("a victim", || {
            p.enter(|cx| {
                let ready = &touched.get(cx).ready;
                ready.compare_exchange(pid, 0, AcqRel, Relaxed).is_ok()
            })
        })
    }

    /// One kill, with a window on it. Returns the next victim if it has been started.
    fn kill(&mut self, victim: &mut Child, figures: &mut Figures) -> Result<Option<Child>> {
        while self.watcher.died.try_recv().is_ok() {}
        let starved_before = starved_ns(victim.id());
        self.open(Some(victim.id()));
        let killed_ns = now_ns();
        victim.kill()?;
        let until = Instant::now() + WINDOW;
        // Late in the window or not at all: the repair is looked for below.
        let seen = self.watcher.died.recv_timeout(WINDOW).is_ok();
        let next = if self.wanted.replace && seen {
            Some(self.start_victim()?)
        } else {
            None
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        figures.kill.0.push(self.close("kill", Some(victim.id()))?);
        let pid = victim.id();
        let segment = &self.segment;
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
        let starved = starved_ns(pid).saturating_sub(starved_before);
        figures.starved.push(starved);
        figures.repair.extend(death.repair_ns);
        figures.by_watcher += u64::from(death.recoverer == std::process::id());
        Ok(next)
    }

    fn end(mut self) -> Result<()> {
        sched::request_shutdown(&self.segment);
        for survivor in &mut self.survivors {
            survivor.wait()?;
        }
        self.watcher.stop()?;
        recover::recover_dead(&self.segment);
        Ok(())
    }
}

/// Nanoseconds that a process has waited for a processor, a zombie too.
fn starved_ns(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let waited = text.split_whitespace().nth(1);
    waited.and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Time from the kill to the end of `wait`, measured on a victim of its own: waiting at once would disturb the other figures.
fn reap(victim: &mut Child, figures: &mut Figures) -> Result<()> {
    let killed_ns = now_ns();
    victim.kill()?;
    victim.wait()?;
    figures.reaped.push(now_ns() - killed_ns);
    Ok(())
}

fn measure(mb: u64, wanted: &Wanted<'_>, rng: &mut fastrand::Rng) -> Result<Value> {
    let mut scene = Scene::set(mb, wanted)?;
    let mut figures = Figures::default();
    let mut started = None;
    for k in 0..wanted.kills + wanted.kills / 8 {
        if started.is_none() {
            figures.two.0.push(scene.calm("two", None)?);
        }
        let mut victim = match started.take() {
            Some(victim) => victim,
            None => scene.start_victim()?,
        };
        scene.wait_for(&victim)?;
        std::thread::sleep(Duration::from_micros(rng.u64(..5000)));
        let done = if k % 9 == 8 {
            reap(&mut victim, &mut figures)
        } else {
            let calm = scene.calm("three", Some(victim.id()));
            let calm = calm.map(|window| figures.three.0.push(window));
            calm.and_then(|()| scene.kill(&mut victim, &mut figures))
                .map(|next| started = next)
        };
        // Ended already, unless something went wrong.
        victim.kill()?;
        victim.wait()?;
        done?;
    }
    if let Some(mut victim) = started {
        victim.kill()?;
        victim.wait()?;
    }
    let cycles = scene.segment.status().gc_cycles;
    scene.end()?;
    let mut all = figures.to_json();
    all["touched_mb"] = mb.into();
    all["gc_cycles"] = cycles.into();
    Ok(all)
}

/// Flags: `--kills` of each size, `--mb` sizes as in `16,256,2048`, `--seed`, `--victim computing|working|asleep`, `--replace`, `--think-us`
/// between a survivor's steps, `--show` the long gaps, `--small-pages`.
pub fn run(flags: &Flags) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(flags.number("--seed", 1));
    let wanted = Wanted {
        kills: flags.number("--kills", 200),
        victim: flags.text("--victim").unwrap_or("computing"),
        replace: flags.has("--replace"),
        show: flags.has("--show"),
        think_us: flags.text("--think-us").unwrap_or("0"),
        small_pages: flags.has("--small-pages"),
    };
    let mut sizes = Vec::new();
    for mb in flags.text("--mb").unwrap_or("16,256").split(',') {
        sizes.push(measure(mb.parse()?, &wanted, &mut rng)?);
    }
    println!(
        "{}",
        json!({
            "bench": "recover", "victim": wanted.victim, "replace": wanted.replace,
            "small_pages": wanted.small_pages, "sizes": sizes,
        })
    );
    Ok(())
}
