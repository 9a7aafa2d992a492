//! systemd's notification protocol, as far as this daemon uses it: READY, STATUS, WATCHDOG, STOPPING, and the descriptor store.
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names, and nothing at all without it. A heap without a name (memfd) lives as long as
//! somebody holds its descriptor: the workers do (`KillMode=process`), and systemd does, which hands it to the next daemon as one of
//! `LISTEN_FDS`. So the heap outlives the death of the daemon *and* of all workers. At an ordered end it is taken out again.
#![expect(
    unsafe_code,
    reason = "takes over descriptors that systemd names by number"
)]

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

/// The heap's name in the descriptor store.
const STORED: &str = "coheap-heap";
/// The first descriptor that systemd hands over.
const FIRST: i32 = 3;
/// Variables that are for this process alone: not for the workers.
pub const OURS: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// The descriptor of the heap that the store kept, if it kept one. To be asked once: others of the same name are closed.
pub fn take_stored() -> Option<OwnedFd> {
    let var = |name: &str| std::env::var(name).ok();
    if var("LISTEN_PID")?.parse() != Ok(std::process::id()) {
        return None;
    }
    let (n, names) = (var("LISTEN_FDS")?.parse().ok()?, var("LISTEN_FDNAMES")?);
    let numbers = stored_numbers(n, &names);
    let mut fds = numbers.into_iter().map(|fd| {
        // SAFETY: systemd's protocol: in the process of `LISTEN_PID` these numbers are open and nobody else's. Only this function
        // takes them, and `serve` calls it once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    let kept = fds.next();
    fds.for_each(drop);
    let kept = kept?;
    // The kernel handed it over open for programs that we start, too.
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(kept)
}

fn stored_numbers(n: usize, names: &str) -> Vec<i32> {
    let named = names.split(':').take(n).zip(FIRST..);
    named
        .filter(|&(name, _)| name == STORED)
        .map(|(_, fd)| fd)
        .collect()
}

/// Whoever supervises this daemon.
#[derive(Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    keeps_heap: bool,
    every: Option<Duration>,
    next: Option<Instant>,
}

impl Supervisor {
    /// The one the environment names, if any. A socket that cannot be reached is as good as none.
    pub fn from_env() -> Supervisor {
        let path = std::env::var_os("NOTIFY_SOCKET");
        let address = path.and_then(|path| match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
            _ => SocketAddr::from_pathname(&path).ok(),
        });
        let connect = |address: &SocketAddr| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(address)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // Twice as often as is asked for, as the manual advises.
        let every = number("WATCHDOG_USEC")
            .filter(|_| mine)
            .map(|us| Duration::from_micros(us / 2));
        Supervisor {
            keeps_heap: false,
            socket: address.as_ref().and_then(|address| connect(address).ok()),
            every,
            next: None,
        }
    }

    fn say(&self, text: &str) {
        if let Some(socket) = &self.socket {
            // A supervisor that does not listen does not want to know.
            let _ = socket.send(text.as_bytes());
        }
    }

    /// Has the heap kept until it is taken out, whoever dies.
    pub fn store(&mut self, heap: BorrowedFd<'_>) {
        let Some(socket) = &self.socket else { return };
        let text = format!("FDSTORE=1\nFDNAME={STORED}");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [heap];
        let sent = ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds))
            && rustix::net::sendmsg(
                socket,
                &[IoSlice::new(text.as_bytes())],
                &mut ancillary,
                rustix::net::SendFlags::NOSIGNAL,
            )
            .is_ok();
        self.keeps_heap = sent;
        if !sent {
            log::warn!("ev=heap.not_stored msg=\"systemd did not take its descriptor\"");
        }
    }

    /// Whether the heap was handed over to be kept.
    pub fn keeps_heap(&self) -> bool {
        self.keeps_heap
    }

    /// Connections are accepted.
    pub fn ready(&mut self, status: &str) {
        self.say(&format!(
            "READY=1\nSTATUS={status}\nMAINPID={}",
            std::process::id()
        ));
        self.next = self.every.map(|every| Instant::now() + every);
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={STORED}"));
    }

    /// The poll loop still turns.
    pub fn tick(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.say("WATCHDOG=1");
            self.next = self.every.map(|every| now + every);
        }
    }

    /// When [`Supervisor::tick`] has something to say.
    pub fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.socket.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_found_by_its_name() {
        assert_eq!(stored_numbers(3, "x:coheap-heap:y"), [4]);
        assert_eq!(stored_numbers(1, "x:coheap-heap"), []);
        assert_eq!(stored_numbers(2, "coheap-heap:coheap-heap"), [3, 4]);
        assert_eq!(stored_numbers(0, ""), []);
    }
}
