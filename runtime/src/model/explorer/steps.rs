//! What a process does between two decisions, learned once.
//!
//! A process is a function of what it has read. So a step, from one access to a shared word to the next, is told by the process, by
//! everything it has read so far and by what it reads now. The first time, its coroutine runs the real code, and what that stored is
//! written down; from then on the step is done by storing the same. So a search of millions of steps runs the code for those that are
//! new.
//!
//! 1. `Steps::go_on` looks the step up by the history that it has after its first access.
//! 2. If it is unknown, the process's coroutine must stand there. It may have been left elsewhere, by another branch of the search:
//!    then it is brought there by the search, from the start (`Search::bring`); the others only store on the way.
//! 3. What a coroutine does on its way once more must be what was learned: a difference is a fault of the explorer, and a panic.
//!
//! **What makes it right.** Words that others store to are decision points, so a step reads nothing in its middle that others could have
//! changed; when that turns out wrong, everything learned is forgotten (`forget`). A life word counts as stored to by the kernel.
//! Statistics are no part of a history: those that are added to are learned as additions. What depends on the whole state, and not on
//! the process, is asked at each time: whether a context has two runners, and what the ghosts of rule 4 say.

use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use shm_layout::sync::Access;

use super::{
    hash::{FoldMap, change, mix2},
    watch::*,
};
use crate::model::{
    self, Ghost, broken,
    orders::text_of,
    world::{self, World},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// Stands before an access.
    Ready,
    /// A recoverer with nothing to recover.
    Blocked,
    /// Waits on a futex. What comes after the waking is not explored: whether it comes is the question (`World::is_asleep`).
    Asleep,
    Finished,
    Dead,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub status: Status,
    /// Everything it has read; 0 when it does nothing more. A recoverer that waits keeps it: it finds words that nobody else uses as its
    /// last recovery has left them.
    pub history: u128,
    /// The access that it makes next, if `Ready`.
    pub pending: Access,
}

impl Place {
    pub const START: Place = Place {
        status: Status::Blocked,
        history: 0,
        pending: NOTHING,
    };

    fn after(status: Status, now: &Now) -> Place {
        match status {
            Status::Ready => Place {
                status,
                history: now.history,
                pending: now.pending,
            },
            Status::Blocked => Place {
                status,
                history: now.history,
                ..Place::START
            },
            _ => Place {
                status,
                ..Place::START
            },
        }
    }

    pub fn is(&self, other: &Place) -> bool {
        self.status == other.status
            && self.history == other.history
            && self.pending.at == other.pending.at
    }
}

/// Something that a step does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// A word is stored to.
    Store {
        at: usize,
        size: u8,
        new: u64,
    },
    /// A statistic goes up or down.
    Add {
        at: usize,
        size: u8,
        by: u64,
    },
    /// A statistic is stored to.
    Note {
        at: usize,
        size: u8,
        new: u64,
    },
    /// Four plain bytes of an object that nobody else knows yet.
    Plain {
        at: usize,
        new: u32,
    },
    Ghost(Ghost),
}

impl Effect {
    pub fn of(access: &Access, statistic: bool) -> Effect {
        let Access { at, size, new, .. } = *access;
        match (statistic, access.reads) {
            (false, _) => Effect::Store { at, size, new },
            (true, false) => Effect::Note { at, size, new },
            (true, true) => Effect::Add {
                at,
                size,
                by: new.wrapping_sub(access.old),
            },
        }
    }

    fn again(&self, world: &World, who: usize, memory: &mut u128) {
        match *self {
            Effect::Store { at, size, new } => {
                world.check_context_store(at, who);
                let old = world::log_word(at, size, new);
                if old != new {
                    *memory ^= change(at, size, old, new);
                }
            }
            Effect::Plain { at, new } => {
                let old = world::log_word(at, 4, new.into());
                if old != u64::from(new) {
                    *memory ^= change(at, 4, old, new.into());
                }
            }
            Effect::Note { at, size, new } => {
                world::log_word(at, size, new);
            }
            Effect::Add { at, size, by } => {
                world::log_word(at, size, world::value(at, size).wrapping_add(by));
            }
            Effect::Ghost(event) => model::ghost(&world.seg, event),
        }
    }
}

struct Step {
    effects: Box<[Effect]>,
    then: Place,
}

type Co = Coroutine<(), (), (), DefaultStack>;

/// The coroutines, and what was learned from them.
pub(super) struct Steps<'w> {
    world: &'w World,
    learned: FoldMap<u128, Step>,
    running: Vec<Option<Co>>,
    /// Where each coroutine stands.
    stands: Vec<Place>,
    stacks: Vec<DefaultStack>,
}

/// What tells a step: who, and what has been read up to and with its first access.
fn name_of(who: usize, place: &Place) -> u128 {
    let read = if place.status == Status::Ready {
        let old = world::value(place.pending.at, place.pending.size);
        let access = Access {
            old,
            ..place.pending
        };
        told(place.history, &access)
    } else {
        place.history
    };
    mix2(read, who as u64, 17)
}

