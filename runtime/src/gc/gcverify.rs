//! Verification after each cycle (`COHEAPDEBUG=gcverify=1`): the whole heap is walked and accounted for, with the world stopped.
//!
//! 1. A cycle has ended, and its number is not in `verified_cycle`: no other cycle may start (`gc_start` asks). 2. Whoever is at its
//! scheduler and outside a scope stops the world, and verifies. 3. It stores the cycle's number; the next cycle may start.
//!
//! Invariant: with the setting on in every process, as many verifications as cycles, the running one left out. A finding ends the
//! process with a report: going on would free what is reachable, or hand it out twice. **If the verifier dies** the world is
//! started by whoever waits for it, the cycle stays unverified, and somebody else does it.
//!
//! Rejected: verifying in `mark_termination`, where checkmark is. Nothing has been swept there, so what sweeping breaks would be found
//! a cycle later, if at all.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use shm_layout::word::PhaseWord;

use super::{gctrace, verify};
use crate::{failpoint, sched::proc::Proc};

impl Proc {
    /// Must the cycle that ended with `phase` be verified before another one starts?
    pub(crate) fn verification_due(&self, phase: PhaseWord) -> bool {
        // Acquire: pairs with the release of the verifier; what it has seen is not seen older here.
        gctrace::debug().verify
            && phase.kind() == PhaseWord::OFF
            && self.seg.hdr.gc.verified_cycle.load(Acquire) != phase.cycle()
    }

    /// Verifies the heap if a cycle has ended and nobody has. Outside a scope, and not as a mark worker.
    pub(crate) fn gcverify(&self) {
        if !self.verification_due(self.seg.phase()) {
            return;
        }
        drop(crate::api::Inside::enter(self));
        let Ok(stopped) = self.stop_the_world() else {
            return; // somebody else has it, or a P is late: at the next look
        };
        let gc = &self.seg.hdr.gc;
        let cycle = self.seg.phase().cycle();
        if gc.verified_cycle.load(Acquire) == cycle {
            return; // while we waited
        }
        failpoint!("gcverify.stopped");
        let report = verify::report(&self.seg, true);
        if let Some(first) = report.findings.first() {
            let more = report.findings.len() - 1;
            let line =
                format!("coheap: verification after cycle {cycle}: {first}, and {more} more\n");
            // Not through the logger: this must be seen whatever the program has set up.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            std::process::abort();
        }
        gc.verifications.fetch_add(1, Relaxed);
        // Release: pairs with `verification_due`.
        gc.verified_cycle.store(cycle, Release);
        drop(stopped);
    }
}
