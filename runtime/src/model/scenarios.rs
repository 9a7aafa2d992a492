//! The scenarios: small worlds, and for each the twins that it must catch.
//!
//! A script is what a process does, in calls of the product's own functions. What a scenario promises at its end is checked by
//! the observer, a P that lives: it recovers the dead, takes a running cycle to its end by itself ("a good state stays
//! reachable"), and then looks at the heap.

use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use shm_layout::word::{PhaseWord, SlotWord, WorkerWord};

use super::{
    explorer::{Bounds, Report, explore},
    set_twin,
    world::{World, peek},
};
use crate::{
    Cx, Error, Gc, Kinds, Next, Shared, Slot, Step, Task,
    api::Inside,
    gc::gc_start,
    sched::{proc::Proc, task::Resolved},
};

/// A rule to take away, and the bounds within which that must be caught.
#[derive(Clone, Copy)]
pub struct Twin {
    /// Name of the rule's absence.
    pub name: &'static str,
    /// Bounds of the search.
    pub bounds: Bounds,
}

const fn twin(name: &'static str, deaths: u32, preemptions: u32) -> Twin {
    Twin {
        name,
        bounds: bounds(deaths, Some(preemptions), 60),
    }
}

/// A scenario, how far it is explored, and what must break it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a line.
    pub shows: &'static str,
    /// Bounds of the short run.
    pub short: Bounds,
    /// Bounds of the long run.
    pub long: Bounds,
    /// Rules that must be caught when taken away.
    pub twins: Vec<Twin>,
    make: fn() -> World,
}

impl Case {
    /// One search, within exactly these bounds.
    pub fn search(&self, bounds: Bounds, twin: &'static str) -> Report {
        let world = (self.make)();
        set_twin(twin);
        let mut report = explore(&world, bounds);
        set_twin("");
        if report.complete {
            report.completed.push((bounds.deaths, bounds.preemptions));
        }
        report
    }

    /// Explores it with the rule `twin` taken away; "" for none.
    pub fn run(&self, bounds: Bounds, twin: &'static str) -> Report {
        let world = (self.make)();
        set_twin(twin);
        // Few deaths and preemptions first: most faults need one or two, and are found in a moment. The last search is the whole.
        let began = std::time::Instant::now();
        let mut all: Option<Report> = None;
        for (deaths, preemptions) in steps(bounds) {
            let Some(patience) = bounds.patience.checked_sub(began.elapsed()) else {
                break;
            };
            let mut report = explore(
                &world,
                Bounds {
                    deaths,
                    preemptions,
                    patience,
                },
            );
            if report.complete {
                report.completed.push((deaths, preemptions));
            }
            let stop = report.violation.is_some() || !report.complete;
            if let Some(before) = all.take() {
                report.executions += before.executions;
                report.judged += before.judged;
                report.states += before.states;
                report.depth = report.depth.max(before.depth);
                report.shared_words = report.shared_words.max(before.shared_words);
                report.completed.extend(before.completed);
                report.took = began.elapsed();
            }
            all = Some(report);
            if stop {
                break;
            }
        }
        set_twin("");
        all.expect("at least one search")
    }
}

/// Ever larger bounds up to these: deaths and preemptions.
fn steps(most: Bounds) -> Vec<(u32, Option<u32>)> {
    let last = most.preemptions.unwrap_or(4);
    let mut steps: Vec<_> = (0..=most.deaths)
        .flat_map(|d| (0..=last).map(move |p| (d, p)))
        .collect();
    steps.sort_by_key(|&(d, p)| (2 * d + p, d));
    let mut steps: Vec<_> = steps.into_iter().map(|(d, p)| (d, Some(p))).collect();
    if most.preemptions.is_none() {
        steps.extend((0..=most.deaths).map(|d| (d, None)));
    }
    steps
}

const fn bounds(deaths: u32, preemptions: Option<u32>, seconds: u64) -> Bounds {
    Bounds {
        deaths,
        preemptions,
        patience: std::time::Duration::from_secs(seconds),
    }
}

