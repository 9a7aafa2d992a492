//! Deaths at named points of the protocols, in real workers of a real run: `cargo test -p coheap-tests --features failpoints`.

use coheap::{Cx, Handle, P, Segment, Weak, gc, recover, testing::phase};
use coheap_tests::{
    sandbox::{Sandbox, eventually, program, stderr},
    weak::{NAMES, Page},
};
use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, process::ExitStatusExt},
    },
    path::PathBuf,
    process::Output,
};

/// An index of one file whose workers die as `points` says, in a heap that stays.
fn index_of_one_file(sandbox: &Sandbox, points: &str) -> Output {
    let dir = sandbox.path().join("texts");
    fs::create_dir(&dir).expect("makes");
    fs::write(dir.join("poison.txt"), "one two two").expect("writes");
    let mut start = sandbox.command("coheap", &["--name", "f", "start", "-w", "-n", "4"]);
    start.env("COHEAP_FAILPOINTS", points);
    assert!(start.status().expect("coheap runs").success());
    let dir = dir.to_str().expect("UTF-8");
    sandbox.coheap(&["--name", "f", "run", "index", dir])
}

#[test]
fn a_part_of_an_index_that_kills_its_readers_is_given_up_with_its_files() {
    let sandbox = Sandbox::new();
    let run = index_of_one_file(&sandbox, "index.batch=kill");
    assert_eq!(run.status.code(), Some(8), "{}", stderr(&run));
    let task = sandbox.json(&["--name", "f", "tasks"]).remove(0);
    assert_eq!(
        (&task["kind"], &task["attempts"]),
        (&"index.batch".into(), &4.into())
    );
    let error = task["error"].as_str().expect("a text");
    assert!(
        error.contains("poison.txt") && error.contains("0 more files"),
        "{error}"
    );
    assert!(stderr(&run).contains("poison.txt"), "{}", stderr(&run));
}

#[test]
fn a_context_that_kills_whoever_describes_it_is_left_alone_after_three() {
    let sandbox = Sandbox::new();
    let points = "index.batch=kill;task.describing=kill";
    let run = index_of_one_file(&sandbox, points);
    assert_eq!(run.status.code(), Some(8), "{}", stderr(&run));
    let task = sandbox.json(&["--name", "f", "tasks"]).remove(0);
    assert_eq!(
        (&task["kind"], &task["error"]),
        (&"index.batch".into(), &"".into())
    );
    assert!(
        sandbox
            .ok(&["--name", "f", "tasks"])
            .contains("its process died each time")
    );
    let died = sandbox.status("f")["recoveries"].as_u64().expect("a count");
    assert_eq!(died, 4 + 3);
    sandbox.ok(&["--name", "f", "verify", "--deep"]);
}

/// A worker of whose processes the first three die as `points` says. Their successors do not, so no task can meet the four deaths
/// that would make the run give it up. The daemon and the command would pass the points of recovery too; they are not told.
fn three_mortal_workers(sandbox: &Sandbox, points: &str) -> PathBuf {
    let worker = sandbox.path().join("mortal-worker");
    let text = format!(
        "#!/bin/sh\nfor n in 1 2 3; do\n\
         mkdir '{}'/mortal-$n 2>/dev/null && export COHEAP_FAILPOINTS='{points}' && break\n\
         done\nexec '{}' \"$@\"\n",
        sandbox.path().display(),
        program("coheap-worker").display()
    );
    fs::write(&worker, text).expect("writes");
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("chmod");
    worker
}

/// The answer of a small `trees` run in a heap with these checks, whose first workers die as `points` says; and how many died.
fn trees(points: &str, debug: &str) -> (serde_json::Value, u64) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(
        "coheap",
        &["--json", "run", "trees", "--depth", "12", "-n", "3"],
    );
    command.env("COHEAP_WORKER_BIN", three_mortal_workers(&sandbox, points));
    command.env("COHEAPDEBUG", debug);
    let output = command.output().expect("coheap runs");
    assert!(
        output.status.success(),
        "{points}: {}: {}",
        output.status,
        stderr(&output)
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let deaths = json["deaths"].as_u64().expect("a count");
    (json["checks"].clone(), deaths)
}

