//! Concurrent bitmaps over words of the segment: ways to *find* records, never the truth about them.
//!
//! A [`Finder`] is a two-level bitmap: a word of the upper level says which 64 words below may hold a set bit. Setting goes
//! bottom up, clearing top down with a second look: between the two looks of a clearing a set bit can be hidden from
//! [`Finder::first`] and [`Finder::any_below`] for a moment. They are for finding work; whoever *concludes* something from "none" asks
//! [`Finder::none_below`], which reads the lower level.
//! **If its user dies** between the two levels, the upper bit may be missing: recovery calls [`Finder::mend_below`]; or it may be
//! set over an empty word, which the next clearing settles.

use crate::sync::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};

/// A two-level bitmap over borrowed words.
#[derive(Clone, Copy)]
pub struct Finder<'a> {
    /// Bit `i % 64` of word `i / 64` stands for record `i`.
    pub bits: &'a [AtomicU64],
    /// Bit `w % 64` of word `w / 64` stands for `bits[w]`.
    pub upper: &'a [AtomicU64],
}

impl Finder<'_> {
    /// Words of the upper level for `records` records.
    pub const fn upper_words(records: usize) -> usize {
        records.div_ceil(64 * 64)
    }

    /// Marks record `i`. True when it was not marked before.
    #[inline]
    pub fn set(&self, i: usize) -> bool {
        let bit = 1u64 << (i % 64);
        // SeqCst: a sleeper announces itself idle and then looks here; we set and then look for sleepers. Partner: `first`.
        let old = self.bits[i / 64].fetch_or(bit, SeqCst);
        let w = i / 64;
        let up = 1u64 << (w % 64);
        if self.upper[w / 64].load(SeqCst) & up == 0 {
            self.upper[w / 64].fetch_or(up, SeqCst);
        }
        old & bit == 0
    }

    /// Unmarks record `i`. True when it was marked: of several callers one gets true.
    #[inline]
    pub fn clear(&self, i: usize) -> bool {
        let bit = 1u64 << (i % 64);
        let w = i / 64;
        // Acquire: pairs with the Release half of `set`, so that what was written before it is seen by who clears.
        let old = self.bits[w].fetch_and(!bit, AcqRel);
        if old & !bit == 0 {
            self.settle_upper(w);
        }
        old & bit != 0
    }

    /// Takes all the marks of word `w` at once; returns them as a mask of records `w * 64 ..`.
    pub fn take_word(&self, w: usize) -> u64 {
        let old = self.bits[w].swap(0, AcqRel);
        self.settle_upper(w);
        old
    }

    fn settle_upper(&self, w: usize) {
        let up = 1u64 << (w % 64);
        self.upper[w / 64].fetch_and(!up, SeqCst);
        // A `set` between our clearing of the word and of the upper bit would be hidden: look again.
        if self.bits[w].load(SeqCst) != 0 {
            self.upper[w / 64].fetch_or(up, SeqCst);
        }
    }

    /// Is no record below `records` marked? Exact: a mark whose `set` returned before this call is seen.
    pub fn none_below(&self, records: usize) -> bool {
        self.bits[..records.div_ceil(64)]
            .iter()
            .all(|w| w.load(SeqCst) == 0)
    }

    /// Repairs the upper level over the first `records` records.
    pub fn mend_below(&self, records: usize) {
        for (w, word) in self.bits[..records.div_ceil(64)].iter().enumerate() {
            if word.load(SeqCst) != 0 {
                self.upper[w / 64].fetch_or(1 << (w % 64), SeqCst);
            }
        }
    }

    /// Is any record below `records` marked? A hint: it may change at once, and miss one that is being hidden (see the module).
    #[inline]
    pub fn any_below(&self, records: usize) -> bool {
        self.upper[..Self::upper_words(records)]
            .iter()
            .any(|w| w.load(SeqCst) != 0)
            && self.first_below(0, records).is_some()
    }

    /// The first marked record at or after `from`, wrapping around once.
    pub fn first(&self, from: usize) -> Option<usize> {
        self.first_below(from, self.bits.len() * 64)
    }

    /// As [`Finder::first`], where none above `records` is ever marked: the upper level is read that far only.
    pub fn first_below(&self, from: usize, records: usize) -> Option<usize> {
        let words = records.div_ceil(64).min(self.bits.len());
        if words == 0 {
            return None;
        }
        let from_word = (from / 64) % words;
        let mask = !0u64 << (from % 64);
        let here = self.bits[from_word].load(Acquire) & mask;
        if here != 0 {
            return Some(from_word * 64 + here.trailing_zeros() as usize);
        }
        let n = words.div_ceil(64);
        let start = (from_word + 1) / 64;
        for k in 0..=n {
            let u = (start + k) % n;
            let mut up = self.upper[u].load(SeqCst);
            if k == 0 {
                up &= !0u64 << ((from_word + 1) % 64);
            }
            while up != 0 {
                let w = u * 64 + up.trailing_zeros() as usize;
                up &= up - 1;
                if w >= self.bits.len() {
                    break;
                }
                let word = self.bits[w].load(Acquire);
                if word != 0 {
                    return Some(w * 64 + word.trailing_zeros() as usize);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn words(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn finds_what_was_set_from_any_start() {
        let (bits, upper) = (words(200), words(Finder::upper_words(200 * 64)));
        let f = Finder {
            bits: &bits,
            upper: &upper,
        };
        for i in [0, 63, 64, 4095, 4096, 200 * 64 - 1] {
            assert!(f.set(i));
            assert!(!f.set(i));
            for from in [0, 1, 63, 64, 5000, 200 * 64 - 1] {
                assert_eq!(f.first(from), Some(i), "record {i} from {from}");
            }
            assert!(f.clear(i));
            assert!(!f.clear(i));
            assert_eq!(f.first(0), None);
        }
        f.set(70);
        assert_eq!(f.first_below(0, 71), Some(70));
        assert_eq!(f.first_below(70, 128), Some(70));
        assert!(f.any_below(71) && !f.any_below(0));
    }

    #[test]
    fn take_word_takes_all_of_one_word() {
        let (bits, upper) = (words(4), words(1));
        let f = Finder {
            bits: &bits,
            upper: &upper,
        };
        f.set(65);
        f.set(70);
        f.set(130);
        assert_eq!(f.take_word(1), 1 << 1 | 1 << 6);
        assert_eq!(f.first(0), Some(130));
    }
}