/// Every scenario.
pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "slots-start",
            shows: "two P's start workers for each other: one worker per slot, none lost",
            short: bounds(2, None, 6),
            long: bounds(3, None, 600),
            twins: vec![
                twin("store-instead-of-cas", 0, 1),
                twin("attach-before-park", 0, 1),
                twin("free-first", 1, 1),
            ],
            make: slots_start,
        },
        Case {
            name: "slots-run",
            shows: "workers claimed, detached, migrating and attached again at the end of marking",
            short: bounds(2, Some(2), 6),
            long: bounds(3, None, 600),
            twins: vec![
                twin("claim-by-store", 0, 3),
                twin("attach-before-park", 1, 0),
            ],
            make: slots_run,
        },
        Case {
            name: "drain",
            shows: "two workers mark a small graph; what was in a dead one's hands is marked by others",
            short: bounds(1, Some(2), 6),
            long: bounds(2, None, 600),
            twins: vec![
                twin("mark-without-record", 1, 0),
                twin("clear-early", 1, 0),
                twin("take-then-record", 1, 0),
                twin("clear-before-scan", 1, 0),
                twin("no-flush", 1, 0),
            ],
            make: drain,
        },
        Case {
            name: "collect",
            shows: "a mutator moves an object behind the collector's back while a cycle runs from its start to its end",
            short: bounds(1, Some(1), 6),
            long: bounds(2, Some(4), 900),
            twins: vec![twin("shade-without-record", 1, 1)],
            make: collect,
        },
        Case {
            name: "start",
            shows: "rule 1: a scope from before the cycle stores a white object into a new black one",
            short: bounds(1, Some(2), 6),
            long: bounds(2, Some(4), 900),
            twins: vec![twin("one-handshake", 0, 1)],
            make: start,
        },
        Case {
            name: "start-twice",
            shows: "two P's start the same cycle while a mutator shades",
            short: bounds(0, Some(2), 6),
            long: bounds(2, Some(4), 900),
            twins: vec![twin("start-outside", 0, 2)],
            make: start_twice,
        },
        Case {
            name: "round",
            shows: "rule 4: a mutator in a scope since before the round holds the only reference",
            short: bounds(1, Some(2), 6),
            long: bounds(2, Some(4), 900),
            twins: vec![twin("no-end-round", 0, 0), twin("store-then-shade", 1, 0)],
            make: round,
        },
        Case {
            name: "round-grey",
            shows: "rule 4: a round must not begin while there is a grey object",
            short: bounds(0, Some(2), 6),
            long: bounds(2, Some(4), 900),
            twins: vec![],
            make: round_grey,
        },
        Case {
            name: "stopped",
            shows: "a worker dies, and is recovered while the world is stopped",
            short: bounds(1, Some(2), 6),
            long: bounds(2, Some(4), 300),
            twins: vec![twin("stopped-is-off", 1, 1)],
            make: stopped,
        },
        Case {
            name: "late",
            shows: "the only worker dies in other hands: a P without one still ends the cycle",
            short: bounds(1, Some(1), 6),
            long: bounds(2, Some(4), 300),
            twins: vec![twin("no-late-worker", 1, 0)],
            make: late,
        },
        Case {
            name: "sweep",
            shows: "rule 5: spans change hands between allocators and sweepers, over a whole cycle",
            short: bounds(1, Some(1), 6),
            long: bounds(2, Some(3), 900),
            twins: vec![twin("sweep-outside", 0, 1), twin("sweep-cached", 0, 2)],
            make: sweep,
        },
        Case {
            name: "pages",
            shows: "two P's claim and return pages: no page is lost, none given twice",
            short: bounds(2, Some(2), 6),
            long: bounds(3, None, 600),
            twins: vec![twin("settle-once", 1, 1)],
            make: pages,
        },
        Case {
            name: "pages-large",
            shows: "a run over several words of the bitmap is claimed and returned",
            short: bounds(1, Some(2), 6),
            long: bounds(2, None, 600),
            twins: vec![twin("first-page-decides", 1, 1)],
            make: pages_large,
        },
        Case {
            name: "steal",
            shows: "half a run queue is stolen; every task runs once",
            short: bounds(1, Some(1), 6),
            long: bounds(2, Some(3), 600),
            twins: vec![],
            make: steal,
        },
        Case {
            name: "overflow",
            shows: "a step's spawn overflows the ring while the step is being committed",
            short: bounds(1, Some(0), 6),
            long: bounds(2, Some(2), 600),
            twins: vec![],
            make: overflow,
        },
        Case {
            name: "commit",
            shows: "a step spawns, updates a root and ends a join: once each, whoever dies",
            short: bounds(2, Some(2), 6),
            long: bounds(3, None, 600),
            twins: vec![
                twin("clear-commit-before-finish", 1, 0),
                twin("applied-before-effect", 1, 0),
                twin("effects-before-commit", 1, 0),
            ],
            make: commit,
        },
    ]
}

