//! Every system call of a short life fails once: `faults [--seed S] [--minutes M] [--program P] [--call C] [--nth N] [--story one|three] [-v]`.
//!
//! For every program, call and error, n goes up until there is no n-th call any more. A seed chooses where to begin, so that a short
//! run is a sample of the long one. Prints each finding with the arguments that replay it; ends with 5 when there is one.

use coheap_tests::{
    sandbox::{Sandbox, program},
    syscalls::{CALLS, Fault, Plan, Report, run},
};
use std::{
    process::Command,
    time::{Duration, Instant},
};

const PROGRAMS: &[&str] = &["coheap", "coheapd", "coheap-worker"];
const PATIENCE: Duration = Duration::from_secs(40);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str, otherwise: f64| {
        option(name)
            .and_then(|v| v.parse().ok())
            .unwrap_or(otherwise)
    };
    let until = Instant::now() + Duration::from_secs_f64(number("--minutes", 60.0) * 60.0);
    let (only_program, only_call) = (option("--program"), option("--call"));
    let only_nth = option("--nth").and_then(|n| n.parse::<u32>().ok());
    let story = option("--story").unwrap_or("one".into());
    let loud = args.iter().any(|a| a == "-v");
    let mut plans: Vec<(&'static str, (&'static str, i64), Fault)> = Vec::new();
    for &program in PROGRAMS {
        for &(name, nr, faults) in CALLS {
            let chosen = only_program.as_deref().is_none_or(|p| p == program)
                && only_call.as_deref().is_none_or(|c| c == name);
            plans.extend(
                faults
                    .iter()
                    .filter(|_| chosen)
                    .map(|&f| (program, (name, nr), f)),
            );
        }
    }
    fastrand::Rng::with_seed(number("--seed", 0.0) as u64).shuffle(&mut plans);
    let (mut runs, mut injected, mut refused, mut bad) = (0, 0, 0, 0);
    'all: for (program, call, fault) in plans {
        let (from, to) = only_nth.map_or((1, 60), |n| (n, n));
        for nth in from..=to {
            if Instant::now() > until {
                break 'all;
            }
            let plan = Plan {
                program,
                call,
                nth,
                fault,
            };
            let report = live(plan, &story);
            runs += 1;
            injected += u32::from(report.injected);
            refused += u32::from(report.exits.iter().any(|(p, c)| p == "coheap" && *c != 0));
            if loud {
                println!(
                    "{program} {} {nth} {fault:?}: {:?} {:?}",
                    call.0, report.exits, report.said[1]
                );
            }
            for finding in &report.findings {
                bad += 1;
                println!(
                    "faults --story {story} --program {program} --call {} --nth {nth} ({fault:?}): {finding}; said {:?}",
                    call.0,
                    report.said[1].chars().take(600).collect::<String>()
                );
            }
            if !report.injected {
                break;
            }
        }
    }
    println!(
        "{runs} lives, a call failed in {injected}, {refused} ended with an error line, {bad} findings"
    );
    std::process::exit(if bad > 0 { 5 } else { 0 });
}

/// One life under a plan; what must hold whatever failed.
fn live(plan: Plan, story: &str) -> Report {
    let sandbox = Sandbox::new();
    let command = if story == "three" {
        three(&sandbox)
    } else {
        one(&sandbox)
    };
    let mut report = run(command, plan, PATIENCE);
    let errors = report.said[1]
        .lines()
        .filter(|l| l.starts_with("coheap: error["))
        .count();
    let ended_badly = |program: &str| {
        report
            .exits
            .iter()
            .filter(|(p, c)| p == program && *c != 0)
            .count()
    };
    let (failed, daemons) = (ended_badly("coheap"), ended_badly("coheapd"));
    // A daemon that cannot reach its command says so itself.
    let said = (failed..=failed + daemons).contains(&errors);
    if !said && !report.findings.iter().any(|f| f.contains("come to an end")) {
        report.findings.push(format!(
            "{failed} commands failed and {errors} lines said why"
        ));
    }
    if failed == 0 && story == "one" && !report.said[0].contains("\"ok\":true") {
        report.findings.push("ended well without a result".into());
    }
    let left = std::fs::read_dir(sandbox.path().join("coheap"))
        .into_iter()
        .flatten()
        .flatten();
    for entry in left {
        report
            .findings
            .push(format!("{} stayed behind", entry.file_name().display()));
    }
    report
}

/// A run with a heap of its own.
fn one(sandbox: &Sandbox) -> Command {
    sandbox.command(
        "coheap",
        &[
            "--json",
            "--timeout",
            "10s",
            "run",
            "trees",
            "--depth",
            "7",
            "-n",
            "2",
            "--max",
            "16MiB",
        ],
    )
}

/// Start, question, run, stop.
fn three(sandbox: &Sandbox) -> Command {
    let coheap = program("coheap").display().to_string();
    let script = format!(
        "c='{coheap} --name f --timeout 10s'; $c start -n 1 -w --max 16MiB; $c status >/dev/null; $c -q run trees --depth 6; $c stop || $c stop --mode immediate"
    );
    let like = sandbox.command("coheap", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    for (key, value) in like.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}
