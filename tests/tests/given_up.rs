//! A step that kills its process again and again: the task is given up, the run says so, and its input can be read.
//!
//! The deaths are real and nobody orders them: the workers run under a limit on the size of files, and the kernel sends SIGXFSZ to
//! whoever writes the result beyond it.

use coheap_tests::sandbox::{Sandbox, program, stderr};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// Files with more different words than fit into the limit.
fn texts(sandbox: &Sandbox) -> PathBuf {
    let dir = sandbox.path().join("texts");
    fs::create_dir(&dir).expect("makes");
    let letter = |n: u32| char::from(b'a' + (n % 26) as u8);
    for file in 0..20u32 {
        let words: String = (0..2000u32)
            .map(|w| w + 2000 * file)
            .map(|n| {
                format!(
                    "{}{}{}{} ",
                    letter(n),
                    letter(n / 26),
                    letter(n / 676),
                    letter(n / 17576)
                )
            })
            .collect();
        fs::write(dir.join(format!("{file}.txt")), words).expect("writes");
    }
    dir
}

/// A worker that may write files of 100 KiB.
fn limited_worker(sandbox: &Sandbox) -> PathBuf {
    let script = sandbox.path().join("limited-worker");
    let worker = program("coheap-worker");
    let text = format!(
        "#!/bin/sh\nulimit -c 0\nulimit -f 200\nexec {} \"$@\"\n",
        worker.display()
    );
    fs::write(&script, text).expect("writes");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    script
}

fn start(sandbox: &Sandbox) {
    let mut start = sandbox.command("coheap", &["--name", "g", "start", "-w", "-n", "3"]);
    start.env("COHEAP_WORKER_BIN", limited_worker(sandbox));
    assert!(start.status().expect("coheap runs").success());
}

#[test]
fn a_task_whose_process_dies_each_time_is_given_up_and_shown_with_its_input() {
    let sandbox = Sandbox::new();
    start(&sandbox);
    let (dir, out) = (texts(&sandbox), sandbox.path().join("words.tsv"));
    let (dir, out) = (dir.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let run = sandbox.coheap(&["--name", "g", "run", "index", dir, "--out", out]);
    let complaint = stderr(&run);
    assert_eq!(run.status.code(), Some(8), "{complaint}");
    assert!(complaint.contains("error[E080]"), "{complaint}");
    assert!(
        complaint.contains("index.output") && complaint.contains(out),
        "{complaint}"
    );

    let tasks = sandbox.json(&["--name", "g", "tasks"]);
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    let task = &tasks[0];
    assert_eq!(
        (&task["kind"], &task["state"]),
        (&"index.output".into(), &"failed".into())
    );
    // The first run, and as many more as `tasks.redeliver_max` allows: 3.
    assert_eq!(
        (&task["attempts"], &task["error_code"]),
        (&4.into(), &8.into())
    );
    let error = task["error"].as_str().expect("a text");
    assert!(
        error.contains(out) && error.contains("its process died each time"),
        "{error}"
    );
    // Of the run that the daemon accepted.
    let run = task["run"].as_u64().expect("a number");
    let shown = format!("{run:#x}");
    let log = fs::read_to_string(sandbox.heap_dir("g").join("coheapd.log")).expect("a log");
    assert!(
        log.contains(&format!("ev=run.accepted run={shown} ")),
        "{log}"
    );
    let table = sandbox.ok(&["--name", "g", "tasks"]);
    assert!(table.contains(out) && table.contains(&shown), "{table}");

    let dead = sandbox.json(&["--name", "g", "dead"]);
    assert_eq!(dead.len(), 4, "{dead:?}");
    for death in &dead {
        assert_eq!(death["cause"], "signal 25 (SIGXFSZ)", "{death}");
        assert_eq!(death["kind"], "index.output", "{death}");
    }
    assert_eq!(sandbox.status("g")["tasks_failed"], 1);
    // The heap has not suffered.
    sandbox.ok(&["--name", "g", "verify", "--deep"]);
    sandbox.ok(&["--name", "g", "run", "trees", "--depth", "10"]);
}

#[test]
fn the_limit_is_the_one_that_was_asked_for() {
    let sandbox = Sandbox::new();
    start(&sandbox);
    let (dir, out) = (texts(&sandbox), sandbox.path().join("words.tsv"));
    let (dir, out) = (dir.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let run = sandbox.coheap(&[
        "--name",
        "g",
        "run",
        "index",
        dir,
        "--out",
        out,
        "--redeliver-max",
        "1",
    ]);
    assert_eq!(run.status.code(), Some(8), "{}", stderr(&run));
    assert_eq!(sandbox.json(&["--name", "g", "tasks"])[0]["attempts"], 2);
    assert_eq!(sandbox.json(&["--name", "g", "dead"]).len(), 2);
}