/// An object of the scenarios' heaps.
#[derive(Shared)]
struct Node {
    next: Slot<Node>,
    id: u64,
}

fn node<'a>(cx: &'a Cx<'_>, id: u64, next: Option<Gc<'_, Node>>) -> Gc<'a, Node> {
    let node = cx
        .alloc(Node {
            next: Slot::nil(),
            id,
        })
        .expect("room for a few objects");
    node.next.store(cx, next);
    node
}

/// Runs `f` in a scope of `p`.
fn scope<R>(p: &Proc, f: impl FnOnce(&Cx<'_>) -> R) -> R {
    let _inside = Inside::enter(p);
    f(&Cx::new(p))
}

fn set_root(cx: &Cx<'_>, name: &str, node: Option<Gc<'_, Node>>) {
    cx.root::<Node>(name).expect("a root").set(cx, node);
}

fn get_root<'a>(cx: &'a Cx<'_>, name: &str) -> Option<Gc<'a, Node>> {
    cx.root::<Node>(name).expect("a root").get(cx)
}

/// A chain of objects under the root `name`.
fn chain(p: &Proc, name: &str, ids: &[u64]) {
    scope(p, |cx| {
        let mut next = None;
        for &id in ids.iter().rev() {
            next = Some(node(cx, id, next));
        }
        set_root(cx, name, next);
    });
}

/// The ids of the chain under the root `name`.
fn chain_ids(p: &Proc, name: &str) -> Vec<u64> {
    scope(p, |cx| {
        let mut ids = Vec::new();
        let mut at = get_root(cx, name);
        while let Some(n) = at {
            ids.push(n.id);
            at = n.next.load(cx);
            assert!(ids.len() < 100, "the chain under {name} has become a ring");
        }
        ids
    })
}

/// Passes an edge, then does what the scheduler would do for the collector.
fn work(p: &Proc) -> bool {
    drop(Inside::enter(p));
    p.collector_work(true)
}

/// Takes the collector to `kind` with the help of all P's, none of which is in a scope.
fn take_to(world: &World, kind: u8) {
    for _ in 0..200 {
        if world.seg.phase().kind() == kind {
            world.procs.iter().for_each(|p| drop(Inside::enter(p)));
            // Idle workers may run side by side.
            world.seg.hdr.gc.idle_max.store(8, Relaxed);
            return;
        }
        for p in &world.procs {
            drop(Inside::enter(p));
            p.gc_step();
        }
    }
    panic!("the collector does not get to phase {kind}");
}

/// The observer alone takes a cycle to its end.
fn finish_cycle(world: &World) -> Result<(), String> {
    let p = &world.procs[0];
    for _ in 0..400 {
        let phase = world.seg.phase();
        let worked = work(p);
        let over = phase.kind() == PhaseWord::OFF && gc_start::wanted(&world.seg, phase).is_none();
        if over && !worked {
            return Ok(());
        }
    }
    Err(format!(
        "the cycle does not end: the phase stays {:?}, P0 alone is left",
        world.seg.phase()
    ))
}

/// A cycle that begins now, by the observer alone.
fn whole_cycle(world: &World) -> Result<(), String> {
    gc_start::request(&world.seg);
    finish_cycle(world)
}

/// After everybody has come to rest: no worker in a dead or idle hand, none lost.
fn workers_at_rest(world: &World) -> Result<(), String> {
    for (g, w) in world.seg.workers[..32].iter().enumerate() {
        let word = WorkerWord(peek(&w.word));
        let slot = |p: usize| SlotWord(peek(&world.seg.slots[p].word));
        match word.state() {
            WorkerWord::FREE => {}
            WorkerWord::PARKED => {
                let home = peek(&w.home);
                if slot((home >> 32) as usize) != SlotWord::full(g as u16, home as u32) {
                    return Err(format!("worker {g} is parked and stands in no slot: lost"));
                }
            }
            state => {
                return Err(format!(
                    "worker {g} is in state {state} although nobody runs"
                ));
            }
        }
    }
    Ok(())
}

/// Page and task accounts, and every reachable reference.
fn heap_is_sound(world: &World) -> Result<(), String> {
    let findings = crate::gc::verify::findings(&world.procs[0])?;
    match findings.first() {
        None => Ok(()),
        Some(first) => Err(first.clone()),
    }
}

fn expect_chain(world: &World, name: &str, ids: &[u64]) -> Result<(), String> {
    let found = chain_ids(&world.procs[0], name);
    if found == ids {
        Ok(())
    } else {
        Err(format!("under {name}: {found:?} instead of {ids:?}"))
    }
}

fn slots_start() -> World {
    let mut w = World::new(2);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| p.gc_bg_mark_start_workers());
    }
    w.recoverer("R", true);
    w.recoverer("S", true);
    w.check = Box::new(|w| {
        workers_at_rest(w)?;
        whole_cycle(w)?;
        workers_at_rest(w)
    });
    w.freeze();
    w
}

