//! Merging: one shard of all partials becomes sorted words with postings.
//!
//! A step opens a cursor in every partial's string at the position that the context says, takes the smallest word of all,
//! joins its postings, and puts it into the heap, until it has read [`STEP_BYTES`]; then the cursors' positions are the next context.
//! Partials are in the order of their files, and equal words are taken in the order of their partials, so postings ascend; the pieces
//! of a large file follow each other and become one posting.
//! **Rejected:** a hash map per shard: the words would have to be sorted for the output, and the strings are sorted already.

use std::{cmp::Reverse, collections::BinaryHeap};

use coheap::{Array, Cx, Gc, Next, Result, Shared, Slot, Step, Task};

use super::{
    Batches, Chunk, Shard, Word,
    part::{self, Partial, Reader, Record},
};
use crate::workloads::run::{self, Run, present};

/// Bytes of strings after which a step ends.
const STEP_BYTES: usize = 128 << 10;

/// A shard, and how far it is merged.
#[derive(Shared)]
pub struct Merge {
    words: u64,
    distinct: u64,
    shard: u32,
    chunks: u32,
    run: Slot<Run>,
    batches: Slot<Batches>,
    /// Position in each partial's string; none at the start.
    at: Slot<Array<u32>>,
    /// Words merged so far, newest chunk first.
    done: Slot<Chunk>,
}

/// The context of a task for shard number `shard`.
///
/// # Errors
/// Those of an allocation.
pub(super) fn task<'cx>(
    cx: &'cx Cx<'_>,
    run: Gc<'_, Run>,
    batches: Option<Gc<'_, Batches>>,
    shard: u32,
) -> Result<Gc<'cx, Merge>> {
    let task = cx.alloc(Merge {
        words: 0,
        distinct: 0,
        shard,
        chunks: 0,
        run: Slot::nil(),
        batches: Slot::nil(),
        at: Slot::nil(),
        done: Slot::nil(),
    })?;
    task.run.store(cx, Some(run));
    task.batches.store(cx, batches);
    Ok(task)
}

impl Task for Merge {
    const KIND: &'static str = "index.merge";
    type Output = Shard;

    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let run = present(cx.context().run.load(cx))?;
        if run.is_cancelled() {
            return Ok(Next::Done(None));
        }
        run::or_cancel(run, cx.is_last_try(), merge_on(cx))
    }

    fn describe(&self, _cx: &Cx<'_>) -> String {
        format!("shard {}", self.shard)
    }
}

fn merge_on<'a>(cx: &'a Step<'_, Merge>) -> Result<Next<'a, Merge>> {
    let me = cx.context();
    let partials = part::in_order(cx, me.batches.load(cx))?;
    let mut cursors = Cursors::open(cx, &partials, me)?;
    let merged = cursors.merge(cx)?;
    let next = cx.alloc(Merge {
        words: me.words + merged.total,
        distinct: me.distinct + merged.words.len() as u64,
        shard: me.shard,
        chunks: me.chunks + u32::from(!merged.words.is_empty()),
        run: Slot::nil(),
        batches: Slot::nil(),
        at: Slot::nil(),
        done: Slot::nil(),
    })?;
    next.done.store(cx, chunk(cx, me, &merged)?);
    if cursors.heads.is_empty() {
        return Ok(Next::Done(Some(finish(cx, next)?)));
    }
    next.run.store(cx, me.run.load(cx));
    next.batches.store(cx, me.batches.load(cx));
    next.at.store(cx, Some(cursors.positions(cx)?));
    Ok(Next::Continue(next))
}

/// The step's words as one more chunk.
fn chunk<'cx>(
    cx: &'cx Cx<'_>,
    me: Gc<'cx, Merge>,
    merged: &Merged<'cx>,
) -> Result<Option<Gc<'cx, Chunk>>> {
    if merged.words.is_empty() {
        return Ok(me.done.load(cx));
    }
    let words = cx.array::<Slot<Word>>(merged.words.len())?;
    for (slot, &word) in words.iter().zip(&merged.words) {
        slot.store(cx, Some(word));
    }
    let chunk = cx.alloc(Chunk {
        words: Slot::nil(),
        before: Slot::nil(),
    })?;
    chunk.words.store(cx, Some(words));
    chunk.before.store(cx, me.done.load(cx));
    Ok(Some(chunk))
}

fn finish<'cx>(cx: &'cx Cx<'_>, merged: Gc<'cx, Merge>) -> Result<Gc<'cx, Shard>> {
    let chunks = cx.array::<Slot<Chunk>>(merged.chunks as usize)?;
    let mut at = merged.done.load(cx);
    for slot in chunks.iter().rev() {
        let chunk = present(at)?;
        slot.store(cx, at);
        at = chunk.before.load(cx);
    }
    let shard = cx.alloc(Shard {
        words: merged.words,
        distinct: merged.distinct,
        chunks: Slot::nil(),
    })?;
    shard.chunks.store(cx, Some(chunks));
    Ok(shard)
}

