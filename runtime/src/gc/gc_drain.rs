//! Draining: grey objects are scanned, what they refer to is marked and becomes grey (Go's gcDrain, scanobject, greyobject).
//!
//! 1. Root jobs first. 2. Then objects, some at a time, so that no memory is waited for: the *scan queue* takes the newest grey
//! references from the buffers and prefetches the objects; its older half is scanned, and the *finds*, the references met there, are
//! noted and their mark words prefetched. 3. All finds are marked where they were white, several of one word at once, and pushed.
//!
//! **Rule 3 (record, then mark, then push, then clear)** is kept by queue and finds themselves: they are the in-flight record of the P. A
//! reference stands in the record from before it leaves its buffer, or its parent the scan queue, until after it has been pushed or
//! scanned; then its place is used again, and all places are cleared when the drain ends. A place that still shows what is done
//! costs a second scan after a death, nothing else: recovery marks and pushes whatever stands there. The same holds for the active
//! buffer: what lies beyond its length in the segment stands in the record, and what lies below it is marked, scanned or not.
//!
//! Objects have no header: the page's shape says where the references are (`scanobject`). An object counts as marked bytes when it is scanned.
//! **In a scope** a drain says "dirty" once it has scanned anything (rule 4): an assist is no worker, so a round may begin while it
//! has grey objects in its hands, and what it leaves behind does not tell.
//! **If the drainer dies**: its in-flight references are pushed again; scanning is idempotent, because marking is.
//! **Rejected:** marking without a locked instruction (two markers of one word would lose a bit); finds that wait for their mark words
//! while scanning goes on (a walk through twice as many places at once; slower for large objects, no faster for small ones).
#![expect(
    unsafe_code,
    reason = "reads reference fields of objects through addresses in the mapped heap"
)]

mod scanobject;

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::sync::{AtomicU16, AtomicU32, AtomicU64};
use shm_layout::{
    GRANULE_BYTES, PAGE_GRANULES, Ref,
    proc::INFLIGHT,
    tables::ShapeRecord,
    workbuf::{WORKBUF_REFS, Workbuf},
};

use crate::{
    failpoint,
    heap::{
        marks,
        oracle::{self, Oracles},
    },
    planted,
    sched::proc::Proc,
    time::now_ns,
    twin,
};

/// Places of the scan queue: the first of the in-flight record.
const SCANS: usize = 32;
/// Places of the finds: the next ones.
const FINDS: usize = 32;

const _: () =
    assert!(SCANS + FINDS <= INFLIGHT && SCANS.is_power_of_two() && FINDS.is_power_of_two());

/// When a drain returns, apart from running out of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Out of work, or the phase moved on (dedicated).
    NoWork,
    /// Also when asked to yield, or when the fractional share is used up.
    Preempt,
    /// Also when there is something else to run (idle).
    OtherWork,
    /// Also after this many bytes of scan work (assist).
    Bytes(u64),
}

/// Scan work between two looks at the outside world, in bytes: well below 100 microseconds.
const CHECK_BYTES: u64 = 32 << 10;
/// What a root job counts as, in bytes of scan work.
const ROOT_JOB_BYTES: u64 = 2 << 10;

impl Proc {
    /// Marks until there is nothing left or `until` says so. Returns bytes scanned.
    pub(crate) fn gc_drain(&self, until: Until, started_ns: u64) -> u64 {
        let mut done = 0u64;
        let background = !matches!(until, Until::Bytes(_));
        let bits = self.seg.marks_of(self.seg.phase().cycle());
        while self.markroot_next(bits) {
            done += ROOT_JOB_BYTES;
            if self.should_stop(until, done, started_ns) {
                self.flush_scan_work(done, background);
                return done;
            }
        }
        self.flush_scan_work(done, background);
        let mut drain = Drain::new(self, bits);
        drain.assists = !background;
        let mut flushed = 0u64;
        while drain.step() {
            if drain.scanned - flushed >= CHECK_BYTES {
                self.count_marked(drain.scanned - flushed);
                self.flush_scan_work(drain.scanned - flushed, background);
                flushed = drain.scanned;
                drain.sync();
                self.gcw_balance();
                drain.reload();
                if self.should_stop(until, done + flushed, started_ns) {
                    break;
                }
            }
        }
        let scanned = drain.finish();
        self.count_marked(scanned - flushed);
        self.flush_scan_work(scanned - flushed, background);
        self.flush_marked();
        done + scanned
    }