fn slots_run() -> World {
    let mut w = World::new(3);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    // Everything is marked already; what is left is to find out.
    while w.procs[0].markroot_next(w.seg.marks_of(w.seg.phase().cycle())) {}
    w.procs[0].gcw_dispose();
    // In a scope since before the round: the workers must wait for it, so they migrate.
    w.procs[3].enter_scope();
    w.process("M", 3, true, |p| p.leave_scope());
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| {
            for _ in 0..2 {
                if let Some(g) = p.find_migrating_worker() {
                    p.go_on_with_mark_done(g);
                } else if let Some((g, mode)) = p.find_idle_gc_worker() {
                    p.gc_bg_mark_worker(g, mode);
                }
            }
        });
    }
    w.recoverer("R", true);
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        workers_at_rest(w)?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}

fn drain() -> World {
    let mut w = World::new(2);
    chain(&w.procs[0], "a", &[1, 2, 3]);
    chain(&w.procs[0], "b", &[4, 5]);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| {
            if let Some((g, mode)) = p.find_idle_gc_worker() {
                p.gc_bg_mark_worker(g, mode);
            }
        });
    }
    w.recoverer("R", true);
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2, 3])?;
        expect_chain(w, "b", &[4, 5])
    });
    w.freeze();
    w
}

/// The collector, as process `name` on P `p`: `times` looks.
fn collector(w: &mut World, name: &'static str, p: usize, times: usize) {
    w.process(name, p, true, move |p| {
        for _ in 0..times {
            work(p);
        }
    });
}

/// Ends the cycle, sweeps by another, and expects one of `ways` under a and b.
fn ends_as(ways: &'static [(&'static [u64], &'static [u64])]) -> super::world::Check {
    Box::new(move |w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        let (a, b) = (chain_ids(&w.procs[0], "a"), chain_ids(&w.procs[0], "b"));
        if !ways.iter().any(|(x, y)| a == *x && b == *y) {
            return Err(format!("the chains are {a:?} and {b:?}"));
        }
        whole_cycle(w)?;
        heap_is_sound(w)
    })
}

