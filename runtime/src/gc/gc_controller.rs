//! The pacer: when a cycle starts, how many workers it gets, how much allocation must help (Go's gcController, 1.5 to 1.17, with
//! the fractional rule of Go 1.10).
//!
//! *Goal*: what the last cycle found live, grown by `gc_percent`, but not above the soft limit. *Trigger*: below the goal by as
//! much as marking is expected to need; moved by half the error after each cycle. *Utilisation*: 25 % of the P's: the rounded share
//! runs dedicated workers, a remainder of more than 30 % is spread over all P's as fractional time; idle P's help on top.
//! *Assist*: an allocation in a cycle pays scan work in proportion, from the credit of background workers first.
//!
//! Everything here is derived: sums of what P's have flushed, settled when a cycle ends. A death loses what the P had not flushed.
//! The budget of dedicated workers is a word per P, so a dead holder is found.

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use shm_layout::{
    MAX_P,
    header::Gc,
    trace::ev,
    word::{PhaseWord, ProcWord},
};

use super::gc_bg_mark_worker::Mode;
use crate::{
    sched::proc::Proc,
    segment::{HEAP_MINIMUM_BYTES, Segment},
    time::now_ns,
    twin,
};

/// Fixed point one.
const ONE: u64 = 1 << 16;
/// Share of all P's that background marking takes: Go's gcBackgroundUtilization.
const UTILIZATION: f64 = 0.25;
/// Blocks of pages that one allocation sweeps at most.
const CREDIT_BLOCKS: usize = 4;
/// Bytes a P allocates or marks before it adds them to the sums.
const FLUSH_BYTES: u64 = 16 << 10;
/// Scan work an assist does at least, in bytes; Go's gcOverAssistWork is 64 KiB.
pub(crate) const OVER_ASSIST_BYTES: u64 = 32 << 10;
/// Scan work an assist does at most. What is owed beyond is owed by the next allocation: an operation waits for each.
pub(crate) const ASSIST_BYTES: u64 = 32 << 10;
/// The same while the heap is past its goal.
pub(crate) const HASTY_ASSIST_BYTES: u64 = 256 << 10;
/// Longest run of a fractional worker: tasks wait for it.
const FRACTIONAL_RUN_NS: u64 = 100_000;

/// P's that may run: live, and below `gomaxprocs`.
pub(crate) fn active_procs(segment: &Segment) -> usize {
    let max = (segment.hdr.sched.gomaxprocs.0.load(Relaxed) as usize).min(MAX_P);
    segment.procs[..max]
        .iter()
        .filter(|r| ProcWord(r.word.0.load(Relaxed)).state() == ProcWord::LIVE)
        .count()
        .max(1)
}

/// Workers of a cycle by mode, for `procs` P's: dedicated ones, and each P's fractional share.
pub(crate) fn shares(procs: usize) -> (u32, f64) {
    let total = procs as f64 * UTILIZATION;
    let dedicated = (total + 0.5).floor();
    let error = dedicated / total - 1.0;
    if error.abs() <= 0.3 {
        return (dedicated as u32, 0.0);
    }
    let dedicated = if dedicated > total {
        dedicated - 1.0
    } else {
        dedicated
    };
    (dedicated as u32, (total - dedicated) / procs as f64)
}

/// Go's gcController.startCycle: budgets and the assist ratio of the cycle that is about to begin.
pub(crate) fn start_cycle(segment: &Segment) {
    let gc = &segment.hdr.gc;
    let (dedicated, fractional) = shares(active_procs(segment));
    gc.dedicated_wanted.store(dedicated, Relaxed);
    gc.fractional_goal
        .store((fractional * ONE as f64) as u32, Relaxed);
    gc.idle_max.store(MAX_P as u32, Relaxed);
    revise(gc);
}

/// Go's gcController.revise: work still expected, over the bytes that may still be allocated.
fn revise(gc: &Gc) {
    let live = gc.heap_live.0.load(Relaxed);
    let expected = gc.marked_live.load(Relaxed).max(live / 2);
    let work = expected
        .saturating_sub(gc.scan_work.0.load(Relaxed))
        .max(1000);
    let room = gc.goal.load(Relaxed).saturating_sub(live).max(1);
    // At most 64 bytes of work per byte: beyond that an allocation would stand still instead of being slow.
    let ratio = (work as u128 * u128::from(ONE) / u128::from(room)).min(u128::from(ONE) * 64);
    gc.assist_ratio.store(ratio as u64, Relaxed);
}

