//! The search: depth first, over "who goes on, or dies, now".
//!
//! Memory is one: the segment. Going down, a step's stores are done there and logged; coming back they are undone. Only where a step
//! is unknown (`steps`) its process is run from the start along the path, to learn it.

use std::{
    collections::hash_map::Entry,
    time::{Duration, Instant},
};

use super::{
    Bounds, Report, Violation,
    hash::FoldMap,
    stage::{Action, Stage, State},
    watch::{Now, with_now},
};
use crate::model::world;

/// A state on the path, and what is done from it.
struct Node {
    options: Vec<Action>,
    /// The next of them.
    i: usize,
    state: State,
    mark: usize,
}

impl Node {
    /// What was done from it last.
    fn taken(&self) -> Action {
        self.options[self.i - 1]
    }
}

/// Most time for executions at random.
const WARM_UP: Duration = Duration::from_secs(2);

/// A path longer than this does not end.
const ENDLESS: usize = 200_000;

/// What is to be done in a state.
enum Visit {
    /// Nothing: it was met before, or is the end.
    Back,
    Wrong(String),
    Open(Vec<Action>),
}

/// One search through everything that its bounds allow.
pub(super) struct Search<'w> {
    stage: Stage<'w>,
    path: Vec<Node>,
    /// Switches that were left when the state was met.
    visited: FoldMap<u128, u32>,
    /// Ends that have been judged, and found good.
    judged: FoldMap<u128, ()>,
    report: Report,
    began: Instant,
    /// Have executions at random been run?
    warm: bool,
}

