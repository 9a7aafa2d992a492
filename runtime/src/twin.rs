//! Twins: the product without one of its rules, which a check must tell from the product.
//!
//! `twin!("name")` stands where the rule is kept, and is false in every ordinary build, so nothing of it is left. Who takes rules away: the
//! explorer (feature `model`), `coheap step` (feature `failpoints`, one for the whole process), unit tests (a list per thread).

/// Has the explorer, `coheap step` or a unit test taken the rule of this name away? Never, in any build but theirs.
#[macro_export]
#[doc(hidden)]
macro_rules! twin {
    ($name:literal) => {{
        #[cfg(test)]
        {
            $crate::twin::is_missing($name)
        }
        #[cfg(all(not(test), feature = "model"))]
        {
            $crate::model::twin($name)
        }
        #[cfg(all(not(test), feature = "failpoints", not(feature = "model")))]
        {
            $crate::twin::is_broken($name)
        }
        #[cfg(not(any(test, feature = "failpoints", feature = "model")))]
        {
            false
        }
    }};
}

#[cfg(feature = "failpoints")]
static BROKEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Takes the rule of this name away, in this process. Once.
#[cfg(feature = "failpoints")]
pub fn break_rule(name: &str) {
    BROKEN.set(name.to_owned()).expect("once in a process");
}

/// Has [`break_rule`] taken it away?
#[cfg(feature = "failpoints")]
pub fn is_broken(name: &str) -> bool {
    BROKEN.get().is_some_and(|broken| broken == name)
}

#[cfg(test)]
std::thread_local! {
    static MISSING: std::cell::Cell<&'static [&'static str]> = const { std::cell::Cell::new(&[]) };
}

/// Takes the rules of these names away on this thread, in unit tests.
#[cfg(test)]
pub fn go_without(rules: &'static [&'static str]) {
    MISSING.set(rules);
}

/// The rules that this thread goes without: for the threads of a test, which go without the same.
#[cfg(test)]
pub fn missing() -> &'static [&'static str] {
    MISSING.get()
}

/// Does this thread go without the rule?
#[cfg(test)]
pub fn is_missing(name: &str) -> bool {
    MISSING.get().contains(&name)
}
