//! Finding the files: private work, done outside any scope.
//!
//! Regular files below a directory, each once, in the order of their names. Symbolic links below it are not followed, devices,
//! sockets and pipes are skipped (as `grep -r` does). A directory that cannot be listed, or is gone, is reported.
//! **Rejected:** sorting the whole tree first: the first batches can be counted while the walk goes on.

use std::{
    fs, io,
    ops::Range,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use super::part::Problems;

/// Directories taken from the list for one step.
pub const DIRS_MAX: usize = 256;
/// Files after which a step ends.
const FILES_MAX: usize = 4096;
/// A batch's bytes, unless it is a single larger file.
const BATCH_BYTES: u64 = 2 << 20;
/// A batch's files.
const BATCH_FILES: usize = 256;

/// A regular file, as the walk saw it.
pub struct Found {
    /// Its path, as bytes.
    pub path: Vec<u8>,
    bytes: u64,
}

/// What a step of the walk has found.
#[derive(Default)]
pub struct Listing {
    /// Files, in order.
    pub files: Vec<Found>,
    /// Directories that could not be listed.
    pub unreadable: u64,
    /// The first of them.
    pub problems: Vec<String>,
}

/// Lists directories, the last of `pending` first, until there are enough files; what is left stays in `pending`.
pub fn list(pending: &mut Vec<Vec<u8>>) -> Listing {
    let mut listing = Listing::default();
    for _ in 0..DIRS_MAX {
        if listing.files.len() >= FILES_MAX {
            break;
        }
        let Some(dir) = pending.pop() else { break };
        if let Err(e) = list_one(&dir, pending, &mut listing) {
            listing.unreadable += 1;
            listing.problems.note(&dir, &e);
        }
    }
    listing
}

fn list_one(dir: &[u8], pending: &mut Vec<Vec<u8>>, listing: &mut Listing) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(Path::new(std::ffi::OsStr::from_bytes(dir)))? {
        let entry = entry?;
        entries.push((entry.file_name().into_vec(), entry));
    }
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let first_subdir = pending.len();
    for (name, entry) in entries {
        let path = joined(dir, &name);
        // Neither follows a link. Gone meanwhile: as if it had never been there.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            pending.push(path);
        } else if kind.is_file() {
            let bytes = entry.metadata().map_or(0, |m| m.len());
            listing.files.push(Found { path, bytes });
        }
    }
    // The last is listed next.
    pending[first_subdir..].reverse();
    Ok(())
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Cuts files into batches of bounded size.
pub fn batches(files: &[Found]) -> Vec<Range<u32>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, file) in files.iter().enumerate() {
        let full = bytes + file.bytes > BATCH_BYTES || i - start >= BATCH_FILES;
        if full && i > start {
            ranges.push(start as u32..i as u32);
            (start, bytes) = (i, 0);
        }
        bytes += file.bytes;
    }
    if start < files.len() {
        ranges.push(start as u32..files.len() as u32);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_all_files_in_order() {
        let files: Vec<Found> = [1u64 << 20, 1 << 20, 1, 9 << 20, 1, 1]
            .iter()
            .map(|&bytes| Found {
                path: Vec::new(),
                bytes,
            })
            .collect();
        assert_eq!(batches(&files), [0..2, 2..3, 3..4, 4..6]);
        assert!(batches(&[]).is_empty());
    }
}
