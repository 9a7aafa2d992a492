//! Between the control thread and the P: orders one way, words the other.
//!
//! Orders go into a queue and raise a flag, which the P looks at between two pieces of work and before each sleep (no
//! longer than 10 ms). Words of the P go into another queue; an eventfd wakes the control thread, which sleeps in `poll`.

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
    pending: Arc<AtomicBool>,
    says: Says,
    left: Receiver<()>,
}

/// The control thread's side.
pub struct Outbox {
    orders: Sender<WorkerOrder>,
    pending: Arc<AtomicBool>,
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
pub fn pair() -> io::Result<(Inbox, Outbox)> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let (order, orders) = channel();
    let (word, words) = channel();
    let (leave, left) = channel();
    let says = Says {
        words: word,
        bell: Arc::new(bell),
        gone: Arc::new(AtomicBool::new(false)),
    };
    let pending = Arc::new(AtomicBool::new(false));
    let inbox = Inbox {
        orders,
        pending: pending.clone(),
        says: says.clone(),
        left,
    };
    Ok((
        inbox,
        Outbox {
            orders: order,
            pending,
            says,
            words,
            left: leave,
        },
    ))
}

impl Inbox {
    /// Whether there are orders the P has not looked at.
    pub fn is_pending(&self) -> bool {
        // Relaxed: a hint to look; the queue itself orders what is in it.
        self.pending.load(Ordering::Relaxed)
    }

    /// The next order, if there is one.
    pub fn next(&self) -> Option<WorkerOrder> {
        // Lowered first: an order that comes after this look raises it again.
        self.pending.store(false, Ordering::Relaxed);
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
            self.pending.store(true, Ordering::Relaxed);
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
