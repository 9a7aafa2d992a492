//! A run as the daemon and the command see it: whoever dies, it is submitted once and its result arrives.

use coheap_tests::sandbox::{Sandbox, eventually, signal, stderr};
use std::{fs, process::Command};

/// `coheap run` with workers that have no heap and take `ms` for a run.
fn run(sandbox: &Sandbox, ms: u32, args: &[&str]) -> Command {
    let mut all = vec!["--json", "run", "trees"];
    all.extend(args);
    let mut command = sandbox.command("coheap", &all);
    command.env("COHEAP_WORKER_BIN", env!("CARGO_BIN_EXE_fake-worker"));
    command
        .env("COHEAP_FAKE_DIR", sandbox.path())
        .env("COHEAP_FAKE_MS", ms.to_string());
    command
}

fn runs(sandbox: &Sandbox) -> usize {
    let entries = fs::read_dir(sandbox.path()).expect("sandbox").flatten();
    entries
        .filter(|e| e.file_name().to_string_lossy().starts_with("run-"))
        .count()
}

fn result(sandbox: &Sandbox, mut command: Command) -> serde_json::Value {
    let output = command.output().expect("coheap runs");
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        stderr(&output)
    );
    assert_eq!(runs(sandbox), 1, "the run was begun more than once");
    assert!(
        !sandbox.path().join("coheap").exists(),
        "something stayed behind"
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&json["ok"], &json["answer"]),
        (&true.into(), &42.into()),
        "{json}"
    );
    json
}

#[test]
fn a_run_gives_its_result_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let json = result(&sandbox, run(&sandbox, 200, &["-n", "2"]));
    assert_eq!(json["deaths"], 0);
}

#[test]
fn a_run_under_a_kill_storm_is_begun_once() {
    let sandbox = Sandbox::new();
    let json = result(
        &sandbox,
        run(&sandbox, 2000, &["--kill-storm", "20ms", "--seed", "7"]),
    );
    assert!(json["deaths"].as_u64() > Some(5), "{json}");
}

#[test]
fn a_run_under_a_stop_storm_ends() {
    let sandbox = Sandbox::new();
    result(&sandbox, run(&sandbox, 500, &["--stop-storm", "50ms"]));
}

#[test]
fn a_run_whose_daemon_is_killed_again_and_again_ends() {
    let sandbox = Sandbox::new();
    let json = result(
        &sandbox,
        run(&sandbox, 2000, &["--restart-daemon", "300ms"]),
    );
    assert!(json["daemon_restarts"].as_u64() > Some(0), "{json}");
}

#[test]
// How many deaths fit into a run depends on how busy the machine is; that there was one is what the test needs.
fn daemon_and_workers_may_die_together() {
    let sandbox = Sandbox::new();
    let storm = [
        "--restart-daemon",
        "400ms",
        "--kill-storm",
        "50ms",
        "--stop-storm",
        "70ms",
    ];
    let json = result(&sandbox, run(&sandbox, 2000, &storm));
    assert!(json["deaths"].as_u64() > Some(0), "{json}");
}

#[test]
fn a_run_that_was_cut_short_by_ctrl_c_leaves_nothing() {
    let mut sandbox = Sandbox::new();
    let command = run(&sandbox, 60_000, &[]);
    let pid = sandbox.spawn(command);
    eventually("the run has begun", || runs(&sandbox) == 1);
    signal(pid, "INT");
    assert_eq!(sandbox.wait(pid).code(), Some(130));
    assert!(!sandbox.path().join("coheap").exists());
}

#[test]
fn workers_that_cannot_start_end_the_run_with_a_reason() {
    let sandbox = Sandbox::new();
    let mut command = run(&sandbox, 200, &["-n", "2"]);
    let output = command
        .env("COHEAP_WORKER_BIN", "/bin/false")
        .output()
        .expect("coheap runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("E018"), "{}", stderr(&output));
    assert!(!sandbox.path().join("coheap").exists());
}

#[test]
fn a_storm_that_leaves_nobody_alive_for_a_step_ends_the_run_with_a_reason() {
    let sandbox = Sandbox::new();
    // These workers lease a P and run no task.
    let storm = ["-n", "2", "--kill-storm", "4ms", "--redeliver-max", "40"];
    let output = run(&sandbox, 600_000, &storm)
        .output()
        .expect("coheap runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("E018") && said.contains("40 kills"), "{said}");
    assert!(!sandbox.path().join("coheap").exists());
}

#[test]
fn a_run_joins_the_daemon_that_is_named_and_a_second_run_must_wait() {
    let sandbox = Sandbox::new();
    let mut start = sandbox.command("coheap", &["--name", "j", "start", "-w", "-n", "2"]);
    start.env("COHEAP_WORKER_BIN", env!("CARGO_BIN_EXE_fake-worker"));
    start
        .env("COHEAP_FAKE_DIR", sandbox.path())
        .env("COHEAP_FAKE_MS", "1000");
    assert!(start.status().expect("starts").success());
    let first = sandbox
        .command("coheap", &["--name", "j", "--json", "run", "trees"])
        .spawn()
        .expect("starts");
    eventually("the run has begun", || runs(&sandbox) == 1);
    let second = sandbox.coheap(&["--name", "j", "run", "gcbench"]);
    assert_eq!(second.status.code(), Some(75), "{}", stderr(&second));
    let third = sandbox.coheap(&["--name", "j", "run", "trees", "--gc-percent", "50"]);
    assert_eq!(third.status.code(), Some(2), "{}", stderr(&third));
    assert!(
        stderr(&third).contains("--gc-percent"),
        "{}",
        stderr(&third)
    );
    assert!(first.wait_with_output().expect("ends").status.success());
    sandbox.ok(&["--name", "j", "status"]);
}
