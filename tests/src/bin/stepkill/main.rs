//! Kills a process after every instruction of every critical operation, with live survivors, in the build that ships.
//!
//! A *victim* is a child process, attached to a shared segment, that passes a mark, does one operation, and passes another. Its
//! parent traces it and steps it, instruction by instruction. Only an instruction that changes the segment makes a new *image*; at
//! each image
//! - **image**: the segment's bytes are copied into a second segment, what the kernel does at a death is done there, and there
//!   survivors recover, run all tasks, allocate, collect twice, verify everything. So one victim serves all its deaths;
//! - **kill**: at every k-th image a victim of its own is stepped that far and gets a real SIGKILL; the survivor that recovers was
//!   attached, with objects and tasks of its own, all the time;
//! - **stop**: it is only stopped; survivors must do their own work meanwhile; then it goes on, and all must end well;
//! - **double**: the recoverer is a process too, is stepped through the recovery, and dies at each of *its* images; another
//!   recovers.
//!
//! What is left after a death must be what a death before the operation leaves, or what a death after it leaves (`survive`).
//! Exit status 1 when anything failed.

mod image;
mod mark;
mod ops;
mod survive;
mod tracer;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use coheap::{P, Segment, recover, testing};
use ops::{OPS, Op};
use survive::Signature;
use tracer::{Stepped, Stop};

const USAGE: &str = "\
Kills a process after every instruction of every critical operation.
usage: stepkill [--op NAME]... [--mode image|kill|stop|double|all|short] [--every K] [--every-instruction] [--seed S] [--list] [-v]
  --mode short         image mode for every operation, a few real kills and stops: less than a minute (the default)
  --mode all           everything
  --every K            real kills and stops at every K-th image (default: about 12 an operation; in mode all, 40)
  --every-instruction  recover after each instruction, whether or not it changed the segment
  --plant NAME         build a fault in (needs the feature `planted`): the run must fail";

/// Instructions that the short form steps through for one real kill.
const SHORT_STEPS: u64 = 3_000;

/// What was asked for.
struct Args {
    ops: Vec<String>,
    mode: String,
    every: Option<usize>,
    every_instruction: bool,
    seed: u64,
    verbose: bool,
}

/// One failure.
struct Failure {
    mode: &'static str,
    instruction: u64,
    place: String,
    changed: String,
    what: String,
}

/// Results of one operation.
#[derive(Default)]
struct Outcome {
    instructions: u64,
    images: usize,
    kills: usize,
    stops: usize,
    doubles: usize,
    probes: BTreeMap<String, u64>,
    failures: Vec<Failure>,
}

/// Milliseconds since the start at which the watchdog loses patience.
static DEADLINE_MS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(i) = args.iter().position(|a| a == "--segment") {
        return child(&args, &args[i + 1]);
    }
    match parse(&args) {
        Ok(Some(args)) => run(&args),
        Ok(None) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("stepkill: error[E002]: {e}; try: stepkill --help");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[String]) -> Result<Option<Args>, String> {
    let mut out = Args {
        ops: Vec::new(),
        mode: "short".into(),
        every: None,
        every_instruction: false,
        seed: 1,
        verbose: false,
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--op" => {
                let name = value()?;
                if !OPS.iter().any(|o| o.name == name) {
                    return Err(format!("there is no operation {name:?}; see --list"));
                }
                out.ops.push(name);
            }
            "--mode" => {
                out.mode = value()?;
                if !["image", "kill", "stop", "double", "all", "short"].contains(&&*out.mode) {
                    return Err(format!("there is no mode {:?}", out.mode));
                }
            }
            "--every" => out.every = Some(value()?.parse().map_err(|_| "--every needs a number")?),
            "--seed" => out.seed = value()?.parse().map_err(|_| "--seed needs a number")?,
            "--every-instruction" => out.every_instruction = true,
            "--plant" => plant(&value()?)?,
            "-v" | "--verbose" => out.verbose = true,
            "--list" => {
                for op in OPS {
                    println!("{}", op.name);
                }
                return Ok(None);
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(out))
}

/// Checks the name of a built-in fault: victims only are given it.
fn plant(name: &str) -> Result<(), String> {
    #[cfg(feature = "planted")]
    return testing::plant(name).map(|()| {
        testing::plant_nothing();
        tracer::plant(name);
    });
    #[cfg(not(feature = "planted"))]
    Err(format!(
        "this build has no fault {name:?} to plant: build with --features planted"
    ))
}

