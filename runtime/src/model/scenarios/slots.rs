//! Mark workers and their slots: started, claimed, migrating, parked and attached again; lost with whoever ran them.

use std::sync::atomic::Ordering::SeqCst;

use shm_layout::word::{PhaseWord, SlotWord};

use super::{Case, Whole, judge::*, script::*, twin};
use crate::{
    gc::gc_start,
    model::world::{World, peek},
};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "slots-start",
            "two P's start workers for each other: one worker per slot, none lost",
            slots_start,
        )
        .whole(Whole::InCi)
        .short(2, None)
        .long(3, None, 600)
        .twins(&[
            twin("store-instead-of-cas", 0, 1),
            twin("attach-before-park", 0, 1),
            twin("free-first", 1, 1),
            twin("naive-parked", 1, 0),
            twin("erase-slot", 1, 0),
            twin("no-close", 1, 1),
            twin("steal-live", 0, 1),
            twin("resume-torn", 1, 0),
        ]),
        Case::new(
            "slots-again",
            "a worker started for a lease that is over comes to the slot of the next",
            slots_again,
        )
        .whole(Whole::InCi)
        .short(2, 2)
        .long(3, None, 600)
        .twins(&[twin("no-slot-epoch", 1, 1)]),
        Case::new(
            "slots-run",
            "workers claimed, detached, migrating and attached again at the end of marking",
            slots_run,
        )
        .whole(Whole::InCi)
        .short(2, 2)
        .long(3, None, 600)
        .twins(&[
            twin("claim-by-store", 0, 3),
            twin("attach-before-park", 1, 0),
        ]),
        Case::new(
            "stopped",
            "a worker dies, and is recovered while the world is stopped",
            stopped,
        )
        .whole(Whole::InCi)
        .short(1, 2)
        .long(2, 4, 300)
        .twins(&[twin("stopped-is-off", 1, 1)]),
        Case::new(
            "late",
            "the only worker dies in other hands: a P without one still ends the cycle",
            late,
        )
        .whole(Whole::InCi)
        .short(1, 1)
        .long(2, 4, 300)
        .twins(&[twin("no-late-worker", 1, 0), twin("last-out-only", 1, 0)]),
    ]
}

fn slots_start() -> World {
    let mut w = World::new(2);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| p.gc_bg_mark_start_workers());
    }
    w.recoverer("R");
    w.recoverer("S");
    w.check = Box::new(|w| {
        workers_at_rest(w)?;
        whole_cycle(w)?;
        workers_at_rest(w)
    });
    w.freeze();
    w
}

/// P1 has read P2's slot when another process leased that record, and starts a worker for it.
fn slots_again() -> World {
    let mut w = World::new(2);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    w.procs[2].retire_slot();
    let lease = w.procs[2].inc;
    let before = SlotWord::empty(lease - 1);
    w.seg.slots[2].word.store(SlotWord::empty(lease).0, SeqCst);
    w.process("P1", 1, true, move |p| p.start_worker(2, before));
    w.process("P2", 2, true, |p| {
        if let Some((g, mode)) = p.find_idle_gc_worker() {
            p.gc_bg_mark_worker(g, mode);
        }
    });
    w.recoverer("R");
    w.check = Box::new(|w| {
        finish_cycle(w)?;
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
    w.recoverer("R");
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        workers_at_rest(w)?;
        heap_is_sound(w)
    });
    w.freeze();
    w
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
    w.recoverer("R");
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        workers_at_rest(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2])
    });
    w.freeze();
    w
}
