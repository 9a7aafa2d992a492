//! When a place's worker is started again after a death.
//!
//! The first restart follows after 100 ms, each further one after twice the time before, 5 s at most; a worker that
//! lived for 10 s starts the series anew. Five deaths within 10 s leave the place vacant: a program that cannot start
//! would otherwise be started for ever. `coheap spawn` and `coheap resize` fill vacant places again.
//!
//! Deaths that were ordered (`coheap kill`, a kill storm) are no sign of a bad program: they do not count, and the
//! restart is immediate.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// First delay.
pub const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay.
pub const DELAY_MAX: Duration = Duration::from_secs(5);
/// Deaths within [`WINDOW`] that leave a place vacant.
pub const DEATHS_MAX: usize = 5;
/// How far back deaths count, and how long a worker must live to start anew.
pub const WINDOW: Duration = Duration::from_secs(10);

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again at that time.
    RestartAt(Instant),
    /// Leave the place empty.
    Vacant,
}

/// The history of one place.
#[derive(Debug, Default)]
pub struct History {
    deaths: VecDeque<Instant>,
    delay: Duration,
}

impl History {
    /// A worker died that nobody had ordered to.
    pub fn died(&mut self, now: Instant) -> Verdict {
        while self
            .deaths
            .front()
            .is_some_and(|&then| now.duration_since(then) > WINDOW)
        {
            self.deaths.pop_front();
        }
        if self.deaths.is_empty() {
            self.delay = Duration::ZERO;
        }
        self.deaths.push_back(now);
        if self.deaths.len() >= DEATHS_MAX {
            return Verdict::Vacant;
        }
        self.delay = (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX);
        Verdict::RestartAt(now + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_the_fifth_quick_death_is_the_last() {
        let begin = Instant::now();
        let mut history = History::default();
        let mut now = begin;
        let mut delays = Vec::new();
        while let Verdict::RestartAt(then) = history.died(now) {
            delays.push((then - now).as_millis());
            now = then;
        }
        assert_eq!(delays, [100, 200, 400, 800]);
    }

    #[test]
    fn a_worker_that_lives_long_enough_starts_anew() {
        let mut history = History::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(history.died(now), Verdict::RestartAt(now + DELAY_MIN));
            now += WINDOW + Duration::from_millis(1);
        }
    }
}
