//! Weak memory: the product's own code under `loom`.
//!
//! A *model* is a small world, as the explorer's are, with one thread per process and no deaths. Every access to a word that more
//! than one of them uses is answered by a `loom` atomic that stands for the word, found by its address, with the order that the
//! code passed: so a load may see any value that the language allows it to see, not only the newest.
//!
//! 1. Words that only one thread uses, or that nobody stores to, stay in memory. Which are shared is found while running; when a new
//! one turns up, the model starts again (what was seen until then counts for nothing).
//! 2. `loom` takes `SeqCst` accesses for acquire and release. What the language says of them beyond that is added here: such a load
//! sees no older value of its word than that of the last such store, in one order of all such accesses: the order of execution.
//! When `loom` answers with an older one, it is asked for the newest, which the language allows. A `SeqCst` store is carried out as
//! an exchange, because plain stores of two threads have no order in `loom`; that makes it acquire too, which the language does not.
//! 3. Whose turn it is `loom` asks again at accesses that conflict with the *last* one of the word, and forgets a load when another
//! follows: it would miss that a load can come after a compare-exchange that was prepared by a load. So each access is preceded by
//! a relaxed read-modify-write of a companion of the word, which orders nothing, and conflicts with every other access.
//! 4. After the threads have ended the newest values go back into memory, and the world's check judges them.
//! 5. What is no atomic (the plain fields of objects) is in memory, and its races are not seen.
//!
//! **Twins.** A [`Weakening`] takes an order away: each access to words of that name counts as relaxed, or as acquire and release
//! where the code says `SeqCst`. Every model names some that must fail. `prove --loom --sweep` tries them all.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
    time::{Duration, Instant},
};

use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use shm_layout::sync::{Op, Request};

use super::{
    broken, explorer, names, take_broken,
    world::{World, log_word},
};

/// An access of a thread to a word, and its answer.
type Told = (u32, usize, Op, Result<u64, u64>);

/// An order taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weakening {
    /// Words of this kind (their names without numbers), or these, with a `|` between.
    pub words: &'static str,
    /// Only `SeqCst` becomes acquire and release; otherwise everything becomes relaxed.
    pub only_seq_cst: bool,
}

impl Weakening {
    fn of(self, order: Ordering) -> Ordering {
        match (self.only_seq_cst, order) {
            (true, SeqCst) => AcqRel,
            (true, order) => order,
            (false, _) => Relaxed,
        }
    }
}

impl std::fmt::Display for Weakening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.only_seq_cst {
            "acqrel"
        } else {
            "relaxed"
        };
        write!(f, "{what} {}", self.words)
    }
}

/// How a model ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Executions run, those before the last restart included.
    pub executions: u64,
    /// Names of the words that were loom's.
    pub words: Vec<String>,
    /// Was everything within the bound on preemptions looked at?
    pub complete: bool,
    /// What is wrong.
    pub violation: Option<String>,
    /// The accesses of the execution that shows it, in the order in which they were carried out.
    pub story: Vec<String>,
    /// Time it took.
    pub took: Duration,
}

/// The atomic that stands for a word in the present execution.
enum Cell64 {
    U16(AtomicU16),
    U32(AtomicU32),
    U64(AtomicU64),
}

impl Cell64 {
    /// What was there before counts as stored with `SeqCst`. Returns it.
    fn settle(&self) -> u64 {
        match self {
            Cell64::U16(a) => a.swap(a.load(Relaxed), SeqCst).into(),
            Cell64::U32(a) => a.swap(a.load(Relaxed), SeqCst).into(),
            Cell64::U64(a) => a.swap(a.load(Relaxed), SeqCst),
        }
    }
}

/// What stands for a word.
struct Stand {
    cell: Cell64,
    /// Conflicts with every other access of the word.
    turn: AtomicU32,
    /// Values stored since the last `SeqCst` store, that one first.
    since: RefCell<Vec<u64>>,
}

