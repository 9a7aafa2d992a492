//! Workers that come, go and die, as the poll loop sees them.
//!
//! A death has two messengers: the life word, which the watcher thread sees within a millisecond and recovers, and the pidfd, which
//! follows when the process's memory is gone, with the cause. What both say is kept in the segment ([`coheap::recover::Death`]);
//! a process that died before it leased a P is remembered here only. Which of the two it is can be open for a moment, while a
//! survivor recovers the P: until it is known the death is *untold*, so that it never stands in both lists.

use crate::{
    heap::{self, Death},
    logging,
    server::Daemon,
    workers::cause,
};
use coheap_protocol::{DeadRow, StopMode, WorkerOrder};
use rustix::process::Signal;
use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

/// Deaths without a P that are remembered for `coheap dead`.
const DEAD_KEPT: usize = 256;
/// How long a P may be in recovery, before its process's death is remembered here after all.
const UNTOLD_MAX: Duration = Duration::from_secs(5);

/// A death of which it is not known yet whether the segment remembers it.
pub struct Untold {
    row: DeadRow,
    /// As `wait` tells; `None` for somebody else's child.
    status: Option<i32>,
    /// When it was ordered, by the segment's clock; 0 never.
    killed_ns: u64,
    since: Instant,
}

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
            let row = DeadRow {
                p: worker.p,
                pid,
                cause,
                at,
                requeued,
                recovery_us: us,
                ago_ms: 0,
            };
            self.untold.push(Untold {
                row,
                status: status.map(ExitStatusExt::into_raw),
                killed_ns: worker.killed_ns,
                since: now,
            });
            self.tell_deaths();
        }
        self.state_is_old = true;
        self.run_ask(now);
    }

    /// Adds the cause to the segment's memory of each death that is there by now; remembers those of processes that had no P.
    pub(crate) fn tell_deaths(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let leased = heap::status(&self.segment).procs;
        for death in std::mem::take(&mut self.untold) {
            let pid = death.row.pid;
            if self.segment.note_death_status(pid, death.status) {
                // A survivor that recovered it does not know of the order.
                if death.killed_ns != 0 {
                    self.segment.note_death_order(pid, death.killed_ns);
                }
                continue;
            }
            let has_p = leased.iter().any(|p| p.pid == pid);
            if has_p && death.since.elapsed() < UNTOLD_MAX {
                self.untold.push(death);
            } else {
                self.remember(death.row);
            }
        }
    }

    fn remember(&mut self, row: DeadRow) {
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
