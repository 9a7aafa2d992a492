//! The shell examples of `tests/scripts/`, run as they are.

use coheap_tests::sandbox::{Sandbox, program, stderr};
use std::{fs, path::Path, process::Command};

fn script(sandbox: &Sandbox, name: &str, args: &[&Path]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let programs = program("coheap");
    let mut path = vec![programs.parent().expect("a directory").to_path_buf()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut command = Command::new("sh");
    command.arg(scripts.join(name)).args(args);
    command
        .env("PATH", std::env::join_paths(path).expect("a path"))
        .env("XDG_RUNTIME_DIR", sandbox.path())
        .env("XDG_CONFIG_HOME", sandbox.path())
        .env_remove("COHEAP_NAME");
    let output = command.output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(output.status.success(), "{name}: {}: {said}", output.status);
    assert!(
        !sandbox.path().join("coheap").exists(),
        "{name} left something behind"
    );
}

/// Some text in a few hundred files.
fn texts(sandbox: &Sandbox) -> std::path::PathBuf {
    let dir = sandbox.path().join("texts");
    fs::create_dir(&dir).expect("makes");
    let mut state = 88_172_645_463_325_252u64;
    for file in 0..400 {
        let mut text = String::new();
        for _ in 0..2000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word: String = (0..2 + state % 5)
                .map(|i| char::from(b'a' + ((state >> (8 + 5 * i)) % 26) as u8))
                .collect();
            text += &word;
            text.push(if state.is_multiple_of(11) { '\n' } else { ' ' });
        }
        fs::write(dir.join(format!("{file}.txt")), text).expect("writes");
    }
    dir
}

#[test]
fn a_daemon_workers_a_run_and_the_end() {
    let sandbox = Sandbox::new();
    script(&sandbox, "start-spawn-run-stop.sh", &[&texts(&sandbox)]);
}

#[test]
fn every_reason_has_its_code() {
    script(&Sandbox::new(), "exit-codes.sh", &[]);
}

#[test]
fn a_storm_changes_nothing() {
    let sandbox = Sandbox::new();
    script(&sandbox, "storm.sh", &[&texts(&sandbox)]);
}

#[test]
fn the_oracle_agrees() {
    let sandbox = Sandbox::new();
    let (dir, out) = (texts(&sandbox), sandbox.path().join("words"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    sandbox.ok(&["run", "index", &text(&dir), "-n", "3", "--out", &text(&out)]);
    let oracle = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/oracle.sh"))
        .arg(&dir)
        .output()
        .expect("sh runs");
    assert!(oracle.status.success());
    assert!(
        fs::read(&out).expect("reads") == oracle.stdout,
        "the index differs from the oracle"
    );
}