struct Word {
    at: usize,
    size: u8,
    weak: bool,
}

/// What is known of a model's words, over all of its executions.
struct Known {
    base: usize,
    /// Per four bytes of the segment: threads that use them (low half), threads that store to them; 1 << 31: shared.
    uses: Vec<u32>,
    /// Which of `words` it is, plus one.
    index: Vec<u16>,
    words: Vec<Word>,
    found: Vec<(usize, u8)>,
}

const STORED: u32 = 8;
const FOUND: u32 = 1 << 31;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
    static CELLS: RefCell<Vec<&'static Stand>> = const { RefCell::new(Vec::new()) };
    static WEAK: Cell<Option<Weakening>> = const { Cell::new(None) };
    static STORY: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    static EXECUTIONS: Cell<u64> = const { Cell::new(0) };
}

/// Does this thread run a model's threads?
pub(crate) fn running() -> bool {
    RUNNING.get()
}

/// The payload of a script's end in a sleep.
struct Asleep;

/// Ends the script that runs: it sleeps. The check sees whether it was woken.
pub(super) fn fall_asleep() -> ! {
    resume_unwind(Box::new(Asleep))
}

/// Answers an access in the place of memory.
fn route(request: &Request) -> Option<Result<u64, u64>> {
    if !RUNNING.get() {
        return None;
    }
    let me = THREAD.get();
    let word = KNOWN.with_borrow_mut(|k| k.as_mut().expect("a model runs").note(me, request))?;
    let cell = CELLS.with_borrow(|c| c[word.0]);
    let weak = WEAK.get().filter(|_| word.1);
    cell.turn.fetch_add(0, Relaxed);
    let answer = perform(cell, request, weak);
    STORY.with_borrow_mut(|s| s.push((me, request.at, request.op, answer)));
    // Other threads have run meanwhile.
    THREAD.set(me);
    Some(answer)
}

impl Known {
    /// Notes who uses the word; which of the shared ones it is, and whether its orders are weakened.
    fn note(&mut self, me: u32, request: &Request) -> Option<(usize, bool)> {
        let i = (request.at - self.base) / 4;
        let uses = &mut self.uses[i];
        *uses |= 1 << me;
        if !matches!(request.op, Op::Load) {
            *uses |= 1 << (STORED + me);
        }
        if self.index[i] != 0 {
            let k = usize::from(self.index[i]) - 1;
            assert_eq!(self.words[k].size, request.size, "a word of two sizes");
            return Some((k, self.words[k].weak));
        }
        let (used, stored) = (*uses & 0xff, *uses >> STORED & 0xff);
        if used & used.wrapping_sub(1) != 0 && stored != 0 && *uses & FOUND == 0 {
            *uses |= FOUND;
            self.found.push((request.at, request.size));
        }
        None
    }

    fn adopt_found(&mut self, world: &World) {
        for (at, size) in self.found.drain(..) {
            if world.is_ignored(at) {
                continue;
            }
            let name = names::name(&world.seg, at);
            let weak = WEAK
                .get()
                .is_some_and(|w| w.words.split('|').any(|k| k == kind_of(&name)));
            self.words.push(Word { at, size, weak });
            self.index[(at - self.base) / 4] = self.words.len() as u16;
        }
    }
}

/// Memory was stored to as plain bytes: what stands there in the place of words takes the values over.
pub(crate) fn plainly_stored(at: usize, bytes: usize) {
    if !RUNNING.get() {
        return;
    }
    let me = THREAD.get();
    for at in (at..at + bytes).step_by(4) {
        let word = KNOWN.with_borrow(|k| {
            let k = k.as_ref()?;
            let i = k.index[(at - k.base) / 4];
            (i != 0).then(|| (usize::from(i) - 1, k.words[usize::from(i) - 1].size))
        });
        let Some((i, size)) = word else { continue };
        let cell = CELLS.with_borrow(|c| c[i]);
        let value = match size {
            // SAFETY: a word of the mapped segment, as wide as it was asked for; one thread.
            4 => u64::from(unsafe { *(at as *const u32) }),
            // SAFETY: as above.
            8 => unsafe { *(at as *const u64) },
            _ => continue,
        };
        cell.turn.fetch_add(0, Relaxed);
        cell.since.replace(vec![value]);
        match &cell.cell {
            Cell64::U32(a) => a.store(value as u32, SeqCst),
            Cell64::U64(a) => a.store(value, SeqCst),
            Cell64::U16(_) => {}
        }
        THREAD.set(me);
    }
}

