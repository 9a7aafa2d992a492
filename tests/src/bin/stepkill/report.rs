//! The report: what came of each operation, a row of the table each, and which branches of recovery a run has taken.
//!
//! 1. Every mode counts what it did into the [`Outcome`] of its operation, and adds its failures.
//! 2. The operation's row is printed as soon as it is through, its first failures below it (all with `-v`).
//! 3. At the end: the sum, and the branches of recovery.
//!
//! **A full run that has missed a branch has failed**: a branch that nothing reaches is not tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use coheap::Segment;

use crate::options::Args;

/// One failure.
pub struct Failure {
    pub mode: &'static str,
    pub instruction: u64,
    pub place: String,
    pub changed: String,
    pub what: String,
}

/// Results of one operation.
#[derive(Default)]
pub struct Outcome {
    pub instructions: u64,
    pub images: usize,
    pub kills: usize,
    pub stops: usize,
    pub doubles: usize,
    pub probes: BTreeMap<String, u64>,
    pub failures: Vec<Failure>,
}

impl Outcome {
    /// Adds what came of another operation.
    pub fn add(&mut self, other: Outcome) {
        self.instructions += other.instructions;
        self.images += other.images;
        self.kills += other.kills;
        self.stops += other.stops;
        self.doubles += other.doubles;
        for (name, n) in other.probes {
            *self.probes.entry(name).or_default() += n;
        }
        self.failures.extend(other.failures);
    }

    /// Counts the branches that recovery took since `before`. Which they are.
    pub fn count_probes(
        &mut self,
        before: &BTreeMap<String, u64>,
        segment: &Segment,
    ) -> BTreeSet<String> {
        let mut new = BTreeSet::new();
        for (name, n) in segment.probes() {
            let more = n - before.get(&name).copied().unwrap_or(0);
            if more > 0 {
                new.insert(name.clone());
            }
            *self.probes.entry(name).or_default() += more;
        }
        new
    }

    /// Adds a failure.
    pub fn fail(
        &mut self,
        mode: &'static str,
        instruction: u64,
        place: &str,
        changed: &str,
        what: String,
    ) {
        self.failures.push(Failure {
            mode,
            instruction,
            place: place.into(),
            changed: changed.into(),
            what,
        });
    }

    /// Prints the row of operation `name`, and its first failures, or all.
    pub fn print_row(&self, name: &str, took: Duration, verbose: bool) {
        println!(
            "{:<22} {:>9} {:>7} {:>6} {:>6} {:>7} {:>9} {:>6.1}s",
            name,
            self.instructions,
            self.images,
            self.kills,
            self.stops,
            self.doubles,
            self.failures.len(),
            took.as_secs_f64()
        );
        let shown = if verbose { usize::MAX } else { 4 };
        for f in self.failures.iter().take(shown) {
            println!(
                "    {} after instruction {} [{}], at {}: {}",
                f.mode, f.instruction, f.changed, f.place, f.what
            );
        }
        if self.failures.len() > shown {
            println!("    and {} more", self.failures.len() - shown);
        }
        // Shown at once also through a pipe.
        let _ = std::io::stdout().flush();
    }

    /// Prints the sum.
    pub fn print_total(&self, took: Duration) {
        println!(
            "total: {} instructions, {} images, {} kills, {} stops, {} double faults, {} failures, {:.1?}",
            self.instructions,
            self.images,
            self.kills,
            self.stops,
            self.doubles,
            self.failures.len(),
            took
        );
    }
}

/// Prints the head of the table.
pub fn print_heading(args: &Args) {
    println!("stepkill: mode {}, seed {}", args.mode, args.seed);
    println!(
        "{:<22} {:>9} {:>7} {:>6} {:>6} {:>7} {:>9} {:>7}",
        "operation", "instrs", "images", "kills", "stops", "double", "failures", "time"
    );
}

/// Prints which branches of recovery were taken. True when a full run has missed one.
pub fn print_coverage(total: &Outcome, full: bool) -> bool {
    let missed: Vec<&str> = total
        .probes
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(name, _)| name.as_str())
        .collect();
    let taken: Vec<String> = total
        .probes
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    println!("recovery branches taken: {}", taken.join(", "));
    if full && !missed.is_empty() {
        println!(
            "recovery branches that nothing reaches: {}",
            missed.join(", ")
        );
    }
    full && !missed.is_empty()
}
