//! A state of all processes: who may go on from it, or die; what comes of that; what tells it from others; and the judgement at the
//! end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    Bounds,
    hash::mix2,
    steps::{Place, Status, Steps},
    watch::*,
};
use crate::model::{
    self, names,
    orders::text_of,
    take_broken,
    world::{self, World},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Step(usize),
    /// A step whose moment nobody else can tell: costs no preemption.
    Slip(usize),
    Die(usize),
}

impl Action {
    pub fn who(self) -> usize {
        let (Action::Step(who) | Action::Slip(who) | Action::Die(who)) = self;
        who
    }
}

/// Most processes of a scenario.
const MOST: usize = 7;

/// Everything that an execution has come to; memory itself is in the segment.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub places: [Place; MOST],
    /// Per recoverer: has anybody else done anything since it looked last?
    news: u32,
    deaths: u32,
    /// Of recoverers, when these count by themselves.
    recoverer_deaths: u32,
    last: Option<usize>,
    pub preempted: u32,
    /// Hash of the segment.
    pub memory: u128,
    torn: u64,
    greyed: u64,
}

impl State {
    const START: State = State {
        places: [Place::START; MOST],
        news: u32::MAX,
        deaths: 0,
        recoverer_deaths: 0,
        last: None,
        preempted: 0,
        memory: 0,
        torn: 0,
        greyed: 0,
    };

    /// Is it the same, by what tells states apart?
    pub fn is(&self, other: &State) -> bool {
        let places = self.places.iter().zip(&other.places);
        self.memory == other.memory
            && self.greyed == other.greyed
            && places.clone().all(|(a, b)| a.is(b))
    }
}

/// The stage: a world, where its processes stand, and what is known of their steps.
pub(super) struct Stage<'w> {
    pub world: &'w World,
    pub bounds: Bounds,
    pub steps: Steps<'w>,
    pub state: State,
    /// The P's that may die, by the address of the word in which the kernel says so.
    lives: Vec<(usize, usize)>,
}

