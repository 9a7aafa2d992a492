//! Workers that come, go and die, as the poll loop sees them.
//!
//! A death has two messengers: the life word, which the watcher thread sees within a millisecond and recovers, and the pidfd, which
//! follows when the process's memory is gone, with the cause. What both say is kept in the segment ([`coheap::recover::Death`]);
//! a process that died before it leased a P is remembered here only.

use crate::{
    heap::{self, Death},
    logging,
    server::Daemon,
    workers::cause,
};
use coheap_protocol::{DeadRow, StopMode, WorkerOrder};
use rustix::process::Signal;
use std::{os::unix::process::ExitStatusExt, time::Instant};

/// Deaths without a P that are remembered for `coheap dead`.
const DEAD_KEPT: usize = 256;

impl Daemon {
    /// Makes it that many workers, and lets as many P's run.
    pub fn resize_procs(&mut self, n: u16) {
        self.procs_asked = Some(n.max(1));
        self.resize(n);
    }

    /// Makes it that many workers.
    pub fn resize(&mut self, n: u16) {
        let dismissed = self.crew.resize(n);
        for id in dismissed {
            if let Some(worker) = self.crew.workers_mut().get_mut(&id)
                && !worker.order(&WorkerOrder::Stop {
                    mode: StopMode::Fast,
                })
            {
                worker.signal(Signal::TERM);
            }
        }
        if self.procs_asked.is_some_and(|asked| asked < n) {
            self.procs_asked = Some(n);
        }
        log::info!("ev=procs.resize workers={n}");
        self.state_is_old = true;
    }

    /// The pidfd says that all threads of a worker are gone.
    pub(crate) fn worker_gone(&mut self, id: u64) {
        let Some((worker, status)) = self.crew.remove(id) else {
            return;
        };
        let now = Instant::now();
        // The watcher's report may be in the queue already.
        self.events
            .take()
            .into_iter()
            .for_each(|event| self.happened(event));
        let deaths = heap::recover(&self.segment);
        self.recovered(deaths);
        let remembered =
            status.is_some_and(|s| self.segment.note_death_status(worker.pid, s.into_raw()));
        let (cause, exited_well) = cause(status);
        let well = exited_well || (worker.leaving && status.is_none());
        let next = worker.place.map_or("no place".into(), |place| {
            self.crew.settle(place, worker.doomed, well, now)
        });
        let pid = worker.pid;
        let p = worker.p.map_or("-".into(), |p| p.to_string());
        if worker.leaving || well || self.stopping.is_some() {
            self.recoveries.remove(&pid);
            log::info!("ev=proc.left p={p} pid={pid} cause={cause:?}");
        } else {
            self.counters.deaths += 1;
            let found = self.recoveries.remove(&pid).unwrap_or_default();
            let (at, us, requeued) = (found.at, found.took.as_micros() as u64, found.requeued);
            log::warn!(
                "ev=proc.dead p={p} pid={pid} cause={cause:?} at={} requeued={requeued} recovery_us={us} restart={next:?}",
                logging::value(&at)
            );
            if !remembered {
                self.remember(DeadRow {
                    p: worker.p,
                    pid,
                    cause,
                    at,
                    requeued,
                    recovery_us: us,
                    ago_ms: 0,
                });
            }
        }
        self.state_is_old = true;
        self.run_ask(now);
    }

    pub(crate) fn remember(&mut self, row: DeadRow) {
        self.dead.push_back((Instant::now(), row));
        if self.dead.len() > DEAD_KEPT {
            self.dead.pop_front();
        }
    }

    /// P's were recovered, here or by the thread that watches life words.
    pub(crate) fn recovered(&mut self, deaths: Vec<Death>) {
        for death in deaths {
            log::info!(
                "ev=proc.recovered p={} pid={} us={}",
                death.p,
                death.pid,
                death.took.as_micros()
            );
            let killed = self
                .crew
                .by_pid(death.pid)
                .and_then(|id| self.crew.workers().get(&id))
                .map_or(0, |w| w.killed_ns);
            if killed != 0 {
                self.segment.note_death_order(death.pid, killed);
            }
            // The pidfd will follow, with the cause.
            self.recoveries.insert(death.pid, death);
        }
    }
}
