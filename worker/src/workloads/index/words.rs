//! Counting words in private memory.
//!
//! Bytes are fed in pieces of any size; a word that crosses two pieces waits in `pending`. A word is hashed while its end is looked
//! for, compared with the stored one if hash tags agree, and copied (lowercased) only when it is new. Counts are per file: at a file's
//! end every word it had gives one (word, file, count).
//! **Rejected:** the standard map: it would hash every word twice, and allocate per word.

use super::part::{self, SHARDS};

/// Shard of a word with this hash.
pub fn shard_of(hash: u64) -> usize {
    (hash >> (64 - SHARDS.trailing_zeros())) as usize
}

/// Hash of a word of lowercase letters.
pub fn hash(word: &[u8]) -> u64 {
    finish_hash(word.iter().fold(HASH_START, |h, &b| mix(h, b)))
}

const HASH_START: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(h: u64, lower: u8) -> u64 {
    (h ^ u64::from(lower)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

fn finish_hash(h: u64) -> u64 {
    (h ^ h >> 32).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

const fn is_letter(b: u8) -> bool {
    (b | 0x20).is_ascii_lowercase()
}

static LETTER: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_letter(b as u8);
        b += 1;
    }
    table
};

struct Entry {
    hash: u64,
    at: usize,
    len: usize,
    /// In the present file.
    count: u64,
    /// Files it has stood in.
    files: u32,
}

struct Posting {
    entry: u32,
    file: u32,
    count: u64,
}

/// Counts of a batch.
pub struct Counter {
    /// Tag of the hash, and index of the entry plus one. A power of two; never more than half full.
    table: Vec<(u32, u32)>,
    entries: Vec<Entry>,
    text: Vec<u8>,
    /// Entries that the present file has.
    touched: Vec<u32>,
    postings: Vec<Posting>,
    pending: Vec<u8>,
    words: u64,
}

impl Default for Counter {
    fn default() -> Self {
        Counter {
            table: vec![(0, 0); 1 << 14],
            entries: Vec::new(),
            text: Vec::new(),
            touched: Vec::new(),
            postings: Vec::new(),
            pending: Vec::new(),
            words: 0,
        }
    }
}

impl Counter {
    /// Words counted.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// The next bytes of the present file.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut i = self.feed_pending(bytes);
        while i < bytes.len() {
            if !LETTER[bytes[i] as usize] {
                i += 1;
                continue;
            }
            let start = i;
            let mut h = HASH_START;
            while i < bytes.len() && LETTER[bytes[i] as usize] {
                h = mix(h, bytes[i] | 0x20);
                i += 1;
            }
            if i == bytes.len() {
                self.pending.extend_from_slice(&bytes[start..]);
            } else {
                self.count(&bytes[start..i], finish_hash(h));
            }
        }
    }

    /// Goes on with a word begun in the piece before; returns where the next may begin.
    fn feed_pending(&mut self, bytes: &[u8]) -> usize {
        if self.pending.is_empty() {
            return 0;
        }
        let n = bytes
            .iter()
            .position(|&b| !LETTER[b as usize])
            .unwrap_or(bytes.len());
        self.pending.extend_from_slice(&bytes[..n]);
        if n < bytes.len() {
            self.count_pending();
        }
        n
    }

    fn count_pending(&mut self) {
        let word = std::mem::take(&mut self.pending);
        if !word.is_empty() {
            let h = word.iter().fold(HASH_START, |h, &b| mix(h, b | 0x20));
            self.count(&word, finish_hash(h));
        }
        self.pending = word;
        self.pending.clear();
    }

    fn count(&mut self, word: &[u8], hash: u64) {
        let index = self.find_or_add(word, hash);
        let entry = &mut self.entries[index as usize];
        if entry.count == 0 {
            self.touched.push(index);
        }
        entry.count += 1;
        self.words += 1;
    }

    fn find_or_add(&mut self, word: &[u8], hash: u64) -> u32 {
        let mask = self.table.len() - 1;
        let tag = hash as u32;
        // The shard uses the hash's top bits, the table its middle ones.
        let mut at = (hash >> 20) as usize & mask;
        loop {
            let (seen, index) = self.table[at];
            if index == 0 {
                return self.add(word, hash, at);
            }
            if seen == tag && self.is_word(index - 1, word) {
                return index - 1;
            }
            at = (at + 1) & mask;
        }
    }

    fn is_word(&self, index: u32, word: &[u8]) -> bool {
        let entry = &self.entries[index as usize];
        let stored = &self.text[entry.at..entry.at + entry.len];
        stored.len() == word.len() && stored.iter().zip(word).all(|(&a, &b)| a == b | 0x20)
    }

    fn add(&mut self, word: &[u8], hash: u64, at: usize) -> u32 {
        let index = self.entries.len() as u32;
        self.entries.push(Entry {
            hash,
            at: self.text.len(),
            len: word.len(),
            count: 0,
            files: 0,
        });
        self.text.extend(word.iter().map(|&b| b | 0x20));
        self.table[at] = (hash as u32, index + 1);
        if self.entries.len() * 2 > self.table.len() {
            self.grow();
        }
        index
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 2 - 1;
        let mut table = vec![(0, 0); mask + 1];
        for (i, entry) in self.entries.iter().enumerate() {
            let mut at = (entry.hash >> 20) as usize & mask;
            while table[at].1 != 0 {
                at = (at + 1) & mask;
            }
            table[at] = (entry.hash as u32, i as u32 + 1);
        }
        self.table = table;
    }

    /// Ends the present file, or a piece of it: its number and counts are kept.
    pub fn end_file(&mut self, file: u32) {
        self.count_pending();
        for &index in &self.touched {
            let entry = &mut self.entries[index as usize];
            self.postings.push(Posting {
                entry: index,
                file,
                count: entry.count,
            });
            entry.files += 1;
            entry.count = 0;
        }
        self.touched.clear();
    }

    /// The counts, encoded: one string per shard.
    pub fn encode(&self) -> Vec<Vec<u8>> {
        let (starts, sorted) = self.postings_by_entry();
        let mut shards: Vec<Vec<(u64, u32)>> = vec![Vec::new(); SHARDS];
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.files > 0 {
                let word = self.word(i as u32);
                shards[shard_of(entry.hash)].push((part::prefix(word), i as u32));
            }
        }
        shards
            .iter_mut()
            .map(|entries| {
                entries.sort_unstable_by(|a, b| {
                    a.0.cmp(&b.0)
                        .then_with(|| self.word(a.1).cmp(self.word(b.1)))
                });
                let mut out = Vec::new();
                for &(_, i) in entries.iter() {
                    let range = starts[i as usize]..starts[i as usize + 1];
                    part::encode_word(&mut out, self.word(i), range.clone().map(|k| sorted[k]));
                }
                out
            })
            .collect()
    }

    fn word(&self, index: u32) -> &[u8] {
        let entry = &self.entries[index as usize];
        &self.text[entry.at..entry.at + entry.len]
    }

    /// (File, count), grouped by entry, files ascending; and where each entry's begin.
    fn postings_by_entry(&self) -> (Vec<usize>, Vec<(u32, u64)>) {
        let mut starts = vec![0; self.entries.len() + 1];
        for (i, entry) in self.entries.iter().enumerate() {
            starts[i + 1] = starts[i] + entry.files as usize;
        }
        let mut fill = starts.clone();
        let mut sorted = vec![(0, 0); self.postings.len()];
        for p in &self.postings {
            sorted[fill[p.entry as usize]] = (p.file, p.count);
            fill[p.entry as usize] += 1;
        }
        (starts, sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every way to cut the bytes in three gives the same counts.
    #[test]
    fn pieces_do_not_matter() {
        let bytes = b"\0Ab ab\xffAB-zz9a  b\xc3\xa4c end";
        for i in 0..bytes.len() {
            for j in i..bytes.len() {
                let mut counter = Counter::default();
                for piece in [&bytes[..i], &bytes[i..j], &bytes[j..]] {
                    counter.feed(piece);
                }
                counter.end_file(3);
                assert_eq!(counter.words(), 8);
                let all = decode(&counter);
                assert_eq!(all[&b"ab"[..]], [(3, 3)]);
                assert_eq!(all.len(), 6);
            }
        }
    }

    fn decode(counter: &Counter) -> BTreeMap<Vec<u8>, Vec<(u32, u64)>> {
        let mut all = BTreeMap::new();
        for blob in counter.encode() {
            let mut reader = part::Reader::new(&blob, 0);
            while let Some(item) = reader.next_word() {
                all.insert(item.word.to_vec(), part::postings(item.postings).collect());
            }
        }
        all
    }

    #[test]
    fn many_words_in_many_files() {
        let mut counter = Counter::default();
        for file in 0..50u32 {
            for w in 0..2000u32 {
                let letters: String = w
                    .to_string()
                    .bytes()
                    .map(|b| (b - b'0' + b'a') as char)
                    .collect();
                if w % (file + 1) == 0 {
                    counter.feed(letters.as_bytes());
                    counter.feed(b".");
                }
            }
            counter.end_file(file);
        }
        let all = decode(&counter);
        assert_eq!(all.len(), 2000);
        // 24 has the divisors 1 2 3 4 6 8 12 24.
        let files: Vec<u32> = all[&b"ce"[..]].iter().map(|p| p.0).collect();
        assert_eq!(files, [0, 1, 2, 3, 5, 7, 11, 23]);
    }
}
