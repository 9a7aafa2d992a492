//! Packets over a Unix `SOCK_SEQPACKET` socket, with at most one descriptor each way.
//!
//! std has no such socket type. Sending and receiving go through rustix, whose ancillary messages own the descriptors
//! they carry, so no `unsafe` is needed here; options that only nix knows (`SO_PEERPIDFD`) go through nix.
//!
//! A packet is received into [`FRAME_MAX`] bytes. A longer one shows `MSG_TRUNC` and is reported as [`ControlError::Cut`];
//! the next packet is intact. Room is made for a few descriptors although one is expected: those beyond the first are
//! closed at once, and if even more come the kernel closes them and says `MSG_CTRUNC`.

use super::ControlError;
use coheap_protocol::FRAME_MAX;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    time::Duration,
};

/// Who is at the other end, as the kernel says.
#[derive(Debug)]
pub struct Peer {
    /// Process that connected (or listened).
    pub pid: u32,
    /// Its effective uid then.
    pub uid: u32,
    /// A pidfd of exactly that process, where the kernel gives one (6.5 and later).
    pub pidfd: Option<OwnedFd>,
}

/// What `recv` found.
#[derive(Debug)]
pub enum Received {
    /// One whole packet, and the descriptor that came with it.
    Frame(Vec<u8>, Option<OwnedFd>),
    /// The other end is gone.
    Closed,
    /// Nothing is there now.
    Nothing,
}

/// One connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

fn new_socket(more: SockFlag) -> Result<OwnedFd, ControlError> {
    socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | more,
        None,
    )
    .map_err(|e| ControlError::io("cannot make a Unix socket")(e.into()))
}

fn address(path: &Path) -> Result<UnixAddr, ControlError> {
    UnixAddr::new(path).map_err(|_| ControlError::PathTooLong(path.into()))
}

impl Listener {
    /// Listens at a path that does not exist yet; the socket file is 0600.
    pub fn bind(path: &Path) -> Result<Listener, ControlError> {
        let fail =
            |e: io::Error| ControlError::io(format!("cannot listen on {}", path.display()))(e);
        let fd = new_socket(SockFlag::SOCK_NONBLOCK)?;
        socket::bind(fd.as_raw_fd(), &address(path)?).map_err(|e| fail(e.into()))?;
        // Before listen: until then nobody can connect, whatever the mode was.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        let backlog = Backlog::new(128).map_err(|e| fail(e.into()))?;
        socket::listen(&fd, backlog).map_err(|e| fail(e.into()))?;
        Ok(Listener(fd))
    }

    /// Takes a waiting connection, if there is one.
    pub fn accept(&self) -> Result<Option<Socket>, ControlError> {
        use rustix::net::{SocketFlags, accept_with};
        match accept_with(&self.0, SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Some(Socket(fd))),
            Err(
                rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR | rustix::io::Errno::AGAIN,
            ) => Ok(None),
            Err(e) => Err(ControlError::io("cannot accept a connection")(e.into())),
        }
    }
}

impl Socket {
    /// Connects, waiting at most that long for room in the queue of the listener.
    pub fn connect(path: &Path, patience: Duration) -> Result<Socket, io::Error> {
        let fd = socket::socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let socket = Socket(fd);
        socket.set_send_timeout(patience)?;
        socket::connect(socket.0.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(socket)
    }

    /// Two ends of one connection, to hand one of them to a child.
    pub fn pair() -> Result<(Socket, Socket), ControlError> {
        let (a, b) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|e| ControlError::io("cannot make a socket pair")(e.into()))?;
        Ok((Socket(a), Socket(b)))
    }