/// The stepped process: a victim, or a recoverer.
fn child(args: &[String], path: &str) -> ExitCode {
    use nix::sys::{
        prctl, ptrace,
        signal::{Signal, raise},
    };
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for a signal");
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var(tracer::PLANT) {
        testing::plant(&name).expect("a fault by a name that the parent has checked");
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the parent's descriptor");
    let segment = Segment::open_fd(file.into()).expect("the parent's segment");
    ptrace::traceme().expect("a parent that traces");
    raise(Signal::SIGSTOP).expect("a process may stop itself");
    mark::traced();
    match args[0].as_str() {
        "--victim" => {
            let op = OPS
                .iter()
                .find(|o| o.name == args[1])
                .expect("an operation");
            (op.run)(&segment);
        }
        _ => {
            mark::mark();
            let reports = recover::recover_dead(&segment);
            mark::mark();
            drop(reports);
        }
    }
    ExitCode::SUCCESS
}

fn run(args: &Args) -> ExitCode {
    pin();
    start_watchdog();
    println!("stepkill: mode {}, seed {}", args.mode, args.seed);
    println!(
        "{:<22} {:>9} {:>7} {:>6} {:>6} {:>7} {:>9} {:>7}",
        "operation", "instrs", "images", "kills", "stops", "double", "failures", "time"
    );
    let began = Instant::now();
    let mut total = Outcome::default();
    for op in OPS {
        let chosen = args.ops.iter().any(|o| o == op.name);
        if !args.ops.is_empty() && !chosen || args.mode == "short" && op.long && !chosen {
            continue;
        }
        let started = Instant::now();
        let outcome = one(op, args);
        println!(
            "{:<22} {:>9} {:>7} {:>6} {:>6} {:>7} {:>9} {:>6.1}s",
            op.name,
            outcome.instructions,
            outcome.images,
            outcome.kills,
            outcome.stops,
            outcome.doubles,
            outcome.failures.len(),
            started.elapsed().as_secs_f64()
        );
        let shown = if args.verbose { usize::MAX } else { 4 };
        for f in outcome.failures.iter().take(shown) {
            println!(
                "    {} after instruction {} [{}], at {}: {}",
                f.mode, f.instruction, f.changed, f.place, f.what
            );
        }
        if outcome.failures.len() > shown {
            println!("    and {} more", outcome.failures.len() - shown);
        }
        // Shown at once also through a pipe.
        let _ = std::io::stdout().flush();
        total.add(outcome);
    }
    println!(
        "total: {} instructions, {} images, {} kills, {} stops, {} double faults, {} failures, {:.1?}",
        total.instructions,
        total.images,
        total.kills,
        total.stops,
        total.doubles,
        total.failures.len(),
        began.elapsed()
    );
    let uncovered = print_coverage(&total, args.ops.is_empty());
    if total.failures.is_empty() && !uncovered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints which branches of recovery were taken. True when a full run has missed one.
fn print_coverage(total: &Outcome, full: bool) -> bool {
    let missed: Vec<&str> = total
        .probes
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(name, _)| name.as_str())
        .collect();
    let taken: Vec<String> = total
        .probes
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    println!("recovery branches taken: {}", taken.join(", "));
    if full && !missed.is_empty() {
        println!(
            "recovery branches that nothing reaches: {}",
            missed.join(", ")
        );
    }
    full && !missed.is_empty()
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.instructions += other.instructions;
        self.images += other.images;
        self.kills += other.kills;
        self.stops += other.stops;
        self.doubles += other.doubles;
        for (name, n) in other.probes {
            *self.probes.entry(name).or_default() += n;
        }
        self.failures.extend(other.failures);
    }

    fn count_probes(
        &mut self,
        before: &BTreeMap<String, u64>,
        segment: &Segment,
    ) -> BTreeSet<String> {
        let mut new = BTreeSet::new();
        for (name, n) in segment.probes() {
            let more = n - before.get(&name).copied().unwrap_or(0);
            if more > 0 {
                new.insert(name.clone());
            }
            *self.probes.entry(name).or_default() += more;
        }
        new
    }
}

