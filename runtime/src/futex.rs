//! Futex words across processes: shared (not private), always timed.
//!
//! A store and its wake are two steps, and a process can die between them. So every wait is bounded, every waiter looks again,
//! and recovery wakes everybody. **Rejected:** pthread condition variables (a killed waiter makes a later signaller hang).
#![expect(unsafe_code, reason = "views the low half of a 64-bit word as a futex")]

use shm_layout::sync::{AtomicU32, AtomicU64};
use std::time::Duration;

use rustix::thread::futex::{Flags, wait as futex_wait, wake as futex_wake};

/// Sleeps until `word` is woken, if it still holds `value`; at most for `patience`. Returns whatever happened: look again.
pub(crate) fn wait(word: &AtomicU32, value: u32, patience: Duration) {
    #[cfg(feature = "model")]
    if crate::model::active() {
        return crate::model::would_sleep(word, value);
    }
    let timeout = rustix::time::Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    // Woken, changed before, timed out, interrupted: the caller looks again in each case.
    let _ = futex_wait(plain(word), Flags::empty(), value, Some(&timeout));
}

/// Wakes up to `count` sleepers.
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    #[cfg(feature = "model")]
    if crate::model::active() {
        return;
    }
    // Fails only for an address that is not mapped; ours is.
    let _ = futex_wake(plain(word), Flags::empty(), count);
}

/// The word as the system call takes it.
fn plain(word: &AtomicU32) -> &std::sync::atomic::AtomicU32 {
    // SAFETY: the same word under the same rules: `sync::AtomicU32` is `core`'s type, or a transparent wrapper of it.
    unsafe { std::sync::atomic::AtomicU32::from_ptr(word.as_ptr()) }
}

/// The low half of a word, for waiting on a change of it.
pub(crate) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let at = word.as_ptr().cast::<u32>();
    // SAFETY: 1. In bounds and aligned: the first half of an aligned `u64`, on a little-endian machine (asserted below). 2. Only
    // the kernel reads it, to compare: no Rust access mixes sizes.
    unsafe { AtomicU32::from_ptr(at) }
}

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the segment is laid out for little-endian machines"
);
