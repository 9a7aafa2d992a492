//! `coheap resize N` while a run allocates and collects: mark workers are retired with their P's and started again, as in Go.

use coheap_tests::sandbox::{Sandbox, eventually};
use serde_json::Value;

/// States of the mark workers' slots, P by P.
fn slots(sandbox: &Sandbox) -> Vec<String> {
    let rows = sandbox.json(&["--name", "r", "slots"]);
    let state = |row: &Value| row["state"].as_str().expect("a state").to_owned();
    rows.iter().map(state).collect()
}

fn cycles(sandbox: &Sandbox) -> u64 {
    sandbox.status("r")["heap"]["gc_cycles"].as_u64().unwrap()
}

/// Waits until `n` workers are attached, as many P's may run, and the slots of the others are closed.
fn settled(sandbox: &Sandbox, n: usize) {
    eventually("workers, P's and slots follow the number", || {
        let status = sandbox.status("r");
        let closed = slots(sandbox).iter().skip(n).all(|s| s == "closed");
        let open = slots(sandbox).iter().take(n).all(|s| s != "closed");
        status["procs"] == n && status["workers_attached"] == n && closed && open
    });
}

#[test]
fn workers_are_retired_and_started_again_under_a_run() {
    let sandbox = Sandbox::new();
    sandbox.ok(&[
        "--name",
        "r",
        "start",
        "--wait",
        "-n",
        "4",
        "--gc-percent",
        "50",
    ]);
    let run = sandbox
        .command(
            "coheap",
            &["--name", "r", "--json", "run", "trees", "--depth", "19"],
        )
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    // A cycle has started workers for all four.
    eventually("four mark workers", || {
        slots(&sandbox).iter().filter(|s| *s == "full").count() == 4
    });
    for n in [2, 4, 1, 3] {
        sandbox.ok(&["--name", "r", "resize", &n.to_string()]);
        settled(&sandbox, n);
        let before = cycles(&sandbox);
        sandbox.ok(&["--name", "r", "gc", "--wait"]);
        assert!(cycles(&sandbox) > before);
    }
    // With three P's again the cycles have started workers for those that came back.
    eventually("three mark workers", || {
        slots(&sandbox)
            .iter()
            .take(3)
            .filter(|s| *s == "full")
            .count()
            == 3
    });
    let output = run.wait_with_output().expect("ends");
    assert!(output.status.success());
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], true, "{json}");
    assert_eq!(json["deaths"], 0, "{json}");
    sandbox.ok(&["--name", "r", "verify", "--deep"]);
    sandbox.ok(&["--name", "r", "stop"]);
}
