//! What people see when something goes wrong: the exit code, and exactly one line that says what, and what to try.

use coheap::{
    control::{Received, Socket},
    segment::Segment,
};
use coheap_protocol::{Hello, Role, encode};
use coheap_tests::sandbox::{Sandbox, signal, stderr};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    os::unix::process::CommandExt,
    process::{Command, Output},
    time::Duration,
};

/// Checks the rule of every failing command; the line.
#[track_caller]
fn complaint(output: &Output, code: i32, error: &str) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "not one line: {text:?}");
    let head = format!("coheap: error[{error}]: ");
    assert!(text.starts_with(&head), "{text}");
    let (what, advice) = text[head.len()..].split_once("; try: ").unwrap_or_default();
    assert!(what.len() > 3 && advice.trim().len() > 3, "{text}");
    text
}

fn run(command: &mut Command) -> Output {
    command.output().expect("runs")
}

#[test]
fn a_command_line_that_makes_no_sense_is_one_line_and_2() {
    let sandbox = Sandbox::new();
    for (args, says) in [
        (&["--josn", "ps"][..], "unexpected argument '--josn' found"),
        (&[], "no command was given"),
        (&["run"], "no command was given"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["run", "index"], "<DIR>"),
        (&["start", "--max", "lots"], "`lots` is no size"),
        (&["run", "trees", "--depth", "99"], "99"),
        (&["kill", "everybody"], "everybody"),
        (&["--name", "../x", "status"], "`../x` is no name"),
    ] {
        let line = complaint_2(&sandbox.coheap(args));
        assert!(line.contains(says), "{args:?}: {line}");
    }
    for (args, says) in [
        (&["--bogus"][..], "unexpected argument '--bogus' found"),
        (&["-n", "many"], "invalid value 'many'"),
        (&["--backing", "tape"], "tape"),
        (&["--config", "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let line = complaint_2(&run(&mut sandbox.command("coheapd", args)));
        assert!(line.contains(says), "{args:?}: {line}");
    }
}

#[track_caller]
fn complaint_2(output: &Output) -> String {
    let text = stderr(output);
    let error = text.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
    complaint(output, 2, &error)
}

#[test]
fn help_and_version_are_no_errors() {
    let sandbox = Sandbox::new();
    for (program, flag) in [
        ("coheap", "--help"),
        ("coheap", "--version"),
        ("coheapd", "--help"),
        ("coheapd", "--version"),
    ] {
        let output = run(&mut sandbox.command(program, &[flag]));
        assert!(output.status.success() && stderr(&output).is_empty());
        assert!(!output.stdout.is_empty(), "{program} {flag}");
    }
}

#[test]
fn a_typing_error_is_answered_with_what_was_meant() {
    let line = complaint_2(&Sandbox::new().coheap(&["ps", "--josn"]));
    assert!(line.contains("try: '--json'"), "{line}");
}

#[test]
fn nobody_home_is_3_for_every_question() {
    let sandbox = Sandbox::new();
    for question in ["status", "ps", "tasks", "dead", "gc", "verify", "stop"] {
        let line = complaint(&sandbox.coheap(&["--name", "nix", question]), 3, "E030");
        assert!(
            line.contains("`nix`") && line.contains("coheap --name nix start"),
            "{line}"
        );
    }
}

#[test]
fn a_missing_directory_is_named() {
    let sandbox = Sandbox::new();
    let line = complaint(
        &sandbox.coheap(&["run", "index", "/no/such/place"]),
        2,
        "E026",
    );
    assert!(line.contains("/no/such/place"), "{line}");
    let file = sandbox.path().join("file");
    fs::write(&file, "x").expect("writes");
    complaint(
        &sandbox.coheap(&["run", "index", file.to_str().expect("UTF-8")]),
        2,
        "E026",
    );
}

#[test]
fn a_limit_that_is_too_small_is_6_with_need_and_limit() {
    let sandbox = Sandbox::new();
    let args = ["run", "trees", "--depth", "18", "-n", "2", "--max", "8MiB"];
    let line = complaint(&sandbox.coheap(&args), 6, "E060");
    assert!(
        line.contains("bytes wanted") && line.contains("of 8388608 bytes"),
        "{line}"
    );
    assert!(
        !sandbox.path().join("coheap").exists(),
        "something stayed behind"
    );
}

#[test]
fn a_second_daemon_of_a_name_is_75_and_says_which_process_has_it() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "one", "start"]);
    let pid = sandbox.status("one")["daemon_pid"].to_string();
    let line = complaint(&sandbox.coheap(&["--name", "one", "start"]), 75, "E092");
    assert!(line.contains(&pid), "{line}");
    let daemon = run(&mut sandbox.command("coheapd", &["--name", "one", "--foreground"]));
    complaint(&daemon, 75, "E092");
}

#[test]
fn a_worker_of_another_layout_is_refused_and_counted() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "l", "start"]);
    let mut hello = Hello::new(Role::Worker, Segment::layout_version() + 1, 0, "old-worker");
    hello.supervised = false;
    let error = coheap::control::call(&sandbox.socket("l"), &hello, None, Duration::from_secs(5))
        .expect_err("another layout");
    assert_eq!((error.exit_code(), error.code()), (7, "E070"));
    let (what, advice) = (error.to_string(), error.advice());
    assert!(
        what.starts_with("layout_version differs: old-worker has"),
        "{what}"
    );
    assert!(advice.contains("one build"), "{advice}");
    assert_eq!(sandbox.status("l")["refused"], 1);
}