    /// Takes over a descriptor that is such a socket.
    pub fn from_fd(fd: OwnedFd) -> Socket {
        Socket(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// No blocking send may last longer than this.
    pub fn set_send_timeout(&self, patience: Duration) -> io::Result<()> {
        // Zero would mean "for ever" to the kernel.
        let patience = patience.max(Duration::from_millis(1));
        rustix::net::sockopt::set_socket_timeout(
            &self.0,
            rustix::net::sockopt::Timeout::Send,
            Some(patience),
        )?;
        Ok(())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Result<Peer, ControlError> {
        let fail = |e: nix::errno::Errno| ControlError::io("cannot ask who is connected")(e.into());
        let who = socket::getsockopt(&self.0, sockopt::PeerCredentials).map_err(fail)?;
        // Absent on kernels before 6.5, and when the process is gone already: then the pid is all there is.
        let pidfd = socket::getsockopt(&self.0, sockopt::PeerPidfd).ok();
        Ok(Peer {
            pid: who.pid().cast_unsigned(),
            uid: who.uid(),
            pidfd,
        })
    }

    /// The peer, if it runs under our uid; an error that names both uids otherwise (C2).
    pub fn peer_of_our_uid(&self) -> Result<Peer, ControlError> {
        let peer = self.peer()?;
        let ours = nix::unistd::geteuid().as_raw();
        if peer.uid == ours {
            Ok(peer)
        } else {
            Err(ControlError::OtherUid {
                theirs: peer.uid,
                ours,
            })
        }
    }

    /// Sends one packet, waiting for room as long as the send timeout says.
    pub fn send(&self, frame: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        match self.send_with(frame, fd, SendFlags::NOSIGNAL)? {
            true => Ok(()),
            false => Err(ControlError::TimedOut(Duration::ZERO)),
        }
    }

    /// Sends one packet if there is room now; `false` if there is none.
    pub fn try_send(&self, frame: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<bool, ControlError> {
        self.send_with(frame, fd, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(
        &self,
        frame: &[u8],
        fd: Option<BorrowedFd<'_>>,
        flags: SendFlags,
    ) -> Result<bool, ControlError> {
        use rustix::io::Errno;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let fds = [fd.unwrap_or(self.0.as_fd())];
        loop {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if fd.is_some() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(frame)], &mut ancillary, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(e) => {
                    return Err(ControlError::io("cannot send on the control socket")(
                        e.into(),
                    ));
                }
            }
        }
    }

    /// Waits at most that long for one packet (`None`: without end); [`Received::Nothing`] if none came.
    pub fn recv(&self, patience: Option<Duration>) -> Result<Received, ControlError> {
        if readable(self.0.as_fd(), patience)? {
            self.try_recv()
        } else {
            Ok(Received::Nothing)
        }
    }

    /// Takes one packet if there is one now.
    pub fn try_recv(&self) -> Result<Received, ControlError> {
        use rustix::io::Errno;
        let mut frame = vec![0u8; FRAME_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let mut tries = 0;
        let got = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut frame)],
                &mut ancillary,
                flags,
            ) {
                Ok(got) => break got,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                // A signal says nothing about the socket: "nothing" would be taken for a deadline that has passed.
                Err(Errno::INTR) => {}
                // The other end closed without reading all we sent. The kernel says that once and first, although a
                // last word may be queued behind it: a refusal, for example.
                Err(Errno::CONNRESET) if tries < 2 => tries += 1,
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Err(e) => {
                    return Err(ControlError::io("cannot receive on the control socket")(
                        e.into(),
                    ));
                }
            }
        };
        let fd = first_fd(&mut ancillary);
        if got
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(ControlError::Cut(got.bytes));
        }
        if got.bytes == 0 {
            return Ok(Received::Closed);
        }
        frame.truncate(got.bytes);
        Ok(Received::Frame(frame, fd))
    }
}

/// Keeps the first descriptor and closes the others: whoever sends more does not know this protocol.
fn first_fd(ancillary: &mut RecvAncillaryBuffer<'_>) -> Option<OwnedFd> {
    let mut first = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fds.for_each(|fd| {
                first.get_or_insert(fd);
            });
        }
    }
    first
}

