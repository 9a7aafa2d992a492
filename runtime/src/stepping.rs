//! The words that an interleaving of P's and mark workers is about, read while nobody moves: what `coheap step` shows after each of
//! its commands, and what it objects to.
//!
//! [`words`] reads until two readings agree, so that what an actor still does (one that was not waited for) makes no false picture.
//! [`violation`] knows the rules of `gc_bg_mark_worker.rs` that hold in *every* state, also with processes dead and not yet recovered:
//! whoever stands in a slot is parked, or run by the slot's own P; it is in no other slot, and its home is there. Whoever is parked
//! stands in its home's slot, or is on the record of the P that parked it, or of one that is dead.

use std::{
    fmt,
    sync::atomic::Ordering::{Acquire, SeqCst},
};

use shm_layout::word::{Owner, PhaseWord, ProcWord, SlotWord, WorkerWord};

use crate::{gc::gc_bg_mark_worker::used_workers, segment::Segment};

/// A P: its word, its scope word, the worker on its record, its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProcWords {
    word: ProcWord,
    inside: bool,
    worker_on_record: u32,
    slot: SlotWord,
}

/// What is looked at. Its text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    phase: PhaseWord,
    procs: Vec<ProcWords>,
    workers: Vec<(WorkerWord, u64)>,
}

/// The words of a heap.
pub fn words(segment: &Segment) -> Words {
    let mut seen = read(segment);
    for _ in 0..1000 {
        let again = read(segment);
        if again == seen {
            break;
        }
        seen = again;
    }
    seen
}

fn read(segment: &Segment) -> Words {
    let procs = segment.used_procs().iter().enumerate();
    Words {
        phase: segment.phase(),
        procs: procs
            .map(|(p, record)| ProcWords {
                word: ProcWord(record.word.0.load(SeqCst)),
                inside: record.scope.0.load(SeqCst) & 8 != 0,
                worker_on_record: record.now.0.worker.load(SeqCst),
                slot: SlotWord(segment.slots[p].word.load(SeqCst)),
            })
            .collect(),
        workers: used_workers(segment)
            .iter()
            .map(|w| (WorkerWord(w.word.load(SeqCst)), w.home.load(Acquire)))
            .collect(),
    }
}

/// The first rule that these words break.
pub fn violation(words: &Words) -> Option<String> {
    let full = |p: usize| {
        let slot = words.procs[p].slot;
        (slot.state() == SlotWord::FULL).then_some(slot.worker() as usize)
    };
    for p in 0..words.procs.len() {
        let Some(g) = full(p) else { continue };
        let Some(&(word, home)) = words.workers.get(g) else {
            return Some(format!(
                "the slot of P{p} designates w{g}, which was never made"
            ));
        };
        if let Some(q) = (0..p).find(|&q| full(q) == Some(g)) {
            return Some(format!("w{g} stands in the slots of P{q} and of P{p}"));
        }
        match word.state() {
            WorkerWord::FREE => {
                return Some(format!(
                    "the slot of P{p} designates w{g}, which does not exist any more: nobody can run it, nobody replaces it"
                ));
            }
            WorkerWord::RUNNABLE => {
                return Some(format!(
                    "w{g} stands in the slot of P{p}, and anybody may run it"
                ));
            }
            WorkerWord::RUNNING if word.p() != p as u16 && word.p() != Owner::RECOVERER => {
                let q = word.p();
                return Some(format!(
                    "w{g} stands in the slot of P{p} and still runs in P{q}: published before it was parked"
                ));
            }
            _ if home >> 32 != p as u64 => {
                return Some(format!(
                    "w{g} stands in the slot of P{p}, and its home is P{}",
                    home >> 32
                ));
            }
            _ => {}
        }
    }
    (0..words.workers.len()).find(|&g| words.is_lost(g)).map(|g| {
        format!("w{g} is parked, stands in no slot, and nobody is about to put it into one: lost for ever")
    })
}

impl Words {
    fn is_lost(&self, g: usize) -> bool {
        let (word, home) = self.workers[g];
        let (p, inc) = ((home >> 32) as usize, home as u32);
        let live = |p: usize, inc: u32| {
            let proc = self.procs.get(p)?;
            let its = Owner::new(p as u16, proc.word.inc()) == Owner::new(p as u16, inc);
            (its && proc.word.state() == ProcWord::LIVE).then_some(proc)
        };
        let (Some(at_home), Some(keeper)) = (live(p, inc), live(word.p() as usize, word.inc()))
        else {
            return false; // somebody is dead: recovery decides
        };
        word.state() == WorkerWord::PARKED
            && at_home.slot != SlotWord::full(g as u16, inc)
            && keeper.worker_on_record != g as u32 + 1
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phase {}", phase_name(self.phase))?;
        if self.phase.cycle() != 0 {
            write!(f, " of cycle {}", self.phase.cycle())?;
        }
        for (p, proc) in self.procs.iter().enumerate() {
            write!(f, "; P{p}")?;
            match proc.word.state() {
                ProcWord::LIVE => {}
                ProcWord::VACANT => write!(f, " vacant")?,
                ProcWord::JOINING => write!(f, " joining")?,
                ProcWord::LEAVING => write!(f, " leaving")?,
                _ => write!(f, " dead")?,
            }
            if proc.inside {
                write!(f, " inside")?;
            }
            match proc.slot.state() {
                SlotWord::EMPTY => write!(f, " slot empty")?,
                SlotWord::FULL => write!(f, " slot w{}", proc.slot.worker())?,
                _ => write!(f, " slot closed")?,
            }
            if proc.worker_on_record != 0 {
                write!(f, " records w{}", proc.worker_on_record - 1)?;
            }
        }
        for (g, (word, home)) in self.workers.iter().enumerate() {
            let by = match (word.state(), word.p()) {
                (WorkerWord::FREE, _) => {
                    write!(f, "; w{g} free")?;
                    continue;
                }
                (_, Owner::RECOVERER) => "a recoverer".to_owned(),
                (_, p) => format!("P{p}"),
            };
            match word.state() {
                WorkerWord::RUNNING => write!(f, "; w{g} running in {by}")?,
                WorkerWord::PARKED => write!(f, "; w{g} parked by {by}")?,
                _ => write!(f, "; w{g} runnable")?,
            }
            write!(f, " (home P{})", home >> 32)?;
        }
        Ok(())
    }
}

fn phase_name(phase: PhaseWord) -> &'static str {
    match phase.kind() {
        PhaseWord::OFF => "off",
        PhaseWord::BARRIER => "barrier",
        PhaseWord::BLACK => "black",
        PhaseWord::MARK => "mark",
        PhaseWord::ROUND => "round",
        _ => "stopped",
    }
}
