//! Being *the* daemon of a name: the lock, the pid file, the socket.
//!
//! 1. Open `lock`, `flock` it exclusively without waiting. Held by another: say its pid, give up.
//! 2. Compare the locked inode with the path: the previous daemon removes the file while it holds the lock, so a lock on
//!    a nameless file is worth nothing. Different: from the top.
//! 3. Write the pid into `lock` and `coheapd.pid`, remove a stale socket, listen.
//!
//! **If the daemon dies** after any step, the kernel drops the lock and the next one starts at step 1. If it dies while it starts a
//! worker, the worker's process holds the lock for a moment, from the fork to the exec: a lock whose recorded holder is dead is
//! waited for ([`HEIR_PATIENCE`]). A storm found that.
//!
//! **Rejected:** trusting the pid file (a reused pid is a stranger); `bind` as the lock (the stale file must be removed
//! first, and two daemons can each remove the other's).

use super::{ControlError, Listener, RuntimeDir};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    time::{Duration, Instant},
};

/// How long to wait for a lock that the child of a dead daemon holds.
const HEIR_PATIENCE: Duration = Duration::from_secs(2);

/// The right to be the daemon of a name, for as long as this value lives.
pub struct Instance {
    dir: RuntimeDir,
    _lock: Flock<File>,
}

/// Whether a daemon holds the lock of this heap right now.
pub fn is_running(dir: &RuntimeDir) -> bool {
    let Ok(file) = OpenOptions::new().read(true).open(dir.lock_file()) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// The pid of the daemon that wrote the lock last.
pub fn recorded_pid(dir: &RuntimeDir) -> Option<u32> {
    fs::read_to_string(dir.lock_file())
        .ok()?
        .trim()
        .parse()
        .ok()
}

impl Instance {
    /// Becomes the daemon of this heap, or says which process is.
    pub fn acquire(dir: RuntimeDir) -> Result<Instance, ControlError> {
        let deadline = Instant::now() + HEIR_PATIENCE;
        // Each round lost means another daemon of this name ended in between; four in a row do not happen by accident.
        let mut rounds = 0;
        while rounds < 4 {
            dir.create().inspect_err(|_| remove_empty(&dir))?;
            match lock_named(&dir) {
                Ok(Some(lock)) => {
                    let mut instance = Instance { dir, _lock: lock };
                    return match instance.write_pid() {
                        Ok(()) => Ok(instance),
                        Err(error) => {
                            forsake(&instance.dir);
                            Err(error)
                        }
                    };
                }
                Ok(None) => rounds += 1,
                Err(ControlError::AlreadyRunning { .. })
                    if !holder_lives(&dir) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => {
                    remove_empty(&dir);
                    return Err(error);
                }
            }
        }
        Err(already_running(&dir))
    }

    /// The right to clean up after a dead daemon: its lock, while nobody else has it and something is left. The recorded pid stays the
    /// dead one's, so that a daemon that starts meanwhile waits for us.
    pub fn of_the_dead(dir: RuntimeDir) -> Option<Instance> {
        if !dir.lock_file().exists() || holder_lives(&dir) {
            return None;
        }
        let lock = lock_named(&dir).ok().flatten()?;
        Some(Instance { dir, _lock: lock })
    }

    fn write_pid(&mut self) -> Result<(), ControlError> {
        let pid = format!("{}\n", std::process::id());
        let write = |file: &mut File| {
            file.set_len(0)
                .and_then(|()| file.write_all(pid.as_bytes()))
        };
        write(&mut self._lock).map_err(ControlError::io("cannot write the pid into the lock"))?;
        fs::write(self.dir.pid_file(), &pid).map_err(ControlError::io("cannot write coheapd.pid"))
    }

    /// The directory.
    pub fn dir(&self) -> &RuntimeDir {
        &self.dir
    }

    /// Listens on the control socket, replacing a dead daemon's.
    pub fn listen(&self) -> Result<Listener, ControlError> {
        match fs::remove_file(self.dir.socket()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ControlError::io("cannot remove the stale control socket")(
                    e,
                ));
            }
            _ => {}
        }
        Listener::bind(&self.dir.socket())
    }

    /// Removes everything with a name, then lets go of the lock.
    pub fn remove(self) -> Result<(), ControlError> {
        self.dir.remove().map_err(ControlError::io(format!(
            "cannot remove {}",
            self.dir.dir().display()
        )))
    }
}

