//! `coheap run`: a workload, a heap, disasters on order, one result.
//!
//! 1. A daemon: the running one of that name, or one of our own that ends with us ([`crate::private`]).
//! 2. `Run` with an id we choose. Progress comes back, then the outcome.
//! 3. If the connection breaks (the daemon was killed, by `--restart-daemon` or by somebody), a private daemon is started
//!    again, adopts the heap, and gets the same `Run`: the id makes it join the run that is in the heap.
//! 4. The end: a private daemon stops, removes everything, and only then is the result printed.

use super::report::{Report, Waited};
use crate::{
    args::{Global, RunArgs, RunOptions, WorkloadArgs},
    connect,
    failure::Failure,
    interrupt::{Interrupt, Woken},
    private::{self, Private},
    show::{self, ProgressLine},
};
use coheap::{
    control::{Channel, ControlError, Name, RuntimeDir, instance},
    segment::Segment,
};
use coheap_protocol::{
    Outcome, Progress, Reply, Request, Role, RunId, RunRequest, Storm, Totals, Workload, codes,
    human::{show_bytes, show_duration},
};
use std::{
    ffi::OsString,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often a private daemon that died unasked is replaced before the run is given up.
const UNASKED_MAX: u32 = 5;
/// Deaths of one step after which its task is given up.
const REDELIVER: u32 = 3;
/// The same under an ordered storm: it kills whatever runs, so deaths say nothing against a task.
const REDELIVER_IN_STORM: u32 = 1000;

struct Session<'a> {
    global: &'a Global,
    interrupt: Interrupt,
    private: Option<Private>,
    socket: PathBuf,
    request: RunRequest,
    restart_every: Option<Duration>,
    restarts: u32,
    unasked: u32,
    deaths_before: u64,
    last: Progress,
    line: ProgressLine,
    /// What a heap that was there before had done before.
    before: Totals,
    totals: Totals,
    /// Workers and backing of a heap that was there before.
    met: Option<(u64, String)>,
    /// When it began, by the heap's clock.
    began_ns: u64,
    waited: Option<Waited>,
}

/// How it ended.
enum End {
    Done(Outcome),
    Interrupted,
}

/// Runs a workload.
pub fn run(global: &Global, args: &RunArgs) -> Result<u8, Failure> {
    let options = args.workload.options();
    let request = request(&args.workload, options)?;
    let interrupt = Interrupt::catch()?;
    let (private, socket) = daemon(global, options)?;
    let (before, met) = match &private {
        Some(_) => (Totals::default(), None),
        None => history(&socket, global)?,
    };
    let began = Instant::now();
    let mut session = Session {
        global,
        interrupt,
        private,
        socket,
        restart_every: options.restart_daemon,
        request,
        restarts: 0,
        unasked: 0,
        deaths_before: 0,
        last: Progress::default(),
        line: ProgressLine::new(global.quiet),
        before,
        totals: Totals::default(),
        met,
        began_ns: coheap::sysmon::clock_ns(),
        waited: None,
    };
    let end = session.follow();
    let elapsed = began.elapsed();
    session.line.clear();
    if options.kill_storm.is_some() {
        session.waited = session.longest_wait();
    }
    let ended = session.private.take().map_or(Ok(()), Private::end);
    match end? {
        End::Interrupted => {
            let advice = "the same command; the heap is gone";
            Err(Failure::new(
                codes::INTERRUPTED,
                "E029",
                "interrupted",
                advice,
            ))
        }
        End::Done(outcome) => {
            ended?;
            session.report(&outcome, options, elapsed)
        }
    }
}