/// One processor for stepper and stepped: a stop is then a switch and no wake-up across processors.
fn pin() {
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else {
        return;
    };
    let last = (0..CpuSet::count())
        .rev()
        .find(|&c| allowed.is_set(c) == Ok(true));
    let mut one = CpuSet::new();
    if last.is_some_and(|c| one.set(c).is_ok()) {
        // Slower without.
        let _ = sched_setaffinity(Pid::from_raw(0), &one);
    }
}

fn alive() {
    let now = Instant::now().duration_since(*START.get_or_init(Instant::now));
    DEADLINE_MS.store(now.as_millis() as u64 + 60_000, Relaxed);
}

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

/// Ends this program when an image has been looked at for a minute: a survivor that never returns is a failure too.
fn start_watchdog() {
    alive();
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = START.get_or_init(Instant::now).elapsed().as_millis() as u64;
            if now > DEADLINE_MS.load(Relaxed) {
                println!("stepkill: a survivor hangs (use -v and --op to find where)");
                std::process::exit(1);
            }
        }
    });
}

/// A segment, its survivor, and a victim at its first mark.
struct Scene {
    victim: Stepped,
    p0: P,
    _kept: Box<dyn std::any::Any>,
    segment: Segment,
}

impl Scene {
    fn set(op: &Op) -> Result<Scene, String> {
        let segment = image::new_segment();
        let mut p0 = P::lease(segment.clone()).map_err(|e| e.to_string())?;
        let kept = (op.before)(&mut p0);
        // What the survivor keeps for itself would look like a leak before a recovery makes it findable.
        p0.bench().return_tasks();
        let victim = Stepped::start(&["--victim", op.name], &segment)?;
        (op.at_mark)(&mut p0);
        Ok(Scene {
            victim,
            p0,
            _kept: kept,
            segment,
        })
    }

    /// Ends the scene in order.
    fn strike(mut self, op: &Op) {
        self.victim.kill_in_place();
        if op.p0_inside {
            self.p0.bench().leave();
        }
        recover::recover_dead(&self.segment);
    }
}

fn one(op: &Op, args: &Args) -> Outcome {
    let mut out = Outcome::default();
    let (all, short) = (args.mode == "all", args.mode == "short");
    let images = match step_through(op, args, &mut out) {
        Ok(images) => images,
        Err(e) => {
            out.fail("image", 0, "", "", format!("the scene cannot be set: {e}"));
            return out;
        }
    };
    let about = if all { 40 } else { 12 };
    let every = args.every.unwrap_or(images.len().div_ceil(about)).max(1);
    let phase = args.seed as usize % every;
    let chosen: Vec<u64> = images.iter().copied().skip(phase).step_by(every).collect();
    let few: Vec<u64> = if short {
        let near = chosen.iter().copied().filter(|&n| n <= SHORT_STEPS);
        let n = near.clone().count().div_ceil(2).max(1);
        near.step_by(n).collect()
    } else {
        chosen
    };
    if ["kill", "all", "short"].contains(&&*args.mode) {
        kill_mode(
            op,
            &few,
            !short || out.instructions <= SHORT_STEPS,
            &mut out,
        );
    }
    if ["stop", "all", "short"].contains(&&*args.mode) {
        stop_mode(op, &few, &mut out);
    }
    out
}

impl Outcome {
    fn fail(
        &mut self,
        mode: &'static str,
        instruction: u64,
        place: &str,
        changed: &str,
        what: String,
    ) {
        self.failures.push(Failure {
            mode,
            instruction,
            place: place.into(),
            changed: changed.into(),
            what,
        });
    }
}

