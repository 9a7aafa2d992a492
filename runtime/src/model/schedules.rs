//! Long random schedules: the product's own code under `shuttle`.
//!
//! Four P's and more run whole scripts (tasks with joins, mutators, collections from start to end), and before each access to a word
//! that more than one of them uses `shuttle` picks at random who goes on; every other run by its scheduler of few, well placed
//! switches (PCT). At the end of each marking everything reachable must be marked; at the end of a run everything is recovered,
//! verified, and compared with what the scripts allow. A run that fails is told by its seed, and runs the same way again.
//!
//! It is no proof: it looks where the explorer, whose scenarios are small, and `loom`, whose models are smaller, do not.
//! Memory is sequentially consistent in it, and nobody dies.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    time::{Duration, Instant},
};

use shm_layout::sync::Access;
use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::atomic::AtomicUsize,
};

use super::{
    broken, explorer,
    orders::text_of,
    scenarios::{
        Node, assist, chain, chain_ids, children, finish_cycle, get_root, heap_is_sound, node,
        parent, run_to_the_end, scope, set_root, warm, whole_cycle,
    },
    set_twin, take_broken,
    world::World,
};
use crate::{Gc, gc::gc_start, sched::proc::Proc};

/// A workload for random schedules.
pub struct Schedules {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub shows: &'static str,
    /// Rules that it must miss when taken away.
    pub twins: &'static [&'static str],
    make: fn() -> World,
}

/// How a search ended.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Runs.
    pub runs: u64,
    /// Switch points passed.
    pub steps: u64,
    /// The seed of the run that failed, and what was wrong.
    pub violation: Option<(u64, String)>,
    /// The accesses of that run.
    pub story: Vec<String>,
    /// Time it took.
    pub took: Duration,
}

/// Every workload.
pub fn schedules() -> Vec<Schedules> {
    vec![
        Schedules {
            name: "tasks",
            shows: "four P's run tasks with joins, steal them from each other, and collect meanwhile",
            twins: &["join-unasked"],
            make: tasks,
        },
        Schedules {
            name: "mutators",
            shows: "three mutators move objects between roots while a fourth P collects, cycle after cycle",
            twins: &["no-barrier"],
            make: mutators,
        },
    ]
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static STORY: RefCell<Vec<(u32, Access)>> = const { RefCell::new(Vec::new()) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static BASE: Cell<usize> = const { Cell::new(0) };
    /// Threads that have used each four bytes, over all runs so far.
    static USES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static TURN: RefCell<Option<Rc<AtomicUsize>>> = const { RefCell::new(None) };
}

/// Is a run on?
pub(super) fn running() -> bool {
    RUNNING.get()
}

/// Runs `f` without switches.
pub(super) fn unseen<R>(f: impl FnOnce() -> R) -> R {
    let running = RUNNING.replace(false);
    let result = f();
    RUNNING.set(running);
    result
}

/// Before an access: who goes on?
pub(super) fn before(access: &Access) -> bool {
    if !RUNNING.get() {
        return false;
    }
    let me = THREAD.get();
    let shared = USES.with_borrow_mut(|uses| {
        let uses = &mut uses[(access.at - BASE.get()) / 4];
        *uses |= 1 << me;
        *uses & (*uses - 1) != 0
    });
    if shared {
        let turn = TURN.with_borrow(|t| t.clone());
        if let Some(turn) = turn {
            STEPS.set(STEPS.get() + 1);
            turn.load(std::sync::atomic::Ordering::SeqCst);
            THREAD.set(me);
        }
    }
    true
}

/// After an access: kept for the story of a violation.
pub(super) fn after(access: &Access) {
    if RUNNING.get() {
        STORY.with_borrow_mut(|s| s.push((THREAD.get(), *access)));
    }
}

struct SendWorld(*const World);
// SAFETY: shuttle's threads are coroutines of one thread, and `run` returns before the world goes.
unsafe impl Send for SendWorld {}
// SAFETY: as above.
unsafe impl Sync for SendWorld {}

impl SendWorld {
    fn get(&self) -> &'static World {
        // SAFETY: as above.
        unsafe { &*self.0 }
    }
}

impl Schedules {
    /// Runs from `seed` on, for `patience` or until one fails, with the rule `twin` taken away ("" for none).
    pub fn search(&self, seed: u64, patience: Duration, twin: &'static str) -> Runs {
        let began = Instant::now();
        let mut all = Runs {
            runs: 0,
            steps: 0,
            violation: None,
            story: Vec::new(),
            took: Duration::ZERO,
        };
        let world = (self.make)();
        explorer::set_hooks();
        BASE.set(world.seg.base_address());
        USES.set(vec![0; world.seg.geo.total_bytes / 4]);
        STEPS.set(0);
        set_twin(twin);
        for seed in seed.. {
            let ended = run(&world, seed);
            all.runs += 1;
            if let Err(what) = ended {
                all.violation = Some((seed, what));
                all.story = tell(&world);
                break;
            }
            if began.elapsed() > patience {
                break;
            }
        }
        set_twin("");
        world.reset();
        super::world::logging(false);
        all.steps = STEPS.get();
        all.took = began.elapsed();
        all
    }
}

/// One run. `USES` grows over runs, so which accesses are switch points depends on the seeds before: not on chance.
fn run(world: &World, seed: u64) -> Result<(), String> {
    let shared = SendWorld(world);
    let mut config = Config::new();
    config.stack_size = 512 << 10;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(4_000_000);
    config.silence_warnings = true;
    let body = move || execution(shared.get());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        if seed.is_multiple_of(2) {
            Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(body)
        } else {
            Runner::new(PctScheduler::new_from_seed(seed, 4, 2), config).run(body)
        }
    }));
    RUNNING.set(false);
    TURN.set(None);
    match ended {
        Ok(_) => Ok(()),
        Err(panic) => Err(panic
            .downcast::<Wrong>()
            .map_or_else(|panic| text_of(&*panic), |wrong| wrong.0)),
    }
}