/// What a daemon that cannot begin has made goes with it; what another has left for its heir stays. By the holder of the lock.
fn forsake(dir: &RuntimeDir) {
    if !dir.state_file().exists() {
        // An error would be the second one: the first is told.
        let _ = dir.remove();
    }
}

/// Directories that nothing is in yet.
fn remove_empty(dir: &RuntimeDir) {
    for dir in [Some(dir.dir()), dir.dir().parent()].into_iter().flatten() {
        let _ = fs::remove_dir(dir);
    }
}

/// Does the process live that wrote the lock last? One that has not written yet is taken for alive.
fn holder_lives(dir: &RuntimeDir) -> bool {
    recorded_pid(dir).is_none_or(|pid| crate::life::process_exists(pid, 0))
}

fn already_running(dir: &RuntimeDir) -> ControlError {
    let pid = recorded_pid(dir).map_or("unknown".into(), |p| p.to_string());
    ControlError::AlreadyRunning {
        name: dir.name().to_string(),
        pid,
    }
}

/// The locked file, or `None` if it lost its name meanwhile.
fn lock_named(dir: &RuntimeDir) -> Result<Option<Flock<File>>, ControlError> {
    let path = dir.lock_file();
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(ControlError::io(format!("cannot open {}", path.display()))(
                e,
            ));
        }
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(already_running(dir)),
        Err((_, e)) => return Err(ControlError::io("cannot lock the lock file")(e.into())),
    };
    let ours = lock.metadata().map_err(|e| {
        forsake(dir);
        ControlError::io("cannot look at the lock")(e)
    })?;
    let ours = ours.ino();
    let named = fs::symlink_metadata(&path).map(|m| m.ino()).ok();
    Ok((named == Some(ours)).then_some(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(tmp: &tempfile::TempDir) -> RuntimeDir {
        RuntimeDir::of_socket(&tmp.path().join("base/demo/control.sock")).expect("a name")
    }

    #[test]
    fn a_second_daemon_of_a_name_is_refused_and_told_the_first_ones_pid() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let first = Instance::acquire(dir(&tmp)).expect("first");
        assert!(is_running(&dir(&tmp)));
        let refused = Instance::acquire(dir(&tmp))
            .err()
            .expect("second is refused");
        assert_eq!(refused.exit_code(), 75);
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string()),
            "{refused}"
        );
        first.remove().expect("remove");
        assert!(!is_running(&dir(&tmp)));
    }

    #[test]
    fn a_lock_that_the_child_of_a_dead_daemon_still_holds_is_waited_for() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let held = Instance::acquire(dir(&tmp)).expect("first");
        // The pid of a process that has ended and was waited for.
        let mut ended = std::process::Command::new("true").spawn().expect("starts");
        ended.wait().expect("ends");
        fs::write(dir(&tmp).lock_file(), format!("{}\n", ended.id())).expect("writes");
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        let heir = Instance::acquire(dir(&tmp)).expect("the heir");
        child.join().expect("ends");
        assert_eq!(recorded_pid(heir.dir()), Some(std::process::id()));
    }

    #[test]
    fn a_lock_left_by_a_dead_daemon_is_taken() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let first = Instance::acquire(dir(&tmp)).expect("first");
        let stale = first.listen().expect("listens");
        drop((stale, first)); // as a kill does: nothing is removed
        assert!(dir(&tmp).socket().exists());
        Instance::acquire(dir(&tmp))
            .expect("taken")
            .listen()
            .expect("the stale socket is replaced");
    }
}
