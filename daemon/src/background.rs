//! Leaving the terminal, without a bare fork.
//!
//! 1. `coheapd` starts itself again with `--foreground --detached --notify`; standard input of the child is one end of a
//!    socket pair.
//! 2. The child makes its own session, takes the lock, makes the heap, listens, and says `Ready` on that socket; or it
//!    says why it cannot.
//! 3. The parent prints that and ends with the same code. Only then does the child turn its standard error to the log.
//!
//! **Rejected:** the double fork (ctrlc's handler survives a fork, its thread does not: a forked daemon swallows SIGTERM
//! for ever); waiting for the socket file to appear (says nothing about a daemon that failed).

use crate::{args::Args, config::Config, error::DaemonError, logging};
use coheap::control::{Channel, ControlError, Socket};
use coheap_protocol::Reply;
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    time::Duration,
};

/// How long a daemon may take to be ready: adopting waits for workers, reserving memory takes its time.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Starts a daemon in the background and waits until it is ready.
pub fn start(config: &Config) -> Result<u8, DaemonError> {
    let (ours, theirs) = Socket::pair()?;
    let exe = std::env::current_exe().map_err(DaemonError::io("cannot find my own program"))?;
    let mut given = std::env::args_os().skip(1).peekable();
    let mut command = Command::new(exe);
    command.args(["--foreground", "--detached", "--notify"]);
    while let Some(arg) = given.next_if(|arg| arg != "--") {
        command.arg(arg);
    }
    command
        .args(given)
        .stdin(Stdio::from(theirs.into_fd()))
        .stdout(Stdio::null());
    let child = command
        .spawn()
        .map_err(DaemonError::io("cannot start the daemon in the background"))?;
    drop(command); // its copy of the child's end: the child's death must show as a closed socket
    match Channel::new(ours).recv::<Reply>(Some(READY_PATIENCE))? {
        Reply::Ready { pid } => {
            logging::print(&format!(
                "coheapd: ready name={} pid={pid}\n",
                config.name.value
            ));
            Ok(0)
        }
        Reply::Failed(refused) => Err(DaemonError::Child(refused)),
        other => Err(ControlError::Unexpected(format!("{other:?} from pid {}", child.id())).into()),
    }
}

/// The socket that came as standard input, which becomes `/dev/null`.
fn take_stdin() -> Result<Socket, DaemonError> {
    let fd = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3).map_err(
        DaemonError::io("cannot take the socket from standard input"),
    )?;
    let null = File::open("/dev/null").map_err(DaemonError::io("cannot open /dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(DaemonError::io("cannot close standard input"))?;
    Ok(Socket::from_fd(fd))
}

/// Makes a session of our own, so that nothing that happens to the terminal reaches us.
pub fn make_session() {
    // Fails only for a process group leader, and then there is one already.
    let _ = nix::unistd::setsid();
    // A daemon keeps no directory busy.
    let _ = std::env::set_current_dir("/");
}

/// Turns standard error, and with it that of the workers, to the log.
pub fn redirect_stderr(log: &OwnedFd) -> Result<(), DaemonError> {
    nix::unistd::dup2_stderr(log).map_err(DaemonError::io("cannot turn standard error to the log"))
}

/// Whoever waits for this daemon to be ready, and may own it.
pub struct Notify {
    channel: Option<Channel>,
}

impl Notify {
    /// Takes the socket from standard input if the command line says that there is one.
    pub fn take(args: &Args) -> Result<Notify, DaemonError> {
        let channel = if args.notify {
            Some(Channel::new(take_stdin()?))
        } else {
            None
        };
        Ok(Notify { channel })
    }

    /// Says that the daemon accepts connections. The socket is returned if its other end owns the daemon.
    pub fn ready(&mut self, owned: bool) -> Option<Socket> {
        let channel = self.channel.take()?;
        // Somebody who no longer listens does not want to know; if it owned the daemon, the closed socket will tell.
        let _ = channel.send(&Reply::Ready {
            pid: std::process::id(),
        });
        owned.then(|| channel.into_socket())
    }

    /// Says why it failed; `false` if nobody waits, or the daemon was ready before.
    pub fn failed(&mut self, error: &DaemonError) -> bool {
        self.channel
            .take()
            .is_some_and(|channel| channel.send(&Reply::Failed(error.to_refused())).is_ok())
    }
}