/// Go's gcController.endCycle, after marking has ended: what is live, and when the next cycle starts.
pub(crate) fn end_cycle(segment: &Segment) {
    let gc = &segment.hdr.gc;
    let marked_before = gc.marked_live.load(Relaxed);
    let live_end = gc.heap_live.0.load(Relaxed);
    // What was returned after a flush may exceed what was flushed since: none, then.
    let marked = (gc.bytes_marked.0.load(Relaxed) as i64).max(0) as u64;
    gc.live_at_mark_end.store(live_end, Relaxed);
    note_over_goal(gc, live_end);
    note_barren(gc, segment.phase().cycle(), live_end, marked);
    move_trigger(segment, marked_before, live_end);
    gc.marked_live.store(marked, Relaxed);
    gc.heap_live.0.store(marked, Relaxed);
    segment
        .hdr
        .stats
        .freed_bytes
        .fetch_add(live_end.saturating_sub(marked), Relaxed);
    set_trigger(segment);
}

/// Counts collections that did not help those who asked for them. Others say nothing: a heap may be full of live objects and do well.
fn note_barren(gc: &Gc, cycle: u32, live_end: u64, marked: u64) {
    if gc.starved_cycle.load(Relaxed) != cycle {
        return;
    }
    let freed = live_end.saturating_sub(marked);
    let barren = if freed < live_end / 8 {
        gc.barren.load(Relaxed) + 1
    } else {
        0
    };
    gc.barren.store(barren, Relaxed);
}

/// How far beyond its goal a cycle has ended; goals below the minimum heap are noise.
fn note_over_goal(gc: &Gc, live_end: u64) {
    let goal = gc.goal.load(Relaxed).max(HEAP_MINIMUM_BYTES);
    let over = live_end.saturating_sub(goal).saturating_mul(1000) / goal;
    gc.over_goal_permille
        .fetch_max(over.min(u64::from(u32::MAX)) as u32, Relaxed);
}

/// Goal and trigger from what the last cycle found live.
pub(crate) fn set_trigger(segment: &Segment) {
    let gc = &segment.hdr.gc;
    let live = gc.marked_live.load(Relaxed);
    let percent = gc.gc_percent.load(Relaxed);
    let (goal, trigger) = goal_and_trigger(
        live,
        percent,
        gc.trigger_ratio.load(Relaxed),
        gc.soft_limit.load(Relaxed),
        heap_minimum(segment),
    );
    gc.goal.store(goal, Relaxed);
    gc.trigger.0.store(trigger, Relaxed);
}

/// The least goal at `gc_percent` 100: Go's 4 MB, for each P. A cycle needs an edge of every P, and each may allocate as much between two of its edges; with
/// one such heap for all of them the collector would never rest.
fn heap_minimum(segment: &Segment) -> u64 {
    let wanted = HEAP_MINIMUM_BYTES * active_procs(segment) as u64;
    wanted.min((segment.geo.limit_bytes / 16).max(HEAP_MINIMUM_BYTES))
}

/// Goal and trigger for a heap of `live` bytes.
pub(crate) fn goal_and_trigger(
    live: u64,
    gc_percent: i32,
    trigger_ratio: u64,
    soft_limit: u64,
    minimum: u64,
) -> (u64, u64) {
    let by_percent = match u64::try_from(gc_percent) {
        Ok(percent) => (live + live / 100 * percent).max(minimum * percent / 100),
        Err(_) => u64::MAX,
    };
    // Above the limit the collector works as hard as it may: each cycle still lets the heap grow by a thirty-second, which bounds
    // its share of the time (Go's limiter), and the hard limit answers with an error.
    let floor = live + (live / 32).max(1 << 20);
    let goal = by_percent.min(soft_limit).max(floor);
    let by_ratio = if gc_percent < 0 {
        goal / 20 * 19
    } else {
        live + (u128::from(live) * u128::from(trigger_ratio) / u128::from(ONE)) as u64
    };
    let by_ratio = by_ratio.max((minimum as i64 * i64::from(gc_percent.max(0)) / 100) as u64);
    let highest = live + (goal - live) / 20 * 19;
    let lowest = live + (goal - live) / 4;
    (goal, by_ratio.clamp(lowest, highest))
}

