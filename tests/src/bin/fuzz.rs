//! The long form of the fuzzing: `fuzz --minutes M --seed S [--what segments|frames|both]`.
//!
//! Prints what each half did and every finding with the seed that replays it; ends with 5 when there is one.

use coheap_tests::{
    fuzz::{frames, segment},
    sandbox::{Sandbox, exists},
};
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "--victim") {
        let number = |i: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(1);
        return segment::victim(number(1), number(2));
    }
    if args.first().is_some_and(|a| a == "--callers") {
        let number = |i: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(1);
        let until = Instant::now() + Duration::from_millis(number(3));
        let path = args.get(1).map_or("", |p| p.as_str());
        let (packets, next) = frames::callers(path.as_ref(), number(2), until);
        return println!("{packets} {next}");
    }
    let option = |name: &str, otherwise: &str| {
        let at = args.iter().position(|a| a == name);
        at.and_then(|i| args.get(i + 1))
            .map_or(otherwise, |v| v.as_str())
            .to_owned()
    };
    let number = |name: &str, otherwise: &str| {
        option(name, otherwise).parse::<f64>().unwrap_or_else(|_| {
            eprintln!(
                "usage: fuzz [--minutes M] [--seed S] [--cases N] [--what segments|frames|both]"
            );
            std::process::exit(2);
        })
    };
    let (seed, cases) = (
        number("--seed", "1") as u64,
        number("--cases", "1e15") as u64,
    );
    let minutes = number("--minutes", "1");
    let what = option("--what", "both");
    let share = if what == "both" {
        minutes / 2.0
    } else {
        minutes
    };
    let mut bad = false;
    if what != "frames" {
        let until = Instant::now() + Duration::from_secs_f64(share * 60.0);
        let me = std::env::current_exe().expect("my own path");
        let found = segment::hunt(&me, &["--victim"], seed, cases, until);
        println!(
            "segments: {} cases from seed {seed}: {} refused when opened, {} when taken over, {} used; {} findings",
            found.cases,
            found.outcomes[0],
            found.outcomes[1],
            found.outcomes[2],
            found.findings.len()
        );
        found.findings.iter().for_each(|f| println!("  {f}"));
        bad |= !found.findings.is_empty();
    }
    if what != "segments" {
        let until = Instant::now() + Duration::from_secs_f64(share * 60.0);
        bad |= !talk(seed, until);
    }
    std::process::exit(if bad { 5 } else { 0 });
}

fn talk(seed: u64, until: Instant) -> bool {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "fuzz", "start", "-n", "0", "--max", "8MiB"]);
    let pid = sandbox.status("fuzz")["daemon_pid"].as_u64().unwrap_or(0) as u32;
    let socket = sandbox.socket("fuzz");
    let me = std::env::current_exe().expect("my own path");
    let (mut packets, mut at) = (0, seed);
    while Instant::now() < until && exists(pid) {
        let slice = Duration::from_secs(5).min(until - Instant::now());
        let (sent, next) = frames::in_a_process(&me, &socket, at, slice);
        if !exists(pid) {
            println!("  the daemon is gone after a seed of {at}..{next}");
        }
        (packets, at) = (packets + sent, next);
    }
    let alive = exists(pid) && sandbox.status("fuzz")["daemon_pid"] == u64::from(pid);
    println!(
        "frames: {packets} packets of {} callers from seed {seed}; the daemon {}",
        at - seed,
        if alive { "goes on" } else { "is gone" }
    );
    alive
}
