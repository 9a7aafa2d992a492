//! Processes that somebody stopped: shown, waited for, and never robbed; killed first when the configuration sets them a time.

use coheap_tests::sandbox::{Sandbox, eventually, exists, signal, stderr};
use std::{fs, process::Stdio, time::Duration};

fn row(sandbox: &Sandbox, p: u16) -> serde_json::Value {
    let rows = sandbox.json(&["--name", "s", "ps"]);
    let row = rows.into_iter().find(|row| row["p"] == p);
    row.expect("a row of that P")
}

#[test]
fn a_stopped_process_is_suspect_and_keeps_its_p_until_it_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "s", "start", "-w", "-n", "3"]);
    let pid = row(&sandbox, 1)["pid"].as_u64().expect("a pid") as u32;
    signal(pid, "STOP");
    eventually("it is suspect", || {
        row(&sandbox, 1)["state"] == "suspect: stopped"
    });
    // The others work on, a whole run long; by default nobody's patience ends.
    sandbox.ok(&["--name", "s", "run", "trees", "--depth", "12"]);
    assert_eq!(row(&sandbox, 1)["pid"], pid);
    assert_eq!(row(&sandbox, 1)["state"], "suspect: stopped");
    assert!(sandbox.json(&["--name", "s", "dead"]).is_empty());
    // Whom a person stopped by our command is no suspect.
    sandbox.ok(&["--name", "s", "stop", "0"]);
    assert_eq!(row(&sandbox, 0)["state"], "stopped");
    sandbox.ok(&["--name", "s", "cont", "0"]);
    signal(pid, "CONT");
    eventually("it goes on", || {
        let state = row(&sandbox, 1)["state"].to_string();
        !state.contains("suspect") && !state.contains("stopped")
    });
    sandbox.ok(&["--name", "s", "verify", "--deep"]);
}

#[test]
fn past_the_configured_time_a_stopped_process_is_killed_certified_and_recovered() {
    let sandbox = Sandbox::new();
    let file = sandbox.path().join("s.toml");
    fs::write(&file, "[workers]\nsuspect_timeout = \"700ms\"\n").expect("writes");
    let mut start = sandbox.command("coheap", &["--name", "s", "start", "-w", "-n", "3"]);
    start.env("COHEAP_CONFIG", &file);
    assert!(start.status().expect("coheap runs").success());
    let pid = row(&sandbox, 1)["pid"].as_u64().expect("a pid") as u32;
    let held = row(&sandbox, 2)["pid"].as_u64().expect("a pid") as u32;
    sandbox.ok(&["--name", "s", "stop", "2"]);
    let mut run = sandbox.command(
        "coheap",
        &["--name", "s", "--json", "run", "trees", "--depth", "19"],
    );
    let run = run
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    eventually("it works", || sandbox.status("s")["tasks_running"] != 0);
    signal(pid, "STOP");
    eventually("it is suspect before it dies", || {
        row(&sandbox, 1)["state"] == "suspect: stopped"
    });
    eventually("it is dead", || !exists(pid));
    eventually("it is told", || {
        let dead = sandbox.json(&["--name", "s", "dead"]);
        dead.len() == 1 && dead[0]["cause"] == "signal 9 (SIGKILL)"
    });
    let dead = sandbox.json(&["--name", "s", "dead"]).remove(0);
    assert_eq!(
        (&dead["pid"], &dead["p"]),
        (&pid.into(), &1.into()),
        "{dead}"
    );
    assert!(
        dead["repair_us"].is_u64() && dead["detect_us"].is_u64(),
        "{dead}"
    );
    // Its task ran again elsewhere, and counted once.
    let output = run.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", stderr(&output));
    eventually("another one took its place", || {
        let now = row(&sandbox, 1);
        now["pid"] != 0 && now["pid"] != pid
    });
    // A person's stop is meant, and has no time.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(row(&sandbox, 2)["pid"], held);
    sandbox.ok(&["--name", "s", "cont", "2"]);
    sandbox.ok(&["--name", "s", "verify", "--deep"]);
}
