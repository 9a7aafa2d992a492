//! A scenario's world: a segment, P's whose private halves can be put back, and a log of every word that was changed.

use std::{cell::Cell, mem::offset_of};

use shm_layout::{
    MAX_P, MAX_WORKERS,
    header::{Gc, Header, Stats},
    proc::ProcRecord,
    sync::Access,
    word::{PhaseWord, SlotWord, WorkerWord},
    worker::WorkerRecord,
};

use crate::{
    heap::cursor::CursorImage,
    life,
    sched::proc::Proc,
    segment::{Segment, SegmentConfig, grow::Piece},
};

/// A process's script. Gets the P it has leased; recoverers that are no P get the observer's, and must not use it.
pub(super) type Script = Box<dyn Fn(&Proc)>;

/// What a process of a scenario is.
pub(super) struct Process {
    pub name: &'static str,
    /// Index of its P in `World::procs`; `None` for a process that is no P (the daemon).
    pub p: Option<usize>,
    /// May it die?
    pub mortal: bool,
    pub script: Script,
}

/// Looks at a terminal state, after everything dead has been recovered.
pub(super) type Check = Box<dyn Fn(&World) -> Result<(), String>>;

/// Everything a scenario is.
pub(super) struct World {
    pub seg: Segment,
    /// P 0 is the observer's: it lives, and looks at the end.
    #[expect(clippy::vec_box, reason = "scripts keep a P's address")]
    pub procs: Vec<Box<Proc>>,
    pub processes: Vec<Process>,
    pub check: Check,
    pub(super) images: Vec<Image>,
    /// Workers whose context their runner's death has left as it was at that moment.
    torn: Cell<u64>,
}

/// Private half of a P, to be put back.
pub(super) struct Image {
    seen: PhaseWord,
    barrier: bool,
    black: bool,
    inside: bool,
    cursors: Vec<CursorImage>,
    cursors_used: usize,
    page_hint: usize,
    grow_until: usize,
    piece_ahead: Option<Piece>,
    gcw: [u32; 2],
    assist: i64,
    unflushed: [u64; 2],
    handles_free: Vec<u32>,
    handles_high: u32,
    task_cache: Vec<u32>,
    array_cursors: Vec<[u16; shm_layout::size_class::CLASSES]>,
    types_known: std::collections::HashSet<(usize, u64)>,
    kinds_known: Vec<u16>,
    rng: fastrand::Rng,
    end_looked: bool,
    collector_due: bool,
    gave_up_seen: u64,
    blocks_known: Vec<u8>,
    said_last: bool,
}

impl Image {
    fn of(p: &Proc) -> Image {
        Image {
            seen: p.seen.get(),
            barrier: p.barrier.get(),
            black: p.black.get(),
            inside: p.inside.get(),
            cursors: p.cursors.iter().map(|c| c.image()).collect(),
            cursors_used: p.cursors_used.get(),
            page_hint: p.page_hint.get(),
            grow_until: p.grow_until.get(),
            piece_ahead: p.piece_ahead.get(),
            gcw: p.gcw.image(),
            assist: p.assist_bytes.get(),
            unflushed: [p.unflushed_bytes.get(), p.unflushed_marked.get()],
            handles_free: p.handles_free.borrow().clone(),
            handles_high: p.handles_high.get(),
            task_cache: p.task_cache.borrow().clone(),
            array_cursors: p.array_cursors.borrow().clone(),
            types_known: p.types_known.borrow().clone(),
            kinds_known: p.kinds_known.borrow().clone(),
            rng: p.rng.borrow().clone(),
            end_looked: p.end_looked.get(),
            collector_due: p.collector_due.get(),
            gave_up_seen: p.gave_up_seen.get(),
            blocks_known: p.blocks_known.borrow().clone(),
            said_last: p.said_last.get(),
        }
    }

    fn put_back(&self, p: &Proc) {
        p.seen.set(self.seen);
        p.barrier.set(self.barrier);
        p.black.set(self.black);
        p.inside.set(self.inside);
        for (c, image) in p.cursors.iter().zip(&self.cursors) {
            c.put_back(image);
        }
        p.cursors_used.set(self.cursors_used);
        p.page_hint.set(self.page_hint);
        p.grow_until.set(self.grow_until);
        p.piece_ahead.set(self.piece_ahead);
        p.gcw.put_back(self.gcw);
        p.assist_bytes.set(self.assist);
        p.unflushed_bytes.set(self.unflushed[0]);
        p.unflushed_marked.set(self.unflushed[1]);
        p.handles_high.set(self.handles_high);
        p.tick.set(1);
        p.end_looked.set(self.end_looked);
        p.collector_due.set(self.collector_due);
        p.gave_up_seen.set(self.gave_up_seen);
        p.said_last.set(self.said_last);
        p.step_ended_ns.set(0);
        p.look_again_ns.set(0);
        p.held_back_ns.set(0);
        p.help_again_ns.set(0);
        put(&p.types_known, self.types_known.clone());
        put(&p.kinds_known, self.kinds_known.clone());
        // A process that died in the middle may have left these borrowed.
        put(&p.handles_free, self.handles_free.clone());
        put(&p.task_cache, self.task_cache.clone());
        put(&p.array_cursors, self.array_cursors.clone());
        put(&p.rng, self.rng.clone());
        put(&p.blocks_known, self.blocks_known.clone());
    }
}