fn readable(fd: BorrowedFd<'_>, patience: Option<Duration>) -> Result<bool, ControlError> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let deadline = patience.map(|p| std::time::Instant::now() + p);
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(std::time::Instant::now()));
        // Rounded up: a remainder below a millisecond must not spin.
        let timeout = left.map_or(PollTimeout::NONE, |l| {
            PollTimeout::try_from(l.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_some_and(|l| l.is_zero()) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => return Ok(true),
            Err(e) => {
                return Err(ControlError::io("cannot wait on the control socket")(
                    e.into(),
                ));
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn frame(received: Received) -> (Vec<u8>, Option<OwnedFd>) {
        match received {
            Received::Frame(bytes, fd) => (bytes, fd),
            other => panic!("no frame but {other:?}"),
        }
    }

    #[test]
    fn packets_keep_their_bounds_and_a_closed_end_shows() {
        let (a, b) = Socket::pair().expect("pair");
        a.send(b"one", None).expect("send");
        a.send(b"second", None).expect("send");
        assert_eq!(frame(b.recv(NOW).expect("recv")).0, b"one");
        assert_eq!(frame(b.recv(NOW).expect("recv")).0, b"second");
        assert!(matches!(b.recv(NOW), Ok(Received::Nothing)));
        drop(a);
        assert!(matches!(b.recv(NOW), Ok(Received::Closed)));
        assert!(matches!(b.send(b"x", None), Err(ControlError::Closed)));
    }

    #[test]
    fn an_oversize_packet_is_reported_and_the_next_one_is_whole() {
        let (a, b) = Socket::pair().expect("pair");
        a.send(&[7; 8000], None).expect("send");
        a.send(b"after", None).expect("send");
        assert!(matches!(b.recv(NOW), Err(ControlError::Cut(8000))));
        assert_eq!(frame(b.recv(NOW).expect("recv")).0, b"after");
    }

    #[test]
    fn a_descriptor_arrives_close_on_exec() {
        let (a, b) = Socket::pair().expect("pair");
        let file = fs::File::open("/dev/null").expect("open");
        a.send(b"fd", Some(file.as_fd())).expect("send");
        let (_, fd) = frame(b.recv(NOW).expect("recv"));
        let flags = fcntl(fd.expect("a descriptor"), FcntlArg::F_GETFD).expect("F_GETFD");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn the_last_word_of_an_end_that_closed_without_reading_is_heard() {
        let (a, b) = Socket::pair().expect("pair");
        b.send(b"never read", None).expect("send");
        a.send(b"refused", None).expect("send");
        drop(a);
        assert_eq!(frame(b.recv(NOW).expect("recv")).0, b"refused");
        assert!(matches!(b.recv(NOW), Ok(Received::Closed)));
    }

    #[test]
    fn a_full_queue_is_no_reason_to_wait() {
        let (a, _b) = Socket::pair().expect("pair");
        let sent = (0..10_000)
            .take_while(|_| a.try_send(&[0; 4096], None).expect("send"))
            .count();
        assert!(sent < 10_000, "the queue never filled");
        a.set_send_timeout(Duration::from_millis(5))
            .expect("timeout");
        assert!(matches!(
            a.send(&[0; 4096], None),
            Err(ControlError::TimedOut(_))
        ));
    }

    #[test]
    fn the_listener_is_private_and_knows_who_came() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let path = tmp.path().join("s");
        let listener = Listener::bind(&path).expect("bind");
        assert_eq!(
            fs::metadata(&path).expect("stat").permissions().mode() & 0o777,
            0o600
        );
        assert!(listener.accept().expect("accept").is_none());
        let client = Socket::connect(&path, Duration::from_secs(1)).expect("connect");
        let server = listener.accept().expect("accept").expect("a connection");
        let us = std::process::id();
        assert_eq!(server.peer_of_our_uid().expect("peer").pid, us);
        assert_eq!(client.peer_of_our_uid().expect("peer").pid, us);
    }
}