/// The name of a word's kind: its name without numbers.
fn kind_of(name: &str) -> String {
    if name.starts_with("object") {
        return "object".into();
    }
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

macro_rules! perform_as {
    ($a:expr, $int:ty, $request:expr, $order:expr, $failure:expr) => {{
        let a = $a;
        let order = $order;
        let cut = |v: u64| v as $int;
        match $request.op {
            Op::Load => Ok(a.load(order).into()),
            Op::Store(v) => {
                if order == SeqCst {
                    // An exchange, as on x86: in loom only those have one order, in which no store can come before one that was there.
                    a.swap(cut(v), order);
                } else {
                    a.store(cut(v), order);
                }
                Ok(v)
            }
            Op::Swap(v) => Ok(a.swap(cut(v), order).into()),
            Op::CompareExchange { current, new, .. } => a
                .compare_exchange(cut(current), cut(new), order, $failure)
                .map(u64::from)
                .map_err(u64::from),
            Op::Add(v) => Ok(a.fetch_add(cut(v), order).into()),
            Op::Sub(v) => Ok(a.fetch_sub(cut(v), order).into()),
            Op::Or(v) => Ok(a.fetch_or(cut(v), order).into()),
            Op::And(v) => Ok(a.fetch_and(cut(v), order).into()),
            Op::Max(v) => Ok(a.fetch_max(cut(v), order).into()),
            Op::Min(v) => Ok(a.fetch_min(cut(v), order).into()),
        }
    }};
}

fn perform(stand: &Stand, request: &Request, weak: Option<Weakening>) -> Result<u64, u64> {
    let weakened = |order| weak.map_or(order, |w| w.of(order));
    let said = weakened(request.order);
    // A load and a store take half of what a read-modify-write takes.
    let order = match (request.op, said) {
        (Op::Load, AcqRel) => Acquire,
        (Op::Store(_), AcqRel) => Release,
        (_, order) => order,
    };
    let failure = match request.op {
        Op::CompareExchange { failure, .. } => match weakened(failure) {
            AcqRel => Acquire,
            order => order,
        },
        _ => Relaxed,
    };
    let answer = match &stand.cell {
        Cell64::U16(a) => perform_as!(a, u16, request, order, failure),
        Cell64::U32(a) => perform_as!(a, u32, request, order, failure),
        Cell64::U64(a) => perform_as!(a, u64, request, order, failure),
    };
    let mut since = stand.since.borrow_mut();
    if let Some(new) = stored(request, answer) {
        if said == SeqCst {
            since.clear();
        }
        since.push(new);
    } else if matches!(request.op, Op::Load)
        && said == SeqCst
        && !answer.is_ok_and(|seen| since.contains(&seen))
    {
        // Others may run now.
        drop(since);
        return Ok(match &stand.cell {
            Cell64::U16(a) => a.fetch_add(0, Acquire).into(),
            Cell64::U32(a) => a.fetch_add(0, Acquire).into(),
            Cell64::U64(a) => a.fetch_add(0, Acquire),
        });
    }
    answer
}

/// The value that an access has stored, if it has.
fn stored(request: &Request, answer: Result<u64, u64>) -> Option<u64> {
    let old = answer.ok()?;
    let new = match request.op {
        Op::Load => return None,
        Op::Store(new) | Op::Swap(new) | Op::CompareExchange { new, .. } => new,
        Op::Add(v) => old.wrapping_add(v),
        Op::Sub(v) => old.wrapping_sub(v),
        Op::Or(v) => old | v,
        Op::And(v) => old & v,
        Op::Max(v) => old.max(v),
        Op::Min(v) => old.min(v),
    };
    Some(if request.size == 8 {
        new
    } else {
        new & ((1 << (8 * request.size)) - 1)
    })
}

/// Why a model's execution was the last.
enum Stop {
    Again,
    Broken(String),
    OutOfTime,
}

struct SendWorld(*const World);
// SAFETY: `loom`'s threads are coroutines of one thread, and `check` returns before the world goes.
unsafe impl Send for SendWorld {}
// SAFETY: as above.
unsafe impl Sync for SendWorld {}

impl SendWorld {
    fn get(&self) -> &'static World {
        // SAFETY: as above.
        unsafe { &*self.0 }
    }
}

