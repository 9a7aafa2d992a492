//! What nobody in a scope can do for itself (Go's sysmon): asking long steps to yield, waking sleepers for work that is waiting,
//! a collection every two minutes, huge pages, trace lines. The daemon calls [`tick`] about every 10 ms; nothing depends on it for safety.

use std::{
    fmt::Write,
    sync::atomic::Ordering::{Acquire, Relaxed},
};

use shm_layout::word::{PhaseWord, ProcWord, TaskWord, WorkerWord};

use crate::{
    gc,
    sched::{find_runnable::activity, wake},
    segment::Segment,
    status::Status,
    time::now_ns,
};

/// A step may run this long before it is asked to yield: Go's forcePreemptNS.
const SLICE_NS: u64 = 10_000_000;
/// Time between two ticks, about.
const TICK_NS: u64 = 10_000_000;
/// One in so many ticks gives a chunk huge pages. Copying it takes some milliseconds: worth it for a heap that stays, lost on one
/// that is gone in seconds.
const HUGE_TICKS: u64 = 50;
/// A heap is collected at least this often while it is used: Go's forcegcperiod.
const FORCE_GC_NS: u64 = 120_000_000_000;

/// Looks after the heap once.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// coheap::sysmon::tick(&segment);
/// ```
pub fn tick(segment: &Segment) {
    let now = now_ns();
    for record in segment.used_procs() {
        if ProcWord(record.word.0.load(Relaxed)).state() != ProcWord::LIVE {
            continue;
        }
        let began = record.stats.0.edge_at_ns.load(Relaxed);
        if record.activity.load(Relaxed) == activity::TASK && now.saturating_sub(began) > SLICE_NS {
            record.preempt.store(1, Relaxed);
        }
    }
    let phase = segment.phase();
    let due = segment.hdr.sched.next_timer_ns.0.load(Acquire) <= now;
    // In a cycle the last P to acknowledge a handshake wakes nobody.
    if due || segment.task_run.any_below(segment.tasks_used()) || phase.kind() != PhaseWord::OFF {
        wake::wake_one(segment);
    }
    if (now / TICK_NS).is_multiple_of(HUGE_TICKS) {
        segment.make_huge();
    }
    let last = segment.hdr.gc.at_ns[4].load(Relaxed);
    let grown = segment.hdr.gc.heap_live.0.load(Relaxed) > segment.hdr.gc.marked_live.load(Relaxed);
    if phase.kind() == PhaseWord::OFF
        && last != 0
        && now.saturating_sub(last) > FORCE_GC_NS
        && grown
        && segment.hdr.gc.gc_percent.load(Relaxed) >= 0
    {
        gc::request(segment);
    }
}

/// What `COHEAPDEBUG` says about `schedtrace`: every so many milliseconds, and whether in detail. `None`: not asked for.
pub fn schedtrace() -> Option<(u64, bool)> {
    let debug = gc::gctrace::debug();
    (debug.schedtrace_ms > 0).then_some((debug.schedtrace_ms, debug.scheddetail))
}

/// The monotonic clock of all times in the segment, in nanoseconds.
pub fn clock_ns() -> u64 {
    now_ns()
}

/// The `schedtrace` line, in Go's shape, our fields at the end.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// assert!(coheap::sysmon::sched_line(&segment, 500, false).starts_with("SCHED 500ms: gomaxprocs="));
/// ```
pub fn sched_line(segment: &Segment, since_start_ms: u64, detail: bool) -> String {
    let status = segment.status();
    let idle: u32 = segment
        .hdr
        .sched
        .idle
        .0
        .iter()
        .map(|w| w.load(Relaxed).count_ones())
        .sum();
    let global: u32 = segment
        .task_run
        .bits
        .iter()
        .take(segment.hdr.sched.task_high.load(Relaxed).div_ceil(64) as usize)
        .map(|w| w.load(Relaxed).count_ones())
        .sum();
    let queues: Vec<String> = status.procs.iter().map(|p| p.runq.to_string()).collect();
    let ticks: Vec<String> = status.procs.iter().map(|p| p.steps.to_string()).collect();
    let mut line = format!(
        "SCHED {since_start_ms}ms: gomaxprocs={} idleprocs={idle} threads={} spinningthreads={} needspinning=0 idlethreads={idle} runqueue={global} [{}] schedticks=[{}] steals={} deaths={}\n",
        status.gomaxprocs,
        status.procs.len(),
        segment.hdr.sched.spinning.0.load(Relaxed),
        queues.join(" "),
        ticks.join(" "),
        status.steals,
        status.deaths,
    );
    if detail {
        add_detail(segment, &status, &mut line);
    }
    line
}

fn add_detail(segment: &Segment, status: &Status, line: &mut String) {
    for p in &status.procs {
        let task = p.task.map_or_else(|| "-".to_owned(), |t| t.to_string());
        let worker = p.worker.map_or_else(|| "-".to_owned(), |w| w.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(
            line,
            "  P{}: status={} pid={} schedtick={} runqsize={} activity={} task={task} worker={worker}",
            p.p, p.state, p.pid, p.steps, p.runq, p.activity
        );
    }
    for (g, w) in gc::gc_bg_mark_worker::used_workers(segment)
        .iter()
        .enumerate()
    {
        let word = WorkerWord(w.word.load(Acquire));
        let state = match word.state() {
            WorkerWord::RUNNING => "running",
            WorkerWord::RUNNABLE => "runnable",
            WorkerWord::PARKED => "waiting(GC worker (idle))",
            _ => "dead",
        };
        let _ = writeln!(
            line,
            "  W{g}: status={state} p={} home={} runs={} migrations={}",
            word.p(),
            w.home.load(Relaxed) >> 32,
            w.runs.load(Relaxed),
            w.migrations.load(Relaxed)
        );
    }
    let high = segment.tasks_used();
    for (i, t) in segment.tasks[..high].iter().enumerate() {
        let word = TaskWord(t.word.load(Acquire));
        if word.state() != TaskWord::FREE {
            let _ = writeln!(
                line,
                "  G{i}: status={} p={} attempts={} steps={}",
                word.state(),
                word.p(),
                word.attempts(),
                t.steps.load(Relaxed)
            );
        }
    }
}
