//! The collector: concurrent, tracing, non-moving mark and sweep, without a stop (Go's shape, made crash-safe across processes).
//!
//! A cycle is a sequence of phase words, each a handshake that every P acknowledges at its next scope edge:
//!
//! ```text
//! OFF(n) -> BARRIER(n+1) -> BLACK(n+1) -> MARK(n+1) <-> ROUND(n+1) -> OFF(n+1)
//! ```
//! Nobody owns a cycle: each step is one compare-exchange of the phase word, its preparation can be repeated, and whoever finds
//! that a handshake is complete takes the next step (`gc_step`). So a death, of whomever, at whatever step, delays it only.
//!
//! The five rules that replace the stop are numbered in `DESIGN.md` 7 and cited where they are kept:
//! 1 two handshakes to start (`gc_start`), 2 shade, then store (`barrier`), 3 record, mark, push, clear (`gc_drain`),
//! 4 a clean round to end (`gc_mark_done`), 5 cached spans are their P's (`heap::cursor`, `heap::sweep`).

pub(crate) mod barrier;
pub(crate) mod checkmark;
pub(crate) mod gc_assist;
pub(crate) mod gc_bg_mark_worker;
pub mod gc_controller;
pub(crate) mod gc_drain;
pub(crate) mod gc_mark_done;
pub(crate) mod gc_start;
pub(crate) mod gctrace;
pub(crate) mod gcverify;
pub(crate) mod gcw;
pub(crate) mod handshake;
pub(crate) mod markroot;
pub(crate) mod stop_the_world;
pub mod verify;
pub(crate) mod weak;

pub use gc_start::request;
