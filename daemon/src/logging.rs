//! Log lines: logfmt with a time, or journald's `<level>` prefix without.
//!
//! `ts=2026-01-02T03:04:05.678901Z lvl=warn ev=proc.dead p=1 pid=4102 msg="..."`. The event's name comes first in the
//! message, so one format string makes the whole line and env_logger writes it in one `write(2)`: lines of several
//! processes in one `O_APPEND` file do not tear.

use crate::config::{Config, LogFormat};
use std::io::Write;

/// Starts logging to standard error.
pub fn start(config: &Config) {
    let format = config.log_format.value;
    let started = env_logger::Builder::new()
        .filter_level(config.log_level.value)
        .format(move |out, record| match format {
            LogFormat::Logfmt => {
                let level = record.level().as_str().to_lowercase();
                writeln!(
                    out,
                    "ts={} lvl={level} {}",
                    out.timestamp_micros(),
                    record.args()
                )
            }
            LogFormat::Journald => writeln!(out, "<{}>{}", priority(record.level()), record.args()),
        })
        .try_init();
    if started.is_err() {
        log::debug!("ev=log.kept msg=\"a logger was there already\"");
    }
}

fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Writes to standard output in one piece; a reader that has gone away is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes one line to standard error in one piece: `eprintln!` is several writes, and those of two processes mix.
pub fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A value as logfmt writes it: bare if it is one plain word, quoted otherwise.
///
/// ```
/// use coheap_daemon::logging::value;
/// assert_eq!(value("memfd"), "memfd");
/// assert_eq!(value("two words"), "\"two words\"");
/// ```
pub fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !"\"=\\".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("{text:?}")
    }
}