/// Hangs the tail of a under the head of b, and, with `hide`, takes it from a first.
fn move_tail(cx: &Cx<'_>, hide: bool) {
    let (Some(one), Some(three)) = (get_root(cx, "a"), get_root(cx, "b")) else {
        return;
    };
    let two = one.next.load(cx);
    if hide {
        one.next.store(cx, None);
    }
    three.next.store(cx, two);
}

fn collect() -> World {
    let mut w = World::new(2);
    chain(&w.procs[0], "a", &[1, 2, 4]);
    chain(&w.procs[0], "b", &[3]);
    gc_start::request(&w.seg);
    collector(&mut w, "C", 2, 6);
    w.process("M", 1, true, |p| {
        scope(p, |cx| move_tail(cx, false));
        scope(p, |cx| {
            if let Some(one) = get_root(cx, "a") {
                one.next.store(cx, None);
            }
        });
    });
    w.recoverer("R", false);
    w.check = ends_as(&[
        (&[1, 2, 4], &[3]),
        (&[1, 2, 4], &[3, 2, 4]),
        (&[1], &[3, 2, 4]),
        (&[1], &[3]),
    ]);
    w.freeze();
    w
}

fn start() -> World {
    let mut w = World::new(3);
    chain(&w.procs[0], "a", &[1, 2]);
    chain(&w.procs[0], "b", &[]);
    gc_start::request(&w.seg);
    // In a scope since before the cycle.
    w.procs[1].enter_scope();
    collector(&mut w, "C", 3, 6);
    w.process("M", 1, true, |p| {
        move_tail(&Cx::new(p), true);
        p.leave_scope();
    });
    w.process("N", 2, true, |p| {
        scope(p, |cx| set_root(cx, "b", Some(node(cx, 9, None))));
    });
    w.recoverer("R", false);
    w.check = ends_as(&[
        (&[1, 2], &[]),
        (&[1, 2], &[9]),
        (&[1], &[9]),
        (&[1], &[9, 2]),
    ]);
    w.freeze();
    w
}

fn start_twice() -> World {
    let mut w = World::new(3);
    chain(&w.procs[0], "a", &[1, 2, 4]);
    chain(&w.procs[0], "b", &[3]);
    gc_start::request(&w.seg);
    collector(&mut w, "P1", 1, 1);
    collector(&mut w, "P2", 2, 5);
    w.process("M", 3, true, |p| scope(p, |cx| move_tail(cx, false)));
    w.recoverer("R", false);
    w.check = ends_as(&[(&[1, 2, 4], &[3]), (&[1, 2, 4], &[3, 2, 4])]);
    w.freeze();
    w
}

/// A world in which everything but what M holds is marked: M is in a scope since before, with the only reference to a chain.
fn almost_marked(grey: bool) -> World {
    let mut w = World::new(4);
    chain(&w.procs[0], "a", &[1, 2, 4]);
    chain(&w.procs[0], "b", &[3]);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    let p = &w.procs[1];
    p.enter_scope();
    let two = {
        let cx = Cx::new(p);
        let one = get_root(&cx, "a").expect("a chain");
        let two = cx.raw(one.next.load(&cx));
        one.next.store(&cx, None);
        two
    };
    let seg = w.seg.clone();
    w.procs[0].gc_drain(crate::gc::gc_drain::Until::NoWork, 0);
    w.procs[0].gcw_dispose();
    seg.hdr.gc.dirty.0.store(0, SeqCst);
    // Rounds wait for it, so it migrates.
    let hang = move |p: &Proc| {
        let cx = Cx::new(p);
        let three = get_root(&cx, "b").expect("a chain");
        three.next.store(&cx, cx.gc::<Node>(two));
        p.leave_scope();
    };
    if grey {
        hang(&w.procs[1]);
    } else {
        w.process("M", 1, true, hang);
    }
    // Takes the tail of what hangs under 3, as the only one to know it, and shows it again later.
    w.process("N", 2, true, |p| {
        scope(p, |cx| {
            let three = get_root(cx, "b").expect("a chain");
            let Some(two) = three.next.load(cx) else {
                return;
            };
            let four = two.next.load(cx);
            two.next.store(cx, None);
            set_root(cx, "c", four);
        });
    });
    w.process("W", 3, true, |p| {
        if let Some((g, mode)) = p.find_idle_gc_worker() {
            p.gc_bg_mark_worker(g, mode);
        }
    });
    w.process("C", 4, true, |p| {
        for _ in 0..4 {
            if let Some(g) = p.find_migrating_worker() {
                p.go_on_with_mark_done(g);
            } else if let Some((g, mode)) = p.find_idle_gc_worker() {
                p.gc_bg_mark_worker(g, mode);
            }
        }
        scope(p, |_| while p.sweep_some() {});
    });
    w.recoverer("R", false);
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        whole_cycle(w)?;
        heap_is_sound(w)?;
        let all = (chain_ids(&w.procs[0], "b"), chain_ids(&w.procs[0], "c"));
        let ways: [(&[u64], &[u64]); 5] = [
            (&[3], &[]),
            (&[3, 2, 4], &[]),
            (&[3, 2], &[4]),
            (&[3, 2], &[]),
            (&[3], &[4]),
        ];
        if ways.iter().any(|(b, c)| all.0 == *b && all.1 == *c) {
            Ok(())
        } else {
            Err(format!("the chains are {all:?}"))
        }
    });
    w.freeze();
    w
}

