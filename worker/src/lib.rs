//! The library half of `coheap-worker`: the built-in workloads, usable without a daemon.
//!
//! See [`workloads`].

pub mod workloads;
