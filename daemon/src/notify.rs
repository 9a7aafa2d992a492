//! systemd's notification protocol, as far as this daemon uses it: READY, STATUS, WATCHDOG, STOPPING.
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names, and nothing at all without it. The descriptor store is not used: the workers
//! outlive a restart of the daemon (`KillMode=process`) and hold the heap, and the next daemon takes it from them ([`crate::adopt`]).

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

/// Whoever supervises this daemon.
#[derive(Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
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
