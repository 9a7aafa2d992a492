//! Go's `throw`s (`go-semantics.md` 1K), one by one: what stands for each here, and the test that shows it.
//!
//! | Go's throw | here | test |
//! |---|---|---|
//! | blackening not enabled (worker) | a worker claimed after the end finds nothing and parks | `gcbgmarkworker_blackening_not_enabled` |
//! | blackening not enabled (pick) | nothing is picked | `findrunnable_blackening_not_enabled` |
//! | unexpected mode, mode not set, unknown mode on stop | `Mode` is an enum; zero on the P is "no worker" | `gcbgmarkworker_mode_is_set_while_it_runs_only` |
//! | gopark: bad status | throw | `gopark_bad_status` |
//! | casgstatus: bad values; waiting for Gwaiting but is Grunnable | one attempt, refused; nobody waits for another's status | `casgstatus_bad_values` |
//! | schedule: holding locks | throw | `schedule_holding_locks` |
//! | schedule: spinning with local work | local queues come first in one function; a count, no flag of the P | (`find_runnable.rs`) |
//! | negative nmspinning | the count stops at zero: recovery may have reset it meanwhile | `negative_nmspinning` |
//! | acquirep, releasep: invalid p state | lease: compare-exchange from vacant; detach: throw | `releasep_invalid_p_state`, `leases.rs` |
//! | procresize: invalid arg | `Error::Invalid` | `procresize_invalid_arg` |
//! | stopTheWorld: holding locks | throw | `stoptheworld_holding_locks` |
//! | stopTheWorld: not stopped | `Error::Busy`, and nothing has changed | `stoptheworld_not_stopped` |
//! | gcDrain phase incorrect | harmless: there is no root job and no buffer outside a cycle | `gcdrain_phase_incorrect` |
//! | checkmark found unmarked object | the process ends, with parent and child | `checkmark_found_unmarked_object`, `planted.rs` |
//! | left over markroot jobs | throw (debug) | `left_over_markroot_jobs` |
//! | work.full != 0 | throw (debug) | `work_full_is_not_empty` |
//! | P has cached GC work at end of mark termination | throw | `p_has_cached_gc_work_at_end_of_mark_termination` |
//! | gcMark: wrong phase; gc done but phase not off | one compare-exchange, `ROUND -> OFF`, of the word that was judged | `gcmark_wrong_phase` |
//! | next_gc underflow, trigger greater than goal | bounds | `trigger_lies_between_live_and_goal` (`gc_controller.rs`) |
//! | gcSweep: phase | nothing is swept | `gcsweep_phase` |
//! | bad span state | throw (debug) | `bad_span_state` |
//! | swept cached span | rule 5: the explorer's twin `sweep-cached` | `prove sweep` |
//! | sweep increased allocation count | throw | `sweep_increased_allocation_count` |
//! | found pointer to free object | a finding of `verify` | `found_pointer_to_free_object` |
//! | sweeper left outstanding across generations | a cycle begins only when all is swept | `sweeper_left_outstanding_across_generations` |
//! | p mcache not flushed | an edge into a new generation gives all spans up | `p_mcache_is_flushed` |
//! | P destroyed while GC is running | may happen here; its work is published first | `p_destroyed_while_gc_is_running` |
//!
//! **What does not apply.** `nwait > nproc`, negative idle workers: no counters, the worker words and the P's modes are counted when
//! somebody asks. gcstopm not waiting: whoever waits compares the phase word, there is no flag to be wrong. forEachP (three): a
//! handshake has no function to be run and no list of who has run it; each P's scope word says what it has seen. notewakeup
//! double: notes are counters, a second wake is no harm. obj not pointer-aligned: a reference counts granules and cannot be
//! unaligned; `check_object` sees one into the middle of a slot. scan missed a g: there are no stacks; tasks are root jobs, and
//! those are counted. P has unflushed stats: what a P counts is read where it counts it. failed to set sweep barrier: sweeping has
//! no barrier of its own.

use super::{
    invariants::{World, edge, segment},
    *,
};
use crate::{
    Error,
    api::{Inside, P},
    gc::{checkmark, gc_start, verify},
    heap::{marks, sweep},
    sched::{procresize, task::Kinds},
};
use std::sync::atomic::AtomicBool;

use shm_layout::word::{BufWord, RootWord, SpanWord};

