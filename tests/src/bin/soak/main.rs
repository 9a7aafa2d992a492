//! The workloads of the product under kills of workers and daemons, and nothing may come of it.
//!
//! 1. Undisturbed: index, trees and gcbench run in a heap of their own, some rounds long; results and live bytes are kept.
//! 2. The same again, in heaps on every kind of backing in turn, while [`weather`] kills.
//! 3. After each round: the results are the undisturbed ones; no task is left, given up or failed; `verify --deep` is clean. After
//!    one collection as many bytes are reachable as undisturbed, and what is kept beyond them is what the P's cursors held (marked
//!    as a whole, [`CURSORS`]); the next collection, with nothing allocated between, keeps the reachable bytes to the byte. So the
//!    garbage of the dead, cycles included, is gone.
//! 4. After each heap: every death stands in `coheap dead` once, repaired, and was ours; no process, socket, file or segment stays.
//!
//! One line a round, then a summary; exit code 5 on a violation.

mod args;
mod tally;
mod weather;
mod world;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use args::{Args, USAGE};
use coheap::control::ControlError;
use coheap_protocol::{Outcome, Reply, Request, RunId, RunRequest, Storm, Workload};
use tally::Tally;
use weather::Weather;
use world::World;

/// A run that takes longer than this is stuck.
const STUCK: Duration = Duration::from_secs(180);

/// What a collection may keep for each P beside what is reachable: runs of free slots that it was allocating from.
const CURSORS: u64 = 512 << 10;

/// Why it ends.
pub enum Trouble {
    /// The product did something that it promises not to do.
    Violation(String),
    /// This program could not do its work.
    Broken(String),
}

impl Trouble {
    /// A violation.
    pub fn violation(what: impl Into<String>) -> Trouble {
        Trouble::Violation(what.into())
    }
}

impl From<ControlError> for Trouble {
    /// A daemon that does not answer breaks a promise, whatever the reason.
    fn from(error: ControlError) -> Trouble {
        Trouble::Violation(format!("the daemon did not answer: {error}"))
    }
}

fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("soak: error[E002]: {e}; try: soak --help");
            return ExitCode::from(2);
        }
    };
    match Soak::new(args).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Violation(what)) => {
            println!("soak: VIOLATION: {what}");
            ExitCode::from(5)
        }
        Err(Trouble::Broken(what)) => {
            eprintln!("soak: error[E001]: {what}; try: the same again");
            ExitCode::from(1)
        }
    }
}

/// What one round leaves.
#[derive(Clone, PartialEq)]
struct Left {
    results: Vec<String>,
    live_bytes: u64,
}

struct Soak {
    args: Args,
    began: Instant,
    weather: Weather,
    tally: Tally,
    texts: tempfile::TempDir,
    rounds: usize,
    run: u64,
    requeued: u64,
    succession: Duration,
}

impl Soak {
    fn new(args: Args) -> Soak {
        Soak {
            began: Instant::now(),
            weather: Weather::new(&args),
            tally: Tally::default(),
            texts: tempfile::tempdir().expect("a temporary directory"),
            rounds: 0,
            run: 0,
            requeued: 0,
            succession: Duration::ZERO,
            args,
        }
    }

    fn run(&mut self) -> Result<(), Trouble> {
        let dir = self.dir()?;
        println!(
            "soak: seed {}, {} workers, {} kills and {} of the daemon",
            self.args.seed, self.args.workers, self.args.kills, self.args.daemon_kills
        );
        let calm = self.heap(0, &dir, None)?;
        let mut heap = 0;
        while !self.is_over() {
            self.heap(heap, &dir, Some(&calm))?;
            heap += 1;
        }
        println!(
            "soak: clean: {} rounds in {heap} heaps, {} workers killed ({} deaths of leased P's recovered), {} daemons killed (heir after {:.0?} at most), {} tasks run again, {:.0?}",
            self.rounds,
            self.weather.killed,
            self.tally.deaths,
            self.weather.daemons_killed,
            self.succession,
            self.requeued,
            self.began.elapsed()
        );
        println!("soak: {}", self.tally.summary());
        Ok(())
    }

