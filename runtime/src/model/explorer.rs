//! Depth-first search over "who goes on, or dies, now", by replaying.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use shm_layout::sync::Access;

use super::{
    broken, last_label, names, take_broken,
    world::{self, World},
};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Deaths in one execution.
    pub deaths: u32,
    /// Switches away from a process that could have gone on; `None`: any number.
    pub preemptions: Option<u32>,
    /// Time after which the search stops, unfinished.
    pub patience: Duration,
}

/// A broken invariant and the way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// One line per access to a shared word, and per death.
    pub story: Vec<String>,
}

impl Report {
    /// The largest of the completed bounds, in words: "2 deaths with 1 switch".
    pub fn reach(&self) -> String {
        let within = |a: &(u32, Option<u32>), b: &(u32, Option<u32>)| {
            a.0 <= b.0 && b.1.is_none_or(|q| a.1.is_some_and(|p| p <= q))
        };
        let mut reach: Vec<_> = self
            .completed
            .iter()
            .filter(|a| !self.completed.iter().any(|b| a != &b && within(a, b)))
            .map(|(d, p)| match p {
                Some(p) => format!("{d}+{p}"),
                None => format!("{d}+any"),
            })
            .collect();
        reach.sort();
        reach.dedup();
        reach.join(" ")
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub states: u64,
    /// Executions run.
    pub executions: u64,
    /// Executions that ran to their end and were judged there.
    pub judged: u64,
    /// Words that more than one process uses.
    pub shared_words: usize,
    /// Longest execution, in decisions.
    pub depth: usize,
    /// Was everything within the bounds looked at?
    pub complete: bool,
    /// Bounds within which everything was looked at: deaths, and preemptions (`None`: any number).
    pub completed: Vec<(u32, Option<u32>)>,
    /// Time it took.
    pub took: Duration,
    /// The first violation.
    pub violation: Option<Violation>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Step(usize),
    /// A step whose moment nobody else can tell: costs no preemption.
    Slip(usize),
    Die(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// Stands before an access.
    Ready,
    /// A recoverer with nothing to recover.
    Blocked,
    Finished,
    Dead,
}

/// Multiply-and-fold, for keys that are hashes or addresses.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = mix(self.0, x);
    }
    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }
}

type FoldMap<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd6e8_feb8_6659_fd93);
    (m as u64 ^ (m >> 64) as u64).rotate_left(23) ^ a.wrapping_mul(0xa076_1d64_78bd_642f) ^ b
}

fn mix2(a: u128, b: u64, c: u64) -> u128 {
    let (lo, hi) = (a as u64, (a >> 64) as u64);
    u128::from(mix(mix(lo, b), c)) | u128::from(mix(mix(hi ^ 0x1234_5678_9abc_def1, c), b)) << 64
}

/// What the hooks know.
struct Now {
    yielders: Vec<*const Yielder<(), ()>>,
    /// Per process: everything it has read, in order.
    histories: Vec<u128>,
    /// Contents of the segment, as a sum over changed words.
    memory: u128,
    /// First address of the segment.
    base: usize,
    /// What is known of each four bytes of the segment: see [`flag`].
    uses: Vec<u32>,
    /// Shared words found in this pass: they count from the next one on.
    found: Vec<usize>,
    /// Has a decision point been used by somebody new? Then "nobody else can tell" was answered too early.
    grown: bool,
    /// How many words are decision points.
    shared_words: usize,
    pending: Vec<Access>,
    story: Option<Vec<String>>,
    accesses: u64,
}

/// Who makes the accesses that the hooks see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A process of the scenario.
    Process,
    /// Recovery at the end of an execution: what it reads of the dead makes their stores count.
    Observer,
    /// Preparation and judgement: nobody's business.
    Judge,
}

