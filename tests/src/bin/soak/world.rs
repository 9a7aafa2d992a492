//! One heap: its daemon, which may be killed and replaced, its workers, and this program's own view of the segment.
//!
//! The daemon is a child tied to this process (`--owner`), so that nothing stays when this program is killed. The segment is
//! mapped here for reading: what is known about deaths comes from it, not from the daemon that may be one of the dead.

use std::{
    fs::{File, OpenOptions},
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use coheap::{
    control::{Channel, ControlError, Socket, call},
    segment::Segment,
};
use coheap_protocol::{Hello, Reply, Request, Role};
use coheap_tests::sandbox::{Sandbox, exists};

use crate::Trouble;

const NAME: &str = "soak";
/// How long anything that is not a run may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A heap under test.
pub struct World {
    sandbox: Sandbox,
    backing: String,
    path: Option<PathBuf>,
    workers: usize,
    daemon: Child,
    /// Its standard input: closing it ends the daemon.
    tie: Channel,
    /// Our view.
    pub segment: Segment,
    orders: Channel,
    /// Longest time from a daemon's death until its heir was ready.
    pub longest_succession: Duration,
}

fn hello(role: Role) -> Hello {
    Hello::new(
        role,
        Segment::layout_version(),
        Segment::layout_hash(),
        "soak",
    )
}

impl World {
    /// Makes a heap on the `n`-th kind of backing, with its workers attached.
    pub fn new(n: usize, workers: usize) -> Result<World, Trouble> {
        let sandbox = Sandbox::new();
        let unique = sandbox
            .path()
            .file_name()
            .map_or(String::new(), |n| n.to_string_lossy().into());
        let (backing, path) = match n % 3 {
            0 => ("memfd".to_owned(), None),
            1 => (
                format!("shm:coheap-{unique}"),
                Some(format!("/dev/shm/coheap-{unique}").into()),
            ),
            _ => {
                let path = sandbox.path().join("segment");
                (format!("file:{}", path.display()), Some(path))
            }
        };
        let (daemon, tie) = launch(&sandbox, &backing, workers)?;
        let called = call(&sandbox.socket(NAME), &hello(Role::Reader), None, PATIENCE)?;
        let segment = Segment::open_fd(called.segment.ok_or(ControlError::Closed)?)
            .map_err(|e| Trouble::Broken(e.to_string()))?;
        let world = World {
            sandbox,
            backing,
            path,
            workers,
            daemon,
            tie,
            segment,
            orders: called.channel,
            longest_succession: Duration::ZERO,
        };
        world.wait_for_workers()?;
        Ok(world)
    }

    /// Where its memory comes from, in a word.
    pub fn backing(&self) -> &str {
        self.backing.split(':').next().unwrap_or_default()
    }

    /// Asks the daemon something over the connection that is kept for orders.
    pub fn ask(&self, request: &Request) -> Result<Vec<Reply>, ControlError> {
        self.orders.send(request)?;
        let mut rows = Vec::new();
        loop {
            match self.orders.recv::<Reply>(Some(PATIENCE))? {
                Reply::End(_) => return Ok(rows),
                Reply::Failed(refused) => return Err(ControlError::Refused(refused)),
                row => rows.push(row),
            }
        }
    }

    /// A new connection.
    pub fn connect(&self) -> Result<Channel, Trouble> {
        let socket = self.sandbox.socket(NAME);
        Ok(call(&socket, &hello(Role::Tool), None, PATIENCE)?.channel)
    }

    /// Whether the daemon lives; it must, unless we killed it.
    pub fn check_daemon(&mut self) -> Result<(), Trouble> {
        match self.daemon.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Trouble::violation(format!(
                "the daemon ended by itself: {status}"
            ))),
            Err(e) => Err(Trouble::Broken(e.to_string())),
        }
    }

    /// Kills the daemon and starts another, which must take this heap over and no other.
    pub fn replace_daemon(&mut self) -> Result<(), Trouble> {
        let began = Instant::now();
        self.daemon
            .kill()
            .and_then(|()| self.daemon.wait())
            .map_err(|e| Trouble::Broken(e.to_string()))?;
        (self.daemon, self.tie) = launch(&self.sandbox, &self.backing, self.workers)?;
        self.longest_succession = self.longest_succession.max(began.elapsed());
        let called = call(
            &self.sandbox.socket(NAME),
            &hello(Role::Tool),
            None,
            PATIENCE,
        )?;
        if called.welcome.incarnation != self.segment.incarnation() {
            return Err(Trouble::violation(
                "the new daemon made a heap beside the one that lives",
            ));
        }
        self.orders = called.channel;
        Ok(())
    }

    /// Runs a command of ours that must succeed; what it printed.
    pub fn coheap(&self, args: &[&str]) -> Result<String, Trouble> {
        let mut all = vec!["--name", NAME];
        all.extend(args);
        let output = self.sandbox.coheap(&all);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Trouble::violation(format!(
            "coheap {}: {}: {said}{complaint}",
            args.join(" "),
            output.status
        )))
    }

    /// Waits until every place has its worker, none of the dead is unrecovered, and nobody is left from before.
    pub fn wait_for_workers(&self) -> Result<(), Trouble> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let procs = self.segment.status().procs;
            if procs.len() == self.workers && procs.iter().all(|p| p.state == "live") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Trouble::violation(format!(
                    "{} workers never came together: {procs:#?}",
                    self.workers
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.sandbox.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Where everything is, for whoever looks.
    pub fn place(&self) -> String {
        self.sandbox.path().display().to_string()
    }

    /// Ends the heap, which must leave nothing.
    pub fn end(self) -> Result<(), Trouble> {
        let World {
            sandbox,
            path,
            mut daemon,
            tie,
            segment,
            orders,
            ..
        } = self;
        let pids: Vec<u32> = segment.status().procs.iter().map(|p| p.pid).collect();
        drop((tie, orders));
        let status = daemon.wait().map_err(|e| Trouble::Broken(e.to_string()))?;
        if !status.success() {
            return Err(Trouble::violation(format!(
                "the daemon ended with {status}"
            )));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let left = loop {
            let mut left: Vec<String> = pids
                .iter()
                .filter(|&&pid| exists(pid))
                .map(|pid| format!("process {pid}"))
                .collect();
            let dir = sandbox.path().join("coheap");
            left.extend(
                path.iter()
                    .chain([&dir])
                    .filter(|p| p.exists())
                    .map(|p| p.display().to_string()),
            );
            if left.is_empty() || Instant::now() > deadline {
                break left;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if left.is_empty() {
            Ok(())
        } else {
            Err(Trouble::violation(format!(
                "left behind: {}",
                left.join(", ")
            )))
        }
    }
}

fn launch(sandbox: &Sandbox, backing: &str, workers: usize) -> Result<(Child, Channel), Trouble> {
    let broken = |e: std::io::Error| Trouble::Broken(e.to_string());
    let (ours, theirs) = Socket::pair()?;
    let log: File = OpenOptions::new()
        .append(true)
        .create(true)
        .open(sandbox.path().join("log"))
        .map_err(broken)?;
    let workers = workers.to_string();
    let args = [
        "--foreground",
        "--notify",
        "--owner",
        "--name",
        NAME,
        "--workers",
        &workers,
        "--backing",
        backing,
    ];
    let mut command = sandbox.command("coheapd", &args);
    command.stdin(Stdio::from(theirs.into_fd())).stderr(log);
    let child = command.spawn().map_err(broken)?;
    drop(command); // with the child's end of the pair: else its death would not show
    let tie = Channel::new(ours);
    match tie.recv::<Reply>(Some(PATIENCE))? {
        Reply::Ready { .. } => Ok((child, tie)),
        other => Err(Trouble::violation(format!(
            "the daemon did not start: {other:?}"
        ))),
    }
}
