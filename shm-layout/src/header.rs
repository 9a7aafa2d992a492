//! The segment's first bytes: identity, geometry, and the global words of collector and scheduler.
//!
//! [`Identity::magic`] is stored last by the creator, with Release: who reads it with Acquire and finds [`MAGIC`] sees the rest.
//! Groups that different processes write at the same time stand on cache lines of their own.

use crate::sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

use crate::MAX_P;

/// "coheap" and two bytes that no text file has.
pub const MAGIC: u64 = u64::from_le_bytes(*b"coheap\x00\xc7");
/// Grows with every change of the layout that a reader could notice.
pub const LAYOUT_VERSION: u32 = 3;
/// Progress counters a workload can publish.
pub const PROGRESS: usize = 16;

/// A cache line to itself.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// Identity and geometry. Written by the creator, then constant.
#[repr(C)]
pub struct Identity {
    /// [`MAGIC`], stored last.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`] of the creator.
    pub layout_version: AtomicU32,
    /// User id of the creator.
    pub uid: AtomicU32,
    /// [`LAYOUT_HASH`] of the creator.
    pub layout_hash: AtomicU64,
    /// Differs between any two segments ever made on this machine.
    pub incarnation: AtomicU64,
    /// Hard limit of the heap, in bytes: decides every offset.
    pub limit_bytes: AtomicU64,
    /// Wall clock nanoseconds of the creation.
    pub created_at_ns: AtomicU64,
    /// Name of the heap, UTF-8, zero padded.
    pub name: [AtomicU64; 8],
}

/// What the collector's phases turn on.
#[repr(C)]
pub struct Gc {
    /// A [`crate::word::PhaseWord`]. Primary.
    pub phase: Line<AtomicU64>,
    /// Somebody shaded, flushed or weakly loaded since the round began. Primary.
    pub dirty: Line<AtomicU32>,
    /// P (upper half) and incarnation of who stopped the world; 0 nobody. Primary.
    pub stop: Line<AtomicU64>,
    /// Phase kind to return to after the stop. Primary.
    pub stop_resume: AtomicU32,
    /// 1 when work buffers ran out and marked objects wait in nobody's keeping: the heap is rescanned. Primary.
    pub overflow: AtomicU32,
    /// A step ran out of memory: no tasks run before this cycle has ended.
    pub starved_cycle: AtomicU32,
    /// Cycles in a row that a starved step asked for and that freed next to nothing. Derived.
    pub barren: AtomicU32,
    /// Cycles asked for by people, as a cycle number to reach.
    pub requested_cycle: AtomicU32,
    /// Trigger of the running cycle: 0 pace, 1 limit, 2 forced, 3 periodic, 4 death.
    pub trigger_kind: AtomicU32,

    /// Next page to sweep. Derived: a recoverer sets it back to 0.
    pub sweep_cursor: Line<AtomicU64>,
    /// Pages swept in this generation.
    pub pages_swept: AtomicU64,
    /// Spans below this page (lower half) were all seen swept after this cycle (upper half). Derived.
    pub rest_swept: AtomicU64,
    /// Bytes allocated since the last cycle plus bytes it found live. Derived; settled at the end of each cycle.
    pub heap_live: Line<AtomicU64>,
    /// `heap_live` at which a cycle starts.
    pub trigger: Line<AtomicU64>,
    /// `heap_live` at which it should end.
    pub goal: AtomicU64,
    /// Bytes that the last cycle marked.
    pub marked_live: AtomicU64,
    /// `heap_live` when the running cycle began.
    pub live_at_start: AtomicU64,
    /// `heap_live` when its marking ended.
    pub live_at_mark_end: AtomicU64,
    /// Bytes marked so far in the running cycle: the sum of what the P's flushed.
    pub bytes_marked: Line<AtomicU64>,
    /// Bytes scanned so far in the running cycle. Black allocation is no progress, so this is not `bytes_marked`.
    pub scan_work: Line<AtomicU64>,
    /// Scan work that background workers did and assists may use, in bytes.
    pub bg_scan_credit: Line<AtomicI64>,
    /// Assist work per allocated byte, in 1/65536.
    pub assist_ratio: AtomicU64,
    /// Trigger ratio of the pacer, in 1/65536.
    pub trigger_ratio: AtomicU64,
    /// GOGC; negative is off.
    pub gc_percent: AtomicI32,
    /// P's that must run a dedicated worker in this cycle.
    pub dedicated_wanted: AtomicU32,
    /// Share of each P for a fractional worker, in 1/65536; 0 none.
    pub fractional_goal: AtomicU32,
    /// Idle workers allowed at once.
    pub idle_max: AtomicU32,
    /// Soft limit in bytes; 0 none.
    pub soft_limit: AtomicU64,
    /// Root jobs of the running cycle.
    pub root_jobs: AtomicU32,
    /// Next root job nobody has looked at. Derived.
    pub root_next: AtomicU32,
    /// Monotonic nanoseconds: cycle asked for, barrier on everywhere, marking begun, last round begun, marking over.
    pub at_ns: [AtomicU64; 5],
    /// Rounds of this cycle.
    pub rounds: AtomicU32,
    /// Cycles finished whose marking ended with a checkmark pass.
    pub checkmarks: AtomicU32,
    /// Last cycle that was followed by a verification. Primary where `gcverify` is on: the next cycle waits for it.
    pub verified_cycle: AtomicU32,
    /// Cycles followed by a verification.
    pub verifications: AtomicU32,
    /// The farthest that a cycle has ended beyond its goal, in thousandths of the goal.
    pub over_goal_permille: AtomicU32,
}

