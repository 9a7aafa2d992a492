//! Reading the flight recorders: what every P did last, the dead ones included.
//!
//! Each P writes its own ring without asking anybody, so a reader takes what stands there between two looks at the count of events
//! and drops what may have been overwritten meanwhile. Events carry the P; which process that was, the P's lease and the remembered
//! deaths tell.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::{
    proc::ProcRecord,
    trace::{EVENTS, ev},
    word::ProcWord,
};

use crate::{recover::Death, segment::Segment};

/// One event of a P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Monotonic nanoseconds.
    pub at_ns: u64,
    /// The P.
    pub p: u16,
    /// Its process then; 0 when that cannot be told any more.
    pub pid: u32,
    /// Which event: a number of [`Happened`].
    pub what: Happened,
    /// First argument.
    pub a: u32,
    /// Second argument.
    pub b: u32,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the arguments are described in one line each")]
pub enum Happened {
    /// A mark worker parked: worker, home.
    WorkerParked,
    /// A mark worker was picked: worker, mode.
    WorkerPicked,
    /// A task's step starts: task, kind.
    StepBegins,
    /// A task's step ended: task, next state.
    StepEnds,
    /// A cycle starts: cycle, reason.
    CycleBegins,
    /// A phase begins: kind, cycle.
    Phase,
    /// A cycle's marking is over: cycle.
    CycleEnds,
    /// Tasks were stolen: from P, task.
    Stolen,
    /// The P sleeps.
    Sleeps,
    /// The P wakes.
    Wakes,
    /// A worker attached to a slot: worker, home.
    Attached,
    /// A worker left its slot: worker, home.
    Detached,
    /// A worker lost the attach and exits: worker, home.
    AttachLost,
    /// A worker became runnable for anybody: worker.
    Migrates,
    /// The number of P's changed: from, to.
    Resized,
    /// Something of a later version.
    Other,
}

fn happened(number: u8) -> Happened {
    match number {
        ev::GO_PARK => Happened::WorkerParked,
        ev::GO_UNPARK => Happened::WorkerPicked,
        ev::GO_START => Happened::StepBegins,
        ev::GO_STOP => Happened::StepEnds,
        ev::GC_START => Happened::CycleBegins,
        ev::GC_PHASE => Happened::Phase,
        ev::GC_DONE => Happened::CycleEnds,
        ev::STEAL => Happened::Stolen,
        ev::PROC_STOP => Happened::Sleeps,
        ev::PROC_START => Happened::Wakes,
        ev::ATTACH => Happened::Attached,
        ev::DETACH => Happened::Detached,
        ev::ATTACH_LOST => Happened::AttachLost,
        ev::MIGRATE => Happened::Migrates,
        ev::PROC_RESIZE => Happened::Resized,
        _ => Happened::Other,
    }
}

impl Segment {
    /// What happened since `since_ns` (monotonic), of all P's, in order of time, as far as the rings reach back.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.trace(0).is_empty());
    /// ```
    pub fn trace(&self, since_ns: u64) -> Vec<TraceEvent> {
        let deaths = self.deaths();
        let mut all = Vec::new();
        for (p, record) in self.used_procs().iter().enumerate() {
            // Zero: the record was never leased to the end, and its area may have no memory.
            if record.leased_at_ns.load(Acquire) != 0 {
                self.read_ring(p, since_ns, &mut all);
                name_processes(&mut all, p as u16, record, &deaths);
            }
        }
        all.sort_by_key(|e| e.at_ns);
        all
    }

    fn read_ring(&self, p: usize, since_ns: u64, all: &mut Vec<TraceEvent>) {
        let ring = &self.areas[p].ring;
        let end = ring.next.load(Acquire);
        let begin = end.saturating_sub(EVENTS as u64);
        let first = all.len();
        for n in begin..end {
            let event = &ring.events[n as usize % EVENTS];
            let what = event.what.load(Relaxed);
            all.push(TraceEvent {
                at_ns: event.at_ns.load(Relaxed),
                p: p as u16,
                pid: 0,
                what: happened((what >> 24) as u8),
                a: what & 0xff_ffff,
                b: event.arg.load(Relaxed),
            });
        }
        // Whatever was written since the first look stands where the oldest stood.
        let written = (ring.next.load(Acquire) - end).saturating_add(1);
        let overwritten = (begin + written).saturating_sub(end.saturating_sub(EVENTS as u64));
        let drop = if end > EVENTS as u64 {
            overwritten as usize
        } else {
            0
        };
        all.drain(first..(first + drop).min(all.len()));
        let mut kept = first;
        for i in first..all.len() {
            if all[i].at_ns >= since_ns {
                all.swap(kept, i);
                kept += 1;
            }
        }
        all.truncate(kept);
    }

