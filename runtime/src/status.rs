//! Numbers for people and tools: a snapshot of what the segment says about itself. Reads only.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::word::{PhaseWord, ProcWord, SlotWord, TaskWord, WorkerWord};

use crate::{api::P, names, recover::activity_name, segment::Segment};

/// The state of a heap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Hard limit, bytes.
    pub limit_bytes: u64,
    /// Reserved so far, bytes.
    pub committed_bytes: u64,
    /// Who refused the last growth below the limit, if somebody did.
    pub growth_refused: Option<String>,
    /// Allocated since the last cycle plus what it found live, bytes.
    pub heap_live: u64,
    /// `heap_live` at which the next cycle should end.
    pub heap_goal: u64,
    /// `heap_live` at which the next cycle starts.
    pub heap_trigger: u64,
    /// What the last cycle found live, bytes.
    pub marked_live: u64,
    /// GOGC; negative off.
    pub gc_percent: i32,
    /// Cycles finished.
    pub gc_cycles: u64,
    /// Of these, started because somebody asked.
    pub gc_forced: u64,
    /// Cycles checked by a second marking.
    pub checkmarks: u32,
    /// Cycles followed by a verification of the whole heap.
    pub verifications: u32,
    /// The farthest that a cycle has ended beyond its goal, in thousandths of the goal.
    pub over_goal_permille: u32,
    /// Phase of the collector.
    pub phase: &'static str,
    /// Number of the running or last cycle.
    pub cycle: u32,
    /// P's that may run.
    pub gomaxprocs: u32,
    /// Bytes ever allocated, by the dead and by those who left too.
    pub alloc_bytes: u64,
    /// Objects ever allocated.
    pub alloc_objects: u64,
    /// Tasks stolen.
    pub steals: u64,
    /// Mark workers claimed by another lease than the one that parked them.
    pub migrations: u64,
    /// Attaches that lost.
    pub attach_lost: u64,
    /// Runs of mark workers: dedicated, fractional, idle.
    pub mark_runs: [u64; 3],
    /// Nanoseconds of marking: dedicated, fractional, idle, assists.
    pub mark_ns: [u64; 4],
    /// Deaths recovered.
    pub deaths: u64,
    /// Tasks given up.
    pub gave_up: u64,
    /// Tasks put back after a death.
    pub requeued: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Delays that the collector put on P's, ns: p50, p99, longest.
    pub pause_ns: [u64; 3],
    /// How many of them lasted from 2^b to 2^(b+1) ns, by b.
    pub pause_hist: Vec<u64>,
    /// Steps ever run.
    pub steps: u64,
    /// Nanoseconds of all cycles.
    pub cycle_ns: u64,
    /// Cycles by what started them: pace, limit, request, time, death.
    pub gc_by: [u64; 5],
    /// Deaths of one step after which its task is given up; 0 never.
    pub redeliver_max: u32,
    /// Bytes above which the pacer works harder.
    pub soft_limit_bytes: u64,
    /// Counters of the running workload.
    pub progress: Vec<u64>,
    /// Leased P's.
    pub procs: Vec<ProcStatus>,
    /// Tasks by state: runnable, running, waiting, failed.
    pub tasks: [u64; 4],
}

/// One leased P.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcStatus {
    /// Index.
    pub p: usize,
    /// Process.
    pub pid: u32,
    /// Lease.
    pub incarnation: u32,
    /// State of the lease.
    pub state: &'static str,
    /// What it is doing.
    pub activity: &'static str,
    /// Task it runs.
    pub task: Option<u32>,
    /// Tasks in its queue.
    pub runq: u32,
    /// Tasks it has stolen.
    pub steals: u64,
    /// Bytes it has allocated.
    pub alloc_bytes: u64,
    /// Steps it has run.
    pub steps: u64,
    /// Nanoseconds of marking.
    pub mark_ns: u64,
    /// Monotonic nanoseconds of its lease.
    pub leased_at_ns: u64,
    /// Mark worker in its slot.
    pub worker: Option<u16>,
    /// State of that worker.
    pub worker_state: &'static str,
    /// Migrations of that worker.
    pub worker_migrations: u32,
}

