//! Reserving memory before it is used, and staying below the limits that answer with a kill instead of an error.
//!
//! A hole in a shared file is not memory: touching it when none is left is SIGBUS, even for a read. So every range is allocated
//! first (`fallocate`), where "none left" is an error value. A memory cgroup gives no error at all, it kills: its limit is read
//! before each step.

use std::{
    fmt, fs,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{OnceLock, atomic::Ordering::Relaxed},
};

use shm_layout::sync::AtomicU64;

use nix::{errno::Errno, fcntl::FallocateFlags};

use crate::{Error, error::Result};

/// Left free below a cgroup's limit, for page tables, stacks and other programs' bursts.
const CGROUP_MARGIN_BYTES: u64 = 8 << 20;

/// Who refused memory below the heap's own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A memory cgroup has this many bytes left.
    Cgroup(u64),
    /// The file system behind the segment.
    FileSystem,
    /// The machine.
    Machine,
}

impl Refusal {
    /// As a word of the segment, never 0.
    fn word(self) -> u64 {
        match self {
            Refusal::Cgroup(room) => room << 2 | 1,
            Refusal::FileSystem => 2,
            Refusal::Machine => 3,
        }
    }

    fn from_word(word: u64) -> Option<Refusal> {
        match word & 3 {
            0 => None,
            1 => Some(Refusal::Cgroup(word >> 2)),
            2 => Some(Refusal::FileSystem),
            _ => Some(Refusal::Machine),
        }
    }

    fn error(self, need_bytes: usize) -> Error {
        Error::NoMemory {
            need_bytes: need_bytes as u64,
            reason: self.to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Cgroup(room) => write!(
                f,
                "the memory cgroup has {room} bytes left, and kills instead of refusing"
            ),
            Refusal::FileSystem => f.write_str("the file system behind the segment is full"),
            Refusal::Machine => f.write_str("the machine has no memory left"),
        }
    }
}

/// Allocates a byte range of the file. Idempotent: what is allocated stays as it is.
///
/// # Errors
/// [`Error::NoMemory`] naming who refused.
pub(crate) fn reserve(fd: BorrowedFd<'_>, at: usize, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let answer = match room_for(bytes) {
        Ok(()) => allocate(fd, at, bytes)?,
        refused => refused,
    };
    answer.map_err(|refusal| refusal.error(bytes))
}

/// A reservation of several ranges: who refuses is noted in the segment, as a step that fails for want of memory may find no room for an
/// error of its own.
pub(crate) struct Noted<'s> {
    pub note: &'s AtomicU64,
    pub fd: BorrowedFd<'s>,
}

impl Noted<'_> {
    /// Is there room for `bytes` more where nothing is refused, but programs killed?
    pub fn ask_room(&self, bytes: usize) -> Result<()> {
        self.note(room_for(bytes), bytes)
    }

    /// Allocates a range that there is room for.
    pub fn allocate(&self, at: usize, bytes: usize) -> Result<()> {
        self.note(allocate(self.fd, at, bytes)?, bytes)
    }

    fn note(&self, answer: Answer, bytes: usize) -> Result<()> {
        let word = answer.map_or_else(Refusal::word, |()| 0);
        self.note.store(word, Relaxed);
        answer.map_err(|refusal| refusal.error(bytes))
    }
}

/// Who refused the last growth, in words; `None` when it succeeded.
pub(crate) fn noted(note: &AtomicU64) -> Option<String> {
    Refusal::from_word(note.load(Relaxed)).map(|refusal| refusal.to_string())
}

/// Memory, or who refused it.
type Answer = std::result::Result<(), Refusal>;

fn room_for(bytes: usize) -> Answer {
    match cgroup_room() {
        Some(room) if bytes as u64 + CGROUP_MARGIN_BYTES > room => Err(Refusal::Cgroup(room)),
        _ => Ok(()),
    }
}

