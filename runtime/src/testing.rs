//! Internals for the step killer (`tests/src/bin/stepkill.rs`): one operation at a time, the segment's bytes, and an audit.
//!
//! Nothing here is for programs, and nothing here does anything that a P or the kernel does not do: [`Bench`] calls the methods
//! the scheduler calls, in the order that a test wants; [`mark_dead`] stores what the kernel stores when a thread ends. The audit
//! is stricter than `gc::verify`: it may say "nothing in between", because its caller has seen to it that nobody works.
#![expect(
    unsafe_code,
    reason = "shows the mapping as bytes, to be compared and copied"
)]

use std::{
    ops::Range,
    sync::atomic::Ordering::{Acquire, Relaxed, SeqCst},
    time::{Duration, Instant},
};

use shm_layout::{
    CHUNK_PAGES, PAGE_BYTES,
    header::{Gc as GcWords, Header, Sched, Stats},
    proc::{CURSORS, HANDLES, InProgress, ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{RootRecord, ShapeRecord, TypeRecord},
    task::TaskRecord,
    word::{
        BufWord, JobWord, Owner, PhaseWord, ProcWord, SlotWord, SpanWord, TaskWord, WorkerWord,
    },
    workbuf::WORKBUF_BYTES,
    worker::{SlotRecord, WorkerRecord},
};

use crate::{
    api::{Inside, P},
    error::Result,
    gc::{gc_bg_mark_worker::Mode, gc_start},
    heap::sweep,
    life,
    sched::{
        proc::Proc,
        task::{Kinds, Resolved},
    },
    segment::Segment,
};

/// Kinds of phase, for [`Bench::drive`].
pub mod phase {
    use shm_layout::word::PhaseWord;
    /// No cycle.
    pub const OFF: u8 = PhaseWord::OFF;
    /// First handshake.
    pub const BARRIER: u8 = PhaseWord::BARRIER;
    /// Second handshake.
    pub const BLACK: u8 = PhaseWord::BLACK;
    /// Marking.
    pub const MARK: u8 = PhaseWord::MARK;
    /// A round that may end it.
    pub const ROUND: u8 = PhaseWord::ROUND;
}

/// A claimed mark worker.
pub struct Claimed(usize, Mode);

/// Kinds, entered into the segment.
pub struct Loop<'k>(Resolved<'k>);

/// The methods of a P that the scheduler and the collector call.
#[derive(Clone, Copy)]
pub struct Bench<'p>(&'p Proc);

impl P {
    /// Its internals.
    pub fn bench(&self) -> Bench<'_> {
        Bench(self.proc())
    }
}

