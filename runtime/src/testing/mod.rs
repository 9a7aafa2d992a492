//! Internals for the step killer (`tests/src/bin/stepkill/`): one operation at a time, the segment's bytes, and an audit.
//!
//! Nothing here is for programs, and nothing here does anything that a P or the kernel does not do: [`Bench`] calls the methods
//! the scheduler calls, in the order that a test wants; [`mark_dead`] stores what the kernel stores when a thread ends. The audit
//! is stricter than `gc::verify`: it may say "nothing in between", because its caller has seen to it that nobody works.

mod audit;
mod bench;
mod death;
mod image;
mod name;
#[cfg(feature = "planted")]
mod plant;
mod state;

#[cfg(feature = "planted")]
pub use plant::{plant, plant_nothing, plants};
pub use shm_layout::workbuf::WORKBUF_REFS;
pub use {
    audit::audit,
    bench::{Bench, Claimed, Loop, phase},
    death::{mark_dead, put_outside},
    image::{bytes, idle_words, telling_ranges},
    name::name_of,
    state::{is_stopped, is_vacant, live_leases, run_left, tasks_by_state, unsettled},
};

use crate::segment::Segment;

/// Sets the checks of a heap that nobody has allocated in yet, in the words of `COHEAPDEBUG`.
pub fn set_oracles(segment: &Segment, words: &str) {
    crate::heap::oracle::Oracles::of(&crate::debug::parse(words)).write(segment);
}