fn round() -> World {
    almost_marked(false)
}

fn round_grey() -> World {
    almost_marked(true)
}

fn stopped() -> World {
    let mut w = World::new(2);
    chain(&w.procs[0], "a", &[1, 2, 3]);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    w.process("P1", 1, true, |p| {
        if let Some((g, mode)) = p.find_idle_gc_worker() {
            p.gc_bg_mark_worker(g, mode);
        }
    });
    w.process("S", 2, true, |p| p.stop_and_recover());
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2, 3])
    });
    w.freeze();
    w
}

fn late() -> World {
    let mut w = World::new(1);
    chain(&w.procs[0], "a", &[1, 2]);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    // The observer has no worker: as if it had come after the cycle began.
    let seg = w.seg.clone();
    w.procs[0].retire_slot();
    w.procs[0].may_run();
    assert_eq!(SlotWord(peek(&seg.slots[0].word)).state(), SlotWord::EMPTY);
    collector(&mut w, "P1", 1, 3);
    w.recoverer("R", true);
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        workers_at_rest(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2])
    });
    w.freeze();
    w
}

fn sweep() -> World {
    let mut w = World::new(3);
    chain(&w.procs[0], "a", &[1, 2]);
    chain(&w.procs[2], "b", &[3]);
    gc_start::request(&w.seg);
    for _ in 0..200 {
        if w.seg.phase().kind() == PhaseWord::OFF && w.seg.phase().cycle() == 1 {
            break;
        }
        work(&w.procs[0]);
    }
    drop(Inside::enter(&w.procs[1]));
    w.process("S", 1, true, |p| {
        p.background_sweep();
    });
    w.process("M", 2, true, |p| {
        for id in [8, 9] {
            scope(p, |cx| {
                let old = get_root(cx, "b");
                set_root(cx, "b", Some(node(cx, id, old)));
            });
        }
    });
    let seg = w.seg.clone();
    w.process("C", 3, true, move |p| {
        gc_start::request(&seg);
        for _ in 0..6 {
            work(p);
        }
        scope(p, |_| while p.sweep_some() {});
    });
    w.recoverer("R", false);
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2])?;
        let b = chain_ids(&w.procs[0], "b");
        let ways: [&[u64]; 3] = [&[3], &[8, 3], &[9, 8, 3]];
        if !ways.contains(&&b[..]) {
            return Err(format!("under b: {b:?}"));
        }
        // New objects must not come to lie on old ones.
        chain(&w.procs[0], "d", &[20, 21, 22, 23]);
        expect_chain(w, "a", &[1, 2])?;
        if chain_ids(&w.procs[0], "b") != b {
            return Err(format!("{b:?} under b was overwritten"));
        }
        whole_cycle(w)?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}

