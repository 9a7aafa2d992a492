//! Who is killed when, and together with whom. All of it drawn from the seed; what is running at that moment is not.
//!
//! | strike | what it aims at |
//! |---|---|
//! | one worker, by the daemon | the usual death |
//! | several workers at once, by the daemon | one dead waiting for another; a survivor that recovers and dies |
//! | the daemon | runs, orders and restarts that it alone knew |
//! | the daemon and workers, in the same instant | recovery in the daemon's hands; deaths that no parent sees |

use std::time::{Duration, Instant};

use coheap_protocol::{Request, SignalKind};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Trouble, args::Args, world::World};

/// The weather over one heap after the other.
pub struct Weather {
    rng: fastrand::Rng,
    every: Duration,
    next: Instant,
    kills: u64,
    daemon_kills: u64,
    /// Workers killed.
    pub killed: u64,
    /// Daemons killed.
    pub daemons_killed: u64,
}

impl Weather {
    /// What the seed brings.
    pub fn new(args: &Args) -> Weather {
        Weather {
            rng: fastrand::Rng::with_seed(args.seed),
            every: args.every,
            next: Instant::now(),
            kills: args.kills,
            daemon_kills: args.daemon_kills,
            killed: 0,
            daemons_killed: 0,
        }
    }

    /// Whether everything that was ordered has been delivered.
    pub fn is_over(&self) -> bool {
        self.killed >= self.kills && self.daemons_killed >= self.daemon_kills
    }

    /// Time until the next strike.
    pub fn pause(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Strikes, if it is time to. True when the daemon is another one than before.
    ///
    /// The longer a run lasts already, the rarer: a step, or a second marking, that takes longer than anybody lives would never end.
    pub fn strike(&mut self, world: &mut World, lasts: Duration) -> Result<bool, Trouble> {
        if self.next > Instant::now() {
            return Ok(false);
        }
        let mercy = 1.0 + lasts.as_secs_f64() / 3.0;
        self.next = Instant::now() + self.every.mul_f64(2.0 * self.rng.f64() * mercy);
        let due = self.daemon_kills * (self.killed + 1) / self.kills.max(1);
        if self.daemons_killed < due.min(self.daemon_kills) {
            return self.strike_daemon(world).map(|()| true);
        }
        let many = if self.rng.u8(..) < 40 {
            self.rng.usize(2..=4)
        } else {
            1
        };
        for (p, _) in self.victims(world, many, 1) {
            let request = Request::Signal {
                p,
                signal: SignalKind::Kill,
            };
            match world.ask(&request) {
                Ok(_) => self.killed += 1,
                // It has died meanwhile, and its heir has not come.
                Err(coheap::control::ControlError::Refused(_)) => {}
                Err(error) => {
                    world.check_daemon()?;
                    return Err(error.into());
                }
            }
        }
        Ok(false)
    }

    /// Up to `n` of those that live, so that `spared` others do.
    fn victims(&mut self, world: &World, n: usize, spared: usize) -> Vec<(u16, u32)> {
        let procs = world.segment.status().procs;
        let live = procs.iter().filter(|p| p.state == "live");
        let mut live: Vec<(u16, u32)> = live.map(|p| (p.p as u16, p.pid)).collect();
        self.rng.shuffle(&mut live);
        live.truncate(live.len().saturating_sub(spared).min(n));
        live
    }

    /// The daemon, and now and then workers with it. Two others must hold the heap, or it would be gone with them.
    fn strike_daemon(&mut self, world: &mut World) -> Result<(), Trouble> {
        let with_it = if self.rng.bool() {
            self.rng.usize(1..=3)
        } else {
            0
        };
        for (p, pid) in self.victims(world, with_it, 2) {
            let Some(raw) = Pid::from_raw(pid.cast_signed()) else {
                continue;
            };
            let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else {
                continue;
            };
            // Asked again now that the pidfd pins the process: the number may have changed hands.
            let procs = world.segment.status().procs;
            let same = procs.iter().any(|s| s.p as u16 == p && s.pid == pid);
            if same && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
                self.killed += 1;
            }
        }
        self.daemons_killed += 1;
        world.replace_daemon()
    }
}
