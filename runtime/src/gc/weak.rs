//! Weak references: an object that names another one and does not keep it alive (Go's weak.Pointer; issue 69803).
//!
//! The collector does not follow a weak reference, so somebody must notice that what it names is gone before the memory is used
//! again. Nobody keeps a list: the answer is in the mark bits, for as long as they last.
//! 1. The word names the object, and a finished cycle that it has survived ([`WeakWord::cycle`]).
//! 2. While cycle n marks, each weak reference that is alive is scanned once, as every object, and *looked at again*: what is
//!    unmarked in the bits of n - 1 is gone, and the word becomes nil; otherwise it says n - 1.
//! 3. A load in a scope that sees cycle n finished, or n + 1 marking, finds n or n - 1 in the word. n: alive. n - 1: the bits of n say.
//!    (It finds n + 1 when that cycle has ended meanwhile and the word was made since: alive.)
//! 4. A load that finds a white object while a round is on ends the round: `ROUND -> MARK`.
//!
//! **Why the bits can be believed.** Those of n are complete when n is over, change no more (an allocation takes slots without them,
//! until n + 1 paints the other bitmap), and are cleared by the sweep after n + 1. That begins when every scope that saw anything
//! older has ended, and every weak reference alive has been scanned. The slot itself cannot have been used for something else: it is
//! taken until the sweep after the first cycle that does not mark it.
//! **Why step 4.** Elsewhere a load may give away a white object, as a load of a slot may: to store it anywhere shades it, and
//! marking cannot end before the scope has. A scope that has begun in a round, though, has acknowledged it, and the round may end it
//! all while the scope has the object and nobody else knows it: it would be freed under the scope's hands. Ending the round by its own
//! word is what makes the two exclude each other; to say "dirty" would come too late for a judge who has looked.
//!
//! The words are primary. Only markers write them, all markers of a cycle the same.
//! **If a process dies** scanning a weak reference, it is scanned again, as every object; a round that was ended is one more round.
//! **Rejected:** a list of weak references per span (Go's specials: state that a death can tear, for every sweeper to repair); a pass
//! over all of them at the end of marking (a phase more, and a wait); shading what is loaded (needless, and not enough).
#![expect(
    unsafe_code,
    reason = "reads the words of weak references through addresses in the mapped heap"
)]

use std::sync::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    fence,
};

use shm_layout::sync::AtomicU64;
use shm_layout::{
    GRANULE_BYTES, Ref,
    tables::scan,
    word::{PhaseWord, WeakWord},
};

use crate::{
    failpoint,
    heap::{
        marks,
        oracle::{self, Oracles},
    },
    sched::proc::Proc,
    segment::Segment,
    throw::throw_unless,
    twin,
};

/// The cycle that was finished last, as a scope sees it that began in this phase.
fn finished(seen: PhaseWord) -> u32 {
    if seen.kind() == PhaseWord::OFF {
        seen.cycle()
    } else {
        seen.cycle().wrapping_sub(1)
    }
}

/// Has the object survived the cycle `finished`, the last one?
fn is_alive(segment: &Segment, word: WeakWord, finished: u32) -> bool {
    if word.target() == 0 {
        return false;
    }
    let behind = finished.wrapping_sub(word.cycle());
    throw_unless!(
        behind <= 1,
        "a weak reference was not looked at again: it knows of a cycle that is over too long"
    );
    behind == 0
        || marks::is_marked(segment.marks_of(finished), word.target())
            && !is_in_quarantine(segment, word.target())
}

/// Is its bit only there because a sweeper keeps what is dead for a while, filled with a pattern (`heap::oracle`)?
fn is_in_quarantine(segment: &Segment, r: Ref) -> bool {
    // Acquire: pairs with the sweeper's Release of the bit, which it sets over a slot that is filled.
    Oracles::read(segment).quarantine() > 0 && {
        fence(Acquire);
        oracle::is_freed(segment, r, GRANULE_BYTES)
    }
}

