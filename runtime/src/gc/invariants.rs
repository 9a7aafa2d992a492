//! The twenty invariants of Go's mark workers and phases, each as a test of its name, on two P's whose steps are taken by hand.
//!
//! Both P's belong to one thread, so every interleaving here is the one that is written down; where the point is a race, threads race.
//! Some of Go's rules have become a property of one word here; then the test shows that the word has it. Each is shown to fail
//! without a rule of the product, in `breakages.rs`.

use std::sync::{
    Barrier, Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use coheap::{Cx, Error, Gc, P, Segment, SegmentConfig, Shared, Slot};

use super::*;
use crate::{api::Inside, gc::gc_start, sched::procresize};

#[path = "breakages.rs"]
mod breakages;

#[derive(Shared)]
struct Node {
    next: Slot<Node>,
}

/// Two P's of one heap.
pub(super) struct World {
    pub(super) seg: Segment,
    pub(super) a: Held,
    pub(super) b: Held,
}

/// A P that is detached at the end of a test, but not when the test has failed: with a rule missing a detach may wait for ever.
pub(super) struct Held(Option<Proc>);

impl std::ops::Deref for Held {
    type Target = Proc;
    fn deref(&self) -> &Proc {
        self.0.as_ref().expect("held until it is dropped")
    }
}

/// Addresses of P's that are never detached: whoever looks for leaks finds them here.
static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Held {
    pub(super) fn keep(&mut self) {
        if let Some(p) = self.0.take() {
            let at = std::ptr::from_mut(Box::leak(Box::new(p)));
            KEPT.lock()
                .expect("no panic in here")
                .push(at.expose_provenance());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

pub(super) fn segment() -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes: 16 << 20,
        gc_percent: -1,
        ..SegmentConfig::default()
    })
    .expect("makes")
}

impl World {
    pub(super) fn new() -> World {
        let seg = segment();
        let [a, b] = [(); 2].map(|()| Held(Some(Proc::lease(seg.clone()).expect("leases"))));
        let world = World { seg, a, b };
        edge(&world.a);
        edge(&world.b);
        world
    }

    /// With a list of `n` objects under a root.
    pub(super) fn with_list(n: usize) -> World {
        let world = World::new();
        let _inside = Inside::enter(&world.a);
        let cx = Cx::new(&world.a);
        let mut last: Option<Gc<'_, Node>> = None;
        for _ in 0..n {
            let node = cx.alloc(Node { next: Slot::nil() }).expect("room");
            node.next.store(&cx, last);
            last = Some(node);
        }
        cx.root::<Node>("list").expect("root").set(&cx, last);
        drop(_inside);
        world
    }

    pub(super) fn kind(&self) -> u8 {
        self.seg.phase().kind()
    }

    /// Takes a cycle to a phase, with an edge of both P's before each step.
    pub(super) fn drive(&self, kind: u8) {
        gc_start::request(&self.seg);
        for _ in 0..1000 {
            if self.kind() == kind {
                return;
            }
            edge(&self.a);
            edge(&self.b);
            self.a.gc_step();
        }
        panic!("no way from phase {} to {kind}", self.kind());
    }

    /// Ends the running cycle; `look` is called after every piece of work.
    pub(super) fn finish(&self, mut look: impl FnMut(&World)) {
        for _ in 0..10_000 {
            if self.kind() == PhaseWord::OFF {
                return;
            }
            for p in [&self.a, &self.b] {
                edge(p);
                p.collector_work(true);
                look(self);
            }
        }
        panic!("the cycle does not end");
    }

    pub(super) fn slot(&self, p: &Proc) -> SlotWord {
        SlotWord(self.seg.slots[p.index()].word.load(SeqCst))
    }

    pub(super) fn worker(&self, g: usize) -> WorkerWord {
        WorkerWord(self.seg.workers[g].word.load(SeqCst))
    }

    /// Workers by slot, where it is full.
    fn designated(&self) -> Vec<usize> {
        [&self.a, &self.b]
            .iter()
            .map(|p| self.slot(p))
            .filter(|s| s.state() == SlotWord::FULL)
            .map(|s| s.worker() as usize)
            .collect()
    }
}

pub(super) fn edge(p: &Proc) {
    drop(Inside::enter(p));
}

/// B parks a worker whose home is A, `rounds` times; `look` runs in another thread as soon as A's slot shows it, and again when B is
/// done, and must see the same.
fn race_parking(rounds: u32, look: impl Fn(&World, usize) -> Vec<u64> + Sync) {
    let world = World::new();
    world.a.gc_bg_mark_start_workers();
    let g = world.slot(&world.a).worker() as usize;
    let full = SlotWord::full(g as u16, world.a.inc);
    let [begun, parked, seen] = [(); 3].map(|()| AtomicU32::new(0));
    let reach = |counter: &AtomicU32, n: u32, other: &dyn Fn() -> bool| {
        while counter.load(SeqCst) < n {
            assert!(!other(), "the other side has failed");
            // Mostly spinning: whoever sleeps meets no window of nanoseconds.
            for _ in 0..2000 {
                if counter.load(SeqCst) >= n {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    };
    let shared = Race(&world);
    std::thread::scope(|scope| {
        let (begun, parked, seen, look, shared) = (&begun, &parked, &seen, &look, &shared);
        let observer = scope.spawn(move || {
            let world = shared.world();
            for n in 1..=rounds {
                reach(begun, n, &|| false);
                while world.slot(&world.a) != full {
                    std::hint::spin_loop();
                }
                let first = look(world, g);
                reach(parked, n, &|| false);
                assert_eq!(first, look(world, g), "touched after it was published");
                seen.store(n, SeqCst);
            }
        });
        for n in 1..=rounds {
            assert!(world.b.claim_worker(g, world.worker(g)));
            assert!(world.b.detach_worker(g));
            begun.store(n, SeqCst);
            assert_eq!(world.b.park_worker(g), Park::Attached);
            parked.store(n, SeqCst);
            reach(seen, n, &|| observer.is_finished() && seen.load(SeqCst) < n);
        }
    });
}

/// Lets an observer read the words of a world whose P's another thread uses.
struct Race<'w>(&'w World);

#[expect(unsafe_code, reason = "an observer reads atomics of the segment")]
// SAFETY: the observer reads words of the segment, and of the P's only the index and incarnation, which never change.
unsafe impl Sync for Race<'_> {}

impl<'w> Race<'w> {
    fn world(&self) -> &'w World {
        self.0
    }
}

#[test]
fn i01_a_context_has_at_most_one_runner() {
    let world = World::new();
    world.a.gc_bg_mark_start_workers();
    let g = world.slot(&world.a).worker() as usize;
    for _ in 0..100 {
        let word = world.worker(g);
        let (start, wins) = (Barrier::new(4), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (start, wins, seg) = (&start, &wins, world.seg.clone());
                let missing = crate::twin::missing();
                scope.spawn(move || {
                    crate::twin::go_without(missing);
                    let p = Proc::lease(seg).expect("leases");
                    start.wait();
                    let won = p.claim_worker(g, word);
                    wins.fetch_add(won.into(), SeqCst);
                    start.wait();
                    if won && wins.load(SeqCst) == 1 {
                        let _ = p.park_worker(g);
                    }
                });
            }
        });
        assert_eq!(wins.load(SeqCst), 1);
    }
}

