//! `index`: how often each word stands in the files below a directory, and in which files.
//!
//! A word is a maximal run of ASCII letters, lowercased, in the raw bytes of a regular file: what
//! `LC_ALL=C grep -rohaE '[A-Za-z]+' DIR | tr A-Z a-z` prints.
//!
//! 1. [`IndexTask`] walks the directories, some thousand files a step ([`walk`]), enters the paths into the file table, and spawns a
//!    [`batch::Batch`] for every few MiB. 2. A batch reads its files outside the scope, in bounded pieces, counts in private memory
//!    ([`words`]), and leaves a [`part::Partial`]: per shard one string of encoded postings. 3. When all batches are over, one
//!    [`merge::Merge`] per shard makes a sorted [`Shard`] of them, objects per word. 4. The [`Index`] of all shards is published under the
//!    root `index`. 5. [`output::Output`] merges the shards into lines, hashes them, and writes them.
//!
//! **Invariants.** I1: results travel only as results of tasks, through joins; so what a killed step had counted is counted once.
//! I2: files are numbered in the order in which the walk commits them; every list of postings ascends. I3: private memory is
//! bounded by the batch (and by the longest word), never by the size of a file.
//! **If a process dies** its step runs again from the last context: a directory is listed again, a piece of a file is read again, the
//! output file is cut back to what the context says is written.
//! **Rejected:** one shared map that all batches count into: a batch that runs again would count twice. Counting by byte ranges of
//! one file in parallel: a file's words must be counted as one file, so ranges would have to meet anyway.

pub mod batch;
pub mod merge;
pub mod output;
pub mod part;
pub mod walk;
pub mod words;

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Release},
};

use coheap::{
    Array, Cx, Error, Gc, GcStr, Join, JoinRef, Kinds, Next, Result, Shared, Slot, Step, Task,
};

use self::{
    batch::Batch,
    merge::Merge,
    output::Output,
    part::{Partial, Problem, SHARDS},
};
use super::{
    path_of, progress,
    run::{self, Outcome, Run, present},
};

/// The merged index: lives under the root `index` until the next one replaces it.
#[derive(Shared)]
pub struct Index {
    /// Regular files found.
    pub files: u32,
    pad: u32,
    /// Words in all.
    pub words: u64,
    /// Different words.
    pub distinct: u64,
    /// Paths, newest chunk first.
    pub paths: Slot<FileChunk>,
    /// By [`words::shard_of`].
    pub shards: Slot<Array<Slot<Shard>>>,
}

/// Paths of consecutive files.
#[derive(Shared)]
pub struct FileChunk {
    /// Number of the first.
    pub first: u32,
    /// The paths.
    pub paths: Slot<Array<Slot<GcStr>>>,
    /// The chunk before this one.
    pub next: Slot<FileChunk>,
}

/// The words of one shard, sorted.
#[derive(Shared)]
pub struct Shard {
    /// Words counted.
    pub words: u64,
    /// Different words.
    pub distinct: u64,
    /// Ascending; none is empty.
    pub chunks: Slot<Array<Slot<Chunk>>>,
}

/// Some words of a shard, sorted.
#[derive(Shared)]
pub struct Chunk {
    /// The words.
    pub words: Slot<Array<Slot<Word>>>,
    /// While the shard is being made: the chunk before this one.
    pub before: Slot<Chunk>,
}

/// A word and where it stands.
#[derive(Shared)]
pub struct Word {
    /// How often, in all files.
    pub total: u64,
    /// In how many files.
    pub files: u32,
    /// The word.
    pub text: Slot<GcStr>,
    /// Files and counts, encoded: see [`part::postings`].
    pub postings: Slot<GcStr>,
}