thread_local! {
    static NOW: RefCell<Option<Now>> = const { RefCell::new(None) };
    static WORLD: Cell<*const World> = const { Cell::new(std::ptr::null()) };
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static ROLE: Cell<Role> = const { Cell::new(Role::Judge) };
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn current() -> usize {
    if ROLE.get() == Role::Process {
        CURRENT.get() + 1
    } else {
        0
    }
}

fn with_now<R>(f: impl FnOnce(&mut Now) -> R) -> R {
    NOW.with_borrow_mut(|n| f(n.as_mut().expect("a search is on")))
}

fn world() -> &'static World {
    // SAFETY: set by `explore` to the world it borrows for as long as hooks are active.
    unsafe { &*WORLD.get() }
}

const OBSERVER: usize = 13;

/// Bits of `Now::uses`: who used the word (14 processes), who stored to it, and what it is.
mod flag {
    pub const STORED: u32 = 14;
    /// More than one process uses it, and not only to read: a decision point.
    pub const SHARED: u32 = 1 << 28;
    /// Statistics and the like.
    pub const IGNORED: u32 = 1 << 29;
    /// The two bits above mean something.
    pub const KNOWN: u32 = 1 << 30;
    /// Will be a decision point in the next pass.
    pub const FOUND: u32 = 1 << 31;
}

impl Now {
    /// Notes who uses the word; returns its flags.
    fn note_use(&mut self, process: usize, access: &Access) -> u32 {
        let i = (access.at - self.base) / 4;
        let mut flags = self.uses[i];
        if flags & flag::KNOWN == 0 {
            flags |= flag::KNOWN;
            if world().is_ignored(access.at) {
                flags |= flag::IGNORED;
            }
        }
        flags |= 1 << process;
        if access.writes {
            flags |= 1 << (flag::STORED as usize + process);
        }
        if flags & flag::SHARED != 0 && flags != self.uses[i] {
            self.grown = true;
        }
        let (used, stored) = (flags & 0x3fff, flags >> flag::STORED & 0x3fff);
        let shared = used & used.wrapping_sub(1) != 0 && stored != 0;
        if shared && flags & (flag::SHARED | flag::IGNORED | flag::FOUND) == 0 {
            flags |= flag::FOUND;
            self.found.push(i);
        }
        self.uses[i] = flags;
        flags
    }

    fn flags(&self, at: usize) -> u32 {
        self.uses[(at - self.base) / 4]
    }

    /// What was found counts from now on.
    fn adopt_found(&mut self) {
        self.grown = false;
        self.shared_words += self.found.len();
        for i in self.found.drain(..) {
            self.uses[i] |= flag::SHARED;
        }
    }
}

fn before(access: &Access) {
    match ROLE.get() {
        Role::Judge => return,
        Role::Observer => {
            with_now(|now| now.note_use(OBSERVER, access));
            return;
        }
        Role::Process => {}
    }
    let me = CURRENT.get();
    if access.writes {
        world().check_context_store(access.at, me);
    }
    let suspend = with_now(|now| {
        let flags = now.note_use(me, access);
        now.accesses += 1;
        let endless = now.accesses > 4_000_000;
        if endless {
            broken(format!(
                "{} does not come to an end",
                world().processes[me].name
            ));
        }
        (endless || flags & flag::SHARED != 0).then(|| {
            now.pending[me] = *access;
            now.yielders[me]
        })
    });
    if let Some(yielder) = suspend {
        // SAFETY: the yielder of the coroutine that runs now.
        unsafe { (*yielder).suspend(()) };
    }
}

fn after(access: &Access) {
    world::log(access);
    if ROLE.get() != Role::Process {
        return;
    }
    let me = CURRENT.get();
    with_now(|now| {
        let flags = now.flags(access.at);
        if flags & flag::IGNORED != 0 {
            return;
        }
        let h = &mut now.histories[me];
        *h = mix2(*h, access.at as u64, u64::from(access.writes));
        if access.reads {
            *h = mix2(*h, access.old, 1);
        }
        if access.writes && access.old != access.new {
            now.memory ^=
                mix2(access.at as u128, access.old, 7) ^ mix2(access.at as u128, access.new, 7);
        }
        if now.story.is_some() && flags & flag::SHARED != 0 {
            let name = names::name(&world().seg, access.at);
            let line = if access.writes {
                format!(
                    "{:<10} {:<28} {:#x} -> {:#x}",
                    world().processes[me].name,
                    name,
                    access.old,
                    access.new
                )
            } else {
                format!(
                    "{:<10} {:<28} {:#x}",
                    world().processes[me].name,
                    name,
                    access.old
                )
            };
            let line = format!("{line:<76} after {}", last_label());
            now.story.get_or_insert_default().push(line);
        }
    });
}