#[test]
fn i02_publish_happens_after_context_save_and_owner_clear() {
    race_parking(5000, |world, g| {
        let word = world.worker(g);
        assert_eq!(word.state(), WorkerWord::PARKED, "published while it runs");
        let saved = world.seg.workers[g].parked_by.load(SeqCst);
        assert_eq!(
            saved >> 32,
            world.b.index() as u64,
            "published before it was saved"
        );
        Vec::new()
    });
}

#[test]
fn i03_parker_touches_nothing_after_publish() {
    race_parking(5000, |world, g| {
        let w = &world.seg.workers[g];
        let small = [
            &w.pc,
            &w.mode,
            &w.runs,
            &w.migrations,
            &w.scanned,
            &w.round_epoch,
        ];
        let mut all: Vec<u64> = small.iter().map(|c| c.load(SeqCst).into()).collect();
        all.extend([&w.word, &w.home, &w.parked_by, &w.moved_at_ns].map(|c| c.load(SeqCst)));
        all
    });
}

#[test]
fn i04_release_then_clear_then_publish() {
    // Status and owner are one word: there is no state in which one is given up and the other is not.
    let world = World::new();
    world.a.gc_bg_mark_start_workers();
    let g = world.slot(&world.a).worker() as usize;
    assert!(world.b.claim_worker(g, world.worker(g)));
    let running = world.worker(g);
    assert_eq!(
        (running.state(), running.owner()),
        (WorkerWord::RUNNING, world.b.me)
    );
    assert!(world.b.detach_worker(g));
    assert_eq!(world.b.park_worker(g), Park::Attached);
    let parked = world.worker(g);
    assert_eq!(
        parked,
        running.moved(WorkerWord::PARKED, world.b.me),
        "more than one step"
    );
    assert_eq!(
        world.b.rec.now.0.worker.load(SeqCst),
        0,
        "still on record after the publication"
    );
}

