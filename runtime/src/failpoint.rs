//! Named points where a test may kill or stop this process, and counted branches of recovery.
//!
//! In ordinary builds `failpoint!` is nothing. With the feature `failpoints` each point asks the `fail`
//! crate; `COHEAP_FAILPOINTS="pages.bits=3*off->kill"` kills the process at its fourth pass. Names are those of the protocol step
//! that has just been done.

/// A named step of a protocol.
#[macro_export]
#[doc(hidden)]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::hit($name);
    };
}

/// Counts a branch of recovery in the segment.
#[macro_export]
#[doc(hidden)]
macro_rules! probe {
    ($segment:expr, $probe:ident) => {
        $segment.hdr.stats.probes[$crate::failpoint::Probe::$probe as usize]
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    };
}

/// Branches of recovery. The number is the index of the counter in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(
    missing_docs,
    reason = "each is named after the point of death it handles"
)]
pub enum Probe {
    GrowCommitting,
    GrowReleasing,
    PagesNamed,
    PagesUnnamed,
    SpanCached,
    SpanSweeping,
    SpanTaken,
    SweepBlock,
    ShadeUnfinished,
    ObjectInFlight,
    RootJobClaimed,
    WorkbufOwnedFull,
    WorkbufOwnedEmpty,
    WorkbufPublished,
    WorkbufHidden,
    SlotEmptyClosed,
    SlotFullSeized,
    WorkerRunning,
    WorkerParkedUnpublished,
    WorkerParkedPublished,
    HandlesDropped,
    TaskRunning,
    TaskCommitted,
    TaskReserved,
    TaskParked,
    TaskGaveUp,
    RunqDrained,
    StopReleased,
    DedicatedReturned,
    QueueNodeTaken,
}

/// Every probe, in the order of its counter, with its name.
pub const PROBES: &[Probe] = {
    use Probe::*;
    &[
        GrowCommitting,
        GrowReleasing,
        PagesNamed,
        PagesUnnamed,
        SpanCached,
        SpanSweeping,
        SpanTaken,
        SweepBlock,
        ShadeUnfinished,
        ObjectInFlight,
        RootJobClaimed,
        WorkbufOwnedFull,
        WorkbufOwnedEmpty,
        WorkbufPublished,
        WorkbufHidden,
        SlotEmptyClosed,
        SlotFullSeized,
        WorkerRunning,
        WorkerParkedUnpublished,
        WorkerParkedPublished,
        HandlesDropped,
        TaskRunning,
        TaskCommitted,
        TaskReserved,
        TaskParked,
        TaskGaveUp,
        RunqDrained,
        StopReleased,
        DedicatedReturned,
        QueueNodeTaken,
    ]
};

/// One pass of a failpoint. Actions: those of the `fail` crate, of which `return(kill)` and `return(stop)` signal this process.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use nix::sys::signal::{Signal, raise};
    let act = |what: Option<String>| match what.as_deref() {
        Some("kill") => raise(Signal::SIGKILL).expect("a process may signal itself"),
        Some("stop") => raise(Signal::SIGSTOP).expect("a process may signal itself"),
        _ => {}
    };
    fail::eval(name, act);
}

/// Arms the points named in `COHEAP_FAILPOINTS` (grammar of the `fail` crate, with `kill` and `stop` as extra tasks).
#[cfg(feature = "failpoints")]
pub fn arm_from_environment() -> Result<(), String> {
    let Ok(spec) = std::env::var("COHEAP_FAILPOINTS") else {
        return Ok(());
    };
    for point in spec.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, actions) = point
            .split_once('=')
            .ok_or_else(|| format!("failpoint {point:?} has no `=`"))?;
        let actions = actions
            .replace("kill", "return(kill)")
            .replace("stop", "return(stop)");
        fail::cfg(name.trim(), &actions)?;
    }
    Ok(())
}
