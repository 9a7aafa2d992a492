//! What is remembered of a death: a record in the segment, opened before the first repair and closed after the last.
//!
//! 1. [`open`] looks whether there is a record of this lease: then an earlier recoverer died at it, or put it off because it had to
//! wait for another of the dead, and it is gone on with. Otherwise the next record of the ring is filled, and the count of deaths
//! advanced. 2. Everything is repaired. 3. [`close`] adds what was done. All under the recovery lock, so there is one writer; readers
//! ([`Segment::deaths`]) look at the count before and after, and leave out what may have been filled again meanwhile. Nothing is
//! decided by it.
//! **If the recoverer dies** the record stays open, with a repair time of 0, until the next recoverer closes it.

use std::sync::atomic::{
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use shm_layout::{
    deaths::{DEATHS, DeathRecord, doing},
    proc::ProcRecord,
    trace::EVENTS,
    word::{IntentWord, Owner, ProcWord, TaskWord},
};

use super::activity_name;
use crate::{names, segment::Segment, time::now_ns, trace::Gap};

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
    /// Longest pause of a survivor around it, nanoseconds, if somebody looked; 0 when nobody paused.
    pub gap_ns: Option<u64>,
    /// P of that survivor.
    pub waiter: Option<u16>,
}

/// Opens the record of the death of P `p`, or finds the one that an earlier recoverer opened. Its number.
pub(super) fn open(segment: &Segment, p: usize, word: ProcWord) -> u64 {
    let counted = &segment.hdr.stats.deaths;
    let n = counted.load(Relaxed);
    let dead = word.with_state(ProcWord::DEAD);
    // All that are kept, not the newest only: of several dead at once, the first may have been put off. A process may lease several
    // P's, with equal incarnations.
    let of_this_lease = |&number: &u64| {
        let r = record(segment, number);
        r.word.load(Acquire) == dead.0 && r.p.load(Relaxed) == p as u32
    };
    if let Some(known) = kept(n).rev().find(of_this_lease) {
        return known;
    }
    let r = record(segment, n);
    let proc = &segment.procs[p];
    let task = proc.now.0.task.load(Acquire);
    // Whoever reads one of the new fields finds the count that says whose they are; partner of the fence in `deaths`.
    fence(Release);
    r.repair_ns.store(0, Relaxed);
    r.detect_ns.store(0, Relaxed);
    r.gap_ns.store(0, Relaxed);
    r.waiter.store(0, Relaxed);
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

/// The word of its record.
fn dead_word(death: &Death) -> ProcWord {
    ProcWord(0)
        .with_pid(death.pid)
        .with_inc(death.incarnation)
        .with_state(ProcWord::DEAD)
}

/// Numbers of the deaths that are remembered when there were `n`.
fn kept(n: u64) -> std::ops::Range<u64> {
    n.saturating_sub(DEATHS as u64)..n
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
    /// The last deaths, at most 63, oldest first, whoever recovered them.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.deaths().is_empty());
    /// ```
    pub fn deaths(&self) -> Vec<Death> {
        let mut deaths: Vec<Death> = kept(self.hdr.stats.deaths.load(Acquire))
            .map(|number| self.death(number))
            .collect();
        // The record that is 64 behind the next may be the next's by now.
        fence(Acquire);
        let n = self.hdr.stats.deaths.load(Relaxed);
        deaths.retain(|death| death.number + DEATHS as u64 > n);
        deaths
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
            // Stored one too high: 0 says that nobody looked.
            gap_ns: known(r.gap_ns.load(Acquire)).map(|ns| ns - 1),
            waiter: r.waiter.load(Relaxed).checked_sub(1).map(|p| p as u16),
        }
    }

    /// Adds to the deaths of this process, one for each P it leased, how it ended, as `wait` tells (`None`: not known). Those that
    /// say so already are of an earlier process with that number. False when no death of it is remembered.
    pub fn note_death_status(&self, pid: u32, status: Option<i32>) -> bool {
        let mut found = false;
        for r in kept(self.hdr.stats.deaths.load(Acquire)).map(|n| record(self, n)) {
            if ProcWord(r.word.load(Acquire)).pid() == pid && r.status.load(Relaxed) == 0 {
                found = true;
                if let Some(status) = status {
                    r.status
                        .store(status.cast_unsigned().wrapping_add(1), Relaxed);
                }
            }
        }
        found
    }

    /// Adds to the newest death of this process when it was killed, for those who ordered it: monotonic nanoseconds.
    pub fn note_death_order(&self, pid: u32, killed_ns: u64) {
        if let Some(r) = self.newest_death(pid) {
            let detect = r.began_ns.load(Relaxed).saturating_sub(killed_ns);
            r.detect_ns.store(detect.max(1), Relaxed);
        }
    }

    /// Adds who paused longest around this death, and for how long; `None`: nobody did. Once: a death that is told so already, or
    /// remembered no more, stays as it is.
    pub fn note_death_gap(&self, death: &Death, gap: Option<Gap>) {
        let r = record(self, death.number);
        if r.word.load(Acquire) == dead_word(death).0 && r.gap_ns.load(Relaxed) == 0 {
            r.waiter
                .store(gap.map_or(0, |g| u32::from(g.p) + 1), Relaxed);
            // Release: the waiter first; partner of the Acquire in `death`.
            r.gap_ns.store(gap.map_or(0, |g| g.ns) + 1, Release);
        }
    }

    /// Deaths ever, in this segment.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert_eq!(segment.deaths_ever(), 0);
    /// ```
    pub fn deaths_ever(&self) -> u64 {
        self.hdr.stats.deaths.load(Acquire)
    }

    fn newest_death(&self, pid: u32) -> Option<&DeathRecord> {
        let mut newest = kept(self.hdr.stats.deaths.load(Acquire))
            .rev()
            .map(|n| record(self, n));
        newest.find(|r| ProcWord(r.word.load(Acquire)).pid() == pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_that_was_put_off_is_gone_on_with_and_one_of_another_p_is_another() {
        let segment = Segment::create(&Default::default()).expect("a segment");
        let word = |pid| ProcWord(0).with_pid(pid).with_inc(1);
        let first = open(&segment, 0, word(10));
        let second = open(&segment, 1, word(11));
        let third = open(&segment, 2, word(11));
        assert_eq!((first, second, third), (0, 1, 2));
        // As it is when 0 had to wait for 1: looked at again, after others.
        assert_eq!(open(&segment, 0, word(10)), first);
        close(&segment, first, 1, 0);
        assert_eq!(open(&segment, 1, word(11)), second);
        assert_eq!(open(&segment, 0, word(10).with_inc(2)), 3);
        assert_eq!(segment.deaths().len(), 4);
    }

    #[test]
    fn a_record_that_may_be_the_next_ones_already_is_not_shown() {
        let segment = Segment::create(&Default::default()).expect("a segment");
        for inc in 0..DEATHS as u32 {
            let number = open(&segment, 0, ProcWord(0).with_pid(10).with_inc(inc));
            close(&segment, number, 0, 0);
        }
        // As a recoverer leaves it in the middle of `open`.
        record(&segment, DEATHS as u64).repair_ns.store(0, Relaxed);
        let shown = segment.deaths();
        assert_eq!(shown.len(), DEATHS - 1);
        assert!(shown.iter().all(|d| d.repair_ns.is_some()));
    }

    #[test]
    fn who_waited_is_told_once_and_to_its_own_death_only() {
        let segment = Segment::create(&Default::default()).expect("a segment");
        let word = |pid| ProcWord(0).with_pid(pid).with_inc(1);
        open(&segment, 0, word(10));
        open(&segment, 1, word(11));
        let [first, second] = segment.deaths().try_into().expect("two deaths");
        assert_eq!((first.gap_ns, first.waiter), (None, None));
        segment.note_death_gap(&first, None);
        segment.note_death_gap(&second, Some(Gap { p: 3, ns: 70 }));
        segment.note_death_gap(&second, Some(Gap { p: 4, ns: 80 }));
        let stranger = Death {
            number: 0,
            ..second
        };
        segment.note_death_gap(&stranger, Some(Gap { p: 5, ns: 90 }));
        let told: Vec<_> = segment
            .deaths()
            .iter()
            .map(|d| (d.gap_ns, d.waiter))
            .collect();
        assert_eq!(told, [(Some(0), None), (Some(70), Some(3))]);
    }

    #[test]
    fn how_a_process_ended_is_told_of_all_of_its_deaths_and_not_of_an_earlier_one() {
        let segment = Segment::create(&Default::default()).expect("a segment");
        let word = |inc| ProcWord(0).with_pid(10).with_inc(inc);
        open(&segment, 0, word(1));
        assert!(segment.note_death_status(10, Some(9)));
        assert!(!segment.note_death_status(10, Some(6)));
        assert!(!segment.note_death_status(11, None));
        open(&segment, 0, word(2));
        open(&segment, 1, word(1));
        assert!(segment.note_death_status(10, None));
        assert!(segment.note_death_status(10, Some(6)));
        let known: Vec<_> = segment.deaths().iter().map(|d| d.status).collect();
        assert_eq!(known, [Some(9), Some(6), Some(6)]);
    }
}
