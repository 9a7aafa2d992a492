//! A runtime directory of its own for every test, and the programs under test, built once.
//!
//! A test that ends, well or not, leaves no process: whatever a sandbox's daemons left is in its directory, and the drop
//! reads it. Only processes that this sandbox started are ended, by number.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

static BUILT: Once = Once::new();

/// The directory of the programs under test: the one that `COHEAP_TEST_PROGRAMS` names, whose programs are taken as they are; this
/// program's; or its parent for a test in `target/PROFILE/deps/`.
fn bin_dir() -> PathBuf {
    if let Some(dir) = given() {
        return dir;
    }
    let me = std::env::current_exe().expect("my own path");
    let dir = me.parent().expect("a directory");
    match dir.file_name() {
        Some(deps) if deps == "deps" => dir.parent().expect("target/PROFILE").to_path_buf(),
        _ => dir.to_path_buf(),
    }
}

fn given() -> Option<PathBuf> {
    std::env::var_os("COHEAP_TEST_PROGRAMS").map(PathBuf::from)
}

fn build() {
    if given().is_some() {
        return;
    }
    let release = bin_dir().file_name().is_some_and(|name| name == "release");
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "build",
        "--quiet",
        "-p",
        "coheapd",
        "-p",
        "coheap-worker",
        "-p",
        "coheap-cli",
    ]);
    if release {
        command.arg("--release");
    }
    // Where this test lies, wherever it was told to: the programs of another build would be tested else.
    if let Some(target) = bin_dir().parent() {
        command.arg("--target-dir").arg(target);
    }
    if cfg!(feature = "failpoints") {
        command.args([
            "--features",
            "coheap-worker/failpoints,coheapd/failpoints,coheap-cli/failpoints",
        ]);
    }
    assert!(
        command.status().expect("cargo").success(),
        "the programs under test do not build"
    );
}

/// A program under test.
pub fn program(name: &str) -> PathBuf {
    BUILT.call_once(build);
    bin_dir().join(name)
}

/// One test's world.
pub struct Sandbox {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Sandbox {
        let dir = tempfile::Builder::new()
            .prefix("coheap-test-")
            .tempdir()
            .expect("temporary directory");
        Sandbox {
            dir,
            children: Vec::new(),
        }
    }

    /// What stands for `$XDG_RUNTIME_DIR`.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of a heap.
    pub fn heap_dir(&self, name: &str) -> PathBuf {
        self.path().join("coheap").join(name)
    }

    /// The control socket of a heap.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.heap_dir(name).join("control.sock")
    }

    /// A command of ours, in this world.
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        command
            .args(args)
            .env("XDG_RUNTIME_DIR", self.path())
            .env("XDG_CONFIG_HOME", self.path());
        for variable in [
            "COHEAP_NAME",
            "COHEAP_SOCKET",
            "COHEAP_CONFIG",
            "COHEAP_LOG",
            "COHEAP_MEM_LIMIT",
        ] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs `coheap` to its end.
    pub fn coheap(&self, args: &[&str]) -> Output {
        self.command("coheap", args).output().expect("coheap runs")
    }

    /// Runs `coheap`, which must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.coheap(args);
        assert!(
            output.status.success(),
            "coheap {args:?}: {}: {}",
            output.status,
            stderr(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `coheap --json`, which must succeed; the objects it wrote.
    pub fn json(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        self.ok(&all)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Starts a program that is ended with the sandbox; its process number.
    pub fn spawn(&mut self, mut command: Command) -> u32 {
        let child = command.spawn().expect("starts");
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Waits for a started program.
    pub fn wait(&mut self, pid: u32) -> std::process::ExitStatus {
        let child = self
            .children
            .iter_mut()
            .find(|c| c.id() == pid)
            .expect("started here");
        child.wait().expect("waits")
    }

    /// Process numbers of a heap's attached workers.
    pub fn worker_pids(&self, name: &str) -> Vec<u32> {
        let rows = self.json(&["--name", name, "ps"]);
        let pid = |row: &serde_json::Value| {
            row["pid"]
                .as_u64()
                .filter(|&pid| pid != 0)
                .map(|pid| pid as u32)
        };
        rows.iter()
            .filter(|row| !row["p"].is_null())
            .filter_map(pid)
            .collect()
    }

    /// The status of a heap.
    pub fn status(&self, name: &str) -> serde_json::Value {
        self.json(&["--name", name, "status"]).remove(0)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for child in &mut self.children {
            // An error means that it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        let heaps = std::fs::read_dir(self.path().join("coheap"))
            .into_iter()
            .flatten()
            .flatten();
        for heap in heaps.map(|e| e.file_name().to_string_lossy().into_owned()) {
            // Not running: then there is nothing to stop.
            let _ = self.coheap(&["--name", &heap, "stop", "--mode", "immediate"]);
        }
    }
}

/// What a program complained about.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Does this process exist, other than as remains nobody has collected yet?
pub fn exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Sends a signal by its name; to a process that has ended meanwhile there is nothing to send.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    // Gone already, by somebody else's signal or because its parent is gone, is no failure to send one.
    let sent = done.expect("kill runs").success();
    assert!(sent || !exists(pid), "kill -{name} {pid}");
}

/// Waits until something holds, for ten seconds at most.
#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
