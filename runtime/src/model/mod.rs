//! The explorer: every interleaving, and every death, of the product's own code.
//!
//! With the feature `model` each access to a word of the segment is reported (`shm_layout::sync`). A *scenario* is a small
//! segment, a few leased P's, and a script per process: the real protocol functions, called as the scheduler would call them.
//! The explorer runs the scripts as coroutines of one thread. Before each access to a word that more than one process uses it
//! decides who goes on, or that a process dies right there: its coroutine is dropped without running a destructor, its life word
//! says "owner died", and the real [`crate::recover`] deals with it, as one more process that may die too.
//!
//! **What is exhaustive.** 1. The words that are used by one process only are no decision points: nobody can tell the order.
//! Which words are shared is found while exploring; when a new one turns up, exploring starts again. 2. A state is told by what
//! each process has read so far and by what the segment holds; a state that was met before is not gone into again. What a process does
//! between two decisions is a function of what it has read: it is run once, and repeated by its stores (`explorer::steps`). 3. Memory
//! is sequentially consistent here; the orders of single accesses are `loom`'s business. 4. A process dies before a store;
//! dying before a load cannot be told from dying after the store before it.
//!
//! **Twins.** A twin is a rule of the protocol taken away, by name, at the place that keeps the rule ([`crate::twin!`]). Each
//! must be caught by a scenario: that is how we know that the scenarios can fail.
//!
//! Nothing of this is in an ordinary build.
#![expect(
    unsafe_code,
    reason = "drops coroutines without unwinding, and puts the segment's words back after each execution"
)]

mod explorer;
mod names;
mod order_models;
mod orders;
mod scenarios;
mod schedules;
mod world;

use std::cell::{Cell, RefCell};

pub use explorer::{Bounds, Report, Violation};
pub use order_models::{OrderModel, order_models};
pub use orders::{Outcome, Weakening};
pub use scenarios::{Case, Twin, Whole, cases};
pub use schedules::{Runs, Schedules, schedules};

thread_local! {
    static TWIN: Cell<&'static str> = const { Cell::new("") };
    static LABEL: Cell<&'static str> = const { Cell::new("") };
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static BROKEN: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What stood where plain bytes are being stored.
    static PLAIN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static GREYED: Cell<bool> = const { Cell::new(false) };
}

/// What rule 4 is about: told by the product's code, right after the access that makes it true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ghost {
    /// A white object has been marked, to be scanned.
    Greyed,
    /// `MARK -> ROUND`.
    RoundBegun,
    /// `ROUND -> OFF`.
    MarkingOver,
}

/// Follows rule 4: no object becomes grey in a round that ends clean, and then everything reachable is marked.
pub(crate) fn ghost(segment: &crate::Segment, event: Ghost) {
    if !active() {
        return;
    }
    explorer::note_ghost(event);
    match event {
        Ghost::Greyed => GREYED.set(true),
        Ghost::RoundBegun => GREYED.set(false),
        Ghost::MarkingOver => {
            if GREYED.get() {
                broken(
                    "a round ended clean although an object became grey during it (rule 4)".into(),
                );
            }
            if orders::running() {
                return; // words are in loom's hands; the model's check looks at the end
            }
            let cycle = segment.phase_unseen().cycle();
            let missed = explorer::unseen(|| crate::gc::checkmark::missed(segment, cycle));
            if let Some((parent, child)) = missed.first() {
                let what = |r| explorer::unseen(|| crate::gc::verify::describe(segment, r));
                broken(format!(
                    "marking is over, and {child:#x} ({}), referred to by {parent:#x} ({}), is not marked",
                    what(*child),
                    what(*parent)
                ));
            }
        }
    }
}

/// Puts the ghost state back.
pub(crate) fn set_ghost(state: u64) {
    GREYED.set(state != 0);
}

/// Has a broken invariant been noted?
pub(crate) fn is_broken() -> bool {
    BROKEN.with_borrow(Option::is_some)
}

/// The ghost state, which tells states apart.
pub(crate) fn ghost_state() -> u64 {
    GREYED.get().into()
}

pub(crate) fn reset_ghost() {
    GREYED.set(false);
}

/// Does the scenario keep everything in named roots?
pub(crate) fn named_roots_only() -> bool {
    active() && !schedules::running()
}

/// An object, or part of one, is about to be stored as plain bytes.
pub(crate) fn plainly_stores(at: *const u8, bytes: usize) {
    world::log_bytes(at as usize, bytes);
    PLAIN.with_borrow_mut(|words| {
        words.clear();
        words.extend(world::words(at as usize, bytes));
    });
}

/// An object, or part of one, was stored as plain bytes.
pub(crate) fn plainly_stored(at: *const u8, bytes: usize) {
    orders::plainly_stored(at as usize, bytes);
    PLAIN.with_borrow(|old| explorer::plainly_stored(at as usize, old));
}

/// What a sleep is in a model: nothing for the observer; a process stays asleep, and what the sleep's time-out would mend shows.
pub(crate) fn would_sleep(word: &shm_layout::sync::AtomicU32, value: u32) {
    if orders::running() && word.load(std::sync::atomic::Ordering::SeqCst) == value {
        orders::fall_asleep();
    }
    if !orders::running() && !schedules::running() {
        explorer::fall_asleep();
    }
}

/// Is the rule of this name taken away in the present run?
pub fn twin(name: &str) -> bool {
    TWIN.get() == name
}

/// Takes the rule of this name away on this thread; "" for none.
pub fn set_twin(name: &'static str) {
    TWIN.set(name);
}

/// Names the step that has just been done, for the story of a violation.
pub fn label(name: &'static str) {
    LABEL.set(name);
}

pub(crate) fn last_label() -> &'static str {
    LABEL.get()
}

/// Is this thread running a scenario? Then time stands still and nobody sleeps.
pub(crate) fn active() -> bool {
    ACTIVE.get()
}

pub(crate) fn set_active(on: bool) {
    ACTIVE.set(on);
}

/// Notes a broken invariant; the explorer stops at the next decision.
pub(crate) fn broken(what: String) {
    BROKEN.with_borrow_mut(|b| {
        b.get_or_insert(what);
    });
}

pub(crate) fn take_broken() -> Option<String> {
    BROKEN.take()
}

/// The process whose script runs, plus one; 0 for the observer.
pub(crate) fn current() -> u64 {
    explorer::current() as u64
}
