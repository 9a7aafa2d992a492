//! What the other threads tell the poll loop: a queue, and an eventfd that makes `poll` return.
//!
//! ctrlc's handler runs on a thread of its own and does not interrupt a `poll` that another thread sleeps in; neither
//! does a channel. So whoever sends an event also writes the eventfd.

use crate::{error::DaemonError, heap::Death};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

/// Something another thread noticed.
#[derive(Debug)]
pub enum Event {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// These P's died and were recovered.
    Recovered(Vec<Death>),
    /// The heap asks for attention: a run's root task may be finished.
    Nudge,
}

/// The sending side.
#[derive(Clone)]
pub struct Notifier {
    queue: Sender<Event>,
    bell: Arc<EventFd>,
}

impl Notifier {
    /// Hands an event to the poll loop and wakes it. Never blocks.
    pub fn send(&self, event: Event) {
        if self.queue.send(event).is_ok() {
            // Fails only when the counter is full, and then the bell rings already.
            let _ = self.bell.write(1);
        }
    }
}

/// The receiving side.
pub struct Events {
    queue: Receiver<Event>,
    bell: Arc<EventFd>,
}

impl Events {
    /// Both sides.
    pub fn new() -> Result<(Notifier, Events), DaemonError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(
            EventFd::from_flags(flags).map_err(DaemonError::io("cannot make an eventfd"))?,
        );
        let (sender, queue) = channel();
        Ok((
            Notifier {
                queue: sender,
                bell: bell.clone(),
            },
            Events { queue, bell },
        ))
    }

    /// Everything there is, after silencing the bell.
    pub fn take(&self) -> Vec<Event> {
        // The bell first: an event sent after this read rings it again.
        let _ = self.bell.read();
        self.queue.try_iter().collect()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_sent_by_another_thread_rings_the_bell_once_and_is_taken_once() {
        let (notifier, events) = Events::new().expect("eventfd");
        std::thread::spawn(move || notifier.send(Event::Signal))
            .join()
            .expect("sent");
        let mut fds = [nix::poll::PollFd::new(
            events.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut fds, 1000u16).expect("poll"), 1);
        assert_eq!(events.take().len(), 1);
        assert_eq!(
            nix::poll::poll(&mut fds, 0u8).expect("poll"),
            0,
            "the bell still rings"
        );
        assert!(events.take().is_empty());
    }
}
