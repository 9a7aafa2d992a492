//! # coheap
//! A garbage-collected heap that several processes share on Linux, and that `kill -9` cannot break.
//!
//! Every process that attaches acts as a *P*, a scheduler processor in Go's sense: it allocates typed objects in one shared
//! segment, runs tasks, steals work from the other processes and helps the concurrent collector.
//!
//! ```
//! use coheap::*;
//!
//! #[derive(Shared)]
//! struct Node { left: Slot<Node>, right: Slot<Node>, value: u64 }
//!
//! let segment = Segment::create(&SegmentConfig { max_bytes: 64 << 20, ..SegmentConfig::default() })?;
//! let mut p = P::lease(segment)?;
//! p.enter(|cx| {
//!     let cx = &*cx;
//!     let tree = cx.alloc(Node { left: Slot::nil(), right: Slot::nil(), value: 1 })?;
//!     tree.left.store(cx, Some(cx.alloc(Node { left: Slot::nil(), right: Slot::nil(), value: 2 })?));
//!     cx.root::<Node>("tree")?.set(cx, Some(tree));
//!     Ok::<(), Error>(())
//! })?;
//! assert!(p.collect());
//! assert_eq!(p.enter(|cx| cx.root::<Node>("tree").unwrap().get(cx).unwrap().left.load(cx).unwrap().value), 2);
//! # Ok::<(), Error>(())
//! ```
//! Where to look: [`Segment`] (memory), [`P`] and [`Cx`] (scopes), [`Gc`] and [`Slot`] (references), [`GcVec`], [`GcMap`],
//! [`Queue`] (collections), [`Task`] (work),
//! [`gc`] (the collector), [`recover`] (deaths).

extern crate self as coheap;

mod api;
pub mod control;
mod debug;
mod error;
#[doc(hidden)]
pub mod failpoint;
mod futex;
pub mod gc;
mod heap;
mod inspect;
pub mod life;
#[cfg(feature = "model")]
#[doc(hidden)]
pub mod model;
mod names;
#[doc(hidden)]
pub mod plant;
#[doc(hidden)]
pub mod probe;
pub mod recover;
mod retained;
mod robust;
pub mod sched;
pub mod segment;
mod status;
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub mod stepping;
pub mod sysmon;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod throw;
mod time;
mod trace;
#[doc(hidden)]
pub mod twin;

pub use api::{
    Array, Cx, Element, Field, FieldDesc, Gc, GcMap, GcStr, GcVec, Handle, P, Queue, RefMap, Root,
    Shared, Slot, Target, TypeCell, Types, Weak, mix_keys,
};
pub use coheap_macros::Shared;
pub use error::{Error, Result};
pub use inspect::{RootStatus, ShapeStatus, SlotStatus};
pub use retained::{Holder, Retained};
pub use sched::{Idle, Join, JoinRef, Kinds, Next, Outcome, Step, Submitted, Task};
pub use segment::{Backing, Segment, SegmentConfig};
pub use shm_layout::PAGE_BYTES;
pub use status::{ProcStatus, Status, TaskStatus};
pub use trace::{Happened, TraceEvent};