fn daemon(global: &Global, options: &RunOptions) -> Result<(Option<Private>, PathBuf), Failure> {
    let name: Name = match &global.name {
        Some(_) => connect::name(global)?,
        None => format!("run-{}", std::process::id()).parse()?,
    };
    let dir = RuntimeDir::of(&name);
    if global.name.is_some() && instance::is_running(&dir) {
        if options.restart_daemon.is_some() {
            let what = format!(
                "the daemon of `{name}` was not started by this command, so it will not be killed by it"
            );
            return Err(Failure::new(
                codes::USAGE,
                "E027",
                what,
                "without --name, or without --restart-daemon",
            ));
        }
        if let Some(flag) = private::heap_flags(&options.heap).first() {
            let what = format!(
                "the heap `{name}` runs already: {} was decided when it was started",
                flag.display()
            );
            let advice =
                "without that flag; or coheap stop first; or coheap reload for what may change";
            return Err(Failure::new(codes::USAGE, "E027", what, advice));
        }
        if options.migrate_every {
            return Err(Failure::new(
                codes::USAGE,
                "E027",
                format!("`{name}` has been made without --migrate-every, and keeps to that"),
                "without --name, or without --migrate-every",
            ));
        }
        return Ok((None, dir.socket()));
    }
    let mut flags = private::heap_flags(&options.heap);
    flags.extend([
        "--workers".into(),
        OsString::from(options.workers.to_string()),
    ]);
    let debug = options.migrate_every.then_some("migrateevery=1");
    let private = Private::start(&name, global, flags, debug)?;
    let socket = private.socket();
    Ok((Some(private), socket))
}

/// What a heap that runs already has done, its workers, and its backing.
fn history(socket: &Path, global: &Global) -> Result<(Totals, Option<(u64, String)>), Failure> {
    let channel = connect::call(socket, Role::Tool, global.timeout)?.channel;
    let mut before = Totals::default();
    let mut met = None;
    for request in [Request::Totals, Request::Status] {
        for row in connect::ask(&channel, &request, global.timeout)? {
            match row {
                Reply::Totals(totals) => before = *totals,
                Reply::Status(s) => met = Some((s.workers_wanted.into(), s.backing)),
                other => return Err(ControlError::Unexpected(format!("{other:?}")).into()),
            }
        }
    }
    Ok((before, met))
}

fn request(workload: &WorkloadArgs, options: &RunOptions) -> Result<RunRequest, Failure> {
    let workload = match workload {
        WorkloadArgs::Index { dir, out, .. } => Workload::Index {
            dir: absolute(dir, true)?,
            out: out.as_deref().map(|out| absolute(out, false)).transpose()?,
        },
        WorkloadArgs::Trees { depth, .. } => Workload::Trees { depth: *depth },
        WorkloadArgs::Gcbench { smaller, .. } => Workload::GcBench { smaller: *smaller },
    };
    let ms = |every: Option<Duration>| {
        every.map_or(0, |d| {
            u32::try_from(d.as_millis()).unwrap_or(u32::MAX).max(1)
        })
    };
    Ok(RunRequest {
        run: RunId(fastrand::u64(1..)),
        workload,
        seed: options.seed.unwrap_or_else(|| fastrand::u64(..)),
        storm: Storm {
            kill_ms: ms(options.kill_storm),
            stop_ms: ms(options.stop_storm),
        },
        redeliver_max: options.redeliver_max.unwrap_or(match options.kill_storm {
            Some(_) => REDELIVER_IN_STORM,
            None => REDELIVER,
        }),
    })
}

/// A path as the workers, whose directory is another, can use it.
fn absolute(path: &Path, must_be_dir: bool) -> Result<String, Failure> {
    let bad = |why: &str| {
        Failure::new(
            codes::USAGE,
            "E026",
            format!("{}: {why}", path.display()),
            "another path",
        )
    };
    if must_be_dir && !path.is_dir() {
        return Err(bad("no such directory"));
    }
    let whole = std::path::absolute(path).map_err(|e| bad(&e.to_string()))?;
    let text = whole
        .to_str()
        .ok_or_else(|| bad("a path that is no UTF-8 cannot be sent to the workers"))?;
    if text.len() > 1500 {
        Err(bad("longer than a message can hold"))
    } else {
        Ok(text.into())
    }
}