#[test]
fn i05_one_worker_per_slot_and_one_container_per_worker() {
    let world = World::with_list(10);
    for _ in 0..3 {
        world.a.gc_bg_mark_start_workers();
        world.b.gc_bg_mark_start_workers();
    }
    let mut designated = world.designated();
    assert_eq!(designated.len(), 2);
    designated.dedup();
    assert_eq!(designated.len(), 2, "one worker in two slots");
    let used = used_workers(&world.seg).iter();
    let alive = used.filter(|w| WorkerWord(w.word.load(SeqCst)).state() != WorkerWord::FREE);
    assert_eq!(alive.count(), 2, "a worker in no slot");
}

#[test]
fn i06_attach_loser_is_unreachable_and_exits() {
    let world = World::new();
    world.a.gc_bg_mark_start_workers();
    let first = world.slot(&world.a);
    // B has read the slot when it was empty, and comes second.
    world
        .b
        .start_worker(world.a.index(), SlotWord::empty(world.a.inc));
    assert_eq!(world.slot(&world.a), first);
    assert_eq!(world.seg.hdr.stats.attach_lost.load(SeqCst), 1);
    let others = (0..used_workers(&world.seg).len()).filter(|g| !world.designated().contains(g));
    for g in others {
        assert_eq!(
            world.worker(g).state(),
            WorkerWord::FREE,
            "W{g} is reachable by nobody and lives"
        );
    }
}

#[test]
fn i07_slot_is_emptied_before_the_worker_may_block() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    edge(&world.a);
    edge(&world.b);
    // B stays in a scope: the round that ends marking has to wait for it.
    let inside = Inside::enter(&world.b);
    let mut waited = false;
    for _ in 0..100 {
        world.a.collector_work(true);
        for (g, w) in used_workers(&world.seg).iter().enumerate() {
            if WorkerWord(w.word.load(SeqCst)).state() == WorkerWord::RUNNABLE {
                waited = true;
                assert!(!world.designated().contains(&g), "W{g} waits in a slot");
            }
        }
    }
    assert!(waited && world.kind() == PhaseWord::ROUND);
    drop(inside);
    world.finish(|_| ());
}

#[test]
fn i08_slots_are_consumed_only_by_their_owner() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    let (first, _) = world.b.claim_slot_worker(Mode::Idle).expect("its own");
    assert_eq!(first, world.slot(&world.b).worker() as usize);
    assert_eq!(world.slot(&world.a).state(), SlotWord::FULL);
    assert_eq!(world.b.claim_slot_worker(Mode::Idle), None, "took A's");
    let _ = world.b.park_worker(first);
    world.finish(|_| ());
}

#[test]
fn i09_an_attached_worker_is_never_runnable() {
    let world = World::with_list(2000);
    let mut waited = false;
    let mut look = |world: &World| {
        for g in world.designated() {
            assert_ne!(
                world.worker(g).state(),
                WorkerWord::RUNNABLE,
                "W{g} is in a slot"
            );
        }
        waited |= (0..used_workers(&world.seg).len())
            .any(|g| world.worker(g).state() == WorkerWord::RUNNABLE);
    };
    for _ in 0..5 {
        world.drive(PhaseWord::MARK);
        edge(&world.b);
        // B stays in a scope: whoever begins the round that ends marking has to wait for it, as a runnable worker.
        let inside = Inside::enter(&world.b);
        for _ in 0..100 {
            edge(&world.a);
            world.a.collector_work(true);
            look(&world);
        }
        drop(inside);
        world.finish(&mut look);
    }
    assert!(waited, "no worker was ever runnable: shows nothing");
}