    fn should_stop(&self, until: Until, done: u64, started_ns: u64) -> bool {
        if !self.seg.phase().blacken() {
            return true;
        }
        if !matches!(until, Until::Bytes(_)) {
            if Oracles::read(&self.seg).migrate() {
                return true;
            }
            // Outside a scope: a handshake does not wait for it.
            self.give_way(now_ns());
        }
        match until {
            Until::NoWork => false,
            Until::Preempt => {
                self.rec.preempt.load(Relaxed) != 0 || self.fractional_share_used(started_ns)
            }
            Until::OtherWork => self.has_other_work(),
            Until::Bytes(bytes) => done >= bytes,
        }
    }

    #[inline]
    fn field(&self, at: *mut u8) -> &AtomicU32 {
        // SAFETY: 1. `at` is a four-byte aligned address inside an object of a span whose shape says "reference" or "count" here,
        // so inside the mapping. 2. Every process accesses it as an atomic.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// Marks `r` and makes it grey, if it was white. Rule 3: record, then mark, then push, then clear the record.
    #[inline]
    pub(crate) fn grey_object(&self, bits: &'static [AtomicU64], r: Ref) {
        if !planted!(PushNotRecorded) && !twin!("mark-without-record") {
            self.rec.now.0.shade.store(r, Release);
        }
        failpoint!("drain.recorded");
        if marks::mark(bits, r) {
            crate::failpoint::ghost!(self.seg, Greyed);
            failpoint!("drain.marked");
            if twin!("clear-early") {
                self.rec.now.0.shade.store(0, Release);
            }
            if self.seg.hdr.gc.dirty.0.load(Relaxed) == 0 {
                self.seg.hdr.gc.dirty.0.store(1, SeqCst);
            }
            self.gcw_put(r);
            failpoint!("drain.pushed");
        }
        self.rec.now.0.shade.store(0, Release);
    }

    /// Looks through every marked object again: what was marked when the buffers had run out is found by its unmarked children.
    /// The overflow is taken back only afterwards, and only if it has not grown: a death in here leaves it standing.
    pub(crate) fn rescan_heap(&self) {
        let overflow = &self.seg.hdr.gc.overflow;
        let before = overflow.load(SeqCst);
        let bits = self.seg.marks_of(self.seg.phase().cycle());
        let words = self.seg.hdr.committed_chunks.0.load(Acquire) as usize
            * shm_layout::CHUNK_PAGES
            * marks::PAGE_WORDS;
        let mut drain = Drain::new(self, bits);
        for (w, bits_of_word) in bits[..words].iter().enumerate() {
            let mut word = bits_of_word.load(Acquire);
            while word != 0 {
                let r = (w * 64) as Ref + word.trailing_zeros();
                word &= word - 1;
                if r as usize >= PAGE_GRANULES {
                    drain.scan(r);
                }
            }
        }
        // Its bytes count when the drain proper scans them, or not at all: an estimate too low makes the next cycle come early.
        drain.finish();
        let _ = overflow.compare_exchange(before, 0, SeqCst, Relaxed);
    }

    /// Fills memory with zeroes.
    pub(crate) fn zero(&self, at: *mut u8, bytes: usize) {
        debug_assert!(self.seg.contains(at));
        #[cfg(feature = "model")]
        crate::model::plainly_stores(at, bytes);
        // SAFETY: the range is a slot or span that this P has just taken, inside the mapping, unknown to everybody else.
        unsafe { std::ptr::write_bytes(at, 0, bytes) };
        #[cfg(feature = "model")]
        crate::model::plainly_stored(at, bytes);
    }
}

/// A drain under way. Queues and buffer are in the segment; what is here can be lost.
struct Drain<'p> {
    proc: &'p Proc,
    bits: &'static [AtomicU64],
    /// Tables of the segment that every object needs, without the way there.
    page_shapes: &'static [AtomicU16],
    shapes: &'static [ShapeRecord],
    /// The in-flight record: the scan queue, and the references that wait to be marked.
    scans: &'p [AtomicU32; SCANS],
    finds: &'p [AtomicU32; FINDS],
    dirty: &'p AtomicU32,
    /// The heap's base.
    heap: *mut u8,
    /// The shape met last, where one word of map says it all: most objects are of the shape before. Shapes never change.
    last: Small,
    /// Entries that have left and entered the scan queue. The counts run on; places are their remainders.
    scan_head: usize,
    scan_tail: usize,
    /// References that wait to be marked.
    found: usize,
    /// The active buffer and its length. The segment's length may be larger than this while the drain goes on: what stands there was
    /// taken out, and is scanned again after a death.
    buf: Option<&'static Workbuf>,
    len: usize,
    /// Bytes scanned.
    scanned: u64,
    /// In a scope, not by a worker: the end of marking does not see it at work.
    assists: bool,
}