impl Session<'_> {
    /// Asks, and listens until the run is over.
    fn follow(&mut self) -> Result<End, Failure> {
        let mut channel = self.ask()?;
        let mut next_restart = self.restart_every.map(|every| Instant::now() + every);
        loop {
            match self.interrupt.wait(Some(channel.as_fd()), next_restart) {
                Woken::Interrupted => return Ok(End::Interrupted),
                Woken::Late => {
                    self.replace()?;
                    self.restarts += 1;
                    channel = self.ask()?;
                    next_restart = self.restart_every.map(|every| Instant::now() + every);
                }
                Woken::Readable => match channel.recv::<Reply>(Some(Duration::ZERO)) {
                    Ok(Reply::Progress(progress)) => self.progress(progress),
                    Ok(Reply::Totals(totals)) => self.totals = *totals,
                    Ok(Reply::Done(outcome)) => return Ok(End::Done(outcome)),
                    Ok(Reply::Failed(refused)) => return Err(refused.into()),
                    Ok(other) => return Err(ControlError::Unexpected(format!("{other:?}")).into()),
                    Err(ControlError::TimedOut(_)) => {}
                    Err(ControlError::Closed) => channel = self.daemon_died()?,
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Who of the living waited longest for one of the dead that the heap remembers. Nothing of the run depends on it.
    fn longest_wait(&self) -> Option<Waited> {
        let called = connect::call(&self.socket, Role::Reader, self.global.timeout).ok()?;
        let segment = Segment::open_fd(called.segment?).ok()?;
        let ours = segment
            .deaths()
            .into_iter()
            .filter(|d| d.began_ns >= self.began_ns);
        let waited = ours.filter_map(|death| {
            Some(Waited {
                p: death.waiter?,
                time: Duration::from_nanos(death.gap_ns?),
                dead: death.p,
            })
        });
        waited.max_by_key(|w| w.time)
    }

    fn ask(&self) -> Result<Channel, Failure> {
        let channel = connect::call(&self.socket, Role::Tool, self.global.timeout)?.channel;
        channel.send(&Request::Run(self.request.clone()))?;
        Ok(channel)
    }

    fn replace(&mut self) -> Result<(), Failure> {
        self.deaths_before += self.last.deaths;
        self.last.deaths = 0;
        self.private.as_mut().map_or(Ok(()), Private::replace)
    }

    /// The connection broke and nobody here broke it.
    fn daemon_died(&mut self) -> Result<Channel, Failure> {
        self.unasked += 1;
        if self.private.is_none() || self.unasked > UNASKED_MAX {
            return Err(ControlError::Closed.into());
        }
        self.replace()?;
        self.ask()
    }

    fn progress(&mut self, p: Progress) {
        self.last = p;
        let deaths = self.deaths_before + p.deaths;
        let of = if p.total > 0 {
            format!(" of {}", p.total)
        } else {
            String::new()
        };
        let text = format!(
            "[{}] {}: {}{of} done, {} items, {} live, gc {}, {} workers, {deaths} deaths, {} daemon restarts",
            show_duration(Duration::from_millis(p.elapsed_ms)),
            self.request.workload.name(),
            p.done,
            p.items,
            show_bytes(p.live_bytes),
            p.gc_cycles,
            p.workers,
            self.restarts + self.unasked,
        );
        self.line.set(&text);
    }

    fn report(
        &self,
        outcome: &Outcome,
        options: &RunOptions,
        elapsed: Duration,
    ) -> Result<u8, Failure> {
        let result: serde_json::Value = serde_json::from_str(&outcome.json)
            .map_err(|e| ControlError::Unexpected(format!("a result that is no JSON: {e}")))?;
        let nothing = serde_json::Map::new();
        let name = self.request.workload.name();
        let (workers, backing) = self.met.clone().unwrap_or_else(|| {
            let backing = options.heap.backing.clone();
            (options.workers.into(), backing.unwrap_or("memfd".into()))
        });
        let report = Report {
            workload: name,
            ok: outcome.ok,
            result: result.as_object().unwrap_or(&nothing),
            totals: &self.totals.since(&self.before),
            workers,
            backing: &backing,
            seed: self.request.seed,
            elapsed,
            deaths: self.deaths_before + self.last.deaths,
            daemon_restarts: self.restarts + self.unasked,
            redeliver_max: self.request.redeliver_max,
            waited: self.waited,
        };
        if self.global.json {
            show::json(&report.json());
        } else {
            show::print(&report.text());
        }
        if outcome.ok {
            return Ok(codes::OK);
        }
        let advice = format!(
            "the same with --seed {}, and coheap verify",
            self.request.seed
        );
        Err(Failure::new(
            codes::VIOLATION,
            "E051",
            format!("{name} found its own result wrong"),
            advice,
        ))
    }
}
