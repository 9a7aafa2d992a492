//! Exit codes: the one list that the command, the daemon and refusals on the wire share.

/// All well. A run in which processes were killed *and the result is right* is this too.
pub const OK: u8 = 0;
/// The operation failed.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// No daemon of that name runs.
pub const NOT_RUNNING: u8 = 3;
/// A daemon runs, but it cannot be reached or does not permit this.
pub const NOT_PERMITTED: u8 = 4;
/// `doctor`, `verify` or `lab` found a violation.
pub const VIOLATION: u8 = 5;
/// The heap's hard limit was reached.
pub const HEAP_LIMIT: u8 = 6;
/// Two programs disagree about the layout or the protocol.
pub const LAYOUT: u8 = 7;
/// The work finished, but a task was given up after too many attempts.
pub const GAVE_UP: u8 = 8;
/// Busy; trying again later may help.
pub const BUSY: u8 = 75;
/// Timed out.
pub const TIMEOUT: u8 = 124;
/// Ended by Ctrl-C: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
