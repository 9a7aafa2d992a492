//! What the daemon orders a worker to do, and what a worker reports.

use crate::{Outcome, Refused, RunId, StopMode, Workload};
use serde::{Deserialize, Serialize};

/// From the daemon to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerOrder {
    /// Give the P back and end.
    Stop {
        /// How the whole is stopping.
        mode: StopMode,
    },
    /// Make the root task of a run, unless it is there already.
    Submit {
        /// The run.
        run: RunId,
        /// Its seed.
        seed: u64,
        /// What to run.
        workload: Workload,
    },
    /// Let so many P's run (Go's procresize). Whoever is asked does it; the number in the segment says whether it is done.
    Procs {
        /// How many.
        n: u16,
    },
    /// If the run's root task is finished, read its result out of the heap and report it.
    Collect {
        /// The run.
        run: RunId,
        /// What was run.
        workload: Workload,
    },
}

/// From a worker to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerSays {
    /// This process is that P now.
    Leased {
        /// The P.
        p: u16,
    },
    /// The run's root task is in the heap, whoever put it there.
    Submitted {
        /// The run.
        run: RunId,
    },
    /// The run's root task is finished: a hint to collect.
    Finished {
        /// The run.
        run: RunId,
    },
    /// Asked to collect, and the run is not finished.
    NotYet {
        /// The run.
        run: RunId,
    },
    /// The run's result.
    Result(Outcome),
    /// The run cannot be started or finished.
    RunFailed {
        /// The run.
        run: RunId,
        /// Why.
        why: Refused,
    },
    /// The P was given back; the process ends.
    Leaving,
}
