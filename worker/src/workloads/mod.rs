//! The workloads this worker can run.

use crate::workload::Workload;
use coheap::sched::Kinds;

/// All of them.
pub static ALL: &[&dyn Workload] = &[];

/// Every task kind of every workload.
pub fn kinds() -> Kinds {
    let mut kinds = Kinds::default();
    for workload in ALL {
        workload.kinds(&mut kinds);
    }
    kinds
}
