//! Named points where a test may kill or stop this process.
//!
//! In ordinary builds `failpoint!` is nothing. With the feature `failpoints` each point asks the `fail`
//! crate; `COHEAP_FAILPOINTS="pages.bits=3*off->kill"` kills the process at its fourth pass. Names are those of the protocol step
//! that has just been done. `coheap step` puts a function of its own there (`at_every_point`, in builds with points).

/// A named step of a protocol.
#[macro_export]
#[doc(hidden)]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::hit($name);
        #[cfg(feature = "model")]
        $crate::model::label($name);
    };
}

/// Tells the explorer's ghosts that rule 4 has come to a point (`model::Ghost`). Nothing in an ordinary build.
macro_rules! ghost {
    ($segment:expr, $event:ident) => {
        #[cfg(feature = "model")]
        $crate::model::ghost(&$segment, $crate::model::Ghost::$event);
    };
}
pub(crate) use ghost;

/// One pass of a failpoint. Actions: those of the `fail` crate, of which `return(kill)` and `return(stop)` signal this process.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) {
    if let Some(stand) = STAND.get() {
        return stand(name);
    }
    use nix::sys::signal::{Signal, raise};
    let act = |what: Option<String>| match what.as_deref() {
        Some("kill") => raise(Signal::SIGKILL).expect("a process may signal itself"),
        Some("stop") => raise(Signal::SIGSTOP).expect("a process may signal itself"),
        _ => {}
    };
    fail::eval(name, act);
}

/// Arms the points named in `COHEAP_FAILPOINTS` (grammar of the `fail` crate, with `kill` and `stop` as extra tasks).
#[cfg(feature = "failpoints")]
pub fn arm_from_environment() -> Result<(), String> {
    let Ok(spec) = std::env::var("COHEAP_FAILPOINTS") else {
        return Ok(());
    };
    for point in spec.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, actions) = point
            .split_once('=')
            .ok_or_else(|| format!("failpoint {point:?} has no `=`"))?;
        let actions = actions
            .replace("kill", "return(kill)")
            .replace("stop", "return(stop)");
        fail::cfg(name.trim(), &actions)?;
    }
    Ok(())
}

#[cfg(feature = "failpoints")]
static STAND: std::sync::OnceLock<fn(&'static str)> = std::sync::OnceLock::new();

/// Calls `stand` at every point of this process, instead of asking the `fail` crate. Once.
#[cfg(feature = "failpoints")]
pub fn at_every_point(stand: fn(&'static str)) {
    STAND.set(stand).expect("once in a process");
}
