//! Huge pages under the heap: whoever has time makes them, chunk after chunk, where the kernel can.
//!
//! Shared memory gets none by itself (`shmem_enabled` is "never" almost everywhere), but `MADV_COLLAPSE` asks for a range
//! whatever that says. It needs the address and the offset in the file both aligned, so the mapping begins at a multiple of 2 MiB
//! ([`ALIGN`]), like the heap in the file. Afterwards no process faults 4 KiB pages, and walking the heap misses the TLB hundreds
//! of times less often: marking a random graph of a gigabyte takes half the time.
//!
//! A wish: a refusal (an old kernel, no free huge page, another file system) changes nothing. `huge_next` says how far we are, for
//! all processes: who claims a chunk makes its pages huge; **if it dies** in there the chunk stays as it is.
//! **Rejected:** when a chunk is committed, or between steps: one call takes one to ten milliseconds of a busy machine, because the
//! kernel first waits for every processor to drain its lists of pages; and that was an operation's or a task's delay. Daemon, sleepers and
//! explicit collections have that time. Who touches the 2 MiB in question meanwhile waits for the copying, a fraction of that.
#![expect(
    unsafe_code,
    reason = "advises the kernel about a range of the mapping"
)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use shm_layout::{CHUNK_BYTES, PAGE_BYTES};

use super::Segment;

/// Size and alignment of a huge page.
pub(super) const ALIGN: usize = 2 << 20;
/// `MADV_COLLAPSE` of Linux 6.1; the `libc` crate has no name for it yet.
const MADV_COLLAPSE: i32 = 25;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(ALIGN));

impl Segment {
    /// Maps pages of ready chunks into this process, for writing, in one call instead of a fault for each. A wish: whatever is refused here is
    /// met as a fault later. The memory is there already (`limits::reserve`), and no byte changes.
    pub(crate) fn map_pages(&self, first: usize, count: usize) {
        let at = self.heap.as_ptr().wrapping_add(first * PAGE_BYTES);
        // SAFETY: the range lies in the mapping (S1), and the advice changes no byte of it.
        let _ = unsafe { libc::madvise(at.cast(), count * PAGE_BYTES, libc::MADV_POPULATE_WRITE) };
    }

    /// Makes the pages of the next ready chunk huge. False when all have been tried.
    pub(crate) fn make_huge(&self) -> bool {
        let committed = self.hdr.committed_chunks.0.load(Acquire);
        let claimed = self
            .hdr
            .huge_next
            .0
            .fetch_update(AcqRel, Relaxed, |c| (c < committed).then_some(c + 1));
        let Ok(c) = claimed else { return false };
        // The first chunk is all that a small program touches of its heap, and it touches little of that. A chunk that is not
        // ready comes back when it is committed (`huge_again`).
        if c > 0 && self.is_ready(c as usize) {
            let at = self.heap.as_ptr().wrapping_add(c as usize * CHUNK_BYTES);
            // SAFETY: the range lies in the mapping (S1), and the advice changes no byte of it.
            let _ = unsafe { libc::madvise(at.cast(), CHUNK_BYTES, MADV_COLLAPSE) };
        }
        true
    }

    /// Chunk `c` has new, small pages.
    pub(super) fn huge_again(&self, c: usize) {
        self.hdr.huge_next.0.fetch_min(c as u32, AcqRel);
    }
}