/// A task for the list of `coheap tasks`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskStatus {
    /// Index of its record.
    pub task: usize,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: &'static str,
    /// Runs of the present step that were lost: to deaths, and to a lack of memory.
    pub attempts: u32,
    /// P that runs, reserves or publishes it.
    pub p: Option<u16>,
    /// Steps done.
    pub steps: u32,
    /// Exit code of the error that failed it, 0 none.
    pub error_code: u32,
    /// Text of that error.
    pub error: String,
    /// Of a failed task: the run in hand when it failed ([`Segment::name_run`]), 0 none.
    pub run: u64,
}

/// A failed task's error. The task keeps the text alive, as a root, for as long as it is failed.
fn error_text(segment: &Segment, r: u32, word: TaskWord) -> String {
    if r == 0 || word.state() != TaskWord::FAILED {
        String::new()
    } else {
        crate::gc::verify::read_text(segment, r)
    }
}

fn lost_runs(segment: &Segment, task: usize, word: TaskWord) -> u32 {
    let lost = crate::sched::lost_runs::lost(segment, task, word);
    (lost >> 32) as u32 + lost as u32
}

fn phase_name(kind: u8) -> &'static str {
    match kind {
        PhaseWord::OFF => "off",
        PhaseWord::BARRIER => "barrier",
        PhaseWord::BLACK => "black",
        PhaseWord::MARK => "mark",
        PhaseWord::ROUND => "round",
        PhaseWord::STOPPED => "stopped",
        _ => "?",
    }
}

impl Segment {
    /// A snapshot. Its parts were read one after the other.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert_eq!(segment.status().gc_cycles, 0);
    /// ```
    pub fn status(&self) -> Status {
        let (gc, stats, sched) = (&self.hdr.gc, &self.hdr.stats, &self.hdr.sched);
        let phase = self.phase();
        let procs: Vec<ProcStatus> = (0..self.procs.len())
            .filter_map(|p| self.proc_status(p))
            .collect();
        let sum = |f: fn(&shm_layout::proc::ProcStats) -> u64| {
            self.used_procs().iter().map(|r| f(&r.stats.0)).sum::<u64>()
        };
        Status {
            name: self.name(),
            limit_bytes: self.geo.limit_bytes,
            committed_bytes: self.ready_bytes(),
            growth_refused: crate::segment::limits::noted(&stats.growth_refused),
            heap_live: gc.heap_live.0.load(Relaxed),
            heap_goal: gc.goal.load(Relaxed),
            heap_trigger: gc.trigger.0.load(Relaxed),
            marked_live: gc.marked_live.load(Relaxed),
            gc_percent: gc.gc_percent.load(Relaxed),
            gc_cycles: stats.cycles.load(Relaxed),
            gc_forced: stats.cycles_by[2].load(Relaxed),
            checkmarks: gc.checkmarks.load(Relaxed),
            verifications: gc.verifications.load(Relaxed),
            over_goal_permille: gc.over_goal_permille.load(Relaxed),
            phase: phase_name(phase.kind()),
            cycle: phase.cycle(),
            gomaxprocs: sched.gomaxprocs.0.load(Relaxed),
            alloc_bytes: sum(|s| s.alloc_bytes.load(Relaxed)),
            alloc_objects: sum(|s| s.alloc_objects.load(Relaxed)),
            steals: sum(|s| s.steals.load(Relaxed)),
            migrations: stats.migrations.load(Relaxed),
            attach_lost: stats.attach_lost.load(Relaxed),
            mark_runs: [0, 1, 2].map(|i: usize| stats.mark_runs[i].load(Relaxed)),
            mark_ns: [0, 1, 2, 3].map(|i: usize| stats.mark_ns[i].load(Relaxed)),
            deaths: stats.deaths.load(Relaxed),
            gave_up: stats.gave_up.load(Relaxed),
            requeued: stats.requeued.load(Relaxed),
            freed_bytes: stats.freed_bytes.load(Relaxed),
            pause_ns: [
                self.pause_quantile(0.5),
                self.pause_quantile(0.99),
                stats.pause_max_ns.load(Relaxed),
            ],
            pause_hist: stats.pause_hist.iter().map(|b| b.load(Relaxed)).collect(),
            steps: sum(|s| s.steps.load(Relaxed)),
            cycle_ns: stats.cycle_ns.load(Relaxed),
            gc_by: [0, 1, 2, 3, 4].map(|i: usize| stats.cycles_by[i].load(Relaxed)),
            redeliver_max: sched.redeliver_max.load(Relaxed),
            soft_limit_bytes: gc.soft_limit.load(Relaxed),
            progress: stats.progress.iter().map(|c| c.load(Relaxed)).collect(),
            procs,
            tasks: self.count_tasks(),
        }
    }

