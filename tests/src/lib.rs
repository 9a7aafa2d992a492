//! End-to-end tests: real processes, real kills, oracles that are not our code.

pub mod fuzz;
pub mod sandbox;
pub mod syscalls;
pub mod weak;
