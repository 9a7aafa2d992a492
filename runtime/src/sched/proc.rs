//! A leased P as its own thread sees it (Go's p): what is private stands here, what must outlive the thread in the segment.
//!
//! **Lease**: claim a vacant record by compare-exchange; reserve its area; take the life word; say live; open the slot. **Detach**
//! is the same backwards: nothing of the lease may be reachable before the record is vacant.
//! **If the thread dies** anywhere between, the record's word and life word say how far it was; `recover` undoes it from there.

use crate::throw::throw_unless;
use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use shm_layout::{
    GRANULE_BYTES, MAX_P, Ref,
    proc::{CURSORS, ProcArea, ProcRecord},
    word::{Owner, PhaseWord, ProcWord, SlotWord},
};

use crate::{
    Error,
    error::Result,
    failpoint,
    gc::gcw::Gcw,
    heap::cursor::Cursor,
    life::{self, LifeLock},
    planted,
    segment::{Segment, grow::Piece, limits},
    time::now_ns,
};

/// Private half of a P.
pub(crate) struct Proc {
    pub seg: Segment,
    /// First address of the heap, and its bytes: what every load of a slot asks for, without the way through the segment.
    heap: *mut u8,
    heap_bytes: usize,
    /// Index and incarnation, as words carry them.
    pub me: Owner,
    /// Full incarnation of the lease.
    pub inc: u32,
    pub rec: &'static ProcRecord,
    pub area: &'static ProcArea,
    life: Cell<Option<LifeLock>>,

    /// Phase seen at the last edge.
    pub seen: Cell<PhaseWord>,
    /// Are reference stores shaded? Fixed for the length of a scope.
    pub barrier: Cell<bool>,
    /// Is allocation black? Fixed for the length of a scope.
    pub black: Cell<bool>,
    /// Depth of scopes; more than one is refused.
    pub inside: Cell<bool>,

    pub cursors: Box<[Cursor]>,
    pub cursors_used: Cell<usize>,
    pub page_hint: Cell<usize>,
    /// Pages that this P has claimed in each block of 64, up to the number at which the block was mapped (`heap/growth.rs`).
    pub blocks_known: RefCell<Vec<u8>>,
    /// With so many chunks the heap is large enough for what comes (`heap/growth.rs`); 0: nothing is to be done.
    pub grow_until: Cell<usize>,
    /// What it has reserved of the next one.
    pub piece_ahead: Cell<Option<Piece>>,
    pub gcw: Gcw,
    /// Bytes this P may allocate before it must assist; negative is debt.
    pub assist_bytes: Cell<i64>,
    /// Allocated and not yet added to `heap_live`.
    pub unflushed_bytes: Cell<u64>,
    /// Marked and not yet added to `bytes_marked`.
    pub unflushed_marked: Cell<u64>,
    pub handles_free: RefCell<Vec<u32>>,
    pub handles_high: Cell<u32>,
    pub task_cache: RefCell<Vec<u32>>,
    /// Cursor of (array type, size class), found by this process so far.
    pub array_cursors: RefCell<Vec<[u16; shm_layout::size_class::CLASSES]>>,
    /// Types that this P has entered into the segment, by cell and key.
    pub types_known: RefCell<std::collections::HashSet<(usize, u64)>>,
    /// Kind of task by type number, plus one, as far as this P has asked.
    pub kinds_known: RefCell<Vec<u16>>,
    /// When the last step ended, if nothing has been done since; 0 otherwise. Saves the next step a look at the clock.
    pub step_ended_ns: Cell<u64>,
    /// When this P's turn on its processor ends (`give_way`).
    pub turn_ends_ns: Cell<u64>,
    /// Bytes taken since it looked last whether that is now.
    pub turn_bytes: Cell<usize>,
    /// When it looks for the dead again, whatever the tick.
    pub look_again_ns: Cell<u64>,
    /// Nanoseconds that this P has waited for the collector in this cycle (`hold_back`).
    pub held_back_ns: Cell<u64>,
    /// A cycle is on, or wanted: looked at where a program without tasks leaves a scope (`help_at_edge`).
    pub collector_due: Cell<bool>,
    /// When it may be asked to help again.
    pub help_again_ns: Cell<u64>,
    pub tick: Cell<u32>,
    /// Tasks given up when this P looked last for ones to describe.
    pub gave_up_seen: Cell<u64>,
    /// Has this turn of the scheduler looked whether marking is over, although nobody had work for it?
    pub end_looked: Cell<bool>,
    /// This run of a step was told that it is the last that may end for lack of memory.
    pub said_last: Cell<bool>,
    pub rng: RefCell<fastrand::Rng>,
}

