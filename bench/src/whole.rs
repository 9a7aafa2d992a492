//! `trees`, `gcbench`: binary-trees and Boehm's GCBench by `coheap run`, whole processes: start-up and end included.

use std::{path::PathBuf, process::Command, time::Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

use crate::heap::{Flags, Result, round};

/// The `coheap` beside this program.
pub fn coheap() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("coheap");
    if path.exists() {
        return Ok(path);
    }
    Err("no coheap beside bench: cargo build --release".into())
}

/// Flags: `--depth`, `--procs`, `--gc-percent`, `--max`.
pub fn trees(flags: &Flags) -> Result<()> {
    run(
        "trees",
        ("depth", flags.text("--depth").unwrap_or("18")),
        flags,
    )
}

/// Flags: `--smaller`, levels less than the original; `--procs`, `--gc-percent`, `--max`.
pub fn gcbench(flags: &Flags) -> Result<()> {
    let smaller = flags.text("--smaller").unwrap_or("0");
    run("gcbench", ("smaller", smaller), flags)
}

/// Runs a workload of this size, and prints what it took.
fn run(workload: &str, (name, size): (&str, &str), flags: &Flags) -> Result<()> {
    let procs = flags.text("--procs").unwrap_or("2");
    let mut command = Command::new(coheap()?);
    command.args(["run", workload, &format!("--{name}"), size, "-n", procs]);
    for flag in ["--gc-percent", "--max"] {
        if let Some(value) = flags.text(flag) {
            command.args([flag, value]);
        }
    }
    let (started, before) = (Instant::now(), children_used()?.0);
    let output = command.output()?;
    let (wall, after) = (started.elapsed().as_secs_f64(), children_used()?);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    println!(
        "{}",
        json!({
            "bench": workload, name: size, "procs": procs, "wall_s": round(wall),
            "cpu_s": round(after.0 - before), "peak_rss_mb": after.1 / 1024,
        })
    );
    Ok(())
}

/// Seconds of processor time of all children that have ended, and the most memory that one of them had, in KiB.
fn children_used() -> Result<(f64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok((
        s(usage.user_time()) + s(usage.system_time()),
        usage.max_rss(),
    ))
}
