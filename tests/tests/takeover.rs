//! A heap whose daemon was killed, on every kind of backing: the next daemon takes over that heap, and touches no other.

use coheap_tests::sandbox::{Sandbox, eventually, exists, program, signal, stderr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    process::Stdio,
};

/// A kind of backing, and the name it has in the file system.
fn backing(sandbox: &Sandbox, kind: &str) -> (String, Option<PathBuf>) {
    let unique = sandbox.path().file_name().expect("a name");
    let unique = unique.to_string_lossy();
    match kind {
        "shm" => (
            format!("shm:{unique}"),
            Some(Path::new("/dev/shm").join(&*unique)),
        ),
        "file" => {
            let path = sandbox.path().join("segment");
            (format!("file:{}", path.display()), Some(path))
        }
        _ => ("memfd".into(), None),
    }
}

fn start(sandbox: &Sandbox, backing: &str) {
    sandbox.ok(&[
        "--name",
        "t",
        "start",
        "-w",
        "-n",
        "3",
        "--backing",
        backing,
    ]);
    sandbox.ok(&["--name", "t", "run", "trees", "--depth", "12"]);
}

/// Kills the daemon; its number.
fn kill_daemon(sandbox: &Sandbox) -> u32 {
    let pid = sandbox.status("t")["daemon_pid"].as_u64().expect("a pid") as u32;
    signal(pid, "KILL");
    eventually("the daemon is gone", || {
        !exists(pid) && sandbox.coheap(&["--name", "t", "status"]).status.code() == Some(3)
    });
    pid
}

fn inode(path: &Path) -> (u64, u64) {
    let m = fs::metadata(path).expect("is there");
    (m.dev(), m.ino())
}

#[test]
fn the_heap_of_a_killed_daemon_goes_on_whatever_its_memory_comes_from() {
    for kind in ["memfd", "shm", "file"] {
        let sandbox = Sandbox::new();
        let (backing, path) = backing(&sandbox, kind);
        start(&sandbox, &backing);
        let (before, workers) = (sandbox.status("t"), sandbox.worker_pids("t"));
        let made = path.as_deref().map(inode);
        kill_daemon(&sandbox);
        // Not told where the heap is: what was left behind says so.
        sandbox.ok(&["--name", "t", "start", "-w"]);
        let after = sandbox.status("t");
        assert_eq!(after["adopted"], true, "{kind}");
        for same in ["incarnation", "backing", "tasks_failed"] {
            assert_eq!(after[same], before[same], "{kind}: {same}");
        }
        assert!(after["heap"]["gc_cycles"].as_u64() >= before["heap"]["gc_cycles"].as_u64());
        assert_eq!(sandbox.worker_pids("t"), workers, "{kind}");
        assert_eq!(path.as_deref().map(inode), made, "{kind}");
        assert!(
            sandbox.ok(&["--name", "t", "roots"]).contains("runs"),
            "{kind}"
        );
        sandbox.ok(&["--name", "t", "run", "gcbench", "--smaller", "8"]);
        sandbox.ok(&["--name", "t", "verify", "--deep"]);
        sandbox.ok(&["--name", "t", "stop"]);
        assert!(!workers.iter().any(|&pid| exists(pid)), "{kind}");
        assert!(!sandbox.path().join("coheap").exists(), "{kind}");
        assert!(
            !path.is_some_and(|p| p.exists()),
            "{kind}: the heir left its name"
        );
    }
}

#[test]
fn beside_a_daemon_that_lives_none_starts_and_nobody_makes_its_heap_anew() {
    for kind in ["memfd", "shm", "file"] {
        let sandbox = Sandbox::new();
        let (backing, path) = backing(&sandbox, kind);
        start(&sandbox, &backing);
        let before = sandbox.status("t");
        let made = path.as_deref().map(inode);
        let second = sandbox.coheap(&["--name", "t", "start", "--backing", &backing]);
        assert_eq!(
            second.status.code(),
            Some(75),
            "{kind}: {}",
            stderr(&second)
        );
        let foreground = sandbox
            .command("coheapd", &["--name", "t", "--foreground"])
            .output();
        assert_eq!(foreground.expect("runs").status.code(), Some(75), "{kind}");
        if path.is_some() {
            // Another heap that is told to be where this one is.
            let other = sandbox.coheap(&["--name", "u", "start", "--backing", &backing]);
            assert_eq!(other.status.code(), Some(1), "{kind}: {}", stderr(&other));
            assert!(stderr(&other).contains("error[E013]"), "{}", stderr(&other));
        }
        assert_eq!(path.as_deref().map(inode), made, "{kind}");
        let after = sandbox.status("t");
        for same in ["incarnation", "daemon_pid", "uptime_ms"].iter().take(2) {
            assert_eq!(after[same], before[same], "{kind}");
        }
        sandbox.ok(&["--name", "t", "verify", "--deep"]);
        sandbox.ok(&["--name", "t", "stop"]);
    }
}

