//! Spans of the dead: cached ones become full until the next sweep, one that was being swept is swept again.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use shm_layout::word::{Owner, SpanWord};

use crate::{
    heap::sweep::{self, BLOCK_PAGES},
    segment::Segment,
};

/// Settles every span that names `dead`.
pub(super) fn settle(segment: &Segment, dead: Owner) {
    let now = &segment.procs[dead.p as usize].now.0;
    for cached in &segment.areas[dead.p as usize].cached {
        let page = cached.load(Acquire);
        if page != 0 {
            settle_cached(segment, dead, page as usize - 1);
            cached.store(0, Release);
        }
    }
    let sweeping = now.sweep_span.load(Acquire);
    if sweeping != 0 {
        settle_sweeping(segment, dead, sweeping as usize - 1);
    }
    let block = now.sweep_block.load(Acquire);
    if block != 0 {
        set_cursor_back(segment, block as usize - 1);
    }
}

/// Died holding the span: what it had allocated there and shown to others is reachable, the rest the next cycle frees. Where its
/// cursor stood is not known, so nobody allocates from the span until then.
fn settle_cached(segment: &Segment, dead: Owner, page: usize) {
    let span = &segment.spans[page];
    let word = SpanWord(span.word.load(Acquire));
    if word.state() == SpanWord::CACHED && word.owner() == dead {
        crate::probe!(segment, SpanCached);
        // Fails only when a sweeper took it meanwhile, which may: the dead P is outside, or its word says so no more.
        let _ =
            span.word
                .compare_exchange(word.0, word.released(SpanWord::FULL).0, AcqRel, Relaxed);
    } else {
        crate::probe!(segment, SpanTaken);
    }
}

fn settle_sweeping(segment: &Segment, dead: Owner, page: usize) {
    let word = SpanWord(segment.spans[page].word.load(Acquire));
    if word.state() == SpanWord::SWEEPING && word.owner() == dead {
        crate::probe!(segment, SpanSweeping);
        // No cycle starts before this span is swept (W1), so the phase is still the one it was claimed under.
        sweep::finish_sweep(segment, page, dead, segment.phase().cycle(), true);
    }
}

/// Died with a block of pages claimed: the cursor goes back to it; spans that are swept already are passed over.
fn set_cursor_back(segment: &Segment, block: usize) {
    crate::probe!(segment, SweepBlock);
    let cursor = &segment.hdr.gc.sweep_cursor.0;
    let page = (block * BLOCK_PAGES) as u64;
    let _ = cursor.fetch_update(AcqRel, Acquire, |seen| {
        (seen & 0xffff_ffff > page).then_some(seen & !0xffff_ffff | page)
    });
}
