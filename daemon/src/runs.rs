//! The run in hand: who is asked to start it, who to read its result, and who is told.
//!
//! The daemon knows a run by three stages and one fact, and the fact is in the heap: whether its root task exists and
//! whether it is finished. So every order can be given again, to anybody:
//!
//! - `Submit` to a worker that died, or does not answer because it is stopped: to another one. The run's id makes the
//!   second a no-op.
//! - `Collect` likewise: reading a result changes nothing.
//!
//! That the root task is finished becomes known by a worker's hint, by the counters, or at the latest by asking a worker
//! to collect every [`LOOK_EVERY`]: hints die with their worker, and nothing is decided by counters.
//!
//! Asking another after [`PATIENCE`] declares nobody dead; it only stops waiting for one.

use crate::{
    heap,
    server::Daemon,
    storm::{Clock, Strike},
};
use coheap_protocol::{
    Outcome, Progress, Refused, Reply, RunId, RunRequest, Totals, WorkerOrder, codes,
};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How long one worker may take to answer before another is asked as well.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// How often somebody is asked whether a run is finished, when nothing says so.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two progress frames.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Outcomes kept for tools that ask again after a broken connection.
const OUTCOMES_KEPT: usize = 8;

/// Where a run has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Somebody must make its root task.
    Submit,
    /// Its tasks run.
    Running,
    /// Somebody must read its result.
    Collect,
}

/// The run in hand.
pub struct Run {
    /// What was asked for.
    pub request: RunRequest,
    /// Tools that wait for it.
    pub tools: Vec<u64>,
    /// Where it has got to.
    pub stage: Stage,
    /// Who was asked last, and when.
    pub asked: Option<(u64, Instant)>,
    /// When it was accepted.
    pub since: Instant,
    deaths_before: u64,
    next_look: Instant,
    next_progress: Instant,
    storm: Clock,
    /// Steps of the heap when they were looked at last, and kills of its storm since they became more.
    steps: u64,
    fruitless: u32,
}

impl Run {
    fn order(&self) -> Option<WorkerOrder> {
        let (run, workload) = (self.request.run, self.request.workload.clone());
        match self.stage {
            Stage::Submit => Some(WorkerOrder::Submit {
                run,
                seed: self.request.seed,
                workload,
            }),
            Stage::Running => None,
            Stage::Collect => Some(WorkerOrder::Collect { run, workload }),
        }
    }

