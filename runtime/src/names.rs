//! Names in tables of the segment: zero-padded UTF-8 in atomic words, and their hashes.
//!
//! A name is written by whoever claims its entry and by everybody who completes it; all write the same bytes.

use shm_layout::sync::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// FNV-1a; never 0, because 0 marks a free entry.
pub(crate) const fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut i = 0;
    while i < bytes.len() {
        h = (h ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    if h == 0 { 1 } else { h }
}

/// Writes `name`, cut to the words' length.
pub(crate) fn write(words: &[AtomicU64], name: &str) {
    let mut bytes = name.bytes();
    for word in words {
        let mut w = [0u8; 8];
        for b in &mut w {
            *b = bytes.next().unwrap_or(0);
        }
        word.store(u64::from_le_bytes(w), Relaxed);
    }
}

/// Reads a name back; bytes that are no UTF-8 become replacement characters.
pub(crate) fn read(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Relaxed).to_le_bytes())
        .take_while(|&b| b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
