//! A death in a copy: what survivors make of one image, while the victim itself stands still and lives.
//!
//! 1. The segment's bytes are copied into a second segment.
//! 2. There, what the kernel does at a death is done to the victim's words; a survivor that was inside its scope leaves it.
//! 3. The dead is recovered; exactly the survivor's lease must be left.
//! 4. A newcomer works, collects twice and verifies; what is then left is the signature.
//!
//! **The victim's segment is only read**, so one victim serves all its deaths.

use std::collections::{BTreeMap, BTreeSet};

use coheap::{Segment, testing};

use crate::{
    image,
    ops::Op,
    report::Outcome,
    survive::{self, Signature},
};

/// Copies the segment, lets the victim be dead in the copy, and lets survivors go on there. Also the branches that recovery took.
pub fn examine(
    segment: &Segment,
    copy: &mut Segment,
    op: &Op,
    pid: u32,
    out: &mut Outcome,
) -> Result<(Signature, BTreeSet<String>), String> {
    image::copy(segment, copy);
    testing::mark_dead(copy, pid, pid);
    if op.p0_inside {
        testing::put_outside(copy, 0);
    }
    let before: BTreeMap<String, u64> = copy.probes().into_iter().collect();
    let result = survive::recover(copy).and_then(|_| match testing::live_leases(copy) {
        1 => survive::newcomer(copy),
        n => Err(format!("{n} leases are left, of one survivor")),
    });
    let branches = out.count_probes(&before, copy);
    if result.is_err() {
        // What a survivor that panicked holds there stays mapped: the next copy is another one.
        std::mem::forget(std::mem::replace(copy, image::new_segment()));
    }
    Ok((result?, branches))
}
