//! The watchdog: a survivor that never returns is a failure too.
//!
//! Whoever begins to look at an image says so ([`alive`]); a thread looks every second whether that is more than a minute ago, and
//! then ends the program with status 1.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Milliseconds since the start at which the watchdog loses patience.
static DEADLINE_MS: AtomicU64 = AtomicU64::new(0);

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

/// Another minute from now.
pub fn alive() {
    let now = Instant::now().duration_since(*START.get_or_init(Instant::now));
    DEADLINE_MS.store(now.as_millis() as u64 + 60_000, Relaxed);
}

/// Ends this program when an image has been looked at for a minute: a survivor that never returns is a failure too.
pub fn start_watchdog() {
    alive();
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = START.get_or_init(Instant::now).elapsed().as_millis() as u64;
            if now > DEADLINE_MS.load(Relaxed) {
                println!("stepkill: a survivor hangs (use -v and --op to find where)");
                std::process::exit(1);
            }
        }
    });
}