/// The postings of `word` in the index under the root `index`, as (path, count), in the order of the file table.
///
/// ```
/// use coheap::*;
/// let mut p = P::lease(Segment::create(&Default::default())?)?;
/// assert!(p.enter(|cx| coheap_worker::workloads::index::lookup(cx, b"grey"))?.is_none());
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Those of [`Cx::root`].
pub fn lookup(cx: &Cx<'_>, word: &[u8]) -> Result<Option<Vec<(std::path::PathBuf, u64)>>> {
    let found = (|| {
        let index = cx.root::<Index>("index").ok()?.get(cx)?;
        let shard = index.shards.load(cx)?[words::shard_of(words::hash(word))].load(cx)?;
        let word = find_word(cx, shard, word)?;
        let postings = word.postings.load(cx)?;
        Some(
            part::postings(postings.as_bytes())
                .filter_map(|(file, count)| Some((path(cx, index, file)?, count)))
                .collect(),
        )
    })();
    Ok(found)
}

fn find_word<'cx>(cx: &'cx Cx<'_>, shard: Gc<'_, Shard>, word: &[u8]) -> Option<Gc<'cx, Word>> {
    let chunks = shard.chunks.load(cx)?;
    let first_of = |c: &Slot<Chunk>| text_of(cx, c.load(cx)?.words.load(cx)?[0].load(cx)?);
    let after = chunks
        .as_slice()
        .partition_point(|c| first_of(c).is_some_and(|first| first <= word));
    let chunk = chunks.as_slice()[after.checked_sub(1)?].load(cx)?;
    let words = chunk.words.load(cx)?;
    let at = words
        .as_slice()
        .binary_search_by(|w| w.load(cx).and_then(|w| text_of(cx, w)).cmp(&Some(word)))
        .ok()?;
    words[at].load(cx)
}

fn text_of<'cx>(cx: &'cx Cx<'_>, word: Gc<'cx, Word>) -> Option<&'cx [u8]> {
    word.text.load(cx).map(bytes_of)
}

/// The bytes of a string, for as long as the scope lasts.
fn bytes_of<'cx>(s: Gc<'cx, GcStr>) -> &'cx [u8] {
    s.to_ref().as_bytes()
}

/// Path of file number `file`.
pub fn path(cx: &Cx<'_>, index: Gc<'_, Index>, file: u32) -> Option<std::path::PathBuf> {
    let mut chunk = index.paths.load(cx)?;
    while chunk.first > file {
        chunk = chunk.next.load(cx)?;
    }
    let path = chunk.paths.load(cx)?[(file - chunk.first) as usize].load(cx)?;
    Some(path_of(path.as_bytes()))
}

/// Adds the kinds of this workload.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .with::<IndexTask>()
        .with::<Batch>()
        .with::<Merge>()
        .with::<Output>()
}

/// Joins of the batches of one step of the walk.
#[derive(Shared)]
pub(super) struct Batches {
    joins: Slot<Array<Slot<Join<Partial>>>>,
    /// Those of the step before.
    next: Slot<Batches>,
}

/// A directory still to be listed.
#[derive(Shared)]
struct PendingDir {
    path: Slot<GcStr>,
    next: Slot<PendingDir>,
}

/// The root task of an index.
#[derive(Shared, Default)]
pub struct IndexTask {
    stage: AtomicU32,
    files: AtomicU32,
    unreadable: AtomicU64,
    run: Slot<Run>,
    dirs: Slot<PendingDir>,
    paths: Slot<FileChunk>,
    batches: Slot<Batches>,
    problems: Slot<Problem>,
    merges: Slot<Array<Slot<Join<Shard>>>>,
    index: Slot<Index>,
    output: Slot<Join<Outcome>>,
}

mod stage {
    pub const WALK: u32 = 0;
    pub const COUNT: u32 = 1;
    pub const MERGE: u32 = 2;
    pub const WRITE: u32 = 3;
}

/// The context of the root task of `run`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(cx: &'cx Cx<'_>, run: Gc<'_, Run>) -> Result<Gc<'cx, IndexTask>> {
    let task = cx.alloc(IndexTask::default())?;
    let first = cx.alloc(PendingDir {
        path: Slot::nil(),
        next: Slot::nil(),
    })?;
    first.path.store(cx, run.dir.load(cx));
    task.dirs.store(cx, Some(first));
    task.run.store(cx, Some(run));
    Ok(task)
}

