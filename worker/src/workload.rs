//! What a workload is, to the worker: some task kinds, a way to begin, and a way to read the end.
//!
//! A new one: a module in `workloads/` with a type that implements [`Workload`], its line in `workloads::ALL`, and its
//! variant in `coheap_protocol::Workload`.
//!
//! **Invariants every workload keeps.**
//! - *K1.* `submit` is idempotent: the second call for a run, in whatever process, finds the first one's work and changes
//!   nothing. The daemon repeats it whenever it is not sure that it was heard.
//! - *K2.* `collect` changes nothing in the heap, and may be called by several processes, at any time.
//! - *K3.* What both need to know is in the heap, under a name made from the run's id: the process that began a run is
//!   not the one that ends it.

use crate::inbox::Says;
use coheap::{
    Error,
    sched::{Kinds, P},
};
use coheap_protocol::{RunId, WorkerSays, Workload as Args};
use std::sync::OnceLock;

/// A finished run's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the workload's own checks hold.
    pub ok: bool,
    /// One JSON object, shorter than 3500 bytes.
    pub json: String,
}

/// A built-in workload.
pub trait Workload: Sync {
    /// The word people type for it: `coheap_protocol::Workload::name` of its arguments.
    fn name(&self) -> &'static str;

    /// Adds the task kinds it is made of.
    fn kinds(&self, kinds: &mut Kinds);

    /// Makes the root task of a run, unless it is there (K1).
    fn submit(&self, p: &mut P, run: RunId, seed: u64, args: &Args) -> Result<(), Error>;

    /// The result if the run is finished, `None` if it is not (K2).
    fn collect(&self, p: &mut P, run: RunId, args: &Args) -> Result<Option<Report>, Error>;
}

static HINTS: OnceLock<Says> = OnceLock::new();

/// Hints go this way from now on.
pub fn hint_through(says: Says) {
    // Set twice only if main ran twice.
    let _ = HINTS.set(says);
}

/// Tells the daemon that a run's root task is finished, so that it need not wait until it looks itself. A mere hint: if
/// the process dies between the end of the task and this call, the daemon's next look at the counters finds out.
#[allow(dead_code, reason = "for the workloads")]
pub fn finished(run: RunId) {
    if let Some(says) = HINTS.get() {
        says.say(WorkerSays::Finished { run });
    }
}