impl Proc {
    /// Leases a P to this thread.
    ///
    /// # Errors
    /// [`Error::TableFull`] when all 256 are leased; [`Error::NoMemory`] when its area cannot be reserved.
    pub fn lease(segment: Segment) -> Result<Proc> {
        let pid = std::process::id();
        let (p, word) = claim_record(&segment, pid)?;
        let rec = &segment.procs[p];
        failpoint!("lease.joining");
        let me = Owner::new(p as u16, word.inc());
        let undo = |e| {
            rec.word
                .0
                .store(word.with_state(ProcWord::VACANT).0, Release);
            Err(e)
        };
        if let Some((started, _)) = life::start_time_of(pid) {
            rec.start_time.store(started, Release);
        }
        let area_at = segment.geo.areas_at + p * size_of::<ProcArea>();
        if let Err(e) = limits::reserve(segment.fd(), area_at, size_of::<ProcArea>()) {
            return undo(e);
        }
        let area = &segment.areas[p];
        clear_record(rec);
        let life = match life::take(rec) {
            Ok(life) => life,
            Err(e) => return undo(e),
        };
        rec.tid
            .store(nix::unistd::gettid().as_raw() as u32, Relaxed);
        failpoint!("lease.locked");
        if planted!(LiveBeforeArmed) {
            rec.word.0.store(word.with_state(ProcWord::LIVE).0, SeqCst);
        }
        // Release: partner of the Acquire in `life::is_dead`: from here on the life word speaks for this lease.
        rec.armed.store(1, Release);
        rec.leased_at_ns.store(now_ns(), Relaxed);
        failpoint!("lease.armed");
        rec.word.0.store(word.with_state(ProcWord::LIVE).0, SeqCst);
        failpoint!("lease.live");
        segment.slots[p]
            .word
            .store(SlotWord::empty(word.inc()).0, SeqCst);
        failpoint!("lease.open");
        life::say_leased(&segment);
        Ok(Proc::private(segment, me, word.inc(), rec, area, life))
    }

    fn private(
        seg: Segment,
        me: Owner,
        inc: u32,
        rec: &'static ProcRecord,
        area: &'static ProcArea,
        life: LifeLock,
    ) -> Proc {
        Proc {
            heap: seg.heap.as_ptr(),
            heap_bytes: seg.geo.limit_bytes as usize,
            seg,
            me,
            inc,
            rec,
            area,
            life: Cell::new(Some(life)),
            seen: Cell::new(PhaseWord(0)),
            barrier: Cell::new(false),
            black: Cell::new(false),
            inside: Cell::new(false),
            cursors: (0..CURSORS).map(|_| Cursor::new()).collect(),
            // Cursor 0 belongs to no type: its empty run sends an unregistered type to the slow path.
            cursors_used: Cell::new(1),
            page_hint: Cell::new(0),
            blocks_known: RefCell::default(),
            grow_until: Cell::new(0),
            piece_ahead: Cell::new(None),
            gcw: Gcw::new(),
            assist_bytes: Cell::new(0),
            unflushed_bytes: Cell::new(0),
            unflushed_marked: Cell::new(0),
            handles_free: RefCell::new(Vec::new()),
            handles_high: Cell::new(0),
            task_cache: RefCell::new(Vec::new()),
            array_cursors: RefCell::new(Vec::new()),
            types_known: RefCell::default(),
            kinds_known: RefCell::new(Vec::new()),
            step_ended_ns: Cell::new(0),
            turn_ends_ns: Cell::new(0),
            turn_bytes: Cell::new(0),
            look_again_ns: Cell::new(0),
            held_back_ns: Cell::new(0),
            collector_due: Cell::new(false),
            help_again_ns: Cell::new(0),
            tick: Cell::new(0),
            gave_up_seen: Cell::new(0),
            end_looked: Cell::new(false),
            said_last: Cell::new(false),
            rng: RefCell::new(fastrand::Rng::with_seed(
                u64::from(inc) << 16 | u64::from(me.p),
            )),
        }
    }

