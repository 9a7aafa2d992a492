//! The commands that show a heap, on one that has worked and lost a worker.

use coheap_tests::sandbox::{Sandbox, eventually, stderr};
use std::fs;

fn worked() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "c", "start", "-w", "-n", "3"]);
    sandbox.ok(&["--name", "c", "run", "trees", "--depth", "15"]);
    sandbox
}

#[test]
fn tables_show_what_the_heap_is_made_of() {
    let sandbox = worked();
    let show = |args: &[&str]| {
        let mut all = vec!["--name", "c"];
        all.extend(args);
        sandbox.ok(&all)
    };
    assert!(show(&["roots"]).contains("runs"));
    assert!(show(&["histo"]).lines().count() > 2);
    assert!(show(&["stat", "--classes"]).lines().count() > 2);
    assert_eq!(show(&["slots"]).lines().count(), 4);
    assert_eq!(
        show(&["stat", "--interval", "10ms", "--count", "2"])
            .lines()
            .count(),
        3
    );
    assert!(show(&["top", "--interval", "10ms", "--count", "1"]).contains("cycles, phase"));
    assert!(show(&["logs"]).contains("ev=daemon.ready"));
    let over = sandbox.json(&["--name", "c", "events", "--kind", "run.over"]);
    assert_eq!((over.len(), &over[0]["ok"]), (1, &"true".into()));
    let stat = sandbox.json(&["--name", "c", "stat", "--interval", "10ms", "--count", "1"]);
    assert!(stat[0]["gc_cycles"].as_u64() > Some(0), "{stat:?}");
}

/// What the roots hold adds up to what a verification reaches, and what one holds alone is gone after it was dropped.
#[test]
fn roots_tell_what_they_hold_and_can_be_dropped() {
    let sandbox = worked();
    let reached = || {
        sandbox.ok(&["--name", "c", "gc", "--wait"]);
        let row = sandbox.json(&["--name", "c", "verify"]).remove(0);
        ["objects", "bytes"].map(|key| row[key].as_u64().expect("a number"))
    };
    let held = || {
        let rows = sandbox.json(&["--name", "c", "roots", "--sizes"]);
        let of = |row: &serde_json::Value| {
            ["objects", "bytes"].map(|key| row[key].as_u64().expect("a number"))
        };
        let runs = rows.iter().find(|r| r["root"] == "runs").map(of);
        let all = rows
            .iter()
            .map(of)
            .reduce(|a, b| [a[0] + b[0], a[1] + b[1]])
            .expect("rows");
        (all, runs)
    };
    let before = reached();
    let (all, runs) = held();
    assert_eq!(all, before);
    let runs = runs.expect("a row of the root");
    assert!(runs[0] > 0, "{runs:?}");
    sandbox.ok(&["--name", "c", "roots", "drop", "runs"]);
    let after = reached();
    assert_eq!(after, [before[0] - runs[0], before[1] - runs[1]]);
    assert_eq!(held(), (after, None));
    let again = sandbox.coheap(&["--name", "c", "roots", "drop", "runs"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("error[E028]"), "{}", stderr(&again));
    assert!(
        sandbox
            .ok(&["--name", "c", "verify", "--deep"])
            .contains("clean")
    );
}

#[test]
fn a_deep_verification_accounts_for_every_byte() {
    let sandbox = worked();
    let verified = || sandbox.json(&["--name", "c", "verify", "--deep"]).remove(0);
    let number = |row: &serde_json::Value, key: &str| row[key].as_u64().expect("a number");
    let before = verified();
    for _ in 0..2 {
        sandbox.ok(&["--name", "c", "gc", "--wait"]);
    }
    let after = verified();
    for row in [&before, &after] {
        let page = 8192;
        let sum = number(row, "bytes")
            + number(row, "floating_bytes")
            + number(row, "free_slot_bytes")
            + (number(row, "free_pages") + 1) * page;
        assert_eq!(sum, number(row, "pages") * page, "{row}");
    }
    // What nobody refers to floats until collections have found it, and what P's held is given back.
    assert!(number(&before, "floating_bytes") > 0, "{before}");
    assert_eq!(number(&after, "floating_bytes"), 0, "{after}");
}

#[test]
fn metrics_are_in_the_text_format() {
    let sandbox = worked();
    let text = sandbox.ok(&["--name", "c", "stat", "--prometheus"]);
    let mut known = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            known.push(rest.split(' ').next().expect("a name").to_owned());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().expect("a number");
            let name = series.split('{').next().expect("a name");
            assert!(known.iter().any(|k| name.starts_with(k.as_str())), "{line}");
        }
    }
    for name in [
        "coheap_heap_bytes",
        "coheap_gc_cycles_total",
        "coheap_gc_pause_seconds",
        "coheap_steals_total",
    ] {
        assert!(known.iter().any(|k| k == name), "{name}");
    }
}

