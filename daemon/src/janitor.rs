//! Who cleans up when everybody was killed: a process that does nothing but wait for that.
//!
//! 1. The daemon starts it once it has the lock; its standard input is one end of a pair whose other end only the daemon holds.
//! 2. It closes, and the pidfd says so too (the kernel closes descriptors a moment before a process counts as dead): the daemon is
//! gone. A daemon that ended in good order has removed its directory, and there is nothing to do.
//! 3. Otherwise wait until every worker named in `state.toml` is gone as well. Each step back to this one: the state is read again.
//! 4. Take the dead daemon's lock, if nobody has it, and remove the directory. Somebody has it: a new daemon has taken the heap
//!    over, with a janitor of its own.
//!
//! It holds the lock without writing its pid, so a daemon that starts at that moment finds a dead holder and waits for it, as it
//! does for the child of one. A segment with a name, or one that systemd keeps, stays, with the state
//! that proves whose it is: the next start adopts or removes it.
//!
//! **If it dies** the directory stays until the next start of that name removes it, as it would without a janitor.
//!
//! **Rejected:** sockets in the abstract name space, which vanish by themselves: they are not visible to a container that shares the
//! directory, and a log and a state need files anyway. Inheriting a pipe to the workers: a worker's own children would hold it.

use crate::{error::DaemonError, state::State};
use coheap::control::{Instance, Name, RuntimeDir, Socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::{
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

/// A running janitor, from the daemon's side.
pub struct Janitor {
    child: Child,
    /// Never used: that it closes is the message.
    _tie: Socket,
}

impl Janitor {
    /// Starts one for the heap of this name.
    pub fn start(name: &Name) -> Result<Janitor, DaemonError> {
        let (ours, theirs) = Socket::pair()?;
        // The program as it was started, even if its file has been replaced since.
        let child = Command::new("/proc/self/exe")
            .args(["--janitor", "--name", name.as_str()])
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(DaemonError::io("cannot start the janitor"))?;
        Ok(Janitor { child, _tie: ours })
    }

    /// Ends it: the daemon has cleaned up itself.
    pub fn end(mut self) {
        // Killed, not waited for: somebody may have stopped it. An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The janitor's life.
pub fn wait_and_clean(name: &Name) {
    let dir = RuntimeDir::of(name);
    wait_for_daemon(&dir);
    while let Some(state) = State::load(&dir) {
        let living: Vec<OwnedFd> = state
            .living()
            .iter()
            .filter_map(|w| pidfd_open(Pid::from_raw(w.pid as i32)?, PidfdFlags::empty()).ok())
            .collect();
        if living.is_empty() {
            break;
        }
        wait_for_any(&living);
    }
    clean(dir);
}

/// Nothing is ever sent: what ends the read is the other end's closing.
fn wait_for_daemon(dir: &RuntimeDir) {
    let parent = rustix::process::getppid();
    let pidfd = parent.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Closed already: then whoever the parent was when we asked may be somebody else.
    let in_time = !has_hung_up();
    let mut byte = [0];
    while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
    // Removed: by a daemon in good order.
    let left = dir.lock_file().exists();
    if let Some(daemon) = pidfd.filter(|_| in_time && left) {
        wait_for_any(&[daemon]);
    }
}

fn has_hung_up() -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

fn wait_for_any(processes: &[OwnedFd]) {
    let mut fds: Vec<PollFd> = processes
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    // Interrupted: the caller looks again.
    let _ = poll(&mut fds, PollTimeout::NONE);
}

fn clean(dir: RuntimeDir) {
    let Some(instance) = Instance::of_the_dead(dir) else {
        return;
    };
    let left = State::load(instance.dir());
    let inherited = left.is_some_and(|state| {
        state.backing != "memfd" || state.stored || !state.living().is_empty()
    });
    if !inherited {
        // Fails when the directory is gone, or no longer ours: nothing to do either way.
        let _ = instance.remove();
    }
}
