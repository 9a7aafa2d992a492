//! A session of its own for every worker.
//!
//! A process group of its own would keep Ctrl-C away too, but not the other thing a terminal's kernel side does: when the
//! daemon dies, a worker's group has nobody outside it left in its session, is *orphaned*, and if the worker is stopped at
//! that moment the kernel sends it SIGHUP and SIGCONT. The stopped worker of a killed daemon would die of that. The leader
//! of a session is in an orphaned group from the start, and nothing happens to it.
#![expect(unsafe_code, reason = "asks for a system call between fork and exec")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// The command's process will lead a session of its own.
pub fn separate(command: &mut Command) {
    let lead = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: 1. Between fork and exec only async-signal-safe calls are allowed: `setsid` is one, and nothing is allocated,
    // an error being a number. 2. The closure captures nothing.
    unsafe { command.pre_exec(lead) };
}
