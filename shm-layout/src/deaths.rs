//! The last deaths, kept in the segment: whoever recovers writes, whoever asks reads, and neither need be the daemon.
//!
//! A record is claimed before the first repair and completed after the last, both by the one recoverer there is. Its `word` is the
//! dead lease's, so a second recoverer, after the first one died, finds the record and goes on with it. Derived: nothing is decided
//! by it.

use crate::sync::{AtomicU32, AtomicU64};

/// Deaths remembered.
pub const DEATHS: usize = 64;

/// One death. 96 bytes.
#[repr(C)]
pub struct DeathRecord {
    /// The dead lease's [`crate::word::ProcWord`], state `DEAD`: process and incarnation. 0: never used.
    pub word: AtomicU64,
    /// Monotonic nanoseconds of its last sign of life: the last event or scope edge.
    pub last_sign_ns: AtomicU64,
    /// Monotonic nanoseconds when the repair began.
    pub began_ns: AtomicU64,
    /// Nanoseconds the repair took; 0 while it lasts.
    pub repair_ns: AtomicU64,
    /// Nanoseconds from the order to kill to the beginning of the repair; 0 when nobody ordered it.
    pub detect_ns: AtomicU64,
    /// Longest pause of a survivor around it, nanoseconds; 0 when nobody looked.
    pub gap_ns: AtomicU64,
    /// Its P.
    pub p: AtomicU32,
    /// What the P was doing: [`crate::proc::ProcRecord::activity`].
    pub activity: AtomicU32,
    /// In the middle of what: bits of [`doing`].
    pub doing: AtomicU32,
    /// Task it ran, plus one.
    pub task: AtomicU32,
    /// Kind of that task.
    pub kind: AtomicU32,
    /// Tasks put back.
    pub requeued: AtomicU32,
    /// Grey references taken over.
    pub adopted: AtomicU32,
    /// Process that recovered it.
    pub recoverer: AtomicU32,
    /// How its process ended, as `wait` tells, plus one; 0 when no parent saw it.
    pub status: AtomicU32,
    /// P of the survivor whose pause that was, plus one; 0 when nobody paused, or nobody looked.
    pub waiter: AtomicU32,
    /// Reserved.
    pub pad: [AtomicU32; 2],
}

/// What a P can be in the middle of: one bit per word of its record that said so.
pub mod doing {
    /// Claiming or freeing pages.
    pub const PAGES: u32 = 1;
    /// Shading in the write barrier.
    pub const BARRIER: u32 = 2;
    /// Scanning a root job.
    pub const ROOTS: u32 = 4;
    /// Sweeping.
    pub const SWEEP: u32 = 8;
    /// Moving a work buffer.
    pub const WORKBUF: u32 = 16;
    /// Starting, running or attaching a mark worker.
    pub const WORKER: u32 = 32;
    /// Scanning grey objects.
    pub const GREY: u32 = 64;
    /// Inside a scope.
    pub const SCOPE: u32 = 128;
    /// Holding the world stopped.
    pub const STOP: u32 = 256;
    /// Publishing a commit.
    pub const COMMIT: u32 = 512;
}

const _: () = assert!(size_of::<DeathRecord>() == 96);
