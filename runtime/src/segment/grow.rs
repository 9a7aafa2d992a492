//! Growth and pages: which chunks have memory, which pages are free.
//!
//! Primary: the chunk words (who is committing a chunk, which are ready) and the span words (who has a page). Derived: the page
//! bits, one per page, set while the page is free in a ready chunk.
//!
//! **Commit a chunk**: reserve its memory and its share of the tables; claim its word by compare-exchange; set its page bits; say
//! ready. Two processes may reserve the same chunk at the same time, which is harmless; the word decides who sets the bits. Who has time
//! reserves before anybody needs it, piece by piece.
//! **Claim pages**: say so in the intent word; clear their bits (one compare-exchange within a word, several for large runs);
//! put the claimer's name into the first page's span word; fill the record; clear the intent.
//! **Give pages back**: intent; first page's word to `FREEING`; the other words free; the first free; set the bits; clear.
//!
//! **If the owner dies** in between, [`settle_pages`] decides from the first page's word: named after the dead, all goes back;
//! otherwise exactly the pages whose bits are clear, whose words are free and which no other P's intent covers are lost, and
//! their bits are set. **Rejected:** a lock around the page heap: its holder may be stopped for minutes.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm_layout::{
    CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES,
    word::{IntentWord, JobWord, Owner, ProcWord, SpanWord},
};

use super::{Segment, limits};
use crate::{Error, error::Result, failpoint, planted, twin};

/// States of a chunk word; the word is a `JobWord` with these states.
pub(crate) mod chunk {
    pub const ABSENT: u8 = 0;
    pub const COMMITTING: u8 = 1;
    pub const READY: u8 = 2;
    pub const RELEASING: u8 = 3;
    pub const RELEASED: u8 = 4;
}

/// Bytes of a chunk's memory that are reserved at once by who does it ahead: some 10 microseconds. (Where the machine is a guest, and its host has to
/// find the memory, 2 MiB may take it milliseconds whoever asks first.)
pub(crate) const PIECE_BYTES: usize = 64 << 10;
const _: () = assert!(CHUNK_BYTES.is_multiple_of(PIECE_BYTES));

/// What has been reserved of a chunk that nobody has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    chunk: usize,
    /// From its beginning.
    bytes: usize,
}

impl Segment {
    /// Commits more chunks: as many as `need_pages` takes, at least one. No more: an allocation waits, a millisecond for each.
    pub(crate) fn grow(&self, need_pages: usize, me: Owner) -> Result<()> {
        let step = need_pages.div_ceil(CHUNK_PAGES).max(1);
        let mut made = 0;
        for c in 0..self.geo.chunks {
            if made == step {
                break;
            }
            let word = JobWord(self.chunk_words[c].load(Acquire));
            if has_no_memory(word) {
                match self.commit_chunk(c, word, me) {
                    Ok(()) => made += 1,
                    // Something is better than nothing: the step was only a wish.
                    Err(_) if made > 0 => break,
                    Err(e) => return Err(e),
                }
            }
        }
        if made == 0 {
            self.hdr.stats.growth_refused.store(0, Relaxed);
            Err(self.heap_full((need_pages * PAGE_BYTES) as u64))
        } else {
            Ok(())
        }
    }

    /// Reserves the next piece of the next chunk's memory, going on where `last` ended; with the last piece the chunk is committed. Returns what has been
    /// reserved of a chunk; `None` when that one is committed, by whomever.
    ///
    /// Pieces are no state: several processes may go through the same chunk, and whoever comes to a piece that is there has it for nothing.
    pub(crate) fn grow_by_a_piece(&self, last: Option<Piece>, me: Owner) -> Result<Option<Piece>> {
        let word = |c: usize| JobWord(self.chunk_words[c].load(Acquire));
        let mut piece = match last {
            Some(piece) if !has_no_memory(word(piece.chunk)) => return Ok(None),
            Some(piece) => piece,
            None => self.next_chunk()?,
        };
        let was = word(piece.chunk);
        let (at, bytes) = self.geo.chunk_ranges(piece.chunk)[0];
        self.noted().allocate(at + piece.bytes, PIECE_BYTES)?;
        failpoint!("grow.piece");
        piece.bytes += PIECE_BYTES;
        if piece.bytes < bytes {
            return Ok(Some(piece));
        }
        self.commit_with_room(piece.chunk, was, me).map(|()| None)
    }

