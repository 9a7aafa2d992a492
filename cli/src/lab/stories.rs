//! The stories: each a bug that a runtime had, reduced to its words and steps.
//!
//! A step is one access to shared memory, as in the protocols it stands for. `step` is given the actor and its program counter;
//! `judge` looks at the words after each step, and with `end` once nobody moves any more.

use super::Rule;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The words on the board.
pub type Words = [AtomicU64; 16];

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Nothing: it waits for somebody.
    Waited,
    /// It went on.
    Moved,
    /// Its program has ended.
    Done,
    /// This is where it is killed.
    Died,
}

impl Did {
    /// As a byte, for the board.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From that byte.
    pub fn from_code(code: u8) -> Did {
        [Did::Waited, Did::Moved, Did::Done, Did::Died][usize::from(code).min(3)]
    }
}

/// One story.
pub struct Story {
    pub name: &'static str,
    pub about: &'static str,
    pub old: &'static str,
    pub new: &'static str,
    pub actors: &'static [&'static str],
    pub setup: fn(&Words, Rule),
    pub step: fn(&Words, Rule, usize, &mut u32) -> (Did, &'static str),
    pub judge: fn(&Words, Rule, bool) -> Option<&'static str>,
}

/// All of them.
pub const ALL: &[Story] = &[ATTACH, STORE, LOST, IDLE, COUNTER, WEAK, RESIZE];

fn get(w: &Words, i: usize) -> u64 {
    w[i].load(SeqCst)
}
fn set(w: &Words, i: usize, v: u64) {
    w[i].store(v, SeqCst);
}
fn cas(w: &Words, i: usize, old: u64, new: u64) -> bool {
    w[i].compare_exchange(old, new, SeqCst, SeqCst).is_ok()
}
fn flag(w: &Words, i: usize, bit: u64, on: bool) {
    if on {
        w[i].fetch_or(bit, SeqCst);
    } else {
        w[i].fetch_and(!bit, SeqCst);
    }
}

/// Goes on to the next step.
fn next(pc: &mut u32, text: &'static str) -> (Did, &'static str) {
    *pc += 1;
    (Did::Moved, text)
}
const WAIT: (Did, &str) = (Did::Waited, "");
const END: (Did, &str) = (Did::Done, "is done");

// The seed: Go issues 13363 and 13978.
const SLOT: usize = 0;
const STATUS: usize = 1;
const OWNER: usize = 2;
const RUNNING_IN: usize = 3;
const ROBBED: usize = 4;
const ST_RUNNING: u64 = 1;
const ST_WAITING: u64 = 2;

const ATTACH: Story = Story {
    name: "attach-before-park",
    about: "a mark worker is put into its P's slot while it still runs (Go 1.5, issues 13363 and 13978)",
    old: "attach to the slot, then park: status waiting, then owner cleared",
    new: "park first: status waiting, owner cleared; attach last, and touch nothing after",
    actors: &["P0", "P1 (home)"],
    setup: |w, _| {
        set(w, STATUS, ST_RUNNING);
        set(w, OWNER, 1);
        set(w, RUNNING_IN, 1);
    },
    step: |w, rule, actor, pc| {
        if actor == 1 {
            return home_runs_slot(w, pc);
        }
        let order: [u32; 3] = if rule == Rule::Old {
            [0, 1, 2]
        } else {
            [1, 2, 0]
        };
        match order.get(*pc as usize) {
            Some(0) => {
                cas(w, SLOT, 0, 1);
                next(pc, "attaches worker w0: slot of P1 := w0")
            }
            Some(1) => {
                set(w, STATUS, ST_WAITING);
                next(pc, "parks w0: status := waiting")
            }
            Some(_) => {
                set(w, OWNER, 0);
                flag(w, RUNNING_IN, 1, false);
                next(pc, "drops w0: owner := none")
            }
            None => END,
        }
    },
    judge: |w, _, _| {
        if get(w, RUNNING_IN) == 3 {
            return Some("double run: worker w0 runs in P0 (parking) and in P1 (claimed) at once");
        }
        (get(w, ROBBED) != 0)
            .then_some("w0 runs in P1 and its owner is none: the crash in acquirem")
    },
};

fn home_runs_slot(w: &Words, pc: &mut u32) -> (Did, &'static str) {
    match *pc {
        0 if get(w, SLOT) == 0 => WAIT,
        0 => next(pc, "finds w0 in its slot"),
        1 if cas(w, STATUS, ST_WAITING, ST_RUNNING) => {
            next(pc, "claims w0: status waiting -> running")
        }
        1 => WAIT,
        2 => {
            set(w, OWNER, 2);
            flag(w, RUNNING_IN, 2, true);
            next(pc, "runs w0: owner := P1")
        }
        3 | 4 => {
            if get(w, OWNER) != 2 {
                set(w, ROBBED, 1);
            }
            next(pc, "w0 looks who owns it")
        }
        _ => END,
    }
}