fn pages() -> World {
    let mut w = World::new(2);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| {
            let first = p.seg.claim_pages(2, p.me, &mut 0, &mut || false);
            p.seg.free_pages(first.expect("free pages"), p.me);
        });
    }
    w.recoverer("R", true);
    w.recoverer("S", true);
    w.check = Box::new(heap_is_sound);
    w.freeze();
    w
}

fn pages_large() -> World {
    let mut w = World::new(2);
    w.process("P1", 1, true, |p| {
        let first = p.seg.claim_pages(70, p.me, &mut 0, &mut || false);
        p.seg.free_pages(first.expect("free pages"), p.me);
    });
    w.process("P2", 2, false, |p| {
        let first = p.seg.claim_pages(1, p.me, &mut 0, &mut || false);
        p.seg.free_pages(first.expect("free pages"), p.me);
    });
    w.recoverer("R", true);
    w.check = Box::new(heap_is_sound);
    w.freeze();
    w
}

/// `n` runnable tasks that each put an object into the log, in `p`'s ring.
fn children(p: &Proc, n: u64) {
    scope(p, |cx| {
        let kind = p.kind_index::<Child>().expect("a kind");
        for id in 0..n {
            let context = cx.alloc(Child { id }).expect("room");
            let (task, word) = p
                .reserve_task(kind, cx.raw(Some(context)), 0)
                .expect("a task");
            crate::sched::task::make_runnable(&p.seg, task, word);
            p.runq_put(task, false);
        }
    });
    p.rec.now.0.task.store(0, Release);
}

/// The observer runs what is left; the log must hold the ids `0..n` once each.
fn all_ran_once(w: &World, table: &Resolved<'_>, n: u64) -> Result<(), String> {
    run_to_the_end(w, table)?;
    for id in 0..n {
        expect_chain(w, &format!("log{id}"), &[id])?;
    }
    heap_is_sound(w)
}

fn run_to_the_end(w: &World, table: &Resolved<'_>) -> Result<(), String> {
    let p = &w.procs[0];
    for _ in 0..400 {
        if !p.any_task_alive() {
            break;
        }
        p.schedule(table);
    }
    if p.any_task_alive() {
        return Err("a task is left, and P0 finds nothing to run".into());
    }
    if w.seg.hdr.stats.gave_up.load(Relaxed) != 0 {
        return Err("a task was given up".into());
    }
    Ok(())
}

/// Each P has its cursors, roots and commit records' shapes before the story begins.
fn warm(w: &World) -> &'static Resolved<'static> {
    let table = kinds(&w.procs[0]);
    for p in &w.procs {
        scope(p, |cx| {
            node(cx, 0, None);
            for entries in 2..6 {
                let record = p.array_of(entries, 16, &crate::RefMap::ONE, true);
                record.expect("room for a commit record");
            }
            cx.root::<Node>("parent").expect("a root");
            cx.root::<Node>("done").expect("a root");
            for id in 0..9 {
                cx.root::<Node>(&format!("log{id}")).expect("a root");
            }
        });
    }
    table
}

fn steal() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 3);
    w.process("P1", 1, true, move |p| run_tasks(p, table, 1));
    w.process("P2", 2, true, move |p| {
        if let Some(task) = p.steal_work() {
            p.run_task(task, table);
        }
    });
    w.recoverer("R", true);
    w.check = Box::new(move |w| all_ran_once(w, table, 3));
    w.freeze();
    w
}

fn overflow() -> World {
    let mut w = World::new(1);
    let table = warm(&w);
    children(&w.procs[1], 8);
    let p = &w.procs[1];
    scope(p, |cx| {
        let kind = p.kind_index::<Forker>().expect("a kind");
        let context = cx.alloc(Forker { stage: 0 }).expect("room");
        let (task, word) = p
            .reserve_task(kind, cx.raw(Some(context)), 0)
            .expect("a task");
        crate::sched::task::make_runnable(&p.seg, task, word);
        crate::sched::run_queue::put_global(&p.seg, task);
    });
    w.process("P1", 1, true, move |p| {
        if let Some(task) = p.globrunq_get() {
            p.run_task(task, table);
        }
    });
    w.recoverer("R", true);
    w.check = Box::new(move |w| all_ran_once(w, table, 9));
    w.freeze();
    w
}

