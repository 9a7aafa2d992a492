//! Who else had the processors: the programs and kernel threads that are not ours, by the kernel's account of the main thread of each
//! (`/proc/PID/schedstat`). What their other threads do, and programs that begin and end within a window, are missed: such a window
//! counts as ours alone.
//!
//! A machine has its own work to do, and a window in which another program takes one of two processors for milliseconds says nothing
//! about a kill. Such windows are told apart by what the others did, never by how long the gap was, and named.

use std::{collections::HashMap, fs};

/// So much processor time of others makes a window shared, in nanoseconds.
pub const SHARED: u64 = 1_000_000;

/// Processor time of every process that is not ours, and what the host took from us.
pub struct Others {
    used_ns: HashMap<u32, u64>,
    stolen: u64,
}

impl Others {
    /// As it is now. `ours`: processes that do not count; the calling one never does.
    pub fn now(ours: &[u32]) -> Others {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let used_ns = pids
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id() && !ours.contains(pid))
            .filter_map(|pid| Some((pid, used_ns(pid)?)))
            .collect();
        Others {
            used_ns,
            stolen: stolen(),
        }
    }

    /// Who has used the most since `before`, if all together have used more than [`SHARED`].
    pub fn since(&self, before: &Others) -> Option<String> {
        if self.stolen > before.stolen {
            return Some("the host".into());
        }
        let used: Vec<(u32, u64)> = self
            .used_ns
            .iter()
            .map(|(pid, ns)| (*pid, ns - before.used_ns.get(pid).unwrap_or(ns).min(ns)))
            .collect();
        let all: u64 = used.iter().map(|u| u.1).sum();
        let most = used.iter().max_by_key(|u| u.1)?;
        (all > SHARED).then(|| name(most.0))
    }
}

/// Nanoseconds on a processor, of a process's main thread.
fn used_ns(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn name(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A kernel thread's number says nothing: `kworker/1:2-events` is a kworker.
    let name = comm
        .trim()
        .split(['/', '.', ':'])
        .next()
        .unwrap_or_default();
    if name.is_empty() {
        "gone".into()
    } else {
        name.into()
    }
}

/// Ticks that the host has taken from all processors.
fn stolen() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = text.lines().next().unwrap_or_default();
    all.split_whitespace()
        .nth(8)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(used: &[(u32, u64)], stolen: u64) -> Others {
        Others {
            used_ns: used.iter().copied().collect(),
            stolen,
        }
    }

    #[test]
    fn a_window_is_shared_with_who_used_the_most() {
        let me = std::process::id();
        let before = others(&[(me, 5), (1, 7)], 3);
        assert_eq!(others(&[(me, 5), (1, SHARED + 7)], 3).since(&before), None);
        let shared = others(&[(me, SHARED), (1, 20)], 3).since(&before);
        assert_eq!(shared, Some(name(me)));
        assert_eq!(
            others(&[(me, 5)], 4).since(&before).as_deref(),
            Some("the host")
        );
    }

    #[test]
    fn who_comes_later_counts_from_then_on() {
        let before = others(&[], 0);
        assert_eq!(others(&[(1, 50 * SHARED)], 0).since(&before), None);
    }

    #[test]
    fn this_process_and_those_named_do_not_count() {
        let all = Others::now(&[]);
        assert!(!all.used_ns.contains_key(&std::process::id()));
        assert!(
            all.used_ns
                .contains_key(&std::os::unix::process::parent_id())
        );
        let fewer = Others::now(&[std::os::unix::process::parent_id()]);
        assert!(
            !fewer
                .used_ns
                .contains_key(&std::os::unix::process::parent_id())
        );
    }
}