impl<'p> Bench<'p> {
    /// Enters a scope.
    pub fn enter(self) {
        self.0.enter_scope();
    }
    /// Leaves it.
    pub fn leave(self) {
        self.0.leave_scope();
    }
    /// Enters and leaves one.
    pub fn edge(self) {
        drop(Inside::enter(self.0));
    }
    /// Kind of the phase.
    pub fn phase(self) -> u8 {
        self.0.seg.phase().kind()
    }
    /// Asks for a cycle.
    pub fn request(self) {
        gc_start::request(&self.0.seg);
    }
    /// Takes the cycle a step further.
    pub fn step(self) {
        self.0.gc_step();
    }
    /// Takes a cycle to a phase, with edges of this P in between. The other P's are outside, or this panics.
    pub fn drive(self, kind: u8) {
        self.request();
        for _ in 0..10_000 {
            if self.phase() == kind {
                self.edge();
                return;
            }
            self.edge();
            if matches!(kind, PhaseWord::OFF | PhaseWord::ROUND) {
                self.0.collector_work(true);
            } else {
                self.step();
            }
        }
        panic!("no way from phase {} to {kind}", self.phase());
    }
    /// Takes a running cycle to its end without an edge of this P: it meets "off" at the next one.
    pub fn finish_cycle(self) {
        for _ in 0..10_000 {
            if self.phase() == PhaseWord::OFF {
                return;
            }
            self.0.collector_work(true);
        }
        panic!("the cycle does not end");
    }
    /// Helps a running cycle to its end, for a limited time. True when there is none any more.
    pub fn finish_within(self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.phase() != PhaseWord::OFF {
            if Instant::now() > until {
                return false;
            }
            self.edge();
            if !self.0.collector_work(true) {
                std::thread::yield_now();
            }
        }
        self.edge();
        true
    }
    /// Collects, for a limited time. True when a cycle that began after the call has ended.
    pub fn collect_within(self, patience: Duration) -> bool {
        let wanted = gc_start::request(&self.0.seg);
        let until = Instant::now() + patience;
        while gc_start::finished_cycle(&self.0.seg) < wanted {
            if Instant::now() > until {
                return false;
            }
            self.edge();
            if !self.0.collector_work(true) {
                std::thread::yield_now();
            }
        }
        self.edge();
        true
    }
    /// Enters kinds into the segment.
    pub fn resolve(self, kinds: &Kinds) -> Result<Loop<'_>> {
        Ok(Loop(kinds.resolve(self.0)?))
    }
    /// One turn of the scheduler.
    pub fn schedule(self, kinds: &Loop<'_>) -> bool {
        self.0.schedule(&kinds.0)
    }
    /// Is a task alive that is not failed?
    pub fn any_task_alive(self) -> bool {
        self.0.any_task_alive()
    }
    /// Moves up to `n` tasks of the global queue into this P's ring, unclaimed.
    pub fn localize(self, n: usize) {
        for _ in 0..n {
            if let Some(task) = self.0.seg.task_run.first(0) {
                self.0.seg.task_run.clear(task);
                self.0.runq_put(task, false);
            }
        }
    }
    /// Puts the first task of the global queue into `runnext`, unclaimed.
    pub fn localize_next(self) {
        if let Some(task) = self.0.seg.task_run.first(0) {
            self.0.seg.task_run.clear(task);
            self.0.runq_put(task, true);
        }
    }
    /// Steals and claims a task.
    pub fn steal(self) -> Option<usize> {
        self.0.steal_work()
    }
    /// Claims a task of the own queue.
    pub fn pop(self) -> Option<usize> {
        self.0.runq_get()
    }
    /// Claims a task of the global queue.
    pub fn pop_global(self) -> Option<usize> {
        self.0.globrunq_get()
    }
    /// Gives a claimed task back, runnable, to the own queue.
    pub fn unclaim(self, task: usize, next: bool) {
        let word = &self.0.seg.tasks[task].word;
        let seen = TaskWord(word.load(Acquire));
        word.store(seen.moved(TaskWord::RUNNABLE, Owner::new(0, 0)).0, SeqCst);
        self.0.runq_put(task, next);
        self.0.rec.now.0.task.store(0, SeqCst);
    }
    /// Queues a runnable task.
    pub fn put(self, task: usize, next: bool) {
        self.0.runq_put(task, next);
    }
    /// Says that the first `n` tasks have lost all the runs that deaths may cost them.
    pub fn wear_out(self, n: usize) {
        let limit = u64::from(self.0.seg.hdr.sched.redeliver_max.load(Relaxed));
        for task in &self.0.seg.tasks[..n] {
            task.tries.store(limit << 32, SeqCst);
            let seen = TaskWord(task.word.load(Acquire));
            task.word.store(seen.with_attempts(1).0, SeqCst);
        }
    }
    /// The mark worker to run now, claimed.
    pub fn claim_worker(self) -> Option<Claimed> {
        self.0
            .find_runnable_gc_worker()
            .or_else(|| self.0.find_idle_gc_worker())
            .map(|(g, mode)| Claimed(g, mode))
    }
    /// Runs it until it parks, migrates or exits.
    pub fn run_worker(self, worker: Claimed) {
        self.0.gc_bg_mark_worker(worker.0, worker.1);
    }
    /// Parks it.
    pub fn park_worker(self, worker: Claimed) {
        self.0.give_dedicated();
        let _ = self.0.park_worker(worker.0);
    }
    /// Takes it out of its slot.
    pub fn detach_worker(self, worker: &Claimed) {
        self.0.detach_worker(worker.0);
    }
    /// Lets it look whether marking is over.
    pub fn mark_done(self, worker: Claimed) {
        self.0.give_dedicated();
        self.0.go_on_with_mark_done(worker.0);
    }
    /// A worker that waits in the middle of `gc_mark_done`, claimed, goes on.
    pub fn migrate(self) -> bool {
        let found = self.0.find_migrating_worker();
        if let Some(g) = found {
            self.0.go_on_with_mark_done(g);
        }
        found.is_some()
    }
    /// Starts missing mark workers.
    pub fn start_workers(self) {
        self.0.gc_bg_mark_start_workers();
    }
    /// Starts, or adds, a mark worker for the slot of P `p` although it is taken: the attach is lost.
    pub fn start_second_worker(self, p: usize) {
        let slot = &self.0.seg.slots[p].word;
        let full = slot.load(SeqCst);
        let empty = SlotWord::empty(SlotWord(full).inc());
        self.0.start_worker_as_if(p, empty);
    }
    /// Says that work buffers had run out.
    pub fn say_overflow(self) {
        self.0.seg.hdr.gc.overflow.store(1, SeqCst);
    }
    /// One root job.
    pub fn root_job(self) -> bool {
        let bits = self.0.seg.marks_of(self.0.seg.phase().cycle());
        self.0.markroot_next(bits)
    }
    /// Marks until there is no work that is in nobody's hands.
    pub fn drain(self) {
        let started = crate::time::now_ns();
        self.0.gc_drain(crate::gc::gc_drain::Until::NoWork, started);
    }
    /// Publishes the spare work buffer.
    pub fn balance(self) {
        self.0.gcw_balance();
    }
    /// Fetches a published work buffer.
    pub fn fetch(self) -> bool {
        self.0.gcw_fetch()
    }
    /// Gives both work buffers up.
    pub fn dispose(self) {
        self.0.gcw_dispose();
    }
    /// Sweeps one block of pages.
    pub fn sweep(self) -> bool {
        self.0.sweep_some()
    }
    /// Commits chunks.
    pub fn grow(self, pages: usize) -> Result<()> {
        self.0.seg.grow(pages, self.0.me)
    }
    /// Gives a free chunk back to the kernel.
    pub fn release_chunk(self) -> bool {
        self.0.seg.release_chunk(self.0.me)
    }
    /// Claims pages.
    pub fn claim(self, pages: usize) -> Result<usize> {
        self.0.claim_pages(pages)
    }
    /// Gives claimed pages back.
    pub fn free(self, first: usize) {
        self.0.seg.free_pages(first, self.0.me);
    }
    /// Shades the children-to-be of a root: the object it names. Inside a scope.
    pub fn shade_root(self, name: &str) {
        let Ok(index) = self.0.seg.root_index(name) else {
            return;
        };
        let word = shm_layout::word::RootWord(self.0.seg.roots[index].value.load(Acquire));
        self.0.write_barrier(word.reference());
    }
    /// Gives the private cache of free task records back.
    pub fn return_tasks(self) {
        for task in self.0.task_cache.borrow_mut().drain(..) {
            self.0.seg.task_free.set(task as usize);
        }
    }
    /// Asks for so many dedicated mark workers in this cycle.
    pub fn want_dedicated(self, n: u32) {
        self.0.seg.hdr.gc.dedicated_wanted.store(n, Relaxed);
    }
    /// Gives up every cached span within its generation.
    pub fn release_spans(self) {
        self.0.release_spans();
    }
    /// Stops the world and starts it again.
    pub fn stop(self) -> Result<()> {
        self.0.stop_the_world().map(drop)
    }
}

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