#[test]
fn garbage_on_the_socket_closes_that_client_and_is_seen_in_status() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["--name", "g", "start"]);
    let patience = Duration::from_secs(5);
    let socket = Socket::connect(&sandbox.socket("g"), patience).expect("connects");
    socket.send(b"GET / HTTP/1.1\r\n\r\n", None).expect("sends");
    assert!(matches!(socket.recv(Some(patience)), Ok(Received::Closed)));
    // And one that knows the greeting, but not the language.
    let socket = Socket::connect(&sandbox.socket("g"), patience).expect("connects");
    let hello = Hello::new(Role::Tool, 0, 0, "stranger");
    socket
        .send(&encode(&hello).expect("encodes"), None)
        .expect("sends");
    assert!(matches!(
        socket.recv(Some(patience)),
        Ok(Received::Frame(..))
    ));
    socket.send(&[0xff; 64], None).expect("sends");
    assert!(matches!(socket.recv(Some(patience)), Ok(Received::Closed)));
    assert_eq!(sandbox.status("g")["bad_frames"], 2);
    assert!(
        sandbox
            .ok(&["--name", "g", "status"])
            .contains("bad_frames 2")
    );
}

/// Root reads everything; everybody else meets the file's mode.
#[test]
fn an_unreadable_file_is_reported_and_the_rest_is_indexed() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path().join("texts");
    fs::create_dir(&dir).expect("makes");
    fs::write(dir.join("good"), "one two two").expect("writes");
    fs::write(dir.join("secret"), "three").expect("writes");
    fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o000)).expect("chmod");
    let mut command = sandbox.command(
        "coheap",
        &[
            "--json",
            "run",
            "index",
            dir.to_str().expect("UTF-8"),
            "-n",
            "2",
        ],
    );
    if nix_is_root() {
        let (home, runtime) = (
            sandbox.path().join("nobody"),
            sandbox.path().join("nobody/run"),
        );
        fs::create_dir_all(&runtime).expect("makes");
        // Programs and their directory must be within reach of the other user.
        for name in ["coheap", "coheapd", "coheap-worker"] {
            let copy = home.join(name);
            fs::copy(coheap_tests::sandbox::program(name), &copy).expect("copies");
            open(&copy);
        }
        open(&home);
        open(sandbox.path());
        std::os::unix::fs::chown(&runtime, Some(65534), Some(65534)).expect("chown");
        let mut other = Command::new(home.join("coheap"));
        other
            .args(command.get_args())
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("XDG_CONFIG_HOME", &runtime);
        other.uid(65534).gid(65534).current_dir("/");
        command = other;
    }
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&json["files"], &json["words"]),
        (&1.into(), &3.into()),
        "{json}"
    );
    assert_eq!(json["unreadable"], 1);
    let problem = json["problems"][0].as_str().unwrap_or_default();
    assert!(
        problem.contains("secret") && problem.contains("ermission denied"),
        "{json}"
    );
}

fn nix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn open(path: &std::path::Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn ctrl_c_is_130_and_one_line() {
    let mut sandbox = Sandbox::new();
    let mut command = sandbox.command("coheap", &["-q", "up", "-n", "1", "--", "sleep", "1000"]);
    let log = sandbox.path().join("stderr");
    command.stderr(fs::File::create(&log).expect("creates"));
    let up = sandbox.spawn(command);
    coheap_tests::sandbox::eventually("the daemon runs", || {
        sandbox
            .path()
            .join(format!("coheap/up-{up}/control.sock"))
            .exists()
    });
    signal(up, "INT");
    assert_eq!(sandbox.wait(up).code(), Some(130));
    let text = fs::read_to_string(&log).expect("reads");
    assert!(
        text.starts_with("coheap: error[E029]: ") && text.lines().count() == 1,
        "{text}"
    );
}

/// The words under which programs find a run's numbers.
#[test]
fn a_run_in_json_has_every_number_at_the_top() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path().join("texts");
    fs::create_dir(&dir).expect("makes");
    fs::write(dir.join("a"), "to be or not to be").expect("writes");
    let json = sandbox
        .json(&[
            "run",
            "index",
            dir.to_str().expect("UTF-8"),
            "-n",
            "2",
            "--seed",
            "5",
        ])
        .remove(0);
    for key in [
        "files",
        "words",
        "distinct",
        "elapsed_s",
        "gc_cycles",
        "alloc_bytes",
        "live_bytes",
        "steals",
        "mark_worker_migrations",
        "workers",
        "deaths",
        "daemon_restarts",
        "seed",
        "unreadable",
    ] {
        assert!(json[key].is_number(), "{key}: {json}");
    }
    assert!(
        ["p50", "p99", "max"]
            .iter()
            .all(|q| json["gc_pause_ns"][q].is_u64()),
        "{json}"
    );
    assert_eq!(
        (&json["ok"], &json["backing"], &json["seed"]),
        (&true.into(), &"memfd".into(), &5.into())
    );
    assert_eq!(
        (&json["words"], &json["distinct"]),
        (&6.into(), &4.into()),
        "{json}"
    );
    assert_eq!(json["problems"], serde_json::json!([]));
    let hash = json["result_hash"].as_str().unwrap_or_default();
    assert!(
        hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()),
        "{json}"
    );
    assert!(json["alloc_bytes"].as_u64() > Some(0), "{json}");
    let trees = sandbox
        .json(&["run", "trees", "--depth", "6", "-n", "2"])
        .remove(0);
    assert!(
        trees["checks"]
            .as_str()
            .is_some_and(|c| c.contains("stretch tree")),
        "{trees}"
    );
    assert!(trees["files"].is_null(), "{trees}");
}
