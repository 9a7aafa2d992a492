//! The end of marking, and rule 4: a round that ends clean has missed nothing.
//!
//! All begin alike ([`almost_marked`]): everything is marked but the tail of a chain that only M knows, in a scope that is older
//! than everything below.

use std::sync::atomic::Ordering::SeqCst;

use shm_layout::word::PhaseWord;

use super::{Case, Whole, judge::*, script::*, twin};
use crate::{
    Cx,
    gc::{gc_bg_mark_worker::Mode, gc_drain::Until, gc_start},
    model::world::World,
    sched::proc::Proc,
};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("round-open", "as `round`, from where the worker has found no work: M hides and shows, N takes, W ends marking", round_open).short(1, 2).long(2, 4, 900).twins(&[twin("no-end-round", 0, 0)]),
        Case::new("round", "rule 4: a mutator in a scope since before the round holds the only reference", round).whole(Whole::InSmallerForms).short(1, 2).long(2, 4, 900).twins(&[twin("no-end-round", 0, 0), twin("ignore-dirty", 0, 1)]),
        Case::new("round-grey", "rule 4: a round must not begin while there is a grey object", round_grey).short(0, 2).long(2, 4, 900).twins(&[twin("round-from-grey", 0, 2), twin("ignore-dirty", 0, 2), twin("assist-unsaid", 0, 2)]),
        // `single-collect` (one look at the worker words) is not caught: see tests/README.md.
        Case::new("round-look", "rule 4: a worker takes the last grey object while another looks whether marking is over", round_look).short(0, 2).long(2, 4, 900),
        Case::new("round-shade", "rules 2 and 4: a mutator dies while it hides the only reference from the end of marking", round_shade).whole(Whole::InCi).short(1, 2).long(2, None, 900).twins(&[twin("store-then-shade", 1, 0), twin("no-end-round", 0, 0)]),
        Case::new("round-assist", "rule 4: a round begins while a P in a scope marks, to pay for what it allocates", round_assist).whole(Whole::InSmallerForms).short(1, 1).long(2, 4, 900).twins(&[twin("assist-unsaid", 0, 1)]),
        Case::new("round-twice", "rule 4: two workers at the end of marking clear each other's \"dirty\"", round_twice).short(0, 2).long(2, 4, 900).twins(&[twin("clear-dirty-of-others", 0, 3)]),
    ]
}

/// A chain `a` of four, whose tail M takes in a scope that is older than everything below, when all else is marked; `b` is one
/// object. Returns the world and the reference that only M knows.
pub(in crate::model) fn almost_marked() -> (World, u32) {
    let mut w = World::new(4);
    chain(&w.procs[0], "a", &[1, 2, 4, 5]);
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
    w.procs[0].gc_drain(Until::NoWork, 0);
    w.procs[0].gcw_dispose();
    w.seg.hdr.gc.dirty.0.store(0, SeqCst);
    w.check = Box::new(rounds_end_as);
    (w, two)
}

/// What can stand under b and c at the end: M hangs 2, 4, 5 under 3; N takes 4 and 5 from there, and shows them under c.
fn rounds_end_as(w: &World) -> Result<(), String> {
    finish_cycle(w)?;
    heap_is_sound(w)?;
    whole_cycle(w)?;
    heap_is_sound(w)?;
    let all = (chain_ids(&w.procs[0], "b"), chain_ids(&w.procs[0], "c"));
    let ways: [(&[u64], &[u64]); 5] = [
        (&[3], &[]),
        (&[3, 2, 4, 5], &[]),
        (&[3, 2], &[4, 5]),
        (&[3, 2], &[]),
        (&[3], &[4, 5]),
    ];
    if ways.iter().any(|(b, c)| all.0 == *b && all.1 == *c) {
        Ok(())
    } else {
        Err(format!("the chains are {all:?}"))
    }
}

/// Stores the chain that only `p` knows under 3.
pub(in crate::model) fn hang(p: &Proc, two: u32) {
    let cx = Cx::new(p);
    let three = get_root(&cx, "b").expect("a chain");
    three.next.store(&cx, cx.gc::<Node>(two));
}