/// The accesses of the last run, to words that more than one thread uses.
fn tell(world: &World) -> Vec<String> {
    let shared = |at: usize| {
        let uses = USES.with_borrow(|u| u[(at - BASE.get()) / 4]);
        uses & (uses - 1) != 0
    };
    let line = |(me, a): (u32, Access)| {
        let who = world.processes[me as usize].name;
        let name = super::names::name(&world.seg, a.at);
        if a.writes {
            format!("{who:<6} {name:<28} {:#x} -> {:#x}", a.old, a.new)
        } else {
            format!("{who:<6} {name:<28} {:#x}", a.old)
        }
    };
    let story = STORY.take();
    let story = story.into_iter().filter(|(_, a)| shared(a.at));
    story.map(line).collect()
}

/// What a run ends with when something is wrong.
struct Wrong(String);

fn execution(world: &'static World) {
    world.reset();
    take_broken();
    STORY.with_borrow_mut(Vec::clear);
    super::reset_ghost();
    TURN.set(Some(Rc::new(AtomicUsize::new(0))));
    RUNNING.set(true);
    let threads: Vec<_> = (0..world.processes.len())
        .map(|i| {
            let shared = SendWorld(world);
            shuttle::thread::spawn(move || {
                THREAD.set(i as u32);
                let world = shared.get();
                let process = &world.processes[i];
                let proc = &world.procs[process.p.expect("a process with a P")];
                let ended = catch_unwind(AssertUnwindSafe(|| (process.script)(proc)));
                if let Err(panic) = ended {
                    broken(format!("{}: {}", process.name, text_of(&*panic)));
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    RUNNING.set(false);
    let judged = match take_broken() {
        Some(what) => Err(what),
        None => catch_unwind(AssertUnwindSafe(|| (world.check)(world)))
            .unwrap_or_else(|panic| Err(format!("the check panicked: {}", text_of(&*panic))))
            .and_then(|()| take_broken().map_or(Ok(()), Err)),
    };
    if let Err(what) = judged {
        resume_unwind(Box::new(Wrong(what)));
    }
}

fn tasks() -> World {
    let mut w = World::new(4);
    let table = warm(&w);
    parent(&w);
    children(&w.procs[1], 4);
    gc_start::request(&w.seg);
    for (name, p) in [("P1", 1), ("P2", 2), ("P3", 3), ("P4", 4)] {
        w.process(name, p, false, move |p| {
            for _ in 0..25 {
                p.schedule(table);
            }
        });
    }
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        for (name, id) in [("parent", 5), ("log7", 7), ("done", 6)] {
            super::scenarios::expect_chain(w, name, &[id])?;
        }
        for id in 0..4 {
            super::scenarios::expect_chain(w, &format!("log{id}"), &[id])?;
        }
        finish_cycle(w)?;
        heap_is_sound(w)?;
        whole_cycle(w)?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}

/// Takes the tail of one chain and hangs it under the head of another: nothing is lost, if both are only `p`'s.
fn exchange(p: &Proc, from: &str, to: &str) {
    scope(p, |cx| {
        let (Some(a), Some(b)) = (get_root(cx, from), get_root(cx, to)) else {
            return;
        };
        let tail: Option<Gc<'_, Node>> = a.next.load(cx);
        a.next.store(cx, None);
        let mut last = b;
        while let Some(next) = last.next.load(cx) {
            last = next;
        }
        last.next.store(cx, tail);
    });
}

fn mutators() -> World {
    let mut w = World::new(4);
    for p in 1..=3u64 {
        chain(
            &w.procs[p as usize],
            &format!("a{p}"),
            &[10 * p, 10 * p + 1, 10 * p + 2],
        );
        chain(&w.procs[p as usize], &format!("b{p}"), &[10 * p + 5]);
    }
    for p in 1..=3u64 {
        let name: &'static str = ["", "M1", "M2", "M3"][p as usize];
        w.process(name, p as usize, false, move |proc| {
            let (a, b) = (format!("a{p}"), format!("b{p}"));
            for _ in 0..4 {
                exchange(proc, &a, &b);
                scope(proc, |cx| {
                    // Garbage, and a look at the assist.
                    node(cx, 99, None);
                    assist(proc);
                });
                exchange(proc, &b, &a);
                scope(proc, |cx| {
                    let copy = get_root(cx, &a);
                    set_root(cx, &format!("c{p}"), copy);
                });
                proc.gc_step();
            }
        });
    }
    let seg = w.seg.clone();
    w.process("C", 4, false, move |p| {
        for _ in 0..2 {
            gc_start::request(&seg);
            for _ in 0..12 {
                drop(crate::api::Inside::enter(p));
                p.collector_work(true);
            }
        }
    });
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        for p in 1..=3u64 {
            let mut all = chain_ids(&w.procs[0], &format!("a{p}"));
            all.extend(chain_ids(&w.procs[0], &format!("b{p}")));
            all.sort_unstable();
            let expected: Vec<u64> = [0, 1, 2, 5].iter().map(|k| 10 * p + k).collect();
            if all != expected {
                return Err(format!(
                    "M{p}'s objects are {all:?} instead of {expected:?}"
                ));
            }
        }
        whole_cycle(w)?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}
