//! Mark bits: one bit per granule, set at the first granule of an object.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use shm_layout::sync::AtomicU64;
use shm_layout::{PAGE_GRANULES, Ref};

use crate::segment::{Inner, Segment};

/// Words of bitmap per page.
pub(crate) const PAGE_WORDS: usize = PAGE_GRANULES / 64;

impl Inner {
    /// The bitmap of a cycle.
    #[inline]
    pub(crate) fn marks_of(&self, cycle: u32) -> &'static [AtomicU64] {
        self.marks[(cycle & 1) as usize]
    }
}

/// Is the object marked?
#[inline]
pub(crate) fn is_marked(marks: &[AtomicU64], r: Ref) -> bool {
    // Relaxed: a hint; the caller that must know uses `mark`.
    marks[r as usize / 64].load(Relaxed) >> (r % 64) & 1 != 0
}

/// Marks the object; true when it was not marked before: of several callers one gets true.
#[inline]
pub(crate) fn mark(marks: &[AtomicU64], r: Ref) -> bool {
    let bit = 1u64 << (r % 64);
    // AcqRel: Acquire pairs with the Release by which the object was published; Release pairs with the sweeper's Acquire.
    marks[r as usize / 64].fetch_or(bit, AcqRel) & bit == 0
}

/// Marks or unmarks `count` objects of `step` granules from `first`: a run of free slots changes colour at once, word by word.
pub(crate) fn paint(marks: &[AtomicU64], first: Ref, step: u32, count: u32, set: bool) {
    let every = every(step);
    let mut at = first;
    let end = first + step * count;
    while at < end {
        let (word, shift) = (at / 64, at % 64);
        let mut mask = every << shift;
        if end - word * 64 < 64 {
            mask &= (1 << (end % 64)) - 1;
        }
        // AcqRel: as in `mark`.
        if set {
            marks[word as usize].fetch_or(mask, AcqRel);
        } else {
            marks[word as usize].fetch_and(!mask, AcqRel);
        }
        at += step * ((63 - shift) / step + 1);
    }
}

/// A word with every `step`th bit set, from the lowest.
fn every(step: u32) -> u64 {
    let mut bits = 1u64;
    let mut known = step;
    while known < 64 {
        bits |= bits << known;
        known *= 2;
    }
    bits
}

/// Marked objects in `pages` pages from `page`.
pub(crate) fn count(marks: &[AtomicU64], page: usize, pages: usize) -> u32 {
    marks[page * PAGE_WORDS..(page + pages) * PAGE_WORDS]
        .iter()
        .map(|w| w.load(Acquire).count_ones())
        .sum()
}

/// Clears the bits of `pages` pages from `page`.
pub(crate) fn clear(marks: &[AtomicU64], page: usize, pages: usize) {
    for word in &marks[page * PAGE_WORDS..(page + pages) * PAGE_WORDS] {
        if word.load(Relaxed) != 0 {
            word.store(0, Relaxed);
        }
    }
}

/// The next run of free slots at or after object `from` of `objects` in a span at `page`: first and one past the last.
pub(crate) fn free_run(
    marks: &[AtomicU64],
    page: usize,
    step: u32,
    objects: u32,
    from: u32,
) -> Option<(u32, u32)> {
    let base = (page * PAGE_GRANULES) as u32;
    let mut first = from;
    while first < objects && is_marked(marks, base + first * step) {
        first += 1;
    }
    if first >= objects {
        return None;
    }
    let end = base + objects * step;
    let mut at = base + (first + 1) * step;
    while at < end {
        let word = marks[at as usize / 64].load(Relaxed) >> (at % 64);
        if word != 0 {
            at += word.trailing_zeros();
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    let last = (at.min(end) - base) / step;
    Some((first, last.max(first + 1)))
}

impl Segment {
    /// Clears both bitmaps over a span that goes away.
    pub(crate) fn clear_span_marks(&self, page: usize, pages: usize) {
        clear(self.marks[0], page, pages);
        clear(self.marks[1], page, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(pages: usize) -> Vec<AtomicU64> {
        (0..pages * PAGE_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn paint_sets_and_clears_every_start_and_nothing_else() {
        for step in [1u32, 2, 3, 5, 7, 16, 63, 64, 65, 200] {
            for (first, objects) in [(1024, 9), (1025, 1), (1087, 9), (1030, 2), (1024, 0)] {
                let marks = bitmap(4);
                paint(&marks, first, step, objects, true);
                for r in 1000..3072 {
                    assert_eq!(
                        is_marked(&marks, r),
                        r >= first && (r - first) % step == 0 && (r - first) / step < objects,
                        "step {step} from {first} at {r}"
                    );
                }
                assert_eq!(count(&marks, 0, 4), objects);
                paint(&marks, first, step, objects, false);
                assert_eq!(count(&marks, 0, 4), 0);
            }
        }
    }

    #[test]
    fn free_runs_are_what_a_plain_loop_finds() {
        let mut rng = fastrand::Rng::with_seed(7);
        for step in [1u32, 2, 3, 6, 9, 48, 130] {
            let objects = 2048 / step;
            for _ in 0..50 {
                let marks = bitmap(3);
                let live: Vec<bool> = (0..objects).map(|_| rng.u8(..) < 90).collect();
                for (i, &l) in live.iter().enumerate() {
                    if l {
                        mark(&marks, 1024 + i as u32 * step);
                    }
                }
                let mut found = vec![true; objects as usize];
                let mut from = 0;
                while let Some((a, b)) = free_run(&marks, 1, step, objects, from) {
                    assert!(a >= from && b > a && b <= objects);
                    found[a as usize..b as usize].fill(false);
                    from = b;
                }
                assert_eq!(found, live, "step {step}");
            }
        }
    }
}
