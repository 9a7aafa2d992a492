//! Tasks: queues, stealing, sleeping, giving up; a step's effects, once each.

use std::sync::atomic::Ordering::Relaxed;

use shm_layout::word::TaskWord;

use super::{Case, Whole, judge::*, script::*, twin};
use crate::{
    model::world::{World, peek},
    sched::task::Resolved,
};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("steal", "half a run queue is stolen; every task runs once", steal).short(1, 1).long(2, 3, 600).twins(&[twin("steal-by-add", 0, 1)]),
        Case::new("sleep", "whoever makes work and dies before it wakes a sleeper: recovery wakes it", sleep).whole(Whole::InCi).short(2, 2).long(2, None, 600).twins(&[twin("sleep-no-wake-all", 1, 0)]),
        Case::new("give-up", "a step that has killed often enough kills once more, and its recoverer dies: it is not run again", give_up).whole(Whole::InCi).short(2, 2).long(3, None, 600).twins(&[twin("death-then-count", 2, 0)]),
        Case::new("claim", "a task that stands in two queues runs once", claim).whole(Whole::InCi).short(1, 1).long(2, 3, 600).twins(&[twin("claim-task-by-store", 0, 1)]),
        Case::new("overflow", "a step's spawn overflows the ring while the step is being committed", overflow).whole(Whole::InCi).short(1, 0).long(2, 2, 600).twins(&[twin("overflow-forgets", 0, 0)]),
        Case::new("root", "a root update of a task that dies, against another's: applied once", root).whole(Whole::InCi).short(1, 1).long(2, None, 600).twins(&[twin("seen-unread", 1, 1)]),
        Case::new("commit", "a step spawns, updates a root and ends a join: once each, whoever dies", commit).whole(Whole::InSmallerForms).short(2, 2).long(3, None, 600).twins(&[twin("clear-commit-before-finish", 1, 0), twin("applied-before-effect", 1, 0), twin("effects-before-commit", 1, 0), twin("scan-before-close", 1, 0)]),
        Case::new("commit-step", "one step of a task that spawns a child and goes on, whoever runs it: the child once, its task once", commit_step).short(2, 2).long(3, None, 600).twins(&[twin("clear-commit-before-finish", 1, 0), twin("applied-before-effect", 1, 0), twin("effects-before-commit", 1, 0), twin("scan-before-close", 1, 0)]),
        Case::new("commit-join", "the rest of `commit`: a child ends, who waits for it goes on, and ends", commit_join).short(2, 2).long(3, None, 600).twins(&[twin("clear-commit-before-finish", 1, 0), twin("applied-before-effect", 1, 0), twin("effects-before-commit", 1, 0)]),
    ]
}

fn steal() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 3);
    w.process("P1", 1, true, move |p| run_tasks(p, table, 1));
    w.process("P2", 2, true, move |p| {
        if let Some(task) = p.steal_work() {
            p.run_task(task, table);
        }
    });
    w.recoverer("R");
    w.check = Box::new(move |w| all_ran_once(w, table, 3));
    w.freeze();
    w
}

fn sleep() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 1);
    let task = w.procs[1].runq_get().expect("a task");
    let word = TaskWord(w.seg.tasks[task].word.load(Relaxed));
    w.process("P1", 1, true, move |p| {
        crate::sched::task::make_runnable(&p.seg, task, word);
        p.runq_put(task, false);
    });
    w.process("P2", 2, false, |p| {
        p.stop_p(std::time::Duration::from_millis(1), || !p.any_runnable());
    });
    w.recoverer("R");
    w.check = Box::new(move |w| {
        // Who wakes a sleeper takes its bit away; one that does not sleep has done so itself.
        let asleep = w.seg.hdr.sched.idle.0[0].load(Relaxed) >> 2 & 1 != 0;
        if asleep && w.procs[0].any_runnable() {
            return Err("P2 sleeps, there is work, and nobody woke it".into());
        }
        all_ran_once(w, table, 1)
    });
    w.freeze();
    w
}