    /// The next chunk without memory, if there is room for it.
    fn next_chunk(&self) -> Result<Piece> {
        let mut words = self.chunk_words.iter();
        let Some(chunk) = words.position(|w| has_no_memory(JobWord(w.load(Acquire)))) else {
            return Err(self.heap_full(CHUNK_BYTES as u64));
        };
        self.ask_room(chunk)?;
        Ok(Piece { chunk, bytes: 0 })
    }

    fn commit_chunk(&self, c: usize, was: JobWord, me: Owner) -> Result<()> {
        self.ask_room(c)?;
        self.commit_with_room(c, was, me)
    }

    fn noted(&self) -> limits::Noted<'_> {
        limits::Noted {
            note: &self.hdr.stats.growth_refused,
            fd: self.fd(),
        }
    }

    /// Is there room for chunk `c` and its share of the tables?
    fn ask_room(&self, c: usize) -> Result<()> {
        let ranges = self.geo.chunk_ranges(c);
        let bytes = ranges.iter().map(|&(_, bytes)| bytes).sum();
        self.noted().ask_room(bytes)
    }

    fn commit_with_room(&self, c: usize, was: JobWord, me: Owner) -> Result<()> {
        for (at, bytes) in self.geo.chunk_ranges(c) {
            self.noted().allocate(at, bytes)?;
        }
        failpoint!("grow.reserved");
        let mine = JobWord(0)
            .with_state(chunk::COMMITTING)
            .with_p(me.p)
            .with_inc(me.inc)
            .with_cycle(was.cycle().wrapping_add(1));
        // AcqRel: Release for the reader who sees the chunk claimed; Acquire pairs with the releaser's Release of the hole.
        if self.chunk_words[c]
            .compare_exchange(was.0, mine.0, AcqRel, Relaxed)
            .is_err()
        {
            return Ok(()); // somebody else commits it
        }
        failpoint!("grow.claimed");
        self.hdr.committed_chunks.0.fetch_max(c as u32 + 1, AcqRel);
        let first = c * CHUNK_PAGES / 64;
        if planted!(ReadyBeforeBits) {
            self.chunk_words[c].store(mine.with_state(chunk::READY).0, Release);
        }
        for w in first..first + CHUNK_PAGES / 64 {
            failpoint!("grow.bits");
            self.page_bits[w].fetch_or(!0, Release);
        }
        failpoint!("grow.done");
        self.chunk_words[c].store(mine.with_state(chunk::READY).0, Release);
        self.huge_again(c);
        Ok(())
    }

    /// Gives one chunk whose pages are all free back to the kernel: the highest. True when it did.
    ///
    /// The chunk's word is claimed, its page bits are taken one word at a time (given back when one is lost), the hole is punched,
    /// and the word says released: from then on the chunk is committed again before use.
    pub(crate) fn release_chunk(&self, me: Owner) -> bool {
        let committed = self.hdr.committed_chunks.0.load(Acquire) as usize;
        (1..committed)
            .rev()
            .any(|c| self.is_idle_chunk(c) && self.try_release(c, me))
    }

    /// Bytes of chunks that have memory.
    pub(crate) fn ready_bytes(&self) -> u64 {
        self.ready_chunks() as u64 * CHUNK_BYTES as u64
    }

    /// Chunks that have memory.
    pub(crate) fn ready_chunks(&self) -> usize {
        let words = self.chunk_words[..self.chunks_used()].iter();
        let states = words.map(|w| JobWord(w.load(Relaxed)).state());
        states.filter(|&state| state == chunk::READY).count()
    }

    /// Has the chunk memory that nobody is about to take away?
    pub(super) fn is_ready(&self, c: usize) -> bool {
        JobWord(self.chunk_words[c].load(Acquire)).state() == chunk::READY
    }

    fn is_idle_chunk(&self, c: usize) -> bool {
        let first = c * CHUNK_PAGES / 64;
        self.is_ready(c)
            && self.page_bits[first..first + CHUNK_PAGES / 64]
                .iter()
                .all(|w| w.load(Acquire) == !0)
    }

    fn try_release(&self, c: usize, me: Owner) -> bool {
        let word = JobWord(self.chunk_words[c].load(Acquire));
        let mine = JobWord(0)
            .with_state(chunk::RELEASING)
            .with_p(me.p)
            .with_inc(me.inc)
            .with_cycle(word.cycle().wrapping_add(1));
        if word.state() != chunk::READY
            || self.chunk_words[c]
                .compare_exchange(word.0, mine.0, AcqRel, Relaxed)
                .is_err()
        {
            return false;
        }
        failpoint!("release.claimed");
        let first = c * CHUNK_PAGES;
        let taken = self.clear_bits(first, CHUNK_PAGES);
        failpoint!("release.taken");
        if taken < CHUNK_PAGES {
            self.set_bits(first, taken);
            self.chunk_words[c].store(mine.with_state(chunk::READY).0, Release);
            return false;
        }
        let (at, bytes) = self.geo.chunk_ranges(c)[0];
        let punched = limits::release(self.fd(), at, bytes).is_ok();
        failpoint!("release.punched");
        if punched {
            self.hdr.stats.released_chunks.fetch_add(1, Relaxed);
        }
        // Released in either case: committing it again is harmless where it was not punched.
        self.chunk_words[c].store(mine.with_state(chunk::RELEASED).0, Release);
        punched
    }

    /// The error value of a full heap, with its numbers.
    pub(crate) fn heap_full(&self, need_bytes: u64) -> Error {
        let free: u64 = self
            .page_bits
            .iter()
            .map(|w| u64::from(w.load(Relaxed).count_ones()))
            .sum();
        let committed = u64::from(self.hdr.committed_chunks.0.load(Relaxed)) * CHUNK_BYTES as u64;
        let live_bytes = committed.saturating_sub(free * PAGE_BYTES as u64);
        Error::HeapFull {
            need_bytes,
            live_bytes,
            limit_bytes: self.geo.limit_bytes,
        }
    }

    /// Takes page 0 out of circulation: reference 0 is nil.
    pub(super) fn reserve_null_page(&self) {
        self.page_bits[0].fetch_and(!1, AcqRel);
        self.spans[0]
            .word
            .store(SpanWord(0).with_state(SpanWord::BODY).0, Release);
    }

    /// Claims `count` consecutive pages for `me`, growing the heap when none are free. Returns the first; its word says
    /// `CLAIMED` by `me`, the others `BODY`. `hint` is where the last search ended; `reclaim` makes pages free by other means,
    /// and is asked before the heap grows. It ends by itself: an allocation does not sweep a whole heap.
    pub(crate) fn claim_pages(
        &self,
        count: usize,
        me: Owner,
        hint: &mut usize,
        reclaim: &mut dyn FnMut() -> bool,
    ) -> Result<usize> {
        loop {
            let found = if count <= 64 {
                self.claim_within_word(count, me, hint)
            } else {
                self.claim_across_words(count, me)
            };
            if let Some(first) = found {
                return Ok(first);
            }
            *hint = 0;
            if !reclaim() {
                self.grow(count, me)?;
            }
        }
    }

    pub(crate) fn bit_words(&self) -> usize {
        self.hdr.committed_chunks.0.load(Acquire) as usize * (CHUNK_PAGES / 64)
    }

    fn claim_within_word(&self, count: usize, me: Owner, hint: &mut usize) -> Option<usize> {
        let words = self.bit_words();
        for k in 0..words {
            let w = (*hint + k) % words;
            loop {
                let free = self.page_bits[w].load(Acquire);
                let Some(at) = run_in_word(free, count) else {
                    break;
                };
                let mask = (if count == 64 { !0 } else { (1u64 << count) - 1 }) << at;
                let first = w * 64 + at;
                self.intend(
                    me,
                    IntentWord(0)
                        .with_op(IntentWord::PAGES)
                        .with_start(first as u32)
                        .with_count(count as u32),
                );
                failpoint!("pages.intent");
                // AcqRel: pairs with the giver's Release, so the pages' words are seen free.
                if self.page_bits[w]
                    .compare_exchange(free, free & !mask, AcqRel, Relaxed)
                    .is_ok()
                {
                    failpoint!("pages.bits");
                    if planted!(IntentClearedEarly) {
                        self.intend(me, IntentWord(0));
                    }
                    self.name_pages(first, count, me);
                    *hint = w;
                    return Some(first);
                }
                self.intend(me, IntentWord(0));
            }
        }
        None
    }

    /// Large runs: find a run of free pages, take it word by word, give back what was taken when one is lost.
    fn claim_across_words(&self, count: usize, me: Owner) -> Option<usize> {
        let pages = self.bit_words() * 64;
        let mut from = 0;
        while let Some(first) = self.find_run(from, pages, count) {
            self.intend(
                me,
                IntentWord(0)
                    .with_op(IntentWord::PAGES)
                    .with_start(first as u32)
                    .with_count(count as u32),
            );
            failpoint!("pages.intent");
            let taken = self.clear_bits(first, count);
            if taken == count {
                failpoint!("pages.bits");
                self.name_pages(first, count, me);
                return Some(first);
            }
            self.set_bits(first, taken);
            self.intend(me, IntentWord(0));
            from = first + taken + 1;
        }
        None
    }

    fn find_run(&self, from: usize, pages: usize, count: usize) -> Option<usize> {
        let (mut start, mut page) = (from, from);
        while page < pages {
            let word = self.page_bits[page / 64].load(Acquire) >> (page % 64);
            let ones = (word.trailing_ones() as usize).min(64 - page % 64);
            page += ones;
            if page - start >= count {
                return Some(start);
            }
            if !page.is_multiple_of(64) || ones == 0 {
                page += 1;
                start = page;
            }
        }
        None
    }

    /// Clears the bits of `count` pages from `first`, one word at a time; returns how many pages it got before one was lost.
    fn clear_bits(&self, first: usize, count: usize) -> usize {
        let mut done = 0;
        while done < count {
            let page = first + done;
            let n = (64 - page % 64).min(count - done);
            let mask = (if n == 64 { !0 } else { (1u64 << n) - 1 }) << (page % 64);
            let word = &self.page_bits[page / 64];
            let got = word.fetch_update(AcqRel, Acquire, |free| {
                (free & mask == mask).then_some(free & !mask)
            });
            if got.is_err() {
                return done;
            }
            done += n;
        }
        done
    }

    fn set_bits(&self, first: usize, count: usize) {
        let mut done = 0;
        while done < count {
            let page = first + done;
            let n = (64 - page % 64).min(count - done);
            let mask = (if n == 64 { !0 } else { (1u64 << n) - 1 }) << (page % 64);
            failpoint!("pages.set_bits");
            // Release: pairs with the claimer's Acquire; the words below are free before the bits say so.
            self.page_bits[page / 64].fetch_or(mask, Release);
            done += n;
        }
    }

    /// Puts the claimer's name on pages whose bits it has cleared. The first page's word comes first: recovery decides by it.
    fn name_pages(&self, first: usize, count: usize, me: Owner) {
        let head = &self.spans[first];
        let word = SpanWord(head.word.load(Relaxed));
        debug_assert_eq!(word.state(), SpanWord::FREE);
        head.pages.store(count as u32, Relaxed);
        // Release: recovery that sees the name sees the page count.
        head.word
            .store(word.moved(SpanWord::CLAIMED, me).0, Release);
        failpoint!("pages.named");
        for k in 1..count {
            let body = &self.spans[first + k];
            let word = SpanWord(body.word.load(Relaxed));
            body.pages.store(k as u32, Relaxed);
            body.word.store(word.released(SpanWord::BODY).0, Release);
        }
    }

    /// Ends a claim: the span's word has moved on, so the intent can go.
    pub(crate) fn claim_done(&self, me: Owner) {
        self.intend(me, IntentWord(0));
    }

    /// Gives back the pages of the span at `first`, whose word names `me` (`CLAIMED`, `SWEEPING`).
    pub(crate) fn free_pages(&self, first: usize, me: Owner) {
        let count = self.spans[first].pages.load(Relaxed) as usize;
        self.intend(
            me,
            IntentWord(0)
                .with_op(IntentWord::PAGES)
                .with_start(first as u32)
                .with_count(count as u32),
        );
        failpoint!("pages.free_intent");
        let word = SpanWord(self.spans[first].word.load(Relaxed));
        debug_assert_eq!(word.owner(), me);
        self.spans[first]
            .word
            .store(word.moved(SpanWord::FREEING, me).0, Release);
        failpoint!("pages.freeing");
        self.finish_free(first, count);
        self.intend(me, IntentWord(0));
    }

    /// The repeatable tail of [`Segment::free_pages`].
    fn finish_free(&self, first: usize, count: usize) {
        for k in 1..count {
            let body = &self.spans[first + k];
            let word = SpanWord(body.word.load(Relaxed));
            if word.state() == SpanWord::BODY {
                body.word.store(word.released(SpanWord::FREE).0, Release);
            }
        }
        failpoint!("pages.bodies_free");
        let word = SpanWord(self.spans[first].word.load(Relaxed));
        self.spans[first]
            .word
            .store(word.released(SpanWord::FREE).0, Release);
        failpoint!("pages.head_free");
        self.set_bits(first, count);
        failpoint!("pages.freed");
    }

    fn intend(&self, me: Owner, intent: IntentWord) {
        if let Some(record) = self.procs.get(me.p as usize) {
            // SeqCst: `lost_page` of a recoverer reads bits and intents in an order that this must not cross.
            record.now.0.intent.store(intent.0, SeqCst);
        }
    }
}

