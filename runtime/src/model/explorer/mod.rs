//! Searches through "who goes on, or dies, now".

mod hash;
mod search;
mod stage;
mod steps;
mod watch;

use std::time::{Duration, Instant};

pub(super) use self::watch::{
    current, fall_asleep, note_ghost, plainly_stored, set_hooks, unseen, until_a_death,
};
use self::{search::Search, stage::Stage};
use super::world::{self, World};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Deaths in one execution; those of recoverers too, unless `recoverer_deaths` says how many of these there are besides.
    pub deaths: u32,
    /// Deaths of recoverers (in a running heap: of the daemon, or of the survivor that recovers), on top of `deaths`.
    pub recoverer_deaths: Option<u32>,
    /// Switches away from a process that could have gone on; `None`: any number.
    pub preemptions: Option<u32>,
    /// Time after which the search stops, unfinished.
    pub patience: Duration,
}

/// A broken invariant and the way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// One line per access to a shared word, and per death.
    pub story: Vec<String>,
}

impl Report {
    /// Adds a search within larger bounds.
    fn add(&mut self, next: Report, bounds: Bounds) {
        self.executions += next.executions;
        self.judged += next.judged;
        self.states += next.states;
        self.replays += next.replays;
        self.steps = self.steps.max(next.steps);
        self.depth = self.depth.max(next.depth);
        self.shared_words = self.shared_words.max(next.shared_words);
        self.complete = next.complete;
        if next.complete {
            self.completed.push((bounds.deaths, bounds.preemptions));
        }
        self.violation = next.violation;
    }

    /// The largest of the completed bounds, in words: "2 deaths with 1 switch".
    pub fn reach(&self) -> String {
        let within = |a: &(u32, Option<u32>), b: &(u32, Option<u32>)| {
            a.0 <= b.0 && b.1.is_none_or(|q| a.1.is_some_and(|p| p <= q))
        };
        let mut reach: Vec<_> = self
            .completed
            .iter()
            .filter(|a| !self.completed.iter().any(|b| a != &b && within(a, b)))
            .map(|(d, p)| match p {
                Some(p) => format!("{d}+{p}"),
                None => format!("{d}+any"),
            })
            .collect();
        reach.sort();
        reach.dedup();
        reach.join(" ")
    }
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states.
    pub states: u64,
    /// Ways that were gone, to their end or to a state that was met before.
    pub executions: u64,
    /// Different ends, each judged.
    pub judged: u64,
    /// Different steps of processes, for each of which the code was run.
    pub steps: u64,
    /// How often a process was run from its start, to learn a step.
    pub replays: u64,
    /// Words that more than one process uses.
    pub shared_words: usize,
    /// Longest execution, in decisions.
    pub depth: usize,
    /// Was everything within the bounds looked at?
    pub complete: bool,
    /// Bounds within which everything was looked at: deaths, and preemptions (`None`: any number).
    pub completed: Vec<(u32, Option<u32>)>,
    /// Time it took.
    pub took: Duration,
    /// The first violation.
    pub violation: Option<Violation>,
}

/// Explores everything within each of the bounds in turn, until `patience` is over, one is not complete, or something is wrong.
pub(super) fn explore(world: &World, bounds: &[Bounds], patience: Duration) -> Report {
    let began = Instant::now();
    set_hooks();
    watch::watch(Some(world));
    let mut search = Search::new(Stage::new(world, bounds[0]));
    let mut all = Report::default();
    for &bounds in bounds {
        let Some(patience) = patience.checked_sub(began.elapsed()) else {
            break;
        };
        all.add(search.run(Bounds { patience, ..bounds }), bounds);
        if all.violation.is_some() || !all.complete {
            break;
        }
    }
    drop(search);
    if let Some(violation) = &mut all.violation {
        violation.story.truncate(4000);
    }
    world.reset();
    world::logging(false);
    watch::watch(None);
    all.took = began.elapsed();
    all
}
