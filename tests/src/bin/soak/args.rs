//! The command line.

use std::{path::PathBuf, time::Duration};

/// For people.
pub const USAGE: &str = "\
Kills workers and the daemon while index, trees and gcbench run, again and again, and checks everything after each round.
usage: soak [--kills N] [--daemon-kills M] [--minutes M] [--seed S] [--workers N] [--every MS] [--dir DIR] [--hold] [-v]
  --kills N          end when so many workers were killed (default 400)
  --daemon-kills M   spread so many kills of the daemon over them (default: one for 50)
  --minutes M        end after that time, whatever was killed by then
  --seed S           whom, when, together with whom (default 1)
  --workers N        processes of a heap (default 8)
  --every MS         mean time between two strikes (default 30)
  --dir DIR          what index reads (default: text of our own)
  --depth D          of trees (default 15)
  --smaller L        levels that gcbench is smaller (default 4)
  --rounds N         rounds in one heap (default 3)
  --hold             on a violation, keep everything as it is until killed
Exit codes: 0 nothing wrong; 1 could not run; 2 usage; 5 a violation";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Args {
    /// Workers to kill.
    pub kills: u64,
    /// Daemons to kill.
    pub daemon_kills: u64,
    /// When to end in any case.
    pub limit: Option<Duration>,
    /// Seed of everything random.
    pub seed: u64,
    /// Processes of a heap.
    pub workers: usize,
    /// Mean time between two strikes.
    pub every: Duration,
    /// What index reads.
    pub dir: Option<PathBuf>,
    /// Depth of trees.
    pub depth: u32,
    /// Levels that gcbench is smaller.
    pub smaller: u32,
    /// Rounds in one heap.
    pub rounds: usize,
    /// Keep the evidence.
    pub hold: bool,
    /// Say more.
    pub verbose: bool,
}

/// Reads the command line; `None`: help was asked for.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let mut out = Args {
        kills: 400,
        daemon_kills: u64::MAX,
        limit: None,
        seed: 1,
        workers: 8,
        every: Duration::from_millis(30),
        dir: None,
        depth: 15,
        smaller: 4,
        rounds: 3,
        hold: false,
        verbose: false,
    };
    let mut rest = args;
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--hold" => out.hold = true,
            "-v" => out.verbose = true,
            "--dir" => out.dir = Some(rest.next().ok_or("--dir needs a directory")?.into()),
            "--minutes" => out.limit = Some(Duration::from_secs(60 * number(&arg, &mut rest)?)),
            "--kills" => out.kills = number(&arg, &mut rest)?,
            "--daemon-kills" => out.daemon_kills = number(&arg, &mut rest)?,
            "--seed" => out.seed = number(&arg, &mut rest)?,
            "--workers" => out.workers = number(&arg, &mut rest)? as usize,
            "--every" => out.every = Duration::from_millis(number(&arg, &mut rest)?.max(1)),
            "--depth" => out.depth = number(&arg, &mut rest)? as u32,
            "--smaller" => out.smaller = number(&arg, &mut rest)? as u32,
            "--rounds" => out.rounds = (number(&arg, &mut rest)? as usize).max(1),
            other => return Err(format!("{other} is unknown")),
        }
    }
    if out.workers < 2 || out.workers > 256 {
        return Err("--workers: 2 to 256, because somebody must survive".into());
    }
    if out.daemon_kills == u64::MAX {
        out.daemon_kills = out.kills / 50;
    }
    Ok(Some(out))
}

fn number(arg: &str, rest: &mut impl Iterator<Item = String>) -> Result<u64, String> {
    let value = rest.next().ok_or(format!("{arg} needs a number"))?;
    value
        .parse()
        .map_err(|_| format!("{arg}: {value} is no number"))
}
