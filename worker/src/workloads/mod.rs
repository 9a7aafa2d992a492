//! Placeholder of the workloads: the shapes the worker is written against until they land.
#![expect(missing_docs, reason = "replaced by the workloads")]

use coheap::{Error, Kinds, P, Result};
use std::path::PathBuf;

pub mod progress {
    pub const DONE: usize = 0;
    pub const TOTAL: usize = 1;
    pub const ITEMS: usize = 2;
    pub const FINISHED: usize = 3;
}

pub enum WorkloadSpec {
    Index { dir: PathBuf, out: Option<PathBuf> },
    Trees { depth: u32 },
    GcBench { smaller: u32 },
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    pub ok: bool,
    pub problems: Vec<String>,
    pub checks: String,
}

pub struct Running {
    pub run: u64,
}

pub fn kinds() -> Kinds {
    Kinds::new()
}

pub fn submit(_p: &mut P, _run: u64, _spec: &WorkloadSpec) -> Result<Running> {
    Err(Error::Invalid {
        what: "this worker has no workloads yet".into(),
    })
}

impl Running {
    pub fn poll(&self, _p: &mut P) -> Option<Result<Report>> {
        None
    }
}
