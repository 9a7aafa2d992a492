//! Partial counts: what a batch leaves for the merge, and how postings are encoded.
//!
//! A word's record in a shard's string is: length, word, length, postings; postings are pairs (file number minus the one before,
//! count). Numbers are LEB128. Words ascend, so do file numbers.
//! **Rejected:** an object per word and batch: each would live for one merge, and a merge reads them all in order anyway.

use coheap::{Array, Cx, Gc, GcStr, Result, Shared, Slot};

use super::Batches;
use crate::workloads::{PROBLEMS_MAX, path_of, run::present};

/// Parts of the index that are merged apart. A power of two.
pub const SHARDS: usize = 128;

/// Counts of some files, or of a piece of a large one.
#[derive(Shared)]
pub struct Partial {
    /// Words counted.
    pub words: u64,
    /// Files that could not be read to their ends.
    pub unreadable: u64,
    /// Files read to their ends.
    pub files: u32,
    /// One string per shard; none where it would be empty.
    pub shards: Slot<Array<Slot<GcStr>>>,
    /// The first unreadable files.
    pub problems: Slot<Problem>,
    /// The partial before this one, of the same batch.
    pub next: Slot<Partial>,
}

/// Something that could not be read.
#[derive(Shared)]
pub struct Problem {
    /// Path and reason, on one line.
    pub text: Slot<GcStr>,
    /// Another.
    pub next: Slot<Problem>,
}

/// A bounded list of problems in private memory.
pub trait Problems {
    /// Adds one, if there is room.
    fn note(&mut self, path: &[u8], error: &std::io::Error);
}

impl Problems for Vec<String> {
    fn note(&mut self, path: &[u8], error: &std::io::Error) {
        if self.len() < PROBLEMS_MAX {
            // Debug form: a name may hold a newline.
            self.push(format!("{:?}: {error}", path_of(path)));
        }
    }
}

/// `list` with `more` in front.
///
/// # Errors
/// Those of an allocation.
pub fn problems<'cx>(
    cx: &'cx Cx<'_>,
    mut list: Option<Gc<'cx, Problem>>,
    more: &[String],
) -> Result<Option<Gc<'cx, Problem>>> {
    for text in more {
        list = add_problem(cx, list, Some(cx.str(text)?))?;
    }
    Ok(list)
}

/// `list` with `text` in front, unless it is long already.
///
/// # Errors
/// Those of an allocation.
pub fn add_problem<'cx>(
    cx: &'cx Cx<'_>,
    list: Option<Gc<'cx, Problem>>,
    text: Option<Gc<'_, GcStr>>,
) -> Result<Option<Gc<'cx, Problem>>> {
    if lines(cx, list).count() >= PROBLEMS_MAX {
        return Ok(list);
    }
    let problem = cx.alloc(Problem {
        text: Slot::nil(),
        next: Slot::nil(),
    })?;
    problem.text.store(cx, text);
    problem.next.store(cx, list);
    Ok(Some(problem))
}

fn lines<'cx>(
    cx: &'cx Cx<'_>,
    list: Option<Gc<'cx, Problem>>,
) -> impl Iterator<Item = Gc<'cx, Problem>> {
    std::iter::successors(list, |p| p.next.load(cx))
}

/// The problems of a list, which is newest first, the other way round.
pub fn oldest_first<'cx>(cx: &'cx Cx<'_>, list: Option<Gc<'cx, Problem>>) -> Vec<Gc<'cx, Problem>> {
    let mut all: Vec<_> = lines(cx, list).collect();
    all.reverse();
    all
}

/// The list as text, oldest first, one a line.
pub fn problem_text(cx: &Cx<'_>, list: Option<Gc<'_, Problem>>) -> String {
    let texts: Vec<String> = oldest_first(cx, list)
        .iter()
        .filter_map(|p| p.text.load(cx))
        .map(|t| String::from_utf8_lossy(t.as_bytes()).into_owned())
        .collect();
    texts.join("\n")
}

