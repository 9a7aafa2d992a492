//! Hashing of states: multiply and fold, twice for 128 bits.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Multiply-and-fold, for keys that are hashes or addresses.
#[derive(Default)]
pub(super) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = mix(self.0, x);
    }
    fn write_u128(&mut self, x: u128) {
        // A key that is a hash already.
        self.0 = x as u64 ^ (x >> 64) as u64;
    }
}

pub(super) type FoldMap<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd6e8_feb8_6659_fd93);
    (m as u64 ^ (m >> 64) as u64).rotate_left(23) ^ a.wrapping_mul(0xa076_1d64_78bd_642f) ^ b
}

pub(super) fn mix2(a: u128, b: u64, c: u64) -> u128 {
    let (lo, hi) = (a as u64, (a >> 64) as u64);
    u128::from(mix(mix(lo, b), c)) | u128::from(mix(mix(hi ^ 0x1234_5678_9abc_def1, c), b)) << 64
}

/// What a change of `size` bytes at `at` does to the hash of memory, which is the sum over its words of four bytes: so it is told
/// by what memory holds, not by how that came about.
pub(super) fn change(at: usize, size: u8, old: u64, new: u64) -> u128 {
    let word = |at: usize, value: u64| mix2(at as u128, value & 0xffff_ffff, 7);
    match size {
        8 => word(at, old) ^ word(at, new) ^ word(at + 4, old >> 32) ^ word(at + 4, new >> 32),
        // A half is told by its own address: no word is used both in whole and in halves.
        2 => word(at | 1 << 60, old) ^ word(at | 1 << 60, new),
        _ => word(at, old) ^ word(at, new),
    }
}
