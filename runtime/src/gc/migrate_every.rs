//! `migrateevery`: with it, every slice of marking is another P's than the last; without it, marking stays where it began.
//!
//! And what the mode is for: a fault that shows only when a worker goes on in other hands is seen with it, and not without, on the same
//! schedule. It is a worker that keeps its grey references for later when its slice ends before the work does. On the P that comes back
//! to it nothing is lost; in other hands what the first one keeps is never marked.
//!
//! Two P's of one thread take turns, so nothing here is left to chance or to the clock: a worker that one lets go of is there for the
//! other's next turn, and a P that looks for what it has let go of itself is looked at only in the millisecond that it leaves to others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    invariants::{World, edge},
    *,
};
use crate::{debug, gc::checkmark, heap::oracle::Oracles, twin::go_without};

/// 267 slices of marking; with the check between two slices taken out, 11.
const OBJECTS: usize = 40_000;

fn world(words: &str) -> World {
    let world = World::with_list(OBJECTS);
    Oracles::of(&debug::parse(words)).write(&world.seg);
    world.drive(PhaseWord::MARK);
    world
}

/// Migrations of the cycle that runs, from the beginning of marking to its end, with the P's by turns.
fn migrations(words: &str) -> u64 {
    let world = world(words);
    let moved = || world.seg.hdr.stats.migrations.load(Relaxed);
    let before = moved();
    world.finish(|_| {});
    moved() - before
}

#[test]
fn every_slice_of_marking_is_another_ps() {
    let (with, without) = (migrations("migrateevery=1"), migrations(""));
    assert!(with >= 100, "{with} migrations with the mode");
    assert!(without <= 2, "{without} migrations without it");
}

#[test]
fn who_lets_a_worker_go_leaves_it_to_others_first() {
    let world = world("migrateevery=1");
    let (seg, a, b) = (&world.seg, &world.a, &world.b);
    let free = |g: usize| world.worker(g).state() == WorkerWord::RUNNABLE;
    let g = (0..10_000)
        .find_map(|_| {
            edge(a);
            edge(b);
            a.collector_work(true);
            used_workers(seg)
                .iter()
                .position(|w| WorkerWord(w.word.load(SeqCst)).state() == WorkerWord::RUNNABLE)
        })
        .expect("a slice ends with work left");
    // Late is not wrong: then the millisecond is over.
    let since = seg.workers[g].moved_at_ns.load(Relaxed);
    let own = a.find_migrating_worker();
    assert!(own.is_none() || now_ns() - since >= OTHERS_FIRST_NS);
    if own.is_none() {
        assert!(free(g));
        assert_eq!(b.find_migrating_worker(), Some(g));
        b.go_on_with_worker(g);
    } else {
        a.go_on_with_worker(g);
    }
    world.finish(|_| {});
}

/// How a cycle ends under these modes and without these rules: what it has missed, or how many migrations it took. A marks; B goes on
/// with what is handed on, and does nothing else.
fn cycle(modes: &str, rules: &'static [&'static str]) -> Result<u64, String> {
    let mut world = World::with_list(2000);
    Oracles::of(&debug::parse(modes)).write(&world.seg);
    world.drive(PhaseWord::MARK);
    let cycle = world.seg.phase().cycle();
    go_without(rules);
    let ended = catch_unwind(AssertUnwindSafe(|| in_turn(&world)));
    go_without(&[]);
    let missed = checkmark::missed(&world.seg, cycle);
    let migrations = world.seg.hdr.stats.migrations.load(SeqCst);
    if ended.is_ok() && missed.is_empty() {
        return Ok(migrations);
    }
    // They cannot detach: they hold work of a cycle that is over.
    world.a.keep();
    world.b.keep();
    Err(format!(
        "{} objects missed, thrown: {}",
        missed.len(),
        ended.is_err()
    ))
}

fn in_turn(world: &World) {
    // No edges from here on: whoever passes one publishes what it holds.
    edge(&world.a);
    edge(&world.b);
    world.a.collector_work(true);
    // An assist of B's does one root job. So the last ones are not done by A, which has done the first, that of the named roots.
    world.b.gc_drain(Until::Bytes(1), now_ns());
    for _ in 0..10_000 {
        if world.kind() == PhaseWord::OFF {
            return;
        }
        if let Some(g) = world.b.find_migrating_worker() {
            world.b.go_on_with_worker(g);
        }
        world.a.collector_work(true);
    }
    panic!("the cycle does not end");
}

const FAULT: &[&str] = &["cache-kept-for-later"];

#[test]
fn migration_finds_a_cache_that_is_kept_for_later() {
    assert!(cycle("migrateevery=1", FAULT).is_err(), "was not seen");
}

#[test]
fn without_the_mode_the_same_fault_is_not_seen() {
    cycle("", FAULT).expect("A comes back to what it keeps");
}

#[test]
fn with_the_mode_each_slice_ends_in_other_hands() {
    let migrations = cycle("migrateevery=1", &[]).expect("a sound cycle");
    assert!(migrations >= 3, "{migrations}");
}
