//! Reserving memory before it is used, and staying below the limits that answer with a kill instead of an error.
//!
//! A hole in a shared file is not memory: touching it when none is left is SIGBUS, even for a read. So every range is allocated
//! first (`fallocate`), where "none left" is an error value. A memory cgroup gives no error at all, it kills: its limit is read
//! before each step.

use std::{fs, os::fd::BorrowedFd, sync::OnceLock};

use nix::{errno::Errno, fcntl::FallocateFlags};

use crate::{Error, error::Result};

/// Left free below a cgroup's limit, for page tables, stacks and other programs' bursts.
const CGROUP_MARGIN_BYTES: u64 = 8 << 20;

/// Allocates a byte range of the file. Idempotent: what is allocated stays as it is.
///
/// # Errors
/// [`Error::NoMemory`] naming who refused.
pub(crate) fn reserve(fd: BorrowedFd<'_>, at: usize, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let refused = |reason: String| Error::NoMemory {
        need_bytes: bytes as u64,
        reason,
    };
    if let Some(room) = cgroup_room()
        && (bytes as u64) + CGROUP_MARGIN_BYTES > room
    {
        return Err(refused(format!(
            "the memory cgroup has {room} bytes left, and kills instead of refusing"
        )));
    }
    loop {
        return match nix::fcntl::fallocate(fd, FallocateFlags::empty(), at as i64, bytes as i64) {
            Ok(()) => Ok(()),
            Err(Errno::EINTR) => continue,
            Err(Errno::ENOSPC) => Err(refused("the file system behind the segment is full".into())),
            Err(Errno::ENOMEM) => Err(refused("the machine has no memory left".into())),
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

/// Files that hold limit and usage of this process's memory cgroup, version 2 or 1.
fn cgroup_files() -> Option<&'static (String, String)> {
    static FILES: OnceLock<Option<(String, String)>> = OnceLock::new();
    FILES
        .get_or_init(|| {
            let own = fs::read_to_string("/proc/self/cgroup").ok()?;
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                let (root, max, current) = match controllers {
                    "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
                    c if c.split(',').any(|c| c == "memory") => (
                        "/sys/fs/cgroup/memory",
                        "memory.limit_in_bytes",
                        "memory.usage_in_bytes",
                    ),
                    _ => return None,
                };
                let files = (
                    format!("{root}{path}/{max}"),
                    format!("{root}{path}/{current}"),
                );
                fs::metadata(&files.0).is_ok().then_some(files)
            })
        })
        .as_ref()
}

/// Bytes left below the memory cgroup's limit; `None` without a limit.
pub(crate) fn cgroup_room() -> Option<u64> {
    let (max, current) = cgroup_files()?;
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    // Version 1 says "no limit" with a number near 2^63.
    let max = number(max).filter(|&m| m < 1 << 60)?;
    Some(max.saturating_sub(number(current)?))
}
