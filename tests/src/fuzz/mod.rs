//! Fuzzing: hostile segments ([`segment`]) and hostile messages ([`frames`]), from seeds.
//!
//! Every case is a function of its seed, so a finding is replayed by its number. The short form runs in the ordinary tests
//! (`tests/tests/fuzz.rs`), the long form is a command: `cargo run --release -p coheap-tests --bin fuzz -- --minutes 30 --seed 1`.

pub mod frames;
pub mod segment;
