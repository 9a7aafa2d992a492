//! Fuzzing in the ordinary tests: a few thousand seeded cases. The long form is the program `fuzz`; a finding's seed replays there.

use coheap_tests::{
    fuzz::{frames, segment},
    sandbox::{Sandbox, eventually, exists, signal, stderr},
};
use std::{
    fs::{self, OpenOptions},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

#[test]
fn hostile_segments_are_refused_or_read_and_never_crash_anybody() {
    let me = Path::new(env!("CARGO_BIN_EXE_fuzz"));
    let until = Instant::now() + Duration::from_secs(8);
    let found = segment::hunt(me, &["--victim"], 1, 4000, until);
    assert_eq!(
        found.findings, [""; 0],
        "replay: fuzz --what segments --seed N --cases 1"
    );
    assert!(found.cases > 50, "{found:?}");
    assert!(
        found.outcomes.iter().all(|&n| n > 0),
        "one-sided: {found:?}"
    );
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn hostile_messages_leave_the_daemon_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "f", "start", "-n", "0", "--max", "8MiB"]);
    let pid = sandbox.status("f")["daemon_pid"].as_u64().expect("a pid") as u32;
    let before = descriptors(pid);
    let socket = sandbox.socket("f");
    let fuzz = Path::new(env!("CARGO_BIN_EXE_fuzz"));
    let (packets, seed) = frames::in_a_process(fuzz, &socket, 1, Duration::from_secs(4));
    assert!(packets > 200, "{packets} packets");
    assert!(exists(pid), "the daemon died after seed {seed}");
    let status = sandbox.status("f");
    assert_eq!(status["daemon_pid"], u64::from(pid));
    assert!(status["bad_frames"].as_u64() > Some(50), "{status}");
    eventually("all descriptors are given back", || {
        descriptors(pid) <= before + 1
    });
    sandbox.ok(&["--name", "f", "stop"]);
}

#[test]
fn a_flood_of_silent_callers_does_not_keep_others_out() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "f", "start", "-n", "0", "--max", "8MiB"]);
    let lines: Vec<_> = (0..300)
        .filter_map(|_| frames::Line::open(&sandbox.socket("f")))
        .collect();
    assert!(lines.len() > 100, "{} connections", lines.len());
    let began = Instant::now();
    sandbox.status("f");
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(lines);
    sandbox.ok(&["--name", "f", "stop"]);
}

/// The segment of a worker, opened through its descriptor table.
fn segment_of(pid: u32) -> OwnedFd {
    let table = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("reads")
        .flatten();
    let path = table
        .map(|e| e.path())
        .find(|p| fs::read_link(p).is_ok_and(|t| t.to_string_lossy().starts_with("/memfd:coheap:")))
        .expect("a worker holds the segment");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens")
        .into()
}

fn write_at(fd: &OwnedFd, at: i64, bytes: &[u8]) {
    assert_eq!(
        nix::sys::uio::pwrite(fd, bytes, at).expect("writes"),
        bytes.len()
    );
}

/// Tools that map a spoiled heap say so in one line; a daemon that finds one in the hands of a worker makes a new one.
#[test]
fn tools_and_a_new_daemon_refuse_a_spoiled_heap() {
    // Magic and version, the number of chunks, and all that follows.
    for (k, spoil) in [(0i64, 16usize), (128, 4), (192, 3900)]
        .into_iter()
        .enumerate()
    {
        let sandbox = Sandbox::new();
        sandbox.ok(&["--name", "s", "start", "-n", "1", "-w", "--max", "8MiB"]);
        let daemon = sandbox.status("s")["daemon_pid"].as_u64().expect("a pid") as u32;
        let worker = sandbox.worker_pids("s")[0];
        let fd = segment_of(worker);
        signal(worker, "STOP");
        write_at(&fd, spoil.0, &vec![0xff; spoil.1]);
        for question in [
            &["verify"][..],
            &["roots"],
            &["slots"],
            &["histo"],
            &["stat", "--count", "1"],
            &["trace", "last", "1s"],
        ] {
            let mut args = vec!["--name", "s", "--timeout", "5s"];
            args.extend(question);
            let output = sandbox.coheap(&args);
            let text = stderr(&output);
            assert!(
                matches!(output.status.code(), Some(5 | 7)),
                "{k} {question:?}: {}: {text}",
                output.status
            );
            assert!(
                text.starts_with("coheap: error[E0") && text.lines().count() == 1,
                "{k} {question:?}: {text}"
            );
        }
        signal(daemon, "KILL");
        eventually("the daemon is gone", || !exists(daemon));
        let output = sandbox.coheap(&["--name", "s", "start", "-n", "0", "--max", "8MiB"]);
        assert!(output.status.success(), "{k}: {}", stderr(&output));
        assert_eq!(sandbox.status("s")["heap"]["gc_cycles"], 0);
        eventually("the worker of the spoiled heap is ended", || {
            !exists(worker)
        });
        sandbox.ok(&["--name", "s", "stop"]);
    }
}
