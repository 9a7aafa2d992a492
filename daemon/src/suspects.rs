//! Workers that live and do nothing, because somebody stopped or froze them: suspects, never robbed.
//!
//! A stopped process keeps its P and whatever it was in the middle of; the end of a collection waits for it, the others do not. Being
//! stopped is no death, however long: `coheap ps` shows a suspect, and a person decides (`coheap cont P`, `coheap kill P`). With
//! `workers.suspect_timeout` the daemon decides after that time, and then by a kill: the kernel certifies the death, and the recovery
//! is that of any other. Nothing is ever taken from a process on the word of a clock.
//!
//! 1. [`why`] asks the kernel, at each question of a person; with a time-out also every [`look_every`]. 2. A worker found suspect is
//! remembered with the time, one that goes on is forgotten. 3. One that has been suspect at every look for the time-out is killed.
//!
//! Not suspect: whom this daemon stopped, for a person (`coheap stop P`: it is meant) or for a storm (it will be continued).

use crate::{server::Daemon, workers::Worker};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What keeps a process from going on, as the kernel tells; `None` when nothing does.
pub fn why(pid: u32) -> Option<&'static str> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    match state_of(&stat)? {
        'T' => Some("stopped"),
        't' => Some("traced"),
        'Z' | 'X' => None,
        _ => is_frozen(pid).then_some("frozen"),
    }
}

/// The state letter of a line of `/proc/PID/stat`. The command before it may hold parentheses.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether the process is in a frozen control group.
fn is_frozen(pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    is_frozen_below(&groups, Path::new("/sys/fs/cgroup"))
}

/// The same, from a process's `/proc/PID/cgroup` and where control groups are mounted. Version 2 says it in `cgroup.events`. The freezer
/// of version 1 says it in `freezer.state`, of a group below a frozen one too, and is still freezing until the last task of the group
/// has stopped.
fn is_frozen_below(groups: &str, root: &Path) -> bool {
    let says = |file: PathBuf, frozen: &[&str]| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| frozen.contains(&line.trim()))
    };
    let unified = group_of(groups, "").map(|group| root.join(group).join("cgroup.events"));
    // With both versions the second is mounted beside the controllers of the first.
    let hybrid =
        group_of(groups, "").map(|group| root.join("unified").join(group).join("cgroup.events"));
    let freezer = group_of(groups, "freezer")
        .map(|group| root.join("freezer").join(group).join("freezer.state"));
    unified.is_some_and(|file| says(file, &["frozen 1"]))
        || hybrid.is_some_and(|file| says(file, &["frozen 1"]))
        || freezer.is_some_and(|file| says(file, &["FROZEN", "FREEZING"]))
}

/// A process's control group below its hierarchy's root: the one with this controller, or the one of version 2, which names none. A
/// line is `number:controllers:path`, and a path may hold colons.
fn group_of(groups: &str, controller: &str) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers
            .split(',')
            .any(|c| c == controller)
            .then(|| path.trim_start_matches('/').to_owned())
    })
}

/// Time between two looks, for a time-out.
fn look_every(timeout: Duration) -> Duration {
    (timeout / 4).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

impl Worker {
    /// Why it is suspect, if it is. One that was stopped by this daemon's own order is not.
    pub fn suspicion(&self) -> Option<&'static str> {
        if self.stopped { None } else { why(self.pid) }
    }
}

impl Daemon {
    /// Looks for suspects, and kills those whose time is over.
    pub(crate) fn suspect_tick(&mut self, now: Instant) {
        let timeout = self.config.suspect_timeout.value;
        if timeout.is_zero() || self.stopping.is_some() || self.next_suspects > now {
            return;
        }
        self.next_suspects = now + look_every(timeout);
        for worker in self.crew.workers_mut().values_mut() {
            let Some(why) = worker.suspicion() else {
                worker.suspect_since = None;
                continue;
            };
            let (pid, p) = (worker.pid, worker.p.map_or("-".into(), |p| p.to_string()));
            match worker.suspect_since {
                None => {
                    worker.suspect_since = Some(now);
                    log::warn!("ev=proc.suspect p={p} pid={pid} why={why}");
                }
                Some(since) if now.duration_since(since) >= timeout && !worker.doomed => {
                    log::warn!(
                        "ev=proc.overdue p={p} pid={pid} why={why} ms={}",
                        now.duration_since(since).as_millis()
                    );
                    worker.kill();
                }
                Some(_) => {}
            }
        }
    }

    /// When [`Daemon::suspect_tick`] has to look next.
    pub(crate) fn suspects_due(&self) -> Option<Instant> {
        let looks = !self.config.suspect_timeout.value.is_zero() && self.stopping.is_none();
        looks.then_some(self.next_suspects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_child_is_suspect_and_a_continued_one_is_not() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .expect("starts");
        let pid = child.id();
        let signal = |signal| {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, signal).expect("sends");
        };
        let eventually = |wanted: Option<&str>| {
            let deadline = Instant::now() + Duration::from_secs(5);
            while why(pid) != wanted {
                assert!(Instant::now() < deadline, "never {wanted:?}");
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        eventually(None);
        signal(nix::sys::signal::Signal::SIGSTOP);
        eventually(Some("stopped"));
        signal(nix::sys::signal::Signal::SIGCONT);
        eventually(None);
        child.kill().expect("kills");
        eventually(None); // a zombie is dead, not suspect
        child.wait().expect("waits");
        assert_eq!(why(pid), None);
    }

    #[test]
    fn the_letter_is_found_behind_any_command() {
        assert_eq!(state_of("12 (a) T (b) S 1 2"), Some('S'));
        assert_eq!(state_of("12 (sleep) T 1 2"), Some('T'));
        assert_eq!(state_of("nonsense"), None);
    }

    #[test]
    fn the_group_is_the_one_that_can_be_frozen() {
        let groups = "4:cpu,cpuacct:/x\n3:freezer:/a:b/c\n1:name=systemd:/x\n0::/user.slice/a b\n";
        assert_eq!(group_of(groups, "").as_deref(), Some("user.slice/a b"));
        assert_eq!(group_of(groups, "freezer").as_deref(), Some("a:b/c"));
        assert_eq!(group_of("1:cpu:/x\n", ""), None);
        assert_eq!(group_of("1:cpu:/x\n", "freezer"), None);
    }

    #[test]
    fn frozen_groups_of_both_versions_are_seen() {
        let root = tempfile::tempdir().expect("a directory");
        let groups = "3:freezer:/jobs/one\n0::/two\n";
        let frozen = || is_frozen_below(groups, root.path());
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            fs::write(path, text).expect("writes");
        };
        assert!(!frozen());
        write("freezer/jobs/one/freezer.state", "THAWED\n");
        write("two/cgroup.events", "populated 1\nfrozen 0\n");
        assert!(!frozen());
        for state in ["FROZEN\n", "FREEZING\n"] {
            write("freezer/jobs/one/freezer.state", state);
            assert!(frozen(), "{state}");
        }
        write("freezer/jobs/one/freezer.state", "THAWED\n");
        write("two/cgroup.events", "populated 1\nfrozen 1\n");
        assert!(frozen());
        write("two/cgroup.events", "populated 1\nfrozen 0\n");
        write("unified/two/cgroup.events", "frozen 1\n");
        assert!(frozen());
    }
}