#[test]
fn workers_that_die_at_a_named_point_change_no_result() {
    let (undisturbed, none) = trees("", "");
    assert!(none == 0 && undisturbed.is_string());
    for point in ["commit.committed", "commit.effect", "task.running"] {
        let (result, deaths) = trees(&format!("{point}=6*off->kill"), "");
        assert!(deaths > 0, "nobody died at {point}");
        assert_eq!(result, undisturbed, "{point}");
    }
}

#[test]
fn a_worker_that_dies_while_it_forgets_what_failed_leaves_it_forgotten() {
    let sandbox = Sandbox::new();
    let args = ["--name", "f", "start", "-w", "-n", "3", "--max", "16MiB"];
    let mut start = sandbox.command("coheap", &args);
    let mortal = three_mortal_workers(&sandbox, "task.forgotten=kill");
    start.env("COHEAP_WORKER_BIN", mortal);
    assert!(start.status().expect("coheap runs").success());
    let trees =
        |depth: &str| sandbox.coheap(&["-q", "--name", "f", "run", "trees", "--depth", depth]);
    let full = trees("20");
    assert_eq!(full.status.code(), Some(6), "{}", stderr(&full));
    // The run is over; what it had in hand may be failing still.
    eventually("its last task has ended", || {
        let status = sandbox.status("f");
        ["tasks_runnable", "tasks_running", "tasks_waiting"]
            .iter()
            .all(|n| status[n] == 0)
    });
    let failed = |s: &Sandbox| s.status("f")["tasks_failed"].as_u64().expect("a count");
    let before = failed(&sandbox);
    assert!(before > 0, "what met the full heap is not shown");
    // Who forgets one dies in it, and the next one goes on; at last there is nothing to forget, and room again.
    let small = trees("12");
    assert!(small.status.success(), "{}", stderr(&small));
    let died = sandbox.status("f")["recoveries"].as_u64().expect("a count");
    assert!(
        (1..=before.min(3)).contains(&died),
        "{died} died, {before} had failed"
    );
    // A task that stood in a P's "in progress" was left for the next time. At rest none does.
    let again = trees("12");
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(failed(&sandbox), 0, "of {before}");
    sandbox.ok(&["--name", "f", "verify", "--deep"]);
}

/// Who fails a task notes the run first. A death in between leaves the task as it was, but for a word that only failed ones are asked for.
#[test]
fn a_worker_that_dies_while_it_fails_a_task_leaves_it_to_the_next_who_names_the_run() {
    let sandbox = Sandbox::new();
    let args = ["--name", "f", "start", "-w", "-n", "3", "--max", "16MiB"];
    let mut start = sandbox.command("coheap", &args);
    let mortal = three_mortal_workers(&sandbox, "task.failing=kill");
    start.env("COHEAP_WORKER_BIN", mortal);
    assert!(start.status().expect("coheap runs").success());
    let full = sandbox.coheap(&["-q", "--name", "f", "run", "trees", "--depth", "20"]);
    assert_eq!(full.status.code(), Some(6), "{}", stderr(&full));
    let died = sandbox.status("f")["recoveries"].as_u64().expect("a count");
    assert!((1..=3).contains(&died), "{died} died at task.failing");
    let tasks = sandbox.json(&["--name", "f", "tasks"]);
    let failed: Vec<_> = tasks.iter().filter(|t| t["state"] == "failed").collect();
    assert!(!failed.is_empty(), "{tasks:?}");
    assert_ne!(failed[0]["run"], 0);
    for task in &failed {
        assert_eq!(task["run"], failed[0]["run"], "{task}");
    }
    sandbox.ok(&["--name", "f", "verify", "--deep"]);
}

/// The sweeper has filled what it frees, and dies before the span says so: whoever sweeps it again meets its own pattern, and a check
/// of free memory that is not repeatable would take that for a write of somebody else.
#[test]
fn a_sweeper_that_dies_after_it_filled_freed_memory_changes_nothing() {
    let (undisturbed, _) = trees("", "clobberfree=1");
    let (result, deaths) = trees(
        "sweep.clobbered=60*off->kill",
        "clobberfree=1,gccheckmark=1",
    );
    assert!(deaths > 0, "nobody died at sweep.clobbered");
    assert_eq!(result, undisturbed);
    let (_, deaths) = trees("sweep.clobbered=60*off->kill", "");
    assert_eq!(deaths, 0, "the point is passed without the check");
}