const STORE: Story = Story {
    name: "store-instead-of-cas",
    about: "a returning worker and a new one meet at one slot; a plain store loses one of them",
    old: "attach by a store",
    new: "attach by compare-exchange from empty; the loser exits",
    actors: &["w0 (back)", "w1 (new)"],
    setup: |_, _| {},
    step: |w, rule, actor, pc| {
        let (me, parked) = (actor as u64 + 1, 5 + actor);
        match *pc {
            0 => {
                set(w, parked, 1);
                next(pc, "parks: its context is complete")
            }
            1 if get(w, SLOT) != 0 && rule == Rule::New => {
                set(w, parked, 0);
                next(pc, "finds another worker in the slot, and exits")
            }
            1 if rule == Rule::New => {
                if !cas(w, SLOT, 0, me) {
                    return WAIT;
                }
                next(pc, "attaches: slot empty -> itself")
            }
            1 => {
                // Looked before the other stored, as Go's starter did.
                next(pc, "finds the slot empty, or does not look")
            }
            2 if rule == Rule::Old => {
                set(w, SLOT, me);
                next(pc, "attaches: stores itself into the slot")
            }
            _ => END,
        }
    },
    judge: |w, _, end| {
        let stranded = (0..2).any(|k| get(w, 5 + k) == 1 && get(w, SLOT) != k as u64 + 1);
        (end && stranded).then_some("a parked worker stands in no slot: lost for ever")
    },
};

const LOST: Story = Story {
    name: "lost-slot-exits",
    about: "a worker whose P has a newer one must leave when it wakes",
    old: "go on without looking at the slot",
    new: "after each wake compare the slot with oneself, and exit when it names another",
    actors: &["w0 (old)", "w1 (new)"],
    setup: |w, _| set(w, SLOT, 1),
    step: |w, rule, actor, pc| match (actor, *pc) {
        (0, 0) => {
            cas(w, SLOT, 1, 0);
            next(pc, "leaves its slot for gc_mark_done")
        }
        (0, 1) => next(pc, "waits for the transition to end"),
        (0, 2) if cas(w, SLOT, 0, 1) => next(pc, "comes back into its slot"),
        (0, 2) => next(pc, "comes back: the slot names w1"),
        (0, 3) if rule == Rule::New && get(w, SLOT) != 1 => END,
        (0, 3) => {
            flag(w, RUNNING_IN, 1, true);
            next(pc, "drains with P0's cache")
        }
        (1, 0) if cas(w, SLOT, 0, 2) => next(pc, "is started for P0: the slot was empty"),
        (1, 0) if get(w, SLOT) == 1 && get(w, RUNNING_IN) & 1 == 1 => END,
        (1, 0) => WAIT,
        (1, 1) => {
            flag(w, RUNNING_IN, 2, true);
            next(pc, "drains with P0's cache")
        }
        _ => END,
    },
    judge: |w, _, _| (get(w, RUNNING_IN) == 3).then_some("two workers drain with one P's cache"),
};

const QUEUE: usize = 0;
const GREY: usize = 1;
const ASLEEP: usize = 2;

const IDLE: Story = Story {
    name: "idle-with-gc-work",
    about: "a P goes to sleep although there is mark work (Go issue 13645)",
    old: "before sleeping look at the run queues",
    new: "before sleeping ask the scheduler's own question, collector work included",
    actors: &["P0", "P1 (marker)"],
    setup: |_, _| {},
    step: |w, rule, actor, pc| match (actor, *pc) {
        (1, 0) => {
            set(w, GREY, 1);
            next(pc, "publishes a buffer of grey objects")
        }
        (1, 1) if get(w, ASLEEP) == 1 => {
            next(pc, "sees P0 asleep, thinks of tasks only, wakes nobody")
        }
        (1, _) => END,
        (0, 0) if get(w, QUEUE) == 0 => next(pc, "finds no task"),
        (0, 1) => {
            set(w, ASLEEP, 1);
            next(pc, "announces that it sleeps")
        }
        (0, 2) if rule == Rule::New && get(w, GREY) == 1 => {
            set(w, ASLEEP, 0);
            set(w, GREY, 0);
            next(
                pc,
                "looks once more: grey objects; marks instead of sleeping",
            )
        }
        (0, 2) if rule == Rule::New => {
            // Its sleep is timed, and it asks again.
            WAIT
        }
        (0, 2) => next(pc, "looks once more: no task; sleeps"),
        _ => END,
    },
    judge: |w, _, end| {
        (end && get(w, GREY) == 1 && get(w, ASLEEP) == 1)
            .then_some("everybody is idle and there is mark work: the cycle never ends")
    },
};

const WAITING: usize = 0;
const ACTIVE: usize = 1;
const TERMINATED: usize = 2;
const KILLED: usize = 3;