/// A task that spawns a child and goes on.
#[derive(Shared)]
struct Forker {
    stage: u64,
}

impl Task for Forker {
    const KIND: &'static str = "model.forker";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        if cx.context().stage == 0 {
            cx.spawn(cx.alloc(Child { id: 8 })?)?;
            return Ok(Next::Continue(cx.alloc(Forker { stage: 1 })?));
        }
        Ok(Next::Done(None))
    }
}

/// A task that spawns a child with a join, updates a root, waits for the child, and ends.
#[derive(Shared)]
struct Parent {
    child: Slot<crate::Join<Node>>,
    stage: u64,
}

/// A task that puts an object in front of the root "log".
#[derive(Shared)]
struct Child {
    id: u64,
}

impl Task for Parent {
    const KIND: &'static str = "model.parent";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        if cx.context().stage == 0 {
            let join = cx.spawn_join(cx.alloc(Child { id: 7 })?)?;
            cx.set_root(cx.root::<Node>("parent")?, Some(node(cx, 5, None)))?;
            let next = cx.alloc(Parent {
                child: Slot::nil(),
                stage: 1,
            })?;
            next.child.store(cx, Some(join));
            return Ok(Next::Join(next, join.to_join()));
        }
        let join = cx.context().child.load(cx).expect("a child");
        if !join.is_over() {
            return Ok(Next::Join(cx.context(), join.to_join()));
        }
        let old = get_root(cx, "done");
        cx.set_root(cx.root::<Node>("done")?, Some(node(cx, 6, old)))?;
        Ok(Next::Done(join.result(cx)))
    }
}

impl Task for Child {
    const KIND: &'static str = "model.child";
    type Output = Node;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
        let cx = &*cx;
        // A root of its own: setting a root is not a read and a write in one.
        let log = format!("log{}", cx.context().id);
        let old = get_root(cx, &log);
        let new = node(cx, cx.context().id, old);
        cx.set_root(cx.root::<Node>(&log)?, Some(new))?;
        Ok(Next::Done(Some(new)))
    }
}

fn kinds(p: &Proc) -> &'static Resolved<'static> {
    let kinds: &'static Kinds = Box::leak(Box::new(
        Kinds::new()
            .with::<Parent>()
            .with::<Child>()
            .with::<Forker>(),
    ));
    Box::leak(Box::new(kinds.resolve(p).expect("room for two kinds")))
}

fn run_tasks(p: &Proc, kinds: &Resolved<'_>, times: usize) {
    for _ in 0..times {
        if let Some(task) = p.runq_get().or_else(|| p.globrunq_get()) {
            p.run_task(task, kinds);
        }
    }
}

fn commit() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    scope(&w.procs[0], |cx| {
        let p = cx.proc();
        let context = cx
            .alloc(Parent {
                child: Slot::nil(),
                stage: 0,
            })
            .expect("room");
        let kind = p.kind_index::<Parent>().expect("a kind");
        let (task, word) = p
            .reserve_task(kind, cx.raw(Some(context)), 0)
            .expect("a task");
        crate::sched::task::make_runnable(&p.seg, task, word);
        crate::sched::run_queue::put_global(&p.seg, task);
    });
    w.process("P1", 1, true, move |p| run_tasks(p, table, 2));
    w.process("P2", 2, true, move |p| run_tasks(p, table, 2));
    w.recoverer("R", true);
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        expect_chain(w, "parent", &[5])?;
        expect_chain(w, "log7", &[7])?;
        expect_chain(w, "done", &[6])?;
        heap_is_sound(w)?;
        whole_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "log7", &[7])
    });
    w.freeze();
    w
}
