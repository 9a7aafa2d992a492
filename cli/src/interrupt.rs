//! Ctrl-C, noticed by whoever waits.
//!
//! The handler's thread sets a flag and writes an eventfd; a command that waits polls that beside its socket. The daemon
//! of `run` and `up` is in a process group of its own, so it does not hear the terminal: this command tells it.

use crate::failure::Failure;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Whether Ctrl-C was pressed (or SIGTERM or SIGHUP came).
pub struct Interrupt {
    bell: Arc<EventFd>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to read.
    Readable,
    /// Ctrl-C.
    Interrupted,
    /// The time is up.
    Late,
}

impl Interrupt {
    /// Catches it from now on.
    pub fn catch() -> Result<Interrupt, Failure> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_flags(flags)
            .map_err(|e| Failure::io("cannot make an eventfd")(e.into()))?;
        let bell = Arc::new(bell);
        let ring = bell.clone();
        let handler = move || {
            // Never read, so it rings for ever; a full counter rings too.
            let _ = ring.write(1);
        };
        ctrlc::set_handler(handler)
            .map_err(|e| Failure::io("cannot catch Ctrl-C")(io::Error::other(e)))?;
        Ok(Interrupt { bell })
    }

    /// Waits for input, Ctrl-C or the deadline.
    pub fn wait(&self, fd: Option<BorrowedFd<'_>>, deadline: Option<Instant>) -> Woken {
        loop {
            let mut fds = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
            fds.extend(fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            match poll(&mut fds, timeout(left)) {
                Ok(0) if left.is_some_and(|l| l.is_zero()) => return Woken::Late,
                Ok(n) if n > 0 => {
                    let rung = fds[0].revents().is_some_and(|r| !r.is_empty());
                    return if rung {
                        Woken::Interrupted
                    } else {
                        Woken::Readable
                    };
                }
                _ => {}
            }
        }
    }
}

fn timeout(left: Option<Duration>) -> PollTimeout {
    // Rounded up, or the last millisecond would spin.
    left.map_or(PollTimeout::NONE, |l| {
        PollTimeout::try_from(l.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    })
}
