//! The daemon as a process: who gets in, what a kill leaves, what a stop leaves.

use coheap::{
    control::{Channel, Received, Socket, call},
    segment::Segment,
};
use coheap_protocol::{Answer, Hello, Reply, Request, Role, decode, encode};
use coheap_tests::sandbox::{Sandbox, eventually, exists, signal, stderr};
use std::{fs, os::unix::fs::PermissionsExt, os::unix::process::CommandExt, time::Duration};

const SOON: Duration = Duration::from_secs(5);

fn hello(role: Role) -> Hello {
    Hello::new(
        role,
        Segment::layout_version(),
        Segment::layout_hash(),
        "test",
    )
}

#[test]
fn without_a_daemon_status_ends_with_3_and_one_line() {
    let sandbox = Sandbox::new();
    let output = sandbox.coheap(&["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("coheap: error[E030]: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_second_daemon_of_a_name_is_refused_and_another_name_is_not() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "one", "start"]);
    let pid = sandbox.status("one")["daemon_pid"].to_string();
    let output = sandbox.coheap(&["--name", "one", "start"]);
    assert_eq!(output.status.code(), Some(75));
    assert!(stderr(&output).contains(&pid), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    sandbox.ok(&["--name", "two", "start"]);
    assert_eq!(sandbox.json(&["ls"]).len(), 2);
}

#[test]
fn nonsense_in_a_setting_ends_with_2_and_names_the_setting() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("coheapd", &["-t"]);
    let output = command
        .env("COHEAP_GC_PERCENT", "many")
        .output()
        .expect("coheapd runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("COHEAP_GC_PERCENT"),
        "{}",
        stderr(&output)
    );
}

fn count(channel: &Channel) -> u64 {
    channel.send(&Request::Status).expect("asks");
    let Reply::Status(status) = channel.recv(Some(SOON)).expect("is answered") else {
        panic!("no status")
    };
    assert_eq!(
        channel.recv::<Reply>(Some(SOON)).expect("the end"),
        Reply::End(1)
    );
    status.bad_frames + status.refused
}

#[test]
fn garbage_ends_that_connection_is_counted_and_harms_nobody_else() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "g", "start"]);
    let witness = call(&sandbox.socket("g"), &hello(Role::Tool), None, SOON)
        .expect("welcome")
        .channel;
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut sent = 0;
    for round in 0..300 {
        let before = count(&witness);
        let socket = Socket::connect(&sandbox.socket("g"), SOON).expect("connects");
        let mut bytes: Vec<u8> = (0..1 + noise() % 5000).map(|_| noise() as u8).collect();
        if round % 3 == 0 {
            // A good hello first: the garbage reaches the decoder of requests.
            socket
                .send(&encode(&hello(Role::Tool)).expect("encodes"), None)
                .expect("sends");
            assert!(matches!(socket.recv(Some(SOON)), Ok(Received::Frame(..))));
            bytes[0] |= 0x80;
        } else if round % 3 == 1 {
            let good = encode(&hello(Role::Worker)).expect("encodes");
            let at = (noise() as usize) % bytes.len().min(good.len());
            bytes[..at].copy_from_slice(&good[..at]);
            // No text has this byte, no tag has this value: the result is never a hello by accident.
            bytes.truncate(at);
            bytes.push(0xff);
        }
        if socket.send(&bytes, None).is_ok() {
            sent += 1;
        }
        assert!(
            matches!(
                socket.recv(Some(SOON)),
                Ok(Received::Closed | Received::Frame(..))
            ),
            "round {round}"
        );
        assert!(
            count(&witness) > before,
            "round {round} {} bytes {:?}",
            bytes.len(),
            &bytes[..bytes.len().min(100)]
        );
    }
    witness
        .send(&Request::Status)
        .expect("the witness can still ask");
    let Reply::Status(status) = witness.recv(Some(SOON)).expect("and is answered") else {
        panic!("no status")
    };
    assert!(
        status.bad_frames + status.refused >= sent,
        "{sent} sent: {status:?}"
    );
    assert!(status.bad_frames > 200, "{status:?}");
}