fn put<T>(cell: &std::cell::RefCell<T>, value: T) {
    let cell = std::ptr::from_ref(cell).cast_mut();
    // SAFETY: one thread; the coroutine that may have held a borrow has been dropped for good, without giving it back. All bytes
    // of a `RefCell` are interior mutable.
    drop(unsafe { std::ptr::replace(cell, std::cell::RefCell::new(value)) });
}

thread_local! {
    /// Words changed in this execution, with the values they had.
    static LOG: std::cell::RefCell<Vec<(usize, u8, u64)>> = const { std::cell::RefCell::new(Vec::new()) };
    static LOGGING: Cell<bool> = const { Cell::new(false) };
}

/// Remembers what an access overwrote.
pub(super) fn log(access: &Access) {
    if access.writes && access.old != access.new && LOGGING.get() {
        LOG.with_borrow_mut(|l| l.push((access.at, access.size, access.old)));
    }
}

/// Remembers the bytes that are about to be overwritten.
pub(super) fn log_bytes(at: usize, bytes: usize) {
    if !LOGGING.get() {
        return;
    }
    LOG.with_borrow_mut(|l| {
        for (i, word) in words(at, bytes).enumerate() {
            l.push((at + 4 * i, 4, word.into()));
        }
    });
}

/// The words that stand there.
pub(super) fn words(at: usize, bytes: usize) -> impl Iterator<Item = u32> {
    // SAFETY: words of the mapped segment: objects begin and end at granules, and slots are as large as what is in them.
    (at..at + bytes)
        .step_by(4)
        .map(|at| unsafe { *(at as *const u32) })
}

/// What a word of the segment holds.
pub(super) fn value(at: usize, size: u8) -> u64 {
    match size {
        // SAFETY: a word of the mapped segment, as wide as it was reported; one thread.
        2 => u64::from(unsafe { *(at as *const u16) }),
        // SAFETY: as above.
        4 => u64::from(unsafe { *(at as *const u32) }),
        // SAFETY: as above.
        _ => unsafe { *(at as *const u64) },
    }
}

/// How many changes have been logged.
pub(super) fn mark() -> usize {
    LOG.with_borrow(Vec::len)
}

/// Stores a word's value, to be put back with the rest. Returns what was there.
pub(super) fn log_word(at: usize, size: u8, new: u64) -> u64 {
    let old = value(at, size);
    if old != new {
        put_word(at, size, new);
        LOG.with_borrow_mut(|l| l.push((at, size, old)));
    }
    old
}

fn put_word(at: usize, size: u8, value: u64) {
    match size {
        // SAFETY: a word of the mapped segment, as wide as it was reported; this is the only thread.
        2 => unsafe { (at as *mut u16).write(value as u16) },
        // SAFETY: as above.
        4 => unsafe { (at as *mut u32).write(value as u32) },
        // SAFETY: as above.
        _ => unsafe { (at as *mut u64).write(value) },
    }
}

/// Runs `f` with changes logged.
pub(super) fn logging(on: bool) {
    LOGGING.set(on);
}

impl World {
    /// A segment of two chunks with `procs` P's besides the observer's.
    pub fn new(procs: usize) -> World {
        super::set_active(true);
        let seg = Segment::create(&SegmentConfig {
            max_bytes: 8 << 20,
            name: "model".into(),
            procs: procs as u16 + 1,
            gc_percent: -1,
            ..SegmentConfig::default()
        })
        .expect("a small segment");
        let procs = (0..=procs)
            .map(|_| Box::new(Proc::lease(seg.clone()).expect("a P")))
            .collect();
        World {
            seg,
            procs,
            processes: Vec::new(),
            check: Box::new(|_| Ok(())),
            images: Vec::new(),
            torn: Cell::new(0),
        }
    }