impl<'w> Search<'w> {
    pub fn new(stage: Stage<'w>) -> Search<'w> {
        Search {
            stage,
            path: Vec::new(),
            visited: FoldMap::default(),
            judged: FoldMap::default(),
            report: Report::default(),
            began: Instant::now(),
            warm: false,
        }
    }

    /// Looks at everything within `bounds`. What was learned before, within others, is kept.
    pub fn run(&mut self, bounds: Bounds) -> Report {
        self.began = Instant::now();
        self.report = Report::default();
        self.stage.bounds = bounds;
        if !std::mem::replace(&mut self.warm, true) {
            self.warm_up();
        }
        loop {
            // A pass with the shared words known so far; over again when it has found more.
            if with_now(Now::adopt_found) {
                self.stage.steps.forget();
            }
            self.visited.clear();
            self.path.clear();
            let ended = self.pass();
            self.report.states = self.visited.len() as u64;
            self.report.shared_words = with_now(|now| now.shared_words);
            self.report.steps = self.stage.steps.known() as u64;
            match ended {
                Ended::Over => {
                    self.report.complete = true;
                    break;
                }
                Ended::Late => break,
                Ended::Again => {}
                Ended::Wrong(what) => {
                    let story = self.tell();
                    self.report.violation = Some(Violation { what, story });
                    break;
                }
            }
        }
        self.report.took = self.began.elapsed();
        std::mem::take(&mut self.report)
    }

    /// What this program, not the segment, does once only (numbers of types and kinds), and executions at random: they find nearly
    /// all words that are shared.
    fn warm_up(&mut self) {
        self.stage.start(|_| true);
        let mut random = fastrand::Rng::with_seed(1);
        let mut idle = 0;
        // No more than is worth it: what is not found here makes a pass begin again.
        let enough = WARM_UP.min(self.stage.bounds.patience / 6);
        while idle < 1000 && self.began.elapsed() < enough {
            self.wander(&mut random);
            let grown = with_now(|now| now.grown);
            let found = with_now(Now::adopt_found);
            if found {
                self.stage.steps.forget();
            }
            idle = if grown || found { 0 } else { idle + 1 };
        }
    }

    /// One execution at random. What it finds is not looked at: the search comes by again.
    fn wander(&mut self, random: &mut fastrand::Rng) {
        self.stage.start(|_| false);
        self.path.clear();
        // Of 256 decisions; in some executions many, in others few.
        let deaths = [0, 1, 4, 16, 64][random.usize(..5)];
        let switches = [1, 8, 64, 200][random.usize(..4)];
        let over = || crate::model::is_broken() || with_now(|now| now.is_stale());
        while !over() {
            let options = self.stage.options(self.stage.unobserved());
            let dying = |action: &&Action| matches!(action, Action::Die(_));
            let steps = options.len() - options.iter().filter(dying).count();
            if steps == 0 || self.path.len() > ENDLESS {
                self.stage.judge();
                break;
            }
            // First comes who went on last; deaths come at the end.
            let choice = match options.len() - steps {
                n if n > 0 && random.u8(..) < deaths => steps + random.usize(..n),
                _ if random.u8(..) < switches => random.usize(..steps),
                _ => 0,
            };
            self.enter(options);
            self.path.last_mut().expect("just entered").i = choice;
            self.advance();
        }
    }

    fn enter(&mut self, options: Vec<Action>) {
        self.path.push(Node {
            options,
            i: 0,
            state: self.stage.state,
            mark: world::mark(),
        });
    }

    /// Takes the next option of the path's last node.
    fn advance(&mut self) {
        let node = self.path.last_mut().expect("a node");
        let action = node.options[node.i];
        node.i += 1;
        if !self.stage.act(action, false) && self.bring(action.who()) {
            let done = self.stage.act(action, false);
            assert!(done, "a fault of the explorer: a coroutine is elsewhere");
        }
    }

    /// Brings the coroutine of `who` along the path to its last node. False if it cannot, because what was learned does not hold.
    fn bring(&mut self, who: usize) -> bool {
        self.report.replays += 1;
        self.stage.start(|i| i == who);
        for i in 0..self.path.len() {
            if with_now(|now| now.is_stale()) {
                return false;
            }
            let same = self.stage.state.is(&self.path[i].state);
            assert!(same, "a fault of the explorer: a path leads elsewhere");
            self.path[i].mark = world::mark();
            if i + 1 < self.path.len() {
                let action = self.path[i].taken();
                let done = self.stage.act(action, action.who() == who);
                assert!(done, "a fault of the explorer: a step is unknown");
            }
        }
        true
    }

    fn pass(&mut self) -> Ended {
        self.stage.start(|_| false);
        let mut moves = 0u64;
        loop {
            match self.visit() {
                Visit::Wrong(what) => return Ended::Wrong(what),
                Visit::Back => self.report.executions += 1,
                Visit::Open(options) => self.enter(options),
            }
            loop {
                let Some(node) = self.path.last_mut() else {
                    return if with_now(|now| !now.grown && !now.is_stale()) {
                        Ended::Over
                    } else {
                        Ended::Again
                    };
                };
                if node.i == node.options.len() {
                    self.path.pop();
                    continue;
                }
                if node.i > 0 {
                    self.stage.back_to(&node.state, node.mark);
                }
                break;
            }
            self.advance();
            moves += 1;
            let (grown, found) = with_now(|now| (now.grown, now.is_stale()));
            if found || grown && moves.is_multiple_of(1 << 16) {
                return Ended::Again;
            }
            if moves.is_multiple_of(1 << 10) && self.began.elapsed() > self.stage.bounds.patience {
                return Ended::Late;
            }
        }
    }

    /// Looks at the state that the path has come to.
    fn visit(&mut self) -> Visit {
        if let Some(what) = self.stage.broken_now() {
            return Visit::Wrong(what);
        }
        if self.path.len() > ENDLESS {
            return Visit::Wrong("an execution does not come to an end".into());
        }
        self.report.depth = self.report.depth.max(self.path.len());
        let slip = self.stage.unobserved();
        let after_death = |node: &Node| matches!(node.taken(), Action::Die(_));
        if (slip.is_none() || self.path.last().is_some_and(after_death)) && self.was_here() {
            return Visit::Back;
        }
        let options = self.stage.options(slip);
        if options.iter().all(|o| matches!(o, Action::Die(_))) {
            // Somebody may still die here, with everything else at rest: judged here without, and below with that.
            if let Some(what) = self.judge() {
                return Visit::Wrong(what);
            }
            if options.is_empty() {
                return Visit::Back;
            }
        }
        Visit::Open(options)
    }

    /// Notes the state. Has it been met before, with as many switches left?
    fn was_here(&mut self) -> bool {
        let most = self.stage.bounds.preemptions;
        let left = most.map_or(0, |most| most + 1 - self.stage.state.preempted);
        match self.visited.entry(self.stage.key()) {
            Entry::Occupied(mut e) if *e.get() < left => {
                e.insert(left);
                false
            }
            Entry::Occupied(_) => true,
            Entry::Vacant(e) => {
                e.insert(left);
                false
            }
        }
    }

    fn judge(&mut self) -> Option<String> {
        if self.judged.contains_key(&self.stage.outcome()) {
            return None;
        }
        self.report.judged += 1;
        let outcome = self.stage.outcome();
        let bad = self.stage.judge();
        self.judged.insert(outcome, ());
        bad
    }

    /// Runs the path once more, everybody by its code, and tells it.
    fn tell(&mut self) -> Vec<String> {
        with_now(|now| now.story = Some(Vec::new()));
        self.stage.start(|_| true);
        for node in &self.path {
            self.stage.act(node.taken(), true);
        }
        let mut story = with_now(|now| now.story.take()).unwrap_or_default();
        story.push("(everything dead is recovered, and the end is judged)".into());
        story
    }
}

/// How a pass ended.
enum Ended {
    /// Everything was looked at.
    Over,
    /// Out of time.
    Late,
    /// A word turned out to be shared.
    Again,
    Wrong(String),
}
