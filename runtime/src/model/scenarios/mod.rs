//! The scenarios: small worlds, and for each the twins that it must catch.
//!
//! A script is what a process does, in calls of the product's own functions. What a scenario promises at its end is checked by
//! the observer, a P that lives: it recovers the dead, takes a running cycle to its end by itself ("a good state stays
//! reachable"), and then looks at the heap.

pub(super) use self::{
    judge::*,
    rounds::{almost_marked, assist, at_mark_done, claimed, hang},
    script::*,
};
use std::time::Duration;

use super::{
    explorer::{Bounds, Report, explore},
    set_twin,
    world::World,
};

mod judge;
mod marking;
mod pages;
mod rounds;
mod script;
mod slots;
mod tasks;
mod weak;

/// A rule to take away, and the bounds within which that must be caught.
#[derive(Clone, Copy)]
pub struct Twin {
    /// Name of the rule's absence.
    pub name: &'static str,
    /// Bounds of the search.
    pub bounds: Bounds,
}

const fn twin(name: &'static str, deaths: u32, preemptions: u32) -> Twin {
    Twin {
        name,
        bounds: bounds(deaths, Some(preemptions), 60),
    }
}

/// A scenario, how far it is explored, and what must break it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a line.
    pub shows: &'static str,
    /// Bounds of the short run.
    pub short: Bounds,
    /// Bounds of the long run.
    pub long: Bounds,
    /// Is it looked at in full within two deaths and one of a recoverer?
    pub whole: Whole,
    /// Rules that must be caught when taken away.
    pub twins: Vec<Twin>,
    make: fn() -> World,
}

/// Where a scenario is looked at in full within two deaths and one of a recoverer, with no other switches than those of deaths, ends
/// and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// In CI: it takes seconds.
    InCi,
    /// At night: a few minutes at most.
    AtNight,
    /// Nowhere: smaller forms of it are.
    InSmallerForms,
}

impl Whole {
    /// Those bounds.
    pub fn bounds(patience: Duration) -> Bounds {
        Bounds {
            deaths: 2,
            recoverer_deaths: Some(1),
            preemptions: Some(0),
            patience,
        }
    }
}

impl Case {
    fn new(name: &'static str, shows: &'static str, make: fn() -> World) -> Case {
        Case {
            name,
            shows,
            short: bounds(1, Some(1), SHORT),
            long: bounds(2, Some(4), 600),
            whole: Whole::AtNight,
            twins: Vec::new(),
            make,
        }
    }

    /// Deaths, and preemptions, of the short run.
    fn short(self, deaths: u32, preemptions: impl Into<Option<u32>>) -> Case {
        Case {
            short: bounds(deaths, preemptions.into(), SHORT),
            ..self
        }
    }

    /// Deaths, preemptions and seconds of the long run.
    fn long(self, deaths: u32, preemptions: impl Into<Option<u32>>, seconds: u64) -> Case {
        Case {
            long: bounds(deaths, preemptions.into(), seconds),
            ..self
        }
    }

    fn whole(self, whole: Whole) -> Case {
        Case { whole, ..self }
    }

    fn twins(self, twins: &[Twin]) -> Case {
        Case {
            twins: twins.to_vec(),
            ..self
        }
    }

    /// One search, within exactly these bounds.
    pub fn search(&self, bounds: Bounds, twin: &'static str) -> Report {
        self.explore(&[bounds], bounds.patience, twin)
    }

    /// Explores it with the rule `twin` taken away; "" for none.
    ///
    /// Few deaths and preemptions first: most faults need one or two, and are found in a moment. The last search is the whole.
    pub fn run(&self, bounds: Bounds, twin: &'static str) -> Report {
        self.explore(&steps(bounds), bounds.patience, twin)
    }

    fn explore(&self, bounds: &[Bounds], patience: Duration, twin: &'static str) -> Report {
        let world = (self.make)();
        set_twin(twin);
        let report = explore(&world, bounds, patience);
        set_twin("");
        report
    }
}

/// Ever larger bounds up to these.
fn steps(most: Bounds) -> Vec<Bounds> {
    let last = most.preemptions.unwrap_or(4);
    let mut steps: Vec<_> = (0..=most.deaths)
        .flat_map(|d| (0..=last).map(move |p| (d, p)))
        .collect();
    steps.sort_by_key(|&(d, p)| (2 * d + p, d));
    let mut steps: Vec<_> = steps.into_iter().map(|(d, p)| (d, Some(p))).collect();
    if most.preemptions.is_none() {
        steps.extend((0..=most.deaths).map(|d| (d, None)));
    }
    steps
        .into_iter()
        .map(|(deaths, preemptions)| Bounds {
            deaths,
            preemptions,
            ..most
        })
        .collect()
}

/// Seconds of a short run.
const SHORT: u64 = 3;

const fn bounds(deaths: u32, preemptions: Option<u32>, seconds: u64) -> Bounds {
    Bounds {
        deaths,
        recoverer_deaths: None,
        preemptions,
        patience: Duration::from_secs(seconds),
    }
}

/// Every scenario.
pub fn cases() -> Vec<Case> {
    let groups = [
        slots::cases,
        marking::cases,
        rounds::cases,
        weak::cases,
        pages::cases,
        tasks::cases,
    ];
    groups.iter().flat_map(|cases| cases()).collect()
}
