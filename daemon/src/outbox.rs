//! A connection the daemon writes to without ever waiting for it.
//!
//! What the socket does not take now waits in a queue until `poll` says that there is room. Somebody who does not read
//! cannot hold the daemon, nor its memory: after [`OUTBOX_FRAMES`] frames the connection is closed.

use coheap::control::{ControlError, Socket};
use coheap_protocol::encode;
use serde::Serialize;
use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

/// Frames that may wait for a slow reader. `ps` of a full table is 256 rows.
pub const OUTBOX_FRAMES: usize = 1024;

/// A socket and what it has not taken yet.
pub struct Outbox {
    socket: Socket,
    waiting: VecDeque<Vec<u8>>,
}

impl Outbox {
    /// Writes to this socket.
    pub fn new(socket: Socket) -> Outbox {
        Outbox {
            socket,
            waiting: VecDeque::new(),
        }
    }

    /// The socket, for reading.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends now what fits, keeps the rest. An error means that the connection is of no use any more.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ControlError> {
        if self.waiting.len() >= OUTBOX_FRAMES {
            return Err(ControlError::Closed);
        }
        self.waiting.push_back(encode(message)?);
        self.flush()
    }

    /// Sends what fits now.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while let Some(frame) = self.waiting.front() {
            if !self.socket.try_send(frame, None)? {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Whether `poll` should ask for room.
    pub fn wants_room(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coheap_protocol::Reply;

    #[test]
    fn a_reader_that_sleeps_gets_everything_later_or_is_given_up() {
        let (ours, theirs) = Socket::pair().expect("pair");
        let mut outbox = Outbox::new(ours);
        let row = Reply::Text("x".repeat(4000));
        let mut sent = 0;
        while outbox.send(&row).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "the queue never ends");
        }
        assert!(outbox.wants_room());
        let mut read = 0;
        while outbox.wants_room() {
            while let Ok(coheap::control::Received::Frame(..)) = theirs.try_recv() {
                read += 1;
            }
            outbox.flush().expect("room again");
        }
        while let Ok(coheap::control::Received::Frame(..)) = theirs.try_recv() {
            read += 1;
        }
        assert_eq!(read, sent);
    }
}