/// All partials of all batches, in the order of their files.
///
/// # Errors
/// When a batch has no result.
pub(super) fn in_order<'cx>(
    cx: &'cx Cx<'_>,
    batches: Option<Gc<'cx, Batches>>,
) -> Result<Vec<Gc<'cx, Partial>>> {
    let mut partials = Vec::new();
    let mut at = batches;
    while let Some(batches) = at {
        // Newest first, in every list: turned round at the end.
        for slot in present(batches.joins.load(cx))?.to_ref().iter().rev() {
            let mut part = Some(present(present(slot.load(cx))?.result(cx))?);
            while let Some(p) = part {
                partials.push(p);
                part = p.next.load(cx);
            }
        }
        at = batches.next.load(cx);
    }
    partials.reverse();
    Ok(partials)
}

/// The first eight bytes of a word as a number that sorts as they do.
pub fn prefix(word: &[u8]) -> u64 {
    let mut first = [0; 8];
    let n = word.len().min(8);
    first[..n].copy_from_slice(&word[..n]);
    u64::from_be_bytes(first)
}

/// Appends a number.
pub fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads a number at `at`; a string that ends too early reads as zeroes.
fn number(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut n, mut shift) = (0u64, 0);
    while let Some(&b) = bytes.get(*at) {
        *at += 1;
        n |= u64::from(b & 0x7f).checked_shl(shift).unwrap_or(0);
        if b < 0x80 {
            break;
        }
        shift += 7;
    }
    n
}

/// Appends a word's record.
pub fn encode_word(out: &mut Vec<u8>, word: &[u8], postings: impl Iterator<Item = (u32, u64)>) {
    put_number(out, word.len() as u64);
    out.extend_from_slice(word);
    let mut encoded = Vec::new();
    let mut last = 0;
    for (file, count) in postings {
        put_number(&mut encoded, u64::from(file - last));
        put_number(&mut encoded, count);
        last = file;
    }
    put_number(out, encoded.len() as u64);
    out.extend_from_slice(&encoded);
}

/// Decodes postings: (file, count), files ascending.
///
/// ```
/// use coheap_worker::workloads::index::part;
/// // File 5 twice, file 7 once.
/// assert_eq!(part::postings(&[5, 2, 2, 1]).collect::<Vec<_>>(), [(5, 2), (7, 1)]);
/// ```
pub fn postings(bytes: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    let (mut at, mut file) = (0, 0u32);
    std::iter::from_fn(move || {
        (at < bytes.len()).then(|| {
            file = file.wrapping_add(number(bytes, &mut at) as u32);
            (file, number(bytes, &mut at))
        })
    })
}

/// Reads the records of a shard's string.
pub struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// One record.
#[derive(Clone, Copy)]
pub struct Record<'b> {
    /// The word.
    pub word: &'b [u8],
    /// Its postings, encoded.
    pub postings: &'b [u8],
    /// Where the record begins.
    pub at: usize,
}

impl<'b> Reader<'b> {
    /// From byte `at` on, where a record begins.
    pub fn new(bytes: &'b [u8], at: usize) -> Reader<'b> {
        Reader { bytes, at }
    }

    /// The next record.
    pub fn next_word(&mut self) -> Option<Record<'b>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let at = self.at;
        let word = self.take()?;
        let postings = self.take()?;
        Some(Record { word, postings, at })
    }

    fn take(&mut self) -> Option<&'b [u8]> {
        let n = number(self.bytes, &mut self.at) as usize;
        let taken = self.bytes.get(self.at..)?.get(..n)?;
        self.at += n;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for n in [0, 1, 127, 128, 300, 1 << 40, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, n);
            let mut at = 0;
            assert_eq!((number(&out, &mut at), at), (n, out.len()));
        }
    }

    #[test]
    fn prefixes_sort_as_words() {
        let words: [&[u8]; 5] = [b"a", b"ab", b"abcdefgh", b"abcdefghi", b"b"];
        assert!(words.is_sorted_by_key(|w| prefix(w)));
    }
}