fn has_no_memory(chunk: JobWord) -> bool {
    matches!(chunk.state(), chunk::ABSENT | chunk::RELEASED)
}

/// First bit of the lowest run of `count` set bits.
fn run_in_word(word: u64, count: usize) -> Option<usize> {
    let mut x = word;
    let mut have = 1;
    while have < count {
        let shift = have.min(count - have);
        x &= x >> shift;
        have += shift;
    }
    (x != 0).then(|| x.trailing_zeros() as usize)
}

/// Repairs what `dead` left of a page claim, a return of pages, or a chunk it was committing.
///
/// False when it must be done again later: a page of the dead may be anybody's for as long as a living P is in the middle of
/// claiming or returning it.
#[must_use]
pub(crate) fn settle_pages(segment: &Segment, dead: Owner) -> bool {
    let mut settled = true;
    let intent = IntentWord(segment.procs[dead.p as usize].now.0.intent.load(Acquire));
    if intent.op() == IntentWord::PAGES {
        settled &= settle_range(
            segment,
            dead,
            intent.start() as usize,
            intent.count() as usize,
        );
    }
    for c in 0..segment.geo.chunks {
        let word = JobWord(segment.chunk_words[c].load(Acquire));
        let named = word.p() == dead.p && word.inc() == dead.inc;
        if named && word.state() == chunk::COMMITTING {
            crate::probe!(segment, GrowCommitting);
            if settle_lost(segment, dead, c * CHUNK_PAGES, CHUNK_PAGES) {
                segment.chunk_words[c].store(word.with_state(chunk::READY).0, Release);
            } else {
                settled = false;
            }
        }
        if named && word.state() == chunk::RELEASING {
            crate::probe!(segment, GrowReleasing);
            settled &= settle_releasing(segment, dead, c, word);
        }
    }
    let settled = settled || twin!("settle-once");
    if settled {
        segment.procs[dead.p as usize].now.0.intent.store(0, SeqCst);
    }
    settled
}

