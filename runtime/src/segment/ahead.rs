//! Memory ahead of growth: while a heap grows, somebody who has time (sysmon) has its next chunks' memory ready, in huge pages.
//!
//! Who commits a chunk for itself waits for a thousand small pages, and whoever touches them for a thousand faults: some 2 ms of a
//! processor for 4 MiB, in which nobody else gets it. Huge pages made where nothing is yet cost a quarter of that, and a fault for 2 MiB.
//! 1. Heaps of [`LEAST_CHUNKS`] or more, which have grown within [`GROWING_NS`]. 2. The next [`AHEAD`] chunks that have no memory, a sixteenth of the heap
//! at most: huge pages, then the reservation that a P makes too ([`Segment::reserve_chunk`]). 3. A P commits them as ever (`grow`), and finds
//! them reserved.
//!
//! **No state in the segment**: the chunks stay absent. What is remembered here is private, and only saves asking the kernel again.
//! **If the one who reserves dies**, the file has some memory more than it needs, which the next growth finds. A chunk that a P commits, or gives
//! back, meanwhile: reserving is idempotent, and making pages huge changes no byte.
//! **Rejected:** committing ahead, by somebody without a P: a claimed chunk would have no owner to settle it for. As much as the heap's goal
//! allows: a heap that has stopped growing would double.

use std::{collections::HashMap, sync::atomic::Ordering::Acquire};

use shm_layout::word::JobWord;

use super::{Segment, grow::chunk};
use crate::time::now_ns;

/// Chunks reserved at most.
const AHEAD: usize = 8;
/// A heap of fewer chunks gets none: one in so many is ahead at most.
const LEAST_CHUNKS: usize = 16;
/// How long after its last growth a heap is taken to grow.
const GROWING_NS: u64 = 1_000_000_000;
/// One look reserves for so long, then the rest of sysmon has its turn.
const LOOK_NS: u64 = 10_000_000;

/// What one process remembers of it between two looks.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Chunks that had memory, and when they became more; 0: not seen yet.
    ready: usize,
    grown_at_ns: u64,
    /// The words of the chunks that were reserved from here: one that has moved on says nothing any more.
    reserved: HashMap<usize, u64>,
}

impl Ahead {
    /// Looks whether the heap grows, and reserves what it will need next. Returns how many chunks it has reserved.
    pub fn look(&mut self, segment: &Segment) -> usize {
        let (now, ready) = (now_ns(), segment.ready_chunks());
        if ready > self.ready && self.ready > 0 {
            self.grown_at_ns = now;
        }
        self.ready = ready;
        let growing = self.grown_at_ns != 0 && now - self.grown_at_ns < GROWING_NS;
        if !growing || ready < LEAST_CHUNKS {
            return 0;
        }
        let next: Vec<(usize, u64)> = segment
            .absent_chunks()
            .take(AHEAD.min(ready / LEAST_CHUNKS))
            .collect();
        self.reserved.retain(|c, word| next.contains(&(*c, *word)));
        let mut made = 0;
        for (c, word) in next {
            if self.reserved.contains_key(&c) || now_ns() - now > LOOK_NS {
                continue;
            }
            segment.make_huge_before_use(c);
            if segment.reserve_chunk(c).is_err() {
                // Whoever needs it will be told. No further wishes for now.
                self.grown_at_ns = 0;
                break;
            }
            self.reserved.insert(c, word);
            made += 1;
        }
        made
    }
}

impl Segment {
    fn ready_chunks(&self) -> usize {
        (0..self.chunks_used())
            .filter(|&c| self.is_ready(c))
            .count()
    }

    /// Chunks without memory, the next to be committed first, and their words.
    fn absent_chunks(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let words = self.chunk_words.iter().enumerate();
        let all = words.map(|(c, w)| (c, w.load(Acquire)));
        all.filter(|&(_, w)| matches!(JobWord(w).state(), chunk::ABSENT | chunk::RELEASED))
    }
}
