//! What is remembered of a death: a record in the segment, opened before the first repair and closed after the last.
//!
//! 1. [`open`] looks whether the newest record is this lease's: then an earlier recoverer died at it, and it is gone on with.
//! Otherwise the next record of the ring is filled, and the count of deaths advanced. 2. Everything is repaired. 3. [`close`] adds
//! what was done. All under the recovery lock, so there is one writer; readers ([`Segment::deaths`]) may meet a record that is
//! being filled and see a mixture, which harms nobody: nothing is decided by it.
//! **If the recoverer dies** the record stays open, with a repair time of 0, until the next recoverer closes it.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use shm_layout::{
    deaths::{DEATHS, DeathRecord, doing},
    proc::ProcRecord,
    trace::EVENTS,
    word::{IntentWord, Owner, ProcWord, TaskWord},
};

use super::activity_name;
use crate::{names, segment::Segment, time::now_ns};

/// A death as the segment remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// Deaths before it, in this segment.
    pub number: u64,
    /// Its P.
    pub p: u16,
    /// Its process.
    pub pid: u32,
    /// Its lease.
    pub incarnation: u32,
    /// What it was doing, in words.
    pub at: String,
    /// Task it ran, and that task's kind.
    pub task: Option<(u32, String)>,
    /// Tasks put back.
    pub requeued: u32,
    /// Grey references taken over.
    pub adopted: u32,
    /// Process that recovered it.
    pub recoverer: u32,
    /// How its process ended, as `wait` tells; `None` when no parent saw it.
    pub status: Option<i32>,
    /// Monotonic nanoseconds of its last sign of life.
    pub last_sign_ns: u64,
    /// Monotonic nanoseconds when the repair began.
    pub began_ns: u64,
    /// Nanoseconds the repair took; `None` while it lasts.
    pub repair_ns: Option<u64>,
    /// Nanoseconds from the order to kill to the beginning of the repair, if it was ordered.
    pub detect_ns: Option<u64>,
    /// Longest pause of a survivor around it, nanoseconds, if somebody looked.
    pub gap_ns: Option<u64>,
}

/// Opens the record of the death of P `p`, or finds the one that an earlier recoverer opened. Its number.
pub(super) fn open(segment: &Segment, p: usize, word: ProcWord) -> u64 {
    let counted = &segment.hdr.stats.deaths;
    let n = counted.load(Relaxed);
    let dead = word.with_state(ProcWord::DEAD);
    if n > 0 && record(segment, n - 1).word.load(Acquire) == dead.0 {
        return n - 1;
    }
    let r = record(segment, n);
    let proc = &segment.procs[p];
    let task = proc.now.0.task.load(Acquire);
    r.repair_ns.store(0, Relaxed);
    r.detect_ns.store(0, Relaxed);
    r.gap_ns.store(0, Relaxed);
    r.status.store(0, Relaxed);
    r.requeued.store(0, Relaxed);
    r.adopted.store(0, Relaxed);
    r.began_ns.store(now_ns(), Relaxed);
    r.last_sign_ns.store(last_sign(segment, p), Relaxed);
    r.p.store(p as u32, Relaxed);
    r.activity.store(proc.activity.load(Relaxed), Relaxed);
    r.doing.store(
        in_the_middle_of(segment, proc, Owner::new(p as u16, word.inc())),
        Relaxed,
    );
    r.task.store(task, Relaxed);
    let kind = (task != 0).then(|| segment.tasks[task as usize - 1].kind.load(Relaxed));
    r.kind.store(kind.unwrap_or(0), Relaxed);
    r.recoverer.store(std::process::id(), Relaxed);
    // Release: partner of the Acquire above and of the readers'.
    r.word.store(dead.0, Release);
    counted.store(n + 1, Release);
    n
}

/// Closes it: everything is repaired.
pub(super) fn close(segment: &Segment, number: u64, requeued: usize, adopted: usize) {
    let r = record(segment, number);
    r.requeued.fetch_add(requeued as u32, Relaxed);
    r.adopted.fetch_add(adopted as u32, Relaxed);
    let took = now_ns().saturating_sub(r.began_ns.load(Relaxed)).max(1);
    r.repair_ns.store(took, Release);
}

fn record(segment: &Segment, number: u64) -> &DeathRecord {
    &segment.hdr.deaths[number as usize % DEATHS]
}

fn last_sign(segment: &Segment, p: usize) -> u64 {
    let proc = &segment.procs[p];
    let edge = proc.stats.0.edge_at_ns.load(Relaxed);
    if proc.armed.load(Acquire) != 1 {
        return edge;
    }
    let ring = &segment.areas[p].ring;
    let next = ring.next.load(Acquire);
    let last = next
        .checked_sub(1)
        .map_or(0, |n| ring.events[n as usize % EVENTS].at_ns.load(Relaxed));
    edge.max(last)
}