    /// When it needs attention next.
    pub fn due(&self) -> Option<Instant> {
        let answer = self.asked.map(|(_, when)| when + PATIENCE);
        [Some(self.next_progress), answer, self.storm.due()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Daemon {
    /// A tool asks for a run: begins it, joins it, or repeats its outcome.
    pub fn run_request(&mut self, tool: u64, request: RunRequest) -> Vec<Reply> {
        let known = |(outcome, _): &&(Outcome, Totals)| outcome.run == request.run;
        if let Some((outcome, totals)) = self.outcomes.iter().find(known) {
            return vec![
                Reply::Totals(Box::new(totals.clone())),
                Reply::Done(outcome.clone()),
            ];
        }
        if let Some(run) = &mut self.run {
            if run.request.run == request.run {
                run.tools.push(tool);
                return Vec::new();
            }
            let name = run.request.workload.name();
            let what = format!("the heap is busy with another run ({name})");
            let advice = "again when it is over, or without --name for a heap of its own";
            let refused = Refused::new(codes::BUSY, "E094", what, advice);
            return vec![Reply::Failed(refused)];
        }
        let now = Instant::now();
        log::info!(
            "ev=run.accepted run={:#x} workload={}",
            request.run.0,
            request.workload.name()
        );
        if request.redeliver_max != 0 {
            self.segment.set_redeliver_max(request.redeliver_max);
        }
        self.run = Some(Run {
            storm: Clock::new(request.storm, request.seed, now),
            request,
            tools: vec![tool],
            stage: Stage::Submit,
            asked: None,
            since: now,
            deaths_before: self.counters.deaths,
            next_look: now + LOOK_EVERY,
            next_progress: now + PROGRESS_EVERY,
            steps: 0,
            fruitless: 0,
        });
        self.run_ask(now);
        Vec::new()
    }

    /// Gives the order of the run's stage to a worker, unless one has it that lives and may still answer.
    pub fn run_ask(&mut self, now: Instant) {
        let Some(run) = &self.run else { return };
        let waiting = run.asked.is_some_and(|(id, when)| {
            self.crew.workers().contains_key(&id) && now.duration_since(when) < PATIENCE
        });
        let Some(order) = run.order().filter(|_| !waiting) else {
            return;
        };
        let last = run.asked.map_or(0, |(id, _)| id);
        // The next one after whoever was asked last, so that a stopped worker is not asked for ever.
        let ready: Vec<u64> = self
            .crew
            .workers()
            .iter()
            .filter(|(_, w)| w.is_ready())
            .map(|(&id, _)| id)
            .collect();
        let next = ready
            .iter()
            .find(|&&id| id > last)
            .or(ready.first())
            .copied();
        let Some(id) = next else { return };
        let sent = self
            .crew
            .workers_mut()
            .get_mut(&id)
            .is_some_and(|w| w.order(&order));
        if let Some(run) = self.run.as_mut().filter(|_| sent) {
            run.asked = Some((id, now));
        }
    }

    /// A worker's word about a run moves it to a stage.
    pub fn run_stage(&mut self, id: RunId, from: Stage, to: Stage) {
        let Some(run) = self
            .run
            .as_mut()
            .filter(|r| r.request.run == id && r.stage == from)
        else {
            return;
        };
        run.stage = to;
        run.asked = None;
        run.next_look = Instant::now() + LOOK_EVERY;
        self.run_ask(Instant::now());
    }

    /// The run is over: whoever waits is told, those stopped by its storm go on.
    pub fn run_over(&mut self, id: RunId, end: Result<Outcome, Refused>) {
        let Some(run) = self.run.take_if(|r| r.request.run == id) else {
            return;
        };
        for worker in run.storm.calm() {
            self.strike(Strike::Continue(worker));
        }
        log::info!(
            "ev=run.over run={:#x} ok={}",
            id.0,
            end.as_ref().is_ok_and(|o| o.ok)
        );
        // The storm is over, and with it the patience that the run had asked for.
        let limit = self.config.redeliver_max.value;
        self.segment.set_redeliver_max(limit);
        let totals = heap::totals(&heap::status(&self.segment));
        let reply = match end {
            Ok(outcome) => {
                self.outcomes.push_back((outcome.clone(), totals.clone()));
                if self.outcomes.len() > OUTCOMES_KEPT {
                    self.outcomes.pop_front();
                }
                Reply::Done(outcome)
            }
            Err(refused) => Reply::Failed(refused),
        };
        for tool in run.tools {
            self.reply(tool, &Reply::Totals(Box::new(totals.clone())));
            self.reply(tool, &reply);
        }
    }

    /// What the clock brings: storm, progress, a look at whether it is finished, an order given again.
    pub fn run_tick(&mut self, now: Instant) {
        self.run_storm(now);
        self.run_hopeless();
        self.run_progress(now);
        self.run_ask(now);
    }

    fn run_storm(&mut self, now: Instant) {
        let targets: Vec<u64> = self
            .crew
            .workers()
            .iter()
            .filter(|(_, w)| w.supervised && w.p.is_some())
            .map(|(&id, _)| id)
            .collect();
        let strikes = self
            .run
            .as_mut()
            .map(|run| run.storm.strikes(now, &targets))
            .unwrap_or_default();
        if let Some(run) = &mut self.run {
            let kills = strikes.iter().filter(|s| matches!(s, Strike::Kill(_)));
            run.fruitless += kills.count() as u32;
        }
        strikes.into_iter().for_each(|strike| self.strike(strike));
    }

    /// A run that no worker is left for, and none will come for, is over.
    fn run_hopeless(&mut self) {
        let Some(run) = &self.run else { return };
        if self.crew.is_hopeless() {
            let id = run.request.run;
            let what = "every worker died too often and nobody is left to run the workload";
            let refused = Refused::new(
                codes::FAILED,
                "E018",
                what,
                "coheap dead, and the log of the workers",
            );
            self.run_over(id, Err(refused));
        }
    }

    /// A run in a storm that leaves nobody alive for a step would never end: deaths that were ordered say nothing against a place, and
    /// who dies before it takes a task says nothing against a task. As many kills in a row without a step as would give up a task
    /// end it.
    fn run_fruitless(&mut self, steps: u64) {
        let Some(run) = &mut self.run else { return };
        if steps != run.steps {
            (run.steps, run.fruitless) = (steps, 0);
        }
        let (id, limit) = (run.request.run, run.request.redeliver_max);
        if limit != 0 && run.fruitless > limit {
            let what = format!("no step has survived {limit} kills of its storm in a row");
            let advice = "a slower storm, or a greater --redeliver-max (0: never give up)";
            self.run_over(id, Err(Refused::new(codes::FAILED, "E018", what, advice)));
        }
    }

    fn run_progress(&mut self, now: Instant) {
        let Some(run) = self.run.as_mut().filter(|r| r.next_progress <= now) else {
            return;
        };
        run.next_progress = now + PROGRESS_EVERY;
        let (id, stage, tools) = (run.request.run, run.stage, run.tools.clone());
        let look = run.next_look <= now;
        let (progress, finished) = self.progress();
        for tool in tools {
            self.reply(tool, &Reply::Progress(progress));
        }
        if (finished || look) && stage == Stage::Running {
            self.run_stage(id, Stage::Running, Stage::Collect);
        }
        self.run_fruitless(heap::status(&self.segment).steps);
    }

    /// How far the run is, and whether its root task is finished.
    pub fn progress(&self) -> (Progress, bool) {
        let Some(run) = &self.run else {
            return (Progress::default(), false);
        };
        let status = heap::status(&self.segment);
        let mut progress = Progress {
            live_bytes: status.heap_live,
            gc_cycles: status.gc_cycles,
            workers: self
                .crew
                .workers()
                .values()
                .filter(|w| w.p.is_some())
                .count() as u32,
            deaths: self.counters.deaths - run.deaths_before,
            elapsed_ms: run.since.elapsed().as_millis() as u64,
            ..Progress::default()
        };
        let finished = heap::progress(&status, run.request.run, &mut progress);
        (progress, finished)
    }

    fn strike(&mut self, strike: Strike) {
        let (id, signal) = match strike {
            Strike::Kill(id) => (id, Signal::KILL),
            Strike::Stop(id) => (id, Signal::STOP),
            Strike::Continue(id) => (id, Signal::CONT),
        };
        let Some(worker) = self.crew.workers_mut().get_mut(&id) else {
            return;
        };
        if signal == Signal::KILL {
            worker.kill();
        } else {
            worker.stopped = signal == Signal::STOP;
            worker.signal(signal);
        }
        log::debug!("ev=storm pid={} signal={signal:?}", worker.pid);
    }
}
