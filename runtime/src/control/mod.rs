//! The control socket: how daemon, workers and tools of one heap find each other and talk.
//!
//! 1. [`paths`] says where: one directory per heap and user, holding the socket, the pid file, the lock and the log.
//! 2. [`instance`] says who: whoever holds the lock's `flock` *is* the daemon of that name; the kernel gives it back on a
//!    kill, so no stale pid file can lie about it.
//! 3. [`socket`] moves frames: `SOCK_SEQPACKET`, one packet is one message, a descriptor may ride along.
//! 4. [`channel`] moves messages of `coheap-protocol` over it, and does the first exchange ([`channel::call`]).
//!
//! **Invariants.**
//! - *C1.* Every descriptor made here is close-on-exec from its first instant, also those that arrive by `SCM_RIGHTS`.
//! - *C2.* Nothing is sent to a peer, and nothing it sent is decoded, before its uid was compared with ours.
//! - *C3.* A packet that was cut (`MSG_TRUNC`, `MSG_CTRUNC`) is never decoded.
//! - *C4.* No call blocks for ever: a blocking call carries a timeout, everything else does not block.
//!
//! **Rejected:** a stream socket (needs a length prefix, and a death can leave half a message); abstract socket names
//! (no file mode, any uid can squat them); `socketpair` for workers (`SO_PEERCRED` of an inherited pair names the
//! daemon itself, measured).
//!
//! **A death leaves** a socket file nobody listens on and an unlocked lock file. The next daemon takes the lock and
//! replaces both; a tool that meets them says "not running".

pub mod channel;
mod error;
pub mod instance;
pub mod paths;
pub mod socket;

pub use channel::{Called, Channel, call};
pub use error::ControlError;
pub use instance::Instance;
pub use paths::{Name, RuntimeDir};
pub use socket::{Listener, Peer, Received, Socket};