impl Task for IndexTask {
    const KIND: &'static str = "index";
    type Output = Outcome;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let stage = cx.context().stage.load(Acquire);
        if stage == stage::WALK {
            return walk_on(cx);
        }
        let cx = &*cx;
        let waits_for = match stage {
            stage::COUNT => batches_over(cx)?,
            stage::MERGE => merges_over(cx)?,
            _ => output_over(cx)?,
        };
        match waits_for {
            Wait::For(join) => Ok(Next::Join(cx.context(), join)),
            Wait::Failed(what) => Ok(Next::Done(run::cancel(cx, the_run(cx)?, what)?)),
            Wait::Over => match stage {
                stage::COUNT => spawn_merges(cx),
                stage::MERGE => publish(cx),
                _ => finish(cx),
            },
        }
    }

    fn describe(&self, cx: &Cx<'_>) -> String {
        let dir = self.run.load(cx).and_then(|run| run.dir.load(cx));
        dir.map_or(String::new(), |dir| {
            path_of(dir.as_bytes()).display().to_string()
        })
    }
}

/// What a stage that waits for tasks finds.
enum Wait<'a> {
    For(JoinRef<'a>),
    Failed(&'static str),
    Over,
}

fn the_run<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Gc<'a, Run>> {
    present(cx.context().run.load(cx))
}

/// A copy of the present context, to be changed before it becomes the next one.
fn copy<'a>(cx: &'a Step<'_, IndexTask>, stage: u32) -> Result<Gc<'a, IndexTask>> {
    let me = cx.context();
    let next = cx.alloc(IndexTask::default())?;
    next.stage.store(stage, Release);
    next.files.store(me.files.load(Acquire), Release);
    next.unreadable.store(me.unreadable.load(Acquire), Release);
    next.run.store(cx, me.run.load(cx));
    next.dirs.store(cx, me.dirs.load(cx));
    next.paths.store(cx, me.paths.load(cx));
    next.batches.store(cx, me.batches.load(cx));
    next.problems.store(cx, me.problems.load(cx));
    next.merges.store(cx, me.merges.load(cx));
    next.index.store(cx, me.index.load(cx));
    next.output.store(cx, me.output.load(cx));
    Ok(next)
}

/// Lists some directories, enters their files, spawns batches for them.
fn walk_on<'a>(cx: &'a mut Step<'_, IndexTask>) -> Result<Next<'a, IndexTask>> {
    let (mut pending, left) = take_dirs(cx)?;
    let found = cx.outside(|| walk::list(&mut pending));
    let cx = &*cx;
    let me = cx.context();
    let next = copy(cx, stage::WALK)?;
    let mut rest = dirs_after(cx, left)?;
    for path in &pending {
        let dir = cx.alloc(PendingDir {
            path: Slot::nil(),
            next: Slot::nil(),
        })?;
        dir.path.store(cx, Some(cx.str(path)?));
        dir.next.store(cx, rest);
        rest = Some(dir);
    }
    next.dirs.store(cx, rest);
    let problems = part::problems(cx, me.problems.load(cx), &found.problems)?;
    next.problems.store(cx, problems);
    let unreadable = me.unreadable.load(Acquire) + found.unreadable;
    next.unreadable.store(unreadable, Release);
    if !found.files.is_empty() {
        enter_files(cx, next, &found.files)?;
    }
    if rest.is_none() {
        next.stage.store(stage::COUNT, Release);
    }
    let files = next.files.load(Acquire);
    cx.segment().progress_set(progress::TOTAL, files.into());
    Ok(Next::Continue(next))
}

