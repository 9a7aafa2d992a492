//! The built-in workloads: real work over the shared heap, each with a result that can be checked from outside.
//!
//! 1. [`submit`] enters a run into the heap, under its number, and makes the task that carries it. 2. P's of any process that know
//!    [`kinds`] run it. 3. [`Running::poll`], in any process, says when the result is there, and reads it.
//!
//! ```
//! use coheap::*;
//! use coheap_worker::workloads::{self, WorkloadSpec};
//! let mut p = P::lease(Segment::create(&SegmentConfig { max_bytes: 64 << 20, ..Default::default() })?)?;
//! let running = workloads::submit(&mut p, 1, &WorkloadSpec::Trees { depth: 6 })?;
//! p.run_until_idle(&workloads::kinds())?;
//! let report = running.poll(&mut p).unwrap()?;
//! assert!(report.ok && report.checks.starts_with("stretch tree of depth 7\t check: 255\n"));
//! # Ok::<(), Error>(())
//! ```
//!
//! **Invariants.** W1: everything a run knows is in the heap, so whoever began it need not live to end it. W2: submitting a run
//! twice, from any two processes, is submitting it once. W3: polling changes nothing in the heap. W4: a step changes the heap only
//! through its next context, its spawns, its result and roots, or by stores that are the same when repeated; so a step that ran in
//! part before its process died counts once.
//! **If a process dies** in `submit` there is a run without a task, or one with an extra task that finds the run taken and ends; the
//! next `submit` completes the first and does not mind the second.
//! **Rejected:** a named root per run: the table has 1,024 and no way to give one back.

pub mod gcbench;
pub mod index;
mod run;
pub mod trees;

use std::{
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use coheap::{Cx, Error, Kinds, P, Result};
use serde::{Deserialize, Serialize};

use run::{Outcome, RunTask};

/// Progress counters of the segment ([`coheap::Segment::progress_set`]) that every workload keeps. They are set, never added to,
/// from what is committed in the heap: a step that runs again tells the same numbers.
pub mod progress {
    /// Units finished: files, trees.
    pub const DONE: usize = 0;
    /// Units known so far.
    pub const TOTAL: usize = 1;
    /// Words counted, nodes counted.
    pub const ITEMS: usize = 2;
    /// Number of the run that was finished last.
    pub const FINISHED: usize = 3;
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadSpec {
    /// Counts the words of every regular file below a directory.
    Index {
        /// The directory; may itself be a symbolic link.
        dir: PathBuf,
        /// File for the lines `word<TAB>total<TAB>files`, sorted by bytes. Replaced at once, when all is counted.
        out: Option<PathBuf>,
    },
    /// Binary trees of the Benchmarks Game.
    Trees {
        /// Depth of the long-lived tree.
        depth: u32,
    },
    /// Boehm's GCBench.
    GcBench {
        /// Subtracted from every depth of the original, 0 to 12: for quick tests.
        smaller: u32,
    },
}

/// What a finished run reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Do the workload's own checks hold?
    pub ok: bool,
    /// Regular files read to their ends.
    pub files: u64,
    /// Words in them.
    pub words: u64,
    /// Different words.
    pub distinct: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// The first of these, each with its reason; at most [`PROBLEMS_MAX`].
    pub problems: Vec<String>,
    /// FNV-1a (64 bit) of the sorted output lines, or of `checks`: the same for any number of workers and deaths.
    pub result_hash: u64,
    /// Text of the workload's checks.
    pub checks: String,
}

/// Unreadable files that a report names.
pub const PROBLEMS_MAX: usize = 10;

/// A run, named by its number: plain data, valid in every process that has the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The run's number.
    pub run: u64,
}

/// Every task kind of every workload.
pub fn kinds() -> Kinds {
    let kinds = Kinds::new().with::<RunTask>();
    gcbench::kinds(trees::kinds(index::kinds(kinds)))
}

/// Begins run number `run`, unless it has begun already (W2).
///
/// # Errors
/// [`Error::Invalid`] for arguments that cannot work; those of an allocation and of [`P::submit`].
pub fn submit(p: &mut P, run: u64, spec: &WorkloadSpec) -> Result<Running> {
    check(spec)?;
    if p.enter(|cx| Ok::<_, Error>(run::find(cx, run)?.is_none()))? {
        make_room(p);
    }
    p.segment().name_run(run);
    let begun = p.enter(|cx| {
        let run = run::enter(cx, run, spec)?;
        Ok::<_, Error>(run.has_begun())
    })?;
    if !begun {
        p.submit(|cx| run::task(cx, run))?;
    }
    Ok(Running { run })
}

