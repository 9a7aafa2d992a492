//! Task records (Go's G's).
//!
//! Primary: [`TaskRecord::word`]. Contexts are replaced, never changed in place: the bit `sel` of the word chooses which of the
//! two context fields counts, so a killed step leaves the old context whole. Derived: the bitmaps of free and runnable records.

use crate::sync::{AtomicU32, AtomicU64};

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
    /// Of a waiting task: monotonic nanoseconds before which it sleeps; 0 when it waits for something else. Of a failed one: the run that
    /// was in hand when it failed ([`crate::header::Sched::run`]); it waits for nothing any more, and a record has no other room.
    pub wake_at_ns: AtomicU64,
    /// Runs of the present step that died (upper half) and that ran out of memory (lower half). They count while the word's
    /// `attempts` is not 0, so a commit, which clears that, clears these too.
    pub tries: AtomicU64,
    /// The last death that was counted, and the count with it, in one store: P in the upper 16 bits, incarnation, deaths of this step in
    /// the lower 16. Tells a second recoverer what the first had counted.
    pub last_death: AtomicU64,
    /// Text of the error that failed it, 0 for none. A root.
    pub error: AtomicU32,
    /// Error code of a failed task: the exit code its kind of error has.
    pub error_code: AtomicU32,
}

const _: () = assert!(size_of::<TaskRecord>() == 64);