fn in_the_middle_of(segment: &Segment, proc: &ProcRecord, dead: Owner) -> u32 {
    let now = &proc.now.0;
    let task = now.task.load(Relaxed);
    let committed = task != 0
        && TaskWord(segment.tasks[task as usize - 1].word.load(Relaxed)).state()
            == TaskWord::COMMITTED;
    let stop = u64::from(dead.p + 1) << 32 | u64::from(dead.inc);
    let set = |v: &shm_layout::sync::AtomicU32| v.load(Relaxed) != 0;
    [
        (
            IntentWord(now.intent.load(Relaxed)) != IntentWord(0),
            doing::PAGES,
        ),
        (set(&now.shade), doing::BARRIER),
        (set(&now.root_job), doing::ROOTS),
        (set(&now.sweep_span) || set(&now.sweep_block), doing::SWEEP),
        (set(&now.workbuf) || set(&now.workbuf2), doing::WORKBUF),
        (set(&now.worker), doing::WORKER),
        (now.inflight.iter().any(set), doing::GREY),
        (proc.scope.0.load(Relaxed) & 8 != 0, doing::SCOPE),
        (segment.hdr.gc.stop.0.load(Relaxed) == stop, doing::STOP),
        (committed, doing::COMMIT),
    ]
    .into_iter()
    .filter(|&(is, _)| is)
    .map(|(_, bit)| bit)
    .sum()
}

/// The record's activity and bits in words, the most telling first.
fn words(activity: u32, bits: u32) -> String {
    let names = [
        (doing::STOP, "stopping the world"),
        (doing::COMMIT, "commit"),
        (doing::BARRIER, "write barrier"),
        (doing::PAGES, "page allocator"),
        (doing::ROOTS, "root job"),
        (doing::GREY, "grey objects"),
        (doing::WORKBUF, "work buffer"),
        (doing::SWEEP, "span"),
        (doing::WORKER, "mark worker"),
        (doing::SCOPE, "in a scope"),
    ];
    let told: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|&(_, name)| name)
        .collect();
    if told.is_empty() {
        activity_name(activity).into()
    } else {
        format!("{}: {}", activity_name(activity), told.join(", "))
    }
}

impl Segment {
    /// The last deaths, at most 64, oldest first, whoever recovered them.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.deaths().is_empty());
    /// ```
    pub fn deaths(&self) -> Vec<Death> {
        let n = self.hdr.stats.deaths.load(Acquire);
        (n.saturating_sub(DEATHS as u64)..n)
            .map(|number| self.death(number))
            .collect()
    }

    fn death(&self, number: u64) -> Death {
        let r = record(self, number);
        let word = ProcWord(r.word.load(Acquire));
        let known = |ns: u64| (ns != 0).then_some(ns);
        let kind = self.kinds.get(r.kind.load(Relaxed) as usize);
        let kind = kind.map_or(String::new(), |k| names::read(&k.name));
        Death {
            number,
            p: r.p.load(Relaxed) as u16,
            pid: word.pid(),
            incarnation: word.inc(),
            at: words(r.activity.load(Relaxed), r.doing.load(Relaxed)),
            task: r.task.load(Relaxed).checked_sub(1).map(|task| (task, kind)),
            requeued: r.requeued.load(Relaxed),
            adopted: r.adopted.load(Relaxed),
            recoverer: r.recoverer.load(Relaxed),
            status: r.status.load(Relaxed).checked_sub(1).map(u32::cast_signed),
            last_sign_ns: r.last_sign_ns.load(Relaxed),
            began_ns: r.began_ns.load(Relaxed),
            repair_ns: known(r.repair_ns.load(Relaxed)),
            detect_ns: known(r.detect_ns.load(Relaxed)),
            gap_ns: known(r.gap_ns.load(Relaxed)),
        }
    }

    /// Adds to the newest death of this process how it ended, as `wait` tells. False when no death of it is remembered.
    pub fn note_death_status(&self, pid: u32, status: i32) -> bool {
        self.newest_death(pid)
            .map(|r| {
                r.status
                    .store(status.cast_unsigned().wrapping_add(1), Relaxed)
            })
            .is_some()
    }

    /// Adds to the newest death of this process when it was killed, for those who ordered it: monotonic nanoseconds.
    pub fn note_death_order(&self, pid: u32, killed_ns: u64) {
        if let Some(r) = self.newest_death(pid) {
            let detect = r.began_ns.load(Relaxed).saturating_sub(killed_ns);
            r.detect_ns.store(detect.max(1), Relaxed);
        }
    }

    /// Adds the longest pause of a survivor around the newest death of this process.
    pub fn note_death_gap(&self, pid: u32, gap_ns: u64) {
        if let Some(r) = self.newest_death(pid) {
            r.gap_ns.store(gap_ns, Relaxed);
        }
    }

    fn newest_death(&self, pid: u32) -> Option<&DeathRecord> {
        let n = self.hdr.stats.deaths.load(Acquire);
        let mut newest = (n.saturating_sub(DEATHS as u64)..n)
            .rev()
            .map(|n| record(self, n));
        newest.find(|r| ProcWord(r.word.load(Acquire)).pid() == pid)
    }
}