const COUNTER: Story = Story {
    name: "counter-leak",
    about: "a process dies while it is counted as working",
    old: "one anonymous counter of waiting workers (work.nwait)",
    new: "a word per worker that names its owner: recovery clears what the dead held",
    actors: &["P0 (dies)", "P1"],
    setup: |w, _| set(w, WAITING, 2),
    step: |w, rule, actor, pc| {
        let bit = actor as u64 + 1;
        match (actor, *pc) {
            (_, 0) => {
                w[WAITING].fetch_sub(1, SeqCst);
                flag(w, ACTIVE, bit, true);
                next(pc, "starts marking")
            }
            (0, _) => {
                set(w, KILLED, 1);
                (Did::Died, "is killed (SIGKILL)")
            }
            (1, 1) => {
                w[WAITING].fetch_add(1, SeqCst);
                flag(w, ACTIVE, bit, false);
                next(pc, "finds no more work, stops marking")
            }
            (1, 2) if rule == Rule::New && get(w, KILLED) == 1 && get(w, ACTIVE) & 1 == 1 => {
                flag(w, ACTIVE, 1, false);
                (
                    Did::Moved,
                    "recovers P0: its word says it was marking; flushed and cleared",
                )
            }
            (1, 2) => {
                let over = if rule == Rule::Old {
                    get(w, WAITING) == 2
                } else {
                    get(w, ACTIVE) == 0
                };
                if !over {
                    return WAIT;
                }
                set(w, TERMINATED, 1);
                next(pc, "nobody is marking: marking is over")
            }
            _ => END,
        }
    },
    judge: |w, _, end| {
        (end && get(w, TERMINATED) == 0 && get(w, KILLED) == 1)
            .then_some("the dead one is still counted as working: marking never ends")
    },
};

const MARKED: usize = 0;
const STRONG: usize = 1;
const DIRTY: usize = 2;
const OVER: usize = 3;

const WEAK: Story = Story {
    name: "weak-to-strong",
    about: "a weak reference is made strong while marking ends (Go issue 69803)",
    old: "load the weak reference like any other",
    new: "a weak load shades what it finds, and says that this round is not clean",
    actors: &["mutator", "collector"],
    setup: |_, _| {},
    step: |w, rule, actor, pc| match (actor, *pc) {
        (0, 0) if get(w, OVER) == 1 && get(w, MARKED) == 0 => END,
        (0, 0) if rule == Rule::New => {
            set(w, DIRTY, 1);
            next(pc, "weak load: says dirty")
        }
        (0, 1) if rule == Rule::New => {
            set(w, MARKED, 1);
            next(pc, "weak load: shades the object")
        }
        (0, 2) if rule == Rule::New => {
            // The phase decides as it does for every handshake: too late means the object is gone.
            if get(w, OVER) == 0 || get(w, MARKED) == 1 {
                set(w, STRONG, 1);
            }
            next(pc, "makes it strong")
        }
        (0, 0) => {
            set(w, STRONG, 1);
            next(pc, "makes it strong: a reference from nothing")
        }
        (1, 0) => {
            set(w, DIRTY, 0);
            next(pc, "begins a round: clean so far, nothing grey")
        }
        (1, 1) => next(pc, "every P has acknowledged"),
        (1, 2) if get(w, DIRTY) == 1 => {
            *pc = 0;
            (Did::Moved, "the round was not clean: again")
        }
        (1, 2) => {
            set(w, OVER, 1);
            next(pc, "the round was clean: marking is over, sweeping begins")
        }
        _ => END,
    },
    judge: |w, _, _| {
        (get(w, OVER) == 1 && get(w, STRONG) == 1 && get(w, MARKED) == 0)
            .then_some("a strongly held object is unmarked when sweeping begins: it will be freed")
    },
};

const LEASE: usize = 5;

const RESIZE: Story = Story {
    name: "resize-during-detach",
    about: "a worker returns from gc_mark_done to a P that has gone and come again",
    old: "the slot has no incarnation: empty is empty",
    new: "the slot carries the lease's incarnation, and is closed between leases",
    actors: &["w0", "resizer"],
    setup: |w, rule| {
        set(w, LEASE, 1);
        set(w, SLOT, if rule == Rule::Old { 0 } else { 1 << 8 });
    },
    step: |w, rule, actor, pc| match (actor, *pc) {
        (0, 0) => next(pc, "is away in gc_mark_done, home P1, lease 1"),
        (0, 1) => {
            let empty = if rule == Rule::Old { 0 } else { 1 << 8 };
            if cas(w, SLOT, empty, empty | 1) {
                set(w, ROBBED, get(w, LEASE));
                next(pc, "attaches to the slot of P1")
            } else {
                next(pc, "cannot attach: the slot is not that of lease 1; exits")
            }
        }
        (1, 0) => {
            if rule == Rule::New {
                set(w, SLOT, 0xff << 8);
            }
            next(
                pc,
                "P1 goes: finds its slot empty, retires nobody, closes it",
            )
        }
        (1, 1) => {
            set(w, LEASE, 2);
            if rule == Rule::New {
                set(w, SLOT, 2 << 8);
            }
            next(pc, "P1 comes again: lease 2, slot opened")
        }
        _ => END,
    },
    judge: |w, _, _| {
        (get(w, ROBBED) == 2).then_some("a worker of lease 1 stands in the slot of lease 2: another process's P runs a context it never had")
    },
};
