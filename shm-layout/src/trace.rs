//! The flight recorder: a ring of fixed-size events per P, in the segment, readable after its writer's death.
//!
//! A writer fills a record and then stores `next`; a reader takes the last [`EVENTS`] before `next` and drops those whose
//! time-stamps run backwards (being overwritten). Nothing is decided by the ring.

use crate::sync::{AtomicU32, AtomicU64};

/// Records per ring.
pub const EVENTS: usize = 2048;

/// One event. 16 bytes.
#[repr(C)]
pub struct Event {
    /// Monotonic nanoseconds.
    pub at_ns: AtomicU64,
    /// Event number (upper 8 bits) and first argument (24 bits).
    pub what: AtomicU32,
    /// Second argument.
    pub arg: AtomicU32,
}

/// A P's ring.
#[repr(C)]
pub struct Ring {
    /// Events ever written.
    pub next: AtomicU64,
    /// Reserved.
    pub pad: [AtomicU64; 7],
    /// The records.
    pub events: [Event; EVENTS],
}

/// Event numbers. The list is closed: tools print names for these only.
pub mod ev {
    /// A mark worker parked: worker, slot's P.
    pub const GO_PARK: u8 = 1;
    /// A mark worker was picked: worker, mode.
    pub const GO_UNPARK: u8 = 2;
    /// A task's step starts: task.
    pub const GO_START: u8 = 3;
    /// A task's step ended: task, outcome.
    pub const GO_STOP: u8 = 4;
    /// A cycle starts: cycle.
    pub const GC_START: u8 = 5;
    /// A phase begins: kind, cycle.
    pub const GC_PHASE: u8 = 6;
    /// A cycle's marking is over: cycle.
    pub const GC_DONE: u8 = 7;
    /// A mark assist: objects scanned.
    pub const MARK_ASSIST: u8 = 8;
    /// Spans swept: count.
    pub const SWEEP: u8 = 9;
    /// Tasks stolen: from P, count.
    pub const STEAL: u8 = 10;
    /// A P sleeps.
    pub const PROC_STOP: u8 = 11;
    /// A P wakes.
    pub const PROC_START: u8 = 12;
    /// A P's death was recovered: P, task.
    pub const DEATH: u8 = 13;
    /// A worker attached to a slot: worker, slot's P.
    pub const ATTACH: u8 = 14;
    /// A worker left its slot: worker, slot's P.
    pub const DETACH: u8 = 15;
    /// A worker lost the attach and exits: worker, slot's P.
    pub const ATTACH_LOST: u8 = 16;
    /// A worker became runnable for anybody: worker.
    pub const MIGRATE: u8 = 17;
    /// The heap grew: chunks.
    pub const GROW: u8 = 18;
    /// The set of P's was resized: P's.
    pub const PROC_RESIZE: u8 = 19;
}
