//! The end, as the poll loop carries it out: each step of [`crate::stop`] asks more of the workers than the one before.

use crate::{
    error::DaemonError,
    events::Notifier,
    heap,
    server::Daemon,
    stop::{Step, Stopping},
};
use coheap_protocol::{Refused, Reply, StopMode, WorkerOrder, codes};
use rustix::process::Signal;
use std::time::Instant;

impl Daemon {
    /// Begins to stop, or hurries.
    pub fn begin_stop(&mut self, mode: StopMode, why: &str) {
        let now = Instant::now();
        let news = match &mut self.stopping {
            Some(stopping) => stopping.hurry(mode, now),
            None => {
                self.stopping = Some(Stopping::new(mode, self.config.stop_timeout.value, now));
                true
            }
        };
        if news {
            self.supervisor.stopping();
            log::info!("ev=daemon.stopping mode={mode:?} msg={why:?}");
            if mode != StopMode::Smart {
                self.abandon_run();
            }
            self.act_on_stop();
        }
    }

    pub(crate) fn abandon_run(&mut self) {
        let Some(id) = self.run.as_ref().map(|r| r.request.run) else {
            return;
        };
        let refused = Refused::new(
            codes::FAILED,
            "E019",
            "the run was cut short: the daemon is stopping",
            "running it again",
        );
        self.run_over(id, Err(refused));
    }

    pub(crate) fn stop_tick(&mut self, now: Instant) {
        let drained = self.run.is_none() && heap::is_idle(&self.segment);
        if self
            .stopping
            .as_mut()
            .and_then(|s| s.advance(now, drained))
            .is_some()
        {
            self.act_on_stop();
        }
    }

    /// Does what the step of the end demands of the workers.
    pub(crate) fn act_on_stop(&mut self) {
        let Some(step) = self.stopping.as_ref().map(Stopping::step) else {
            return;
        };
        if step >= Step::Asked {
            heap::shut_down(&self.segment);
        }
        for worker in self.crew.workers_mut().values_mut() {
            let mine = worker.supervised;
            match step {
                Step::Draining => {}
                Step::Asked => {
                    if !worker.order(&WorkerOrder::Stop {
                        mode: StopMode::Fast,
                    }) && mine
                    {
                        worker.signal(Signal::TERM);
                    }
                }
                Step::Termed if mine => {
                    worker.signal(Signal::TERM);
                    worker.signal(Signal::CONT);
                }
                Step::Killed if mine => worker.signal(Signal::KILL),
                Step::Termed | Step::Killed => {}
            }
        }
    }

    /// Whether nobody is left to wait for. Guests are asked to leave, and not waited for longer than that.
    pub(crate) fn is_over(&self) -> bool {
        let Some(step) = self.stopping.as_ref().map(Stopping::step) else {
            return false;
        };
        let waited_for = |supervised: bool| supervised || step < Step::Termed;
        step > Step::Draining
            && !self
                .crew
                .workers()
                .values()
                .any(|w| waited_for(w.supervised))
    }

    /// The end of a daemon that could not begin: a heap that it has made goes with it, one that was there before stays for the next.
    pub(crate) fn vanish(mut self, error: DaemonError) -> DaemonError {
        if !self.adopted {
            for worker in self.crew.workers_mut().values_mut() {
                worker.signal(Signal::KILL);
            }
            heap::remove(&self.segment, &self.config.backing.value);
            self.instance
                .remove()
                .unwrap_or_else(|e| log::warn!("ev=daemon.leftover msg={:?}", e.to_string()));
        }
        error
    }

    /// Removes everything with a name, then tells those who wait for that.
    pub(crate) fn end(mut self, _notifier: &Notifier) -> Result<u8, DaemonError> {
        heap::remove(&self.segment, &self.config.backing.value);
        log::info!(
            "ev=daemon.ended name={} pid={}",
            self.config.name.value,
            std::process::id()
        );
        self.instance.remove()?;
        if let Some(janitor) = self.janitor {
            janitor.end();
        }
        for tool in std::mem::take(&mut self.stop_waiters) {
            if let Some(outbox) = self.tools.get_mut(&tool) {
                let _ = outbox.send(&Reply::End(0));
            }
        }
        Ok(self.exit_code)
    }
}
