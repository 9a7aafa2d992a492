//! Resizing the set of P's that run, live (Go's procresize), and shutting down.
//!
//! A P with an index of at least `gomaxprocs` stays leased but runs nothing: it gives its queue away, its slot is emptied and closed
//! and its mark worker retired, as in Go. The number changes only while the world is stopped and no cycle is on, so no
//! worker is away in `gc_mark_done` and no cached work is lost. Growing opens slots again; the next cycle starts workers for them.
//! **If the resizer dies** the number has changed or not; each P acts on what it reads.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, SeqCst},
    time::{Duration, Instant},
};

use shm_layout::{
    MAX_P,
    trace::ev,
    word::{PhaseWord, SlotWord},
};

use crate::{
    Error,
    api::P,
    error::Result,
    sched::{find_runnable::activity, proc::Proc, wake},
    segment::Segment,
    twin,
};

/// Asks every P to leave.
///
/// ```
/// let segment = coheap::Segment::create(&Default::default()).unwrap();
/// coheap::sched::request_shutdown(&segment);
/// assert!(coheap::sched::shutdown_requested(&segment));
/// ```
pub fn request_shutdown(segment: &Segment) {
    segment.hdr.sched.shutdown.store(1, SeqCst);
    wake::wake_all(segment);
}

/// Should every P leave?
pub fn shutdown_requested(segment: &Segment) -> bool {
    segment.hdr.sched.shutdown.load(Acquire) != 0
}

/// Changes how many P's may run. Waits for the end of a running cycle, then stops the world for the change. Returns the old number.
///
/// # Errors
/// [`Error::Invalid`] for zero or more than 256; [`Error::Busy`] when the running cycle does not end or somebody else stops the
/// world: nothing has changed then.
pub fn procresize(p: &mut P, procs: usize) -> Result<usize> {
    if procs == 0 || procs > MAX_P {
        return Err(Error::Invalid {
            what: format!("{procs} P's: give 1 to {MAX_P}"),
        });
    }
    let proc = p.proc();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        drop(crate::api::Inside::enter(proc));
        if proc.seg.phase().kind() != PhaseWord::OFF {
            // Help the cycle to its end instead of waiting for it.
            if !proc.collector_work(true) {
                crate::recover::recover_dead(&proc.seg);
                std::thread::sleep(Duration::from_micros(100));
            }
            continue;
        }
        if twin!("resize-running") {
            let old = proc.seg.hdr.sched.gomaxprocs.0.swap(procs as u32, SeqCst);
            return Ok(old as usize);
        }
        let stopped = proc.stop_the_world()?;
        if proc.seg.hdr.gc.stop_resume.load(SeqCst) != u32::from(PhaseWord::OFF) {
            drop(stopped);
            continue;
        }
        let old = proc.seg.hdr.sched.gomaxprocs.0.swap(procs as u32, SeqCst);
        drop(stopped);
        proc.trace(ev::PROC_RESIZE, old, procs as u32);
        return Ok(old as usize);
    }
    Err(Error::Busy {
        what: "a collection does not end".into(),
    })
}

impl Proc {
    /// Is this P among those that run?
    pub(crate) fn is_active(&self) -> bool {
        self.me.p as u32
            <= self
                .seg
                .hdr
                .sched
                .gomaxprocs
                .0
                .load(Acquire)
                .saturating_sub(1)
    }

    /// Acts on the number of P's: true when this one runs.
    pub(crate) fn may_run(&self) -> bool {
        let slot = &self.seg.slots[self.index()].word;
        let closed = SlotWord(slot.load(Relaxed)).state() == SlotWord::CLOSED;
        if self.is_active() {
            if closed {
                slot.store(SlotWord::empty(self.inc).0, SeqCst);
            }
            return true;
        }
        if !closed {
            self.runq_to_global();
            if self.seen.get() != self.seg.phase() {
                drop(crate::api::Inside::enter(self));
            }
            self.retire_slot();
        }
        self.rec.activity.store(activity::STOPPED, Relaxed);
        // A P that runs nothing still acknowledges, and gives up its spans: an edge does both.
        if self.seen.get() != self.seg.phase() {
            drop(crate::api::Inside::enter(self));
        }
        false
    }
}
