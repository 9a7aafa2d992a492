//! The end, in steps that each wait for the one before, and each have a deadline.
//!
//! | step | what happens | leaves it when |
//! |---|---|---|
//! | `Draining` (smart) | nothing new is accepted | no run is in hand and no task is runnable |
//! | `Asked` (fast) | workers were told to give their P back | all are gone, or the patience is over |
//! | `Termed` | SIGTERM (and SIGCONT: a stopped process hears nothing) | all are gone, or a second is over |
//! | `Killed` (immediate) | SIGKILL | all are gone: the kernel leaves no choice |
//!
//! A deadline here ends the *politeness*, never decides a death: gone means that the pidfd said so.

use coheap_protocol::StopMode;
use std::time::{Duration, Instant};

/// Patience between SIGTERM and SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(1);

/// Where the end has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Waiting for the work to be done.
    Draining,
    /// Workers were asked.
    Asked,
    /// Workers were terminated.
    Termed,
    /// Workers were killed.
    Killed,
}

/// An end under way.
#[derive(Debug)]
pub struct Stopping {
    step: Step,
    deadline: Option<Instant>,
    patience: Duration,
}

impl Stopping {
    /// The end begins.
    pub fn new(mode: StopMode, patience: Duration, now: Instant) -> Stopping {
        let mut stopping = Stopping {
            step: first_step(mode),
            deadline: None,
            patience,
        };
        stopping.enter(stopping.step, now);
        stopping
    }

    fn enter(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.deadline = match step {
            Step::Draining | Step::Killed => None,
            Step::Asked => Some(now + self.patience),
            Step::Termed => Some(now + TERM_PATIENCE),
        };
    }

    /// Where it has got to.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Goes on to the step of a less patient mode; `true` if that is news.
    pub fn hurry(&mut self, mode: StopMode, now: Instant) -> bool {
        let news = first_step(mode) > self.step;
        if news {
            self.enter(first_step(mode), now);
        }
        news
    }

    /// When patience ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The next step if its time has come; whoever gets one acts on it.
    pub fn advance(&mut self, now: Instant, drained: bool) -> Option<Step> {
        let next = match self.step {
            Step::Draining if drained => Step::Asked,
            Step::Asked if self.deadline.is_some_and(|d| d <= now) => Step::Termed,
            Step::Termed if self.deadline.is_some_and(|d| d <= now) => Step::Killed,
            _ => return None,
        };
        self.enter(next, now);
        Some(next)
    }
}

fn first_step(mode: StopMode) -> Step {
    match mode {
        StopMode::Smart => Step::Draining,
        StopMode::Fast => Step::Asked,
        StopMode::Immediate => Step::Killed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_taken_once_and_in_order() {
        let begin = Instant::now();
        let mut stopping = Stopping::new(StopMode::Smart, Duration::from_secs(2), begin);
        assert_eq!(stopping.advance(begin, false), None);
        assert_eq!(stopping.advance(begin, true), Some(Step::Asked));
        assert_eq!(stopping.advance(begin, true), None);
        let later = begin + Duration::from_secs(2);
        assert_eq!(stopping.advance(later, true), Some(Step::Termed));
        assert_eq!(
            stopping.advance(later + Duration::from_secs(1), true),
            Some(Step::Killed)
        );
        assert_eq!(
            stopping.advance(later + Duration::from_secs(99), true),
            None
        );
    }

    #[test]
    fn a_second_order_can_hurry_and_never_delay() {
        let now = Instant::now();
        let mut stopping = Stopping::new(StopMode::Fast, Duration::from_secs(2), now);
        assert!(!stopping.hurry(StopMode::Smart, now));
        assert!(stopping.hurry(StopMode::Immediate, now));
        assert_eq!(stopping.step(), Step::Killed);
        assert!(!stopping.hurry(StopMode::Immediate, now));
    }
}