/// Runs `world` through every execution with at most `preemptions` switches away from a thread that could go on.
pub(super) fn check(
    world: &World,
    preemptions: Option<usize>,
    patience: Duration,
    weak: Option<Weakening>,
) -> Outcome {
    explorer::set_hooks();
    shm_layout::sync::set_router(route);
    WEAK.set(weak);
    EXECUTIONS.set(0);
    let words = world.seg.geo.total_bytes / 4;
    KNOWN.set(Some(Known {
        base: world.seg.base_address(),
        uses: vec![0; words],
        index: vec![0; words],
        words: Vec::new(),
        found: Vec::new(),
    }));
    let began = Instant::now();
    let mut outcome = Outcome {
        executions: 0,
        words: Vec::new(),
        complete: false,
        violation: None,
        story: Vec::new(),
        took: Duration::ZERO,
    };
    loop {
        let shared = SendWorld(world);
        let mut builder = loom::model::Builder::new();
        builder.max_threads = 5;
        builder.max_branches = 20_000;
        builder.preemption_bound = preemptions;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || execution(shared.get(), began, patience));
        }));
        RUNNING.set(false);
        let Err(panic) = ended else {
            outcome.complete = true;
            break;
        };
        match panic.downcast::<Stop>().map(|s| *s) {
            Ok(Stop::Again) => {}
            Ok(Stop::OutOfTime) => break,
            Ok(Stop::Broken(what)) => {
                outcome.violation = Some(what);
                break;
            }
            Err(panic) => {
                // loom's own: a model too large for it, or a cell used in a way it knows to be wrong.
                outcome.violation = Some(format!("loom: {}", text_of(&*panic)));
                break;
            }
        }
    }
    outcome.executions = EXECUTIONS.get();
    outcome.took = began.elapsed();
    KNOWN.with_borrow(|k| {
        let words = k.iter().flat_map(|k| &k.words);
        outcome.words = words
            .map(|w| kind_of(&names::name(&world.seg, w.at)))
            .collect();
    });
    if outcome.violation.is_some() {
        let story = STORY.take();
        outcome.story = story
            .into_iter()
            .map(|access| tell(world, access))
            .collect();
    }
    outcome.words.sort();
    outcome.words.dedup();
    world.reset();
    super::world::logging(false);
    KNOWN.set(None);
    WEAK.set(None);
    outcome
}

fn tell(world: &World, (me, at, op, answer): Told) -> String {
    let name = names::name(&world.seg, at);
    let what = match (op, answer) {
        (Op::Store(new), _) => format!("       := {new:#x}"),
        (Op::Load, Ok(seen) | Err(seen)) => format!("{seen:#x}"),
        (Op::CompareExchange { new, .. }, Ok(was)) => format!("{was:#x} -> {new:#x}"),
        (Op::CompareExchange { current, .. }, Err(was)) => {
            format!("{was:#x}, not {current:#x}: stays")
        }
        (op, Ok(was) | Err(was)) => format!("{was:#x}, {op:x?}"),
    };
    format!(
        "{:<10} {name:<28} {what}",
        world.processes[me as usize].name
    )
}

