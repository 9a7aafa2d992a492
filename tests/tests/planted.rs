//! The step killer sees what it should: each fault that is built in on purpose is caught, with the instruction named.
//! `cargo test --release -p coheap-tests --features planted --test planted`

use std::process::Command;

/// Each fault, and an operation that meets it.
const PLANTS: &[(&str, &str)] = &[
    ("push-not-recorded", "root-job"),
    ("intent-cleared-early", "alloc-new-span"),
    ("ready-before-bits", "grow"),
    ("effect-before-commit", "commit"),
    ("reserved-by-nobody", "spawn"),
    ("buffer-not-recorded", "buffer-dispose"),
    ("job-done-early", "root-job"),
    ("live-before-armed", "attach"),
];

fn stepkill(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stepkill"))
        .args(["--mode", "image"])
        .args(args)
        .output()
        .expect("stepkill runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn planted_faults_are_caught_where_they_are() {
    for (plant, op) in PLANTS {
        let (sound, text) = stepkill(&["--op", op]);
        assert!(sound, "{op} without a fault: {text}");
        let (sound, text) = stepkill(&["--op", op, "--plant", plant]);
        assert!(!sound, "{plant} was not seen: {text}");
        assert!(text.contains("killed after instruction"), "{plant}: {text}");
    }
}
