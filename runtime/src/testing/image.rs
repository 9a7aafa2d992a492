//! The segment as bytes: where it is mapped, which ranges tell one state from another, and which words in them decide nothing.
//!
//! Two images are the same when they agree in [`telling_ranges`] apart from [`idle_words`]. Of tables the ranges hold as many records
//! as a small test uses: **a heap that outgrows them changes unseen**.

use std::ops::Range;

use shm_layout::{
    PAGE_BYTES,
    header::{Gc as GcWords, Header},
    proc::{CURSORS, HANDLES, ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{RootRecord, ShapeRecord, TypeRecord},
    task::TaskRecord,
    workbuf::WORKBUF_BYTES,
    worker::{SlotRecord, WorkerRecord},
};

use crate::segment::Segment;

/// The mapping: first byte and length.
pub fn bytes(segment: &Segment) -> (*mut u8, usize) {
    let first = &raw const *segment.hdr;
    (first.cast_mut().cast(), segment.geo.total_bytes)
}

/// What tells one state of the segment from another, of the first P's, tasks, and pages: everything but clocks, counters, and rings.
pub fn telling_ranges(segment: &Segment) -> Vec<Range<usize>> {
    let g = &segment.geo;
    let stats = std::mem::offset_of!(Header, stats);
    let mut out = vec![
        0..stats,
        std::mem::offset_of!(Header, seen)..std::mem::offset_of!(Header, seen) + 64,
    ];
    for p in 0..4 {
        let at = g.procs_at + p * size_of::<ProcRecord>();
        out.push(at..at + std::mem::offset_of!(ProcRecord, stats));
        out.push(at + std::mem::offset_of!(ProcRecord, update_seq)..at + size_of::<ProcRecord>());
        let at = g.areas_at + p * size_of::<ProcArea>();
        out.push(at..at + 64 * 4);
        out.push(at + CURSORS * 4..at + CURSORS * 4 + HANDLES / 16 * 4);
    }
    let mut of = |at: usize, bytes: usize| out.push(at..at + bytes);
    of(g.workers_at, 8 * size_of::<WorkerRecord>());
    of(g.slots_at, 8 * size_of::<SlotRecord>());
    of(g.root_jobs_at, 8 * 300);
    of(g.shapes_at, 16 * size_of::<ShapeRecord>());
    of(g.types_at, 12 * size_of::<TypeRecord>());
    of(g.kinds_at, 8 * size_of::<TypeRecord>());
    of(g.roots_at, 12 * size_of::<RootRecord>());
    for at in [g.task_free_at, g.task_run_at, g.buf_full_at, g.buf_free_at] {
        of(at, 64);
    }
    for at in [
        g.task_free_upper_at,
        g.task_run_upper_at,
        g.buf_full_upper_at,
        g.buf_free_upper_at,
    ] {
        of(at, 8);
    }
    of(g.buf_words_at, 8 * 64);
    of(g.chunk_words_at, 8 * g.chunks);
    of(g.page_bits_at, g.pages / 8);
    of(g.tasks_at, 192 * size_of::<TaskRecord>());
    of(g.workbufs_at, 6 * WORKBUF_BYTES);
    of(g.spans_at, 160 * size_of::<SpanRecord>());
    of(g.page_shapes_at, 160 * 2);
    of(g.marks_at[0], 48 * PAGE_BYTES / 64);
    of(g.marks_at[1], 48 * PAGE_BYTES / 64);
    of(g.heap_at, 24 * PAGE_BYTES);
    out
}

/// Words that change with every event and decide nothing, as 8-byte ranges inside [`telling_ranges`]: left out of comparisons.
pub fn idle_words(segment: &Segment) -> Vec<usize> {
    let gc = std::mem::offset_of!(Header, gc) + std::mem::offset_of!(GcWords, at_ns);
    let mut out: Vec<usize> = (0..5).map(|i| gc + i * 8).collect();
    for g in 0..8 {
        out.push(
            segment.geo.workers_at
                + g * size_of::<WorkerRecord>()
                + std::mem::offset_of!(WorkerRecord, moved_at_ns),
        );
    }
    out
}
