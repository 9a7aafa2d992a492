//! P records: one per thread that may hold references.
//!
//! Primary: `word`, `scope`, and everything under "in progress" (what the P is in the middle of; recovery reads it after the
//! certificate). The run queue is derived from task words, the span cache list from span words. Only the owner writes its
//! record, except `word` (recoverer), `ev`, `preempt`, `runq_head` and `runnext` (anybody).

use crate::sync::{AtomicU32, AtomicU64};

use crate::{header::Line, small};

/// Tasks in a local run queue: Go's figure.
pub const RUNQ: usize = small(8, 256);
/// References a P can have taken and not yet finished scanning.
pub const INFLIGHT: usize = 64;
/// Span cursors of a P: one per type it allocates.
pub const CURSORS: usize = small(32, 1024);
/// Handles of a P.
pub const HANDLES: usize = small(16, 4096);
/// Bytes reserved for a robust pthread mutex (glibc x86-64 uses 40).
pub const LIFE_BYTES: usize = 64;

/// What a P is in the middle of. Written before the step it names, so that a death leaves a trace; read by recovery only.
#[repr(C)]
pub struct InProgress {
    /// An [`crate::word::IntentWord`].
    pub intent: AtomicU64,
    /// Reference being shaded by the barrier; 0 none.
    pub shade: AtomicU32,
    /// Task being popped, claimed, run or parked, plus one.
    pub task: AtomicU32,
    /// Root job being scanned, plus one.
    pub root_job: AtomicU32,
    /// Span being swept, first page plus one.
    pub sweep_span: AtomicU32,
    /// Page block being swept, plus one.
    pub sweep_block: AtomicU32,
    /// Work buffer being moved, plus one.
    pub workbuf: AtomicU32,
    /// Mark worker it is starting, running or attaching, plus one.
    pub worker: AtomicU32,
    /// A second work buffer being moved, plus one.
    pub workbuf2: AtomicU32,
    /// Work buffers of the `gcw`, plus one each.
    pub gcw: [AtomicU32; 2],
    /// References taken from a work buffer and not finished.
    pub inflight: [AtomicU32; INFLIGHT],
}

/// What a P has done. Sums for reports and for the pacer.
#[repr(C)]
pub struct ProcStats {
    /// Bytes allocated.
    pub alloc_bytes: AtomicU64,
    /// Objects allocated.
    pub alloc_objects: AtomicU64,
    /// Steps run.
    pub steps: AtomicU64,
    /// Tasks stolen by this P.
    pub steals: AtomicU64,
    /// Times it found nothing to steal.
    pub steal_misses: AtomicU64,
    /// Nanoseconds in mark workers by mode, and in assists.
    pub mark_ns: [AtomicU64; 4],
    /// Nanoseconds of fractional marking in this cycle.
    pub fractional_ns: AtomicU64,
    /// Objects marked.
    pub marked: AtomicU64,
    /// Pages swept.
    pub swept_pages: AtomicU64,
    /// Trace events lost.
    pub dropped: AtomicU64,
    /// Monotonic nanoseconds of the last scope edge.
    pub edge_at_ns: AtomicU64,
    /// Times it slept.
    pub sleeps: AtomicU64,
    /// Times its sleep ended by a wake-up.
    pub woken: AtomicU64,
}

/// One P.
#[repr(C, align(4096))]
pub struct ProcRecord {
    /// A [`crate::word::ProcWord`].
    pub word: Line<AtomicU64>,
    /// Thread id of the owner, as the kernel puts it into the life word.
    pub tid: AtomicU32,
    /// 1 once the life word is armed.
    pub armed: AtomicU32,
    /// Start time of the owner's process in clock ticks since boot: with the pid, an identity.
    pub start_time: AtomicU64,
    /// Monotonic nanoseconds of the lease.
    pub leased_at_ns: AtomicU64,
    /// A robust pthread mutex that the owner holds for life; its first word is what the kernel marks.
    pub life: Line<[AtomicU64; LIFE_BYTES / 8]>,
    /// Phase word seen at the last edge, with bit 3 of the kind set while inside a scope; 0 when never entered.
    pub scope: Line<AtomicU64>,
    /// Futex event count: sleepers wait for it to change.
    pub ev: Line<AtomicU32>,
    /// 1 asks the running step to yield.
    pub preempt: AtomicU32,
    /// 1 while a dedicated worker runs here (budget holder).
    pub dedicated: AtomicU32,
    /// Mode of the mark worker that runs here, 0 none.
    pub mark_mode: AtomicU32,
    /// What the P is doing, for people: 0 idle, 1 scheduling, 2 task, 3 mark, 4 outside, 5 assist, 6 sweep, 7 stopped, 8 waiting in a handshake.
    pub activity: AtomicU32,
    /// What a death would interrupt.
    pub now: Line<InProgress>,
    /// Counters.
    pub stats: Line<ProcStats>,
    /// Sequence of detectable root updates; grows across leases.
    pub update_seq: AtomicU32,
    /// Oldest entry of the run queue; moved by compare-exchange by anybody.
    pub runq_head: Line<AtomicU32>,
    /// One past the newest entry; moved by the owner.
    pub runq_tail: Line<AtomicU32>,
    /// Task to run next, plus one; taken by anybody.
    pub runnext: AtomicU32,
    /// The ring.
    pub runq: Line<[AtomicU32; RUNQ]>,
}

/// What a P needs only while leased: reserved at the lease.
#[repr(C, align(4096))]
pub struct ProcArea {
    /// Spans this P allocates from, by cursor: first page plus one, 0 none. Derived from span words.
    pub cached: [AtomicU32; CURSORS],
    /// Objects this process holds across scopes. Roots.
    pub handles: [AtomicU32; HANDLES],
    /// Flight recorder.
    pub ring: crate::trace::Ring,
}

const _: () = {
    assert!(size_of::<ProcRecord>() == 4096);
    assert!(size_of::<ProcArea>().is_multiple_of(4096));
};
