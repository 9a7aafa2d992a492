//! The scheduler: P's, run queues, tasks and their effects.
//!
//! A task (Go's G) is a record in the segment; a P (Go's P, here a leased thread of some process) claims runnable tasks and runs
//! one step at a time. Everything that another process would need to go on is in the segment.

pub(crate) mod commit;
pub(crate) mod find_runnable;
mod forget;
mod give_way;
pub(crate) mod given_up;
mod hold_back;
pub(crate) mod join;
pub(crate) mod lost_runs;
pub(crate) mod proc;
pub mod procresize;
pub(crate) mod run_queue;
pub(crate) mod scope;
pub mod task;
pub(crate) mod wake;

pub use find_runnable::{Idle, Outcome};
pub use join::Join;
pub use procresize::{procresize as resize, request_shutdown, shutdown_requested};
pub use task::{JoinRef, Kinds, Next, Step, Submitted, Task};
pub use wake::poke;
