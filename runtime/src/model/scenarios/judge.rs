//! What a scenario promises at its end. The observer, P 0, takes everything to rest by itself, then looks.

use std::sync::atomic::Ordering::Relaxed;

use shm_layout::word::{PhaseWord, ProcWord, SlotWord, TaskWord, WorkerWord};

use super::script::{chain_ids, work};
use crate::{
    gc::gc_start,
    model::world::{World, peek},
    sched::task::Resolved,
};

/// The observer alone takes a cycle to its end.
pub(in crate::model) fn finish_cycle(world: &World) -> Result<(), String> {
    let p = &world.procs[0];
    for _ in 0..400 {
        let phase = world.seg.phase();
        let worked = work(p);
        let over = phase.kind() == PhaseWord::OFF && gc_start::wanted(&world.seg, phase).is_none();
        if over && !worked {
            return Ok(());
        }
    }
    Err(format!(
        "the cycle does not end: the phase stays {:?}, P0 alone is left",
        world.seg.phase()
    ))
}

/// A cycle that begins now, by the observer alone.
pub(in crate::model) fn whole_cycle(world: &World) -> Result<(), String> {
    gc_start::request(&world.seg);
    finish_cycle(world)
}

/// After everybody has come to rest: no worker in a dead or idle hand, none lost.
pub(in crate::model) fn workers_at_rest(world: &World) -> Result<(), String> {
    for p in 0..world.procs.len() {
        let owner = ProcWord(peek(&world.seg.procs[p].word.0));
        let slot = SlotWord(peek(&world.seg.slots[p].word));
        if owner.state() == ProcWord::VACANT && slot.state() != SlotWord::CLOSED {
            return Err(format!("P{p} is vacant, and its slot is not closed"));
        }
    }
    for (g, w) in world.seg.workers[..32].iter().enumerate() {
        let word = WorkerWord(peek(&w.word));
        let slot = |p: usize| SlotWord(peek(&world.seg.slots[p].word));
        match word.state() {
            WorkerWord::FREE => {}
            WorkerWord::PARKED => {
                let home = peek(&w.home);
                if slot((home >> 32) as usize) != SlotWord::full(g as u16, home as u32) {
                    return Err(format!("worker {g} is parked and stands in no slot: lost"));
                }
            }
            state => {
                return Err(format!(
                    "worker {g} is in state {state} although nobody runs"
                ));
            }
        }
    }
    Ok(())
}

/// Page and task accounts, and every reachable reference.
pub(in crate::model) fn heap_is_sound(world: &World) -> Result<(), String> {
    let findings = crate::gc::verify::findings(&world.procs[0])?;
    match findings.first() {
        None => Ok(()),
        Some(first) => Err(first.clone()),
    }
}

pub(in crate::model) fn expect_chain(world: &World, name: &str, ids: &[u64]) -> Result<(), String> {
    let found = chain_ids(&world.procs[0], name);
    if found == ids {
        Ok(())
    } else {
        Err(format!("under {name}: {found:?} instead of {ids:?}"))
    }
}

/// The observer runs what is left; the log must hold the ids `0..n` once each.
pub(in crate::model) fn all_ran_once(
    w: &World,
    table: &Resolved<'_>,
    n: u64,
) -> Result<(), String> {
    run_to_the_end(w, table)?;
    for id in 0..n {
        expect_chain(w, &format!("log{id}"), &[id])?;
    }
    heap_is_sound(w)
}

pub(in crate::model) fn run_to_the_end(w: &World, table: &Resolved<'_>) -> Result<(), String> {
    let p = &w.procs[0];
    for _ in 0..400 {
        if !p.any_task_alive() {
            break;
        }
        p.schedule(table);
    }
    if p.any_task_alive() {
        let left: Vec<_> = (0..w.seg.tasks_used())
            .map(|i| TaskWord(peek(&w.seg.tasks[i].word)).state())
            .collect();
        return Err(format!(
            "a task is left, and P0 finds nothing to run: states {left:?}"
        ));
    }
    if w.seg.hdr.stats.gave_up.load(Relaxed) != 0 {
        return Err("a task was given up".into());
    }
    Ok(())
}
