//! Weak references: a load while the last round of marking is on, and words that are looked at once a cycle.

use shm_layout::word::PhaseWord;

use super::{
    Case, Whole,
    judge::*,
    rounds::{claimed, goes_on},
    script::*,
    twin,
};
use crate::{
    Cx, Gc, Weak,
    gc::{gc_drain::Until, gc_start},
    model::world::World,
    sched::proc::Proc,
};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    let shows = "a weak reference is made strong while the last round is on, and marking must not end without it (Go issue 69803)";
    let open = "as `weak`, and who comes by later does nothing: M makes the reference strong, W ends marking";
    vec![
        Case::new("weak-open", open, weak_open)
            .whole(Whole::InCi)
            .short(1, 1)
            .long(2, 4, 900)
            .twins(&[twin("weak-in-round", 0, 2), twin("weak-unwatched", 0, 0)]),
        Case::new("weak", shows, weak)
            .whole(Whole::InSmallerForms)
            .short(1, 1)
            .long(2, 4, 900)
            .twins(&[twin("weak-in-round", 0, 2), twin("weak-unwatched", 0, 0)]),
    ]
}

/// Everything is marked but node 5, which only the weak reference under `w` names; the last round is on, and M in a scope that has
/// acknowledged it. M makes the reference strong, and shows the node under `b`, while W judges the round.
fn weak() -> World {
    let mut w = weak_in_round();
    goes_on(&mut w, 1);
    w.recoverer("R");
    w.freeze();
    w
}

fn weak_open() -> World {
    let mut w = weak_in_round();
    w.recoverer("R");
    w.freeze();
    w
}

fn weak_in_round() -> World {
    let mut w = World::new(4);
    chain(&w.procs[0], "a", &[1]);
    chain(&w.procs[0], "b", &[3]);
    scope(&w.procs[0], |cx| {
        let five = node(cx, 5, None);
        let weak = cx.weak(five).expect("room for a word");
        cx.root::<Weak<_>>("w").expect("a root").set(cx, Some(weak));
        set_root(cx, "t", Some(five));
    });
    for p in &w.procs {
        scope(p, |cx| {
            cx.root::<Weak<Node>>("w").expect("a root");
        });
    }
    whole_cycle(&w).expect("a cycle");
    scope(&w.procs[0], |cx| set_root(cx, "t", None));
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    w.procs[0].gc_drain(Until::NoWork, 0);
    w.procs[0].gcw_dispose();
    let (m, waits) = (&w.procs[1], &w.procs[3]);
    m.enter_scope();
    let g = claimed(waits);
    waits.detach_worker(g);
    waits.go_on_with_mark_done(g);
    m.leave_scope();
    m.enter_scope();
    assert_eq!(w.seg.phase().kind(), PhaseWord::ROUND);
    w.check = Box::new(ends_well);
    w.process("M", 1, true, |p| {
        let cx = Cx::new(p);
        if let Some(five) = five(&cx) {
            let three = get_root(&cx, "b").expect("a chain");
            three.next.store(&cx, Some(five));
        }
        p.leave_scope();
    });
    w.process("W", 3, true, |p: &Proc| {
        if let Some(g) = p.find_migrating_worker() {
            p.go_on_with_mark_done(g);
        }
    });
    w
}

fn five<'a>(cx: &'a Cx<'_>) -> Option<Gc<'a, Node>> {
    let weak = cx.root::<Weak<Node>>("w").expect("a root").get(cx);
    weak.expect("the weak reference itself").get(cx)
}

/// Whether node 5 is kept or gone, weak and strong say the same, now and after another two cycles.
fn ends_well(w: &World) -> Result<(), String> {
    for _ in 0..2 {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        let ids = chain_ids(&w.procs[0], "b");
        let weak = scope(&w.procs[0], |cx| five(cx).map(|five| five.id));
        match (&ids[..], weak) {
            ([3, 5], Some(5)) | ([3], None) => {}
            // The cycle that was on when M died, or looked, may have kept it.
            ([3], Some(5)) => {}
            other => return Err(format!("chain and weak reference are {other:?}")),
        }
        // What takes the place of the node must not be taken for it.
        chain(&w.procs[0], "c", &[6, 7, 8]);
        gc_start::request(&w.seg);
    }
    finish_cycle(w)?;
    let ids = chain_ids(&w.procs[0], "b");
    let weak = scope(&w.procs[0], |cx| five(cx).is_some());
    if weak == (ids.len() == 2) {
        Ok(())
    } else {
        Err(format!("the chain is {ids:?}, and weakly known: {weak}"))
    }
}
