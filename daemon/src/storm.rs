//! Disasters on order: SIGKILL and SIGSTOP for random workers at a fixed rate, drawn from a seed.
//!
//! The daemon does this, not the tool: it holds the pidfds, so a signal can never hit a process that merely has the
//! number of a dead one.

use coheap_protocol::Storm;
use std::time::{Duration, Instant};

/// What the storm does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// Kill this worker.
    Kill(u64),
    /// Stop this worker.
    Stop(u64),
    /// Let it go on.
    Continue(u64),
}

/// A storm's clock.
#[derive(Debug)]
pub struct Clock {
    storm: Storm,
    rng: fastrand::Rng,
    next_kill: Option<Instant>,
    next_stop: Option<Instant>,
    stopped: Vec<(Instant, u64)>,
}

impl Clock {
    /// A storm that begins now.
    pub fn new(storm: Storm, seed: u64, now: Instant) -> Clock {
        let first = |ms: u32| (ms > 0).then(|| now + Duration::from_millis(ms.into()));
        Clock {
            storm,
            rng: fastrand::Rng::with_seed(seed),
            next_kill: first(storm.kill_ms),
            next_stop: first(storm.stop_ms),
            stopped: Vec::new(),
        }
    }

    /// When [`Clock::strikes`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        let resume = self.stopped.iter().map(|&(when, _)| when).min();
        [self.next_kill, self.next_stop, resume]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is due by now, on these living workers.
    pub fn strikes(&mut self, now: Instant, workers: &[u64]) -> Vec<Strike> {
        let mut strikes = Vec::new();
        self.stopped.retain(|&(when, worker)| {
            let over = when <= now;
            if over {
                strikes.push(Strike::Continue(worker));
            }
            !over
        });
        if self.next_kill.is_some_and(|at| at <= now) {
            self.next_kill = Some(now + Duration::from_millis(self.storm.kill_ms.into()));
            strikes.extend(self.rng.choice(workers).map(|&worker| Strike::Kill(worker)));
        }
        if self.next_stop.is_some_and(|at| at <= now) {
            let period = Duration::from_millis(self.storm.stop_ms.into());
            self.next_stop = Some(now + period);
            if let Some(&worker) = self.rng.choice(workers) {
                self.stopped.push((now + period / 2, worker));
                strikes.push(Strike::Stop(worker));
            }
        }
        strikes
    }

    /// Whoever is stopped now and must be let go when the storm is over.
    pub fn calm(self) -> Vec<u64> {
        self.stopped.into_iter().map(|(_, worker)| worker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_stopped_is_continued_and_the_seed_decides_who() {
        let begin = Instant::now();
        let weather = |seed| {
            let mut clock = Clock::new(
                Storm {
                    kill_ms: 200,
                    stop_ms: 100,
                },
                seed,
                begin,
            );
            let mut seen = Vec::new();
            while let Some(due) = clock
                .due()
                .filter(|&due| due < begin + Duration::from_secs(2))
            {
                seen.extend(clock.strikes(due, &[1, 2, 3, 4]));
            }
            (seen, clock.calm().len())
        };
        let (seen, left) = weather(7);
        let count = |f: fn(&Strike) -> bool| seen.iter().filter(|s| f(s)).count();
        let stops = count(|s| matches!(s, Strike::Stop(_)));
        assert!(stops > 10 && count(|s| matches!(s, Strike::Kill(_))) >= 9);
        assert_eq!(stops, count(|s| matches!(s, Strike::Continue(_))) + left);
        assert_eq!(weather(7).0, seen);
        assert_ne!(weather(8).0, seen);
    }
}