/// What an offset of the segment belongs to, in words.
pub fn name_of(segment: &Segment, at: usize) -> String {
    let g = &segment.geo;
    let field = |names: &[(&'static str, usize)], off: usize| {
        names
            .iter()
            .rev()
            .find(|(_, o)| *o <= off)
            .map_or("?", |(n, _)| *n)
    };
    macro_rules! fields {
        ($t:ty: $($f:ident),+) => { &[$((stringify!($f), std::mem::offset_of!($t, $f))),+] };
    }
    if at < g.procs_at {
        let top = field(
            fields!(Header: id, committed_chunks, recovery, gc, sched, stats, seen),
            at,
        );
        let sub = match top {
            "gc" => field(
                fields!(GcWords: phase, dirty, stop, stop_resume, overflow, starved_cycle, requested_cycle, trigger_kind,
                    sweep_cursor, pages_swept, heap_live, trigger, goal, marked_live, live_at_start, live_at_mark_end, bytes_marked,
                    scan_work, bg_scan_credit, assist_ratio, trigger_ratio, gc_percent, dedicated_wanted, fractional_goal,
                    idle_max, soft_limit, root_jobs, root_next, at_ns, rounds, checkmarks),
                at - std::mem::offset_of!(Header, gc),
            ),
            "sched" => field(
                fields!(Sched: gomaxprocs, shutdown, task_high, workbuf_high, proc_high, worker_high, idle,
                    spinning, next_timer_ns, global_next, redeliver_max),
                at - std::mem::offset_of!(Header, sched),
            ),
            "stats" => field(
                fields!(Stats: cycles, deaths, probes, progress),
                at - std::mem::offset_of!(Header, stats),
            ),
            _ => "",
        };
        return format!("header.{top}.{sub}");
    }
    let record = |name: &str, base: usize, size: usize| {
        let i = (at - base) / size;
        (format!("{name}[{i}]"), (at - base) % size)
    };
    if at < g.areas_at {
        let (name, off) = record("P", g.procs_at, size_of::<ProcRecord>());
        let top = field(
            fields!(ProcRecord: word, tid, armed, start_time, leased_at_ns, life, scope, ev, preempt, dedicated, mark_mode,
                activity, now, stats, update_seq, runq_head, runq_tail, runnext, runq),
            off,
        );
        if top == "now" {
            let sub = field(
                fields!(InProgress: intent, shade, task, root_job, sweep_span, sweep_block, workbuf, worker, workbuf2, gcw, inflight),
                off - std::mem::offset_of!(ProcRecord, now),
            );
            return format!("{name}.now.{sub}");
        }
        return format!("{name}.{top}");
    }
    let tables: [(&str, usize, usize); 20] = [
        ("area", g.areas_at, size_of::<ProcArea>()),
        ("worker", g.workers_at, size_of::<WorkerRecord>()),
        ("slot", g.slots_at, size_of::<SlotRecord>()),
        ("root_job", g.root_jobs_at, 8),
        ("shape", g.shapes_at, size_of::<ShapeRecord>()),
        ("type", g.types_at, size_of::<TypeRecord>()),
        ("kind", g.kinds_at, size_of::<TypeRecord>()),
        ("root", g.roots_at, size_of::<RootRecord>()),
        ("task_free", g.task_free_at, 8),
        ("task_run", g.task_run_at, 8),
        ("buf_word", g.buf_words_at, 8),
        ("buf_full", g.buf_full_at, 8),
        ("buf_free", g.buf_free_at, 8),
        ("chunk", g.chunk_words_at, 8),
        ("page_bits", g.page_bits_at, 8),
        ("task", g.tasks_at, size_of::<TaskRecord>()),
        ("workbuf", g.workbufs_at, WORKBUF_BYTES),
        ("span", g.spans_at, size_of::<SpanRecord>()),
        ("page_shape", g.page_shapes_at, 2),
        ("mark", g.marks_at[0], 8),
    ];
    if at >= g.heap_at {
        return format!("heap page {}", (at - g.heap_at) / PAGE_BYTES);
    }
    let &(name, base, size) = tables
        .iter()
        .rev()
        .find(|t| t.1 <= at)
        .unwrap_or(&tables[0]);
    let (name, off) = record(name, base, size);
    match name.split('[').next() {
        Some("area") if off >= CURSORS * 4 => format!("{name}.handles"),
        Some("area") => format!("{name}.cached"),
        Some("task") => format!(
            "{name}.{}",
            field(
                fields!(TaskRecord: word, context, commit, join, kind, steps, wake_at_ns, tries, last_death, error, error_code),
                off
            )
        ),
        Some("span") => format!(
            "{name}.{}",
            field(
                fields!(SpanRecord: word, pages, free_index, live, next, listed, shape),
                off
            )
        ),
        Some("worker") => format!(
            "{name}.{}",
            field(
                fields!(WorkerRecord: word, home, pc, mode, parked_by, round_epoch, runs, migrations, scanned, moved_at_ns, seq),
                off
            )
        ),
        _ => format!("{name}+{off}"),
    }
}

/// Does what the kernel does when thread `tid` ends: its life words and the recovery lock say "owner died"; and, for a lease whose
/// life word does not speak yet or no more, names a process that does not exist. For copies of a segment only.
pub fn mark_dead(segment: &Segment, pid: u32, tid: u32) {
    const OWNER_DIED: u32 = 0x4000_0000;
    const WAITERS: u32 = 0x8000_0000;
    const NOBODY: u32 = 0x1fff_fffe;
    let die = |word: &shm_layout::sync::AtomicU32| {
        let seen = word.load(SeqCst);
        if seen & !WAITERS == tid {
            word.store(seen & WAITERS | OWNER_DIED, SeqCst);
        }
    };
    for record in segment.used_procs() {
        die(life::word(record));
        let owner = ProcWord(record.word.0.load(SeqCst));
        if owner.state() != ProcWord::VACANT && owner.pid() == pid {
            record.word.0.store(owner.with_pid(NOBODY).0, SeqCst);
        }
    }
    // SAFETY: 1. In bounds and aligned: the first four bytes of an array of `AtomicU64`. 2. The lock word of a `pthread_mutex_t`.
    die(unsafe { &*(&raw const segment.hdr.recovery.0).cast::<shm_layout::sync::AtomicU32>() });
}

/// Makes P `p` of a copy leave its scope: what a survivor that is inside would do next. It has shaded nothing.
pub fn put_outside(segment: &Segment, p: usize) {
    let scope = &segment.procs[p].scope.0;
    scope.store(scope.load(SeqCst) & !(1 << 3), SeqCst);
}

/// Is this P's record vacant?
pub fn is_vacant(segment: &Segment, p: usize) -> bool {
    ProcWord(segment.procs[p].word.0.load(SeqCst)).state() == ProcWord::VACANT
}

/// Leases that are not vacant.
pub fn live_leases(segment: &Segment) -> usize {
    (0..segment.used_procs().len())
        .filter(|&p| !is_vacant(segment, p))
        .count()
}

/// Is the world stopped?
pub fn is_stopped(segment: &Segment) -> bool {
    segment.phase().kind() == PhaseWord::STOPPED
}

/// Leases that are neither vacant nor live.
pub fn unsettled(segment: &Segment) -> Vec<String> {
    let mut out = Vec::new();
    for (p, record) in segment.used_procs().iter().enumerate() {
        let word = ProcWord(record.word.0.load(SeqCst));
        if !matches!(word.state(), ProcWord::VACANT | ProcWord::LIVE) {
            out.push(format!("P{p} is in state {}", word.state()));
        }
    }
    out
}

/// Tasks by state.
pub fn tasks_by_state(segment: &Segment) -> [usize; 8] {
    let mut counts = [0; 8];
    let high = segment.hdr.sched.task_high.load(SeqCst) as usize;
    for task in &segment.tasks[..high] {
        counts[TaskWord(task.word.load(SeqCst)).state() as usize & 7] += 1;
    }
    counts[0] = 0;
    counts
}

/// What must not be while nobody works: the phase is "off" and every P is outside.
pub fn audit(segment: &Segment) -> Vec<String> {
    let mut out = Vec::new();
    audit_procs(segment, &mut out);
    audit_buffers(segment, &mut out);
    audit_workers(segment, &mut out);
    audit_tasks(segment, &mut out);
    audit_chunks(segment, &mut out);
    out
}

fn live(segment: &Segment, owner: Owner) -> bool {
    segment.procs.get(owner.p as usize).is_some_and(|r| {
        let word = ProcWord(r.word.0.load(SeqCst));
        word.state() != ProcWord::VACANT && Owner::new(owner.p, word.inc()) == owner
    })
}

fn audit_procs(segment: &Segment, out: &mut Vec<String>) {
    if segment.hdr.gc.stop.0.load(SeqCst) != 0 {
        out.push("somebody holds the world stopped".into());
    }
    for (p, record) in segment.used_procs().iter().enumerate() {
        let vacant = is_vacant(segment, p);
        let now = &record.now.0;
        let left = [
            ("shade", &now.shade),
            ("task", &now.task),
            ("root_job", &now.root_job),
            ("sweep_span", &now.sweep_span),
            ("sweep_block", &now.sweep_block),
            ("workbuf", &now.workbuf),
            ("workbuf2", &now.workbuf2),
            ("worker", &now.worker),
            ("gcw", &now.gcw[0]),
            ("gcw", &now.gcw[1]),
        ];
        for (name, word) in left {
            if word.load(SeqCst) != 0 && (vacant || !matches!(name, "worker" | "task")) {
                out.push(format!(
                    "P{p} is idle and records {name} {}",
                    word.load(SeqCst)
                ));
            }
        }
        if now.intent.load(SeqCst) != 0 {
            out.push(format!("P{p} is idle and has an intent"));
        }
        if now.inflight.iter().any(|r| r.load(SeqCst) != 0) {
            out.push(format!("P{p} is idle and has references in flight"));
        }
        if vacant && (record.dedicated.load(SeqCst) != 0 || record.scope.0.load(SeqCst) & 8 != 0) {
            out.push(format!("P{p} is vacant, and inside or a budget holder"));
        }
        if vacant && SlotWord(segment.slots[p].word.load(SeqCst)).state() != SlotWord::CLOSED {
            out.push(format!("P{p} is vacant and its slot is open"));
        }
        if vacant && record.armed.load(SeqCst) == 0 && p < 4 {
            let area = &segment.areas[p];
            if area.handles.iter().any(|h| h.load(SeqCst) != 0) {
                out.push(format!("P{p} is vacant and has handles"));
            }
            if area.cached.iter().any(|c| c.load(SeqCst) != 0) {
                out.push(format!("P{p} is vacant and has cached spans"));
            }
        }
    }
}

fn audit_buffers(segment: &Segment, out: &mut Vec<String>) {
    let high = segment.hdr.sched.workbuf_high.load(SeqCst) as usize;
    let bit = |finder: &shm_layout::bits::Finder<'_>, i: usize| {
        finder.bits[i / 64].load(SeqCst) >> (i % 64) & 1 != 0
    };
    for i in 0..high {
        let word = BufWord(segment.buf_words[i].load(SeqCst));
        match word.state() {
            BufWord::FREE if !bit(&segment.buf_free, i) => {
                out.push(format!(
                    "work buffer {i} is free and not to be found: leaked"
                ));
            }
            BufWord::FREE => {}
            BufWord::FULL => out.push(format!("work buffer {i} is published and no cycle is on")),
            _ => out.push(format!(
                "work buffer {i} is owned by P{} although nobody marks",
                word.p()
            )),
        }
    }
    for (name, finder, high) in [
        ("free buffer", &segment.buf_free, high),
        (
            "free task",
            &segment.task_free,
            segment.hdr.sched.task_high.load(SeqCst) as usize,
        ),
        (
            "queued task",
            &segment.task_run,
            segment.hdr.sched.task_high.load(SeqCst) as usize,
        ),
    ] {
        for w in 0..high.div_ceil(64) {
            let hidden = finder.bits[w].load(SeqCst) != 0
                && finder.upper[w / 64].load(SeqCst) >> (w % 64) & 1 == 0;
            if hidden {
                out.push(format!("finder of {name}s hides word {w}"));
            }
        }
    }
}