    fn is_over(&self) -> bool {
        let late = self.args.limit.is_some_and(|l| self.began.elapsed() > l);
        late || self.weather.is_over()
    }

    /// What index reads.
    fn dir(&self) -> Result<PathBuf, Trouble> {
        match &self.args.dir {
            Some(dir) => dir
                .canonicalize()
                .map_err(|e| Trouble::Broken(format!("{}: {e}", dir.display()))),
            None => {
                write_texts(self.texts.path()).map_err(|e| Trouble::Broken(e.to_string()))?;
                Ok(self.texts.path().into())
            }
        }
    }

    /// Rounds in one heap: undisturbed when there is nothing to compare with.
    fn heap(
        &mut self,
        number: usize,
        dir: &Path,
        calm: Option<&Vec<Left>>,
    ) -> Result<Vec<Left>, Trouble> {
        let mut world = World::new(number, self.args.workers)?;
        let rounds = self.rounds_in(&mut world, number, dir, calm);
        if let (Err(Trouble::Violation(what)), true) = (&rounds, self.args.hold) {
            println!(
                "soak: VIOLATION: {what}\nheld: everything is in {}",
                world.place()
            );
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        let rounds = rounds.map_err(|trouble| with_evidence(trouble, &world, number))?;
        self.succession = self.succession.max(world.longest_succession);
        world.end()?;
        self.tally.close()?;
        Ok(rounds)
    }

    fn rounds_in(
        &mut self,
        world: &mut World,
        number: usize,
        dir: &Path,
        calm: Option<&Vec<Left>>,
    ) -> Result<Vec<Left>, Trouble> {
        let mut all = Vec::new();
        for round in 0..self.args.rounds {
            if calm.is_some() && self.is_over() {
                break;
            }
            let (began, killed, daemons) = (
                Instant::now(),
                self.weather.killed,
                self.weather.daemons_killed,
            );
            let requeued = world.segment.status().requeued;
            let left = self.round(world, dir, calm.is_some())?;
            let again = world.segment.status().requeued - requeued;
            if let Some(wanted) = calm.and_then(|calm| calm.get(round)) {
                compare(wanted, &left)?;
                self.rounds += 1;
                self.requeued += again;
            }
            println!(
                "{} heap {number} ({}) round {round}: {} kills, {} of the daemon, {again} tasks again, {} live bytes, {:.1?}",
                if calm.is_some() { "storm:" } else { "calm: " },
                world.backing(),
                self.weather.killed - killed,
                self.weather.daemons_killed - daemons,
                left.live_bytes,
                began.elapsed()
            );
            all.push(left);
        }
        Ok(all)
    }

    fn round(&mut self, world: &mut World, dir: &Path, storm: bool) -> Result<Left, Trouble> {
        let dir = dir.to_string_lossy().into_owned();
        let workloads = [
            Workload::Index { dir, out: None },
            Workload::Trees {
                depth: self.args.depth,
            },
            Workload::GcBench {
                smaller: self.args.smaller,
            },
        ];
        let mut results = Vec::new();
        for workload in workloads {
            let outcome = self.run_through(world, workload, storm)?;
            results.push(outcome.json);
        }
        let live_bytes = self.settle(world)?;
        Ok(Left {
            results,
            live_bytes,
        })
    }

    /// Runs a workload to its end, whoever dies.
    fn run_through(
        &mut self,
        world: &mut World,
        workload: Workload,
        storm: bool,
    ) -> Result<Outcome, Trouble> {
        self.run += 1;
        let request = RunRequest {
            run: RunId(self.run),
            workload,
            seed: self.args.seed,
            storm: Storm::default(),
            redeliver_max: 1000,
        };
        let ask = |world: &World| {
            let channel = world.connect()?;
            channel.send(&Request::Run(request.clone()))?;
            Ok::<_, Trouble>(channel)
        };
        let mut channel = ask(world)?;
        let began = Instant::now();
        loop {
            let pause = if storm {
                self.weather.pause()
            } else {
                Duration::from_secs(1)
            };
            match channel.recv::<Reply>(Some(pause.max(Duration::from_micros(100)))) {
                Ok(Reply::Done(outcome)) => return Ok(outcome),
                Ok(Reply::Failed(refused)) => {
                    return Err(Trouble::violation(format!(
                        "{} failed: {refused}",
                        request.workload.name()
                    )));
                }
                Ok(_) | Err(ControlError::TimedOut(_)) => {}
                Err(error) => {
                    world.check_daemon()?;
                    return Err(error.into());
                }
            }
            self.tally.look(&world.segment);
            if storm && self.weather.strike(world, began.elapsed())? {
                channel = ask(world)?;
            }
            if began.elapsed() > STUCK {
                return Err(Trouble::violation(format!(
                    "{} is stuck",
                    request.workload.name()
                )));
            }
        }
    }

    /// The storm is over: everybody comes back, and then nothing may be left of it. The bytes that live.
    fn settle(&mut self, world: &mut World) -> Result<u64, Trouble> {
        world.wait_for_workers()?;
        world.coheap(&["gc", "--wait"])?;
        self.tally.look(&world.segment);
        let status = world.segment.status();
        if status.tasks != [0; 4] || status.gave_up != 0 {
            return Err(Trouble::violation(format!(
                "tasks are left [runnable, running, waiting, failed]: {:?}, {} given up",
                status.tasks, status.gave_up
            )));
        }
        if self.tally.here() != status.deaths {
            return Err(Trouble::Broken(format!(
                "{} of {} deaths were seen: look more often",
                self.tally.here(),
                status.deaths
            )));
        }
        let verified = world.coheap(&["--json", "verify", "--deep"])?;
        let verified: serde_json::Value =
            serde_json::from_str(&verified).map_err(|e| Trouble::Broken(e.to_string()))?;
        let reachable = verified["bytes"].as_u64().unwrap_or(0);
        self.excess(world, reachable, CURSORS * self.args.workers as u64)?;
        world.coheap(&["gc", "--wait"])?;
        self.excess(world, reachable, 0)?;
        Ok(reachable)
    }

    /// Checks what the last collection kept beside what is reachable.
    fn excess(&self, world: &World, reachable: u64, allowed: u64) -> Result<(), Trouble> {
        let kept = world.segment.status().marked_live;
        if kept >= reachable && kept - reachable <= allowed {
            return Ok(());
        }
        Err(Trouble::violation(format!(
            "a collection kept {kept} bytes, {reachable} are reachable"
        )))
    }
}

fn compare(wanted: &Left, left: &Left) -> Result<(), Trouble> {
    for (wanted, result) in wanted.results.iter().zip(&left.results) {
        if wanted != result {
            return Err(Trouble::violation(format!(
                "another result than undisturbed:\n{wanted}\n{result}"
            )));
        }
    }
    if wanted.live_bytes == left.live_bytes {
        return Ok(());
    }
    Err(Trouble::violation(format!(
        "{} bytes live after a collection, {} undisturbed",
        left.live_bytes, wanted.live_bytes
    )))
}

fn with_evidence(trouble: Trouble, world: &World, heap: usize) -> Trouble {
    let Trouble::Violation(what) = trouble else {
        return trouble;
    };
    let status = world.segment.status();
    let tasks = world.segment.list_tasks(30);
    Trouble::Violation(format!(
        "{what}\nin heap {heap} ({})\n{status:#?}\n{tasks:#?}\n{}",
        world.backing(),
        world.log_tail()
    ))
}

/// A few hundred files of made-up words, the same every time.
fn write_texts(dir: &Path) -> std::io::Result<()> {
    let mut rng = fastrand::Rng::with_seed(4711);
    for file in 0..600 {
        let mut text = String::new();
        for _ in 0..2000 {
            let letters = rng.usize(2..7);
            text.extend((0..letters).map(|_| char::from(b'a' + rng.u8(0..16))));
            text.push(if rng.u8(..) < 24 { '\n' } else { ' ' });
        }
        std::fs::write(dir.join(format!("{file}.txt")), text)?;
    }
    Ok(())
}