impl<'w> Stage<'w> {
    pub fn new(world: &'w World, bounds: Bounds) -> Stage<'w> {
        assert!(world.processes.len() <= MOST, "too many processes");
        let lives: Vec<_> = world.lives().collect();
        with_now(|now| {
            for &(at, _) in &lives {
                now.note_use(KERNEL, at, true);
            }
            now.note_use(KERNEL, world.recovery_lock(), true);
        });
        Stage {
            world,
            bounds,
            steps: Steps::new(world),
            state: State::START,
            lives,
        }
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.world.processes.len()
    }

    fn is_recoverer(&self, i: usize) -> bool {
        self.world.processes[i].p.is_none()
    }

    /// Everything is as it was frozen; then each process comes to its first decision. `really`: whose code is run.
    pub fn start(&mut self, really: impl Fn(usize) -> bool) {
        self.world.undo_to(0);
        self.state = State::START;
        self.set_ghosts();
        take_broken();
        for i in self.all() {
            self.state.places[i] = self.steps.begin(i, &mut self.state.memory, really(i));
        }
        self.note_ghosts();
    }

    /// Everything is as it was in `state`, when `mark` words had been changed.
    pub fn back_to(&mut self, state: &State, mark: usize) {
        self.world.undo_to(mark);
        self.state = *state;
        self.set_ghosts();
    }

    fn set_ghosts(&self) {
        self.world.set_torn(self.state.torn);
        model::set_ghost(self.state.greyed);
    }

    fn note_ghosts(&mut self) {
        self.world.note_freed();
        self.state.torn = self.world.torn();
        self.state.greyed = model::ghost_state();
    }

    /// Does `action`; false if the step is unknown and must be learned first. `really`: run the code.
    pub fn act(&mut self, action: Action, really: bool) -> bool {
        let who = action.who();
        let before = self.state.places[who];
        if let Action::Die(_) = action {
            self.die(who);
        } else {
            let memory = &mut self.state.memory;
            let Some(then) = self.steps.go_on(who, &before, memory, really) else {
                return false;
            };
            if action == Action::Step(who) {
                self.state.preempted += u32::from(self.costs(who));
                self.state.last = Some(who);
            }
            self.state.places[who] = then;
        }
        // What a recoverer could not settle depends on the P's, and on who dies.
        if !self.is_recoverer(who) || matches!(action, Action::Die(_)) {
            self.state.news = u32::MAX;
        } else if before.status == Status::Blocked {
            self.state.news &= !(1 << who);
        }
        self.note_ghosts();
        true
    }

    fn die(&mut self, who: usize) {
        let pending = self.state.places[who].pending;
        with_now(|now| {
            if let Some(story) = &mut now.story {
                let (world, at) = (self.world, pending.at);
                let how = match at {
                    0 => "after its end".to_owned(),
                    _ => format!("before its store to {}", names::name(&world.seg, at)),
                };
                story.push(format!("{:<10} DIES {how}", world.processes[who].name));
            }
        });
        if self.counts_as_recoverer(who) {
            self.state.recoverer_deaths += 1;
        } else {
            self.state.deaths += 1;
        }
        self.state.places[who] = Place {
            status: Status::Dead,
            ..Place::START
        };
        // Stores of the kernel: part of the memory, seen by everybody.
        self.world.certify_death(who);
    }

    /// Is a death of `i` one of `Bounds::recoverer_deaths`?
    fn counts_as_recoverer(&self, i: usize) -> bool {
        self.bounds.recoverer_deaths.is_some() && self.is_recoverer(i)
    }

    /// Is there a death left for `i`?
    fn may_die(&self, i: usize) -> bool {
        self.world.processes[i].mortal
            && match self.bounds.recoverer_deaths {
                Some(most) if self.counts_as_recoverer(i) => self.state.recoverer_deaths < most,
                _ => self.state.deaths < self.bounds.deaths,
            }
    }

    /// Can `i` die now? Dying before a load cannot be told from dying after the store before it.
    fn can_die(&self, i: usize) -> bool {
        let place = &self.state.places[i];
        self.may_die(i)
            && match place.status {
                Status::Ready => place.pending.writes,
                Status::Finished => true,
                _ => false,
            }
    }

    /// Is running `i` now a switch away from a process that could go on?
    fn costs(&self, i: usize) -> bool {
        self.state.last.is_some_and(|l| l != i && self.can_step(l))
    }

    fn can_step(&self, i: usize) -> bool {
        match self.state.places[i].status {
            Status::Ready => true,
            Status::Blocked => {
                self.state.news >> i & 1 != 0
                    && self.is_next_recoverer(i)
                    && self.world.has_work_for_recoverer()
            }
            _ => false,
        }
    }

    /// All recoverers do the same, and one that waits is as good as another: a second one has its turn when the first is dead.
    fn is_next_recoverer(&self, i: usize) -> bool {
        (0..i).all(|j| !self.is_recoverer(j) || self.state.places[j].status == Status::Dead)
    }

    /// Processes for which `f` holds, as a mask.
    fn mask(&self, f: impl Fn(usize) -> bool) -> u32 {
        self.all()
            .filter(|&i| f(i))
            .fold(0, |mask, i| mask | 1 << i)
    }

    /// A process whose next access no other living process can tell: then who goes on is no question, only whether it dies.
    pub fn unobserved(&self) -> Option<usize> {
        let status = |i: usize| self.state.places[i].status;
        let living = self.mask(|i| matches!(status(i), Status::Ready | Status::Blocked));
        // Of the recoverers only the holder of the lock does anything.
        let recoverers = self.mask(|i| self.is_recoverer(i));
        self.all().find(|&i| {
            if status(i) != Status::Ready {
                return false;
            }
            let pending = self.state.places[i].pending;
            let mut others = living & !(1 << i);
            if self.is_recoverer(i) && pending.at != self.world.recovery_lock() {
                others &= !recoverers;
            }
            let flags = with_now(|now| now.flags(pending.at));
            let watch = if pending.writes {
                flags
            } else {
                flags >> flag::STORED
            };
            watch & others == 0 && !self.may_be_the_death_of_another(pending.at, i)
        })
    }

    /// Would a death, now, change what `i` reads at `at`?
    fn may_be_the_death_of_another(&self, at: usize, i: usize) -> bool {
        self.lives
            .iter()
            .any(|&(life, who)| life == at && who != i && self.can_die(who))
    }

    pub fn options(&self, slip: Option<usize>) -> Vec<Action> {
        let mut out = Vec::new();
        if let Some(i) = slip {
            out.push(Action::Slip(i));
            if self.can_die(i) {
                out.push(Action::Die(i));
            }
            return out;
        }
        let last = self.state.last;
        let others = self.all().filter(|&i| Some(i) != last);
        for i in last.into_iter().chain(others).filter(|&i| self.can_step(i)) {
            let switches = self.state.preempted + u32::from(self.costs(i));
            if self.bounds.preemptions.is_none_or(|most| switches <= most) {
                out.push(Action::Step(i));
            }
        }
        out.extend(self.all().filter(|&i| self.can_die(i)).map(Action::Die));
        out
    }

    /// What tells states apart, but for how many switches are left. What a process has read counts only while it goes on with it:
    /// the dead and the finished do nothing more, a sleeper is not gone on with, and a recoverer that waits begins anew.
    pub fn key(&self) -> u128 {
        let state = &self.state;
        let mut key = self.outcome();
        for place in &state.places[..self.world.processes.len()] {
            key = mix2(key, place.history as u64, (place.history >> 64) as u64);
        }
        if self.bounds.preemptions.is_some() {
            let goes_on = |s| matches!(s, Status::Ready | Status::Blocked);
            let last = state.last.filter(|&l| goes_on(state.places[l].status));
            key = mix2(key, last.map_or(99, |l| l as u64), 5);
        }
        let recoverers = self.mask(|i| self.is_recoverer(i));
        let deaths = u64::from(state.deaths) | u64::from(state.recoverer_deaths) << 8;
        mix2(key, deaths, u64::from(state.news & recoverers))
    }

    /// What a judgement depends on.
    pub fn outcome(&self) -> u128 {
        let state = &self.state;
        let places = &state.places[..self.world.processes.len()];
        let statuses = places
            .iter()
            .fold(0, |all, place| all << 3 | place.status as u64);
        mix2(
            state.memory,
            statuses,
            mix2(2, state.torn, state.greyed) as u64,
        )
    }

    pub fn broken_now(&self) -> Option<String> {
        take_broken()
            .or_else(|| self.world.check_slots().err())
            .or_else(|| self.world.check_torn().err())
    }

    /// The rest of an execution that has come to its end: everything dead is recovered, then the scenario judges. Afterwards
    /// everything is as it was.
    pub fn judge(&mut self) -> Option<String> {
        let (state, mark) = (self.state, world::mark());
        let bad = self.judged();
        self.world.put_back_observer();
        self.back_to(&state, mark);
        bad
    }

    fn judged(&self) -> Option<String> {
        let panicked = |panic: Box<dyn std::any::Any + Send>| {
            Err(format!("the observer panicked: {}", text_of(&*panic)))
        };
        ROLE.set(Role::Observer);
        let recovered = catch_unwind(AssertUnwindSafe(|| self.world.recover_all()));
        ROLE.set(Role::Judge);
        if let Err(what) = recovered.unwrap_or_else(panicked) {
            return Some(what);
        }
        if let Some(what) = self.broken_now() {
            return Some(what);
        }
        // Nobody's business, and most of all accesses: only the log is kept.
        let judged = unhooked(|| catch_unwind(AssertUnwindSafe(|| (self.world.check)(self.world))));
        judged
            .unwrap_or_else(panicked)
            .err()
            .or_else(|| self.broken_now())
    }
}
