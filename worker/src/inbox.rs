//! Between the control thread and the P: orders one way, words the other.
//!
//! Orders go into a queue; then the P is interrupted, which makes it return from its scheduling loop at the next edge of
//! a scope. Words of the P go into another queue; an eventfd wakes the control thread, which sleeps in `poll`.

use coheap::sched::Interrupter;
use coheap_protocol::{WorkerOrder, WorkerSays};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

/// The P's side.
pub struct Inbox {
    orders: Receiver<WorkerOrder>,
    says: Says,
    left: Receiver<()>,
}

/// The control thread's side.
pub struct Outbox {
    orders: Sender<WorkerOrder>,
    interrupter: Interrupter,
    /// For others who have something to say.
    pub says: Says,
    words: Receiver<WorkerSays>,
    left: Sender<()>,
}

/// Says something to the daemon, from any thread.
#[derive(Clone)]
pub struct Says {
    words: Sender<WorkerSays>,
    bell: Arc<EventFd>,
    gone: Arc<AtomicBool>,
}

impl Says {
    /// Hands the word to the control thread. Never blocks; lost if the daemon is.
    pub fn say(&self, word: WorkerSays) {
        if self.words.send(word).is_ok() {
            // A full counter rings already.
            let _ = self.bell.write(1);
        }
    }

    /// What the control thread polls.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }
}

/// Both sides.
pub fn pair(interrupter: Interrupter) -> io::Result<(Inbox, Outbox)> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let (order, orders) = channel();
    let (word, words) = channel();
    let (leave, left) = channel();
    let says = Says {
        words: word,
        bell: Arc::new(bell),
        gone: Arc::new(AtomicBool::new(false)),
    };
    let inbox = Inbox {
        orders,
        says: says.clone(),
        left,
    };
    Ok((
        inbox,
        Outbox {
            orders: order,
            interrupter,
            says,
            words,
            left: leave,
        },
    ))
}

impl Inbox {
    /// The next order, if there is one.
    pub fn next(&self) -> Option<WorkerOrder> {
        self.orders.try_recv().ok()
    }

    /// Says something to the daemon.
    pub fn say(&self, word: WorkerSays) {
        self.says.say(word);
    }

    /// Says goodbye, and waits until it was sent: the process ends next, and would take the word with it.
    pub fn leave(&self) {
        self.says.gone.store(true, Ordering::Relaxed);
        self.say(WorkerSays::Leaving);
        // An error means that the control thread has ended; a time-out that the daemon does not read. Neither is a
        // reason to stay.
        let _ = self.left.recv_timeout(Duration::from_millis(200));
    }
}

impl Outbox {
    /// Hands an order to the P and makes it look.
    pub fn order(&self, order: WorkerOrder) {
        if self.orders.send(order).is_ok() {
            self.interrupter.interrupt();
        }
    }

    /// The next word to send.
    pub fn next(&self) -> Option<WorkerSays> {
        // The bell first: a word said after this read rings it again.
        let _ = self.says.bell.read();
        self.words.try_recv().ok()
    }

    /// The last word was sent.
    pub fn left(&self) {
        // Nobody waits any more: then the process is ending.
        let _ = self.left.send(());
    }

    /// Whether the P was given back.
    pub fn is_gone(&self) -> bool {
        self.says.gone.load(Ordering::Relaxed)
    }
}
