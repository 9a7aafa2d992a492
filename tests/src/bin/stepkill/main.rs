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

mod child;
mod double;
mod examine;
mod image;
mod mark;
mod ops;
mod options;
mod real;
mod report;
mod scene;
mod survey;
mod survive;
mod tracer;
mod watchdog;

use std::{process::ExitCode, time::Instant};

use child::child;
use ops::{OPS, Op};
use options::{Args, parse};
use real::{kill_mode, stop_mode};
use report::Outcome;
use survey::step_through;
use tracer::Point;
use watchdog::start_watchdog;

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

fn run(args: &Args) -> ExitCode {
    pin();
    tracer::fix_addresses();
    start_watchdog();
    report::print_heading(args);
    let began = Instant::now();
    let mut total = Outcome::default();
    for op in OPS {
        let chosen = args.ops.iter().any(|o| o == op.name);
        if !args.ops.is_empty() && !chosen || args.mode == "short" && op.long && !chosen {
            continue;
        }
        let started = Instant::now();
        let outcome = one(op, args);
        outcome.print_row(op.name, started.elapsed(), args.verbose);
        total.add(outcome);
    }
    total.print_total(began.elapsed());
    let uncovered = report::print_coverage(&total, args.ops.is_empty());
    if total.failures.is_empty() && !uncovered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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

/// Operations that write into objects only, whose bytes are nothing that a recoverer reads.
const OBJECTS_ONLY: [&str; 2] = ["alloc-fast", "store"];

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
    if images.is_empty() && !OBJECTS_ONLY.contains(&op.name) {
        let what = "the operation changes nothing here, so it shows nothing".into();
        out.fail("image", 0, "", "", what);
    }
    let about = if all { 40 } else { 12 };
    let every = args.every.unwrap_or(images.len().div_ceil(about)).max(1);
    let phase = args.seed as usize % every;
    let chosen: Vec<Point> = images.iter().copied().skip(phase).step_by(every).collect();
    let few: Vec<Point> = if short {
        let n = chosen.len().div_ceil(2).max(1);
        chosen.into_iter().step_by(n).collect()
    } else {
        chosen
    };
    if ["kill", "all", "short"].contains(&&*args.mode) {
        kill_mode(op, &few, &mut out);
    }
    if ["stop", "all", "short"].contains(&&*args.mode) {
        stop_mode(op, &few, &mut out);
    }
    out
}