/// Marks in a scope, as an allocation does that pays for itself.
pub(in crate::model) fn assist(p: &Proc) {
    if p.seg.phase().blacken() {
        p.gc_drain(Until::Bytes(1 << 20), 0);
    }
}

/// N: takes the tail of what hangs under 3, as the only one to know it, and shows it again later.
fn taker(w: &mut World) {
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
}

/// `p`'s own worker, claimed as an idle one.
pub(in crate::model) fn claimed(p: &Proc) -> usize {
    let claimed = p.claim_slot_worker(Mode::Idle);
    claimed.expect("a parked worker").0
}

/// W: the worker of P3, which has left its slot and finds no work.
pub(in crate::model) fn at_mark_done(w: &mut World) {
    let p = &w.procs[3];
    let g = claimed(p);
    p.detach_worker(g);
    w.process("W", 3, true, move |p| p.go_on_with_mark_done(g));
}

/// C: goes on with a worker that had to wait, and sweeps.
pub(super) fn goes_on(w: &mut World, times: usize) {
    w.process("C", 4, true, move |p| {
        for _ in 0..times {
            if let Some(g) = p.find_migrating_worker() {
                p.go_on_with_mark_done(g);
            } else if let Some((g, mode)) = p.find_idle_gc_worker() {
                p.gc_bg_mark_worker(g, mode);
            }
        }
        scope(p, |_| while p.sweep_some() {});
    });
}

fn round() -> World {
    let (mut w, two) = almost_marked();
    w.process("M", 1, true, move |p| {
        hang(p, two);
        p.leave_scope();
    });
    taker(&mut w);
    w.process("W", 3, true, |p| {
        if let Some((g, mode)) = p.find_idle_gc_worker() {
            p.gc_bg_mark_worker(g, mode);
        }
    });
    goes_on(&mut w, 4);
    w.recoverer("R");
    w.freeze();
    w
}

fn round_open() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    w.process("M", 1, true, move |p| {
        hang(p, two);
        p.leave_scope();
    });
    taker(&mut w);
    w.recoverer("R");
    w.freeze();
    w
}

fn round_grey() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    hang(&w.procs[1], two);
    w.procs[1].leave_scope();
    taker(&mut w);
    w.process("A", 1, true, |p| {
        scope(p, |_| assist(p));
    });
    w.recoverer("R");
    w.freeze();
    w
}

/// As `round_grey`, but a mark worker takes the grey object.
fn round_look() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    hang(&w.procs[1], two);
    w.procs[1].leave_scope();
    w.procs[1].gcw_dispose();
    w.seg.hdr.gc.dirty.0.store(0, SeqCst);
    taker(&mut w);
    w.process("V", 1, true, |p| {
        if let Some((g, mode)) = p.find_idle_gc_worker() {
            p.gc_bg_mark_worker(g, mode);
        }
    });
    w.recoverer("R");
    w.freeze();
    w
}

/// M alone beside the end of marking: for its deaths.
fn round_shade() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    w.process("M", 1, true, move |p| {
        hang(p, two);
        p.leave_scope();
    });
    w.recoverer("R");
    w.freeze();
    w
}

fn round_assist() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    // Grey, and in the hands of a P in a scope.
    hang(&w.procs[1], two);
    w.process("A", 1, true, |p| {
        assist(p);
        p.leave_scope();
    });
    taker(&mut w);
    goes_on(&mut w, 1);
    w.recoverer("R");
    w.freeze();
    w
}

/// Two workers in `gc_mark_done` at once, and a shade between them.
fn round_twice() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    let p = &w.procs[4];
    let g = claimed(p);
    p.detach_worker(g);
    p.release_worker(g);
    w.process("V", 4, true, |p| {
        if let Some(g) = p.find_migrating_worker() {
            p.go_on_with_mark_done(g);
        }
    });
    w.process("M", 1, true, move |p| {
        hang(p, two);
        assist(p);
        p.leave_scope();
    });
    w.recoverer("R");
    w.freeze();
    w
}
