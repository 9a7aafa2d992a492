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
        #[cfg(feature = "model")]
        $crate::model::label($name);
    };
}

/// Has the explorer taken the rule of this name away? Never, in any build but its own.
#[macro_export]
#[doc(hidden)]
macro_rules! twin {
    ($name:literal) => {{
        #[cfg(feature = "model")]
        {
            $crate::model::twin($name)
        }
        #[cfg(not(feature = "model"))]
        {
            false
        }
    }};
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

/// Is this fault built in and chosen? Always false in ordinary builds.
#[macro_export]
#[doc(hidden)]
macro_rules! planted {
    ($plant:ident) => {{
        #[cfg(feature = "planted")]
        {
            $crate::failpoint::is_planted($crate::failpoint::Plant::$plant)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

/// Faults that a test must see. Each breaks one "first this, then that".
#[cfg(feature = "planted")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// A grey object is marked and pushed without being on record.
    PushNotRecorded = 1,
    /// The intent to claim pages is cleared before the pages bear a name.
    IntentClearedEarly,
    /// A chunk is called ready before its pages are free by their bits.
    ReadyBeforeBits,
    /// A step's effects are applied before its commit.
    EffectBeforeCommit,
    /// A task record is reserved in nobody's name.
    ReservedByNobody,
    /// A work buffer leaves the P's record before it is published.
    BufferNotRecorded,
    /// A root job is called done before its roots are marked.
    JobDoneEarly,
    /// A lease is called live before its life word speaks for it.
    LiveBeforeArmed,
}

/// Every plant, by the name that a command takes.
#[cfg(feature = "planted")]
pub const PLANTS: &[(&str, Plant)] = &[
    ("push-not-recorded", Plant::PushNotRecorded),
    ("intent-cleared-early", Plant::IntentClearedEarly),
    ("ready-before-bits", Plant::ReadyBeforeBits),
    ("effect-before-commit", Plant::EffectBeforeCommit),
    ("reserved-by-nobody", Plant::ReservedByNobody),
    ("buffer-not-recorded", Plant::BufferNotRecorded),
    ("job-done-early", Plant::JobDoneEarly),
    ("live-before-armed", Plant::LiveBeforeArmed),
];

#[cfg(feature = "planted")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Is it the chosen one?
#[cfg(feature = "planted")]
pub fn is_planted(plant: Plant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
}

/// Chooses a fault for this process, by its name. False when there is none of that name.
#[cfg(feature = "planted")]
pub fn plant(name: &str) -> bool {
    let found = PLANTS.iter().find(|(n, _)| *n == name);
    if let Some((_, plant)) = found {
        CHOSEN.store(*plant as u8, std::sync::atomic::Ordering::Relaxed);
    }
    found.is_some()
}

/// Chooses none.
#[cfg(feature = "planted")]
pub fn plant_nothing() {
    CHOSEN.store(0, std::sync::atomic::Ordering::Relaxed);
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