#[test]
fn a_stranger_that_has_taken_the_name_meanwhile_is_neither_opened_nor_removed() {
    for kind in ["shm", "file"] {
        let sandbox = Sandbox::new();
        let (backing, path) = backing(&sandbox, kind);
        let path = path.expect("a named one");
        start(&sandbox, &backing);
        let before = sandbox.status("t");
        kill_daemon(&sandbox);
        fs::remove_file(&path).expect("removes");
        fs::write(&path, "precious").expect("writes");
        // The workers hold the heap; its name says nothing.
        sandbox.ok(&["--name", "t", "start", "-w"]);
        assert_eq!(
            sandbox.status("t")["incarnation"],
            before["incarnation"],
            "{kind}"
        );
        sandbox.ok(&["--name", "t", "verify", "--deep"]);
        sandbox.ok(&["--name", "t", "stop"]);
        assert_eq!(fs::read(&path).expect("still there"), b"precious", "{kind}");
        fs::remove_file(&path).expect("removes");
    }
}

#[test]
fn a_death_that_no_parent_saw_is_told_once() {
    let sandbox = Sandbox::new();
    start(&sandbox, "memfd");
    kill_daemon(&sandbox);
    sandbox.ok(&["--name", "t", "start", "-w"]);
    let workers = sandbox.worker_pids("t");
    signal(workers[1], "KILL");
    eventually("another worker takes the place", || {
        let now = sandbox.worker_pids("t");
        now.len() == 3 && !now.contains(&workers[1])
    });
    let dead = sandbox.json(&["--name", "t", "dead"]);
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!(
        (&dead[0]["pid"], &dead[0]["p"]),
        (&workers[1].into(), &1.into())
    );
    assert!(dead[0]["repair_us"].is_u64(), "{dead:#?}");
}

/// The next word to a supervisor that starts so, and the descriptor that came with it.
fn hear(socket: &UnixDatagram, begin: &str) -> Option<OwnedFd> {
    loop {
        let mut bytes = [0; 500];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut into,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .expect("a word");
        let fd = message.cmsgs().expect("whole").find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let n = message.bytes;
        // A second descriptor of the same file, by its name, so that nothing here owns a bare number.
        let fd = fd.map(|fd| {
            let path = format!("/proc/self/fd/{fd}");
            let again = fs::OpenOptions::new().read(true).write(true).open(path);
            nix::unistd::close(fd).expect("closes");
            OwnedFd::from(again.expect("opens"))
        });
        if bytes[..n].starts_with(begin.as_bytes()) {
            return fd;
        }
    }
}

#[test]
fn what_systemd_keeps_goes_on_although_the_daemon_and_all_workers_are_dead() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    let patience = Some(std::time::Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("sets");
    let mut daemon = sandbox.command("coheapd", &["--name", "t", "--foreground", "-n", "2"]);
    daemon.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    let daemon = sandbox.spawn(daemon);
    let kept = hear(&socket, "FDSTORE=1").expect("a descriptor");
    hear(&socket, "READY=1");
    eventually("both work", || sandbox.worker_pids("t").len() == 2);
    sandbox.ok(&["--name", "t", "run", "trees", "--depth", "10"]);
    let before = sandbox.status("t");
    let mut pids = vec![daemon];
    pids.extend(sandbox.worker_pids("t"));
    pids.iter().for_each(|&pid| signal(pid, "KILL"));
    sandbox.wait(daemon);
    eventually("all are dead", || !pids.iter().any(|&pid| exists(pid)));

    // Whoever cleans up after the dead knows that this heap is not among them.
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(sandbox.heap_dir("t").join("state.toml").exists());

    // As systemd does it: the descriptor at 3, after one that is nobody's business here.
    let coheapd = program("coheapd");
    let script = format!(
        "exec 3</dev/null 4<>/proc/{}/fd/{}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=other:coheap-heap exec {} --name t --foreground",
        std::process::id(),
        kept.as_raw_fd(),
        coheapd.display()
    );
    let mut heir = std::process::Command::new("sh");
    heir.args(["-c", &script])
        .env("XDG_RUNTIME_DIR", sandbox.path())
        .env("XDG_CONFIG_HOME", sandbox.path())
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null());
    let heir = sandbox.spawn(heir);
    hear(&socket, "READY=1");
    drop(kept);
    eventually("new workers came", || sandbox.worker_pids("t").len() == 2);
    let after = sandbox.status("t");
    assert_eq!(after["adopted"], true);
    assert_eq!(after["incarnation"], before["incarnation"]);
    assert!(sandbox.ok(&["--name", "t", "roots"]).contains("runs"));
    eventually("the dead are recovered", || {
        sandbox.status("t")["recoveries"] == 2
    });
    sandbox.ok(&["--name", "t", "run", "trees", "--depth", "10"]);
    sandbox.ok(&["--name", "t", "verify", "--deep"]);
    sandbox.ok(&["--name", "t", "stop"]);
    hear(&socket, "FDSTOREREMOVE=1");
    assert!(sandbox.wait(heir).success());
    assert!(!sandbox.path().join("coheap").exists());
}