    /// Is this address inside the heap?
    #[inline]
    pub fn in_heap(&self, at: *const u8) -> bool {
        self.reference_of(at).is_some()
    }

    /// The reference of an address; `None` outside the heap.
    #[inline]
    pub fn reference_of(&self, at: *const u8) -> Option<Ref> {
        let offset = at.addr().wrapping_sub(self.heap.addr());
        (offset < self.heap_bytes).then_some((offset / GRANULE_BYTES) as Ref)
    }

    /// Address of the object that `r` names; as [`crate::segment::Inner::object`].
    #[inline]
    pub fn object_at(&self, r: Ref) -> *mut u8 {
        self.heap.wrapping_add(r as usize * GRANULE_BYTES)
    }

    /// Index in the P table.
    pub fn index(&self) -> usize {
        self.me.p as usize
    }

    /// Gives the lease up in order. Outside a scope; idempotent.
    pub fn detach(&self) {
        let Some(life) = self.life.take() else { return };
        throw_unless!(!self.inside.get(), "releasep: in a scope");
        let word = ProcWord(self.rec.word.0.load(Relaxed));
        throw_unless!(
            word.state() == ProcWord::LIVE && Owner::new(self.me.p, word.inc()) == self.me,
            "releasep: invalid p state: the lease is not live, or somebody else's"
        );
        self.rec
            .word
            .0
            .store(word.with_state(ProcWord::LEAVING).0, SeqCst);
        failpoint!("detach.leaving");
        self.enter_scope();
        self.release_spans();
        self.drop_all_handles();
        self.leave_scope();
        self.flush_accounts();
        self.return_tasks();
        self.retire_slot();
        self.rec.scope.0.store(0, SeqCst);
        failpoint!("detach.empty");
        // Not armed any more: from here to `VACANT` only our process's end can certify a death (`is_stillborn`).
        self.rec.armed.store(0, Release);
        life.release();
        failpoint!("detach.released");
        self.rec.start_time.store(0, Relaxed);
        self.vacate(word);
    }

    /// The lease's last store. Its order is the partner of `claim_record`'s: what this lease left comes before the next one's clearing.
    pub(crate) fn vacate(&self, word: ProcWord) {
        self.rec
            .word
            .0
            .store(word.with_state(ProcWord::VACANT).0, SeqCst);
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Claims the lowest vacant record.
pub(crate) fn claim_record(segment: &Segment, pid: u32) -> Result<(usize, ProcWord)> {
    for (p, rec) in segment.procs.iter().enumerate() {
        let seen = ProcWord(rec.word.0.load(Acquire));
        if seen.state() != ProcWord::VACANT {
            continue;
        }
        // SeqCst, before the claim: a record beyond the mark is never leased.
        segment.hdr.sched.proc_high.fetch_max(p as u32 + 1, SeqCst);
        let joining = seen
            .with_state(ProcWord::JOINING)
            .with_pid(pid)
            .with_inc(seen.inc().wrapping_add(1));
        if rec
            .word
            .0
            .compare_exchange(seen.0, joining.0, AcqRel, Relaxed)
            .is_ok()
        {
            return Ok((p, joining));
        }
    }
    Err(Error::TableFull {
        table: "P's",
        capacity: MAX_P,
    })
}

/// A vacant record holds nothing that counts; what the last lease left in derived fields goes.
fn clear_record(rec: &ProcRecord) {
    rec.scope.0.store(0, SeqCst);
    rec.preempt.store(0, Relaxed);
    rec.dedicated.store(0, Relaxed);
    rec.mark_mode.store(0, Relaxed);
    rec.activity.store(0, Relaxed);
    rec.runnext.store(0, Relaxed);
    let head = rec.runq_head.0.load(Relaxed);
    rec.runq_tail.0.store(head, Relaxed);
    // The other counters of a P go on across leases: their sums over all records are what was ever done, whoever died.
    rec.stats.0.fractional_ns.store(0, Relaxed);
}
