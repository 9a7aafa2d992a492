//! What the hooks see: each access of the process that runs now, who uses which word, and where a decision is due.

use std::cell::{Cell, RefCell};

use corosensei::Yielder;
use shm_layout::sync::Access;

use super::{
    hash::{change, mix2},
    steps::Effect,
};
use crate::model::{
    Ghost, broken, last_label, names, schedules,
    world::{self, World},
};

/// What the hooks know.
pub(super) struct Now {
    pub yielders: Vec<*const Yielder<(), ()>>,
    /// Everything that the process which runs now has read, in order.
    pub history: u128,
    /// Contents of the segment, as a sum over changed words.
    pub memory: u128,
    /// The access before which it stands.
    pub pending: Access,
    /// What it has done since it went on last.
    pub effects: Vec<Effect>,
    /// First address of the segment.
    pub base: usize,
    /// What is known of each four bytes of the segment: see [`flag`].
    pub uses: Vec<u32>,
    /// Shared words found in this pass: they count from the next one on.
    pub found: Vec<usize>,
    /// Has a decision point been used by somebody new? Then "nobody else can tell" was answered too early.
    pub grown: bool,
    /// How many words are decision points.
    pub shared_words: usize,
    pub story: Option<Vec<String>>,
    pub accesses: u64,
}

/// Who makes the accesses that the hooks see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
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
    pub(super) static CURRENT: Cell<usize> = const { Cell::new(0) };
    pub(super) static ROLE: Cell<Role> = const { Cell::new(Role::Judge) };
    pub(super) static WAITS: Cell<bool> = const { Cell::new(false) };
    pub(super) static SLEEPS: Cell<bool> = const { Cell::new(false) };
}

/// The hooks serve this world from now on, until it is `None`.
pub(super) fn watch(world: Option<&World>) {
    WORLD.set(world.map_or(std::ptr::null(), std::ptr::from_ref));
    NOW.set(world.map(|world| Now {
        yielders: vec![std::ptr::null(); world.processes.len()],
        history: 0,
        memory: 0,
        pending: NOTHING,
        effects: Vec::new(),
        base: world.seg.base_address(),
        uses: vec![0; world.seg.geo.total_bytes / 4],
        found: Vec::new(),
        grown: false,
        shared_words: 0,
        story: None,
        accesses: 0,
    }));
}

pub(super) const NOTHING: Access = Access {
    at: 0,
    size: 0,
    writes: false,
    reads: false,
    old: 0,
    new: 0,
};

/// Runs `f` without being noticed.
pub(in crate::model) fn unseen<R>(f: impl FnOnce() -> R) -> R {
    let role = ROLE.replace(Role::Judge);
    let result = schedules::unseen(f);
    ROLE.set(role);
    result
}

pub(in crate::model) fn current() -> usize {
    if ROLE.get() == Role::Process {
        CURRENT.get() + 1
    } else {
        0
    }
}

pub(super) fn with_now<R>(f: impl FnOnce(&mut Now) -> R) -> R {
    NOW.with_borrow_mut(|n| f(n.as_mut().expect("a search is on")))
}

pub(super) fn world() -> &'static World {
    // SAFETY: set by `watch` to the world that `explore` borrows for as long as hooks are active.
    unsafe { &*WORLD.get() }
}

const OBSERVER: usize = 13;
/// Whoever stores at a death.
pub(super) const KERNEL: usize = 12;

