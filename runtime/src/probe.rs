//! Probes: each branch of recovery is counted in the segment, and one that no test reaches fails the build of `stepkill`.

/// Counts a branch of recovery in the segment.
#[macro_export]
#[doc(hidden)]
macro_rules! probe {
    ($segment:expr, $probe:ident) => {
        $segment.hdr.stats.probes[$crate::probe::Probe::$probe as usize]
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    };
}

macro_rules! probes {
    ($($probe:ident,)*) => {
        /// Branches of recovery. The number is the index of the counter in the segment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[allow(
            missing_docs,
            reason = "each is named after the point of death it handles"
        )]
        pub enum Probe {
            $($probe,)*
        }

        /// Every probe, in the order of its counter.
        pub const PROBES: &[Probe] = &[$(Probe::$probe,)*];
    };
}

probes! {
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
    Stillborn,
    TaskFailed,
    RecoveryTakenOver,
    DeathCountedBefore,
    ObletInFlight,
}
