//! End-to-end tests: real processes, real kills, oracles that are not our code.

pub mod sandbox;
