//! `coheap doctor`: what could go wrong here, with numbers and with what to do.

use crate::{args::Global, connect, failure::Failure, show};
use coheap::control::{RuntimeDir, instance, paths};
use coheap_protocol::{
    DeadRow, PsRow, Reply, Request, Status, codes,
    human::{show_bytes, show_duration},
};
use std::{fs, time::Duration};

/// Prints every finding; ends with 5 if there is one.
pub fn doctor(global: &Global) -> Result<u8, Failure> {
    let mut findings = leftovers();
    findings.extend(machine());
    let mut good = Vec::new();
    match connect::tool(global) {
        Ok(channel) => {
            let ask = |request| connect::ask(&channel, &request, global.timeout);
            let status = ask(Request::Status)?.into_iter().find_map(|r| {
                if let Reply::Status(s) = r {
                    Some(s)
                } else {
                    None
                }
            });
            let ps = connect::only(ask(Request::Ps)?, |r| {
                if let Reply::Ps(row) = r {
                    Some(row)
                } else {
                    None
                }
            });
            let dead = connect::only(ask(Request::Dead)?, |r| {
                if let Reply::Dead(row) = r {
                    Some(row)
                } else {
                    None
                }
            });
            findings.extend(processes(&ps, &dead));
            if let Some(status) = status {
                findings.extend(numbers(&status));
                good.push(format!(
                    "daemon {} answers, {} workers attached",
                    status.daemon_pid, status.workers_attached
                ));
                good.extend(watcher(status.daemon_pid));
            }
        }
        Err(failure) if failure.code == codes::NOT_RUNNING => {
            good.push("no daemon runs under this name".into())
        }
        Err(failure) => return Err(failure),
    }
    print(global, &findings, &good);
    if findings.is_empty() {
        return Ok(codes::OK);
    }
    let what = format!("doctor found {} thing(s)", findings.len());
    Err(Failure::new(
        codes::VIOLATION,
        "E052",
        what,
        "the list above",
    ))
}

fn print(global: &Global, findings: &[String], good: &[String]) {
    if global.json {
        return show::json(&serde_json::json!({ "findings": findings, "good": good }));
    }
    let numbered = findings
        .iter()
        .enumerate()
        .map(|(i, finding)| format!("{}. {finding}\n", i + 1));
    let rest = if findings.is_empty() {
        "Everything looks good"
    } else {
        "Everything else looks good"
    };
    show::print(&format!(
        "{}{rest}: {}.\n",
        numbered.collect::<String>(),
        good.join("; ")
    ));
}

/// Directories and segments whose daemon is gone.
fn leftovers() -> Vec<String> {
    let mut findings = Vec::new();
    let dead = |dir: &RuntimeDir| dir.lock_file().exists() && !instance::is_running(dir);
    for dir in paths::names().iter().map(RuntimeDir::of).filter(dead) {
        findings.push(format!(
            "The daemon of `{name}` was killed and left {path}. Start it again to take over what lives: coheap --name {name} start; then stop it: coheap --name {name} stop",
            name = dir.name(),
            path = dir.dir().display(),
        ));
    }
    let prefix = format!("coheap-{}-", nix::unistd::geteuid());
    let shm = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    for entry in shm.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let heap: Option<coheap::control::Name> = name.trim_start_matches(&prefix).parse().ok();
        if !heap.is_some_and(|heap| instance::is_running(&RuntimeDir::of(&heap))) {
            let bytes = entry
                .metadata()
                .map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
            findings.push(format!(
                "/dev/shm/{name} holds {} and no daemon owns it: rm /dev/shm/{name}",
                show_bytes(bytes)
            ));
        }
    }
    findings
}

/// Room below a memory cgroup's limit that a heap soon uses up.
const TIGHT_BYTES: u64 = 64 << 20;

/// Limits of the machine that end in a kill instead of an error.
fn machine() -> Vec<String> {
    let room = coheap::segment::cgroup_room().filter(|&room| room < TIGHT_BYTES);
    room.map(|room| {
        format!(
            "The memory cgroup of this process has {} left; a heap in it is refused what goes beyond, and other memory is a kill. Raise its limit or lower [heap].max.",
            show_bytes(room)
        )
    })
    .into_iter()
    .collect()
}

/// How soon the daemon's watcher of deaths runs when one happens. Not real time is no finding: it costs a death a few milliseconds on a
/// busy machine.
fn watcher(daemon_pid: u32) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{daemon_pid}/task")).ok()?;
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let real_time = stats
        .filter_map(|stat| watches_in_real_time(&stat))
        .next()?;
    Some(if real_time {
        "deaths are noticed in real time".into()
    } else {
        "deaths are noticed when a processor is free (LimitRTPRIO=1 for the daemon: at once)".into()
    })
}

/// Whether a thread's `/proc/PID/task/TID/stat` names a real-time class; `None` if it is not the watcher's.
fn watches_in_real_time(stat: &str) -> Option<bool> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    // The 41st field, as `proc` counts; the state, behind the name, is the third.
    let policy = rest.split_whitespace().nth(41 - 3)?;
    (name == "life").then(|| policy == "1" || policy == "2")
}

fn processes(ps: &[PsRow], dead: &[DeadRow]) -> Vec<String> {
    let mut findings = Vec::new();
    for row in ps {
        let p = row.p.map_or("?".into(), |p| p.to_string());
        let state = fs::read_to_string(format!("/proc/{}/stat", row.pid)).unwrap_or_default();
        let stopped = state
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
        if stopped {
            findings.push(format!("P{p} (pid {}) is stopped by a signal; the others go on without it. coheap cont {p}, or coheap kill {p}", row.pid));
        }
    }
    let vacant = ps.iter().filter(|row| row.state == "vacant").count();
    if vacant > 0 {
        findings.push(format!("{vacant} place(s) are empty because their worker died 5 times in 10 s. coheap dead says how; coheap resize {} fills them again.", ps.len()));
    }
    let recent: Vec<&DeadRow> = dead.iter().filter(|row| row.ago_ms < 60_000).collect();
    if let Some(last) = recent.last() {
        let ago = show_duration(Duration::from_millis(last.ago_ms));
        findings.push(format!(
            "{} worker(s) died in the last minute, the last one {ago} ago: pid {}, {}. coheap dead",
            recent.len(),
            last.pid,
            last.cause
        ));
    }
    findings
}

fn numbers(status: &Status) -> Vec<String> {
    let mut findings = Vec::new();
    let heap = &status.heap;
    if heap.max_bytes > 0 && heap.live_bytes > heap.max_bytes / 10 * 9 {
        let (live, max) = (show_bytes(heap.live_bytes), show_bytes(heap.max_bytes));
        findings.push(format!("{live} of {max} are live: the next allocations may fail with `heap is full`. A larger --max, or fewer roots."));
    }
    if let Some(who) = &heap.growth_refused {
        findings.push(format!(
            "The heap could not grow beyond {}: {who}. Room there, or a lower --max.",
            show_bytes(heap.committed_bytes)
        ));
    }
    if status.bad_frames > 0 {
        findings.push(format!("{} connection(s) sent bytes that are no message: some program of another version talks to this socket.", status.bad_frames));
    }
    if heap.gc_percent < 0 {
        findings.push(
            "The collector is off (gc_percent = off): memory only grows. coheapd --gc-percent 100"
                .into(),
        );
    }
    findings
}