/// The object under the root "list", and its span.
fn first(world: &World) -> (u32, usize) {
    let index = world.seg.root_index("list").expect("a root");
    let r = RootWord(world.seg.roots[index].value.load(SeqCst)).reference();
    let page = r as usize / shm_layout::PAGE_GRANULES;
    (r, world.seg.span_head(page))
}

/// An object of four granules.
#[derive(coheap::Shared)]
struct Large {
    _words: [u64; 4],
}

/// What `f` throws. The world goes on afterwards: a test has to leave it so that its P's can detach.
fn thrown(f: impl FnOnce()) -> String {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    let what = caught.expect_err("nothing was thrown");
    match what.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "no text".into(),
    }
}

/// A worker, claimed by A out of its slot.
fn claimed(world: &World) -> usize {
    world.a.gc_bg_mark_start_workers();
    world.a.claim_slot_worker(Mode::Idle).expect("parked").0
}

/// In the round that would end marking, whatever is left to be done.
fn round_too_early(world: &World) -> PhaseWord {
    world.drive(PhaseWord::MARK);
    let round = world.seg.phase().next(PhaseWord::ROUND);
    world.seg.hdr.gc.phase.0.store(round.0, SeqCst);
    round
}

#[test]
fn gcbgmarkworker_blackening_not_enabled() {
    let world = World::with_list(10);
    let g = claimed(&world);
    let before = world.seg.hdr.gc.scan_work.0.load(SeqCst);
    world.a.gc_bg_mark_worker(g, Mode::Idle);
    assert_eq!(world.seg.hdr.gc.scan_work.0.load(SeqCst), before);
    assert_eq!(world.worker(g).state(), WorkerWord::PARKED);
}

#[test]
fn findrunnable_blackening_not_enabled() {
    let world = World::with_list(10);
    world.a.gc_bg_mark_start_workers();
    assert_eq!(world.a.find_runnable_gc_worker(), None);
    assert_eq!(world.a.find_idle_gc_worker(), None);
    world.drive(PhaseWord::MARK);
    let (g, _) = world.a.find_idle_gc_worker().expect("shows nothing");
    assert_eq!(world.a.park_worker(g), Park::Attached);
}

#[test]
fn gcbgmarkworker_mode_is_set_while_it_runs_only() {
    let world = World::with_list(3000);
    world.drive(PhaseWord::MARK);
    let (g, mode) = world.a.find_idle_gc_worker().expect("there is work");
    assert_eq!(world.seg.workers[g].mode.load(SeqCst), mode as u32);
    assert_ne!(mode as u32, 0, "zero is no mode");
    world.a.gc_bg_mark_worker(g, mode);
    assert_eq!(world.a.rec.mark_mode.load(SeqCst), 0);
}

#[test]
fn gopark_bad_status() {
    let world = World::new();
    let g = claimed(&world);
    let what = thrown(|| {
        let _ = world.b.park_worker(g);
    });
    assert!(what.contains("gopark: bad status"), "{what}");
    assert_eq!(world.a.park_worker(g), Park::Attached);
}

#[test]
fn casgstatus_bad_values() {
    let world = World::new();
    world.a.gc_bg_mark_start_workers();
    let g = world.slot(&world.a).worker() as usize;
    let parked = world.worker(g);
    assert!(world.a.claim_worker(g, parked));
    let running = world.worker(g);
    // The slot still designates it; its own P sees that it runs, and does not wait.
    assert_eq!(world.a.claim_slot_worker(Mode::Idle), None);
    assert!(!world.b.claim_worker(g, parked));
    assert_eq!(world.worker(g), running, "touched by who lost");
    assert_eq!(world.a.park_worker(g), Park::Attached);
}

#[test]
fn schedule_holding_locks() {
    let world = World::new();
    let kinds = Kinds::new();
    let kinds = kinds.resolve(&world.a).expect("room");
    let _inside = Inside::enter(&world.a);
    let what = thrown(|| {
        world.a.schedule(&kinds);
    });
    assert!(what.contains("schedule: holding locks"), "{what}");
}

