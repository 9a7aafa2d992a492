//! What a test of deaths around weak references shares with its victims (`weak-victim`).

use coheap::Shared;

/// What weak references name.
#[derive(Shared)]
#[shared(name = "tests.weak.Page")]
pub struct Page {
    /// Tells it from others.
    pub number: u64,
}

/// Roots of weak references: to what is held at first, and to what nobody holds.
pub const NAMES: [&str; 2] = ["weak", "weak to nothing"];