/// Image mode: one victim, stepped to its end. Returns the instructions after which there is a new image.
fn step_through(op: &Op, args: &Args, out: &mut Outcome) -> Result<Vec<u64>, String> {
    let mut scene = Scene::set(op)?;
    let pid = scene.victim.pid();
    let mut copy = image::new_segment();
    let mut watcher = image::Watcher::new(&scene.segment);
    let first = examine(&scene.segment, &mut copy, op, pid, out)
        .map_err(|e| format!("killed before the operation: {e}"))?
        .0;
    // The whole operation, to know what it leaves when it is done.
    let mut steps: Vec<(u64, String, Result<Signature, String>, u64)> = Vec::new();
    let mut images = vec![0];
    let mut n = 0;
    let double = ["double", "all"].contains(&&*args.mode);
    let mut seen_branches: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    loop {
        match scene.victim.step() {
            Stop::Stepped => n += 1,
            Stop::Mark => break,
            Stop::Other => return Err(format!("the victim ended by itself after instruction {n}")),
        }
        let changed = watcher.changed();
        if changed.is_none() && !args.every_instruction {
            continue;
        }
        alive();
        let changed = changed.map_or("nothing".into(), |at| testing::name_of(&scene.segment, at));
        if args.verbose {
            println!("      {n}: {changed}");
        }
        images.push(n);
        match examine(&scene.segment, &mut copy, op, pid, out) {
            Ok((signature, branches)) => {
                if double && seen_branches.insert(branches) {
                    double_mode(&scene.segment, op, pid, n, out);
                }
                if !signature.is(&first, op.lags) {
                    steps.push((n, changed, Ok(signature), scene.victim.at()));
                }
            }
            Err(e) => steps.push((n, changed, Err(e), scene.victim.at())),
        }
    }
    let last = examine(&scene.segment, &mut copy, op, pid, out)
        .map_err(|e| format!("killed after the operation: {e}"))?
        .0;
    for (n, changed, result, place) in steps {
        match result {
            Ok(signature)
                if signature.is(&last, op.lags) || op.may_give_up && signature.gave_up() => {}
            Ok(signature) => out.fail(
                "killed",
                n,
                &scene.victim.place_of(place),
                &changed,
                format!("left {signature}; before the operation {first}; after it {last}"),
            ),
            Err(e) => out.fail("killed", n, &scene.victim.place_of(place), &changed, e),
        }
    }
    out.instructions = n;
    out.images = images.len();
    scene.strike(op);
    Ok(images)
}

/// Copies the segment, lets the victim be dead in the copy, and lets survivors go on there. Also the branches that recovery took.
fn examine(
    segment: &Segment,
    copy: &mut Segment,
    op: &Op,
    pid: u32,
    out: &mut Outcome,
) -> Result<(Signature, BTreeSet<String>), String> {
    image::copy(segment, copy);
    testing::mark_dead(copy, pid, pid);
    if op.p0_inside {
        testing::put_outside(copy, 0);
    }
    let before: BTreeMap<String, u64> = copy.probes().into_iter().collect();
    let result = survive::recover(copy).and_then(|_| match testing::live_leases(copy) {
        1 => survive::newcomer(copy),
        n => Err(format!("{n} leases are left, of one survivor")),
    });
    let branches = out.count_probes(&before, copy);
    if result.is_err() {
        // What a survivor that panicked holds there stays mapped: the next copy is another one.
        std::mem::forget(std::mem::replace(copy, image::new_segment()));
    }
    Ok((result?, branches))
}

/// Double mode: the recoverer of this image is a process, and dies at each of its own images.
fn double_mode(segment: &Segment, op: &Op, pid: u32, n: u64, out: &mut Outcome) {
    let first = image::new_segment();
    image::copy(segment, &first);
    testing::mark_dead(&first, pid, pid);
    if op.p0_inside {
        testing::put_outside(&first, 0);
    }
    let mut recoverer = match Stepped::start(&["--recoverer", "now"], &first) {
        Ok(r) => r,
        Err(e) => return out.fail("double", n, "", "", format!("no recoverer: {e}")),
    };
    let mut second = image::new_segment();
    let mut watcher = image::Watcher::new(&first);
    let mut k = 0u64;
    let mut signatures: Vec<(u64, String, String, Result<Signature, String>)> = Vec::new();
    loop {
        match recoverer.step() {
            Stop::Stepped => k += 1,
            Stop::Mark => break,
            Stop::Other => return out.fail("double", n, "", "", "the recoverer ended".into()),
        }
        let Some(at) = watcher.changed() else {
            continue;
        };
        alive();
        out.doubles += 1;
        let result = examine(&first, &mut second, op, recoverer.pid(), out).map(|r| r.0);
        signatures.push((
            k,
            testing::name_of(&first, at),
            recoverer.place_if(result.is_err()),
            result,
        ));
    }
    recoverer.kill();
    let expected = examine(&first, &mut second, op, pid, out).map(|r| r.0);
    for (k, changed, place, result) in signatures {
        match (&result, &expected) {
            (Ok(a), Ok(b)) if a.is(b, op.lags) => {}
            (Ok(a), Ok(b)) => out.fail(
                "double",
                n,
                &place,
                &changed,
                format!("then the recoverer after {k}: left {a}; undisturbed {b}"),
            ),
            (Err(e), _) | (_, Err(e)) => out.fail(
                "double",
                n,
                &place,
                &changed,
                format!("then the recoverer after {k}: {e}"),
            ),
        }
    }
}