    /// Upper bound of the bucket that holds the quantile, ns.
    fn pause_quantile(&self, q: f64) -> u64 {
        let buckets: Vec<u64> = self
            .hdr
            .stats
            .pause_hist
            .iter()
            .map(|b| b.load(Relaxed))
            .collect();
        let total: u64 = buckets.iter().sum();
        let wanted = (total as f64 * q).ceil() as u64;
        let mut seen = 0;
        let bucket = buckets.iter().position(|&n| {
            seen += n;
            seen >= wanted
        });
        let longest = self.hdr.stats.pause_max_ns.load(Relaxed);
        if total == 0 {
            0
        } else {
            bucket.map_or(longest, |b| (2u64 << b).min(longest))
        }
    }

    fn count_tasks(&self) -> [u64; 4] {
        let high = self.tasks_used();
        let mut counts = [0; 4];
        for task in &self.tasks[..high] {
            match TaskWord(task.word.load(Relaxed)).state() {
                TaskWord::RUNNABLE => counts[0] += 1,
                TaskWord::RUNNING | TaskWord::COMMITTED => counts[1] += 1,
                TaskWord::WAITING => counts[2] += 1,
                TaskWord::FAILED => counts[3] += 1,
                _ => {}
            }
        }
        counts
    }

    fn proc_status(&self, p: usize) -> Option<ProcStatus> {
        let r = &self.procs[p];
        let word = ProcWord(r.word.0.load(Acquire));
        let state = match word.state() {
            ProcWord::VACANT => return None,
            ProcWord::JOINING => "joining",
            ProcWord::LIVE => "live",
            ProcWord::LEAVING => "leaving",
            _ => "dead",
        };
        let slot = SlotWord(self.slots[p].word.load(Acquire));
        let worker = (slot.state() == SlotWord::FULL).then(|| slot.worker());
        let record = worker.and_then(|g| self.workers.get(g as usize));
        let task = r.now.0.task.load(Relaxed);
        Some(ProcStatus {
            p,
            pid: word.pid(),
            incarnation: word.inc(),
            state,
            activity: activity_name(r.activity.load(Relaxed)),
            task: (task != 0).then(|| task - 1),
            runq: r
                .runq_tail
                .0
                .load(Relaxed)
                .wrapping_sub(r.runq_head.0.load(Relaxed))
                .min(256)
                + u32::from(r.runnext.load(Relaxed) != 0),
            steals: r.stats.0.steals.load(Relaxed),
            alloc_bytes: r.stats.0.alloc_bytes.load(Relaxed),
            steps: r.stats.0.steps.load(Relaxed),
            mark_ns: r.stats.0.mark_ns.iter().map(|n| n.load(Relaxed)).sum(),
            leased_at_ns: r.leased_at_ns.load(Relaxed),
            worker,
            worker_state: record.map_or("-", |w| match WorkerWord(w.word.load(Relaxed)).state() {
                WorkerWord::RUNNING => "running",
                WorkerWord::RUNNABLE => "runnable",
                WorkerWord::PARKED => "parked",
                _ => "free",
            }),
            worker_migrations: record.map_or(0, |w| w.migrations.load(Relaxed)),
        })
    }