    /// The longest time, between two monotonic times, that a living P other than `dead` spent neither in a step, nor marking, nor asleep
    /// for want of work: what a death cost the living. A time that lasts at the end counts up to it, one that began earlier from
    /// the beginning. `None` when nobody paused at all, as far as the rings reach back.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert_eq!(segment.longest_gap(0, coheap::sysmon::clock_ns(), 0), None);
    /// ```
    pub fn longest_gap(&self, from_ns: u64, to_ns: u64, dead: u16) -> Option<Gap> {
        let living = self.used_procs().iter().enumerate().filter(|(p, record)| {
            let word = ProcWord(record.word.0.load(Acquire));
            *p != usize::from(dead) && word.state() == ProcWord::LIVE
        });
        let gaps = living.filter_map(|(p, record)| {
            let mut events = Vec::new();
            // An earlier lease's last event says nothing about this one.
            self.read_ring(p, record.leased_at_ns.load(Relaxed), &mut events);
            longest_pause(&events, from_ns, to_ns).map(|ns| Gap { p: p as u16, ns })
        });
        gaps.max_by_key(|gap| gap.ns)
    }
}

/// Who paused, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The P.
    pub p: u16,
    /// Nanoseconds.
    pub ns: u64,
}

/// The longest pause in one P's events, in their order, between two times.
fn longest_pause(events: &[TraceEvent], from_ns: u64, to_ns: u64) -> Option<u64> {
    let ends = events[events.len().min(1)..].iter().map(|e| e.at_ns);
    let pauses = events.iter().zip(ends.chain([to_ns])).filter(|(e, _)| {
        !matches!(
            e.what,
            Happened::StepBegins | Happened::WorkerPicked | Happened::Sleeps
        )
    });
    let within = |(event, end): (&TraceEvent, u64)| {
        let pause = end.min(to_ns).checked_sub(event.at_ns.max(from_ns))?;
        (pause > 0).then_some(pause)
    };
    pauses.filter_map(within).max()
}

fn name_processes(all: &mut [TraceEvent], p: u16, record: &ProcRecord, deaths: &[Death]) {
    let word = ProcWord(record.word.0.load(Acquire));
    let since = record.leased_at_ns.load(Relaxed);
    for event in all.iter_mut().filter(|e| e.p == p && e.pid == 0) {
        let died = deaths
            .iter()
            .find(|d| d.p == p && d.began_ns >= event.at_ns);
        event.pid = match died {
            Some(death) => death.pid,
            None if event.at_ns >= since => word.pid(),
            None => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_ns: u64, what: Happened) -> TraceEvent {
        TraceEvent {
            at_ns,
            p: 0,
            pid: 0,
            what,
            a: 0,
            b: 0,
        }
    }

    #[test]
    fn a_pause_counts_within_the_window_and_while_it_lasts() {
        use Happened::{Sleeps, StepBegins, StepEnds, Wakes};
        let events = [
            at(100, StepEnds),
            at(140, StepBegins),
            at(400, StepEnds),
            at(410, Sleeps),
            at(900, Wakes),
            at(930, StepBegins),
        ];
        assert_eq!(longest_pause(&events, 0, 1000), Some(40));
        // Began before the window; only what lies within counts.
        assert_eq!(longest_pause(&events, 120, 1000), Some(30));
        assert_eq!(longest_pause(&events, 145, 899), Some(10));
        assert_eq!(longest_pause(&events, 145, 400), None);
        // Still pausing at the end of the window.
        assert_eq!(longest_pause(&events[..5], 145, 1000), Some(100));
        assert_eq!(longest_pause(&[], 0, 1000), None);
    }
}