fn allocate(fd: BorrowedFd<'_>, at: usize, bytes: usize) -> Result<Answer> {
    loop {
        return match nix::fcntl::fallocate(fd, FallocateFlags::empty(), at as i64, bytes as i64) {
            Ok(()) => Ok(Ok(())),
            Err(Errno::EINTR) => continue,
            Err(Errno::ENOSPC) => Ok(Err(Refusal::FileSystem)),
            Err(Errno::ENOMEM) => Ok(Err(Refusal::Machine)),
            Err(e) => Err(Error::os(
                format!("reserving {bytes} bytes of the segment"),
                e,
            )),
        };
    }
}

/// Gives a byte range back to the kernel; it must be [`reserve`]d again before use.
pub(crate) fn release(fd: BorrowedFd<'_>, at: usize, bytes: usize) -> Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(fd, flags, at as i64, bytes as i64)
        .map_err(|e| Error::os(format!("giving back {bytes} bytes of the segment"), e))
}

/// One memory cgroup, version 2 or 1: its limit applies to everything below it.
struct Group {
    max: PathBuf,
    current: PathBuf,
    stat: PathBuf,
    /// Line of `stat` with the bytes of files that the kernel drops before it kills.
    reclaimable: &'static str,
}

impl Group {
    /// Bytes left below the limit; `None` without a limit.
    fn room(&self) -> Option<u64> {
        let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        // Version 1 says "no limit" with a number near 2^63, version 2 with a word.
        let max = number(&self.max).filter(|&m| m < 1 << 60)?;
        let used = number(&self.current)?.saturating_sub(self.reclaimable());
        Some(max.saturating_sub(used))
    }

    fn reclaimable(&self) -> u64 {
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let mut words = stat.split_whitespace();
        words.find(|&word| word == self.reclaimable);
        words.next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

/// This process's memory cgroup and those above it.
fn cgroups() -> &'static [Group] {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        own.lines().flat_map(groups_of).collect()
    })
}

/// The groups that a line `id:controllers:path` names, from the innermost out.
fn groups_of(line: &str) -> Vec<Group> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (root, max, current, reclaimable) = match controllers {
        "" => (
            "/sys/fs/cgroup",
            "memory.max",
            "memory.current",
            "inactive_file",
        ),
        c if c.split(',').any(|c| c == "memory") => (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
        _ => return Vec::new(),
    };
    let innermost = Path::new(root).join(path.trim_start_matches('/'));
    innermost
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .map(|dir| Group {
            max: dir.join(max),
            current: dir.join(current),
            stat: dir.join("memory.stat"),
            reclaimable,
        })
        .filter(|group| group.max.exists())
        .collect()
}

/// Bytes left below the limit of the tightest memory cgroup that this process is in, what the kernel would drop first not counted;
/// `None` without a limit.
///
/// ```
/// if let Some(room) = coheap::segment::cgroup_room() {
///     println!("{room} bytes until the kernel kills");
/// }
/// ```
pub fn cgroup_room() -> Option<u64> {
    cgroups().iter().filter_map(Group::room).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_drop_counts_as_room() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("writes");
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        write(
            "memory.stat",
            "anon 100\ninactive_file 300\nactive_file 500\n",
        );
        let group = Group {
            max: dir.path().join("memory.max"),
            current: dir.path().join("memory.current"),
            stat: dir.path().join("memory.stat"),
            reclaimable: "inactive_file",
        };
        assert_eq!(group.room(), Some(400));
        write("memory.max", "max\n");
        assert_eq!(group.room(), None);
        write("memory.max", "9223372036854771712\n");
        assert_eq!(group.room(), None);
    }

    #[test]
    fn a_refusal_fits_into_its_word() {
        for refusal in [
            Refusal::Cgroup(0),
            Refusal::Cgroup(1 << 40),
            Refusal::FileSystem,
            Refusal::Machine,
        ] {
            assert_eq!(Refusal::from_word(refusal.word()), Some(refusal));
        }
        assert_eq!(Refusal::from_word(0), None);
    }

    #[test]
    fn other_controllers_have_no_memory_limit() {
        assert!(groups_of("3:cpu,cpuacct:/x").is_empty());
        assert!(groups_of("nonsense").is_empty());
    }
}