/// Died giving a chunk back. Holding all its pages: released, whether the hole is there or not. Else what it had taken goes back.
fn settle_releasing(segment: &Segment, dead: Owner, c: usize, word: JobWord) -> bool {
    let first = c * CHUNK_PAGES / 64;
    let all_taken = segment.page_bits[first..first + CHUNK_PAGES / 64]
        .iter()
        .all(|w| w.load(Acquire) == 0)
        && (c * CHUNK_PAGES..(c + 1) * CHUNK_PAGES)
            .all(|page| lost_page(segment, dead, page) == Some(true));
    let state = if all_taken {
        chunk::RELEASED
    } else {
        chunk::READY
    };
    if !all_taken && !settle_lost(segment, dead, c * CHUNK_PAGES, CHUNK_PAGES) {
        return false;
    }
    segment.chunk_words[c].store(
        word.with_state(state)
            .with_cycle(word.cycle().wrapping_add(1))
            .0,
        Release,
    );
    true
}

fn settle_range(segment: &Segment, dead: Owner, first: usize, count: usize) -> bool {
    let word = SpanWord(segment.spans[first].word.load(Acquire));
    if matches!(word.state(), SpanWord::CLAIMED | SpanWord::FREEING) && word.owner() == dead {
        crate::probe!(segment, PagesNamed);
        segment.clear_span_marks(first, count);
        segment.finish_free(first, count);
        return true;
    }
    if word.state() == SpanWord::FREE {
        crate::probe!(segment, PagesUnnamed);
    } else if twin!("first-page-decides") {
        return true;
    }
    // Whatever the first page is now: the dead may have set its bit again, so that somebody else has it, and not yet the others'.
    settle_lost(segment, dead, first, count)
}

