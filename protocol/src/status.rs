//! What the daemon tells people about itself: plain numbers, no layout of the segment.

use crate::Progress;
use serde::{Deserialize, Serialize};

/// The heap in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapNumbers {
    /// Bytes found reachable by the last collection, plus what was allocated since.
    pub live_bytes: u64,
    /// Bytes at which the next collection ends.
    pub goal_bytes: u64,
    /// Bytes backed by memory.
    pub committed_bytes: u64,
    /// The hard limit.
    pub max_bytes: u64,
    /// Collections finished.
    pub gc_cycles: u64,
    /// Phase of the collector, in its own word.
    pub gc_phase: String,
    /// GOGC; -1 when the collector is off.
    pub gc_percent: i32,
    /// Who refused the last growth below the hard limit, if somebody did.
    pub growth_refused: Option<String>,
}

/// Answer to `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the heap.
    pub name: String,
    /// The daemon's process.
    pub daemon_pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Protocol version.
    pub protocol: u32,
    /// Layout version of the segment.
    pub layout_version: u32,
    /// Layout hash of the segment.
    pub layout_hash: u64,
    /// Which life of the segment this is.
    pub incarnation: u64,
    /// Milliseconds since this daemon was ready.
    pub uptime_ms: u64,
    /// Whether this daemon took the heap over from one that died.
    pub adopted: bool,
    /// Where the memory comes from.
    pub backing: String,
    /// The heap.
    pub heap: HeapNumbers,
    /// Workers wanted.
    pub workers_wanted: u32,
    /// Workers attached.
    pub workers_attached: u32,
    /// Places left empty because their worker died too often.
    pub workers_vacant: u32,
    /// P's that may run at once.
    pub procs: u32,
    /// Workers that died since the heap was made.
    pub deaths: u64,
    /// Workers started again after a death.
    pub restarts: u64,
    /// Deaths recovered in the heap, whichever daemon, or none, was there.
    pub recoveries: u64,
    /// Tasks waiting to be run.
    pub tasks_runnable: u64,
    /// Tasks that run.
    pub tasks_running: u64,
    /// Tasks that wait for something.
    pub tasks_waiting: u64,
    /// Tasks that were given up.
    pub tasks_failed: u64,
    /// Tasks put back to be run again after a death.
    pub tasks_requeued: u64,
    /// Tools connected.
    pub tools: u32,
    /// Connections closed because they sent what is no message.
    pub bad_frames: u64,
    /// Connections refused: another uid, another layout.
    pub refused: u64,
    /// The run in hand.
    pub run: Option<(String, Progress)>,
}

/// One attached process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsRow {
    /// Its P, once it leases one.
    pub p: Option<u16>,
    /// Its process.
    pub pid: u32,
    /// starting, idle, running, outside, backoff, vacant; stopped: by order; suspect: by somebody else, and how.
    pub state: String,
    /// Tasks in its run queue.
    pub runq: u32,
    /// Tasks it stole.
    pub steals: u64,
    /// Bytes it allocated.
    pub alloc_bytes: u64,
    /// Steps of tasks it ran.
    pub steps: u64,
    /// Milliseconds since it connected.
    pub age_ms: u64,
    /// Restarts of its place.
    pub restarts: u32,
    /// Its program.
    pub program: String,
}

/// One death, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Its P, if it leased one.
    pub p: Option<u16>,
    /// Its process.
    pub pid: u32,
    /// How it ended: `signal 9 (SIGKILL)`, `exit 1`, `lost`.
    pub cause: String,
    /// What it was in the middle of, as the recovery found it.
    pub at: String,
    /// Tasks handed back to be run again.
    pub requeued: u32,
    /// Microseconds the recovery took.
    pub recovery_us: u64,
    /// Milliseconds since it happened.
    pub ago_ms: u64,
}

/// One task that is not finished, or one kind of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its number.
    pub id: u64,
    /// Name of its kind.
    pub kind: String,
    /// Its state.
    pub state: String,
    /// The P that owns it, if one does.
    pub p: Option<u16>,
    /// Runs lost to deaths or to a lack of memory.
    pub attempts: u32,
    /// Steps done.
    pub steps: u32,
    /// Exit code of the error that failed it; 0 for none.
    pub error_code: u32,
    /// Its input and what went wrong with it, in words, when it was given up.
    pub error: String,
    /// The run in hand when it failed; 0 none.
    pub run: u64,
}

