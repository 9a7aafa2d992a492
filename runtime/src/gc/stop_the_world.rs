//! Stopping the world, for what needs it: resizing the set of P's, verification, checkmark. No normal collection does.
//!
//! 1. Claim the stop word. 2. Remember the phase kind, store `STOPPED`: a handshake like any other, except that P's wait outside.
//! 3. Wait until every P is outside and no mark worker runs. 4. Do the work. 5. Restore the kind under a new epoch, wake, release.
//! **If the stopper dies** the stop word names it: whoever waits certifies it and starts the world again ([`release_dead`]). A
//! process that is stopped by a signal *inside a scope* delays step 3, and nothing else, because P's that are outside while
//! step 3 waits are held up: so step 3 has a deadline, after which the world is started and the caller gets an error.

use crate::throw::throw_unless;
use std::{
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    time::{Duration, Instant},
};

use shm_layout::{
    trace::ev,
    word::{Owner, PhaseWord, WorkerWord},
};

use super::{gc_bg_mark_worker::used_workers, handshake};
use crate::{Error, error::Result, failpoint, futex, sched::proc::Proc, segment::Segment};

/// How long a stop may wait for P's in scopes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Holds the world; starts it when dropped.
pub(crate) struct Stopped<'p> {
    proc: &'p Proc,
}

impl Proc {
    /// Stops the world. Outside a scope, and not as a mark worker.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody else holds it or a P does not leave its scope in time: nothing has changed then.
    pub(crate) fn stop_the_world(&self) -> Result<Stopped<'_>> {
        throw_unless!(
            !self.inside.get(),
            "stopTheWorld: holding locks: this P is in a scope"
        );
        let gc = &self.seg.hdr.gc;
        let me = u64::from(self.me.p + 1) << 32 | u64::from(self.me.inc);
        if let Err(other) = gc.stop.0.compare_exchange(0, me, AcqRel, Acquire) {
            return Err(Error::Busy {
                what: format!("P{} is stopping the world", (other >> 32) - 1),
            });
        }
        failpoint!("stop.claimed");
        let began = Instant::now();
        let stopped = self.say_stopped();
        let held = Stopped { proc: self };
        while !still(&self.seg, stopped) {
            if began.elapsed() > PATIENCE {
                let who: Vec<String> = handshake::laggards(&self.seg, stopped)
                    .map(|p| format!("P{p}"))
                    .collect();
                return Err(Error::Busy {
                    what: format!(
                        "{} did not reach a safepoint within {PATIENCE:?}",
                        who.join(", ")
                    ),
                });
            }
            crate::recover::recover_dead(&self.seg);
            std::thread::sleep(Duration::from_micros(50));
        }
        self.trace(ev::GC_PHASE, PhaseWord::STOPPED.into(), stopped.epoch());
        Ok(held)
    }

    /// The phase goes to `STOPPED`, from whatever it is; returns it.
    fn say_stopped(&self) -> PhaseWord {
        let gc = &self.seg.hdr.gc;
        let stopped = loop {
            let phase = self.seg.phase();
            gc.stop_resume.store(phase.kind().into(), SeqCst);
            let stopped = phase.next(PhaseWord::STOPPED);
            if gc
                .phase
                .0
                .compare_exchange(phase.0, stopped.0, SeqCst, Relaxed)
                .is_ok()
            {
                break stopped;
            }
        };
        failpoint!("stop.stopped");
        stopped
    }

    /// Stops the world, recovers, starts it again: without waiting, for the explorer.
    #[cfg(feature = "model")]
    pub(crate) fn stop_and_recover(&self) {
        let me = u64::from(self.me.p + 1) << 32 | u64::from(self.me.inc);
        self.seg.hdr.gc.stop.0.store(me, SeqCst);
        self.say_stopped();
        crate::recover::recover_dead(&self.seg);
        start_the_world(&self.seg);
    }
}

fn still(segment: &Segment, stopped: PhaseWord) -> bool {
    let running = used_workers(segment)
        .iter()
        .any(|w| WorkerWord(w.word.load(SeqCst)).state() == WorkerWord::RUNNING);
    !running && handshake::acknowledged(segment, stopped)
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        start_the_world(&self.proc.seg);
    }
}

fn start_the_world(segment: &Segment) {
    let gc = &segment.hdr.gc;
    let phase = segment.phase();
    if phase.kind() == PhaseWord::STOPPED {
        let next = phase.next(gc.stop_resume.load(SeqCst) as u8);
        // Fails when a recoverer has started the world already.
        let _ = gc
            .phase
            .0
            .compare_exchange(phase.0, next.0, SeqCst, Relaxed);
        futex::wake(futex::low_half(&gc.phase.0), u32::MAX >> 1);
    }
    failpoint!("stop.started");
    gc.stop.0.store(0, SeqCst);
    crate::sched::wake::wake_all(segment);
}

/// Starts the world that `dead` had stopped.
pub(crate) fn release_dead(segment: &Segment, dead: Owner) {
    let held = segment.hdr.gc.stop.0.load(Acquire);
    if held == u64::from(dead.p + 1) << 32 | u64::from(dead.inc) {
        crate::probe!(segment, StopReleased);
        start_the_world(segment);
    }
}
