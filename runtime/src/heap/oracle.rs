//! Freed memory under watch: what the collector can be made to check about itself, at the price of time and memory.
//!
//! The modes belong to the *heap*, not to a process: whoever makes the segment writes them into it (from `COHEAPDEBUG`), and every
//! process that attaches obeys. `clobberfree=1`: what is swept, and what a new span has free, is filled with [`CLOBBER`]; a run of
//! slots is checked for it when it is taken, so a write into free memory is seen, and a read of it meets references that
//! no heap has. `quarantine=N`: what is swept is filled with another pattern and stays *taken* for N cycles more, so a stale
//! reference cannot hide behind a new object; at each sweep it must still be whole, and nobody may have marked it.
//!
//! **Invariants.** Q1: with `clobberfree`, a slot that is free (by bitmap and `free_index`) is all [`CLOBBER`]. Q2: a slot in
//! quarantine has its bit set in the bitmap of taken slots and is all [`KEPT`], with its age. Words of `KEPT` occur nowhere
//! else: a slot that leaves is filled with `CLOBBER` first.
//! **If the sweeper dies** in the middle of a slot, its contents are neither: whoever sweeps the span again (`again`) takes what looks torn
//! for freshly dead, and what is marked and kept for done.
//! **Rejected:** a list of freed slots per process (the next sweeper is another process); a third bitmap (3 % of every heap, for a
//! mode that is off).
#![expect(
    unsafe_code,
    reason = "reads and fills free slots through addresses in the mapped heap"
)]

use std::sync::atomic::Ordering::Relaxed;

use shm_layout::{
    GRANULE_BYTES, PAGE_BYTES, PAGE_GRANULES, Ref,
    sync::{AtomicU32, AtomicU64},
};

use super::marks;
use crate::{debug::Debug, segment::Segment};

/// Fills free memory. As a reference: 31.5 GiB into a heap, where few have anything.
pub(crate) const CLOBBER: u32 = 0xfbad_f4ee;
/// Fills quarantined memory; the low byte is the age in cycles.
const KEPT: u32 = 0xfbad_c000;

/// The modes of a heap, as a word of its header has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oracles(u32);

impl Oracles {
    /// The modes that the settings of the heap's maker ask for.
    pub fn of(debug: &Debug) -> Oracles {
        let quarantine = debug.quarantine.min(200) as u32;
        Oracles(
            u32::from(debug.clobberfree || quarantine != 0)
                | u32::from(debug.gcstress) << 1
                | u32::from(debug.migrateevery) << 2
                | quarantine << 8,
        )
    }

    /// Those of a heap.
    #[inline]
    pub fn read(segment: &Segment) -> Oracles {
        // Relaxed: written before the segment was published, then constant.
        Oracles(segment.hdr.sched.oracles.load(Relaxed))
    }

    /// Writes them into a new heap.
    pub fn write(self, segment: &Segment) {
        segment.hdr.sched.oracles.store(self.0, Relaxed);
    }

    /// Is free memory filled and checked?
    pub fn clobber(self) -> bool {
        self.0 & 1 != 0
    }

    /// Does every allocation ask for a collection?
    pub fn stress(self) -> bool {
        self.0 & 2 != 0
    }

    /// Does every slice of marking hand its worker on?
    pub fn migrate(self) -> bool {
        self.0 & 4 != 0
    }

    /// Cycles that a freed slot stays taken.
    pub fn quarantine(self) -> u32 {
        self.0 >> 8 & 0xff
    }
}

/// What a slot's words say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// All `CLOBBER`.
    Free,
    /// All `KEPT`, of this age.
    Kept(u32),
    /// Half of it or more is `KEPT`, the rest is not.
    Torn,
    /// Anything else.
    Other,
}

/// The words of a slot.
fn words(segment: &Segment, r: Ref, bytes: usize) -> &[AtomicU32] {
    debug_assert!(bytes.is_multiple_of(4) && segment.contains(segment.object(r)));
    // SAFETY: 1. The slot lies in a span of the committed heap: its record says so, and the caller owns or has stopped it. 2. Object
    // memory is valid as atomics whatever it holds, and a stale writer, which this is here to see, is another process's.
    unsafe { std::slice::from_raw_parts(segment.object(r).cast::<AtomicU32>(), bytes / 4) }
}

fn fill(words: &[AtomicU32], with: u32) {
    for word in words {
        word.store(with, Relaxed);
    }
}

fn contents(words: &[AtomicU32]) -> Contents {
    let first = words[0].load(Relaxed);
    if words.iter().all(|w| w.load(Relaxed) == first) {
        if first == CLOBBER {
            return Contents::Free;
        }
        if first & !0xff == KEPT {
            return Contents::Kept(first & 0xff);
        }
    }
    let kept = words
        .iter()
        .filter(|w| w.load(Relaxed) & !0xff == KEPT)
        .count();
    if kept * 2 >= words.len() {
        Contents::Torn
    } else {
        Contents::Other
    }
}

