//! Memory that ends: a memory cgroup and a full file system answer with an error and numbers, not with a kill or SIGBUS.

use coheap_tests::sandbox::{Sandbox, program, stderr};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const LIMIT_BYTES: u64 = 96 << 20;

/// A memory cgroup of our own, removed at the end. `None` where we may not make one.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Cgroup> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let line = |controllers: &str| {
            let mut fields = own
                .lines()
                .map(|l| l.splitn(3, ':').skip(1).collect::<Vec<_>>());
            fields
                .find(|f| f[0].split(',').any(|c| c == controllers))
                .map(|f| f[1].to_owned())
        };
        let (root, limit, path) = match (line("memory"), line("")) {
            (Some(path), _) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path),
            (None, Some(path)) => ("/sys/fs/cgroup", "memory.max", path),
            _ => return None,
        };
        // Beside our own: version 2 has no children below a group with processes.
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let parent = own
            .parent()
            .filter(|p| p.starts_with(root))
            .unwrap_or(Path::new(root));
        let dir = parent.join(format!("coheap-test-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let group = Cgroup(dir);
        fs::write(group.0.join(limit), LIMIT_BYTES.to_string()).ok()?;
        Some(group)
    }

    /// The same command, in this group.
    fn run(&self, command: &Command) -> Output {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]);
        inside
            .arg(self.0.join("cgroup.procs"))
            .arg(command.get_program());
        inside
            .args(command.get_args())
            .stdin(std::process::Stdio::null());
        inside.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        inside.output().expect("sh runs")
    }

    /// Processes that the kernel killed for want of memory.
    fn killed(&self) -> u64 {
        ["memory.oom_control", "memory.events"]
            .iter()
            .filter_map(|file| fs::read_to_string(self.0.join(file)).ok())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last process is reaped.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_memory_cgroup_is_an_error_with_numbers_not_a_kill() {
    let sandbox = Sandbox::new();
    program("coheap");
    let Some(group) = Cgroup::new() else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    // 21 needs more than 100 MB at once, 15 does not.
    let small = group.run(&sandbox.command(
        "coheap",
        &["-q", "run", "trees", "--depth", "15", "-n", "2"],
    ));
    assert!(small.status.success(), "{}", stderr(&small));
    let start = sandbox.command("coheap", &["--name", "m", "start", "--wait", "-n", "2"]);
    assert!(group.run(&start).status.success());
    let large = sandbox.coheap(&["-q", "--name", "m", "run", "trees", "--depth", "24"]);
    let text = stderr(&large);
    assert_eq!(large.status.code(), Some(6), "{text}");
    assert!(
        text.contains("cgroup") && text.contains("error[E06"),
        "{text}"
    );
    assert!(
        sandbox
            .ok(&["--name", "m", "status"])
            .contains("the last growth was refused: the memory cgroup")
    );
    // What could not be had is no damage: the same heap does what fits.
    sandbox.ok(&["-q", "--name", "m", "run", "trees", "--depth", "15"]);
    sandbox.ok(&["--name", "m", "verify", "--deep"]);
    sandbox.ok(&["--name", "m", "stop"]);
    assert_eq!(group.killed(), 0);
    assert!(!sandbox.path().join("coheap").exists());
}

/// A file system of 64 MiB, in a name space of mounts that ends with the command. `None` where we may not have one.
fn in_small_file_system(sandbox: &Sandbox, args: &[&str]) -> Option<Output> {
    let disk = sandbox.path().join("disk");
    fs::create_dir_all(&disk).expect("makes");
    let script = "mount -t tmpfs -o size=64m coheap-test \"$0\" || exit 99; cd \"$0\" && \"$@\"; code=$?; ls -A; exit $code";
    let command = sandbox.command("coheap", args);
    let mut inside = Command::new("unshare");
    inside.args(["-m", "sh", "-c", script]);
    inside
        .arg(&disk)
        .arg(command.get_program())
        .args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = inside.stdin(std::process::Stdio::null()).output().ok()?;
    let refused = output.status.code() == Some(99) || stderr(&output).contains("unshare:");
    (!refused).then_some(output)
}

#[test]
fn a_full_file_system_is_an_error_with_numbers_and_no_bus_error() {
    let sandbox = Sandbox::new();
    let backing = format!("file:{}", sandbox.path().join("disk/heap").display());
    let run = |depth: &str| {
        let args = [
            "-q",
            "run",
            "trees",
            "--depth",
            depth,
            "-n",
            "2",
            "--backing",
            &backing,
        ];
        in_small_file_system(&sandbox, &args)
    };
    let Some(small) = run("14") else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    assert!(small.status.success(), "{}", stderr(&small));
    let large = run("24").expect("mounts as before");
    let text = stderr(&large);
    assert_eq!(large.status.code(), Some(6), "{text}");
    assert!(
        text.contains("file system behind the segment is full"),
        "{text}"
    );
    // The script listed what was left on the file system.
    assert_eq!(String::from_utf8_lossy(&large.stdout), "");
}
