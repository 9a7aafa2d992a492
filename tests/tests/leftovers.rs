//! Everything is killed at once: what stays, and what the next start makes of it.

use coheap_tests::sandbox::{Sandbox, eventually, exists, signal, stderr};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

fn everybody(sandbox: &Sandbox, name: &str) -> Vec<u32> {
    let daemon = sandbox.status(name)["daemon_pid"].as_u64().expect("a pid") as u32;
    let mut pids = vec![daemon];
    pids.extend(sandbox.worker_pids(name));
    pids
}

fn kill_all(pids: &[u32]) {
    // The daemon first: it would start workers again.
    pids.iter().for_each(|&pid| signal(pid, "KILL"));
    eventually("all are dead", || !pids.iter().any(|&pid| exists(pid)));
}

/// A name in /dev/shm that no other test has.
fn shm(sandbox: &Sandbox) -> (String, PathBuf) {
    let unique = sandbox
        .path()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let path = PathBuf::from("/dev/shm").join(&unique);
    (format!("shm:{unique}"), path)
}

#[test]
fn a_named_segment_left_by_the_dead_is_replaced_by_the_next_start() {
    let sandbox = Sandbox::new();
    let (backing, path) = shm(&sandbox);
    sandbox.ok(&[
        "--name",
        "x",
        "start",
        "-w",
        "-n",
        "2",
        "--backing",
        &backing,
    ]);
    let before = sandbox.status("x")["incarnation"].clone();
    kill_all(&everybody(&sandbox, "x"));
    assert!(path.exists(), "a named segment stays until somebody cleans");
    sandbox.ok(&[
        "--name",
        "x",
        "start",
        "-w",
        "-n",
        "2",
        "--backing",
        &backing,
    ]);
    assert_ne!(sandbox.status("x")["incarnation"], before);
    sandbox.ok(&["--name", "x", "stop"]);
    assert!(!path.exists() && !sandbox.path().join("coheap").exists());
}

#[test]
fn a_strangers_segment_of_that_name_is_left_alone() {
    let sandbox = Sandbox::new();
    let (backing, path) = shm(&sandbox);
    sandbox.ok(&[
        "--name",
        "x",
        "start",
        "-w",
        "-n",
        "1",
        "--backing",
        &backing,
    ]);
    kill_all(&everybody(&sandbox, "x"));
    // Somebody else removed the leftover and has the name now.
    fs::remove_file(&path).expect("removes");
    fs::write(&path, "precious").expect("writes");
    let output = sandbox.coheap(&["--name", "x", "start", "--backing", &backing]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("error[E013]"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
    // Without that backing the name is free.
    sandbox.ok(&["--name", "x", "start"]);
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
    sandbox.ok(&["--name", "x", "stop"]);
    fs::remove_file(&path).expect("removes");
}

/// Runs something, kills the command, the daemon and the workers in that order or the command last, and waits until nobody is left.
fn kill_a_run(name: &str, command_first: bool) -> Duration {
    let mut sandbox = Sandbox::new();
    let args = [
        "-q", "--name", name, "run", "trees", "--depth", "22", "-n", "3",
    ];
    let run = sandbox.spawn(sandbox.command("coheap", &args));
    eventually("three workers", || {
        sandbox.coheap(&["--name", name, "status"]).status.success()
            && sandbox.worker_pids(name).len() == 3
    });
    let mut pids = everybody(&sandbox, name);
    pids.insert(if command_first { 0 } else { pids.len() }, run);
    pids.iter().for_each(|&pid| signal(pid, "KILL"));
    let killed = Instant::now();
    sandbox.wait(run);
    // The last mapping goes with the last process: nobody may hold the memory of this heap.
    let memory = format!("/memfd:coheap:{name} (deleted)");
    let holds = |process: &fs::DirEntry| {
        fs::read_dir(process.path().join("fd")).is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy() == memory))
        })
    };
    let held = || {
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .any(|p| holds(&p))
    };
    eventually("all are gone", || {
        !pids.iter().any(|&pid| exists(pid)) && !held()
    });
    eventually("no file is left", || {
        !sandbox.path().join("coheap").exists()
    });
    killed.elapsed()
}

#[test]
fn of_a_heap_without_a_name_nothing_is_left_within_a_second() {
    let took = kill_a_run("left-memfd", true);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn of_a_heap_that_was_started_nothing_is_left_either() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "left-start", "start", "-w", "-n", "2"]);
    let pids = everybody(&sandbox, "left-start");
    // One after the other: while a worker lives the heap does, and its files.
    signal(pids[0], "KILL");
    signal(pids[1], "KILL");
    eventually("two are dead", || !pids[..2].iter().any(|&pid| exists(pid)));
    std::thread::sleep(Duration::from_millis(100));
    assert!(sandbox.socket("left-start").exists());
    signal(pids[2], "KILL");
    let killed = Instant::now();
    eventually("no file is left", || {
        !sandbox.path().join("coheap").exists()
    });
    assert!(killed.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_janitor_of_a_dead_daemon_leaves_its_successor_alone() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "left-heir2", "start", "-w", "-n", "2"]);
    let pids = everybody(&sandbox, "left-heir2");
    signal(pids[0], "KILL");
    eventually("the daemon is dead", || !exists(pids[0]));
    sandbox.ok(&["--name", "left-heir2", "start", "-w"]);
    // The first janitor waits for these two.
    pids[1..].iter().for_each(|&pid| signal(pid, "KILL"));
    eventually("the dead are replaced", || {
        sandbox.worker_pids("left-heir2").len() == 2
    });
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(sandbox.status("left-heir2")["adopted"], true);
    sandbox.ok(&["--name", "left-heir2", "stop"]);
    assert!(!sandbox.path().join("coheap").exists());
}

/// The command sees its daemon die and starts another, which finds the command dead in its turn.
#[test]
fn a_daemon_that_was_started_by_the_dying_ends_by_itself() {
    kill_a_run("left-heir", false);
}
