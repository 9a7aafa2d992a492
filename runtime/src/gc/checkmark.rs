//! Checkmark: a second, independent marking that must find nothing the first has missed (`COHEAPDEBUG=gccheckmark=1`).
//!
//! Go does this with the world stopped. Here the end of a clean round already means that everything reachable is marked and,
//! because the barrier is still on and allocation still black, stays so: the second marking runs beside the mutators and must
//! never meet an unmarked object.

use shm_layout::Ref;

use super::verify::Walk;
use crate::{heap::marks, segment::Segment};

/// References of reachable objects that are not marked in this cycle, the first few, each with the object that refers to it.
pub(crate) fn missed(segment: &Segment, cycle: u32) -> Vec<(Ref, Ref)> {
    let bits = segment.marks_of(cycle);
    let mut missed = Vec::new();
    let mut walk = Walk::new(segment);
    walk.run(&mut |parent, child| {
        let inside = (child as usize) < bits.len() * 64;
        let marked = inside && marks::is_marked(bits, child);
        if !marked && missed.len() < 8 {
            missed.push((parent, child));
        }
        inside
    });
    missed
}
