//! What is known about the deaths: each looked at once, when its record is complete.
//!
//! The segment remembers the last 64 deaths, so this has to be called more often than 64 workers die.

use std::collections::BTreeMap;

use coheap::{recover::Death, segment::Segment};

use crate::Trouble;

/// Deaths of one heap and, added up, of all.
#[derive(Default)]
pub struct Tally {
    known: BTreeMap<u64, Death>,
    /// Deaths of all heaps.
    pub deaths: u64,
    gaps: Vec<u64>,
    /// The longest of them, and who waited for whom.
    longest: Option<(u64, String)>,
    detects: Vec<u64>,
    repairs: Vec<u64>,
}

impl Tally {
    /// Takes note of what the segment remembers now.
    pub fn look(&mut self, segment: &Segment) {
        for death in segment.deaths() {
            self.known.insert(death.number, death);
        }
    }

    /// How many of this heap are known.
    pub fn here(&self) -> u64 {
        self.known.len() as u64
    }

    /// A heap ends: its deaths are added up. Each must stand there once, be repaired, and have been ours.
    pub fn close(&mut self) -> Result<(), Trouble> {
        let deaths: Vec<Death> = std::mem::take(&mut self.known).into_values().collect();
        let mut seen = BTreeMap::new();
        for death in &deaths {
            if let Some(first) = seen.insert((death.p, death.pid, death.incarnation), death.number)
            {
                return Err(Trouble::violation(format!(
                    "death {} is listed again: {first}, {death:#?}",
                    death.number
                )));
            }
            if death.status.is_some_and(|s| s != 9) {
                return Err(Trouble::violation(format!(
                    "a worker ended by itself: {death:#?}"
                )));
            }
            if death.repair_ns.is_none() {
                return Err(Trouble::violation(format!("never repaired: {death:#?}")));
            }
        }
        self.deaths += deaths.len() as u64;
        for death in &deaths {
            let (Some(gap), Some(waiter)) = (death.gap_ns, death.waiter) else {
                continue;
            };
            if self.longest.as_ref().is_none_or(|(ns, _)| gap > *ns) {
                let who = format!("P{waiter}, when P{} died ({})", death.p, death.at);
                self.longest = Some((gap, who));
            }
        }
        self.gaps.extend(deaths.iter().filter_map(|d| d.gap_ns));
        self.detects
            .extend(deaths.iter().filter_map(|d| d.detect_ns));
        self.repairs
            .extend(deaths.iter().filter_map(|d| d.repair_ns));
        Ok(())
    }

    /// The figures, for people.
    pub fn summary(&mut self) -> String {
        format!(
            "survivor gap {} (longest: {}); noticed {}; repaired {}",
            quantiles(&mut self.gaps),
            self.longest.as_ref().map_or("nobody", |(_, who)| who),
            quantiles(&mut self.detects),
            quantiles(&mut self.repairs)
        )
    }
}

fn quantiles(ns: &mut [u64]) -> String {
    ns.sort_unstable();
    let at = |q: f64| {
        let i = (ns.len() as f64 * q).ceil() as usize;
        ns.get(i.saturating_sub(1).min(ns.len().saturating_sub(1)))
            .map_or("-".into(), |ns| format!("{:.3}", *ns as f64 / 1e6))
    };
    format!(
        "p50 {} p99 {} p99.9 {} max {} ms (of {})",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        ns.len()
    )
}
