//! Answers for people.

use crate::{heap, server::Daemon, workers::PlaceState};
use coheap::segment::Segment;
use coheap_protocol::{
    DeadRow, PROTOCOL_VERSION, PsRow, Refused, Reply, Request, SignalKind, Status, codes,
};
use rustix::process::Signal;

/// Characters of text per frame: four bytes each at most, so it always fits.
const TEXT_CHARS: usize = 900;

impl Daemon {
    /// Does what a tool asks.
    pub fn answer(&mut self, tool: u64, request: Request) {
        match request {
            Request::Ping => self.rows(tool, Vec::new()),
            Request::Status => self.rows(tool, vec![Reply::Status(Box::new(self.status()))]),
            Request::Ps => self.rows(tool, self.ps().into_iter().map(Reply::Ps).collect()),
            Request::Tasks => self.rows(
                tool,
                heap::task_rows(&self.segment)
                    .into_iter()
                    .map(Reply::Task)
                    .collect(),
            ),
            Request::Dead => self.rows(
                tool,
                self.dead_rows().into_iter().map(Reply::Dead).collect(),
            ),
            Request::Totals => {
                let totals = heap::totals(&heap::status(&self.segment));
                self.rows(tool, vec![Reply::Totals(Box::new(totals))]);
            }
            Request::Config => self.rows(tool, pieces(&self.config.to_toml(true))),
            Request::Reload => match self.reload() {
                Ok(said) => self.rows(tool, pieces(&said)),
                Err(error) => self.reply(tool, &Reply::Failed(error.to_refused())),
            },
            Request::Spawn { n } => {
                self.set_workers(tool, self.crew.wanted().saturating_add(n), false)
            }
            Request::Resize { n } => self.set_workers(tool, n, true),
            Request::Run(run) => {
                for reply in self.run_request(tool, run) {
                    self.reply(tool, &reply);
                }
            }
            Request::Gc { wait } => self.collect_garbage(tool, wait),
            Request::Signal { p, signal } => self.signal(tool, p, signal),
            Request::Stop { mode } => {
                self.stop_waiters.push(tool);
                self.begin_stop(mode, "a tool asked for it");
            }
        }
    }

    fn rows(&mut self, tool: u64, rows: Vec<Reply>) {
        let count = rows.len() as u32;
        for row in rows {
            self.reply(tool, &row);
        }
        self.reply(tool, &Reply::End(count));
    }

    fn refuse(&mut self, tool: u64, code: u8, error: &str, what: &str, advice: &str) {
        self.reply(
            tool,
            &Reply::Failed(Refused::new(code, error, what, advice)),
        );
    }