/// Bits of `Now::uses`: who used the word (14 processes), who stored to it, and what it is.
pub(super) mod flag {
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
    pub fn note_use(&mut self, process: usize, at: usize, writes: bool) -> u32 {
        let i = (at - self.base) / 4;
        let mut flags = self.uses[i];
        if flags & flag::KNOWN == 0 {
            flags |= flag::KNOWN;
            if world().is_ignored(at) {
                flags |= flag::IGNORED;
            }
        }
        flags |= 1 << process;
        if writes {
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

    /// Has a word turned out to be shared that is no decision point yet? Then what was learned of its users may not hold.
    pub fn is_stale(&self) -> bool {
        !self.found.is_empty()
    }

    pub fn flags(&self, at: usize) -> u32 {
        self.uses[(at - self.base) / 4]
    }

    /// What was found counts from now on. Has anything been found?
    pub fn adopt_found(&mut self) -> bool {
        let any = self.is_stale();
        self.grown = false;
        self.shared_words += self.found.len();
        for i in self.found.drain(..) {
            self.uses[i] |= flag::SHARED;
        }
        any
    }

    fn tell(&mut self, me: usize, access: &Access) {
        let Some(story) = &mut self.story else {
            return;
        };
        let name = names::name(&world().seg, access.at);
        let line = format!(
            "{:<10} {name:<28} {:#x}",
            world().processes[me].name,
            access.old
        );
        let line = if access.writes {
            format!("{line} -> {:#x}", access.new)
        } else {
            line
        };
        story.push(format!("{line:<76} after {}", last_label()));
    }
}

fn before(access: &Access) {
    if schedules::before(access) {
        return;
    }
    match ROLE.get() {
        Role::Judge => return,
        Role::Observer => {
            with_now(|now| now.note_use(OBSERVER, access.at, access.writes));
            return;
        }
        Role::Process => {}
    }
    let me = CURRENT.get();
    if access.writes {
        world().check_context_store(access.at, me);
    }
    let suspend = with_now(|now| {
        let flags = now.note_use(me, access.at, access.writes);
        now.accesses += 1;
        let endless = now.accesses > 4_000_000;
        if endless {
            broken(format!(
                "{} does not come to an end",
                world().processes[me].name
            ));
        }
        (endless || flags & flag::SHARED != 0).then(|| {
            now.pending = *access;
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
    schedules::after(access);
    if ROLE.get() != Role::Process {
        return;
    }
    let me = CURRENT.get();
    with_now(|now| {
        let flags = now.flags(access.at);
        let ignored = flags & flag::IGNORED != 0;
        if access.writes {
            now.effects.push(Effect::of(access, ignored));
        }
        if ignored {
            return;
        }
        now.history = told(now.history, access);
        if access.writes && access.old != access.new {
            now.memory ^= change(access.at, access.size, access.old, access.new);
        }
        if flags & flag::SHARED != 0 {
            now.tell(me, access);
        }
    });
}

/// A history, after one more access.
pub(super) fn told(history: u128, access: &Access) -> u128 {
    let h = mix2(history, access.at as u64, u64::from(access.writes));
    if access.reads {
        mix2(h, access.old, 1)
    } else {
        h
    }
}

/// An object, or part of one, was stored as plain bytes: `old` are the words that stood there.
pub(in crate::model) fn plainly_stored(at: usize, old: &[u32]) {
    if ROLE.get() != Role::Process {
        return;
    }
    with_now(|now| {
        for (i, &old) in old.iter().enumerate() {
            let at = at + 4 * i;
            // SAFETY: a word of the mapped segment; this is the only thread.
            let new = unsafe { *(at as *const u32) };
            now.note_use(CURRENT.get(), at, true);
            now.effects.push(Effect::Plain { at, new });
            if old != new {
                now.memory ^= change(at, 4, old.into(), new.into());
            }
        }
    });
}

/// The process that runs now has done something that a rule is about.
pub(in crate::model) fn note_ghost(event: Ghost) {
    if ROLE.get() == Role::Process {
        with_now(|now| now.effects.push(Effect::Ghost(event)));
    }
}

/// A recoverer waits here for something to do.
pub(in crate::model) fn until_a_death() {
    if ROLE.get() != Role::Process {
        return;
    }
    WAITS.set(true);
    let yielder = with_now(|now| now.yielders[CURRENT.get()]);
    // SAFETY: the yielder of the coroutine that runs now.
    unsafe { (*yielder).suspend(()) };
}

/// The process that runs now waits on a futex.
pub(in crate::model) fn fall_asleep() {
    if ROLE.get() == Role::Process {
        SLEEPS.set(true);
        let yielder = with_now(|now| now.yielders[CURRENT.get()]);
        // SAFETY: the yielder of the coroutine that runs now.
        unsafe { (*yielder).suspend(()) };
    }
}

/// Runs `f` with nothing done at an access but the log of changes.
pub(super) fn unhooked<R>(f: impl FnOnce() -> R) -> R {
    shm_layout::sync::set_change_hook(world::log);
    let result = f();
    set_hooks();
    result
}

/// Has the segment's accesses reported to this module.
pub(in crate::model) fn set_hooks() {
    shm_layout::sync::set_hooks(before, after);
}