/// What scanning needs to know of a shape of at most 256 bytes with a map.
#[derive(Clone, Copy)]
struct Small {
    shape: u32,
    bytes: u32,
    /// So many are scanned in a row: half a scan queue, for the younger half has only been asked for; none where one may refer to more
    /// than half the finds.
    burst: usize,
    /// Where the references are, in fours of bytes, last first: with a stack of grey references the first child is scanned next, and
    /// memory order ascends.
    at: [u8; FINDS / 2],
    refs: usize,
}

impl Small {
    /// No shape has this number.
    const NONE: Small = Small {
        shape: u32::MAX,
        bytes: 0,
        burst: 0,
        at: [0; FINDS / 2],
        refs: 0,
    };

    fn new(shape: u32, bytes: u32, mut map: u64) -> Small {
        let refs = map.count_ones() as usize;
        let mut small = Small {
            shape,
            bytes,
            burst: if refs <= FINDS / 2 { SCANS / 2 } else { 0 },
            refs: refs.min(FINDS / 2),
            ..Small::NONE
        };
        for at in &mut small.at[..small.refs] {
            *at = map.ilog2() as u8;
            map &= !(1 << *at);
        }
        small
    }
}

impl<'p> Drain<'p> {
    fn new(proc: &'p Proc, bits: &'static [AtomicU64]) -> Drain<'p> {
        let (scans, finds) = proc.rec.now.0.inflight.split_at(SCANS);
        let scans = scans.try_into().expect("so many places");
        let finds = finds.try_into().expect("and so many");
        let mut drain = Drain {
            proc,
            bits,
            page_shapes: proc.seg.page_shapes,
            shapes: proc.seg.shapes,
            scans,
            finds,
            dirty: &proc.seg.hdr.gc.dirty.0,
            heap: proc.seg.heap.as_ptr(),
            last: Small::NONE,
            scan_head: 0,
            scan_tail: 0,
            found: 0,
            buf: None,
            len: 0,
            scanned: 0,
            assists: false,
        };
        drain.reload();
        drain
    }

    /// Looks up the active buffer again: others than `push` and `fill` have moved it.
    fn reload(&mut self) {
        self.buf = self.proc.gcw_active();
        self.len = self.buf.map_or(0, |b| b.len.load(Relaxed) as usize);
    }

    /// Tells the segment the length, for those who are about to move the buffers.
    fn sync(&self) {
        if let Some(buf) = self.buf {
            // Release: the entries before the length that covers them, for recovery.
            buf.len.store(self.len as u32, Release);
        }
    }

    /// Scans some objects, and marks what was found. False when there is nothing left anywhere.
    #[inline(always)]
    fn step(&mut self) -> bool {
        loop {
            self.fill();
            if self.scan_head != self.scan_tail {
                if !self.scan_burst() {
                    self.scan_next();
                }
                self.mark_found();
                return true;
            }
            if !self.fetch() {
                return false;
            }
        }
    }

    /// Scans the older half of the scan queue as long as they are of the shape met last, and there is a place for all that the next one
    /// may refer to. False when there was none. A nil is written as well, and its place used again: whether a reference is nil no
    /// branch predictor knows.
    #[inline(never)]
    fn scan_burst(&mut self) -> bool {
        let small = self.last;
        let places = &small.at[..small.refs];
        // Copies: the compiler would read them again after every Release store.
        let (scans, finds, bits, page_shapes, heap) = (
            self.scans,
            self.finds,
            self.bits,
            self.page_shapes,
            self.heap,
        );
        let (begin, mut found) = (self.scan_head, self.found);
        let full = FINDS - small.refs;
        let end = self.scan_tail.min(begin + small.burst);
        let mut at = begin;
        while at != end && found <= full {
            let r = scans[at % SCANS].load(Relaxed);
            let shape = page_shapes[r as usize / PAGE_GRANULES].load(Relaxed);
            if u32::from(shape) != small.shape {
                break;
            }
            failpoint!("drain.scanning");
            if twin!("clear-before-scan") {
                scans[at % SCANS].store(0, Release);
            }
            let object = heap.wrapping_add(r as usize * GRANULE_BYTES);
            for &place in places {
                let child = self.reference(object, usize::from(place));
                note(finds, bits, found, child);
                found += usize::from(child != 0);
            }
            at += 1;
        }
        self.scanned += (at - begin) as u64 * u64::from(small.bytes);
        self.scan_head = at;
        self.found = found;
        at != begin
    }

    /// Scans the oldest of the scan queue, which is of another shape than the one before.
    #[inline(never)]
    fn scan_next(&mut self) {
        let place = &self.scans[self.scan_head % SCANS];
        let r = place.load(Relaxed);
        failpoint!("drain.scanning");
        if twin!("clear-before-scan") {
            place.store(0, Release);
        }
        self.scan(r);
        self.scan_head += 1;
    }

    /// Moves references from the buffers into the scan queue: recorded, then dropped from the buffer.
    #[inline(never)]
    fn fill(&mut self) {
        let full = self.scan_head + SCANS;
        while self.scan_tail != full {
            if self.len == 0 && !self.swap() {
                return;
            }
            let Some(buf) = self.buf else { return };
            let left = self.len.saturating_sub(full - self.scan_tail);
            while self.len != left {
                self.len -= 1;
                let r = buf.refs[self.len].load(Relaxed);
                if twin!("take-then-record") {
                    buf.len.store(self.len as u32, Release);
                }
                self.scans[self.scan_tail % SCANS].store(r, Release);
                self.scan_tail += 1;
                prefetch(self.object(r));
            }
        }
    }

    /// The active buffer is empty: goes on with the spare one, if it has work.
    #[cold]
    fn swap(&mut self) -> bool {
        self.sync();
        let swapped = self.proc.gcw_swap_for_work();
        self.reload();
        swapped
    }

    /// Nothing left here: goes on with a buffer of the pool, if there is one.
    #[cold]
    fn fetch(&mut self) -> bool {
        self.sync();
        let fetched = self.proc.gcw_fetch();
        self.reload();
        fetched
    }

    /// Adds a grey reference, which stands in the record.
    #[inline]
    fn push(&mut self, r: Ref) {
        match self.buf {
            Some(buf) if self.len < WORKBUF_REFS => {
                buf.refs[self.len].store(r, Relaxed);
                self.len += 1;
                // Release: the entry before the length that covers it, for recovery.
                buf.len.store(self.len as u32, Release);
            }
            _ => self.push_slow(r),
        }
    }

    #[cold]
    fn push_slow(&mut self, r: Ref) {
        self.sync();
        self.proc.gcw_put(r);
        self.reload();
    }

    /// Notes a reference met in an object, which stands in the record itself.
    #[inline(always)]
    fn found(&mut self, r: Ref) {
        if self.found == FINDS {
            self.mark_found();
        }
        note(self.finds, self.bits, self.found, r);
        self.found += 1;
    }

    /// Marks what was found, all at once, and pushes what was white. A locked instruction waits for all loads and stores before it, so
    /// between two of them nothing of the next objects can be looked at ahead; together they are paid once, and scanning goes on
    /// undisturbed.
    #[inline(never)]
    fn mark_found(&mut self) {
        let Some(buf) = self.buf.filter(|_| self.len + FINDS <= WORKBUF_REFS) else {
            return self.mark_found_slowly();
        };
        // Copies: the compiler would read them again after every atomic store.
        let (marker, mut len) = (Marker::new(self), self.len);
        let mut k = 0;
        while k != marker.finds.len() {
            let (mut won, end) = marker.mark_from(k);
            for place in &marker.finds[k..end] {
                let r = place.load(Relaxed);
                buf.refs[len].store(r, Relaxed);
                len += (won >> (r % 64) & 1) as usize;
                // It may stand there twice.
                won &= !(1 << (r % 64));
            }
            k = end;
        }
        // Release: the entries before the length that covers them, for recovery; until here they stand in the record.
        buf.len.store(len as u32, Release);
        failpoint!("drain.pushed");
        (self.found, self.len) = (0, len);
    }

    /// The same where the buffer has no room for all: each looks for it.
    #[cold]
    fn mark_found_slowly(&mut self) {
        let marker = Marker::new(self);
        let mut k = 0;
        while k != marker.finds.len() {
            let (mut won, end) = marker.mark_from(k);
            for place in &marker.finds[k..end] {
                let r = place.load(Relaxed);
                if won >> (r % 64) & 1 != 0 {
                    won &= !(1 << (r % 64));
                    self.push(r);
                }
            }
            failpoint!("drain.pushed");
            k = end;
        }
        self.found = 0;
    }

    /// Empties the queues into the buffers, then clears the record. Returns the bytes scanned.
    fn finish(mut self) -> u64 {
        self.mark_found();
        while self.scan_tail != self.scan_head {
            self.scan_tail -= 1;
            let r = self.scans[self.scan_tail % SCANS].load(Relaxed);
            self.push(r);
        }
        self.sync();
        if self.assists && self.scan_head != 0 && !twin!("assist-unsaid") {
            // SeqCst, and before the record is cleared: a round may have begun while these were grey. It waits for this scope, or for
            // its recovery, and looks at "dirty" after that.
            self.proc.seg.hdr.gc.dirty.0.store(1, SeqCst);
        }
        for place in &self.proc.rec.now.0.inflight {
            place.store(0, Release);
        }
        self.scanned
    }

    /// As `Segment::object`, without the way to the base.
    #[inline(always)]
    fn object(&self, r: Ref) -> *mut u8 {
        debug_assert!(
            self.proc.seg.object(r) == self.heap.wrapping_add(r as usize * GRANULE_BYTES)
        );
        self.heap.wrapping_add(r as usize * GRANULE_BYTES)
    }
}

