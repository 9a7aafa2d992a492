//! The models of weak memory (`orders`): two or three processes at one edge of a lock-free module, and the orders that it needs.

use std::{
    cell::Cell,
    rc::Rc,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
    time::Duration,
};

use shm_layout::word::{BufWord, PhaseWord, ProcWord, SlotWord, TaskWord};

use super::{
    orders::{self, Outcome, Weakening},
    scenarios::{
        Child, Node, all_ran_once, almost_marked, assist, at_mark_done, chain, chain_ids, children,
        claimed, expect_chain, get_root, hang, heap_is_sound, node, parent, run_tasks,
        run_to_the_end, scope, set_root, take_to, warm, workers_at_rest,
    },
    set_twin,
    world::{World, peek},
};
use crate::{
    Cx,
    api::Inside,
    gc::{gc_bg_mark_worker::Mode, gc_start},
    sched::proc::{Proc, claim_record},
};

/// A model of weak memory.
pub struct OrderModel {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a line.
    pub shows: &'static str,
    /// Switches away from a thread that could go on; `None`: any number.
    pub preemptions: Option<usize>,
    /// Orders that it must miss when taken away.
    pub twins: Vec<Weakening>,
    make: fn() -> World,
}

impl OrderModel {
    /// Runs it, with an order taken away or none.
    pub fn run(
        &self,
        preemptions: Option<usize>,
        patience: Duration,
        weak: Option<Weakening>,
    ) -> Outcome {
        set_twin("");
        orders::check(&(self.make)(), preemptions, patience, weak)
    }
}

const fn relaxed(words: &'static str) -> Weakening {
    Weakening {
        words,
        only_seq_cst: false,
    }
}

const fn acqrel(words: &'static str) -> Weakening {
    Weakening {
        words,
        only_seq_cst: true,
    }
}

/// Every model.
pub fn order_models() -> Vec<OrderModel> {
    vec![
        OrderModel {
            name: "worker-word",
            shows: "a worker that migrates: the context comes before the word",
            preemptions: None,
            twins: vec![relaxed("worker.word")],
            make: worker_word,
        },
        OrderModel {
            name: "attach",
            shows: "a worker parked by one P and claimed by its home: by the slot's order, or the word's",
            preemptions: None,
            twins: vec![relaxed("worker.word|P.gc_bg_mark_worker")],
            make: attach,
        },
        OrderModel {
            name: "slot-word",
            shows: "two P's start a worker for one slot, whose P goes: none is lost, none stands in a closed slot",
            preemptions: Some(3),
            twins: vec![relaxed("worker.word")],
            make: slot_word,
        },
        OrderModel {
            name: "edge",
            shows: "a scope's edge against two handshakes: nobody is inside under a phase that is over",
            preemptions: Some(4),
            twins: vec![acqrel("P.scope"), acqrel("gc.phase"), relaxed("P.scope")],
            make: edge,
        },
        OrderModel {
            name: "work-buffer",
            shows: "a published buffer is fetched: entries and length come before the word",
            preemptions: Some(4),
            twins: vec![relaxed("buf_full[]")],
            make: work_buffer,
        },
        OrderModel {
            name: "run-queue",
            shows: "put, take and steal: every task once, with its context",
            preemptions: Some(2),
            twins: vec![relaxed("P.runq_tail")],
            make: run_queue,
        },
        OrderModel {
            name: "task-word",
            shows: "a task that stands in another's queue already is made runnable: its context comes before the word",
            preemptions: None,
            twins: vec![relaxed("task.word")],
            make: task_word,
        },
        OrderModel {
            name: "commit",
            shows: "a task's steps on two P's, with effects: the next step sees what the last one left",
            preemptions: Some(2),
            twins: vec![relaxed("task.word|P.runq_tail")],
            make: commit,
        },
        OrderModel {
            name: "root-word",
            shows: "a repeated root update against another's: applied once",
            preemptions: None,
            twins: vec![relaxed("root+|seen[]")],
            make: root_word,
        },
        OrderModel {
            name: "note",
            shows: "a sleeper against a maker of work: no wake-up is lost",
            preemptions: None,
            twins: vec![acqrel("sched.idle"), acqrel("P.runq_tail")],
            make: note,
        },
        OrderModel {
            name: "page-bits",
            shows: "two P's claim and return pages",
            preemptions: None,
            twins: vec![relaxed("page_bits[]")],
            make: page_bits,
        },
        OrderModel {
            name: "span-word",
            shows: "a span given up by one P and taken by another: what is free in it comes before the word",
            preemptions: Some(3),
            twins: vec![relaxed("span.word|shape[]|span.next|span.listed")],
            make: span_word,
        },
        OrderModel {
            name: "life-word",
            shows: "a death is certified: the dead thread's last store is visible to who sees the certificate",
            preemptions: None,
            twins: vec![relaxed("P.life")],
            make: life_word,
        },
        OrderModel {
            name: "lease",
            shows: "a P is left, and two processes lease: each its own, and what the last lease left comes before the word",
            preemptions: Some(3),
            twins: vec![relaxed("P.word")],
            make: lease,
        },
        OrderModel {
            name: "round",
            shows: "a shade against the end of marking: a clean round has missed nothing",
            preemptions: Some(3),
            twins: vec![relaxed("P.scope|gc.dirty")],
            make: round,
        },
    ]
}

