//! Where the segment's bytes live: an anonymous sealed memory file, a named POSIX segment, or a file.
//!
//! **memfd** is the default: it has no name, so nothing stays after a kill; it is sealed against shrinking, so nobody can turn the
//! others' accesses into SIGBUS. **shm:NAME** goes through the `shared_memory` crate for create, open and unlink; that crate
//! neither reserves memory nor shows its descriptor, so both are done beside it. **file:PATH** serves hugetlbfs and DAX.
//! **If the owner of a named segment dies** the name stays; `coheap start` finds it unlocked and removes or adopts it.

use std::{
    fmt,
    fs::OpenOptions,
    mem::ManuallyDrop,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    str::FromStr,
};

use nix::{
    fcntl::{FcntlArg, OFlag, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::shm_open,
        stat::{Mode, fstat},
    },
    unistd::ftruncate,
};
use shared_memory::{Shmem, ShmemConf, ShmemError};

use crate::{Error, error::Result};

/// What a segment's memory is made of.
///
/// ```
/// use coheap::segment::Backing;
/// assert_eq!("memfd".parse::<Backing>().unwrap(), Backing::Memfd);
/// assert_eq!("shm:demo".parse::<Backing>().unwrap().to_string(), "shm:demo");
/// assert!("tape".parse::<Backing>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Backing {
    /// Sealed anonymous memory, passed by descriptor.
    #[default]
    Memfd,
    /// A named POSIX segment in `/dev/shm`.
    Shm(String),
    /// A file: hugetlbfs, DAX, or any other file system.
    File(PathBuf),
}

impl FromStr for Backing {
    type Err = Error;
    fn from_str(s: &str) -> Result<Backing> {
        match s.split_once(':') {
            None if s == "memfd" => Ok(Backing::Memfd),
            Some(("shm", name)) if !name.is_empty() && !name.contains('/') && name.len() < 200 => {
                Ok(Backing::Shm(name.to_owned()))
            }
            Some(("file", path)) if !path.is_empty() => Ok(Backing::File(path.into())),
            _ => Err(Error::Invalid {
                what: format!("backing {s:?} is none of memfd, shm:NAME (no slash), file:PATH"),
            }),
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::Memfd => f.write_str("memfd"),
            Backing::Shm(name) => write!(f, "shm:{name}"),
            Backing::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// What this process must undo when it gives the segment up in order.
pub(super) enum Owned {
    /// Nothing: the kernel frees the memory with the last descriptor.
    Nothing,
    /// Unlink the name.
    #[expect(dead_code, reason = "held for its drop")]
    Shm(ShmemOwner),
    /// Remove the file.
    File(PathBuf),
}

/// The `shared_memory` crate's owner of a name. Its own view of the segment is never touched: ours is mapped from the descriptor.
pub(super) struct ShmemOwner(ManuallyDrop<Shmem>, (u64, u64));

// `Shmem` is not `Send` for the raw pointer of its view, which nobody uses; moving the owner between threads moves only the duty
// to unlink. SAFETY: see above: no method that touches the view is called on it.
#[expect(unsafe_code, reason = "moves the duty to unlink a name, not the view")]
mod send {
    // SAFETY: the view's pointer is never dereferenced; drop only unmaps, unlinks and closes, which any thread may do.
    unsafe impl Send for super::ShmemOwner {}
    // SAFETY: there is no method on a shared reference.
    unsafe impl Sync for super::ShmemOwner {}
}

impl Drop for ShmemOwner {
    fn drop(&mut self) {
        // Unlink only what is still ours: somebody may have removed the name and made another of the same.
        if named_identity(self.0.get_os_id()) != Some(self.1) {
            self.0.set_owner(false);
        }
        #[expect(unsafe_code, reason = "ends the crate's owner, once")]
        // SAFETY: `self.0` is not used again: this is the drop of its only holder.
        unsafe {
            ManuallyDrop::drop(&mut self.0);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Owned::File(path) = self {
            // Gone already is as good as removed.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn named_identity(os_id: &str) -> Option<(u64, u64)> {
    let path = PathBuf::from("/dev/shm").join(os_id.trim_start_matches('/'));
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// A new, empty file of `bytes` (sparse), and what to undo.
pub(super) fn make(backing: &Backing, name: &str, bytes: usize) -> Result<(OwnedFd, Owned)> {
    match backing {
        Backing::Memfd => make_memfd(name, bytes),
        Backing::Shm(id) => make_shm(id, bytes),
        Backing::File(path) => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            let file = file.map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Error::Exists {
                    what: format!("segment file {}", path.display()),
                },
                _ => Error::os(format!("creating segment file {}", path.display()), e),
            })?;
            let owned = Owned::File(path.clone());
            file.set_len(bytes as u64)
                .map_err(|e| Error::os(format!("sizing {} to {bytes} bytes", path.display()), e))?;
            Ok((file.into(), owned))
        }
    }
}

fn make_memfd(name: &str, bytes: usize) -> Result<(OwnedFd, Owned)> {
    let label = std::ffi::CString::new(format!("coheap:{name}")).map_err(|_| Error::Invalid {
        what: "a heap's name holds no zero byte".into(),
    })?;
    let fd = memfd_create(
        label.as_c_str(),
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .map_err(|e| Error::os("creating memfd", e))?;
    // The kernel makes it 0777; descriptors can be reopened through /proc by others of the same uid only if the mode lets them.
    nix::sys::stat::fchmod(fd.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|e| Error::os("restricting memfd", e))?;
    ftruncate(fd.as_fd(), bytes as i64)
        .map_err(|e| Error::os(format!("sizing memfd to {bytes} bytes"), e))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(|e| Error::os("sealing memfd", e))?;
    Ok((fd, Owned::Nothing))
}

fn make_shm(id: &str, bytes: usize) -> Result<(OwnedFd, Owned)> {
    let made = ShmemConf::new().size(bytes).os_id(id).create();
    let shmem = made.map_err(|e| match e {
        ShmemError::MappingIdExists => Error::Exists {
            what: format!("shared memory segment {id}"),
        },
        e => Error::os(
            format!("creating shared memory segment {id}"),
            std::io::Error::other(e.to_string()),
        ),
    })?;
    let fd = open_shm_fd(id)?;
    let stat = fstat(fd.as_fd()).map_err(|e| Error::os("stat of the segment", e))?;
    let identity = (stat.st_dev, stat.st_ino);
    let owner = ShmemOwner(ManuallyDrop::new(shmem), identity);
    if named_identity(id) != Some(identity) {
        return Err(Error::Busy {
            what: format!("somebody replaced shared memory segment {id} while it was being made"),
        });
    }
    Ok((fd, Owned::Shm(owner)))
}

fn open_shm_fd(id: &str) -> Result<OwnedFd> {
    shm_open(id, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| match e {
        nix::errno::Errno::ENOENT => Error::NotRunning {
            what: format!("shared memory segment {id}"),
        },
        e => Error::os(format!("opening shared memory segment {id}"), e),
    })
}

/// The descriptor of a named segment that somebody else made. The crate's `open` checks that it is one that can be mapped.
pub(super) fn open_named(id: &str) -> Result<OwnedFd> {
    let fd = open_shm_fd(id)?;
    match ShmemConf::new().os_id(id).open() {
        Ok(shmem) => drop(shmem),
        Err(e) => {
            return Err(Error::os(
                format!("mapping shared memory segment {id}"),
                std::io::Error::other(e.to_string()),
            ));
        }
    }
    Ok(fd)
}
