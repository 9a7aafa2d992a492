//! Task records (Go's G's).
//!
//! Primary: [`TaskRecord::word`]. Contexts are replaced, never changed in place: the bit `sel` of the word chooses which of the
//! two context fields counts, so a killed step leaves the old context whole. Derived: the bitmaps of free and runnable records.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// One task. 64 bytes.
#[repr(C, align(64))]
pub struct TaskRecord {
    /// A [`crate::word::TaskWord`].
    pub word: AtomicU64,
    /// The two contexts: `context[sel]` is current. Roots.
    pub context: [AtomicU32; 2],
    /// Commit record being published, 0 for none. A root.
    pub commit: AtomicU32,
    /// Join cell to complete when the task ends, 0 for none. A root.
    pub join: AtomicU32,
    /// Index in the kind table.
    pub kind: AtomicU32,
    /// Steps finished so far.
    pub steps: AtomicU32,
    /// Monotonic nanoseconds before which a waiting task sleeps; 0 when it waits for something else.
    pub wake_at_ns: AtomicU64,
    /// Monotonic nanoseconds when it became runnable.
    pub ready_at_ns: AtomicU64,
    /// P and attempt of the last death, for the report: P in the upper half.
    pub last_death: AtomicU64,
    /// Text of the error that failed it, 0 for none. A root.
    pub error: AtomicU32,
    /// Error code of a failed task: the exit code its kind of error has.
    pub error_code: AtomicU32,
}

const _: () = assert!(size_of::<TaskRecord>() == 64);
