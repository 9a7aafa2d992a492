//! Marks: where the operation starts and ends, as the tracer sees it.
//!
//! A mark is one illegal instruction: the process stops with SIGILL, its tracer steps over it and knows where it is. Outside a
//! victim marks do nothing, so that survivors can run the same steps.
#![expect(
    unsafe_code,
    reason = "an instruction that stops the process for its tracer"
)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

static TRACED: AtomicBool = AtomicBool::new(false);
static WANTED: AtomicU32 = AtomicU32::new(0);

/// Marks around a spawn.
pub const SPAWN: u32 = 1;
/// A mark at the end of a step.
pub const STEP_END: u32 = 2;
/// Bytes of the marking instruction.
pub const BYTES: u64 = 2;

/// From here on marks stop this process.
pub fn traced() {
    TRACED.store(true, Relaxed);
}

/// Chooses the marks inside steps.
pub fn want(which: u32) {
    WANTED.store(which, Relaxed);
}

/// A mark inside a step, if it was chosen.
#[inline(always)]
pub fn if_wanted(which: u32) {
    if WANTED.load(Relaxed) == which {
        mark();
    }
}

/// A mark.
#[inline(always)]
pub fn mark() {
    if TRACED.load(Relaxed) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tracer skips the instruction; without a tracer the process ends, which is sound.
        unsafe {
            std::arch::asm!("ud2")
        }
    }
}
