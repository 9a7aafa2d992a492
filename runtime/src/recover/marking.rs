//! Marking of the dead: in-flight references are pushed again, buffers published, a root job opened, its mark workers flushed and
//! freed (`protocol.md` 3.3, D2 and D3).

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{
    PAGE_GRANULES, Ref,
    word::{Owner, SlotWord, WorkerWord},
};

use crate::{
    failpoint,
    gc::{gc_bg_mark_worker::used_workers, gcw, markroot},
    heap::{marks, shapes::Shape},
    segment::Segment,
    twin,
};

/// Settles buffers, in-flight references and root job. Returns how many grey references were taken over.
pub(super) fn settle(segment: &Segment, dead: Owner) -> usize {
    let now = &segment.procs[dead.p as usize].now.0;
    for buf in [&now.gcw[0], &now.gcw[1], &now.workbuf, &now.workbuf2] {
        let i = buf.load(Acquire);
        if i != 0 {
            gcw::settle_buf(segment, dead, i as usize - 1);
        }
    }
    gcw::find_free_again(segment);
    let adopted = push_again(segment, dead);
    let job = now.root_job.load(Acquire);
    if job != 0 {
        markroot::settle_job(segment, dead, job as usize - 1);
    }
    adopted
}

/// What was recorded and not cleared may be marked and in nobody's keeping (rule 3): marked and pushed, again if need be.
fn push_again(segment: &Segment, dead: Owner) -> usize {
    let now = &segment.procs[dead.p as usize].now.0;
    let phase = segment.running_phase();
    if !phase.barrier() || twin!("no-flush") {
        // Off: the records concern a cycle whose marking is over.
        return 0;
    }
    let bits = segment.marks_of(phase.cycle());
    let mut pushed = 0;
    for (i, r) in std::iter::once(&now.shade).chain(&now.inflight).enumerate() {
        let reference = r.load(Acquire);
        if reference == 0 {
            continue;
        }
        if i == 0 {
            crate::probe!(segment, ShadeUnfinished);
        } else {
            crate::probe!(segment, ObjectInFlight);
        }
        if is_oblet(segment, reference) {
            crate::probe!(segment, ObletInFlight);
        } else {
            marks::mark(bits, reference);
        }
        failpoint!("recover.marked");
        gcw::publish_one(segment, dead, reference);
        failpoint!("recover.pushed");
        r.store(0, Release);
        pushed += 1;
    }
    if pushed > 0 {
        segment.hdr.gc.dirty.0.store(1, SeqCst);
    }
    pushed
}

/// Is this a part of a large object? Then the object is marked, and its parts have no marks: the sweeper would count them as objects.
fn is_oblet(segment: &Segment, r: Ref) -> bool {
    let page = segment.page_of(r);
    // Relaxed: complete before the object was published, and the same for as long as it lives.
    let shape = segment.page_shapes[page].load(Relaxed) as usize;
    segment.shapes[shape].class.load(Relaxed) == Shape::LARGE
        && r as usize != segment.span_head(page) * PAGE_GRANULES
}

/// Closes the dead P's slot and settles every mark worker in its hands.
pub(super) fn settle_workers(segment: &Segment, dead: Owner, inc: u32) {
    close_slot(segment, dead, inc);
    for g in 0..used_workers(segment).len() {
        let word = WorkerWord(segment.workers[g].word.load(Acquire));
        let theirs = word.owner() == dead;
        match word.state() {
            WorkerWord::RUNNING if theirs || word.p() == Owner::RECOVERER => {
                crate::probe!(segment, WorkerRunning);
                // It may have cleared "dirty" and not begun a round (`gc_mark_done`).
                segment.hdr.gc.dirty.0.store(1, SeqCst);
                if twin!("resume-torn") {
                    let again = word.moved(WorkerWord::RUNNABLE, Owner::new(0, 0));
                    segment.workers[g].word.store(again.0, SeqCst);
                    continue;
                }
                seize_and_free(segment, g, word);
            }
            WorkerWord::PARKED if theirs && !twin!("naive-parked") => {
                settle_parked(segment, g, word)
            }
            _ => {}
        }
    }
}

/// D2: an empty slot is closed; what a full one designates is freed, and then it is closed. Nothing can attach from then on.
fn close_slot(segment: &Segment, dead: Owner, inc: u32) {
    let slot = &segment.slots[dead.p as usize].word;
    if twin!("no-close") {
        return;
    }
    loop {
        let seen = SlotWord(slot.load(Acquire));
        if seen.inc() != inc || seen.state() == SlotWord::CLOSED {
            return;
        }
        if seen.state() == SlotWord::EMPTY {
            if slot
                .compare_exchange(seen.0, SlotWord::closed(inc).0, AcqRel, Relaxed)
                .is_ok()
            {
                crate::probe!(segment, SlotEmptyClosed);
                return;
            }
            continue;
        }
        if twin!("erase-slot") {
            slot.store(SlotWord::closed(inc).0, Release);
            return;
        }
        crate::probe!(segment, SlotFullSeized);
        let g = seen.worker() as usize;
        seize_and_free(
            segment,
            g,
            WorkerWord(segment.workers[g].word.load(Acquire)),
        );
    }
}

/// D3: died between parking and attaching. Published after all: it goes on; otherwise nobody can publish it any more.
fn settle_parked(segment: &Segment, g: usize, word: WorkerWord) {
    let home = segment.workers[g].home.load(Acquire);
    let slot = SlotWord(segment.slots[(home >> 32) as usize].word.load(Acquire));
    if slot == SlotWord::full(g as u16, home as u32) {
        crate::probe!(segment, WorkerParkedPublished);
        return;
    }
    crate::probe!(segment, WorkerParkedUnpublished);
    seize_and_free(segment, g, word);
}

/// Takes the worker over, leaves the home's slot, then frees the word: a slot never designates a free worker. Its context is never
/// resumed: it may be torn. What it had in flight stands in the dead P's record and has been pushed again.
fn seize_and_free(segment: &Segment, g: usize, word: WorkerWord) {
    let w = &segment.workers[g];
    let seized = word.moved(WorkerWord::RUNNING, Owner::new(Owner::RECOVERER, 0));
    if w.word
        .compare_exchange(word.0, seized.0, AcqRel, Relaxed)
        .is_err()
    {
        return;
    }
    failpoint!("recover.seized");
    if twin!("free-first") {
        w.word
            .store(seized.moved(WorkerWord::FREE, Owner::new(0, 0)).0, SeqCst);
    }
    let home = w.home.load(Acquire);
    let (p, inc) = ((home >> 32) as usize, home as u32);
    if let Some(slot) = segment.slots.get(p) {
        let full = SlotWord::full(g as u16, inc);
        let _ = slot
            .word
            .compare_exchange(full.0, SlotWord::empty(inc).0, AcqRel, Relaxed);
    }
    failpoint!("recover.unslotted");
    w.word
        .store(seized.moved(WorkerWord::FREE, Owner::new(0, 0)).0, SeqCst);
}