/// The proportional controller: half the error between where the heap should have been when marking ended, and where it was.
fn move_trigger(segment: &Segment, marked_before: u64, live_end: u64) {
    let gc = &segment.hdr.gc;
    let percent = gc.gc_percent.load(Relaxed);
    if percent <= 0 || marked_before == 0 {
        return;
    }
    let goal_ratio = f64::from(percent) / 100.0;
    let trigger = gc.trigger_ratio.load(Relaxed) as f64 / ONE as f64;
    let actual = live_end as f64 / marked_before as f64 - 1.0;
    let used = utilization(segment);
    let error = goal_ratio - trigger - used / UTILIZATION * (actual - trigger);
    let moved = (trigger + 0.5 * error).clamp(goal_ratio * 0.25, goal_ratio * 0.95);
    gc.trigger_ratio.store((moved * ONE as f64) as u64, Relaxed);
}

/// Share of the P's time that marking and assists took in this cycle.
fn utilization(segment: &Segment) -> f64 {
    let gc = &segment.hdr.gc;
    let wall = gc.at_ns[4]
        .load(Relaxed)
        .saturating_sub(gc.at_ns[2].load(Relaxed))
        .max(1);
    let stats = &segment.hdr.stats;
    // Idle marking costs nobody anything: modes 0, 1 and 3 (assists) only.
    let used: u64 = [0, 1, 3]
        .iter()
        .map(|&m: &usize| {
            stats.mark_ns[m]
                .load(Relaxed)
                .saturating_sub(stats.mark_ns_at_start[m].load(Relaxed))
        })
        .sum();
    (used as f64 / wall as f64 / active_procs(segment) as f64).clamp(0.05, 1.0)
}

/// Changes the soft limit of a running heap; 0 for 95 % of the hard one.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// coheap::gc::gc_controller::set_soft_limit(&segment, 32 << 20);
/// assert_eq!(segment.status().soft_limit_bytes, 32 << 20);
/// ```
pub fn set_soft_limit(segment: &Segment, bytes: u64) {
    let bytes = if bytes == 0 {
        segment.geo.limit_bytes / 100 * 95
    } else {
        bytes
    };
    segment.hdr.gc.soft_limit.store(bytes, Relaxed);
    set_trigger(segment);
}

/// Changes GOGC of a running heap.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// coheap::gc::gc_controller::set_gc_percent(&segment, 50);
/// ```
pub fn set_gc_percent(segment: &Segment, percent: i32) {
    segment.hdr.gc.gc_percent.store(percent, Relaxed);
    set_trigger(segment);
}

impl Proc {
    /// A run of slots was taken for allocation.
    pub(crate) fn charge(&self, objects: u64, bytes: usize) {
        let stats = &self.rec.stats.0;
        // Only we write these: a load and a store, no read-modify-write.
        stats
            .alloc_bytes
            .store(stats.alloc_bytes.load(Relaxed) + bytes as u64, Relaxed);
        stats
            .alloc_objects
            .store(stats.alloc_objects.load(Relaxed) + objects, Relaxed);
        let unflushed = self.unflushed_bytes.get() + bytes as u64;
        self.unflushed_bytes.set(unflushed);
        if unflushed >= FLUSH_BYTES {
            self.flush_allocated();
        }
        if self.black.get() {
            self.gc_assist_alloc(bytes as i64);
        }
    }

    /// The rest of a run was not needed.
    pub(crate) fn uncharge(&self, objects: u64, bytes: usize) {
        let stats = &self.rec.stats.0;
        stats.alloc_bytes.store(
            stats.alloc_bytes.load(Relaxed).saturating_sub(bytes as u64),
            Relaxed,
        );
        stats.alloc_objects.store(
            stats.alloc_objects.load(Relaxed).saturating_sub(objects),
            Relaxed,
        );
        self.unflushed_bytes
            .set(self.unflushed_bytes.get().saturating_sub(bytes as u64));
    }

    fn flush_allocated(&self) {
        let bytes = self.unflushed_bytes.replace(0);
        if bytes > 0 {
            self.seg.hdr.gc.heap_live.0.fetch_add(bytes, Relaxed);
        }
    }

    /// Adds what this P has counted to the sums.
    pub(crate) fn flush_accounts(&self) {
        self.flush_allocated();
        self.flush_marked();
    }