/// Directories for one step, from the head of the list: their paths, and how many were taken.
fn take_dirs(cx: &Step<'_, IndexTask>) -> Result<(Vec<Vec<u8>>, usize)> {
    let mut taken = Vec::new();
    let mut at = cx.context().dirs.load(cx);
    while let Some(dir) = at.filter(|_| taken.len() < walk::DIRS_MAX) {
        taken.push(present(dir.path.load(cx))?.as_bytes().to_vec());
        at = dir.next.load(cx);
    }
    // `walk::list` takes the last first.
    taken.reverse();
    let n = taken.len();
    Ok((taken, n))
}

/// The list behind the `n` directories that were taken.
fn dirs_after<'a>(cx: &'a Step<'_, IndexTask>, n: usize) -> Result<Option<Gc<'a, PendingDir>>> {
    let mut at = cx.context().dirs.load(cx);
    for _ in 0..n {
        at = present(at)?.next.load(cx);
    }
    Ok(at)
}

/// Enters files into the table, and spawns batches for them.
fn enter_files<'a>(
    cx: &'a Step<'_, IndexTask>,
    next: Gc<'a, IndexTask>,
    files: &[walk::Found],
) -> Result<()> {
    let first = next.files.load(Acquire);
    let after = u32::try_from(files.len())
        .ok()
        .and_then(|n| first.checked_add(n));
    let after = after.ok_or_else(|| Error::Task {
        what: "more than 4,294,967,295 files: index a part of the directory".into(),
    })?;
    let paths = cx.array::<Slot<GcStr>>(files.len())?;
    for (slot, file) in paths.iter().zip(files) {
        slot.store(cx, Some(cx.str(&file.path)?));
    }
    let chunk = cx.alloc(FileChunk {
        first,
        paths: Slot::nil(),
        next: Slot::nil(),
    })?;
    chunk.paths.store(cx, Some(paths));
    chunk.next.store(cx, next.paths.load(cx));
    next.paths.store(cx, Some(chunk));
    next.files.store(after, Release);
    spawn_batches(cx, next, chunk, files)
}

fn spawn_batches<'a>(
    cx: &'a Step<'_, IndexTask>,
    next: Gc<'a, IndexTask>,
    chunk: Gc<'a, FileChunk>,
    files: &[walk::Found],
) -> Result<()> {
    let ranges = walk::batches(files);
    let joins = cx.array::<Slot<Join<Partial>>>(ranges.len())?;
    for (slot, range) in joins.iter().zip(ranges) {
        let batch = batch::task(cx, the_run(cx)?, chunk, range)?;
        slot.store(cx, Some(cx.spawn_join(batch)?));
    }
    let batches = cx.alloc(Batches {
        joins: Slot::nil(),
        next: Slot::nil(),
    })?;
    batches.joins.store(cx, Some(joins));
    batches.next.store(cx, next.batches.load(cx));
    next.batches.store(cx, Some(batches));
    Ok(())
}

/// Looks at all batches, and tells the progress they have made.
fn batches_over<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Wait<'a>> {
    let (mut open, mut files, mut words) = (None, 0, 0);
    let mut at = cx.context().batches.load(cx);
    while let Some(batches) = at {
        for slot in present(batches.joins.load(cx))?.iter() {
            let join = present(slot.load(cx))?;
            if !join.is_over() {
                open = Some(join);
                continue;
            }
            // Over without a result: failed, or cancelled because another has failed.
            let mut part = join.result(cx);
            if part.is_none() {
                return Ok(Wait::Failed("a batch of files was given up"));
            }
            while let Some(p) = part {
                files += u64::from(p.files);
                words += p.words;
                part = p.next.load(cx);
            }
        }
        at = batches.next.load(cx);
    }
    cx.segment().progress_set(progress::DONE, files);
    cx.segment().progress_set(progress::ITEMS, words);
    Ok(open.map_or(Wait::Over, |join| Wait::For(join.to_join())))
}

fn spawn_merges<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Next<'a, IndexTask>> {
    let me = cx.context();
    let next = copy(cx, stage::MERGE)?;
    let joins = cx.array::<Slot<Join<Shard>>>(SHARDS)?;
    for (shard, slot) in joins.iter().enumerate() {
        let merge = merge::task(cx, the_run(cx)?, me.batches.load(cx), shard as u32)?;
        slot.store(cx, Some(cx.spawn_join(merge)?));
    }
    next.merges.store(cx, Some(joins));
    Ok(Next::Continue(next))
}