/// The word of the weak reference `r`.
fn word_of(segment: &Segment, r: Ref) -> &AtomicU64 {
    // SAFETY: 1. `r` is an object of a span whose shape says "weak": eight bytes, aligned to them, inside the mapping. 2. Every
    // process accesses it as an atomic.
    unsafe { AtomicU64::from_ptr(segment.object(r).cast()) }
}

/// Step 2: by whoever scans the weak reference `r`.
#[cold]
pub(super) fn look_again(segment: &Segment, r: Ref) {
    let phase = segment.phase();
    if !phase.blacken() {
        return; // nothing is marked any more, and nothing is freed before this scope has ended
    }
    let at = word_of(segment, r);
    let word = WeakWord(at.load(Acquire));
    let finished = finished(phase);
    if word.target() == 0 || word.cycle() == finished || twin!("weak-unwatched") {
        return;
    }
    let next = if is_alive(segment, word, finished) {
        word.with_cycle(finished)
    } else {
        WeakWord(0)
    };
    failpoint!("weak.judged");
    // AcqRel, but nothing hangs on it: whoever loads either word comes to the same answer, and other markers store the same.
    let _ = at.compare_exchange(word.0, next.0, AcqRel, Relaxed);
    failpoint!("weak.looked_at");
}

/// What the object `r` names if it is a weak reference to something alive, between two cycles.
pub(super) fn target(segment: &Segment, r: Ref) -> Option<Ref> {
    let shape = segment.page_shapes[segment.page_of(r)].load(Relaxed) as usize;
    let phase = segment.running_phase();
    if segment.shapes[shape].scan.load(Relaxed) != scan::WEAK || phase.kind() != PhaseWord::OFF {
        return None;
    }
    let word = WeakWord(word_of(segment, r).load(Acquire));
    is_alive(segment, word, finished(phase)).then_some(word.target())
}

impl Proc {
    /// The word of a new weak reference to `r`, which this scope holds.
    pub(crate) fn weak_word(&self, r: Ref) -> WeakWord {
        WeakWord(0)
            .with_target(r)
            .with_cycle(finished(self.seen.get()))
    }

    /// What a weak reference names, to be held by this scope; 0 when it is gone.
    pub(crate) fn weak_to_strong(&self, word: WeakWord) -> Ref {
        let seen = self.seen.get();
        let r = word.target();
        if r != 0 && word.cycle() == seen.cycle() && seen.kind() != PhaseWord::OFF {
            // The cycle that we have seen marking is over, and somebody knows of this object since. It lasts longer than this scope.
            return r;
        }
        if !is_alive(&self.seg, word, finished(seen)) {
            return 0;
        }
        if seen.kind() != PhaseWord::ROUND {
            return r;
        }
        let bits = self.seg.marks_of(seen.cycle());
        let kept = marks::is_marked(bits, r) || self.end_round(seen) || marks::is_marked(bits, r);
        if kept { r } else { 0 }
    }

    /// Step 4: marking goes on, and waits for this scope before it ends. False when it is over: the bits say what has survived.
    #[cold]
    fn end_round(&self, seen: PhaseWord) -> bool {
        if twin!("weak-in-round") {
            self.seg.hdr.gc.dirty.0.store(1, SeqCst);
            return true;
        }
        loop {
            let phase = self.seg.phase();
            if phase.cycle() != seen.cycle() || !phase.blacken() {
                return false;
            }
            // SeqCst: one order with the exchange to "off" in `gc_mark_done`; whoever comes second fails.
            let ended = phase.kind() == PhaseWord::MARK
                || self
                    .seg
                    .hdr
                    .gc
                    .phase
                    .0
                    .compare_exchange(phase.0, phase.next(PhaseWord::MARK).0, SeqCst, Relaxed)
                    .is_ok();
            if ended {
                failpoint!("weak.round_ended");
                return true;
            }
        }
    }
}