#[test]
fn a_worker_of_another_layout_hears_the_first_difference_and_gets_no_descriptor() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "l", "start"]);
    let mut other = hello(Role::Worker);
    other.layout_hash ^= 1;
    let socket = Socket::connect(&sandbox.socket("l"), SOON).expect("connects");
    socket
        .send(&encode(&other).expect("encodes"), None)
        .expect("sends");
    let Received::Frame(bytes, fd) = socket.recv(Some(SOON)).expect("an answer") else {
        panic!("no answer")
    };
    let Answer::Refused(refused) = decode(&bytes).expect("decodes") else {
        panic!("let in")
    };
    assert_eq!(refused.code, 7);
    assert!(refused.what.starts_with("layout_hash differs"), "{refused}");
    assert!(fd.is_none());
    assert_eq!(sandbox.status("l")["refused"], 1);
}

#[test]
fn a_silent_connection_and_a_tool_that_never_reads_hold_nobody_up() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "s", "start", "-w", "-n", "1"]);
    let _silent = Socket::connect(&sandbox.socket("s"), SOON).expect("connects");
    let deaf = call(&sandbox.socket("s"), &hello(Role::Tool), None, SOON)
        .expect("welcome")
        .channel;
    let mut asked = 0;
    while asked < 20_000 && deaf.send(&Request::Status).is_ok() {
        asked += 1;
    }
    sandbox.ok(&["--name", "s", "status"]);
}

#[test]
fn a_killed_worker_is_replaced_and_remembered() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "k", "start", "-w", "-n", "3"]);
    let before = sandbox.worker_pids("k");
    assert_eq!(before.len(), 3);
    signal(before[1], "KILL");
    eventually("another worker takes the place", || {
        let now = sandbox.worker_pids("k");
        now.len() == 3 && !now.contains(&before[1])
    });
    let dead = sandbox.json(&["--name", "k", "dead"]);
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["pid"], before[1]);
    assert_eq!(dead[0]["cause"], "signal 9 (SIGKILL)");
}

#[test]
fn a_daemon_that_was_killed_is_succeeded_and_the_workers_live_on() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "a", "start", "-w", "-n", "3"]);
    let (workers, first) = (sandbox.worker_pids("a"), sandbox.status("a"));
    signal(first["daemon_pid"].as_u64().expect("a pid") as u32, "KILL");
    eventually("the lock is free", || {
        sandbox.coheap(&["--name", "a", "status"]).status.code() == Some(3)
    });
    sandbox.ok(&["--name", "a", "start", "-w"]);
    let second = sandbox.status("a");
    assert_eq!(second["adopted"], true);
    assert_eq!(second["incarnation"], first["incarnation"]);
    assert_eq!(sandbox.worker_pids("a"), workers);
    sandbox.ok(&["--name", "a", "stop"]);
    assert!(!workers.iter().any(|&pid| exists(pid)));
}

#[test]
fn a_heap_is_taken_over_although_all_of_its_workers_are_stopped() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "b", "start", "-w", "-n", "2"]);
    let first = sandbox.status("b");
    // One by a person, who means it; one by somebody who is gone.
    sandbox.ok(&["--name", "b", "stop", "0"]);
    let workers = sandbox.worker_pids("b");
    workers.iter().for_each(|&pid| signal(pid, "STOP"));
    signal(first["daemon_pid"].as_u64().expect("a pid") as u32, "KILL");
    eventually("the lock is free", || {
        sandbox.coheap(&["--name", "b", "status"]).status.code() == Some(3)
    });
    sandbox.ok(&["--name", "b", "start"]);
    assert_eq!(sandbox.status("b")["incarnation"], first["incarnation"]);
    eventually("the other one came back", || {
        sandbox.status("b")["workers_attached"] == 1
    });
    sandbox.ok(&["--name", "b", "stop"]);
    assert!(!workers.iter().any(|&pid| exists(pid)));
}

#[test]
fn a_stop_of_any_mode_leaves_neither_process_nor_file() {
    for mode in ["smart", "fast", "immediate"] {
        let sandbox = Sandbox::new();
        sandbox.ok(&["--name", "e", "start", "-w", "-n", "3"]);
        let mut pids = sandbox.worker_pids("e");
        signal(pids[0], "STOP");
        pids.push(sandbox.status("e")["daemon_pid"].as_u64().expect("a pid") as u32);
        sandbox.ok(&["--name", "e", "stop", "--mode", mode]);
        assert!(!pids.iter().any(|&pid| exists(pid)), "{mode}");
        assert!(!sandbox.path().join("coheap").exists(), "{mode}");
    }
}