/// What failed before is over when something new begins: a run that filled the heap must not leave it full.
fn make_room(p: &mut P) {
    if p.forget_failed() > 0 {
        p.collect();
    }
}

impl Running {
    /// The result, when there is one. `None` while the run goes on, or when the heap knows no such run.
    pub fn poll(&self, p: &mut P) -> Option<Result<Report>> {
        let found = p.enter(|cx| {
            let run = run::find(cx, self.run).ok().flatten()?;
            Some(match run.outcome(cx) {
                Some(outcome) if outcome.failed == 0 => Seen::Report(report(cx, &outcome)),
                Some(outcome) => Seen::Failed(outcome.text(cx), run.met_a_full_heap()),
                None if run.has_failed() => Seen::Failed(String::new(), run.met_a_full_heap()),
                None => Seen::Nothing,
            })
        })?;
        match found {
            Seen::Report(report) => Some(Ok(report)),
            Seen::Failed(text, full) => Some(Err(run::error(p, text, full))),
            Seen::Nothing => self.stranded(p),
        }
    }

    /// Without a task that could still end the run there will be no result.
    fn stranded(&self, p: &mut P) -> Option<Result<Report>> {
        let [runnable, running, waiting, failed] = p.segment().status().tasks;
        if runnable + running + waiting > 0 || failed == 0 {
            return None;
        }
        // The last task may have ended between the two looks.
        let ended = p.enter(|cx| {
            run::find(cx, self.run)
                .ok()
                .flatten()
                .is_some_and(|r| r.outcome(cx).is_some())
        });
        if ended {
            return self.poll(p);
        }
        Some(Err(run::error(p, String::new(), false)))
    }
}

enum Seen {
    Nothing,
    Report(Report),
    /// With what is known, and whether the heap was full.
    Failed(String, bool),
}

fn report(cx: &Cx<'_>, outcome: &Outcome) -> Report {
    let problems = outcome.problems(cx);
    Report {
        ok: outcome.ok != 0,
        files: outcome.files,
        words: outcome.words,
        distinct: outcome.distinct,
        unreadable: outcome.unreadable,
        problems: problems.lines().map(str::to_owned).collect(),
        result_hash: outcome.hash,
        checks: outcome.text(cx),
    }
}

fn check(spec: &WorkloadSpec) -> Result<()> {
    match spec {
        WorkloadSpec::Index { dir, out } => check_paths(dir, out.as_deref()),
        WorkloadSpec::Trees { depth: 0..=26 } => Ok(()),
        WorkloadSpec::Trees { depth } => Err(Error::Invalid {
            what: format!("trees of depth {depth} are more than references reach: 26 at most"),
        }),
        WorkloadSpec::GcBench { smaller: 0..=12 } => Ok(()),
        WorkloadSpec::GcBench { smaller } => Err(Error::Invalid {
            what: format!("gcbench cannot be {smaller} levels smaller: 12 at most"),
        }),
    }
}

fn check_paths(dir: &Path, out: Option<&Path>) -> Result<()> {
    let what = match std::fs::metadata(dir) {
        Err(e) => format!("cannot index {}: {e}", dir.display()),
        Ok(m) if !m.is_dir() => format!(
            "cannot index {}: it is not a directory; name the one that holds it",
            dir.display()
        ),
        Ok(_) => match out {
            Some(out) if out.is_dir() || out.file_name().is_none() => format!(
                "cannot write the result to {}: it is a directory",
                out.display()
            ),
            Some(out) if !index::output::parent(out).is_dir() => format!(
                "cannot write the result to {}: {} is not a directory",
                out.display(),
                index::output::parent(out).display()
            ),
            _ => return Ok(()),
        },
    };
    Err(Error::Invalid { what })
}

/// Bytes of a path, as they are kept in the heap.
fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The path that [`path_bytes`] came from.
fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

/// FNV-1a, 64 bit, continued from `hash`.
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Where [`fnv1a`] begins.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