    /// Everything about this daemon in numbers.
    pub fn status(&self) -> Status {
        let count = |f: &dyn Fn(&PlaceState) -> bool| {
            self.crew.places().iter().filter(|p| f(&p.state)).count() as u32
        };
        let now = heap::status(&self.segment);
        Status {
            name: self.config.name.value.to_string(),
            daemon_pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL_VERSION,
            layout_version: Segment::layout_version(),
            layout_hash: Segment::layout_hash(),
            incarnation: self.segment.incarnation(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            adopted: self.adopted,
            backing: self.config.backing.value.to_string(),
            heap: heap::numbers(&now),
            workers_wanted: self.crew.wanted().into(),
            workers_attached: self
                .crew
                .workers()
                .values()
                .filter(|w| w.p.is_some())
                .count() as u32,
            workers_vacant: count(&|s| *s == PlaceState::Vacant),
            procs: now.gomaxprocs,
            deaths: self.counters.deaths,
            restarts: self.crew.restarts,
            recoveries: now.deaths,
            tasks_runnable: now.tasks[0],
            tasks_running: now.tasks[1],
            tasks_waiting: now.tasks[2],
            tasks_failed: now.tasks[3],
            tasks_requeued: now.requeued,
            tools: self.tools.len() as u32,
            bad_frames: self.counters.bad_frames,
            refused: self.counters.refused,
            run: self
                .run
                .as_ref()
                .map(|run| (run.request.workload.name().into(), self.progress().0)),
        }
    }

    fn ps(&self) -> Vec<PsRow> {
        let procs = heap::status(&self.segment).procs;
        let restarts = |place: Option<usize>| {
            place
                .and_then(|p| self.crew.places().get(p))
                .map_or(0, |p| p.restarts)
        };
        let mut rows: Vec<PsRow> = self
            .crew
            .workers()
            .values()
            .map(|worker| {
                let mut row = PsRow {
                    p: worker.p,
                    pid: worker.pid,
                    state: "starting".into(),
                    age_ms: worker.since.elapsed().as_millis() as u64,
                    restarts: restarts(worker.place),
                    program: worker.program.clone(),
                    ..PsRow::default()
                };
                let leased = procs
                    .iter()
                    .find(|now| Some(now.p as u16) == worker.p && now.pid == worker.pid);
                if let Some(now) = leased {
                    row.state = if now.state == "live" {
                        now.activity
                    } else {
                        now.state
                    }
                    .into();
                    (row.runq, row.steals) = (now.runq, now.steals);
                    (row.alloc_bytes, row.steps) = (now.alloc_bytes, now.steps);
                }
                if worker.stopped {
                    row.state = "stopped".into();
                } else if let Some(why) = worker.suspicion() {
                    row.state = format!("suspect: {why}");
                }
                row
            })
            .collect();
        let missing = self
            .crew
            .places()
            .iter()
            .filter_map(|place| match place.state {
                PlaceState::Backoff(_) => Some((place, "backoff")),
                PlaceState::Vacant => Some((place, "vacant")),
                PlaceState::Done => Some((place, "done")),
                PlaceState::Empty | PlaceState::Filled(_) => None,
            });
        rows.extend(missing.map(|(place, state)| PsRow {
            state: state.into(),
            restarts: place.restarts,
            ..PsRow::default()
        }));
        rows.sort_by_key(|row| row.p.map_or(u16::MAX, |p| p));
        rows
    }

    fn dead_rows(&self) -> Vec<DeadRow> {
        self.dead
            .iter()
            .map(|(when, row)| DeadRow {
                ago_ms: when.elapsed().as_millis() as u64,
                ..row.clone()
            })
            .collect()
    }

    fn set_workers(&mut self, tool: u64, n: u16, procs: bool) {
        if n > 256 {
            let what = format!("{n} workers are not possible; a heap has 256 P's");
            return self.refuse(tool, codes::USAGE, "E025", &what, "at most 256");
        }
        if self.stopping.is_some() {
            return self.refuse(
                tool,
                codes::BUSY,
                "E093",
                "the daemon is stopping",
                "coheap start when it is gone",
            );
        }
        if procs {
            self.resize_procs(n);
        } else {
            self.resize(n);
        }
        self.rows(tool, Vec::new());
    }

    fn collect_garbage(&mut self, tool: u64, wait: bool) {
        let cycle = heap::request_gc(&self.segment);
        if wait {
            self.gc_waits.push((tool, cycle));
        } else {
            self.rows(tool, Vec::new());
        }
    }

    /// Answers those whose collection is over.
    pub fn gc_tick(&mut self) {
        if self.gc_waits.is_empty() {
            return;
        }
        let status = heap::status(&self.segment);
        let over = |&(_, cycle): &(u64, u32)| heap::is_collected(&status, cycle);
        let (over, waiting): (Vec<_>, Vec<_>) = self.gc_waits.drain(..).partition(over);
        self.gc_waits = waiting;
        for (tool, _) in over {
            self.rows(tool, Vec::new());
        }
    }

    fn signal(&mut self, tool: u64, p: u16, signal: SignalKind) {
        let id = self.crew.by_p(p);
        let Some(worker) = id.and_then(|id| self.crew.workers_mut().get_mut(&id)) else {
            return self.refuse(
                tool,
                codes::USAGE,
                "E026",
                &format!("no process is P{p}"),
                "coheap ps",
            );
        };
        let number = match signal {
            SignalKind::Kill => Signal::KILL,
            SignalKind::Stop => Signal::STOP,
            SignalKind::Cont => Signal::CONT,
        };
        if signal == SignalKind::Kill {
            worker.kill();
        } else {
            worker.stopped = signal == SignalKind::Stop;
            worker.held = worker.stopped;
            worker.signal(number);
        }
        log::warn!("ev=proc.signal p={p} pid={} signal={signal:?}", worker.pid);
        self.state_is_old = true;
        self.rows(tool, Vec::new());
    }
}

fn pieces(text: &str) -> Vec<Reply> {
    let chars: Vec<char> = text.chars().collect();
    chars
        .chunks(TEXT_CHARS)
        .map(|piece| Reply::Text(piece.iter().collect()))
        .collect()
}