fn audit_workers(segment: &Segment, out: &mut Vec<String>) {
    for (g, w) in crate::gc::gc_bg_mark_worker::used_workers(segment)
        .iter()
        .enumerate()
    {
        let word = WorkerWord(w.word.load(SeqCst));
        let home = w.home.load(SeqCst);
        let slot = segment
            .slots
            .get((home >> 32) as usize)
            .map(|s| SlotWord(s.word.load(SeqCst)));
        let designated = slot == Some(SlotWord::full(g as u16, home as u32));
        match word.state() {
            WorkerWord::FREE if designated => {
                out.push(format!("mark worker {g} is free and stands in a slot"));
            }
            WorkerWord::FREE => {}
            WorkerWord::PARKED if designated => {}
            state => out.push(format!(
                "mark worker {g} is stranded: state {state}, P{}, designated {designated}",
                word.p()
            )),
        }
    }
    for (p, slot) in segment.slots.iter().enumerate() {
        let word = SlotWord(slot.word.load(SeqCst));
        if word.state() == SlotWord::FULL {
            let w = &segment.workers[word.worker() as usize];
            if WorkerWord(w.word.load(SeqCst)).state() != WorkerWord::PARKED
                || w.home.load(SeqCst) != (p as u64) << 32 | u64::from(word.inc())
            {
                out.push(format!(
                    "slot of P{p} designates worker {}, which is not its",
                    word.worker()
                ));
            }
        }
    }
}