/// A world in which P2's worker is in P1's hands.
fn migrated() -> (World, usize) {
    let w = World::new(2);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    let g = claimed(&w.procs[2]);
    w.procs[2].detach_worker(g);
    w.procs[2].release_worker(g);
    assert_eq!(w.procs[1].find_migrating_worker(), Some(g));
    (w, g)
}

/// P2 has claimed worker `g`: it must see what P1 left.
fn sees_context(p: &Proc, g: usize) {
    let seen = p.seg.workers[g].parked_by.load(Relaxed) >> 32;
    assert_eq!(seen, 1, "the context is older than the word");
}

fn worker_word() -> World {
    let (mut w, g) = migrated();
    w.process("P1", 1, false, move |p| p.release_worker(g));
    w.process("P2", 2, false, move |p| {
        if let Some(g) = p.find_migrating_worker() {
            sees_context(p, g);
            let _ = p.park_worker(g);
        }
    });
    w.freeze();
    w
}

fn attach() -> World {
    let (mut w, g) = migrated();
    w.process("P1", 1, false, move |p| {
        let _ = p.park_worker(g);
    });
    w.process("P2", 2, false, move |p| {
        if let Some((g, _)) = p.claim_slot_worker(Mode::Idle) {
            sees_context(p, g);
            let _ = p.park_worker(g);
        }
    });
    w.check = Box::new(workers_at_rest);
    w.freeze();
    w
}

fn slot_word() -> World {
    let mut w = World::new(2);
    w.process("P1", 1, false, |p| start_for(p, 2));
    w.process("P2", 2, false, |p| {
        start_for(p, 2);
        p.retire_slot();
    });
    w.check = Box::new(|w| {
        workers_at_rest(w)?;
        let slot = SlotWord(peek(&w.seg.slots[2].word));
        if slot.state() == SlotWord::CLOSED {
            Ok(())
        } else {
            Err(format!("P2 has gone, and its slot is {slot:?}"))
        }
    });
    w.freeze();
    w
}

/// Starts a worker for `home`, as `gc_bg_mark_start_workers` does for all.
fn start_for(p: &Proc, home: usize) {
    let owner = ProcWord(p.seg.procs[home].word.0.load(Acquire));
    let slot = SlotWord(p.seg.slots[home].word.load(Acquire));
    if slot.state() == SlotWord::EMPTY && slot.inc() == owner.inc() {
        p.start_worker(home, slot);
    }
}

thread_local! {
    /// What really is, in the order of execution: no thread of a model reads these as memory.
    static INSIDE_OLD: Cell<bool> = const { Cell::new(false) };
    static BLACK: Cell<bool> = const { Cell::new(false) };
    static STORED: Cell<bool> = const { Cell::new(false) };
    static TOOK: Cell<u32> = const { Cell::new(0) };
}

/// Before each execution.
pub(super) fn reset_what_is() {
    INSIDE_OLD.set(false);
    BLACK.set(false);
    STORED.set(false);
    TOOK.set(0);
}