pub(super) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_default()
}

/// One execution: from the world's frozen state to its check.
fn execution(world: &'static World, began: Instant, patience: Duration) {
    world.reset();
    EXECUTIONS.set(EXECUTIONS.get() + 1);
    take_broken();
    STORY.with_borrow_mut(Vec::clear);
    super::reset_ghost();
    super::order_models::reset_what_is();
    KNOWN.with_borrow_mut(|k| k.as_mut().expect("a model runs").adopt_found(world));
    make_cells();
    RUNNING.set(true);
    let threads: Vec<_> = (1..world.processes.len())
        .map(|i| {
            let shared = SendWorld(world);
            loom::thread::spawn(move || script(shared.get(), i))
        })
        .collect();
    script(world, 0);
    for thread in threads {
        // A script's panic is noted, and goes no further.
        let _ = thread.join();
    }
    RUNNING.set(false);
    put_cells_back();
    if KNOWN.with_borrow(|k| k.as_ref().is_some_and(|k| k.has_new(world))) {
        resume_unwind(Box::new(Stop::Again));
    }
    let judged = match take_broken() {
        Some(what) => Err(what),
        None => catch_unwind(AssertUnwindSafe(|| (world.check)(world)))
            .unwrap_or_else(|panic| Err(format!("the check panicked: {}", text_of(&*panic)))),
    };
    if let Err(what) = judged {
        resume_unwind(Box::new(Stop::Broken(what)));
    }
    if began.elapsed() > patience {
        resume_unwind(Box::new(Stop::OutOfTime));
    }
}

impl Known {
    fn has_new(&self, world: &World) -> bool {
        self.found.iter().any(|&(at, _)| !world.is_ignored(at))
    }
}

fn script(world: &'static World, i: usize) {
    THREAD.set(i as u32);
    let process = &world.processes[i];
    let proc = &world.procs[process.p.expect("a process with a P")];
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (process.script)(proc)))
        && !panic.is::<Asleep>()
    {
        broken(format!("{}: {}", process.name, text_of(&*panic)));
    }
}

/// The atomics of this execution, with the words' values.
fn make_cells() {
    let cells = KNOWN.with_borrow(|k| {
        let words = k.iter().flat_map(|k| &k.words);
        words
            .map(|w| match w.size {
                // SAFETY: a word of the mapped segment, as wide as it was asked for; one thread.
                2 => Cell64::U16(AtomicU16::new(unsafe { *(w.at as *const u16) })),
                // SAFETY: as above.
                4 => Cell64::U32(AtomicU32::new(unsafe { *(w.at as *const u32) })),
                // SAFETY: as above.
                _ => Cell64::U64(AtomicU64::new(unsafe { *(w.at as *const u64) })),
            })
            .map(|cell| {
                let stand = Stand {
                    since: RefCell::new(vec![cell.settle()]),
                    cell,
                    turn: AtomicU32::new(0),
                };
                &*Box::leak(Box::new(stand))
            })
            .collect::<Vec<_>>()
    });
    CELLS.set(cells);
}

/// The newest values go into memory, all threads having been joined.
fn put_cells_back() {
    let cells = CELLS.take();
    KNOWN.with_borrow(|k| {
        for (word, cell) in k.iter().flat_map(|k| &k.words).zip(cells) {
            let cell = std::ptr::from_ref(cell).cast_mut();
            // SAFETY: made by `make_cells` from a box, and used no more.
            let stand = *unsafe { Box::from_raw(cell) };
            let value = match stand.cell {
                Cell64::U16(a) => a.into_inner().into(),
                Cell64::U32(a) => a.into_inner().into(),
                Cell64::U64(a) => a.into_inner(),
            };
            log_word(word.at, word.size, value);
        }
    });
}
