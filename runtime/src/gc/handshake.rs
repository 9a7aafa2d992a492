//! Handshakes: has every P acknowledged the present phase?
//!
//! A P acknowledges by its scope word: outside, or inside under this phase or a later one. Nobody is asked and nobody answers; a
//! dead P that has not been recovered counts as inside until it is.

use std::sync::atomic::Ordering::{Acquire, SeqCst};

use shm_layout::word::{PhaseWord, ProcWord};

use crate::{sched::scope, segment::Segment};

/// Has every P seen a phase of at least `phase`'s epoch, or is it outside?
pub(crate) fn acknowledged(segment: &Segment, phase: PhaseWord) -> bool {
    laggards(segment, phase).next().is_none()
}

/// P's that are inside a scope they entered under an older phase.
pub(crate) fn laggards(segment: &Segment, phase: PhaseWord) -> impl Iterator<Item = usize> + '_ {
    segment
        .used_procs()
        .iter()
        .enumerate()
        .filter_map(move |(p, record)| {
            if ProcWord(record.word.0.load(Acquire)).state() == ProcWord::VACANT {
                return None;
            }
            // SeqCst: partner of `enter_scope`: the phase was stored before this look.
            let scope = record.scope.0.load(SeqCst);
            let behind =
                scope::is_inside(scope) && is_older(scope::phase_in(scope).epoch(), phase.epoch());
            behind.then_some(p)
        })
}

/// Epochs count handshakes modulo 2^28: older means less than half the circle behind.
fn is_older(seen: u32, epoch: u32) -> bool {
    let behind = epoch.wrapping_sub(seen) & 0x0fff_ffff;
    behind != 0 && behind < 1 << 27
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_compare_across_the_wrap() {
        assert!(is_older(1, 2));
        assert!(!is_older(2, 2));
        assert!(!is_older(3, 2));
        assert!(is_older(0x0fff_ffff, 0));
        assert!(!is_older(0, 0x0fff_ffff));
    }
}
