//! The stepped process: a victim that does one operation, or a recoverer that recovers the dead.
//!
//! 1. It asks to die with its parent, takes the fault it is to have, and opens the segment by its parent's descriptor.
//! 2. It lets itself be traced and stops, so that the parent has it before it does anything.
//! 3. From there on marks stop it. It passes one, does what it is for, passes another, and puts everything in order.
//!
//! **Nothing else happens between the two marks**: what is stepped is the operation, or the recovery, and no more.

use std::process::ExitCode;

#[cfg(feature = "planted")]
use coheap::testing;
use coheap::{Segment, recover};

#[cfg(feature = "planted")]
use crate::tracer;
use crate::{mark, ops::OPS};

/// The stepped process: a victim, or a recoverer.
pub fn child(args: &[String], path: &str) -> ExitCode {
    use nix::sys::{
        prctl, ptrace,
        signal::{Signal, raise},
    };
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for a signal");
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var(tracer::PLANT) {
        testing::plant(&name).expect("a fault by a name that the parent has checked");
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the parent's descriptor");
    let segment = Segment::open_fd(file.into()).expect("the parent's segment");
    ptrace::traceme().expect("a parent that traces");
    raise(Signal::SIGSTOP).expect("a process may stop itself");
    mark::traced();
    match args[0].as_str() {
        "--victim" => {
            let op = OPS
                .iter()
                .find(|o| o.name == args[1])
                .expect("an operation");
            (op.run)(&segment);
        }
        _ => {
            mark::mark();
            let reports = recover::recover_dead(&segment);
            mark::mark();
            drop(reports);
        }
    }
    ExitCode::SUCCESS
}