/// A recoverer waits here for something to do.
pub(super) fn until_a_death() {
    if ROLE.get() != Role::Process {
        return;
    }
    WAITS.set(true);
    let yielder = with_now(|now| now.yielders[CURRENT.get()]);
    // SAFETY: the yielder of the coroutine that runs now.
    unsafe { (*yielder).suspend(()) };
}

type Co = Coroutine<(), (), (), DefaultStack>;

/// Runs one world through everything its bounds allow.
pub(super) struct Search<'w> {
    world: &'w World,
    bounds: Bounds,
    coroutines: Vec<Option<Co>>,
    stacks: Vec<DefaultStack>,
    status: Vec<Status>,
    /// Has anybody else done anything since this recoverer looked last?
    news: Vec<bool>,
    deaths: u32,
    last: Option<usize>,
    preempted: u32,
}

struct Node {
    options: Vec<Action>,
    i: usize,
    /// What the processes were about to do: a replay that differs would be a fault of the explorer.
    print: u64,
}

impl<'w> Search<'w> {
    fn start(&mut self) {
        for co in &mut self.coroutines {
            if let Some(mut co) = co.take() {
                if !co.done() {
                    // SAFETY: what lives on its stack is forgotten; nothing outside refers to it, and the P's private halves
                    // are put back.
                    unsafe { co.force_reset() };
                }
                self.stacks.push(co.into_stack());
            }
        }
        self.world.reset();
        let n = self.world.processes.len();
        with_now(|now| {
            now.histories = vec![1; n];
            now.yielders = vec![std::ptr::null(); n];
            now.memory = 0;
            now.accesses = 0;
            now.pending = vec![
                Access {
                    at: 0,
                    size: 0,
                    writes: false,
                    reads: false,
                    old: 0,
                    new: 0
                };
                n
            ];
        });
        take_broken();
        self.status = vec![Status::Ready; n];
        self.news = vec![true; n];
        (self.deaths, self.last, self.preempted) = (0, None, 0);
        for i in 0..n {
            let stack = self
                .stacks
                .pop()
                .unwrap_or_else(|| DefaultStack::new(256 << 10).expect("a stack"));
            let process = std::ptr::from_ref(&self.world.processes[i]);
            let proc =
                std::ptr::from_ref(&*self.world.procs[self.world.processes[i].p.unwrap_or(0)]);
            self.coroutines.push(None);
            // SAFETY: the world outlives the search, and with it every coroutine.
            let process = unsafe { &*process };
            // SAFETY: as above.
            let proc = unsafe { &*proc };
            let co = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
                with_now(|now| now.yielders[CURRENT.get()] = yielder);
                let ended = catch_unwind(AssertUnwindSafe(|| (process.script)(proc)));
                if let Err(panic) = ended {
                    let text = panic
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                        .unwrap_or_default();
                    broken(format!("{} panicked: {text}", process.name));
                }
            });
            self.coroutines[i] = Some(co);
        }
        self.coroutines.truncate(n);
        for i in 0..n {
            self.resume(i);
        }
    }

    fn resume(&mut self, i: usize) {
        CURRENT.set(i);
        WAITS.set(false);
        ROLE.set(Role::Process);
        let result = self.coroutines[i]
            .as_mut()
            .expect("a live process")
            .resume(());
        ROLE.set(Role::Judge);
        self.status[i] = match result {
            CoroutineResult::Yield(()) if WAITS.get() => Status::Blocked,
            CoroutineResult::Yield(()) => Status::Ready,
            CoroutineResult::Return(()) => Status::Finished,
        };
    }

    fn apply(&mut self, action: Action) {
        let (Action::Step(who) | Action::Slip(who) | Action::Die(who)) = action;
        let costs = self.costs(who);
        // What a recoverer could not settle depends on the P's, and on who dies.
        if self.world.processes[who].p.is_some() || matches!(action, Action::Die(_)) {
            self.news.fill(true);
        } else if self.status[who] == Status::Blocked {
            self.news[who] = false;
        }
        match action {
            Action::Step(i) => {
                if costs {
                    self.preempted += 1;
                }
                self.last = Some(i);
                self.resume(i);
            }
            Action::Slip(i) => self.resume(i),
            Action::Die(i) => {
                with_now(|now| {
                    if let Some(story) = &mut now.story {
                        let name = names::name(&self.world.seg, now.pending[i].at);
                        story.push(format!(
                            "{:<10} DIES before its store to {name}",
                            self.world.processes[i].name
                        ));
                    }
                });
                self.deaths += 1;
                self.status[i] = Status::Dead;
                let mut co = self.coroutines[i].take().expect("a live process");
                if !co.done() {
                    // SAFETY: as in `start`: a killed process runs no destructor.
                    unsafe { co.force_reset() };
                }
                self.stacks.push(co.into_stack());
                // Stores of the kernel: part of the memory, seen by everybody.
                CURRENT.set(i);
                ROLE.set(Role::Judge);
                self.world.certify_death(i);
            }
        }
    }

    /// Is running `i` now a switch away from a process that could go on?
    fn costs(&self, i: usize) -> bool {
        self.last.is_some_and(|l| l != i && self.can_step(l))
    }

    fn can_step(&self, i: usize) -> bool {
        match self.status[i] {
            Status::Ready => true,
            Status::Blocked => self.news[i] && self.world.has_work_for_recoverer(),
            _ => false,
        }
    }

    /// A process whose next access no other living process can tell: then who goes on is no question, only whether it dies.
    fn unobserved(&self) -> Option<usize> {
        let n = self.status.len();
        let living = (0..n)
            .filter(|&i| matches!(self.status[i], Status::Ready | Status::Blocked))
            .fold(0u32, |mask, i| mask | 1 << i);
        // Of the recoverers only the holder of the lock does anything.
        let recoverers = (0..n)
            .filter(|&i| self.world.processes[i].p.is_none())
            .fold(0u32, |mask, i| mask | 1 << i);
        (0..n).find(|&i| {
            self.status[i] == Status::Ready && {
                let mut others = living & !(1 << i);
                let (flags, writes) = with_now(|now| {
                    let pending = now.pending[i];
                    (now.flags(pending.at), pending.writes)
                });
                let lock = self
                    .world
                    .is_recovery_lock(with_now(|now| now.pending[i].at));
                if recoverers & 1 << i != 0 && !lock {
                    others &= !recoverers;
                }
                let watch = if writes { flags } else { flags >> flag::STORED };
                watch & others == 0
            }
        })
    }

    fn print(&self) -> u64 {
        with_now(|now| {
            let all = now.pending.iter().zip(&now.histories).zip(&self.status);
            all.fold(0, |h, ((p, history), s)| {
                mix(mix(h, p.at as u64 ^ *history as u64), *s as u64)
            })
        })
    }

    fn options(&self) -> Vec<Action> {
        let n = self.status.len();
        let mut out = Vec::new();
        if let Some(i) = self.unobserved() {
            out.push(Action::Slip(i));
            let writes = with_now(|now| now.pending[i].writes);
            if writes && self.world.processes[i].mortal && self.deaths < self.bounds.deaths {
                out.push(Action::Die(i));
            }
            return out;
        }
        let order = self
            .last
            .into_iter()
            .chain((0..n).filter(|&i| Some(i) != self.last));
        for i in order.filter(|&i| self.can_step(i)) {
            let within = self
                .bounds
                .preemptions
                .is_none_or(|b| self.preempted + u32::from(self.costs(i)) <= b);
            if within {
                out.push(Action::Step(i));
            }
        }
        if self.deaths < self.bounds.deaths {
            for i in (0..n).filter(|&i| self.world.processes[i].mortal) {
                let writes = with_now(|now| now.pending[i].writes);
                let dies = match self.status[i] {
                    Status::Ready => writes,
                    Status::Finished => true,
                    _ => false,
                };
                if dies {
                    out.push(Action::Die(i));
                }
            }
        }
        out
    }

    fn key(&self) -> u128 {
        with_now(|now| {
            let mut key = now.memory;
            for ((h, s), news) in now.histories.iter().zip(&self.status).zip(&self.news) {
                key = mix2(key, u64::from(*news), 2);
                key = mix2(key, *h as u64, *s as u64);
                key = mix2(key, (*h >> 64) as u64, 3);
            }
            if self.bounds.preemptions.is_some() {
                key = mix2(key, self.last.map_or(99, |l| l as u64), 5);
            }
            mix2(key, u64::from(self.deaths), 11)
        })
    }

    fn broken_now(&self) -> Option<String> {
        take_broken().or_else(|| self.world.check_slots().err())
    }

    /// The rest of an execution that has come to its end: everything dead is recovered, then the scenario judges.
    fn judge(&mut self) -> Option<String> {
        ROLE.set(Role::Judge);
        // A mutex whose holder died passes on; one whose holder waits is free anyway.
        ROLE.set(Role::Observer);
        let recovered = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..16 {
                if !self.world.needs_recovery() {
                    return Ok(());
                }
                crate::recover::recover_dead(&self.world.seg);
            }
            Err("recovery does not come to an end".to_owned())
        }));
        ROLE.set(Role::Judge);
        let text = |panic: Box<dyn std::any::Any + Send>| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            format!("the observer panicked: {}", text.unwrap_or_default())
        };
        match recovered {
            Ok(Ok(())) => {}
            Ok(Err(what)) => return Some(what),
            Err(panic) => return Some(text(panic)),
        }
        if let Some(what) = self.broken_now() {
            return Some(what);
        }
        let judged = catch_unwind(AssertUnwindSafe(|| (self.world.check)(self.world)));
        match judged {
            Ok(Ok(())) => self.broken_now(),
            Ok(Err(what)) => Some(what),
            Err(panic) => Some(text(panic)),
        }
    }
}