/// Objects of a span: their number and size.
fn slots(segment: &Segment, page: usize) -> (u32, usize) {
    let span = &segment.spans[page];
    let bytes = segment.shapes[span.shape.load(Relaxed) as usize]
        .bytes
        .load(Relaxed) as usize;
    let span_bytes = span.pages.load(Relaxed) as usize * PAGE_BYTES;
    // A large object has the span to itself.
    match span_bytes.checked_div(bytes) {
        None => (1, span_bytes),
        Some(objects) => (objects as u32, bytes),
    }
}

fn slot_at(page: usize, index: u32, bytes: usize) -> Ref {
    (page * PAGE_GRANULES) as Ref + index * (bytes / GRANULE_BYTES) as Ref
}

/// Fills what a new span has free (Q1).
pub(crate) fn fresh(segment: &Segment, page: usize) {
    let (objects, bytes) = slots(segment, page);
    fill(
        words(segment, slot_at(page, 0, bytes), objects as usize * bytes),
        CLOBBER,
    );
}

/// Fills slots that a P gives back unused (Q1).
pub(crate) fn returned(segment: &Segment, first: Ref, bytes: usize) {
    fill(words(segment, first, bytes), CLOBBER);
}

/// Looks at slots that a P is about to take (Q1): nobody may have written into them since they were freed.
pub(crate) fn taken(segment: &Segment, first: Ref, bytes: usize) {
    if let Some(at) = words(segment, first, bytes)
        .iter()
        .position(|w| w.load(Relaxed) != CLOBBER)
    {
        let r = first + (at * 4 / GRANULE_BYTES) as Ref;
        violation(&format!(
            "free memory was written to: {r:#x} ({})",
            crate::gc::verify::describe(segment, r)
        ));
    }
}

/// After marking, before the live are counted: each dead slot of the span is filled, or put into quarantine, or let go.
pub(crate) fn swept(segment: &Segment, page: usize, cycle: u32, again: bool) {
    let modes = Oracles::read(segment);
    let bits = segment.marks_of(cycle);
    let (objects, bytes) = slots(segment, page);
    for index in 0..objects {
        let r = slot_at(page, index, bytes);
        let slot = words(segment, r, bytes);
        let marked = marks::is_marked(bits, r);
        match contents(slot) {
            Contents::Kept(_) if marked && again => {}
            Contents::Kept(age) if marked => violation(&format!(
                "{r:#x} is reachable, and was freed {} cycles ago ({})",
                age + 1,
                crate::gc::verify::describe(segment, r)
            )),
            _ if marked => {}
            Contents::Free => {}
            Contents::Kept(age) if age + 1 < modes.quarantine() => {
                keep(bits, r, slot, age + 1);
            }
            Contents::Kept(_) => fill(slot, CLOBBER),
            Contents::Torn if !again => violation(&format!(
                "freed memory was written to: {r:#x} ({})",
                crate::gc::verify::describe(segment, r)
            )),
            Contents::Torn | Contents::Other if modes.quarantine() > 0 => keep(bits, r, slot, 0),
            Contents::Torn | Contents::Other => fill(slot, CLOBBER),
        }
    }
}

/// Q2: first the pattern, then the bit, so that a bit over torn contents is never seen.
fn keep(bits: &[AtomicU64], r: Ref, slot: &[AtomicU32], age: u32) {
    fill(slot, KEPT | age);
    marks::mark(bits, r);
}

/// What is wrong with an object that something refers to: it holds what fills freed memory.
pub(crate) fn is_freed(segment: &Segment, r: Ref, bytes: usize) -> bool {
    Oracles::read(segment).clobber()
        && bytes >= 8
        && matches!(
            contents(&words(segment, r, bytes)[..2]),
            Contents::Free | Contents::Kept(_)
        )
}

/// The first free slot of a span that does not hold what it should (Q1), while the world is stopped.
pub(crate) fn first_written(segment: &Segment, page: usize, bits: &[AtomicU64]) -> Option<Ref> {
    if !Oracles::read(segment).clobber() {
        return None;
    }
    let (objects, bytes) = slots(segment, page);
    let from = segment.spans[page].free_index.load(Relaxed);
    (from..objects).map(|i| slot_at(page, i, bytes)).find(|&r| {
        !marks::is_marked(bits, r) && contents(words(segment, r, bytes)) != Contents::Free
    })
}

/// A reference that no heap can have was found in an object while marking: freed memory was read, or an object is torn.
#[cold]
pub(crate) fn bad_reference(r: Ref) -> ! {
    violation(&format!("found bad reference {r:#x} in the heap"))
}

/// Ends this process with a report: going on would spread what is wrong.
#[cold]
pub(crate) fn violation(what: &str) -> ! {
    // Not through the logger: this must be seen whatever the program has set up.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("coheap: {what}\n").as_bytes(),
    );
    std::process::abort();
}
