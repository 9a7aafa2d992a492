//! `state.toml`: what the next daemon needs to find the heap of one that was killed.
//!
//! Written whole under another name and renamed, so a reader finds the old text or the new one. It is a hint: the
//! descriptor itself comes from a living worker, and the incarnation inside the segment decides whether it is the one.

use crate::error::DaemonError;
use coheap::control::RuntimeDir;
use serde::{Deserialize, Serialize};
use std::fs;

/// One worker as its daemon saw it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerState {
    /// Its process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: with the pid, an identity.
    pub started: u64,
    /// Whether a person stopped it (`coheap stop P`), so that it must stay so.
    #[serde(default)]
    pub held: bool,
}

/// What a daemon leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which life of the segment.
    pub incarnation: String,
    /// Where its memory comes from.
    pub backing: String,
    /// Workers wanted.
    pub wanted: u16,
    /// Whether systemd keeps the heap, so that it is there although nobody lives.
    #[serde(default)]
    pub stored: bool,
    /// Workers that lived when this was written.
    #[serde(default)]
    pub worker: Vec<WorkerState>,
}

impl State {
    /// Replaces the file.
    pub fn save(&self, dir: &RuntimeDir) -> Result<(), DaemonError> {
        let path = dir.state_file();
        let fresh = path.with_extension("new");
        let text = toml::to_string(self)
            .map_err(|e| DaemonError::io("cannot write the state")(std::io::Error::other(e)))?;
        fs::write(&fresh, text)
            .map_err(DaemonError::io(format!("cannot write {}", fresh.display())))?;
        fs::rename(&fresh, &path).map_err(DaemonError::io(format!(
            "cannot replace {}",
            path.display()
        )))
    }

    /// Reads what an earlier daemon left; `None` if it left nothing, or nothing that makes sense.
    pub fn load(dir: &RuntimeDir) -> Option<State> {
        toml::from_str(&fs::read_to_string(dir.state_file()).ok()?).ok()
    }

    /// The incarnation as a number; 0 is nobody's.
    pub fn incarnation(&self) -> u64 {
        u64::from_str_radix(self.incarnation.trim_start_matches("0x"), 16).unwrap_or(0)
    }

    /// Those of its workers that still live.
    pub fn living(&self) -> Vec<WorkerState> {
        self.worker
            .iter()
            .filter(|w| started(w.pid) == Some(w.started))
            .cloned()
            .collect()
    }
}

/// When a process started, in clock ticks since boot; `None` if there is none, or only its remains.
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and parentheses; the fields after the last one cannot.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_nobody() {
        let me = std::process::id();
        let born = started(me).expect("I live");
        let worker = |started| WorkerState {
            pid: me,
            started,
            held: false,
        };
        let state = State {
            incarnation: "0x2a".into(),
            backing: "memfd".into(),
            wanted: 1,
            stored: false,
            worker: vec![worker(born), worker(born + 1)],
        };
        assert_eq!(state.living(), [worker(born)]);
        assert_eq!(state.incarnation(), 42);
        assert_eq!(
            toml::from_str::<State>(&toml::to_string(&state).expect("writes")).expect("reads"),
            state
        );
    }
}