fn first_of(who: usize) -> u128 {
    mix2(0, who as u64, 19)
}

impl<'w> Steps<'w> {
    pub fn new(world: &'w World) -> Steps<'w> {
        let n = world.processes.len();
        Steps {
            world,
            learned: FoldMap::default(),
            running: (0..n).map(|_| None).collect(),
            stands: vec![Place::START; n],
            stacks: Vec::new(),
        }
    }

    /// Decision points have changed: nothing that was learned holds any more.
    pub fn forget(&mut self) {
        self.learned.clear();
        for i in 0..self.running.len() {
            self.stop(i);
        }
    }

    /// How many steps are known.
    pub fn known(&self) -> usize {
        self.learned.len()
    }

    /// The first step of `who`, from nowhere to its first decision. With `really`, its coroutine begins anew.
    pub fn begin(&mut self, who: usize, memory: &mut u128, really: bool) -> Place {
        let name = first_of(who);
        if !really && let Some(step) = self.learned.get(&name) {
            return self.again(step, who, memory);
        }
        self.stop(who);
        self.world.put_back(who);
        self.running[who] = Some(self.coroutine(who));
        self.learn(name, who, mix2(1, who as u64, 23), memory)
    }

    /// `who`, which stands at `place`, goes on: by what was learned, or `None` if that is unknown and the coroutine is elsewhere. With
    /// `really`, the coroutine goes on in any case.
    pub fn go_on(
        &mut self,
        who: usize,
        place: &Place,
        memory: &mut u128,
        really: bool,
    ) -> Option<Place> {
        let name = name_of(who, place);
        if !really && let Some(step) = self.learned.get(&name) {
            return Some(self.again(step, who, memory));
        }
        (self.running[who].is_some() && self.stands[who].is(place))
            .then(|| self.learn(name, who, place.history, memory))
    }

    fn again(&self, step: &Step, who: usize, memory: &mut u128) -> Place {
        for effect in &step.effects {
            effect.again(self.world, who, memory);
        }
        step.then
    }

    fn learn(&mut self, name: u128, who: usize, history: u128, memory: &mut u128) -> Place {
        with_now(|now| {
            now.history = history;
            now.memory = *memory;
            now.accesses = 0;
            now.effects.clear();
        });
        let status = self.resume(who);
        let (then, effects) = with_now(|now| {
            *memory = now.memory;
            let effects = std::mem::take(&mut now.effects);
            (Place::after(status, now), effects.into_boxed_slice())
        });
        self.stands[who] = then;
        if let Some(known) = self.learned.get(&name) {
            let same = known.then.is(&then);
            assert!(
                same || model::is_broken() || with_now(|now| now.is_stale()),
                "a fault of the explorer: {} does something else when it runs again",
                self.world.processes[who].name
            );
        } else {
            self.learned.insert(name, Step { effects, then });
        }
        then
    }

    fn resume(&mut self, who: usize) -> Status {
        CURRENT.set(who);
        WAITS.set(false);
        SLEEPS.set(false);
        ROLE.set(Role::Process);
        let co = self.running[who].as_mut().expect("a coroutine");
        let result = co.resume(());
        ROLE.set(Role::Judge);
        match result {
            CoroutineResult::Yield(()) if WAITS.get() => Status::Blocked,
            CoroutineResult::Yield(()) if SLEEPS.get() => Status::Asleep,
            CoroutineResult::Yield(()) => Status::Ready,
            CoroutineResult::Return(()) => Status::Finished,
        }
    }

    fn coroutine(&mut self, who: usize) -> Co {
        let stack = self
            .stacks
            .pop()
            .unwrap_or_else(|| DefaultStack::new(256 << 10).expect("a stack"));
        let process = std::ptr::from_ref(&self.world.processes[who]);
        let proc = std::ptr::from_ref(&*self.world.procs[self.world.processes[who].p.unwrap_or(0)]);
        // SAFETY: the world outlives the search, and with it every coroutine.
        let process = unsafe { &*process };
        // SAFETY: as above.
        let proc = unsafe { &*proc };
        Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            with_now(|now| now.yielders[CURRENT.get()] = yielder);
            let ended = catch_unwind(AssertUnwindSafe(|| (process.script)(proc)));
            if let Err(panic) = ended {
                broken(format!("{} panicked: {}", process.name, text_of(&*panic)));
            }
        })
    }

    /// Drops a coroutine as a killed process ends: no destructor runs.
    fn stop(&mut self, who: usize) {
        if let Some(mut co) = self.running[who].take() {
            if !co.done() {
                // SAFETY: what lives on its stack is forgotten; nothing outside refers to it, and the P's private half is put back
                // before it is used again.
                unsafe { co.force_reset() };
            }
            self.stacks.push(co.into_stack());
        }
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
