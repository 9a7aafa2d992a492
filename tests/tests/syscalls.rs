//! Some of the experiments of the program `faults`: each system call of a life fails once, and nothing but an error line comes of it.

use std::process::Command;

fn faults(args: &[&str]) -> (bool, String) {
    // The programs under test are built first, by the sandbox.
    drop(coheap_tests::sandbox::program("coheap"));
    let output = Command::new(env!("CARGO_BIN_EXE_faults"))
        .args(args)
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn a_sample_of_failing_calls_ends_well_or_with_one_line() {
    let (good, text) = faults(&["--minutes", "0.2", "--seed", "3"]);
    assert!(good, "{text}");
    let failed: u32 = text
        .split("a call failed in ")
        .nth(1)
        .and_then(|t| t.split(',').next()?.parse().ok())
        .unwrap_or(0);
    assert!(failed > 5, "too few were failed to mean anything: {text}");
}

#[test]
fn a_heap_that_cannot_be_made_leaves_one_line_and_nothing_else() {
    let (good, text) = faults(&[
        "--program",
        "coheapd",
        "--call",
        "memfd_create",
        "--nth",
        "1",
        "-v",
    ]);
    assert!(good, "{text}");
    assert!(
        text.contains("coheap: error[E010]: creating memfd: Too many open files"),
        "{text}"
    );
    assert!(text.contains("2 ended with an error line"), "{text}");
}

/// The second file that a daemon opens is its lock: its directory is made by then, and must not stay.
#[test]
fn a_daemon_that_cannot_open_its_lock_leaves_no_directory() {
    let (good, text) = faults(&[
        "--program",
        "coheapd",
        "--call",
        "openat",
        "--nth",
        "2",
        "-v",
    ]);
    assert!(good, "{text}");
    assert!(text.contains("/lock: Too many open files"), "{text}");
}

#[test]
fn a_daemon_whose_wait_is_refused_waits_again() {
    for nth in ["3", "7", "11"] {
        let (good, text) = faults(&["--program", "coheapd", "--call", "poll", "--nth", nth]);
        assert!(good, "{text}");
        assert!(text.contains(" 0 ended with an error line"), "{text}");
    }
}
