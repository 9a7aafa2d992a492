//! A daemon that lives and dies with this command.
//!
//! It is a child, in a process group of its own (Ctrl-C reaches only us), whose standard input is one end of a socket
//! pair: on it the daemon says that it is ready, and sees our end close, however we end. So no death of this command
//! leaves anything running.

use crate::{
    args::{Global, HeapOptions},
    failure::Failure,
};
use coheap::control::{Channel, Name, RuntimeDir, Socket};
use coheap_protocol::{Reply, codes};
use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Patience with a daemon that starts; it may have to wait for workers of the one before.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Patience with a daemon that is to end because it could not be talked to.
const REAP_PATIENCE: Duration = Duration::from_secs(10);

/// A private daemon.
pub struct Private {
    arguments: Vec<OsString>,
    dir: RuntimeDir,
    child: Child,
    /// Our end of its standard input. Closing it ends the daemon.
    tie: Channel,
    /// Further words of `COHEAPDEBUG` for the heap it makes.
    debug: Option<&'static str>,
}

/// Finds `coheapd`: the one that was named, the one beside this program, or the one in PATH.
pub fn find_daemon() -> PathBuf {
    if let Some(named) = std::env::var_os("COHEAP_DAEMON_BIN") {
        return named.into();
    }
    let beside = std::env::current_exe()
        .map(|me| me.with_file_name("coheapd"))
        .ok();
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| "coheapd".into())
}

/// Flags of `coheapd` for a heap that is to be made.
pub fn heap_flags(heap: &HeapOptions) -> Vec<OsString> {
    let flags = [
        ("--max", &heap.max),
        ("--backing", &heap.backing),
        ("--gc-percent", &heap.gc_percent),
    ];
    let given = flags
        .into_iter()
        .filter_map(|(flag, value)| Some([flag.into(), value.as_ref()?.into()]));
    given.flatten().collect()
}

impl Private {
    /// Starts a daemon with these flags and waits until it is ready.
    pub fn start(
        name: &Name,
        global: &Global,
        flags: Vec<OsString>,
        debug: Option<&'static str>,
    ) -> Result<Private, Failure> {
        let level = match (global.quiet, global.verbose) {
            (true, _) | (_, 0) => "error",
            (_, 1) => "info",
            _ => "debug",
        };
        let mut arguments: Vec<OsString> =
            ["--foreground", "--notify", "--owner", "--log-level", level]
                .map(Into::into)
                .into();
        arguments.extend(["--name".into(), name.as_str().into()]);
        arguments.extend(flags);
        let (child, tie) = launch(&arguments, debug)?;
        Ok(Private {
            arguments,
            dir: RuntimeDir::of(name),
            child,
            tie,
            debug,
        })
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.socket()
    }

    /// Kills it and starts another, which adopts the heap.
    pub fn replace(&mut self) -> Result<(), Failure> {
        // An error means that it has ended already.
        let _ = self.child.kill();
        self.child
            .wait()
            .map_err(Failure::io("cannot wait for the daemon"))?;
        (self.child, self.tie) = launch(&self.arguments, self.debug)?;
        Ok(())
    }

    /// Lets go of it and waits until it has removed everything and ended.
    pub fn end(mut self) -> Result<(), Failure> {
        drop(self.tie);
        let status = self
            .child
            .wait()
            .map_err(Failure::io("cannot wait for the daemon"))?;
        if status.success() {
            return Ok(());
        }
        let what = format!("the daemon of this command ended with {status}");
        Err(Failure::new(
            codes::FAILED,
            "E014",
            what,
            "the same command with -v",
        ))
    }

    /// What becomes readable when it ends.
    pub fn tie(&self) -> &Channel {
        &self.tie
    }
}

fn launch(arguments: &[OsString], debug: Option<&str>) -> Result<(Child, Channel), Failure> {
    let (ours, theirs) = Socket::pair()?;
    let program = find_daemon();
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::from(theirs.into_fd()));
    // It is found by name; a socket meant for this command must not lead its workers elsewhere.
    command.env_remove("COHEAP_SOCKET");
    if let Some(word) = debug {
        let mut words = std::env::var_os("COHEAPDEBUG").unwrap_or_default();
        words.push(if words.is_empty() { "" } else { "," });
        words.push(word);
        command.env("COHEAPDEBUG", words);
    }
    let child = command.spawn().map_err(|e| not_started(&program, &e))?;
    drop(command); // with the child's end of the pair: else its death would not show
    let tie = Channel::new(ours);
    match tie.recv::<Reply>(Some(READY_PATIENCE)) {
        Ok(Reply::Ready { .. }) => Ok((child, tie)),
        Ok(Reply::Failed(refused)) => Err(reap(child, tie, refused.into())),
        Ok(other) => Err(reap(
            child,
            tie,
            coheap::control::ControlError::Unexpected(format!("{other:?}")).into(),
        )),
        Err(error) => Err(reap(child, tie, error.into())),
    }
}

/// Ends a daemon that is of no use. It may be quite well, and then has a heap and a directory to remove: it does that when its tie is
/// cut, and is killed only if it does not.
fn reap(mut child: Child, tie: Channel, failure: Failure) -> Failure {
    drop(tie);
    let deadline = Instant::now() + REAP_PATIENCE;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    failure
}

/// The exit code of a `coheapd` that has said already why it failed; if it was killed, this command says so.
pub fn code_of(program: &std::path::Path, status: std::process::ExitStatus) -> Result<u8, Failure> {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => {
            let what = format!("{} ended with {status}", program.display());
            Err(Failure::new(
                codes::FAILED,
                "E014",
                what,
                "the same again; its log says more",
            ))
        }
    }
}

/// What to say when there is no daemon to start.
pub fn not_started(program: &std::path::Path, e: &std::io::Error) -> Failure {
    let what = format!("cannot start {}: {e}", program.display());
    Failure::new(
        codes::FAILED,
        "E016",
        what,
        "installing coheapd beside coheap, or COHEAP_DAEMON_BIN=/path/to/coheapd",
    )
}
