//! Built-in faults, in a build that has them: a test that finds nothing with one of them is no test.
//!
//! **A fault is this process's**, one at a time; other processes of the segment have theirs, or none.

/// Chooses a built-in fault for this process; an error with the names there are.
///
/// # Errors
/// The names, when there is none of this one.
#[cfg(feature = "planted")]
pub fn plant(name: &str) -> std::result::Result<(), String> {
    if crate::plant::plant(name) {
        return Ok(());
    }
    Err(format!("no such fault; there are {}", plants().join(", ")))
}

/// The names of the built-in faults.
#[cfg(feature = "planted")]
pub fn plants() -> Vec<&'static str> {
    crate::plant::PLANTS.iter().map(|(n, _)| *n).collect()
}

/// Chooses none.
#[cfg(feature = "planted")]
pub fn plant_nothing() {
    crate::plant::plant_nothing();
}
