//! Monotonic time, the same in every process of this machine.

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline]
pub(crate) fn now_ns() -> u64 {
    #[cfg(feature = "model")]
    if crate::model::active() {
        return 1_000_000_000;
    }
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
