//! Batches: reading and counting some files.
//!
//! A step reads up to [`STEP_BYTES`] outside the scope, in pieces of [`READ_BYTES`], and leaves one more [`Partial`]. Small batches
//! end in one step; a large file takes as many as it needs. A step ends at a word's border, so nothing but an offset is carried over.
//!
//! **If a process dies** the step's pieces are read again. **If a file changes meanwhile**: one that grows is read up to the end
//! found at the time; one that shrinks ends sooner; one that is gone, or is no regular file any more, is reported.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
};

use coheap::{Cx, Gc, GcStr, Next, Result, Shared, Slot, Step, Task};

use super::{
    FileChunk,
    part::{self, Partial, Problems, SHARDS},
    words::Counter,
};
use crate::workloads::{
    path_of,
    run::{self, Run, present},
};

/// Bytes after which a step ends, at the next word's border.
const STEP_BYTES: u64 = 4 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;

/// Some consecutive files of a chunk, and how far they have been read.
#[derive(Shared)]
pub struct Batch {
    /// Offset in the file `next_file`.
    offset: u64,
    next_file: u32,
    end_file: u32,
    run: Slot<Run>,
    chunk: Slot<FileChunk>,
    done: Slot<Partial>,
}

/// The context of a task for `files` of `chunk`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(
    cx: &'cx Cx<'_>,
    run: Gc<'_, Run>,
    chunk: Gc<'_, FileChunk>,
    files: Range<u32>,
) -> Result<Gc<'cx, Batch>> {
    let task = cx.alloc(Batch {
        offset: 0,
        next_file: files.start,
        end_file: files.end,
        run: Slot::nil(),
        chunk: Slot::nil(),
        done: Slot::nil(),
    })?;
    task.run.store(cx, Some(run));
    task.chunk.store(cx, Some(chunk));
    Ok(task)
}

impl Task for Batch {
    const KIND: &'static str = "index.batch";
    type Output = Partial;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        if present(cx.context().run.load(cx))?.is_cancelled() {
            return Ok(Next::Done(None));
        }
        let mut reading = Reading::of(cx)?;
        let shards = cx.outside(|| {
            reading.read();
            reading.counter.encode()
        });
        // Files were read, and nothing is known of it yet: a death here reads them again.
        #[cfg(feature = "failpoints")]
        coheap::failpoint::hit("index.batch");
        let cx = &*cx;
        let run = present(cx.context().run.load(cx))?;
        run::or_cancel(run, cx.is_last_try(), after(cx, &reading, &shards))
    }

    fn describe(&self, cx: &Cx<'_>) -> String {
        let path = (|| {
            let paths = self.chunk.load(cx)?.paths.load(cx)?;
            paths.as_slice().get(self.next_file as usize)?.load(cx)
        })();
        path.map_or(String::new(), |path| {
            let more = self.end_file - self.next_file - 1;
            format!("{:?} and {more} more files", path_of(path.as_bytes()))
        })
    }
}

/// What comes after the reading: the counts in the heap, and the files that are left.
fn after<'a>(
    cx: &'a Step<'_, Batch>,
    reading: &Reading,
    shards: &[Vec<u8>],
) -> Result<Next<'a, Batch>> {
    let me = cx.context();
    let partial = leave(cx, reading, shards)?;
    partial.next.store(cx, me.done.load(cx));
    let next_file = me.next_file + reading.finished as u32;
    if next_file >= me.end_file {
        return Ok(Next::Done(Some(partial)));
    }
    let next = cx.alloc(Batch {
        offset: reading.offset,
        next_file,
        end_file: me.end_file,
        run: Slot::nil(),
        chunk: Slot::nil(),
        done: Slot::nil(),
    })?;
    next.run.store(cx, me.run.load(cx));
    next.chunk.store(cx, me.chunk.load(cx));
    next.done.store(cx, Some(partial));
    Ok(Next::Continue(next))
}

/// Puts the counts into the heap.
fn leave<'cx>(cx: &'cx Cx<'_>, reading: &Reading, shards: &[Vec<u8>]) -> Result<Gc<'cx, Partial>> {
    let slots = cx.array::<Slot<GcStr>>(SHARDS)?;
    for (slot, bytes) in slots.iter().zip(shards) {
        if !bytes.is_empty() {
            slot.store(cx, Some(cx.str(bytes)?));
        }
    }
    let partial = cx.alloc(Partial {
        words: reading.counter.words(),
        unreadable: reading.unreadable,
        files: reading.read_to_end,
        shards: Slot::nil(),
        problems: Slot::nil(),
        next: Slot::nil(),
    })?;
    partial.shards.store(cx, Some(slots));
    partial
        .problems
        .store(cx, part::problems(cx, None, &reading.problems)?);
    Ok(partial)
}

/// The private half of a step.
struct Reading {
    /// Number and path of each file that is left.
    files: Vec<(u32, Vec<u8>)>,
    /// Of these, over.
    finished: usize,
    /// How far the next one has been read.
    offset: u64,
    left: u64,
    counter: Counter,
    read_to_end: u32,
    unreadable: u64,
    problems: Vec<String>,
}

impl Reading {
    fn of(cx: &Step<'_, Batch>) -> Result<Reading> {
        let me = cx.context();
        let chunk = present(me.chunk.load(cx))?;
        let paths = present(chunk.paths.load(cx))?;
        let mut files = Vec::new();
        for i in me.next_file..me.end_file {
            let path = present(paths[i as usize].load(cx))?;
            files.push((chunk.first + i, path.as_bytes().to_vec()));
        }
        Ok(Reading {
            files,
            finished: 0,
            offset: me.offset,
            left: STEP_BYTES,
            counter: Counter::default(),
            read_to_end: 0,
            unreadable: 0,
            problems: Vec::new(),
        })
    }

    /// Reads until the step has had its bytes, or all files are over.
    fn read(&mut self) {
        let mut buffer = vec![0; READ_BYTES];
        while self.finished < self.files.len() && self.left > 0 {
            let number = self.files[self.finished].0;
            let over = self.read_file(&mut buffer);
            self.counter.end_file(number);
            match over {
                Ok(false) => return,
                Ok(true) => self.read_to_end += 1,
                Err(e) => {
                    self.unreadable += 1;
                    self.problems.note(&self.files[self.finished].1, &e);
                }
            }
            self.finished += 1;
            self.offset = 0;
        }
    }

    /// Reads the next file from `offset` on; true at its end.
    fn read_file(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut file = open(&self.files[self.finished].1)?;
        if self.offset > 0 {
            file.seek(SeekFrom::Start(self.offset))?;
        }
        loop {
            let n = match file.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let piece = &buffer[..n];
            self.left = self.left.saturating_sub(n as u64);
            if let Some(end) = border(piece).filter(|_| self.left == 0) {
                self.counter.feed(&piece[..end]);
                self.offset += end as u64;
                return Ok(false);
            }
            self.counter.feed(piece);
            self.offset += n as u64;
        }
    }
}

/// One past the last byte that belongs to no word.
fn border(piece: &[u8]) -> Option<usize> {
    piece
        .iter()
        .rposition(|b| !b.is_ascii_alphabetic())
        .map(|i| i + 1)
}

/// Opens a regular file: not what a link points to, and without waiting for a pipe's other end.
fn open(path: &[u8]) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path_of(path))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file any more"));
    }
    Ok(file)
}
