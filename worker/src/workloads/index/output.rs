//! Writing the index: `word<TAB>total<TAB>files`, sorted by bytes.
//!
//! A step merges the shards' next words into some hundred KiB of lines, hashes them, and appends them to a temporary file beside
//! the wanted one; the last step renames it. Without a wanted file only the hash is made.
//!
//! **If a process dies** after writing and before its step's commit, the next run of the step cuts the temporary file back to what
//! the context says; after renaming, it finds no temporary file and the wanted one of the right length. If everything dies, a file
//! `.NAME.coheap-RUN.tmp` stays; the same run, submitted to no heap any more, will not come back for it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use coheap::{Array, Cx, Error, Gc, Next, Result, Shared, Slot, Step, Task};

use super::{
    Index, Shard, Word, bytes_of,
    part::{self, SHARDS},
};
use crate::workloads::{
    FNV_START, fnv1a, path_of,
    run::{Outcome, Run, present},
};

/// Bytes of lines after which a step ends.
const STEP_BYTES: usize = 256 << 10;

/// How far the lines are written.
#[derive(Shared)]
pub struct Output {
    hash: u64,
    written: u64,
    words: u64,
    distinct: u64,
    run: Slot<Run>,
    index: Slot<Index>,
    /// Per shard: chunk, and word in it, of the next line (`chunk << 32 | word`).
    at: Slot<Array<u64>>,
}

/// The context of a task that writes `index`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(
    cx: &'cx Cx<'_>,
    run: Gc<'_, Run>,
    index: Gc<'_, Index>,
) -> Result<Gc<'cx, Output>> {
    let task = cx.alloc(Output {
        hash: FNV_START,
        written: 0,
        words: 0,
        distinct: 0,
        run: Slot::nil(),
        index: Slot::nil(),
        at: Slot::nil(),
    })?;
    task.run.store(cx, Some(run));
    task.index.store(cx, Some(index));
    task.at.store(cx, Some(cx.array::<u64>(SHARDS)?));
    Ok(task)
}

impl Task for Output {
    const KIND: &'static str = "index.output";
    type Output = Outcome;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let lines = Lines::of(cx)?;
        let target = Target::of(cx)?;
        let written = cx.context().written;
        if lines.text.is_empty() {
            if let Some(target) = target {
                cx.outside(|| target.finish(written))?;
            }
            return Ok(Next::Done(Some(outcome(cx)?)));
        }
        if let Some(target) = target {
            cx.outside(|| target.append(written, &lines.text))?;
        }
        let cx = &*cx;
        let me = cx.context();
        let next = cx.alloc(Output {
            hash: fnv1a(me.hash, &lines.text),
            written: me.written + lines.text.len() as u64,
            words: me.words + lines.words,
            distinct: me.distinct + lines.distinct,
            run: Slot::nil(),
            index: Slot::nil(),
            at: Slot::nil(),
        })?;
        next.run.store(cx, me.run.load(cx));
        next.index.store(cx, me.index.load(cx));
        next.at
            .store(cx, Some(cx.array_from_fn(SHARDS, |i| lines.at[i])?));
        Ok(Next::Continue(next))
    }

    fn describe(&self, cx: &Cx<'_>) -> String {
        let out = self.run.load(cx).and_then(|run| run.out.load(cx));
        out.map_or(String::new(), |out| {
            path_of(out.as_bytes()).display().to_string()
        })
    }
}

fn outcome<'a>(cx: &'a Step<'_, Output>) -> Result<Gc<'a, Outcome>> {
    let me = cx.context();
    cx.alloc(Outcome {
        hash: me.hash,
        words: me.words,
        distinct: me.distinct,
        ok: 1,
        ..Outcome::default()
    })
}

/// The lines of one step.
struct Lines {
    text: Vec<u8>,
    words: u64,
    distinct: u64,
    at: Vec<u64>,
}