#[test]
fn a_death_is_told_with_its_times() {
    let sandbox = worked();
    sandbox.ok(&["--name", "c", "kill", "1"]);
    let dead = || sandbox.json(&["--name", "c", "dead"]);
    eventually("it is told", || {
        dead()
            .first()
            .is_some_and(|d| d["cause"] == "signal 9 (SIGKILL)")
    });
    eventually("somebody looked at the survivors", || {
        dead()[0]["survivor_gap_us"].is_u64()
    });
    let dead = dead();
    assert_eq!((dead.len(), &dead[0]["p"]), (1, &1.into()));
    for time in ["detect_us", "repair_us"] {
        let us = dead[0][time].as_u64().expect("a number");
        assert!(us > 0 && us < 1_000_000, "{time}: {us}");
    }
    assert!(dead[0]["recovered_by"].as_u64() > Some(0));
    // Who waited, if somebody did: one of the living, so not the dead.
    let (gap, waiter) = (&dead[0]["survivor_gap_us"], &dead[0]["survivor_p"]);
    assert_eq!(gap == 0, waiter.is_null(), "{}", dead[0]);
    assert_ne!(waiter, &dead[0]["p"]);
}

#[test]
fn a_trace_opens_in_perfetto() {
    let sandbox = worked();
    let file = sandbox.path().join("trace.json");
    let out = file.to_str().expect("UTF-8");
    sandbox.ok(&[
        "--name", "c", "trace", "last", "1m", "-o", out, "--format", "chrome",
    ]);
    let trace: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("reads")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let is = |ph: &str| events.iter().filter(|e| e["ph"] == ph).count();
    assert!(is("X") > 10 && is("M") >= 6, "{} slices", is("X"));
    assert_eq!(is("s"), is("f"));
    for e in events.iter().filter(|e| e["ph"] != "M") {
        assert!(
            e["ts"].is_number() && e["pid"].is_number() && e["tid"].is_number(),
            "{e}"
        );
    }
}

#[test]
fn a_changed_configuration_is_taken_over_and_a_wrong_one_is_not() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path().join("coheap");
    let file = sandbox.path().join("c.toml");
    let write = |text: &str| fs::write(&file, text).expect("writes");
    write("[heap]\ngc_percent = 100\n");
    let mut start = sandbox.command("coheap", &["--name", "c", "start"]);
    start.env("COHEAP_CONFIG", &file);
    assert!(start.status().expect("starts").success());
    assert!(dir.exists());
    write(
        "[heap]\ngc_percent = 50\nmax = \"1GiB\"\n[workers]\ncount = 2\n[tasks]\nredeliver_max = 9\n",
    );
    let said = sandbox.ok(&["--name", "c", "reload"]);
    assert!(said.contains("heap.gc_percent: 100 -> 50\n"), "{said}");
    assert!(
        said.contains("heap.max") && said.contains("after a restart"),
        "{said}"
    );
    let status = sandbox.status("c");
    assert_eq!(
        (&status["heap"]["gc_percent"], &status["workers_wanted"]),
        (&50.into(), &2.into())
    );
    assert_eq!(sandbox.ok(&["--name", "c", "reload"]).lines().count(), 1);
    write("[heap]\nmaximum = 1\n");
    let output = sandbox.coheap(&["--name", "c", "reload"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("maximum"), "{}", stderr(&output));
    assert_eq!(sandbox.status("c")["heap"]["gc_percent"], 50);
}

#[test]
fn trace_lines_in_gos_shape_are_seen_under_run() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.command("coheap", &["run", "trees", "--depth", "15", "-n", "2"]);
    let output = run
        .env("COHEAPDEBUG", "gctrace=1,schedtrace=20")
        .output()
        .expect("runs");
    assert!(output.status.success());
    let text = stderr(&output);
    assert!(text.lines().any(|l| l.starts_with("gc 1 @")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("SCHED ")), "{text}");
}

#[test]
fn systemd_is_told_ready_alive_and_stopping() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("binds");
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("sets");
    let hear = || {
        loop {
            let mut bytes = [0; 500];
            let n = socket.recv(&mut bytes).expect("a word");
            let word = String::from_utf8_lossy(&bytes[..n]).into_owned();
            if !word.starts_with("FDSTORE") {
                return word;
            }
        }
    };
    let mut daemon = sandbox.command("coheapd", &["--name", "s", "--foreground"]);
    daemon
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .stderr(std::process::Stdio::null());
    let pid = sandbox.spawn(daemon);
    let ready = hear();
    assert!(
        ready.starts_with("READY=1\n") && ready.contains(&format!("MAINPID={pid}")),
        "{ready}"
    );
    assert_eq!(hear(), "WATCHDOG=1");
    assert_eq!(hear(), "WATCHDOG=1");
    sandbox.ok(&["--name", "s", "stop"]);
    let mut last = hear();
    while last == "WATCHDOG=1" {
        last = hear();
    }
    assert!(last.starts_with("STOPPING=1"), "{last}");
    assert!(sandbox.wait(pid).success());
}
