//! Partial lists: per shape, a stack of spans with free slots.
//!
//! Derived. A span that is popped by somebody who dies, or whose push was cut short, is in no list until the next sweep
//! generation begins with empty lists and enters every span again; nothing but time is lost. `listed` keeps a span from being
//! entered twice in one generation, which would cut the list.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use shm_layout::word::ListHead;

use crate::{failpoint, segment::Segment};

/// Enters the span at `page` into its shape's list of generation `sweepgen`. False when it stands in it already.
pub(crate) fn push(segment: &Segment, shape: usize, page: usize, sweepgen: u8) -> bool {
    let span = &segment.spans[page];
    let stamp = u32::from(sweepgen) + 1;
    let was = span.listed.load(Acquire);
    if was == stamp
        || span
            .listed
            .compare_exchange(was, stamp, AcqRel, Relaxed)
            .is_err()
    {
        return false;
    }
    failpoint!("partial.listed");
    let head = &segment.shapes[shape].partial;
    loop {
        let seen = ListHead(head.load(Acquire));
        // A list of another generation is empty by definition: its spans have all been swept, and entered, or will be.
        let top = if seen.sweepgen() == sweepgen {
            seen.top()
        } else {
            0
        };
        span.next.store(top, Relaxed);
        let new = ListHead(0)
            .with_top(page as u32 + 1)
            .with_sweepgen(sweepgen)
            .with_tag(seen.tag().wrapping_add(1));
        // AcqRel: Release publishes `next`; pairs with the Acquire in `pop`.
        if head
            .compare_exchange(seen.0, new.0, AcqRel, Relaxed)
            .is_ok()
        {
            return true;
        }
    }
}

/// Takes a span out of the list; it may have been taken, swept or freed by other means: its word decides.
pub(crate) fn pop(segment: &Segment, shape: usize, sweepgen: u8) -> Option<usize> {
    let head = &segment.shapes[shape].partial;
    loop {
        let seen = ListHead(head.load(Acquire));
        if seen.top() == 0 || seen.sweepgen() != sweepgen {
            return None;
        }
        let page = seen.top() as usize - 1;
        let span = &segment.spans[page];
        // May be torn by a pop and a push of the same span in between: then the tag has moved and the exchange fails.
        let next = span.next.load(Relaxed);
        let new = seen.with_top(next).with_tag(seen.tag().wrapping_add(1));
        if head
            .compare_exchange(seen.0, new.0, AcqRel, Relaxed)
            .is_ok()
        {
            failpoint!("partial.popped");
            span.listed.store(0, Relaxed);
            return Some(page);
        }
    }
}
