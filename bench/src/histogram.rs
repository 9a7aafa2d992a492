//! A log-linear histogram of nanoseconds: 32 buckets to an octave, so a quantile is at most 3 % above the true one. Its counts are
//! plain words, so they can lie in the heap, where every process adds to them.

use serde_json::{Value, json};

/// Buckets that hold one value each, and buckets of each octave above.
const LINEAR: u64 = 64;
const PER_OCTAVE: u64 = LINEAR / 2;
/// Buckets for every 64-bit value.
pub const BUCKETS: usize = (LINEAR + (64 - LINEAR.ilog2() as u64) * PER_OCTAVE) as usize;

/// The bucket of a value.
pub fn bucket(ns: u64) -> usize {
    if ns < LINEAR {
        return ns as usize;
    }
    let shift = u64::from(ns.ilog2() - PER_OCTAVE.ilog2());
    (shift * PER_OCTAVE + (ns >> shift)) as usize
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < LINEAR {
        return bucket;
    }
    let shift = bucket / PER_OCTAVE - 1;
    let mantissa = bucket - shift * PER_OCTAVE;
    (mantissa << shift) + ((1 << shift) - 1)
}

/// Counts of values.
pub struct Histogram(Vec<u64>);

impl Histogram {
    /// Of these counts, by bucket.
    pub fn of_counts(counts: impl Iterator<Item = u64>) -> Histogram {
        Histogram(counts.collect())
    }

    /// Of these values.
    pub fn of_values(values: &[u64]) -> Histogram {
        let mut counts = vec![0; BUCKETS];
        for &ns in values {
            counts[bucket(ns)] += 1;
        }
        Histogram(counts)
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The value that a share of `q` does not exceed, rounded up to its bucket.
    pub fn quantile(&self, q: f64) -> u64 {
        let wanted = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        let at = self.0.iter().position(|&n| {
            seen += n;
            seen >= wanted
        });
        at.map_or(0, top)
    }

    /// The quantiles that the programs print, in microseconds.
    pub fn to_json(&self) -> Value {
        let us = |q| (self.quantile(q) as f64 / 10.0).round() / 100.0;
        json!({
            "n": self.count(), "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999), "p9999_us": us(0.9999),
            "max_us": us(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_values_up_to_its_top_and_no_others() {
        for b in 1..BUCKETS - 1 {
            assert_eq!((bucket(top(b)), bucket(top(b) + 1)), (b, b + 1));
            assert!(top(b) - top(b - 1) <= top(b) / 32 + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let h = Histogram::of_values(&(1..=50).collect::<Vec<_>>());
        assert_eq!((h.quantile(0.5), h.quantile(1.0)), (25, 50));
        assert_eq!(Histogram::of_values(&[]).quantile(0.5), 0);
    }
}