/// Writes a reference into a free place of the finds, and asks for its mark word.
#[inline(always)]
fn note(finds: &[AtomicU32; FINDS], bits: &[AtomicU64], found: usize, r: Ref) {
    prefetch(bits.as_ptr().wrapping_add(r as usize / 64).cast());
    // Release: before the parent's place is used again. (The remainder is the number itself, and spares a check.)
    finds[found % FINDS].store(r, Release);
    failpoint!("drain.recorded");
}

/// What marking needs of a drain.
struct Marker<'p> {
    /// For the explorer's counts.
    #[cfg(feature = "model")]
    proc: &'p Proc,
    bits: &'static [AtomicU64],
    finds: &'p [AtomicU32],
    dirty: &'p AtomicU32,
}

impl<'p> Marker<'p> {
    #[inline(always)]
    fn new(drain: &Drain<'p>) -> Marker<'p> {
        Marker {
            #[cfg(feature = "model")]
            proc: drain.proc,
            bits: drain.bits,
            finds: &drain.finds[..drain.found],
            dirty: drain.dirty,
        }
    }

    /// Marks the `k`th of the finds, with its followers in the same mark word. Returns which of them were white, and where the rest
    /// begins.
    #[inline(always)]
    fn mark_from(&self, k: usize) -> (u64, usize) {
        let first = self.finds[k].load(Relaxed);
        let word = first / 64;
        let mut mask = 1u64 << (first % 64);
        let mut end = k + 1;
        while let Some(next) = self.finds.get(end) {
            let next = next.load(Relaxed);
            if next / 64 != word {
                break;
            }
            mask |= 1 << (next % 64);
            end += 1;
        }
        let Some(bits) = self.bits.get(word as usize) else {
            oracle::bad_reference(first)
        };
        let white = mask & !bits.load(Relaxed);
        if white == 0 {
            return (0, end);
        }
        if self.dirty.load(Relaxed) == 0 {
            self.dirty.store(1, SeqCst);
        }
        // AcqRel: as in `marks::mark`. Of several markers one gets each bit.
        let won = white & !bits.fetch_or(white, AcqRel);
        if won != 0 {
            crate::failpoint::ghost!(self.proc.seg, Greyed);
        }
        failpoint!("drain.marked");
        (won, end)
    }
}

#[inline]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address changes nothing and cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