/// Kill mode: real deaths, and a survivor with a life of its own.
fn kill_mode(op: &Op, instructions: &[u64], to_the_end: bool, out: &mut Outcome) {
    let mut first: Option<Signature> = None;
    let mut results = Vec::new();
    // The death after the operation is one of the two that may be; a long operation is not stepped through for it in the short form.
    let ends: &[u64] = if to_the_end { &[u64::MAX] } else { &[] };
    for &n in std::iter::once(&0).chain(instructions).chain(ends) {
        alive();
        let result = Scene::set(op).map(|mut scene| {
            let mut done = 0;
            while done < n && scene.victim.step() == Stop::Stepped {
                done += 1;
            }
            let place = scene.victim.place_if(n != 0);
            scene.victim.kill_in_place();
            if op.p0_inside {
                scene.p0.bench().leave();
            }
            let before: BTreeMap<String, u64> = scene.segment.probes().into_iter().collect();
            let result = recover_real(&scene.segment)
                .and_then(|()| survive::old_survivor(&mut scene.p0))
                .and_then(|s| survive::audited_with_survivor(&mut scene.p0).map(|()| s));
            out.count_probes(&before, &scene.segment);
            if result.is_err() {
                // A survivor that panicked in a scope cannot detach in order.
                std::mem::forget(scene.p0);
            }
            out.kills += 1;
            (result, place)
        });
        match result {
            Ok((result, place)) => results.push((n, place, result)),
            Err(e) => out.fail("kill", n, "", "", format!("the scene cannot be set: {e}")),
        }
    }
    let end = results
        .last()
        .filter(|_| to_the_end)
        .and_then(|(_, _, r): &(u64, String, Result<Signature, String>)| r.clone().ok());
    for (n, place, result) in results {
        match result {
            Ok(signature) => {
                let first = first.get_or_insert_with(|| signature.clone());
                let known = signature.is(first, op.lags)
                    || !to_the_end
                    || end.as_ref().is_some_and(|end| signature.is(end, op.lags))
                    || op.may_give_up && signature.gave_up();
                if !known {
                    out.fail(
                        "kill",
                        n,
                        &place,
                        "",
                        format!("left {signature}; before {first}; after {end:?}"),
                    );
                }
            }
            Err(e) => out.fail("kill", n, &place, "", e),
        }
    }
}

/// Recovers; the kernel may take a moment to mark the life word.
fn recover_real(segment: &Segment) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        survive::recover(segment).map(drop).or_else(|e| {
            if Instant::now() > until {
                Err(e)
            } else {
                Ok(())
            }
        })?;
        if testing::live_leases(segment) <= 1 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err("the dead lease was not recovered within a second".into());
        }
        std::thread::yield_now();
    }
}

/// Stop mode: the victim stands still, survivors work; then it goes on.
fn stop_mode(op: &Op, instructions: &[u64], out: &mut Outcome) {
    for &n in instructions {
        alive();
        let mut place = String::new();
        let result = Scene::set(op).and_then(|mut scene| {
            let mut done = 0;
            let mut at_mark = false;
            while done < n {
                match scene.victim.step() {
                    Stop::Stepped => done += 1,
                    Stop::Mark => {
                        at_mark = true;
                        break;
                    }
                    Stop::Other => return Err("the victim ended by itself".into()),
                }
            }
            place = scene.victim.place();
            out.stops += 1;
            let meanwhile = if op.p0_inside || testing::is_stopped(&scene.segment) {
                Ok(())
            } else {
                survive::own_work(&mut scene.p0, Duration::from_millis(500))
            };
            if op.p0_inside {
                scene.p0.bench().leave();
            }
            let result = meanwhile
                .and_then(|()| scene.victim.finish(at_mark))
                .and_then(|()| survive::old_survivor(&mut scene.p0))
                .and_then(|_| survive::audited_with_survivor(&mut scene.p0));
            if result.is_err() {
                std::mem::forget(scene.p0);
            }
            result
        });
        if let Err(e) = result {
            out.fail("stop", n, &place, "", e);
        }
    }
}