/// Explores everything within the bounds.
pub(super) fn explore(world: &World, bounds: Bounds) -> Report {
    shm_layout::sync::set_hooks(before, after);
    WORLD.set(world);
    NOW.set(Some(Now {
        yielders: Vec::new(),
        histories: Vec::new(),
        memory: 0,
        base: world.seg.base_address(),
        uses: vec![0; world.seg.geo.total_bytes / 4],
        found: Vec::new(),
        grown: false,
        shared_words: 0,
        pending: Vec::new(),
        story: None,
        accesses: 0,
    }));
    let began = Instant::now();
    let mut search = Search {
        world,
        bounds,
        coroutines: Vec::new(),
        stacks: Vec::new(),
        status: Vec::new(),
        news: Vec::new(),
        deaths: 0,
        last: None,
        preempted: 0,
    };
    search.warm_up();
    let mut report = search.run(began);
    if let Some(violation) = &mut report.violation {
        violation.story.truncate(4000);
    }
    for co in search.coroutines.iter_mut().filter_map(Option::as_mut) {
        if !co.done() {
            // SAFETY: as in `start`.
            unsafe { co.force_reset() };
        }
    }
    world.reset();
    world::logging(false);
    NOW.set(None);
    report.took = began.elapsed();
    report
}

impl Search<'_> {
    /// One execution for what this program, not the segment, does once only: numbers of types and kinds.
    fn warm_up(&mut self) {
        self.start();
        for i in 0..self.status.len() {
            while self.can_step(i) {
                self.resume(i);
            }
        }
        let _ = self.judge();
    }

    fn run(&mut self, began: Instant) -> Report {
        let mut report = Report {
            states: 0,
            executions: 0,
            judged: 0,
            shared_words: 0,
            depth: 0,
            complete: false,
            completed: Vec::new(),
            took: Duration::ZERO,
            violation: None,
        };
        loop {
            // A pass with the shared words known so far; over again when it has found more.
            let mut visited: FoldMap<u128, u32> = FoldMap::default();
            let mut path: Vec<Node> = Vec::new();
            with_now(Now::adopt_found);
            let mut runs = 0u64;
            let finished = loop {
                runs += 1;
                report.executions += 1;
                if let Some(what) = self.execute(&mut path, &mut visited, &mut report) {
                    report.violation = Some(Violation {
                        what,
                        story: self.tell(&path),
                    });
                    report.states += visited.len() as u64;
                    report.shared_words = with_now(|now| now.shared_words);
                    return report;
                }
                while let Some(node) = path.last_mut() {
                    node.i += 1;
                    if node.i < node.options.len() {
                        break;
                    }
                    path.pop();
                }
                if path.is_empty() {
                    break true;
                }
                if with_now(|now| now.grown || !now.found.is_empty()) && runs.is_multiple_of(256) {
                    break false;
                }
                if began.elapsed() > self.bounds.patience {
                    report.states = visited.len() as u64;
                    report.shared_words = with_now(|now| now.shared_words);
                    return report;
                }
            };
            if finished && with_now(|now| !now.grown && now.found.is_empty()) {
                report.states = visited.len() as u64;
                report.shared_words = with_now(|now| now.shared_words);
                report.complete = true;
                return report;
            }
        }
    }

    fn execute(
        &mut self,
        path: &mut Vec<Node>,
        visited: &mut FoldMap<u128, u32>,
        report: &mut Report,
    ) -> Option<String> {
        self.start();
        let mut depth = 0;
        loop {
            if let Some(what) = self.broken_now() {
                path.truncate(depth);
                return Some(what);
            }
            if depth == path.len() && self.unobserved().is_some() {
                let options = self.options();
                path.push(Node {
                    options,
                    i: 0,
                    print: self.print(),
                });
                report.depth = report.depth.max(path.len());
            } else if depth == path.len() {
                let left = self
                    .bounds
                    .preemptions
                    .map_or(0, |b| b + 1 - self.preempted);
                match visited.entry(self.key()) {
                    std::collections::hash_map::Entry::Occupied(mut e) => {
                        if *e.get() >= left {
                            return None;
                        }
                        e.insert(left);
                    }
                    std::collections::hash_map::Entry::Vacant(e) => {
                        e.insert(left);
                    }
                }
                let options = self.options();
                if !options.iter().any(|o| matches!(o, Action::Step(_))) {
                    report.judged += 1;
                    let bad = self.judge();
                    if bad.is_some() || options.is_empty() {
                        return bad;
                    }
                    // Somebody may still die here, with everything else at rest: judged above without, below with that.
                    self.replay(path);
                }
                path.push(Node {
                    options,
                    i: 0,
                    print: self.print(),
                });
                report.depth = report.depth.max(path.len());
            }
            let node = &path[depth];
            let action = node.options[node.i];
            assert_eq!(
                node.print,
                self.print(),
                "a replay differs at {depth}: {:?}",
                with_now(|n| n
                    .pending
                    .iter()
                    .map(|p| names::name(&world().seg, p.at))
                    .collect::<Vec<_>>())
            );
            self.apply(action);
            depth += 1;
        }
    }

    /// Brings the world to the end of the path again.
    fn replay(&mut self, path: &[Node]) {
        self.start();
        for node in path {
            self.apply(node.options[node.i]);
        }
    }

    /// Runs the path once more, and tells it.
    fn tell(&mut self, path: &[Node]) -> Vec<String> {
        with_now(|now| now.story = Some(Vec::new()));
        self.start();
        for node in path {
            self.apply(node.options[node.i]);
        }
        let mut story = with_now(|now| now.story.take()).unwrap_or_default();
        story.push("(everything dead is recovered, and the end is judged)".into());
        story
    }
}
