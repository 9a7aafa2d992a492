//! Where everything is: offsets from the segment's first byte, a function of the heap's limit alone.
//!
//! ```text
//! header | P records | P areas | workers | slots | root jobs | shapes | types | kinds | roots |
//! task finders | tasks | work buffer words, finders | work buffers |
//! chunk words | page bits | span records | page shapes | mark bits 0 | mark bits 1 | heap (2 MiB aligned)
//! ```
//! What stands before the tasks is reserved when the segment is made. Tasks and work buffers are reserved in steps; the tables
//! from span records on are reserved chunk by chunk, together with the heap's.

use crate::{
    CHUNK_BYTES, CHUNK_PAGES, GRANULE_BYTES, MAX_HEAP_BYTES, MAX_P, MAX_WORKERS, PAGE_BYTES,
    bits::Finder,
    header::Header,
    proc::{ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{KINDS, ROOTS, RootRecord, SHAPES, ShapeRecord, TYPES, TypeRecord},
    task::TaskRecord,
    workbuf::WORKBUF_BYTES,
    worker::{SlotRecord, WorkerRecord},
};

/// Root jobs a cycle can have.
pub const ROOT_JOBS: usize = 8192;
/// Task records that one root job scans.
pub const TASKS_PER_JOB: usize = 1024;
/// Task records reserved in one step.
pub const TASK_STEP: usize = 1024;
/// Work buffers reserved in one step.
pub const WORKBUF_STEP: usize = 64;

/// Offsets and counts. Offsets are bytes from the segment's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each name is the table of that name")]
pub struct Geometry {
    pub limit_bytes: u64,
    pub chunks: usize,
    pub pages: usize,
    pub tasks: usize,
    pub workbufs: usize,

    pub procs_at: usize,
    pub areas_at: usize,
    pub workers_at: usize,
    pub slots_at: usize,
    pub root_jobs_at: usize,
    pub shapes_at: usize,
    pub types_at: usize,
    pub kinds_at: usize,
    pub roots_at: usize,
    pub task_free_at: usize,
    pub task_free_upper_at: usize,
    pub task_run_at: usize,
    pub task_run_upper_at: usize,
    pub buf_words_at: usize,
    pub buf_full_at: usize,
    pub buf_full_upper_at: usize,
    pub buf_free_at: usize,
    pub buf_free_upper_at: usize,
    pub chunk_words_at: usize,
    pub page_bits_at: usize,
    /// Everything below is reserved at creation.
    pub fixed_end: usize,
    pub tasks_at: usize,
    pub workbufs_at: usize,
    pub spans_at: usize,
    pub page_shapes_at: usize,
    pub marks_at: [usize; 2],
    pub heap_at: usize,
    pub total_bytes: usize,
}

/// Hands out consecutive, aligned ranges.
struct Cursor(usize);

impl Cursor {
    const fn table(&mut self, bytes: usize, align: usize) -> usize {
        let at = self.0.next_multiple_of(align);
        self.0 = at + bytes;
        at
    }
}

impl Geometry {
    /// The geometry of a heap limited to `limit_bytes` of objects, rounded up to whole chunks and to at least two.
    ///
    /// ```
    /// use shm_layout::geometry::Geometry;
    /// let g = Geometry::of_limit(64 << 20).unwrap();
    /// assert_eq!(g.chunks, 16);
    /// assert_eq!(g.heap_at % (2 << 20), 0);
    /// assert!(Geometry::of_limit(33 << 30).is_none());
    /// ```
    pub const fn of_limit(limit_bytes: u64) -> Option<Geometry> {
        if limit_bytes > MAX_HEAP_BYTES {
            return None;
        }
        let chunks = (limit_bytes as usize).div_ceil(CHUNK_BYTES);
        let chunks = if chunks < 2 { 2 } else { chunks };
        let pages = chunks * CHUNK_PAGES;
        let heap_bytes = chunks * CHUNK_BYTES;
        // One task per KiB of heap, between 64 Ki and 4 Mi; a work buffer per 32 KiB (grey references for 1/16 of the heap).
        let tasks = clamp(heap_bytes >> 10, 1 << 16, 1 << 22);
        let workbufs = clamp(heap_bytes >> 15, 1 << 10, 1 << 20);
        let mut c = Cursor(0);
        let _header = c.table(size_of::<Header>(), 4096);
        let procs_at = c.table(MAX_P * size_of::<ProcRecord>(), 4096);
        let areas_at = c.table(0, 4096);
        // Areas are sparse: reserved per lease, but inside the fixed range.
        c.0 += MAX_P * size_of::<ProcArea>();
        let workers_at = c.table(MAX_WORKERS * size_of::<WorkerRecord>(), 4096);
        let slots_at = c.table(MAX_P * size_of::<SlotRecord>(), 64);
        let root_jobs_at = c.table(ROOT_JOBS * 8, 64);
        let shapes_at = c.table(SHAPES * size_of::<ShapeRecord>(), 64);
        let types_at = c.table(TYPES * size_of::<TypeRecord>(), 64);
        let kinds_at = c.table(KINDS * size_of::<TypeRecord>(), 64);
        let roots_at = c.table(ROOTS * size_of::<RootRecord>(), 64);
        let task_free_at = c.table(tasks / 8, 64);
        let task_free_upper_at = c.table(Finder::upper_words(tasks) * 8, 64);
        let task_run_at = c.table(tasks / 8, 64);
        let task_run_upper_at = c.table(Finder::upper_words(tasks) * 8, 64);
        let buf_words_at = c.table(workbufs * 8, 64);
        let buf_full_at = c.table(workbufs / 8, 64);
        let buf_full_upper_at = c.table(Finder::upper_words(workbufs) * 8, 64);
        let buf_free_at = c.table(workbufs / 8, 64);
        let buf_free_upper_at = c.table(Finder::upper_words(workbufs) * 8, 64);
        let chunk_words_at = c.table(chunks * 8, 64);
        let page_bits_at = c.table(pages / 8, 64);
        let fixed_end = c.table(0, 4096);
        let tasks_at = c.table(tasks * size_of::<TaskRecord>(), 4096);
        let workbufs_at = c.table(workbufs * WORKBUF_BYTES, 4096);
        let spans_at = c.table(pages * size_of::<SpanRecord>(), 4096);
        let page_shapes_at = c.table(pages * 2, 4096);
        let marks0 = c.table(heap_bytes / GRANULE_BYTES / 8, 4096);
        let marks1 = c.table(heap_bytes / GRANULE_BYTES / 8, 4096);
        let heap_at = c.table(heap_bytes, 2 << 20);
        Some(Geometry {
            limit_bytes: heap_bytes as u64,
            chunks,
            pages,
            tasks,
            workbufs,
            procs_at,
            areas_at,
            workers_at,
            slots_at,
            root_jobs_at,
            shapes_at,
            types_at,
            kinds_at,
            roots_at,
            task_free_at,
            task_free_upper_at,
            task_run_at,
            task_run_upper_at,
            buf_words_at,
            buf_full_at,
            buf_full_upper_at,
            buf_free_at,
            buf_free_upper_at,
            chunk_words_at,
            page_bits_at,
            fixed_end,
            tasks_at,
            workbufs_at,
            spans_at,
            page_shapes_at,
            marks_at: [marks0, marks1],
            heap_at,
            total_bytes: c.table(0, 2 << 20),
        })
    }

    /// Byte ranges `(offset, length)` of the segment that chunk `chunk` needs: its heap and its share of each table.
    pub const fn chunk_ranges(&self, chunk: usize) -> [(usize, usize); 5] {
        let first_page = chunk * CHUNK_PAGES;
        let mark_bytes = CHUNK_BYTES / GRANULE_BYTES / 8;
        [
            (self.heap_at + chunk * CHUNK_BYTES, CHUNK_BYTES),
            (self.marks_at[0] + chunk * mark_bytes, mark_bytes),
            (self.marks_at[1] + chunk * mark_bytes, mark_bytes),
            (
                self.spans_at + first_page * size_of::<SpanRecord>(),
                CHUNK_PAGES * size_of::<SpanRecord>(),
            ),
            (self.page_shapes_at + first_page * 2, CHUNK_PAGES * 2),
        ]
    }

    /// Offset of page `page` of the heap.
    pub const fn page_at(&self, page: usize) -> usize {
        self.heap_at + page * PAGE_BYTES
    }
}

const fn clamp(v: usize, lo: usize, hi: usize) -> usize {
    if v < lo {
        lo
    } else if v > hi {
        hi
    } else {
        v
    }
}
