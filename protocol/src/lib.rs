//! Messages between the coheap daemon, its workers and the tools people type.
//!
//! One connection is one `SOCK_SEQPACKET` stream; one packet is one message; no packet is longer than
//! [`FRAME_MAX`] bytes. This crate knows the messages and their bytes, and no sockets.
//!
//! 1. The connecting side sends a [`Hello`]: magic, protocol version, role, layout of the segment it was built for.
//! 2. The daemon answers with an [`Answer`]: `Welcome` (for workers and readers the segment's descriptor travels with
//!    it) or `Refused`, which says what differs and what to do.
//! 3. After that the role decides which enum each direction speaks:
//!    a tool sends [`Request`]s and reads [`Reply`]s; a worker sends [`WorkerSays`] and reads [`WorkerOrder`]s.
//!
//! A long reply is several frames: one row each, closed by [`Reply::End`], which counts them.
//!
//! **Invariants.**
//! - *P1.* Every message is decoded by [`codec::decode`] from one whole packet, with a limit, and with nothing left over.
//! - *P2.* No message type is recursive and no vector has elements of size zero: both would let a short hostile
//!   packet cost unbounded time (measured: `Vec<()>` of 2^33 passes bincode's limit after seconds of spinning).
//! - *P3.* The first eight bytes of [`Hello`] and the whole of [`Answer::Refused`] never change, so two versions that
//!   cannot talk can still tell each other so.
//!
//! **Rejected:** JSON on the wire (unbounded text before the first check); a length prefix (the packet is the frame);
//! one enum for both directions (a worker would have to handle, and could be sent, what only a daemon may hear).
//!
//! **A death leaves** at most a half-sent nothing: a packet arrives whole or not at all.

pub mod codec;
pub mod codes;
pub mod hello;
pub mod human;
pub mod run;
pub mod status;
mod tool;
pub mod usage;
mod worker;

pub use codec::{CodecError, FRAME_MAX, decode, encode};
pub use hello::{Answer, Hello, PROTOCOL_VERSION, Refused, Role, Welcome};
pub use run::{Outcome, Progress, RunId, RunRequest, Storm, Workload};
pub use status::{DeadRow, HeapNumbers, PsRow, Status, TaskRow, Totals};
pub use tool::{Reply, Request, SignalKind, StopMode};
pub use worker::{WorkerOrder, WorkerSays};
