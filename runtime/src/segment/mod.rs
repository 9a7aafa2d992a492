//! The segment as this process sees it: one mapping, and every table in it as a slice of atomics.
//!
//! This is the only place that turns offsets into references. The geometry is a function of the heap's limit, checked once when
//! the segment is opened; from then on a table is a slice, and an index out of range is a panic here, not a wild store.
//!
//! **Invariants.** S1: the mapping covers `geometry.total_bytes` and stays until the last [`Segment`] clone is gone. S2: the file
//! never shrinks (sealed for memfd; a named segment is as safe as its owner's uid). S3: every table element consists of atomics
//! only, for which all-zero bytes are valid. S4: memory behind `committed` chunks, records and areas is reserved before use, so
//! touching it raises no SIGBUS.
//! **If this process dies** the mapping goes with it; nothing here needs repair.
#![expect(
    unsafe_code,
    reason = "turns checked offsets of the mapping into slices of atomics"
)]

mod backing;
mod check;
mod create;
pub(crate) mod grow;
mod huge;
pub(crate) mod limits;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
    sync::atomic::Ordering::{Acquire, SeqCst},
};

use shm_layout::sync::{AtomicU16, AtomicU64};
use shm_layout::{
    GRANULE_BYTES, MAX_P, MAX_WORKERS, PAGE_BYTES, Ref,
    bits::Finder,
    geometry::{Geometry, ROOT_JOBS},
    header::Header,
    proc::{ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{KINDS, ROOTS, RootRecord, SHAPES, ShapeRecord, TYPES, TypeRecord},
    task::TaskRecord,
    word::PhaseWord,
    workbuf::Workbuf,
    worker::{SlotRecord, WorkerRecord},
};

pub use backing::Backing;
pub(crate) use create::HEAP_MINIMUM_BYTES;
pub use create::SegmentConfig;
pub(crate) use grow::settle_pages;
pub use limits::cgroup_room;

/// A handle on the mapped segment; clones share one mapping.
///
/// ```
/// use coheap::segment::{Segment, SegmentConfig};
/// let segment = Segment::create(&SegmentConfig { max_bytes: 64 << 20, ..SegmentConfig::default() })?;
/// let again = Segment::open_fd(segment.fd().try_clone_to_owned().unwrap())?;
/// assert_eq!(segment.incarnation(), again.incarnation());
/// # Ok::<(), coheap::Error>(())
/// ```
#[derive(Clone)]
pub struct Segment(Arc<Inner>);

/// The mapping behind a [`Segment`]. Nothing of it is for programs.
#[doc(hidden)]
pub struct Inner {
    base: NonNull<u8>,
    /// Base of the heap's objects.
    pub(crate) heap: NonNull<u8>,
    pub(crate) geo: Geometry,
    fd: OwnedFd,
    _backing: backing::Owned,
    pub(crate) hdr: &'static Header,
    pub(crate) procs: &'static [ProcRecord],
    pub(crate) areas: &'static [ProcArea],
    pub(crate) workers: &'static [WorkerRecord],
    pub(crate) slots: &'static [SlotRecord],
    pub(crate) root_jobs: &'static [AtomicU64],
    pub(crate) shapes: &'static [ShapeRecord],
    pub(crate) types: &'static [TypeRecord],
    pub(crate) kinds: &'static [TypeRecord],
    pub(crate) roots: &'static [RootRecord],
    pub(crate) task_free: Finder<'static>,
    pub(crate) task_run: Finder<'static>,
    pub(crate) tasks: &'static [TaskRecord],
    pub(crate) buf_words: &'static [AtomicU64],
    pub(crate) buf_full: Finder<'static>,
    pub(crate) buf_free: Finder<'static>,
    pub(crate) bufs: &'static [Workbuf],
    pub(crate) chunk_words: &'static [AtomicU64],
    pub(crate) page_bits: &'static [AtomicU64],
    pub(crate) spans: &'static [SpanRecord],
    pub(crate) page_shapes: &'static [AtomicU16],
    pub(crate) marks: [&'static [AtomicU64]; 2],
}

// SAFETY: the raw pointers are the bounds of a shared mapping that every thread may use; all access to it is through atomics or
// through object pointers whose protocol (scopes, task words) already crosses processes.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl std::ops::Deref for Segment {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: 1. The range was mapped by `map` with this length. 2. The tables borrowed from it live in this value, which
        // ends here, and every user of the mapping holds a clone of the segment (S1).
        let unmapped = unsafe { nix::sys::mman::munmap(self.base.cast(), self.geo.total_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// One table of the mapping.
///
/// # Safety
/// `at + count * size_of::<T>()` lies within the mapping at `base`, `at` is aligned for `T`, `T` consists of atomics (S3), and
/// the result is not used after the mapping has gone (S1).
unsafe fn table<T>(base: NonNull<u8>, at: usize, count: usize) -> &'static [T] {
    // SAFETY: promised by the caller.
    let first = unsafe { base.add(at) };
    debug_assert!(first.cast::<T>().is_aligned());
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(first.cast::<T>().as_ptr(), count) }
}

impl Segment {
    /// Takes over a mapping of `geo.total_bytes` at `base`.
    ///
    /// # Safety
    /// The mapping is shared, readable, writable, `geo.total_bytes` long, nobody else unmaps it, and the file behind it is as
    /// long (S1, S2).
    unsafe fn adopt(
        base: NonNull<u8>,
        geo: Geometry,
        fd: OwnedFd,
        backing: backing::Owned,
    ) -> Segment {
        macro_rules! tab {
            ($at:expr, $n:expr) => {
                // SAFETY: `Geometry` lays tables out without overlap inside `total_bytes`, aligned (its tests), S1 and S3 hold.
                unsafe { table(base, $at, $n) }
            };
        }
        macro_rules! finder {
            ($bits:ident, $upper:ident, $n:expr) => {
                Finder {
                    bits: tab!(geo.$bits, $n / 64),
                    upper: tab!(geo.$upper, Finder::upper_words($n)),
                }
            };
        }
        let header: &'static [Header] = tab!(0, 1);
        let mark_words = geo.chunks * shm_layout::CHUNK_BYTES / GRANULE_BYTES / 64;
        // SAFETY: the heap starts within the mapping.
        let heap = unsafe { base.add(geo.heap_at) };
        Segment(Arc::new(Inner {
            base,
            heap,
            geo,
            fd,
            _backing: backing,
            hdr: &header[0],
            procs: tab!(geo.procs_at, MAX_P),
            areas: tab!(geo.areas_at, MAX_P),
            workers: tab!(geo.workers_at, MAX_WORKERS),
            slots: tab!(geo.slots_at, MAX_P),
            root_jobs: tab!(geo.root_jobs_at, ROOT_JOBS),
            shapes: tab!(geo.shapes_at, SHAPES),
            types: tab!(geo.types_at, TYPES),
            kinds: tab!(geo.kinds_at, KINDS),
            roots: tab!(geo.roots_at, ROOTS),
            task_free: finder!(task_free_at, task_free_upper_at, geo.tasks),
            task_run: finder!(task_run_at, task_run_upper_at, geo.tasks),
            tasks: tab!(geo.tasks_at, geo.tasks),
            buf_words: tab!(geo.buf_words_at, geo.workbufs),
            buf_full: finder!(buf_full_at, buf_full_upper_at, geo.workbufs),
            buf_free: finder!(buf_free_at, buf_free_upper_at, geo.workbufs),
            bufs: tab!(geo.workbufs_at, geo.workbufs),
            chunk_words: tab!(geo.chunk_words_at, geo.chunks),
            page_bits: tab!(geo.page_bits_at, geo.pages / 64),
            spans: tab!(geo.spans_at, geo.pages),
            page_shapes: tab!(geo.page_shapes_at, geo.pages),
            marks: [
                tab!(geo.marks_at[0], mark_words),
                tab!(geo.marks_at[1], mark_words),
            ],
        }))
    }

    /// The descriptor behind the mapping, to be passed to another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A number that no other segment of this machine has.
    pub fn incarnation(&self) -> u64 {
        self.hdr.id.incarnation.load(Acquire)
    }

    /// The name given at creation.
    pub fn name(&self) -> String {
        crate::names::read(&self.hdr.id.name)
    }

    /// Fingerprint of the layout this program was built with.
    pub fn layout_hash() -> u64 {
        shm_layout::header::LAYOUT_HASH
    }

    /// Version of the layout this program was built with.
    pub fn layout_version() -> u32 {
        shm_layout::header::LAYOUT_VERSION
    }

    /// First byte of the mapping, for the explorer.
    #[cfg(feature = "model")]
    pub(crate) fn base_address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The collector's phase, for ghosts: read without being noticed.
    #[cfg(feature = "model")]
    pub(crate) fn phase_unseen(&self) -> PhaseWord {
        // SAFETY: a word of the mapped segment; in a model one thread plays every process.
        PhaseWord(unsafe { *self.hdr.gc.phase.0.as_ptr() })
    }

    /// The collector's phase; while the world is stopped, the one it was stopped in.
    pub(crate) fn running_phase(&self) -> PhaseWord {
        let phase = self.phase();
        if phase.kind() == PhaseWord::STOPPED && !crate::twin!("stopped-is-off") {
            return phase.with_kind(self.hdr.gc.stop_resume.load(Acquire) as u8);
        }
        phase
    }

    /// The collector's phase.
    #[inline]
    pub(crate) fn phase(&self) -> PhaseWord {
        // SeqCst: partner of the edge of a scope (`sched/scope.rs`): either we see its scope word or it sees this phase.
        PhaseWord(
            self.hdr
                .gc
                .phase
                .0
                .load(std::sync::atomic::Ordering::SeqCst),
        )
    }
}

impl Inner {
    /// The P records ever leased. This and the next three are bounded: a daemon goes on reading a heap that somebody has spoiled.
    #[inline]
    pub(crate) fn used_procs(&self) -> &'static [ProcRecord] {
        let high = self.hdr.sched.proc_high.load(SeqCst) as usize;
        &self.procs[..high.min(MAX_P)]
    }

    /// Task records ever used: no finder shows one beyond.
    #[inline]
    pub(crate) fn tasks_used(&self) -> usize {
        // SeqCst: raised before a record is first entered anywhere.
        let high = self.hdr.sched.task_high.load(SeqCst) as usize;
        high.min(self.geo.tasks)
    }

    /// Work buffers ever used: no finder shows one beyond.
    #[inline]
    pub(crate) fn workbufs_used(&self) -> usize {
        let high = self.hdr.sched.workbuf_high.load(SeqCst) as usize;
        high.min(self.geo.workbufs)
    }

    /// Chunks ever committed.
    #[inline]
    pub(crate) fn chunks_used(&self) -> usize {
        let high = self.hdr.committed_chunks.0.load(Acquire) as usize;
        high.min(self.geo.chunks)
    }

    /// Address of the object that `r` names. Arithmetic only; whether it may be touched is the caller's argument.
    #[inline]
    pub(crate) fn object(&self, r: Ref) -> *mut u8 {
        debug_assert!(
            r != 0 && (r as usize) * GRANULE_BYTES < self.geo.limit_bytes as usize,
            "reference {r:#x} is outside the heap"
        );
        self.heap.as_ptr().wrapping_add(r as usize * GRANULE_BYTES)
    }

    /// The reference of an address inside the heap.
    #[inline]
    pub(crate) fn reference(&self, at: *const u8) -> Ref {
        ((at as usize - self.heap.as_ptr() as usize) / GRANULE_BYTES) as Ref
    }

    /// Is this address inside the heap?
    #[inline]
    pub(crate) fn contains(&self, at: *const u8) -> bool {
        (at as usize).wrapping_sub(self.heap.as_ptr() as usize) < self.geo.limit_bytes as usize
    }

    /// Page of a reference.
    #[inline]
    pub(crate) fn page_of(&self, r: Ref) -> usize {
        r as usize / (PAGE_BYTES / GRANULE_BYTES)
    }

    /// First page of the span that `page` belongs to.
    #[inline]
    pub(crate) fn span_head(&self, page: usize) -> usize {
        use shm_layout::word::SpanWord;
        let record = &self.spans[page];
        // Relaxed: the caller holds a reference into the span, so the span has been published to it.
        let word = SpanWord(record.word.load(std::sync::atomic::Ordering::Relaxed));
        if word.state() == SpanWord::BODY {
            page - record.pages.load(std::sync::atomic::Ordering::Relaxed) as usize
        } else {
            page
        }
    }
}
