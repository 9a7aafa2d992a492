//! Objects marked by several, a cycle from its start to its end, and rules 1 to 3 of the collector: who may hide what, when.

use shm_layout::word::PhaseWord;

use super::{Case, Whole, judge::*, script::*, twin};
use crate::{
    Cx,
    api::Inside,
    gc::gc_start,
    model::world::{Check, World},
};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("drain", "two workers mark a small graph; what was in a dead one's hands is marked by others", drain).short(1, 2).long(2, None, 600).twins(&[twin("mark-without-record", 1, 0), twin("clear-early", 1, 0), twin("take-then-record", 1, 0), twin("clear-before-scan", 1, 0), twin("no-flush", 1, 0)]),
        Case::new("collect", "a mutator moves an object behind the collector's back while a cycle runs from its start to its end", collect).short(1, 1).long(2, 4, 900).twins(&[twin("shade-without-record", 1, 1)]),
        Case::new("start", "rule 1: a scope from before the cycle stores a white object into a new black one", start).whole(Whole::InSmallerForms).short(1, 2).long(2, 4, 900).twins(&[twin("one-handshake", 0, 1)]),
        Case::new("start-late", "a P that has seen the last cycle's handshake acknowledged goes on in the middle of this one's", start_late).whole(Whole::InSmallerForms).short(0, 2).long(2, 4, 900).twins(&[twin("no-cycle-tag", 0, 2)]),
        Case::new("start-twice", "two P's start the same cycle while a mutator shades", start_twice).whole(Whole::InSmallerForms).short(0, 2).long(2, 4, 900).twins(&[twin("start-outside", 0, 2)]),
        Case::new("start-swept", "as `start`, from a heap that is swept: the collector's steps are the cycle's start and no others", start_swept).short(1, 1).long(2, 4, 900).twins(&[twin("one-handshake", 0, 1)]),
        Case::new("start-late-swept", "as `start-late`, from a swept heap", start_late_swept).short(0, 2).long(2, 4, 900).twins(&[twin("no-cycle-tag", 0, 2)]),
        Case::new("start-twice-swept", "as `start-twice`, from a swept heap with its workers, and nobody else there", start_twice_swept).short(0, 2).long(2, 4, 900).twins(&[twin("start-outside", 0, 2)]),
    ]
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
    w.recoverer("R");
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2, 3])?;
        expect_chain(w, "b", &[4, 5])
    });
    w.freeze();
    w
}

/// Ends the cycle, sweeps by another, and expects one of `ways` under a and b.
fn ends_as(ways: &'static [(&'static [u64], &'static [u64])]) -> Check {
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
    w.recoverer("R");
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
    start_in(&mut w, 6, false);
    w
}

fn start_swept() -> World {
    let mut w = World::new(3);
    start_in(&mut w, 2, true);
    w
}

/// Everything that the last cycle left is swept, by the observer: gc_start finds nothing to do before the cycle.
fn sweep_all(w: &World) {
    scope(&w.procs[0], |_| while w.procs[0].sweep_some() {});
}

/// A: as `start`, and it was about to take the cycle before to its second handshake when it lost the processor.
fn start_late() -> World {
    let mut w = World::new(4);
    late(&mut w);
    start_in(&mut w, 6, false);
    w
}

fn start_late_swept() -> World {
    let mut w = World::new(4);
    late(&mut w);
    start_in(&mut w, 2, true);
    w
}

fn late(w: &mut World) {
    gc_start::request(&w.seg);
    take_to(w, PhaseWord::BARRIER);
    let seen = w.seg.phase();
    finish_cycle(w).expect("a cycle that nobody disturbs");
    w.procs.iter().for_each(|p| drop(Inside::enter(p)));
    w.process("A", 4, true, move |p| p.turn_black(seen));
}

fn start_in(w: &mut World, looks: usize, swept: bool) {
    chain(&w.procs[0], "a", &[1, 2]);
    chain(&w.procs[0], "b", &[]);
    if swept {
        sweep_all(w);
    }
    gc_start::request(&w.seg);
    // In a scope since before the cycle.
    w.procs[1].enter_scope();
    collector(w, "C", 3, looks);
    w.process("M", 1, true, |p| {
        move_tail(&Cx::new(p), true);
        p.leave_scope();
    });
    w.process("N", 2, true, |p| {
        scope(p, |cx| set_root(cx, "b", Some(node(cx, 9, None))));
    });
    w.recoverer("R");
    w.check = ends_as(&[
        (&[1, 2], &[]),
        (&[1, 2], &[9]),
        (&[1], &[9]),
        (&[1], &[9, 2]),
    ]);
    w.freeze();
}

fn start_twice() -> World {
    let mut w = World::new(3);
    chain(&w.procs[0], "a", &[1, 2, 4]);
    chain(&w.procs[0], "b", &[3]);
    gc_start::request(&w.seg);
    collector(&mut w, "P1", 1, 1);
    collector(&mut w, "P2", 2, 5);
    w.process("M", 3, true, |p| scope(p, |cx| move_tail(cx, false)));
    w.recoverer("R");
    w.check = ends_as(&[(&[1, 2, 4], &[3]), (&[1, 2, 4], &[3, 2, 4])]);
    w.freeze();
    w
}

/// The workers stand in their slots, too.
fn start_twice_swept() -> World {
    let mut w = World::new(2);
    chain(&w.procs[0], "a", &[1, 2]);
    sweep_all(&w);
    w.procs[0].gc_bg_mark_start_workers();
    gc_start::request(&w.seg);
    collector(&mut w, "P1", 1, 1);
    collector(&mut w, "P2", 2, 4);
    w.recoverer("R");
    w.check = ends_as(&[(&[1, 2], &[])]);
    w.freeze();
    w
}