/// The negative control of the hunt with messages: a daemon that a bad frame kills.
#[test]
fn the_hunt_with_messages_sees_a_daemon_that_a_bad_frame_kills() {
    let fuzz = std::process::Command::new(env!("CARGO_BIN_EXE_fuzz"))
        .args(["--what", "frames", "--seed", "1", "--minutes", "1"])
        .env("COHEAP_FAILPOINTS", "daemon.bad_frame=kill")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&fuzz.stdout).into_owned();
    assert_eq!(fuzz.status.code(), Some(5), "{text}");
    assert!(text.contains("the daemon is gone after a seed"), "{text}");
}

/// A weak reference under this root to a page of its own.
fn weak(p: &mut P, name: &str, number: u64) -> Handle<Page> {
    p.enter(|cx| {
        let cx = &*cx;
        let page = cx.alloc(Page { number })?;
        let weak = cx.weak(page)?;
        cx.root::<Weak<Page>>(name)?.set(cx, Some(weak));
        cx.handle(page)
    })
    .expect("room for a page")
}

fn strong(p: &mut P, name: &str) -> Option<u64> {
    let number = |cx: &mut Cx<'_>| {
        let weak = cx.root::<Weak<Page>>(name).expect("a root").get(cx);
        weak.expect("set").get(cx).map(|page| page.number)
    };
    p.enter(number)
}

/// Lets a victim die at this point, and recovers it.
fn dies_at(segment: &Segment, points: &str, what: &str) {
    let fd = segment.fd().as_raw_fd();
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
    let victim = std::process::Command::new(env!("CARGO_BIN_EXE_weak-victim"))
        .args([&path, what])
        .env("COHEAP_FAILPOINTS", points)
        .status()
        .expect("a victim");
    assert_eq!(victim.signal(), Some(9), "{points}: {victim}");
}

fn whole_after_recovery(p: &mut P) {
    assert_eq!(recover::recover_dead(p.segment()).len(), 1);
    // The cycle that the death fell into, and one more.
    assert!(p.collect() && p.collect());
    gc::verify::verify_clean(p, true).expect("a clean heap");
}

/// The first weak reference that is looked at, and the second: one is to something alive, the other to nothing.
#[test]
fn a_marker_that_dies_at_a_weak_reference_leaves_it_to_be_looked_at_again() {
    for point in ["weak.judged", "weak.looked_at"] {
        for nth in ["kill", "1*off->kill"] {
            let segment = Segment::create(&Default::default()).expect("a small segment");
            let mut p = P::lease(segment.clone()).expect("a P");
            let kept = weak(&mut p, NAMES[0], 7);
            drop(weak(&mut p, NAMES[1], 8));
            assert!(p.collect());
            dies_at(&segment, &format!("{point}={nth}"), "scan");
            whole_after_recovery(&mut p);
            assert_eq!(strong(&mut p, NAMES[0]), Some(7), "{point} {nth}");
            assert_eq!(strong(&mut p, NAMES[1]), None, "{point} {nth}");
            drop(kept);
        }
    }
}

#[test]
fn who_ends_a_round_with_a_weak_reference_and_dies_keeps_nothing_alive() {
    let segment = Segment::create(&Default::default()).expect("a small segment");
    let mut p = P::lease(segment.clone()).expect("a P");
    let held = weak(&mut p, NAMES[0], 7);
    assert!(p.collect());
    drop(held);
    p.bench().drive(phase::MARK);
    p.bench().enter();
    dies_at(&segment, "weak.round_ended=kill", "round");
    // It is marking again that the death has left, not the round.
    assert_eq!(p.bench().phase(), phase::MARK);
    p.bench().leave();
    whole_after_recovery(&mut p);
    assert_eq!(strong(&mut p, NAMES[0]), None);
}