fn merges_over<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Wait<'a>> {
    for slot in present(cx.context().merges.load(cx))?.iter() {
        let join = present(slot.load(cx))?;
        if !join.is_over() {
            return Ok(Wait::For(join.to_join()));
        }
        if join.result(cx).is_none() {
            return Ok(Wait::Failed("merging a shard was given up"));
        }
    }
    Ok(Wait::Over)
}

/// All shards are there: the index is published, the writer spawned; the partials become garbage.
fn publish<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Next<'a, IndexTask>> {
    let me = cx.context();
    let shards = cx.array::<Slot<Shard>>(SHARDS)?;
    let (mut words, mut distinct) = (0, 0);
    for (to, from) in shards.iter().zip(present(me.merges.load(cx))?.iter()) {
        let shard = present(present(from.load(cx))?.result(cx))?;
        words += shard.words;
        distinct += shard.distinct;
        to.store(cx, Some(shard));
    }
    let index = cx.alloc(Index {
        files: me.files.load(Acquire),
        pad: 0,
        words,
        distinct,
        paths: Slot::nil(),
        shards: Slot::nil(),
    })?;
    index.paths.store(cx, me.paths.load(cx));
    index.shards.store(cx, Some(shards));
    cx.set_root(cx.root::<Index>("index")?, Some(index))?;
    let join = cx.spawn_join(output::task(cx, the_run(cx)?, index)?)?;
    let next = copy(cx, stage::WRITE)?;
    let summary = sum_up(cx)?;
    next.unreadable.store(summary.unreadable, Release);
    next.files.store(summary.files_read, Release);
    next.problems.store(cx, summary.problems);
    next.batches.store(cx, None);
    next.merges.store(cx, None);
    next.index.store(cx, Some(index));
    next.output.store(cx, Some(join));
    Ok(Next::Join(next, join.to_join()))
}

/// What the partials say besides words.
struct Summary<'a> {
    files_read: u32,
    unreadable: u64,
    problems: Option<Gc<'a, Problem>>,
}

fn sum_up<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Summary<'a>> {
    let me = cx.context();
    let mut sum = Summary {
        files_read: 0,
        unreadable: me.unreadable.load(Acquire),
        problems: me.problems.load(cx),
    };
    for partial in part::in_order(cx, me.batches.load(cx))? {
        sum.files_read += partial.files;
        sum.unreadable += partial.unreadable;
        for problem in part::oldest_first(cx, partial.problems.load(cx)) {
            sum.problems = part::add_problem(cx, sum.problems, problem.text.load(cx))?;
        }
    }
    Ok(sum)
}

fn output_over<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Wait<'a>> {
    let join = present(cx.context().output.load(cx))?;
    Ok(if join.has_failed() {
        Wait::Failed("writing the result was given up")
    } else if join.is_over() {
        Wait::Over
    } else {
        Wait::For(join.to_join())
    })
}

fn finish<'a>(cx: &'a Step<'_, IndexTask>) -> Result<Next<'a, IndexTask>> {
    let me = cx.context();
    let written = present(present(me.output.load(cx))?.result(cx))?;
    let index = present(me.index.load(cx))?;
    let outcome = cx.alloc(Outcome {
        files: me.files.load(Acquire).into(),
        words: index.words,
        distinct: index.distinct,
        hash: written.hash,
        unreadable: me.unreadable.load(Acquire),
        // Lines written and words merged were counted apart.
        ok: u32::from(written.words == index.words && written.distinct == index.distinct),
        ..Outcome::default()
    })?;
    outcome.problems.store(
        cx,
        Some(cx.str(part::problem_text(cx, me.problems.load(cx)))?),
    );
    cx.segment().progress_set(progress::ITEMS, index.words);
    Ok(Next::Done(Some(outcome)))
}