/// The next death is one too many.
fn give_up() -> World {
    let mut w = World::new(1);
    let table = warm(&w);
    children(&w.procs[1], 1);
    let record = &w.seg.tasks[w.procs[1].rec.runq.0[0].load(Relaxed) as usize];
    w.seg.hdr.sched.redeliver_max.store(2, Relaxed);
    let word = TaskWord(record.word.load(Relaxed)).with_attempts(2);
    record.word.store(word.0, Relaxed);
    record.tries.store(2 << 32, Relaxed);
    w.process("P1", 1, true, move |p| {
        if let Some(task) = p.runq_get() {
            p.run_task(task, table);
        }
    });
    w.recoverer("R");
    w.check = Box::new(move |w| {
        let lost = w.seg.hdr.stats.requeued.load(Relaxed);
        let state = TaskWord(peek(&record.word)).state();
        if lost != 0 {
            return Err(format!(
                "a step that killed three is run again (state {state}), and two were allowed"
            ));
        }
        heap_is_sound(w)
    });
    w.freeze();
    w
}

fn claim() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 1);
    let task = w.procs[1].rec.runq.0[0].load(Relaxed);
    w.procs[2].runq_put(task as usize, false);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, move |p| run_tasks(p, table, 1));
    }
    w.recoverer("R");
    w.check = Box::new(move |w| all_ran_once(w, table, 1));
    w.freeze();
    w
}

fn overflow() -> World {
    let mut w = World::new(1);
    let table = warm(&w);
    children(&w.procs[1], 8);
    forker(&w.procs[1]);
    w.process("P1", 1, true, move |p| {
        if let Some(task) = p.globrunq_get() {
            p.run_task(task, table);
        }
    });
    w.recoverer("R");
    w.check = Box::new(move |w| all_ran_once(w, table, 9));
    w.freeze();
    w
}

/// P1's task sets "log0" to 0; P2 replaces that 0, if it sees it, and says so.
fn root() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    children(&w.procs[1], 1);
    scope(&w.procs[2], |cx| set_root(cx, "took", None));
    w.process("P1", 1, true, move |p| run_tasks(p, table, 1));
    w.process("P2", 2, false, |p| {
        scope(p, |cx| {
            let nine = node(cx, 9, None);
            let root = cx.root::<Node>("log0").expect("a root");
            let zero = root.get(cx);
            if zero.is_some() && root.compare_exchange(cx, zero, Some(nine)) {
                set_root(cx, "took", Some(nine));
            }
        });
    });
    w.recoverer("R");
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        let took = !chain_ids(&w.procs[0], "took").is_empty();
        expect_chain(w, "log0", if took { &[9] } else { &[0] })?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}

fn commit() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    parent(&w);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, move |p| run_tasks(p, table, 2));
    }
    commit_end(&mut w, table);
    w
}

fn commit_step() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    forker(&w.procs[0]);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, move |p| run_tasks(p, table, 1));
    }
    w.recoverer("R");
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        expect_chain(w, "log8", &[8])?;
        heap_is_sound(w)
    });
    w.freeze();
    w
}

/// The parent has been run, and waits; its child stands in P1's queue. P2 steals what is there: the child, or the parent.
fn commit_join() -> World {
    let mut w = World::new(2);
    let table = warm(&w);
    parent(&w);
    run_tasks(&w.procs[1], table, 1);
    w.process("P2", 2, true, move |p| {
        if let Some(task) = p.globrunq_get().or_else(|| p.steal_work()) {
            p.run_task(task, table);
        }
    });
    w.process("P1", 1, true, move |p| run_tasks(p, table, 1));
    commit_end(&mut w, table);
    w
}

fn commit_end(w: &mut World, table: &'static Resolved<'static>) {
    w.recoverer("R");
    w.check = Box::new(move |w| {
        run_to_the_end(w, table)?;
        expect_chain(w, "parent", &[5])?;
        expect_chain(w, "log7", &[7])?;
        expect_chain(w, "done", &[6])?;
        heap_is_sound(w)?;
        whole_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "log7", &[7])
    });
    w.freeze();
}
