//! What a P does when it finds its own words impossible: it dies where it stands (Go's `throw`).
//!
//! It does not unwind: destructors would publish, release and detach out of a state that must not be. A death is what everybody else
//! is prepared for: they repair from the primary words, and the message says what was wrong. In unit tests it is a panic, so
//! that the test sees it. `throw_unless!` is for checks of what the P has in its hands already; `throw_unless_debug!` for those that
//! have to look at shared words for it, in builds with debug assertions. The explorer has its own eyes, and twins that would be
//! thrown out here: with the feature `model` both are nothing.

/// Are checks made that have to look at shared words?
pub(crate) const LOOKS_AROUND: bool =
    (cfg!(debug_assertions) || cfg!(test)) && !cfg!(feature = "model");

/// Ends this process with a message.
#[cold]
pub(crate) fn throw(what: &str) -> ! {
    if cfg!(test) {
        panic!("throw: {what}");
    }
    // Not through the logger: this must be seen whatever the program has set up.
    let line = format!("coheap: throw: {what}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    std::process::abort();
}

/// A condition without which this process must not go on.
macro_rules! throw_unless {
    ($holds:expr, $what:literal) => {
        if !cfg!(feature = "model") && !$holds {
            $crate::throw::throw($what);
        }
    };
}
pub(crate) use throw_unless;

/// As `throw_unless!`, in builds with debug assertions and in unit tests.
macro_rules! throw_unless_debug {
    ($holds:expr, $what:literal) => {
        if $crate::throw::LOOKS_AROUND && !$holds {
            $crate::throw::throw($what);
        }
    };
}
pub(crate) use throw_unless_debug;