fn edge() -> World {
    let mut w = World::new(2);
    chain(&w.procs[0], "a", &[1]);
    let field = scope(&w.procs[0], |cx| cx.raw(get_root(cx, "a")));
    gc_start::request(&w.seg);
    for p in &w.procs {
        drop(Inside::enter(p));
    }
    // The sweep before a cycle goes in bursts, and is not what this is about.
    while w.procs[1].background_sweep() {}
    let old = w.seg.phase().epoch();
    w.process("M", 1, false, move |p| {
        p.enter_scope();
        if p.seen.get().epoch() == old {
            assert!(!BLACK.get(), "inside under a phase that was over before");
            INSIDE_OLD.set(true);
            let cx = Cx::new(p);
            let one = cx.gc::<Node>(field).expect("an object");
            one.next.store(&cx, Some(one));
            STORED.set(true);
            INSIDE_OLD.set(false);
        }
        p.leave_scope();
    });
    w.process("C", 2, false, move |p| {
        for _ in 0..2 {
            p.gc_step();
        }
        if p.seg.phase().kind() == PhaseWord::BLACK {
            BLACK.set(true);
            assert!(
                !INSIDE_OLD.get(),
                "a scope from before the barrier is still on, and allocation is black"
            );
            let cx = Cx::new(p);
            let one = cx.gc::<Node>(field).expect("an object");
            let seen = one.next.load(&cx).is_some();
            assert!(
                seen || !STORED.get(),
                "the handshake is over, and what a scope stored before it is not seen"
            );
        }
    });
    w.freeze();
    w
}

fn work_buffer() -> World {
    let mut w = World::new(2);
    gc_start::request(&w.seg);
    take_to(&w, PhaseWord::MARK);
    while w.procs[0].markroot_next(w.seg.marks_of(w.seg.phase().cycle())) {}
    for p in &w.procs {
        p.gcw_dispose();
    }
    w.process("P1", 1, false, |p| {
        p.gcw_put(0x1111);
        p.gcw_put(0x2222);
        p.gcw_dispose();
    });
    w.process("P2", 2, false, |p| {
        if p.gcw_fetch() {
            let buf = p.gcw_active().expect("a buffer");
            assert_eq!(
                buf.len.load(Relaxed),
                2,
                "the length is older than the word"
            );
            for (k, r) in [0x1111, 0x2222].into_iter().enumerate() {
                assert_eq!(
                    buf.refs[k].load(Relaxed),
                    r,
                    "an entry is older than the word"
                );
            }
            TOOK.set(1);
        }
    });
    w.check = Box::new(|w| {
        let full = |i: usize| BufWord(peek(&w.seg.buf_words[i])).state() == BufWord::FULL;
        let fulls = (0..w.seg.workbufs_used()).filter(|&i| full(i)).count();
        let found = w
            .seg
            .buf_full
            .first_below(0, w.seg.workbufs_used())
            .is_some();
        match (TOOK.get(), fulls, found) {
            (1, 0, _) | (0, 1, true) => Ok(()),
            other => Err(format!("(taken, published, to be found): {other:?}")),
        }
    });
    w.freeze();
    w
}

fn run_queue() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 2);
    // A third, which is made runnable and put while the others are stolen.
    let (third, word, context) = scope(&w.procs[1], |cx| {
        let p = cx.proc();
        let kind = p.kind_index::<Child>().expect("a kind");
        let context = cx.raw(Some(cx.alloc(Child { id: 2 }).expect("room")));
        let (task, word) = p.reserve_task(kind, 0, 0).expect("a task");
        (task, word, context)
    });
    w.procs[1].rec.now.0.task.store(0, Relaxed);
    w.process("P1", 1, false, move |p| {
        p.seg.tasks[third].context[word.sel() as usize].store(context, Relaxed);
        crate::sched::task::make_runnable(&p.seg, third, word);
        p.runq_put(third, false);
        if let Some(task) = p.runq_get() {
            give_back(p, task);
        }
    });
    w.process("P2", 2, false, move |p| {
        while let Some(task) = p.steal_work() {
            let sel = TaskWord(p.seg.tasks[task].word.load(Relaxed)).sel();
            let seen = p.seg.tasks[task].context[sel as usize].load(Relaxed);
            assert!(
                task != third || seen == context,
                "the context is older than the task's word"
            );
            give_back(p, task);
        }
    });
    w.check = Box::new(move |w| all_ran_once(w, table, 3));
    w.freeze();
    w
}