fn audit_tasks(segment: &Segment, out: &mut Vec<String>) {
    let high = segment.hdr.sched.task_high.load(SeqCst) as usize;
    for (i, task) in segment.tasks[..high].iter().enumerate() {
        let word = TaskWord(task.word.load(SeqCst));
        let free_bit = segment.task_free.bits[i / 64].load(SeqCst) >> (i % 64) & 1 != 0;
        match word.state() {
            TaskWord::FREE if !free_bit => {
                out.push(format!(
                    "task record {i} is free and not to be found: leaked"
                ));
            }
            TaskWord::RESERVED | TaskWord::RUNNING | TaskWord::COMMITTED => {
                let who = if live(segment, word.owner()) {
                    "idle"
                } else {
                    "gone"
                };
                out.push(format!(
                    "task {i} is in state {} of P{}, which is {who}",
                    word.state(),
                    word.p()
                ));
            }
            _ => {}
        }
    }
}

fn audit_chunks(segment: &Segment, out: &mut Vec<String>) {
    let committed = segment.hdr.committed_chunks.0.load(SeqCst) as usize;
    for c in 0..segment.geo.chunks {
        let word = JobWord(segment.chunk_words[c].load(SeqCst));
        match word.state() {
            0 if c < committed => out.push(format!("chunk {c} counts as committed and is absent")),
            1 | 3 => out.push(format!(
                "chunk {c} is being committed or released by nobody"
            )),
            4 => {
                let first = c * CHUNK_PAGES / 64;
                if segment.page_bits[first..first + CHUNK_PAGES / 64]
                    .iter()
                    .any(|w| w.load(SeqCst) != 0)
                {
                    out.push(format!("chunk {c} is released and has free pages"));
                }
            }
            _ => {}
        }
    }
    for page in 1..committed * CHUNK_PAGES {
        let word = SpanWord(segment.spans[page].word.load(SeqCst));
        let bit = segment.page_bits[page / 64].load(Acquire) >> (page % 64) & 1 != 0;
        if bit && word.state() != SpanWord::FREE {
            out.push(format!(
                "page {page} is free by its bit and in a span by its word"
            ));
        }
        if sweep::is_span(word) && word.state() == SpanWord::CACHED && !live(segment, word.owner())
        {
            out.push(format!("span {page} is cached by nobody"));
        }
        if word.state() == SpanWord::BODY {
            let back = segment.spans[page].pages.load(Relaxed) as usize;
            if back == 0
                || back > page
                || !sweep::is_span(SpanWord(segment.spans[page - back].word.load(SeqCst)))
            {
                out.push(format!("page {page} is inside a span that is none"));
            }
        }
    }
}

pub use shm_layout::workbuf::WORKBUF_REFS;

/// Has the cursor of `T` a slot left in its run?
pub fn run_left<T: crate::Shared>(cx: &crate::Cx<'_>) -> bool {
    cx.proc()
        .cursors
        .get(T::cell().number())
        .is_some_and(|c| c.cur.get() != c.end.get())
}

/// Chooses a built-in fault for this process; an error with the names there are.
///
/// # Errors
/// The names, when there is none of this one.
#[cfg(feature = "planted")]
pub fn plant(name: &str) -> std::result::Result<(), String> {
    if crate::failpoint::plant(name) {
        return Ok(());
    }
    Err(format!("no such fault; there are {}", plants().join(", ")))
}

/// The names of the built-in faults.
#[cfg(feature = "planted")]
pub fn plants() -> Vec<&'static str> {
    crate::failpoint::PLANTS.iter().map(|(n, _)| *n).collect()
}

/// Chooses none.
#[cfg(feature = "planted")]
pub fn plant_nothing() {
    crate::failpoint::plant_nothing();
}