/// What a heap has done since it was made, by whomever. Two of them tell what was done between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Collections finished.
    pub gc_cycles: u64,
    /// Nanoseconds of all of them.
    pub gc_cycle_ns: u64,
    /// Delays that the collector put on P's: how many lasted from 2^b to 2^(b+1) ns, by b.
    pub pause_hist: Vec<u64>,
    /// The longest of them.
    pub pause_max_ns: u64,
    /// Bytes allocated.
    pub alloc_bytes: u64,
    /// Objects allocated.
    pub alloc_objects: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes in use now.
    pub live_bytes: u64,
    /// Tasks stolen.
    pub steals: u64,
    /// Mark workers claimed by another lease than the one that parked them.
    pub migrations: u64,
    /// Steps of tasks run.
    pub steps: u64,
    /// Deaths recovered.
    pub recoveries: u64,
    /// Tasks put back after a death.
    pub requeued: u64,
    /// Tasks given up.
    pub gave_up: u64,
    /// Cycles checked by a second marking.
    pub checkmarks: u64,
    /// Cycles followed by a verification of the whole heap.
    pub verifications: u64,
    /// The farthest that a cycle has ended beyond its goal, in thousandths of the goal; since the heap began.
    pub over_goal_permille: u64,
}

impl Totals {
    /// What was done since `before`. Bytes in use are those of now.
    pub fn since(&self, before: &Totals) -> Totals {
        let hist = self.pause_hist.iter().enumerate();
        let hist: Vec<u64> = hist
            .map(|(b, n)| n - before.pause_hist.get(b).copied().unwrap_or(0).min(*n))
            .collect();
        let highest = hist.iter().rposition(|&n| n > 0);
        let longest = highest.map_or(0, |b| (2u64 << b).min(self.pause_max_ns));
        let new = self.pause_max_ns > before.pause_max_ns;
        let less = u64::saturating_sub;
        Totals {
            gc_cycles: less(self.gc_cycles, before.gc_cycles),
            gc_cycle_ns: less(self.gc_cycle_ns, before.gc_cycle_ns),
            pause_max_ns: if new { self.pause_max_ns } else { longest },
            pause_hist: hist,
            alloc_bytes: less(self.alloc_bytes, before.alloc_bytes),
            alloc_objects: less(self.alloc_objects, before.alloc_objects),
            freed_bytes: less(self.freed_bytes, before.freed_bytes),
            live_bytes: self.live_bytes,
            steals: less(self.steals, before.steals),
            migrations: less(self.migrations, before.migrations),
            steps: less(self.steps, before.steps),
            recoveries: less(self.recoveries, before.recoveries),
            requeued: less(self.requeued, before.requeued),
            gave_up: less(self.gave_up, before.gave_up),
            checkmarks: less(self.checkmarks, before.checkmarks),
            verifications: less(self.verifications, before.verifications),
            over_goal_permille: self.over_goal_permille,
        }
    }

    /// Upper bound of the delays' quantile, ns.
    ///
    /// ```
    /// use coheap_protocol::Totals;
    /// let t = Totals { pause_hist: vec![0, 0, 98, 2], pause_max_ns: 11, ..Totals::default() };
    /// assert_eq!((t.pause_ns(0.5), t.pause_ns(0.99)), (8, 11));
    /// assert_eq!(Totals::default().pause_ns(0.5), 0);
    /// ```
    pub fn pause_ns(&self, quantile: f64) -> u64 {
        let total: u64 = self.pause_hist.iter().sum();
        let wanted = (total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.pause_hist.iter().position(|&n| {
            seen += n;
            seen >= wanted
        });
        bucket.map_or(0, |b| (2u64 << b).min(self.pause_max_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_between_is_the_difference() {
        let before = Totals {
            steals: 5,
            pause_hist: vec![3, 0, 7],
            pause_max_ns: 7,
            ..Totals::default()
        };
        let after = Totals {
            steals: 9,
            pause_hist: vec![4, 1, 7],
            pause_max_ns: 7,
            live_bytes: 11,
            ..Totals::default()
        };
        let between = after.since(&before);
        assert_eq!((between.steals, between.live_bytes), (4, 11));
        assert_eq!(between.pause_hist, [1, 1, 0]);
        // The longest of before is not of between: the bound of the highest bucket is.
        assert_eq!(between.pause_max_ns, 4);
    }
}