/// What a step has merged.
struct Merged<'cx> {
    total: u64,
    words: Vec<Gc<'cx, Word>>,
}

/// The smallest word of a cursor: sorted by its first bytes, the word, and the partial.
type Head<'b> = Reverse<(u64, &'b [u8], usize)>;

struct Cursors<'b> {
    readers: Vec<Reader<'b>>,
    records: Vec<Option<Record<'b>>>,
    /// Where each goes on, when its record has been taken.
    ends: Vec<u32>,
    heads: BinaryHeap<Head<'b>>,
}

impl<'b> Cursors<'b> {
    fn open(
        cx: &'b Cx<'_>,
        partials: &[Gc<'b, Partial>],
        me: Gc<'b, Merge>,
    ) -> Result<Cursors<'b>> {
        let at = me.at.load(cx);
        let mut cursors = Cursors {
            readers: Vec::with_capacity(partials.len()),
            records: Vec::with_capacity(partials.len()),
            ends: Vec::with_capacity(partials.len()),
            heads: BinaryHeap::with_capacity(partials.len()),
        };
        for (i, partial) in partials.iter().enumerate() {
            let shard = present(partial.shards.load(cx))?[me.shard as usize].load(cx);
            let bytes = shard.map_or(&[][..], |s| s.to_ref().as_bytes());
            let from = at.map_or(0, |at| at[i]);
            cursors.readers.push(Reader::new(bytes, from as usize));
            cursors.records.push(None);
            cursors.ends.push(bytes.len() as u32);
            cursors.advance(i);
        }
        Ok(cursors)
    }

    fn advance(&mut self, i: usize) {
        self.records[i] = self.readers[i].next_word();
        if let Some(record) = self.records[i] {
            let head = (part::prefix(record.word), record.word, i);
            self.heads.push(Reverse(head));
        }
    }

    fn merge(&mut self, cx: &'b Cx<'_>) -> Result<Merged<'b>> {
        let mut merged = Merged {
            total: 0,
            words: Vec::new(),
        };
        let (mut read, mut encoded) = (0, Vec::new());
        while read < STEP_BYTES {
            let Some(&Reverse((_, word, _))) = self.heads.peek() else {
                break;
            };
            let mut joined = Joined::new(&mut encoded);
            while let Some(&Reverse((_, same, i))) = self.heads.peek() {
                if same != word {
                    break;
                }
                self.heads.pop();
                if let Some(record) = self.records[i] {
                    read += record.word.len() + record.postings.len();
                    part::postings(record.postings).for_each(|p| joined.add(p));
                }
                self.advance(i);
            }
            let (total, files) = joined.end();
            merged.total += total;
            merged.words.push(put(cx, word, total, files, &encoded)?);
        }
        Ok(merged)
    }

    fn positions<'cx>(&self, cx: &'cx Cx<'_>) -> Result<Gc<'cx, Array<u32>>> {
        cx.array_from_fn(self.records.len(), |i| {
            self.records[i].map_or(self.ends[i], |r| r.at as u32)
        })
    }
}

fn put<'cx>(
    cx: &'cx Cx<'_>,
    text: &[u8],
    total: u64,
    files: u32,
    postings: &[u8],
) -> Result<Gc<'cx, Word>> {
    let word = cx.alloc(Word {
        total,
        files,
        text: Slot::nil(),
        postings: Slot::nil(),
    })?;
    word.text.store(cx, Some(cx.str(text)?));
    word.postings.store(cx, Some(cx.str(postings)?));
    Ok(word)
}

/// Postings of one word, encoded anew as they come.
struct Joined<'e> {
    encoded: &'e mut Vec<u8>,
    last: Option<(u32, u64)>,
    before: u32,
    total: u64,
    files: u32,
}

impl<'e> Joined<'e> {
    fn new(encoded: &'e mut Vec<u8>) -> Joined<'e> {
        encoded.clear();
        Joined {
            encoded,
            last: None,
            before: 0,
            total: 0,
            files: 0,
        }
    }

    fn add(&mut self, (file, count): (u32, u64)) {
        self.total += count;
        match &mut self.last {
            Some((last, sum)) if *last == file => *sum += count,
            _ => {
                self.put_last();
                self.last = Some((file, count));
            }
        }
    }

    fn put_last(&mut self) {
        if let Some((file, count)) = self.last.take() {
            part::put_number(self.encoded, u64::from(file - self.before));
            part::put_number(self.encoded, count);
            self.before = file;
            self.files += 1;
        }
    }

    fn end(mut self) -> (u64, u32) {
        self.put_last();
        (self.total, self.files)
    }
}
