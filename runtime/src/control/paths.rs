//! Where a heap lives in the file system: its socket, pid, lock and log; the heap itself has no path.
//!
//! | who | base directory |
//! |---|---|
//! | `$XDG_RUNTIME_DIR` is set | `$XDG_RUNTIME_DIR/coheap` |
//! | root without it | `/run/coheap` |
//! | anybody else without it | `/tmp/coheap-UID` |
//!
//! Below it one directory per name. Both are made 0700 and checked on every use: a real directory, ours, closed to
//! others. `/tmp` is everybody's, so a stranger may have been there first; then the answer is an error, not a socket.

use super::ControlError;
use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The longest path a socket address holds (108 bytes with its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// A heap's name, fit to be a file name.
///
/// ```
/// use coheap::control::Name;
/// assert_eq!("demo".parse::<Name>()?.to_string(), "demo");
/// assert!("../etc".parse::<Name>().is_err());
/// # Ok::<(), coheap::control::ControlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ControlError;
    fn from_str(text: &str) -> Result<Self, ControlError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let fits = (1..=32).contains(&text.len())
            && text.chars().all(plain)
            && !text.starts_with(['.', '-']);
        if fits {
            Ok(Name(text.into()))
        } else {
            Err(ControlError::BadName(text.into()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory all heaps of this user share, whether it exists or not.
pub fn base_dir() -> PathBuf {
    let uid = nix::unistd::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => dir.join("coheap"),
        _ if uid.is_root() => PathBuf::from("/run/coheap"),
        _ => PathBuf::from(format!("/tmp/coheap-{uid}")),
    }
}

/// Names of the heaps that have a directory, alive or not.
pub fn names() -> Vec<Name> {
    let Ok(entries) = fs::read_dir(base_dir()) else {
        return Vec::new();
    };
    let mut names: Vec<Name> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}

/// One heap's directory.
#[derive(Clone, Debug)]
pub struct RuntimeDir {
    name: Name,
    dir: PathBuf,
}

impl RuntimeDir {
    /// Where the heap of that name lives for this user. Touches nothing.
    pub fn of(name: &Name) -> Self {
        RuntimeDir {
            name: name.clone(),
            dir: base_dir().join(name.as_str()),
        }
    }

    /// The heap whose socket this is.
    pub fn of_socket(socket: &Path) -> Result<Self, ControlError> {
        let dir = socket.parent().unwrap_or(Path::new("/")).to_path_buf();
        let name = dir
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
            .parse()?;
        Ok(RuntimeDir { name, dir })
    }

    /// The heap's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The daemon's process number, for people and service managers; the lock is what counts.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("coheapd.pid")
    }

    /// Whoever holds its `flock` is the daemon.
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// What the next daemon needs to find the heap of one that was killed.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("state.toml")
    }

    /// Where a daemon in the background, and its workers, write.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("coheapd.log")
    }

    /// Fails if the socket's path does not fit into an address.
    pub fn check_length(&self) -> Result<(), ControlError> {
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            Err(ControlError::PathTooLong(socket))
        } else {
            Ok(())
        }
    }

    /// Makes the directory, 0700, with the one above it, and checks both.
    pub fn create(&self) -> Result<(), ControlError> {
        self.check_length()?;
        if let Some(base) = self.dir.parent() {
            make_private(base)?;
        }
        make_private(&self.dir)
    }

    /// Removes the directory and what a daemon left in it. Only the holder of the lock may.
    pub fn remove(&self) -> io::Result<()> {
        for file in [
            self.socket(),
            self.pid_file(),
            self.state_file(),
            self.state_file().with_extension("new"),
            self.log_file(),
            self.lock_file(),
        ] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs::remove_dir(&self.dir)?;
        if let Some(base) = self.dir.parent() {
            // Not empty while other heaps live; then it stays.
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }
}

fn make_private(dir: &Path) -> Result<(), ControlError> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    if let Err(e) = made
        && e.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(ControlError::io(format!(
            "cannot make the directory {}",
            dir.display()
        ))(e));
    }
    check_private(dir)
}

fn check_private(dir: &Path) -> Result<(), ControlError> {
    let found = fs::symlink_metadata(dir).map_err(ControlError::io(format!(
        "cannot look at {}",
        dir.display()
    )))?;
    let ours = nix::unistd::geteuid().as_raw();
    let why = if !found.is_dir() {
        "it is no directory".into()
    } else if found.uid() != ours {
        format!("it belongs to uid {}, not to {ours}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!(
            "its mode {:o} lets others in; 700 would not",
            found.mode() & 0o777
        )
    } else {
        return Ok(());
    };
    Err(ControlError::UnsafeDirectory {
        path: dir.into(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            ".x",
            "-x",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(33),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad} was taken");
        }
        for good in ["demo", "run-17", "a.b_c", &"x".repeat(32)] {
            assert!(good.parse::<Name>().is_ok(), "{good} was refused");
        }
    }

    #[test]
    fn a_directory_others_can_enter_is_refused() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let dir = RuntimeDir {
            name: Name("x".into()),
            dir: tmp.path().join("base/x"),
        };
        dir.create().expect("a fresh one is fine");
        dir.create().expect("and again");
        fs::set_permissions(dir.dir(), fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(matches!(
            dir.create(),
            Err(ControlError::UnsafeDirectory { .. })
        ));
        fs::remove_dir(dir.dir()).expect("rmdir");
        std::os::unix::fs::symlink(tmp.path(), dir.dir()).expect("symlink");
        assert!(matches!(
            dir.create(),
            Err(ControlError::UnsafeDirectory { .. })
        ));
    }

    #[test]
    fn a_path_longer_than_an_address_is_refused_with_its_length() {
        let dir = RuntimeDir {
            name: Name("x".into()),
            dir: PathBuf::from("/").join("d".repeat(120)),
        };
        assert!(
            dir.check_length()
                .expect_err("too long")
                .to_string()
                .contains("bytes long")
        );
    }

    #[test]
    fn removing_leaves_nothing() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let dir = RuntimeDir {
            name: Name("x".into()),
            dir: tmp.path().join("base/x"),
        };
        dir.create().expect("create");
        fs::write(dir.log_file(), "log").expect("write");
        dir.remove().expect("remove");
        assert!(!tmp.path().join("base").exists());
    }
}