impl Lines {
    fn of(cx: &Step<'_, Output>) -> Result<Lines> {
        let me = cx.context();
        let shards = present(present(me.index.load(cx))?.shards.load(cx))?;
        let from = present(me.at.load(cx))?;
        let mut lines = Lines {
            text: Vec::new(),
            words: 0,
            distinct: 0,
            at: from.iter().copied().collect(),
        };
        let mut heads = BinaryHeap::with_capacity(SHARDS);
        let mut next = Vec::with_capacity(SHARDS);
        for (i, slot) in shards.iter().enumerate() {
            let shard = present(slot.load(cx))?;
            next.push(shard);
            push_head(cx, &mut heads, shard, i, &mut lines.at[i])?;
        }
        while lines.text.len() < STEP_BYTES {
            let Some(Reverse((_, text, i))) = heads.pop() else {
                break;
            };
            let word = present(word_at(cx, next[i], lines.at[i])?)?;
            lines.add(text, word);
            lines.at[i] += 1;
            push_head(cx, &mut heads, next[i], i, &mut lines.at[i])?;
        }
        Ok(lines)
    }

    fn add(&mut self, text: &[u8], word: Gc<'_, Word>) {
        self.text.extend_from_slice(text);
        // Writing into a vector cannot fail.
        let _ = writeln!(self.text, "\t{}\t{}", word.total, word.files);
        self.words += word.total;
        self.distinct += 1;
    }
}

type Head<'cx> = Reverse<(u64, &'cx [u8], usize)>;

/// Enters the word at `at`, or at the begin of the next chunk, among the heads.
fn push_head<'cx>(
    cx: &'cx Cx<'_>,
    heads: &mut BinaryHeap<Head<'cx>>,
    shard: Gc<'cx, Shard>,
    i: usize,
    at: &mut u64,
) -> Result<()> {
    let mut word = word_at(cx, shard, *at)?;
    if word.is_none() {
        let next = ((*at >> 32) + 1) << 32;
        word = word_at(cx, shard, next)?;
        if word.is_some() {
            *at = next;
        }
    }
    if let Some(word) = word {
        let text = bytes_of(present(word.text.load(cx))?);
        heads.push(Reverse((part::prefix(text), text, i)));
    }
    Ok(())
}

fn word_at<'cx>(cx: &'cx Cx<'_>, shard: Gc<'cx, Shard>, at: u64) -> Result<Option<Gc<'cx, Word>>> {
    let chunks = present(shard.chunks.load(cx))?;
    let Some(slot) = chunks.as_slice().get((at >> 32) as usize) else {
        return Ok(None);
    };
    let words = present(present(slot.load(cx))?.words.load(cx))?;
    let Some(slot) = words.as_slice().get(at as u32 as usize) else {
        return Ok(None);
    };
    present(slot.load(cx)).map(Some)
}

/// The directory that `out` is in.
pub fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The file to be written, and the one that becomes it.
struct Target {
    out: PathBuf,
    temporary: PathBuf,
}

impl Target {
    fn of(cx: &Step<'_, Output>) -> Result<Option<Target>> {
        let run = present(cx.context().run.load(cx))?;
        Ok(run.out.load(cx).map(|out| {
            let out = path_of(out.as_bytes());
            let mut name = std::ffi::OsString::from(".");
            name.push(out.file_name().unwrap_or_default());
            name.push(format!(".coheap-{:016x}.tmp", run.id));
            Target {
                temporary: parent(&out).join(name),
                out,
            }
        }))
    }

    fn append(&self, written: u64, text: &[u8]) -> Result<()> {
        let append = || {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.temporary)?;
            file.set_len(written)?;
            file.write_all_at(text, written)
        };
        append().map_err(|e| self.give_up(e))
    }

    fn finish(&self, written: u64) -> Result<()> {
        if written == 0 {
            self.append(0, b"")?;
        }
        match self.rename() {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.was_renamed(written) => Ok(()),
            other => other.map_err(|e| self.give_up(e)),
        }
    }

    fn rename(&self) -> io::Result<()> {
        fs::File::open(&self.temporary)?.sync_all()?;
        fs::rename(&self.temporary, &self.out)
    }

    fn was_renamed(&self, written: u64) -> bool {
        fs::metadata(&self.out).is_ok_and(|m| m.len() == written)
    }

    /// The step fails, and with it the run: the temporary file goes.
    fn give_up(&self, e: io::Error) -> Error {
        let _ = fs::remove_file(&self.temporary);
        Error::os(format!("writing {}", self.out.display()), e)
    }
}