#[test]
fn negative_nmspinning() {
    let world = World::new();
    let spinning = &world.seg.hdr.sched.spinning.0;
    let kinds = Kinds::new();
    let kinds = kinds.resolve(&world.a).expect("room");
    // A recoverer has reset the count while others were counted in it.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let resetter = scope.spawn(|| {
            while !stop.load(SeqCst) {
                spinning.store(0, SeqCst);
            }
        });
        for _ in 0..2000 {
            world.a.schedule(&kinds);
            assert!(spinning.load(SeqCst) <= 1);
        }
        stop.store(true, SeqCst);
        resetter.join().expect("ends");
    });
}

#[test]
fn releasep_invalid_p_state() {
    let world = World::new();
    let word = ProcWord(world.a.rec.word.0.load(SeqCst));
    let dead = word.with_state(ProcWord::DEAD);
    world.a.rec.word.0.store(dead.0, SeqCst);
    let what = thrown(|| world.a.detach());
    assert!(what.contains("releasep: invalid p state"), "{what}");
    world.a.rec.word.0.store(word.0, SeqCst);
}

#[test]
fn procresize_invalid_arg() {
    let mut p = P::lease(segment()).expect("leases");
    for procs in [0, MAX_P + 1] {
        let refused = procresize::procresize(&mut p, procs);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
}

#[test]
fn stoptheworld_holding_locks() {
    let world = World::new();
    let _inside = Inside::enter(&world.a);
    let what = thrown(|| drop(world.a.stop_the_world()));
    assert!(what.contains("stopTheWorld: holding locks"), "{what}");
}

#[test]
fn stoptheworld_not_stopped() {
    let world = World::new();
    let inside = Inside::enter(&world.b);
    let before = world.kind();
    let refused = world.a.stop_the_world().map(drop);
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    assert_eq!(world.kind(), before, "started again");
    drop(inside);
    world.a.stop_the_world().map(drop).expect("B is outside");
}

#[test]
fn gcdrain_phase_incorrect() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    let marked = world.seg.hdr.gc.bytes_marked.0.load(SeqCst);
    assert_eq!(world.a.gc_drain(Until::NoWork, now_ns()), 0);
    assert_eq!(world.seg.hdr.gc.bytes_marked.0.load(SeqCst), marked);
    assert!(world.a.gcw.is_empty());
}

#[test]
fn checkmark_found_unmarked_object() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    let cycle = world.seg.phase().cycle();
    assert_eq!(checkmark::missed(&world.seg, cycle), []);
    let (r, _) = first(&world);
    let bits = world.seg.marks_of(cycle);
    bits[r as usize / 64].fetch_and(!(1 << (r % 64)), SeqCst);
    assert_eq!(checkmark::missed(&world.seg, cycle), [(0, r)]);
}

#[test]
fn left_over_markroot_jobs() {
    let world = World::with_list(10);
    let round = round_too_early(&world);
    let what = thrown(|| {
        let _ = world.a.mark_termination(round);
    });
    assert!(what.contains("left over markroot jobs"), "{what}");
}

#[test]
fn work_full_is_not_empty() {
    let world = World::with_list(10);
    let round = round_too_early(&world);
    while world.a.markroot_next(world.seg.marks_of(round.cycle())) {}
    world.a.gcw_put(first(&world).0);
    world.a.gcw_dispose();
    let what = thrown(|| {
        let _ = world.a.mark_termination(round);
    });
    assert!(what.contains("work.full != 0"), "{what}");
}

#[test]
fn p_has_cached_gc_work_at_end_of_mark_termination() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    edge(&world.a);
    world.a.gcw_put(first(&world).0);
    let off = world.seg.phase().next(PhaseWord::OFF);
    world.seg.hdr.gc.phase.0.store(off.0, SeqCst);
    let what = thrown(|| edge(&world.a));
    assert!(what.contains("P has cached GC work"), "{what}");
    world.a.gcw_dispose();
    world.a.leave_scope();
}

#[test]
fn gcmark_wrong_phase() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    let (off, cycles) = (world.seg.phase(), world.seg.hdr.stats.cycles.load(SeqCst));
    // A late worker comes with the round that somebody else has ended.
    let _ = world.a.mark_termination(off.next(PhaseWord::ROUND));
    assert_eq!(world.seg.phase(), off);
    assert_eq!(world.seg.hdr.stats.cycles.load(SeqCst), cycles);
}

