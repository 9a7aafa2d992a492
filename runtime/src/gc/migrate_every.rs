//! `migrateevery`: with it, every slice of marking is another P's than the last; without it, marking stays where it began.
//!
//! Two P's of one thread take turns, so nothing here is left to chance or to the clock: a worker that one lets go of is there for the
//! other's next turn, and a P that looks for what it has let go of itself is looked at only in the millisecond that it leaves to others.

use super::{
    invariants::{World, edge},
    *,
};

/// 267 slices of marking; with the check between two slices taken out, 11.
const OBJECTS: usize = 40_000;

fn world(words: &str) -> World {
    let world = World::with_list(OBJECTS);
    Oracles::of(&crate::debug::parse(words)).write(&world.seg);
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
