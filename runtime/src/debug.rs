//! `COHEAPDEBUG`: words that make a process say more, or check more (Go's `GODEBUG`).
//!
//! `gctrace`, `schedtrace`, `scheddetail`, `gccheckmark` and `gcverify` are of the process that reads them. `clobberfree`, `quarantine`,
//! `gcstress` and `migrateevery` are of the heap: its maker's count (`heap::oracle`).

use std::sync::OnceLock;

/// Settings of `COHEAPDEBUG`, read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debug {
    /// Print a line per cycle.
    pub gctrace: bool,
    /// Print scheduler lines every so many milliseconds; 0 never.
    pub schedtrace_ms: u64,
    /// With details per P, worker and task.
    pub scheddetail: bool,
    /// Check each cycle by a second marking.
    pub checkmark: bool,
    /// Verify the whole heap after each cycle, with the world stopped.
    pub verify: bool,
    /// Fill free memory with a pattern, and check it.
    pub clobberfree: bool,
    /// Keep freed slots out of use for so many cycles.
    pub quarantine: u64,
    /// Ask for a collection at every allocation.
    pub gcstress: bool,
    /// Hand the mark worker on after every slice and at every change of phase.
    pub migrateevery: bool,
}

/// Parses `gctrace=1,schedtrace=1000`; unknown names are ignored, as in Go.
pub(crate) fn parse(text: &str) -> Debug {
    let mut debug = Debug::default();
    for item in text.split(',') {
        let (name, value) = item.split_once('=').unwrap_or((item, "1"));
        let value: u64 = value.trim().parse().unwrap_or(0);
        match name.trim() {
            "gctrace" => debug.gctrace = value != 0,
            "schedtrace" => debug.schedtrace_ms = value,
            "scheddetail" => debug.scheddetail = value != 0,
            "gccheckmark" => debug.checkmark = value != 0,
            "gcverify" => debug.verify = value != 0,
            "clobberfree" => debug.clobberfree = value != 0,
            "quarantine" => debug.quarantine = value,
            "gcstress" => debug.gcstress = value != 0,
            "migrateevery" => debug.migrateevery = value != 0,
            _ => {}
        }
    }
    debug
}

/// The process's settings.
pub(crate) fn debug() -> Debug {
    static DEBUG: OnceLock<Debug> = OnceLock::new();
    *DEBUG.get_or_init(|| parse(&std::env::var("COHEAPDEBUG").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_settings_as_go_does() {
        let d = parse("gctrace=1,schedtrace=500,unknown=3,quarantine=2,gcstress");
        assert_eq!(
            d,
            Debug {
                gctrace: true,
                schedtrace_ms: 500,
                quarantine: 2,
                gcstress: true,
                ..Debug::default()
            }
        );
        assert_eq!(parse(""), Debug::default());
    }
}