/// What the scheduler shares.
#[repr(C)]
pub struct Sched {
    /// P's allowed to run tasks: those with a lower index. Primary.
    pub gomaxprocs: Line<AtomicU32>,
    /// 1 when everybody should leave. Primary.
    pub shutdown: AtomicU32,
    /// Task records ever used: scans go this far.
    pub task_high: AtomicU32,
    /// Work buffers ever used.
    pub workbuf_high: AtomicU32,
    /// P records ever leased: scans go this far.
    pub proc_high: AtomicU32,
    /// Mark workers ever used: scans go this far.
    pub worker_high: AtomicU32,
    /// Bit per P that sleeps. Derived: recovery wakes everybody.
    pub idle: Line<[AtomicU64; MAX_P / 64]>,
    /// P's that look for work and have none. Derived: a hint for wake-ups.
    pub spinning: Line<AtomicU32>,
    /// Earliest `wake_at_ns` of a sleeping task, `u64::MAX` none. Derived.
    pub next_timer_ns: Line<AtomicU64>,
    /// Where the next look for a globally queued task starts.
    pub global_next: Line<AtomicU32>,
    /// Deaths of one step after which its task is given up; 0 never.
    pub redeliver_max: AtomicU32,
    /// What programs call the run in hand; 0 none. Told of tasks that fail meanwhile, and nothing else.
    pub run: AtomicU64,
    /// Checks that the heap's maker has asked for (`coheap::heap::oracle`): bits. Constant.
    pub oracles: AtomicU32,
    /// Grows with each lease; a futex on which who watches life words waits too. A hint.
    pub leases: AtomicU32,
}

/// Sums and counters that reports read. Derived: nothing is decided by them.
#[repr(C)]
pub struct Stats {
    /// Cycles finished.
    pub cycles: AtomicU64,
    /// Cycles by trigger.
    pub cycles_by: [AtomicU64; 5],
    /// Times a P was certified dead: entries ever made in [`Header::deaths`].
    pub deaths: AtomicU64,
    /// Bytes freed by sweeping.
    pub freed_bytes: AtomicU64,
    /// Compare-exchanges of the attach step that lost.
    pub attach_lost: AtomicU64,
    /// Mark workers claimed by another process than the one that parked them.
    pub migrations: AtomicU64,
    /// Tasks given up.
    pub gave_up: AtomicU64,
    /// Tasks put back after a death.
    pub requeued: AtomicU64,
    /// Chunks returned to the kernel.
    pub released_chunks: AtomicU64,
    /// Who refused the last growth (`segment::limits`); 0 when it succeeded.
    pub growth_refused: AtomicU64,
    /// Recovery arms taken, by arm.
    pub probes: [AtomicU64; 64],
    /// Histogram of delays the collector put on running P's: bucket b counts delays of [2^b, 2^(b+1)) ns.
    pub pause_hist: [AtomicU64; 48],
    /// Longest of them, in ns.
    pub pause_max_ns: AtomicU64,
    /// Nanoseconds of mark workers by mode (dedicated, fractional, idle) and of assists, all cycles.
    pub mark_ns: [AtomicU64; 4],
    /// The same at the start of the running cycle.
    pub mark_ns_at_start: [AtomicU64; 4],
    /// Runs of mark workers by mode.
    pub mark_runs: [AtomicU64; 4],
    /// Sum of the cycles' durations.
    pub cycle_ns: AtomicU64,
    /// Counters a workload publishes, for progress lines.
    pub progress: [AtomicU64; PROGRESS],
}

/// The first page run of the segment.
#[repr(C, align(4096))]
pub struct Header {
    /// Who made this, and how large.
    pub id: Identity,
    /// Chunks whose memory is reserved: pages of lower chunks may be touched. Primary.
    pub committed_chunks: Line<AtomicU32>,
    /// Chunks before this one have been tried for huge pages. A hint.
    pub huge_next: Line<AtomicU32>,
    /// A robust pthread mutex: one recoverer at a time. Its holder's death passes it on.
    pub recovery: Line<[AtomicU64; 8]>,
    /// Collector.
    pub gc: Gc,
    /// Scheduler.
    pub sched: Sched,
    /// Reports.
    pub stats: Stats,
    /// `seen[p]`: highest update sequence of P p that somebody has overwritten in a root (detectable compare-exchange). Primary.
    pub seen: [AtomicU32; MAX_P],
    /// The last deaths, in a ring: number n stands in `n % DEATHS`; [`Stats::deaths`] counts them.
    pub deaths: [crate::deaths::DeathRecord; crate::deaths::DEATHS],
}

/// A fingerprint of every size in the segment: two binaries that disagree about one of them must not share it.
pub const LAYOUT_HASH: u64 = {
    use crate::{
        proc::ProcRecord, span::SpanRecord, tables, task::TaskRecord, trace::Ring,
        workbuf::Workbuf, worker::WorkerRecord,
    };
    let sizes = [
        LAYOUT_VERSION as u64,
        size_of::<Header>() as u64,
        core::mem::offset_of!(Header, gc) as u64,
        core::mem::offset_of!(Header, sched) as u64,
        core::mem::offset_of!(Header, stats) as u64,
        size_of::<ProcRecord>() as u64,
        core::mem::offset_of!(ProcRecord, runq) as u64,
        size_of::<SpanRecord>() as u64,
        size_of::<tables::ShapeRecord>() as u64,
        size_of::<tables::TypeRecord>() as u64,
        size_of::<tables::RootRecord>() as u64,
        size_of::<TaskRecord>() as u64,
        size_of::<Ring>() as u64,
        size_of::<Workbuf>() as u64,
        size_of::<WorkerRecord>() as u64,
        crate::CHUNK_BYTES as u64,
        crate::PAGE_BYTES as u64,
        MAX_P as u64,
    ];
    // FNV-1a over the sizes.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut i = 0;
    while i < sizes.len() {
        hash = (hash ^ sizes[i]).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
};
