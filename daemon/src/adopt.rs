//! Taking over the heap of a daemon that was killed.
//!
//! 1. `state.toml` names the incarnation and the workers that lived. None of them lives any more: nothing to adopt.
//! 2. The descriptor stands in `/proc/PID/fd` of each of them, and the kernel lets the same user open it there, even if the
//!    process is stopped. The incarnation inside the segment says whether it is the one: a pid that changed hands is
//!    harmless.
//! 3. Where `/proc` is closed to us, the living knock at the socket every 20 to 200 ms, and the first that says "I hold that
//!    incarnation" sends its descriptor; its hello is kept and answered as soon as the daemon runs. If every worker that
//!    lived ends meanwhile, or none comes in [`PATIENCE`], the workers of the old heap are ended and a new one is made.
//!
//! Before all that: systemd's descriptor store, which keeps the heap even when no worker lives ([`crate::notify`]).
//!
//! Everybody else who connects meanwhile waits in line.
//!
//! **Rejected:** knocking alone. A storm showed it: when the daemon died while all of its workers were stopped, nobody
//! knocked, and a new heap was made beside one that was full of work.

use crate::{error::DaemonError, heap, state::State};
use coheap::{
    control::{Listener, Peer, Received, Socket},
    segment::Segment,
};
use coheap_protocol::{Hello, decode};
use nix::poll::{PollFd, PollFlags, poll};
use std::{
    fs::OpenOptions,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// How long to wait for a worker that lives but does not come.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Somebody who connected and was not answered yet.
pub struct Caller {
    /// The connection.
    pub socket: Socket,
    /// Who it is.
    pub peer: Peer,
    /// What was read from it already.
    pub hello: Option<Hello>,
}

/// What came of it.
pub struct Adoption {
    /// The heap, if there is one to go on with.
    pub segment: Option<Segment>,
    /// Those in line.
    pub callers: Vec<Caller>,
}

/// The heap that `state` describes, if systemd's descriptor store kept it. Anything else that it kept is let go.
pub fn take_stored(state: &State) -> Option<Segment> {
    open(
        crate::notify::take_stored()?,
        state.incarnation(),
        state.incarnation(),
    )
}

/// Waits for an heir of the heap that `state` describes.
pub fn wait(listener: &Listener, state: &State) -> Result<Adoption, DaemonError> {
    let mut adoption = Adoption {
        segment: None,
        callers: Vec::new(),
    };
    adoption.segment = state
        .living()
        .iter()
        .find_map(|worker| take_from(worker.pid, state));
    let deadline = Instant::now() + PATIENCE;
    while adoption.segment.is_none() && Instant::now() < deadline && !state.living().is_empty() {
        doze(listener, &adoption.callers)?;
        while let Some(socket) = listener.accept()? {
            if let Ok(peer) = socket.peer_of_our_uid() {
                adoption.callers.push(Caller {
                    socket,
                    peer,
                    hello: None,
                });
            }
        }
        for caller in adoption.callers.iter_mut().filter(|c| c.hello.is_none()) {
            if let Some(segment) = hear(caller, state.incarnation()) {
                adoption.segment = Some(segment);
                break;
            }
        }
    }
    Ok(adoption)
}

/// Opens the segment through the descriptor table of a process that holds it.
fn take_from(pid: u32, state: &State) -> Option<Segment> {
    let table = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let named = heap::path_of(&state.backing.parse().ok()?);
    let holds = |target: &Path| match &named {
        Some(path) => target == path,
        None => target.to_string_lossy().starts_with("/memfd:coheap:"),
    };
    let paths = table.flatten().map(|entry| entry.path());
    let mut candidates =
        paths.filter(|path| std::fs::read_link(path).is_ok_and(|target| holds(&target)));
    candidates.find_map(|path| {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        open(file.into(), state.incarnation(), state.incarnation())
    })
}

fn doze(listener: &Listener, callers: &[Caller]) -> Result<(), DaemonError> {
    let mut fds = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let unheard = callers.iter().filter(|c| c.hello.is_none());
    fds.extend(unheard.map(|c| PollFd::new(c.socket.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, 50u8) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(DaemonError::io(
            "cannot wait for a worker to take the heap over from",
        )(e)),
    }
}

/// Reads a caller's hello; the segment, if it brought the right one.
fn hear(caller: &mut Caller, incarnation: u64) -> Option<Segment> {
    let Ok(Received::Frame(bytes, fd)) = caller.socket.try_recv() else {
        return None;
    };
    let hello: Hello = decode(&bytes).ok()?;
    let holds = hello.holds;
    caller.hello = Some(hello);
    open(fd?, holds, incarnation)
}

fn open(fd: OwnedFd, holds: u64, incarnation: u64) -> Option<Segment> {
    if holds != incarnation || incarnation == 0 {
        return None;
    }
    let segment = heap::adopt(fd).ok()?;
    (segment.incarnation() == incarnation).then_some(segment)
}