    /// Before a span is taken: pay for sweeping, and start a cycle when the heap has grown to the trigger.
    pub(crate) fn before_new_span(&self, bytes: usize) {
        let gc = &self.seg.hdr.gc;
        if gc.heap_live.0.load(Relaxed) + bytes as u64 >= gc.trigger.0.load(Relaxed) {
            self.flush_allocated();
            self.collector_due.set(true);
            self.gc_step();
        }
        self.deduct_sweep_credit();
        self.look_at_turn(bytes);
    }

    /// Proportional sweep: all pages must be swept by the time the heap reaches the trigger (Go's deductSweepCredit).
    fn deduct_sweep_credit(&self) {
        let gc = &self.seg.hdr.gc;
        let phase = self.seg.phase();
        if phase.kind() != PhaseWord::OFF {
            return;
        }
        let (base, trigger) = (gc.marked_live.load(Relaxed), gc.trigger.0.load(Relaxed));
        let grown = gc.heap_live.0.load(Relaxed).saturating_sub(base);
        let way = trigger.saturating_sub(base).max(1);
        let pages = u64::from(self.seg.hdr.committed_chunks.0.load(Relaxed))
            * shm_layout::CHUNK_PAGES as u64;
        let due = (u128::from(pages) * u128::from(grown) * 5 / 4 / u128::from(way)) as u64;
        // Bounded: what is due and not done now is due at the next span.
        for _ in 0..CREDIT_BLOCKS {
            if gc.pages_swept.load(Relaxed) >= due.min(pages) || !self.sweep_some() {
                return;
            }
        }
    }

    /// Bytes that became black, by marking or by being allocated in a black run.
    #[inline]
    pub(crate) fn count_marked(&self, bytes: u64) {
        let unflushed = self.unflushed_marked.get().wrapping_add(bytes);
        self.unflushed_marked.set(unflushed);
        if unflushed as i64 >= FLUSH_BYTES as i64 {
            self.flush_marked();
        }
    }

    /// Slots that were marked and then not needed.
    pub(crate) fn uncount_marked(&self, bytes: u64) {
        self.unflushed_marked
            .set(self.unflushed_marked.get().wrapping_sub(bytes));
    }

    /// Adds the marked bytes to the cycle's sum; when it is over nobody reads that any more, and it may be reset for the next one.
    pub(crate) fn flush_marked(&self) {
        let bytes = self.unflushed_marked.replace(0) as i64;
        if bytes != 0 && self.seg.running_phase().black() {
            // Wrapping: what was returned after a flush is subtracted.
            self.seg
                .hdr
                .gc
                .bytes_marked
                .0
                .fetch_add(bytes as u64, Relaxed);
        }
    }

    /// Takes a unit of the dedicated budget: says so in our record, then counts; too many, and we take it back.
    pub(crate) fn take_dedicated(&self) -> bool {
        let wanted = self.seg.hdr.gc.dedicated_wanted.load(Relaxed);
        if wanted == 0 {
            return false;
        }
        self.rec.dedicated.store(1, SeqCst);
        let holders = self
            .seg
            .procs
            .iter()
            .filter(|r| r.dedicated.load(SeqCst) != 0)
            .count();
        if holders as u32 > wanted {
            self.rec.dedicated.store(0, SeqCst);
            return false;
        }
        true
    }

    /// Returns the unit, if we hold one.
    pub(crate) fn give_dedicated(&self) {
        if !twin!("budget-kept") {
            self.rec.dedicated.store(0, SeqCst);
        }
    }

    /// Is there anything left of this P's fractional share? (Go 1.10: a P's own time over the time since marking began.)
    pub(crate) fn fractional_share_left(&self) -> bool {
        let goal = u64::from(self.seg.hdr.gc.fractional_goal.load(Relaxed));
        if goal == 0 {
            return false;
        }
        let since = now_ns()
            .saturating_sub(self.seg.hdr.gc.at_ns[2].load(Relaxed))
            .max(1);
        u128::from(self.rec.stats.0.fractional_ns.load(Relaxed)) * u128::from(ONE)
            < u128::from(since) * u128::from(goal)
    }

