//! What a tool may ask, and what it may hear.

use crate::{DeadRow, Outcome, Progress, PsRow, Refused, RunRequest, Status, TaskRow, Totals};
use serde::{Deserialize, Serialize};

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Wait until no run is in hand and no task is runnable, then as `Fast`.
    Smart,
    /// Ask the workers to stop at their next safepoint; unfinished tasks are dropped with the heap.
    Fast,
    /// Kill the workers.
    Immediate,
}

/// A signal for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalKind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
}

/// From a tool to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Answered with `End`.
    Ping,
    /// One [`Reply::Status`].
    Status,
    /// [`Reply::Ps`] rows.
    Ps,
    /// [`Reply::Task`] rows.
    Tasks,
    /// [`Reply::Dead`] rows.
    Dead,
    /// One [`Reply::Totals`].
    Totals,
    /// The configuration with the origin of each value, as [`Reply::Text`] frames.
    Config,
    /// Read the configuration file again; [`Reply::Text`] says what changed.
    Reload,
    /// So many workers more.
    Spawn {
        /// How many.
        n: u16,
    },
    /// So many workers in all, and as many P's that may run.
    Resize {
        /// How many.
        n: u16,
    },
    /// Run a workload: [`Reply::Progress`] now and then, at the end [`Reply::Totals`] and [`Reply::Done`].
    Run(RunRequest),
    /// Collect garbage.
    Gc {
        /// Answer only when a whole cycle that began after this request is over.
        wait: bool,
    },
    /// Send a signal to the worker of a P.
    Signal {
        /// The P.
        p: u16,
        /// The signal.
        signal: SignalKind,
    },
    /// End the daemon and the heap; `End` when everything is gone but the daemon itself.
    Stop {
        /// How.
        mode: StopMode,
    },
}

/// From the daemon to a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Answer to `Status`.
    Status(Box<Status>),
    /// A row of `Ps`.
    Ps(PsRow),
    /// A row of `Tasks`.
    Task(TaskRow),
    /// A row of `Dead`.
    Dead(DeadRow),
    /// A piece of text; pieces are joined as they come.
    Text(String),
    /// How far a run is.
    Progress(Progress),
    /// What the heap has done so far.
    Totals(Box<Totals>),
    /// A run's end.
    Done(Outcome),
    /// The request failed.
    Failed(Refused),
    /// The answer is complete; this many frames came before.
    End(u32),
    /// First frame on the notification socket of a daemon that was started by a tool: it accepts connections.
    Ready {
        /// The daemon's process.
        pid: u32,
    },
}