fn task_word() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    let (task, word, context) = scope(&w.procs[1], |cx| {
        let p = cx.proc();
        let kind = p.kind_index::<Child>().expect("a kind");
        let context = cx.raw(Some(cx.alloc(Child { id: 0 }).expect("room")));
        let (task, word) = p.reserve_task(kind, 0, 0).expect("a task");
        (task, word, context)
    });
    w.procs[1].rec.now.0.task.store(0, Relaxed);
    w.procs[2].runq_put(task, false);
    w.process("P1", 1, false, move |p| {
        p.seg.tasks[task].context[word.sel() as usize].store(context, Relaxed);
        crate::sched::task::make_runnable(&p.seg, task, word);
        crate::sched::run_queue::put_global(&p.seg, task);
    });
    w.process("P2", 2, false, move |p| {
        if let Some(task) = p.runq_get() {
            let seen = p.seg.tasks[task].context[word.sel() as usize].load(Relaxed);
            assert_eq!(seen, context, "the context is older than the task's word");
            give_back(p, task);
        }
    });
    w.check = Box::new(move |w| all_ran_once(w, table, 1));
    w.freeze();
    w
}

/// Makes a claimed task runnable again, for the observer to run: claimed twice, it would not be ours.
fn give_back(p: &Proc, task: usize) {
    let word = TaskWord(p.seg.tasks[task].word.load(Relaxed));
    assert_eq!(
        (word.state(), word.owner()),
        (TaskWord::RUNNING, p.me),
        "a task was claimed twice"
    );
    crate::sched::task::make_runnable(&p.seg, task, word);
    crate::sched::run_queue::put_global(&p.seg, task);
}

fn commit() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    parent(&w);
    w.process("P1", 1, false, move |p| run_tasks(p, table, 2));
    w.process("P2", 2, false, move |p| {
        if let Some(task) = p.steal_work() {
            p.run_task(task, table);
        }
    });
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        let ends = [("parent", 5), ("log7", 7), ("done", 6)];
        for (name, id) in ends {
            expect_chain(w, name, &[id])?;
        }
        heap_is_sound(w)
    });
    w.freeze();
    w
}

fn root_word() -> World {
    let mut w = World::new(2);
    scope(&w.procs[0], |cx| {
        for (name, id) in [("a", 0), ("one", 1), ("two", 2)] {
            set_root(cx, name, Some(node(cx, id, None)));
        }
    });
    let index = w.seg.root_index("a").expect("a root");
    let seq = w.procs[2].next_update_seq();
    w.process("P1", 1, false, |p| {
        let cx = Cx::new(p);
        let (one, two) = (get_root(&cx, "one"), get_root(&cx, "two"));
        let root = cx.root::<Node>("a").expect("a root");
        TOOK.set(root.compare_exchange(&cx, two, one).into());
    });
    let two = scope(&w.procs[0], |cx| cx.raw(get_root(cx, "two")));
    w.process("P2", 2, false, move |p| {
        // As the committer, and again as whoever finds it dead.
        for _ in 0..2 {
            crate::api::root::update_root(&p.seg, index, two, p.me.p, seq);
        }
    });
    w.check = Box::new(|w| {
        let last = chain_ids(&w.procs[0], "a");
        if last == [if TOOK.get() == 1 { 1 } else { 2 }] {
            Ok(())
        } else {
            Err(format!(
                "the root holds {last:?}: an update was applied twice, or lost"
            ))
        }
    });
    w.freeze();
    w
}

fn note() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 1);
    let task = w.procs[1].runq_get().expect("a task");
    let word = TaskWord(w.seg.tasks[task].word.load(Relaxed));
    w.procs[1].rec.now.0.task.store(0, Relaxed);
    let before = peek32(&w, 2);
    w.process("P1", 1, false, move |p| {
        crate::sched::task::make_runnable(&p.seg, task, word);
        p.runq_put(task, false);
    });
    w.process("P2", 2, false, |p| {
        p.stop_p(Duration::from_millis(1), || !p.any_runnable());
        TOOK.set(1);
    });
    w.check = Box::new(move |w| {
        if TOOK.get() == 0 && peek32(w, 2) == before {
            return Err("P2 sleeps, there is work, and nobody woke it".into());
        }
        all_ran_once(w, table, 1)
    });
    w.freeze();
    w
}