    /// Adds a process that is P `p`.
    pub fn process(
        &mut self,
        name: &'static str,
        p: usize,
        mortal: bool,
        script: impl Fn(&Proc) + 'static,
    ) {
        self.processes.push(Process {
            name,
            p: Some(p),
            mortal,
            script: Box::new(script),
        });
    }

    /// Adds a process that recovers the dead, and may die at it.
    pub fn recoverer(&mut self, name: &'static str) {
        let seg = self.seg.clone();
        self.processes.push(Process {
            name,
            p: None,
            mortal: true,
            script: Box::new(move |_| {
                loop {
                    super::explorer::until_a_death();
                    crate::recover::recover_dead(&seg);
                }
            }),
        });
    }

    /// The present state is where every execution starts.
    pub fn freeze(&mut self) {
        self.images = self.procs.iter().map(|p| Image::of(p)).collect();
    }

    /// Puts everything back.
    pub fn reset(&self) {
        self.undo_to(0);
        for (p, image) in self.procs.iter().zip(&self.images) {
            image.put_back(p);
        }
        self.torn.set(0);
    }

    /// Takes back all changes but the first `mark`, and logs from now on.
    pub fn undo_to(&self, mark: usize) {
        LOG.with_borrow_mut(|l| {
            for (at, size, old) in l.drain(mark..).rev() {
                put_word(at, size, old);
            }
        });
        logging(true);
    }

    /// Puts the private half of a process's P back: it begins anew.
    pub fn put_back(&self, process: usize) {
        if let Some(p) = self.processes[process].p {
            self.images[p].put_back(&self.procs[p]);
        }
    }

    /// Puts the observer's private half back.
    pub fn put_back_observer(&self) {
        self.images[0].put_back(&self.procs[0]);
    }

    /// The words in which the kernel says that a process has died, and the process.
    pub fn lives(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.processes
            .iter()
            .enumerate()
            .filter_map(|(i, process)| {
                let word = life::word(self.procs[process.p?].rec);
                process.mortal.then_some((word.as_ptr() as usize, i))
            })
    }

    pub fn torn(&self) -> u64 {
        self.torn.get()
    }

    pub fn set_torn(&self, torn: u64) {
        self.torn.set(torn);
    }

    /// The observer recovers all that are dead.
    pub fn recover_all(&self) -> Result<(), String> {
        for _ in 0..16 {
            if !self.needs_recovery() {
                return Ok(());
            }
            crate::recover::recover_dead(&self.seg);
        }
        Err("recovery does not come to an end".to_owned())
    }

    /// What the kernel does when a leased thread ends.
    pub fn certify_death(&self, process: usize) {
        if let Some(p) = self.processes[process].p {
            life::word(self.procs[p].rec)
                .fetch_or(0x4000_0000, std::sync::atomic::Ordering::SeqCst);
            for (g, w) in self.seg.workers[..64].iter().enumerate() {
                let word = WorkerWord(peek(&w.word));
                if word.state() == WorkerWord::RUNNING && word.owner() == self.procs[p].me {
                    self.torn.set(self.torn.get() | 1 << g);
                }
            }
        }
        crate::recover::model_release_lock(self.seg.hdr, process as u64 + 2);
    }

    /// Is some P dead and not recovered?
    pub fn needs_recovery(&self) -> bool {
        crate::recover::any_needs_recovery(&self.seg)
    }

    /// The word that the recoverers' mutex is here.
    pub fn recovery_lock(&self) -> usize {
        self.seg.hdr.recovery.0[7].as_ptr() as usize
    }

    /// Would a recoverer find something to do, and nobody at it?
    pub fn has_work_for_recoverer(&self) -> bool {
        peek(&self.seg.hdr.recovery.0[7]) == 0 && self.needs_recovery()
    }

