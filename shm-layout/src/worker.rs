//! Mark workers: a context that one process at a time runs, and the slot through which a P finds its own.
//!
//! Primary: [`WorkerRecord::word`] owns the context; [`SlotRecord::word`] designates. See `protocol.md` of the design notes and
//! `runtime/src/gc/gc_bg_mark_worker.rs`. Every other field is the context: touched only by the process that the word says is
//! running it.

use crate::sync::{AtomicU32, AtomicU64};

/// Where a parked or runnable worker goes on: the resumable part of its state machine.
pub mod pc {
    /// Fresh: has never run.
    pub const START: u32 = 0;
    /// Drains when its home picks it.
    pub const DRAIN: u32 = 1;
    /// In `gc_mark_done`, between two looks at the handshake.
    pub const MARK_DONE: u32 = 2;
}

/// One mark worker's word and context.
#[repr(C, align(128))]
pub struct WorkerRecord {
    /// A [`crate::word::WorkerWord`].
    pub word: AtomicU64,
    /// Home: P in the upper half, its lease's incarnation in the lower. Written by the owner while `RUNNING`.
    pub home: AtomicU64,
    /// One of [`pc`].
    pub pc: AtomicU32,
    /// Mode of the current or last run: 0 not a worker, 1 dedicated, 2 fractional, 3 idle.
    pub mode: AtomicU32,
    /// P (upper half) and incarnation (lower) that parked it last.
    pub parked_by: AtomicU64,
    /// Phase epoch that `gc_mark_done` waits for.
    pub round_epoch: AtomicU32,
    /// Times it was claimed.
    pub runs: AtomicU32,
    /// Times it was claimed by another lease than the one that parked it.
    pub migrations: AtomicU32,
    /// Objects it has scanned, all runs together.
    pub scanned: AtomicU32,
    /// Monotonic nanoseconds of its last transition.
    pub moved_at_ns: AtomicU64,
    /// Trace sequence number: orders its events across processes.
    pub seq: AtomicU32,
    /// Reserved; keeps the record a whole number of cache lines.
    pub pad: AtomicU32,
}

const _: () = assert!(size_of::<WorkerRecord>() == 128);

/// A P's slot `gc_bg_mark_worker`, a cache line to itself.
#[repr(C, align(64))]
pub struct SlotRecord {
    /// A [`crate::word::SlotWord`].
    pub word: AtomicU64,
}