/// The event count of P `p`.
fn peek32(w: &World, p: usize) -> u32 {
    w.seg.procs[p].ev.0.load(Relaxed)
}

fn page_bits() -> World {
    let mut w = World::new(2);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, false, |p| {
            let first = p.seg.claim_pages(2, p.me, &mut 0, &mut || false);
            p.seg.free_pages(first.expect("free pages"), p.me);
        });
    }
    w.check = Box::new(heap_is_sound);
    w.freeze();
    w
}

/// P1 takes a run of free slots in a span that P2 takes next, when P1 has given it up: no slot goes to both.
fn span_word() -> World {
    let mut w = World::new(2);
    chain(&w.procs[1], "a", &[1, 2]);
    w.procs[1].release_spans();
    let took: Rc<[Cell<u32>; 2]> = Rc::default();
    for (i, name) in [(0, "P1"), (1, "P2")] {
        let took = took.clone();
        w.process(name, i + 1, false, move |p| {
            let node = scope(p, |cx| cx.raw(Some(node(cx, 7, None))));
            took[i].set(node);
            p.release_spans();
        });
    }
    w.check = Box::new(move |w| {
        let [one, two] = [took[0].get(), took[1].get()];
        if one == two {
            return Err(format!("both P's have made an object at {one:#x}"));
        }
        expect_chain(w, "a", &[1, 2])
    });
    w.freeze();
    w
}

/// P1 stores, and ends: then the kernel does what it does for a robust mutex, on the same processor. P2 is about to recover it.
fn life_word() -> World {
    let mut w = World::new(2);
    let record = w.procs[1].rec;
    w.process("P1", 1, false, |p| {
        p.rec.now.0.task.store(5, Relaxed);
        crate::life::word(p.rec).fetch_or(0x4000_0000, AcqRel);
    });
    w.process("P2", 2, false, move |_| {
        if crate::life::is_dead(record) {
            let task = record.now.0.task.load(Relaxed);
            assert_eq!(task, 5, "the certificate is older than the last store");
        }
    });
    w.freeze();
    w
}

/// A P's update sequence goes on across leases: it tells a root update of one lease from those of all others.
fn lease() -> World {
    let mut w = World::new(3);
    let before = w.procs[1].rec.update_seq.load(Relaxed);
    let got: Rc<[Cell<usize>; 2]> = Rc::default();
    w.process("P1", 1, false, |p| {
        p.next_update_seq();
        p.vacate(ProcWord(p.rec.word.0.load(Relaxed)));
    });
    for (i, name) in [(0, "P2"), (1, "P3")] {
        let got = got.clone();
        w.process(name, i + 2, false, move |p| {
            let (mine, _) = claim_record(&p.seg, 7).expect("a vacant record");
            got[i].set(mine);
            if mine == 1 {
                let seq = p.seg.procs[1].update_seq.load(Relaxed);
                assert_eq!(
                    seq,
                    before + 1,
                    "the lease is older than what the last one left"
                );
            }
        });
    }
    w.check = Box::new(move |_| {
        let [one, two] = [got[0].get(), got[1].get()];
        if one == two {
            return Err(format!("P{one} is leased to two processes"));
        }
        Ok(())
    });
    w.freeze();
    w
}

fn round() -> World {
    let (mut w, two) = almost_marked();
    at_mark_done(&mut w);
    w.process("M", 1, false, move |p| {
        hang(p, two);
        assist(p);
        p.leave_scope();
    });
    w.check = Box::new(|w| {
        let phase = w.seg.phase();
        if phase.kind() != PhaseWord::OFF {
            return Ok(());
        }
        match crate::gc::checkmark::missed(&w.seg, phase.cycle()).first() {
            None => Ok(()),
            Some((parent, child)) => Err(format!(
                "marking is over, and {child:#x}, referred to by {parent:#x}, is not marked"
            )),
        }
    });
    w.freeze();
    w
}
