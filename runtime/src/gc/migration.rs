//! What `migrateevery=1` is for: a fault that shows only when a worker goes on in other hands, on a schedule that is the same with
//! the mode and without.
//!
//! The fault is a worker that keeps its grey references for later when its slice ends before the work does. On the P that comes back to
//! it nothing is lost. With the mode every slice ends early, and another P goes on: what the first one keeps is never marked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::{debug, gc::checkmark, heap::oracle::Oracles, twin::go_without};

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