    /// Statistics, the flight recorder and the pacer's sums: derived, nothing is decided by them here.
    pub fn is_ignored(&self, at: usize) -> bool {
        let base = self.seg.base_address();
        let o = at.wrapping_sub(base);
        if o < size_of::<Header>() {
            let (stats, gc) = (offset_of!(Header, stats), offset_of!(Header, gc));
            let pacer = [
                offset_of!(Gc, heap_live),
                offset_of!(Gc, bytes_marked),
                offset_of!(Gc, bg_scan_credit),
                offset_of!(Gc, scan_work),
                offset_of!(Gc, pages_swept),
                offset_of!(Gc, trigger),
                offset_of!(Gc, goal),
                offset_of!(Gc, marked_live),
                offset_of!(Gc, live_at_start),
                offset_of!(Gc, live_at_mark_end),
                offset_of!(Gc, assist_ratio),
                offset_of!(Gc, trigger_ratio),
            ];
            return (stats..stats + size_of::<Stats>()).contains(&o)
                || (gc + offset_of!(Gc, at_ns)..gc + size_of::<Gc>()).contains(&o)
                || pacer.iter().any(|f| o == gc + f)
                || o >= offset_of!(Header, deaths);
        }
        let g = &self.seg.geo;
        let procs = g.procs_at..g.procs_at + MAX_P * size_of::<ProcRecord>();
        if procs.contains(&o) {
            let f = (o - g.procs_at) % size_of::<ProcRecord>();
            let stats = offset_of!(ProcRecord, stats);
            return (stats..offset_of!(ProcRecord, update_seq)).contains(&f)
                || f == offset_of!(ProcRecord, activity)
                || f == offset_of!(ProcRecord, mark_mode);
        }
        let areas = g.areas_at..g.areas_at + MAX_P * size_of::<shm_layout::proc::ProcArea>();
        if areas.contains(&o) {
            let f = (o - g.areas_at) % size_of::<shm_layout::proc::ProcArea>();
            return f >= offset_of!(shm_layout::proc::ProcArea, ring);
        }
        let workers = g.workers_at..g.workers_at + MAX_WORKERS * size_of::<WorkerRecord>();
        if workers.contains(&o) {
            let f = (o - g.workers_at) % size_of::<WorkerRecord>();
            return f >= offset_of!(WorkerRecord, runs);
        }
        false
    }

    /// A store into a worker's context must be by who the word says is running it.
    pub fn check_context_store(&self, at: usize, process: usize) {
        let o = at.wrapping_sub(self.seg.base_address());
        let g = &self.seg.geo;
        if o < g.workers_at || o >= g.workers_at + MAX_WORKERS * size_of::<WorkerRecord>() {
            return;
        }
        let (w, f) = (
            (o - g.workers_at) / size_of::<WorkerRecord>(),
            (o - g.workers_at) % size_of::<WorkerRecord>(),
        );
        let word = WorkerWord(peek(&self.seg.workers[w].word));
        let Some(p) = self.processes.get(process).and_then(|p| p.p) else {
            return;
        };
        let owns = word.state() == WorkerWord::RUNNING && word.owner() == self.procs[p].me;
        if f != 0 && !owns {
            super::broken(format!(
                "worker {w} has two runners: {} stores into its context while the word says state {} of P{}",
                self.processes[process].name,
                word.state(),
                word.p()
            ));
        }
    }

    fn torn_workers(&self) -> impl Iterator<Item = usize> {
        let mut torn = self.torn.get();
        std::iter::from_fn(move || {
            let g = torn.trailing_zeros();
            (torn != 0).then(|| torn &= torn - 1)?;
            Some(g as usize)
        })
    }

    /// A worker that has been freed begins anew.
    pub fn note_freed(&self) {
        for g in self.torn_workers() {
            let word = WorkerWord(peek(&self.seg.workers[g].word));
            if word.state() == WorkerWord::FREE {
                self.torn.set(self.torn.get() & !(1 << g));
            }
        }
    }

    /// A context that a death may have torn is never resumed: its worker is seized, and freed.
    pub fn check_torn(&self) -> Result<(), String> {
        self.note_freed();
        for g in self.torn_workers() {
            match WorkerWord(peek(&self.seg.workers[g].word)).state() {
                WorkerWord::RUNNING => {}
                state => {
                    return Err(format!(
                        "worker {g} died in its runner's hands, and its context is used again (state {state})"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What must hold in every state: no slot designates a free worker, no worker stands in two slots, and a full slot's worker has
    /// that home.
    pub fn check_slots(&self) -> Result<(), String> {
        let mut seen = [false; 64];
        for p in 0..self.procs.len() {
            let slot = SlotWord(peek(&self.seg.slots[p].word));
            if slot.state() != SlotWord::FULL {
                continue;
            }
            let g = slot.worker() as usize;
            let word = WorkerWord(peek(&self.seg.workers[g].word));
            if word.state() == WorkerWord::FREE {
                return Err(format!(
                    "the slot of P{p} designates worker {g}, which is free"
                ));
            }
            if word.state() == WorkerWord::RUNNABLE {
                return Err(format!(
                    "the slot of P{p} designates worker {g}, which anybody may run"
                ));
            }
            if std::mem::replace(&mut seen[g], true) {
                return Err(format!("worker {g} stands in two slots"));
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        logging(false);
        LOG.with_borrow_mut(Vec::clear);
        super::set_active(false);
    }
}

/// Reads a word without being noticed.
pub(super) fn peek(word: &shm_layout::sync::AtomicU64) -> u64 {
    // SAFETY: a word of the mapped segment; one thread.
    unsafe { *word.as_ptr() }
}