/// Sets the bits of lost pages. False when a living P's intent leaves some undecided.
fn settle_lost(segment: &Segment, dead: Owner, first: usize, count: usize) -> bool {
    let mut settled = true;
    for page in first.max(1)..first + count {
        match lost_page(segment, dead, page) {
            Some(true) => {
                segment.page_bits[page / 64].fetch_or(1 << (page % 64), Release);
            }
            Some(false) => {}
            None => settled = false,
        }
    }
    settled
}

/// Is this page free by its word, taken by its bit, and in nobody's hands? `None`: in somebody's hands, ask again.
///
/// Somebody who cleared the bit and has not named the page has an intent that covers it; somebody who gives it back has one until
/// the bit is set. Bit, word, intents, bit, intents, word, in this order: whoever slips through one look is met by the next.
fn lost_page(segment: &Segment, dead: Owner, page: usize) -> Option<bool> {
    let bit = || segment.page_bits[page / 64].load(SeqCst) >> (page % 64) & 1 == 0;
    let word = || SpanWord(segment.spans[page].word.load(SeqCst));
    let before = word();
    if before.state() != SpanWord::FREE || !bit() {
        return Some(false);
    }
    if intended(segment, dead, page) || !bit() || intended(segment, dead, page) {
        return None;
    }
    (word() == before).then_some(true)
}

fn intended(segment: &Segment, dead: Owner, page: usize) -> bool {
    segment.used_procs().iter().enumerate().any(|(p, record)| {
        let intent = IntentWord(record.now.0.intent.load(SeqCst));
        let start = intent.start() as usize;
        // The dead do nothing any more: of several each would wait for the others.
        let acts = ProcWord(record.word.0.load(SeqCst)).state() != ProcWord::DEAD;
        p != dead.p as usize
            && acts
            && intent.op() == IntentWord::PAGES
            && (start..start + intent.count() as usize).contains(&page)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_runs_in_a_word() {
        assert_eq!(run_in_word(0b0111_0110, 3), Some(4));
        assert_eq!(run_in_word(0b0111_0110, 2), Some(1));
        assert_eq!(run_in_word(0b0111_0110, 4), None);
        assert_eq!(run_in_word(!0, 64), Some(0));
        assert_eq!(run_in_word(1 << 63, 1), Some(63));
        assert_eq!(run_in_word(0, 1), None);
    }
}