#[test]
fn i10_workers_run_only_with_blackening_on() {
    let world = World::with_list(10);
    for kind in [PhaseWord::OFF, PhaseWord::BARRIER, PhaseWord::BLACK] {
        world.drive(kind);
        for p in [&world.a, &world.b] {
            assert_eq!(p.find_runnable_gc_worker(), None, "in phase {kind}");
            assert_eq!(p.find_idle_gc_worker(), None, "in phase {kind}");
        }
    }
    world.drive(PhaseWord::MARK);
    let found = world
        .a
        .find_runnable_gc_worker()
        .or_else(|| world.a.find_idle_gc_worker());
    let (g, mode) = found.expect("there is work");
    world.a.gc_bg_mark_worker(g, mode);
    world.finish(|_| ());
}

#[test]
fn i11_no_completion_while_a_worker_is_active() {
    let world = World::with_list(10);
    world.drive(PhaseWord::MARK);
    let (busy, _) = world.b.claim_slot_worker(Mode::Idle).expect("its own");
    for _ in 0..200 {
        edge(&world.a);
        edge(&world.b);
        world.a.collector_work(true);
        assert_ne!(
            world.kind(),
            PhaseWord::OFF,
            "marking ended under B's worker"
        );
    }
    let _ = world.b.park_worker(busy);
    world.finish(|_| ());
}

#[test]
fn i12_the_cache_is_disposed_before_the_active_set_is_left() {
    let world = World::with_list(5000);
    world.drive(PhaseWord::MARK);
    world.finish(|world| {
        for p in [&world.a, &world.b] {
            let busy = used_workers(&world.seg).iter().any(|w| {
                let word = WorkerWord(w.word.load(SeqCst));
                word.state() == WorkerWord::RUNNING && word.owner() == p.me
            });
            assert!(
                busy || p.gcw.is_empty(),
                "P{} keeps grey references",
                p.index()
            );
            let held = p.rec.now.0.gcw.iter().any(|b| b.load(SeqCst) != 0);
            assert!(busy || !held, "P{} keeps a buffer", p.index());
        }
    });
}

#[test]
fn i13_each_transition_happens_once_per_cycle() {
    let world = World::with_list(100);
    let before = world.seg.hdr.stats.cycles.load(SeqCst);
    world.drive(PhaseWord::BARRIER);
    let mut seen = vec![PhaseWord::BARRIER];
    let first = world.seg.phase();
    for _ in 0..10_000 {
        for p in [&world.a, &world.b] {
            edge(p);
            p.gc_step();
            if world.kind() != *seen.last().expect("one") {
                seen.push(world.kind());
            }
            p.collector_work(true);
            if world.kind() != *seen.last().expect("one") {
                seen.push(world.kind());
            }
        }
        if world.kind() == PhaseWord::OFF {
            break;
        }
    }
    for once in [PhaseWord::BARRIER, PhaseWord::BLACK, PhaseWord::OFF] {
        assert_eq!(seen.iter().filter(|&&k| k == once).count(), 1, "{seen:?}");
    }
    // A P that has lost the processor on its way to a transition makes it once more, and comes too late.
    let off = world.seg.phase();
    world.b.turn_black(first);
    assert_eq!(world.seg.phase(), off, "a transition was made twice");
    assert_eq!(world.seg.phase().cycle(), first.cycle());
    assert_eq!(world.seg.hdr.stats.cycles.load(SeqCst), before + 1);
}

#[test]
fn i14_barrier_is_on_everywhere_before_the_first_blackening() {
    let world = World::with_list(100);
    let inside = Inside::enter(&world.b);
    gc_start::request(&world.seg);
    for _ in 0..100 {
        edge(&world.a);
        world.a.collector_work(true);
        assert!(!world.seg.phase().black(), "black, and B has no barrier");
    }
    assert_eq!(world.kind(), PhaseWord::BARRIER);
    assert!(!world.b.barrier.get() && world.seg.hdr.gc.scan_work.0.load(SeqCst) == 0);
    drop(inside);
    world.finish(|_| ());
}

