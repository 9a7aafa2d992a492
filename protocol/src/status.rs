//! What the daemon tells people about itself: plain numbers, no layout of the segment.

use crate::Progress;
use serde::{Deserialize, Serialize};

/// The heap in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapNumbers {
    /// Bytes found reachable by the last collection, plus what was allocated since.
    pub live_bytes: u64,
    /// Bytes at which the next collection ends.
    pub goal_bytes: u64,
    /// Bytes backed by memory.
    pub committed_bytes: u64,
    /// The hard limit.
    pub max_bytes: u64,
    /// Collections finished.
    pub gc_cycles: u64,
    /// Phase of the collector, in its own word.
    pub gc_phase: String,
    /// GOGC; -1 when the collector is off.
    pub gc_percent: i32,
}

/// Answer to `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the heap.
    pub name: String,
    /// The daemon's process.
    pub daemon_pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Protocol version.
    pub protocol: u32,
    /// Layout version of the segment.
    pub layout_version: u32,
    /// Layout hash of the segment.
    pub layout_hash: u64,
    /// Which life of the segment this is.
    pub incarnation: u64,
    /// Milliseconds since this daemon was ready.
    pub uptime_ms: u64,
    /// Whether this daemon took the heap over from one that died.
    pub adopted: bool,
    /// Where the memory comes from.
    pub backing: String,
    /// The heap.
    pub heap: HeapNumbers,
    /// Workers wanted.
    pub workers_wanted: u32,
    /// Workers attached.
    pub workers_attached: u32,
    /// Places left empty because their worker died too often.
    pub workers_vacant: u32,
    /// P's that may run at once.
    pub procs: u32,
    /// Workers that died since the heap was made.
    pub deaths: u64,
    /// Workers started again after a death.
    pub restarts: u64,
    /// Deaths recovered in the heap, whichever daemon, or none, was there.
    pub recoveries: u64,
    /// Tasks waiting to be run.
    pub tasks_runnable: u64,
    /// Tasks that run.
    pub tasks_running: u64,
    /// Tasks that wait for something.
    pub tasks_waiting: u64,
    /// Tasks that were given up.
    pub tasks_failed: u64,
    /// Tasks put back to be run again after a death.
    pub tasks_requeued: u64,
    /// Tools connected.
    pub tools: u32,
    /// Connections closed because they sent what is no message.
    pub bad_frames: u64,
    /// Connections refused: another uid, another layout.
    pub refused: u64,
    /// The run in hand.
    pub run: Option<(String, Progress)>,
}

/// One attached process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsRow {
    /// Its P, once it leases one.
    pub p: Option<u16>,
    /// Its process.
    pub pid: u32,
    /// starting, idle, running, outside, stopped, backoff, vacant.
    pub state: String,
    /// Tasks in its run queue.
    pub runq: u32,
    /// Tasks it stole.
    pub steals: u64,
    /// Bytes it allocated.
    pub alloc_bytes: u64,
    /// Steps of tasks it ran.
    pub steps: u64,
    /// Milliseconds since it connected.
    pub age_ms: u64,
    /// Restarts of its place.
    pub restarts: u32,
    /// Its program.
    pub program: String,
}

/// One death, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Its P, if it leased one.
    pub p: Option<u16>,
    /// Its process.
    pub pid: u32,
    /// How it ended: `signal 9 (SIGKILL)`, `exit 1`, `lost`.
    pub cause: String,
    /// What it was in the middle of, as the recovery found it.
    pub at: String,
    /// Tasks handed back to be run again.
    pub requeued: u32,
    /// Microseconds the recovery took.
    pub recovery_us: u64,
    /// Milliseconds since it happened.
    pub ago_ms: u64,
}

/// One task that is not finished, or one kind of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its number.
    pub id: u64,
    /// Name of its kind.
    pub kind: String,
    /// Its state.
    pub state: String,
    /// The P that owns it, if one does.
    pub p: Option<u16>,
    /// Runs lost to deaths or to a lack of memory.
    pub attempts: u32,
    /// Steps done.
    pub steps: u32,
    /// Exit code of the error that failed it; 0 for none.
    pub error_code: u32,
}