#[test]
fn gcsweep_phase() {
    let world = World::with_list(3000);
    world.drive(PhaseWord::MARK);
    edge(&world.a);
    assert!(!world.a.sweep_some() && !world.a.sweep_all());
    world.finish(|_| ());
    edge(&world.a);
    assert!(world.a.sweep_some(), "shows nothing");
}

#[test]
fn bad_span_state() {
    let world = World::with_list(10);
    let (_, page) = first(&world);
    let what = thrown(|| sweep::finish_sweep(&world.seg, page, world.a.me, 1, false));
    assert!(what.contains("bad span state"), "{what}");
}

#[test]
fn sweep_increased_allocation_count() {
    let world = World::new();
    // An object of one granule would leave no mark too many.
    let r = {
        let _inside = Inside::enter(&world.a);
        let cx = coheap::Cx::new(&world.a);
        let large = cx.alloc(Large { _words: [7; 4] }).expect("room");
        cx.raw(Some(large))
    };
    let page = world.seg.span_head(r as usize / shm_layout::PAGE_GRANULES);
    let span = &world.seg.spans[page];
    let word = SpanWord(span.word.load(SeqCst));
    let swept = word.moved(SpanWord::SWEEPING, world.a.me);
    span.word.store(swept.0, SeqCst);
    let bits = world.seg.marks_of(1);
    let first = page * shm_layout::PAGE_GRANULES;
    for r in first..first + shm_layout::PAGE_GRANULES {
        marks::mark(bits, r as u32);
    }
    let what = thrown(|| sweep::finish_sweep(&world.seg, page, world.a.me, 1, false));
    assert!(what.contains("sweep increased allocation count"), "{what}");
    span.word.store(word.0, SeqCst);
}

#[test]
fn found_pointer_to_free_object() {
    let world = World::with_list(1);
    assert_eq!(
        verify::report(&world.seg, true).findings,
        Vec::<String>::new()
    );
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    edge(&world.a);
    while world.a.sweep_some() {}
    let beyond = first(&world).0 + 1; // the object is one granule, and alone
    let index = world.seg.root_index("list").expect("a root");
    let value = &world.seg.roots[index].value;
    let word = RootWord(value.load(SeqCst));
    value.store(word.with_reference(beyond).0, SeqCst);
    let found = verify::report(&world.seg, true).findings;
    assert!(found.iter().any(|f| f.contains("is free")), "{found:?}");
    value.store(word.0, SeqCst);
}

#[test]
fn sweeper_left_outstanding_across_generations() {
    let world = World::with_list(3000);
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    let generation = sweep::sweepgen_of(world.seg.phase());
    let unswept = || {
        let words = world
            .seg
            .spans
            .iter()
            .map(|s| SpanWord(s.word.load(SeqCst)));
        words
            .filter(|&w| sweep::is_span(w) && w.sweepgen() != generation)
            .count()
    };
    assert_ne!(unswept(), 0, "shows nothing");
    gc_start::request(&world.seg);
    while world.kind() == PhaseWord::OFF {
        edge(&world.a);
        edge(&world.b);
        world.a.gc_step();
    }
    assert_eq!(unswept(), 0);
}

#[test]
fn p_mcache_is_flushed() {
    let world = World::with_list(10);
    let held = || {
        let cached = world.a.area.cached.iter();
        cached.filter(|c| c.load(SeqCst) != 0).count()
    };
    assert_ne!(held(), 0, "shows nothing");
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    edge(&world.a);
    assert_eq!(held(), 0);
}

#[test]
fn p_destroyed_while_gc_is_running() {
    let World { seg, a, b } = World::with_list(3000);
    gc_start::request(&seg);
    while seg.phase().kind() != PhaseWord::MARK {
        edge(&a);
        edge(&b);
        a.gc_step();
    }
    edge(&b);
    b.gc_drain(Until::Bytes(100), now_ns());
    b.detach();
    let owner = b.me;
    let owned = |word: &shm_layout::sync::AtomicU64| {
        let word = BufWord(word.load(SeqCst));
        word.state() == BufWord::OWNED && word.owner() == owner
    };
    assert!(!seg.buf_words.iter().any(owned), "a buffer goes with it");
    while seg.phase().kind() != PhaseWord::OFF {
        edge(&a);
        a.collector_work(true);
    }
    assert_eq!(verify::report(&seg, true).findings, Vec::<String>::new());
}
