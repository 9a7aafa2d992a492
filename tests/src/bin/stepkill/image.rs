//! Images: the segment's bytes at one instruction of the victim, told apart, copied, and described.
//!
//! The victim stands still (it is in a ptrace stop) while its segment is read, and nobody else works on a copy while it is
//! written, so plain reads and copies are enough.
#![expect(unsafe_code, reason = "compares and copies mapped segments as bytes")]

use std::{ops::Range, os::fd::AsFd};

use coheap::{Segment, SegmentConfig, testing};
use nix::unistd::{Whence, lseek};

/// A heap that never collects by itself: what happens is what the operations do.
pub fn new_segment() -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes: 16 << 20,
        gc_percent: -1,
        name: "stepkill".into(),
        ..SegmentConfig::default()
    })
    .expect("memory for a segment")
}

/// The last image seen of a segment.
pub struct Watcher {
    segment: Segment,
    ranges: Vec<Range<usize>>,
    idle: Vec<usize>,
    last: Vec<Vec<u8>>,
}

fn view(segment: &Segment, range: &Range<usize>) -> &'static [u8] {
    let (base, len) = testing::bytes(segment);
    assert!(range.end <= len);
    // SAFETY: 1. Inside the mapping, which stays as long as the segment that the caller keeps. 2. Nobody writes to it while the
    // slice is used: the victim is in a ptrace stop.
    unsafe { std::slice::from_raw_parts(base.wrapping_add(range.start), range.len()) }
}

impl Watcher {
    pub fn new(segment: &Segment) -> Watcher {
        let ranges = testing::telling_ranges(segment);
        Watcher {
            last: ranges.iter().map(|r| view(segment, r).to_vec()).collect(),
            idle: testing::idle_words(segment),
            segment: segment.clone(),
            ranges,
        }
    }

    /// Has anything changed since the last call? The offset of the first word that did.
    pub fn changed(&mut self) -> Option<usize> {
        let mut first = None;
        for (range, last) in self.ranges.iter().zip(&mut self.last) {
            let now = view(&self.segment, range);
            if now == &last[..] {
                continue;
            }
            for (i, (a, b)) in now.chunks(4).zip(last.chunks(4)).enumerate() {
                let at = range.start + i * 4;
                if a != b && first.is_none() && !self.idle.contains(&(at & !7)) {
                    first = Some(at);
                }
            }
            last.copy_from_slice(now);
        }
        first
    }
}

/// Ranges of the file that have ever been written to.
fn data_ranges(segment: &Segment) -> Vec<Range<usize>> {
    let fd = segment.fd();
    let mut out = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(fd.as_fd(), at, Whence::SeekData) {
        let end = lseek(fd.as_fd(), start, Whence::SeekHole).expect("data ends somewhere");
        out.push(start as usize..end as usize);
        at = end;
    }
    out
}

/// Makes `to` the same as `from`.
pub fn copy(from: &Segment, to: &Segment) {
    let (src, len) = testing::bytes(from);
    let (dst, other) = testing::bytes(to);
    assert_eq!(len, other);
    let theirs = data_ranges(to);
    let ours = data_ranges(from);
    for range in ours.iter().chain(&theirs) {
        // SAFETY: 1. Both inside mappings of the same length that the segments keep. 2. They are different files. 3. Nobody works
        // on either (see the module).
        unsafe {
            std::ptr::copy_nonoverlapping(
                src.wrapping_add(range.start).cast_const(),
                dst.wrapping_add(range.start),
                range.len(),
            );
        }
    }
}