#[test]
fn a_command_that_was_killed_takes_its_daemon_and_workers_along() {
    let mut sandbox = Sandbox::new();
    let command = sandbox.command(
        "coheap",
        &["--name", "u", "-q", "up", "-n", "2", "--", "sleep", "1000"],
    );
    let up = sandbox.spawn(command);
    eventually("two workers run", || {
        let rows = sandbox.coheap(&["--name", "u", "--json", "ps"]);
        String::from_utf8_lossy(&rows.stdout).lines().count() == 2
    });
    let rows = sandbox.json(&["--name", "u", "ps"]);
    let pids: Vec<u32> = rows
        .iter()
        .map(|row| row["pid"].as_u64().expect("a pid") as u32)
        .collect();
    signal(up, "KILL");
    sandbox.wait(up);
    eventually("everything is gone", || {
        !pids.iter().any(|&pid| exists(pid)) && !sandbox.path().join("coheap").exists()
    });
}

#[test]
fn ctrl_c_ends_up_with_130_and_nothing_left() {
    let mut sandbox = Sandbox::new();
    let command = sandbox.command(
        "coheap",
        &["--name", "c", "-q", "up", "-n", "2", "--", "sleep", "1000"],
    );
    let up = sandbox.spawn(command);
    eventually("the daemon runs", || {
        sandbox.coheap(&["--name", "c", "status"]).status.success()
    });
    signal(up, "INT");
    assert_eq!(sandbox.wait(up).code(), Some(130));
    assert!(!sandbox.path().join("coheap").exists());
}

/// Runs as another user, started by the test below; alone it has nothing to do.
#[test]
fn probe() {
    let Some(path) = std::env::var_os("COHEAP_TEST_PROBE") else {
        return;
    };
    let socket = Socket::connect(path.as_ref(), SOON).expect("connects");
    let _ = socket.send(&encode(&hello(Role::Worker)).expect("encodes"), None);
    let Received::Frame(bytes, fd) = socket.recv(Some(SOON)).expect("an answer") else {
        panic!("no answer")
    };
    assert!(fd.is_none());
    let Answer::Refused(refused) = decode(&bytes).expect("decodes") else {
        panic!("let in")
    };
    assert_eq!(refused.code, 4, "{refused}");
    // Our side of the check: the client does not talk to another user's daemon either.
    let error =
        call(path.as_ref(), &hello(Role::Worker), None, SOON).expect_err("another user's daemon");
    assert_eq!(error.exit_code(), 4, "{error}");
}

#[test]
fn another_user_is_refused_even_where_the_file_modes_would_let_him_in() {
    if !fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        return; // only root can become somebody else
    }
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "o", "start"]);
    let open = |path: &std::path::Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod")
    };
    for path in [
        sandbox.path(),
        &sandbox.path().join("coheap"),
        &sandbox.heap_dir("o"),
        &sandbox.socket("o"),
    ] {
        open(path);
    }
    // A copy where the other user can read it: the build may be in a private directory.
    let copy = sandbox.path().join("probe");
    fs::copy(std::env::current_exe().expect("me"), &copy).expect("copies");
    open(&copy);
    let mut probe = std::process::Command::new(&copy);
    probe
        .args(["--exact", "probe"])
        .env("COHEAP_TEST_PROBE", sandbox.socket("o"))
        .current_dir("/");
    let output = probe.uid(65534).gid(65534).output().expect("probe runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(&output)
    );
    for path in [
        sandbox.path(),
        &sandbox.path().join("coheap"),
        &sandbox.heap_dir("o"),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod");
    }
    assert!(sandbox.status("o")["refused"].as_u64() >= Some(1));
}

#[test]
fn a_channel_of_a_stopped_daemon_says_closed() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "q", "start"]);
    let channel: Channel = call(&sandbox.socket("q"), &hello(Role::Tool), None, SOON)
        .expect("welcome")
        .channel;
    sandbox.ok(&["--name", "q", "stop"]);
    assert!(matches!(
        channel.recv::<Reply>(Some(SOON)),
        Err(coheap::control::ControlError::Closed)
    ));
}