    /// Tasks that are not free, at most `limit`.
    pub fn list_tasks(&self, limit: usize) -> Vec<TaskStatus> {
        let high = self.tasks_used();
        let state = |w: TaskWord| match w.state() {
            TaskWord::RESERVED => "reserved",
            TaskWord::RUNNABLE => "runnable",
            TaskWord::RUNNING => "running",
            TaskWord::COMMITTED => "committed",
            TaskWord::WAITING => "waiting",
            TaskWord::FAILED => "failed",
            _ => "free",
        };
        let shown = self.tasks[..high]
            .iter()
            .enumerate()
            .filter(|(_, t)| TaskWord(t.word.load(Acquire)).state() != TaskWord::FREE);
        shown
            .take(limit)
            .map(|(task, t)| {
                let word = TaskWord(t.word.load(Acquire));
                TaskStatus {
                    task,
                    kind: self
                        .kinds
                        .get(t.kind.load(Relaxed) as usize)
                        .map_or(String::new(), |k| names::read(&k.name)),
                    state: state(word),
                    attempts: lost_runs(self, task, word),
                    p: matches!(
                        word.state(),
                        TaskWord::RESERVED | TaskWord::RUNNING | TaskWord::COMMITTED
                    )
                    .then(|| word.p()),
                    steps: t.steps.load(Relaxed),
                    error_code: t.error_code.load(Relaxed),
                    error: error_text(self, t.error.load(Acquire), word),
                    run: if word.state() == TaskWord::FAILED {
                        t.wake_at_ns.load(Relaxed)
                    } else {
                        0
                    },
                }
            })
            .collect()
    }

    /// Changes after how many deaths of one step its task is given up; 0 never.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// segment.set_redeliver_max(1000);
    /// assert_eq!(segment.status().redeliver_max, 1000);
    /// ```
    pub fn set_redeliver_max(&self, deaths: u32) {
        self.hdr.sched.redeliver_max.store(deaths, Relaxed);
    }

    /// Says what the tasks that run from now on are run for: whatever fails says so ([`TaskStatus::run`]). 0: nothing in particular. It is the
    /// run in hand that counts, not the one that a task was made for: of two runs at once, the later.
    ///
    /// ```
    /// # use coheap::*;
    /// # #[derive(Shared)] struct Failing { x: u64 }
    /// # impl Task for Failing {
    /// #     const KIND: &'static str = "failing";
    /// #     type Output = Failing;
    /// #     fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
    /// #         Err(Error::Task { what: format!("no {}", cx.context().x) })
    /// #     }
    /// # }
    /// let segment = Segment::create(&Default::default())?;
    /// let mut p = P::lease(segment.clone())?;
    /// segment.name_run(7);
    /// p.submit(|cx| cx.alloc(Failing { x: 1 }))?;
    /// p.run_until_idle(&Kinds::new().with::<Failing>())?;
    /// segment.name_run(8);
    /// assert_eq!(segment.list_tasks(10)[0].run, 7);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn name_run(&self, run: u64) {
        self.hdr.sched.run.store(run, Relaxed);
    }

    /// Publishes a progress counter of the running workload.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// segment.progress_add(0, 3);
    /// assert_eq!(segment.status().progress[0], 3);
    /// ```
    ///
    /// # Panics
    /// If `counter` is 16 or more.
    pub fn progress_add(&self, counter: usize, n: u64) {
        self.hdr.stats.progress[counter].fetch_add(n, Relaxed);
    }

    /// A progress counter, without the rest of the status.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// segment.progress_set(3, 42);
    /// assert_eq!(segment.progress(3), 42);
    /// ```
    pub fn progress(&self, counter: usize) -> u64 {
        self.hdr.stats.progress[counter].load(Relaxed)
    }

    /// Sets a progress counter: for totals that are known from the heap, and so right after deaths too.
    ///
    /// # Panics
    /// If `counter` is 16 or more.
    pub fn progress_set(&self, counter: usize, n: u64) {
        self.hdr.stats.progress[counter].store(n, Relaxed);
    }

    /// How often each branch of recovery was taken.
    pub fn probes(&self) -> Vec<(String, u64)> {
        crate::probe::PROBES
            .iter()
            .map(|&p| {
                (
                    format!("{p:?}"),
                    self.hdr.stats.probes[p as usize].load(Relaxed),
                )
            })
            .collect()
    }
}

impl P {
    /// Tasks that were given up, at most `limit`, with the texts of their errors, of which at most 4 KiB are read.
    ///
    /// ```
    /// let p = coheap::P::lease(coheap::Segment::create(&Default::default())?)?;
    /// assert!(p.failed_tasks(10).is_empty());
    /// # Ok::<(), coheap::Error>(())
    /// ```
    pub fn failed_tasks(&self, limit: usize) -> Vec<TaskStatus> {
        let mut failed = self.segment().list_tasks(usize::MAX);
        failed.retain(|t| t.state == "failed");
        failed.truncate(limit);
        failed
    }
}