    /// Has the running fractional worker used 1.2 times its share, or run for long? Then it preempts itself.
    pub(crate) fn fractional_share_used(&self, started_ns: u64) -> bool {
        let goal = u128::from(self.seg.hdr.gc.fractional_goal.load(Relaxed)) * 6 / 5;
        let now = now_ns();
        let since = now
            .saturating_sub(self.seg.hdr.gc.at_ns[2].load(Relaxed))
            .max(1);
        let run = now - started_ns;
        let mine = self.rec.stats.0.fractional_ns.load(Relaxed) + run;
        run > FRACTIONAL_RUN_NS || u128::from(mine) * u128::from(ONE) > u128::from(since) * goal
    }

    /// Idle workers running now.
    pub(crate) fn idle_workers(&self) -> u32 {
        self.seg
            .used_procs()
            .iter()
            .filter(|r| r.mark_mode.load(Relaxed) == Mode::Idle as u32)
            .count() as u32
    }

    /// Scan work was done: counted, credited to assists when it was background work, and the assist ratio follows.
    pub(crate) fn flush_scan_work(&self, bytes: u64, background: bool) {
        let gc = &self.seg.hdr.gc;
        if bytes == 0 {
            return;
        }
        gc.scan_work.0.fetch_add(bytes, Relaxed);
        if background {
            gc.bg_scan_credit.0.fetch_add(bytes as i64, Relaxed);
        }
        revise(gc);
    }

    /// A run of a mark worker ended.
    pub(crate) fn account_worker(&self, mode: Mode, ns: u64) {
        let i = mode as usize - 1;
        let stats = &self.seg.hdr.stats;
        stats.mark_ns[i].fetch_add(ns, Relaxed);
        stats.mark_runs[i].fetch_add(1, Relaxed);
        self.rec.stats.0.mark_ns[i].fetch_add(ns, Relaxed);
        if mode == Mode::Fractional {
            self.rec.stats.0.fractional_ns.fetch_add(ns, Relaxed);
        }
    }

    /// The collector held a running P up for this long.
    pub(crate) fn note_pause(&self, ns: u64) {
        let stats = &self.seg.hdr.stats;
        let bucket = (63 - ns.max(1).leading_zeros() as usize).min(stats.pause_hist.len() - 1);
        stats.pause_hist[bucket].fetch_add(1, Relaxed);
        stats.pause_max_ns.fetch_max(ns, Relaxed);
    }

    /// Writes an event into this P's flight recorder; returns its time.
    pub(crate) fn trace(&self, event: u8, a: u32, b: u32) -> u64 {
        self.trace_at(event, a, b, now_ns())
    }

    /// As [`Proc::trace`], by somebody who knows the time.
    pub(crate) fn trace_at(&self, event: u8, a: u32, b: u32, now: u64) -> u64 {
        let ring = &self.area.ring;
        let n = ring.next.load(Relaxed);
        let slot = &ring.events[n as usize % ring.events.len()];
        slot.at_ns.store(now, Relaxed);
        slot.what
            .store(u32::from(event) << 24 | (a & 0xff_ffff), Relaxed);
        slot.arg.store(b, Relaxed);
        // Release: the record before the count that covers it.
        ring.next.store(n + 1, std::sync::atomic::Ordering::Release);
        debug_assert!(event != 0 && event <= ev::PROC_RESIZE);
        now
    }
}

/// Are all P's past their dedicated budgets? For tests (I20: budgets return to their start value).
pub fn budgets_returned(segment: &Segment) -> bool {
    segment
        .used_procs()
        .iter()
        .all(|r| r.dedicated.load(Acquire) == 0 && r.mark_mode.load(Acquire) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_go_since_1_10() {
        let rounded: Vec<(u32, u32)> = [1, 2, 3, 4, 5, 6, 7, 8]
            .iter()
            .map(|&p| (shares(p).0, (shares(p).1 * 1000.0) as u32))
            .collect();
        assert_eq!(
            rounded,
            [
                (0, 250),
                (0, 250),
                (0, 250),
                (1, 0),
                (1, 0),
                (1, 83),
                (2, 0),
                (2, 0)
            ]
        );
    }

    #[test]
    fn trigger_lies_between_live_and_goal() {
        for live in [0, 1 << 20, 100 << 20, 3 << 30] {
            for percent in [-1, 10, 100, 400] {
                for soft in [64 << 20, 4 << 30] {
                    let (goal, trigger) =
                        goal_and_trigger(live, percent, ONE * 7 / 8, soft, 8 << 20);
                    assert!(
                        live < trigger && trigger < goal,
                        "live {live} percent {percent} soft {soft}: {trigger} {goal}"
                    );
                }
            }
        }
    }
}