#[test]
fn i15_blackening_is_off_before_assists_stop() {
    // No assist is parked, so none is woken: when blackening is off, a debtor does no work and does not wait.
    let world = World::with_list(100);
    world.drive(PhaseWord::MARK);
    world.finish(|_| ());
    let _inside = Inside::enter(&world.a);
    let before = world.a.assist_bytes.get();
    world.a.gc_assist_alloc(1 << 30);
    assert_eq!(
        world.a.assist_bytes.get(),
        before - (1 << 30),
        "in debt, and made to pay"
    );
    assert_eq!(world.seg.hdr.stats.mark_ns[3].load(SeqCst), 0);
}

#[test]
fn i16_resize_only_when_stopped() {
    let seg = segment();
    let mut p = P::lease(seg.clone()).expect("leases");
    let b = Proc::lease(seg.clone()).expect("leases");
    edge(&b);
    let before = seg.hdr.sched.gomaxprocs.0.load(SeqCst);
    let inside = Inside::enter(&b);
    let refused = procresize::procresize(&mut p, 1);
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    assert_eq!(seg.hdr.sched.gomaxprocs.0.load(SeqCst), before);
    drop(inside);
    procresize::procresize(&mut p, 1).expect("B is outside");
    assert_eq!(seg.hdr.sched.gomaxprocs.0.load(SeqCst), 1);
}

#[test]
fn i17_a_retired_worker_exits_at_its_next_wake() {
    let World { seg, a, b } = World::with_list(10);
    a.gc_bg_mark_start_workers();
    let g = SlotWord(seg.slots[a.index()].word.load(SeqCst)).worker() as usize;
    let word = WorkerWord(seg.workers[g].word.load(SeqCst));
    assert!(b.claim_worker(g, word) && b.detach_worker(g));
    let home = a.index();
    drop(a);
    assert_eq!(
        SlotWord(seg.slots[home].word.load(SeqCst)).state(),
        SlotWord::CLOSED
    );
    assert_eq!(b.park_worker(g), Park::Lost);
    assert_eq!(
        WorkerWord(seg.workers[g].word.load(SeqCst)).state(),
        WorkerWord::FREE
    );
}

#[test]
fn i18_no_cached_work_at_the_end_of_termination() {
    let world = World::with_list(5000);
    for _ in 0..3 {
        world.drive(PhaseWord::MARK);
        world.finish(|_| ());
        assert!(world.a.gcw.is_empty() && world.b.gcw.is_empty());
        assert!(world.seg.buf_full.none_below(world.seg.workbufs_used()));
        for word in &world.seg.buf_words[..world.seg.workbufs_used()] {
            let word = shm_layout::word::BufWord(word.load(SeqCst));
            assert_eq!(
                word.state(),
                shm_layout::word::BufWord::FREE,
                "a buffer outlives its cycle"
            );
        }
    }
}

#[test]
fn i19_credit_is_conserved() {
    let world = World::new();
    let credit = &world.seg.hdr.gc.bg_scan_credit.0;
    credit.store(1000, SeqCst);
    let taken: u64 = [&world.a, &world.b, &world.a, &world.b]
        .iter()
        .map(|p| p.steal_credit(300))
        .sum();
    assert_eq!((taken, credit.load(SeqCst)), (1000, 0));
    assert_eq!(world.a.steal_credit(1), 0);
    assert_eq!(credit.load(SeqCst), 0);
}

#[test]
fn i20_budgets_return_to_their_start_value_at_cycle_end() {
    let world = World::with_list(3000);
    for _ in 0..3 {
        world.drive(PhaseWord::MARK);
        world.seg.hdr.gc.dedicated_wanted.store(1, SeqCst);
        let mut held = 0;
        assert!(world.a.take_dedicated());
        assert!(!world.b.take_dedicated(), "two hold a budget of one");
        world.a.give_dedicated();
        world.finish(|world| {
            held = held.max(
                [&world.a, &world.b]
                    .iter()
                    .map(|p| p.rec.dedicated.load(SeqCst))
                    .sum(),
            );
        });
        assert!(held <= 1);
        for p in [&world.a, &world.b] {
            assert_eq!(
                p.rec.dedicated.load(SeqCst),
                0,
                "P{} keeps the budget",
                p.index()
            );
            assert_eq!(p.rec.mark_mode.load(SeqCst), 0);
        }
    }
}
