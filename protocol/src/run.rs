//! A run: a workload handed to the heap, watched until its result is there.
//!
//! The daemon never touches object memory, so it cannot start or read a workload itself:
//!
//! 1. The tool invents a [`RunId`] and sends `Run`. Sending it again (to a daemon that was restarted) is harmless.
//! 2. The daemon sends `Submit` to one worker. That worker makes the root task in the heap, *unless a run of that id is
//!    there already*, and says `Submitted`. If it dies before saying so, the daemon sends the same `Submit` to another.
//! 3. While it lasts the daemon reads the progress counters of the segment and tells the tool.
//! 4. The worker that finishes the last task says `Finished`, a mere hint. The daemon sends `Collect` to some worker,
//!    which reads the result out of the heap and says `Result`; if it dies, another is asked.
//!
//! So a run's answer depends on the heap alone, and no single death, the daemon's included, loses it.

use serde::{Deserialize, Serialize};

/// Progress counters in the segment, by index. Every workload sets them from what is committed in the heap.
pub mod counter {
    /// Units finished: files, trees.
    pub const DONE: usize = 0;
    /// Units known so far.
    pub const TOTAL: usize = 1;
    /// Words counted, nodes counted.
    pub const ITEMS: usize = 2;
    /// Number of the run that was finished last.
    pub const FINISHED: usize = 3;
}

/// Names one run for as long as its heap lives. Chosen at random by whoever asks for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// What to run, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workload {
    /// Index every file below a directory: words, links, posting lists.
    Index {
        /// The directory, absolute.
        dir: String,
        /// Where the full word list goes, absolute; not written when absent.
        out: Option<String>,
    },
    /// Binary trees with the published check values.
    Trees {
        /// Depth of the deepest tree.
        depth: u32,
    },
    /// Boehm's GCBench.
    GcBench {
        /// Subtracted from every depth of the original, for quick tests.
        smaller: u32,
    },
}

impl Workload {
    /// The word people type for it.
    pub fn name(&self) -> &'static str {
        match self {
            Workload::Index { .. } => "index",
            Workload::Trees { .. } => "trees",
            Workload::GcBench { .. } => "gcbench",
        }
    }
}

/// Disasters on order, drawn from the run's seed. Zero means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Milliseconds between two SIGKILLs of a random worker.
    pub kill_ms: u32,
    /// Milliseconds between two SIGSTOPs of a random worker, continued after half that time.
    pub stop_ms: u32,
}

/// Asks for a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The run's name; repeating it joins the run.
    pub run: RunId,
    /// What to run.
    pub workload: Workload,
    /// Seed of everything random about it.
    pub seed: u64,
    /// Disasters on order.
    pub storm: Storm,
    /// While it lasts: deaths of one step after which its task is given up; 0 leaves the heap's own limit.
    pub redeliver_max: u32,
}

/// How far a run is, read from the segment's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units finished (files, trees), as the workload counts them.
    pub done: u64,
    /// Units known so far.
    pub total: u64,
    /// Second count (words, nodes).
    pub items: u64,
    /// Live bytes of the heap.
    pub live_bytes: u64,
    /// Collections finished.
    pub gc_cycles: u64,
    /// Workers attached.
    pub workers: u32,
    /// Workers lost since the run began.
    pub deaths: u64,
    /// Milliseconds since the daemon accepted the run.
    pub elapsed_ms: u64,
}

/// A run's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which run.
    pub run: RunId,
    /// Whether the workload itself calls its result right.
    pub ok: bool,
    /// The workload's result, one JSON object, shorter than a frame.
    pub json: String,
}
