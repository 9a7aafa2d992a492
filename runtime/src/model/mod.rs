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
//! each process has read so far and by what the segment holds; a state that was met before is not gone into again. 3. Memory
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
mod scenarios;
mod world;

use std::cell::{Cell, RefCell};

pub use explorer::{Bounds, Report, Violation};
pub use scenarios::{Case, Twin, cases};

thread_local! {
    static TWIN: Cell<&'static str> = const { Cell::new("") };
    static LABEL: Cell<&'static str> = const { Cell::new("") };
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static BROKEN: RefCell<Option<String>> = const { RefCell::new(None) };
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
