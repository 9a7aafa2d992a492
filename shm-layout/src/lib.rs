//! The bytes every coheap process agrees on.
//!
//! This crate declares the words, tables, offsets and sizes of the shared segment and nothing that acts on them: it knows no
//! system call, allocates nothing and takes no lock. Two binaries that were built from different versions of it must refuse to
//! share a segment; [`header::LAYOUT_HASH`] is how they notice.
//!
//! # Two kinds of state
//! *Primary words* are the truth: one 64-bit word per record (a P, a task, a span, a work buffer, a mark worker), moved only by
//! compare-exchange, naming state, owner and owner incarnation. *Derived structures* (free bitmaps, run queues, partial lists,
//! statistics) are fast ways to find a record, and can be rebuilt from the words. The table in each module says which is which
//! and who repairs it after a death.
//!
//! # Units
//! A *granule* is 8 bytes, a *page* 8 KiB, a *chunk* 4 MiB. A *reference* is a `u32` count of granules from the heap's base;
//! zero is nil. No pointer is ever stored.
#![no_std]

pub mod bits;
pub mod deaths;
pub mod geometry;
pub mod header;
pub mod proc;
pub mod size_class;
pub mod span;
pub mod sync;
pub mod tables;
pub mod task;
pub mod trace;
pub mod word;
pub mod workbuf;
pub mod worker;

/// Bytes in a granule, the unit of references.
pub const GRANULE_BYTES: usize = 8;
/// Bytes in a page, the unit of spans.
pub const PAGE_BYTES: usize = 8 << 10;
/// Granules in a page: also the mark bits a page needs.
pub const PAGE_GRANULES: usize = PAGE_BYTES / GRANULE_BYTES;
/// Bytes in a chunk, the unit in which memory is reserved and given back.
pub const CHUNK_BYTES: usize = 4 << 20;
/// Pages in a chunk.
pub const CHUNK_PAGES: usize = CHUNK_BYTES / PAGE_BYTES;
/// Records in the P table.
pub const MAX_P: usize = small(64, 256);
/// Records in the mark worker table: twice the P's, because a worker can be away in `gc_mark_done` while its home has started another.
pub const MAX_WORKERS: usize = 2 * MAX_P;
/// The largest heap that 32-bit references can address, in bytes.
pub const MAX_HEAP_BYTES: u64 = 32 << 30;

/// A table's size: the explorer's segments have small tables, so that an execution does not spend its time on looking at empty ones.
const fn small(explorer: usize, product: usize) -> usize {
    if cfg!(feature = "model") {
        explorer
    } else {
        product
    }
}

/// A reference: granules from the heap's base; 0 is nil.
pub type Ref = u32;
