//! Messages instead of packets, and the first exchange of every connection.

use super::{ControlError, Received, RuntimeDir, Socket};
use coheap_protocol::{Answer, Hello, Welcome, decode, encode};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// A socket on which whole messages travel.
#[derive(Debug)]
pub struct Channel(Socket);

impl Channel {
    /// Talks over this socket.
    pub fn new(socket: Socket) -> Channel {
        Channel(socket)
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.0
    }

    /// The socket below, alone again.
    pub fn into_socket(self) -> Socket {
        self.0
    }

    /// Sends one message.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ControlError> {
        self.0.send(&encode(message)?, None)
    }

    /// Waits for one message, at most that long (`None`: without end).
    pub fn recv<T: DeserializeOwned>(&self, patience: Option<Duration>) -> Result<T, ControlError> {
        Ok(self.recv_with_fd(patience)?.0)
    }

    /// The same, with the descriptor that came along.
    pub fn recv_with_fd<T: DeserializeOwned>(
        &self,
        patience: Option<Duration>,
    ) -> Result<(T, Option<OwnedFd>), ControlError> {
        match self.0.recv(patience)? {
            Received::Frame(bytes, fd) => Ok((decode(&bytes)?, fd)),
            Received::Closed => Err(ControlError::Closed),
            Received::Nothing => Err(ControlError::TimedOut(patience.unwrap_or_default())),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a daemon that said welcome gave.
#[derive(Debug)]
pub struct Called {
    /// The connection.
    pub channel: Channel,
    /// Its words.
    pub welcome: Welcome,
    /// The segment's descriptor, for workers and readers.
    pub segment: Option<OwnedFd>,
}

/// Connects to the daemon behind a socket and says hello, all within `patience`.
///
/// `holding` is a segment's descriptor to hand over, for a worker that outlived its daemon.
///
/// ```no_run
/// use coheap::control::{call, paths::base_dir};
/// use coheap_protocol::{Hello, Request, Reply, Role};
/// use std::time::Duration;
/// let socket = base_dir().join("demo/control.sock");
/// let second = Duration::from_secs(1);
/// let called = call(&socket, &Hello::new(Role::Tool, 0, 0, "example"), None, second)?;
/// called.channel.send(&Request::Ping)?;
/// assert_eq!(called.channel.recv::<Reply>(Some(second))?, Reply::End(0));
/// # Ok::<(), coheap::control::ControlError>(())
/// ```
pub fn call(
    path: &Path,
    hello: &Hello,
    holding: Option<BorrowedFd<'_>>,
    patience: Duration,
) -> Result<Called, ControlError> {
    let began = Instant::now();
    let socket = Socket::connect(path, patience).map_err(|e| explain(path, e))?;
    socket.peer_of_our_uid()?;
    // A daemon that refuses by uid answers and closes without reading; its answer is worth more than our broken pipe.
    let sent = socket.send(&encode(hello)?, holding);
    let channel = Channel::new(socket);
    let left = patience
        .saturating_sub(began.elapsed())
        .max(Duration::from_millis(1));
    let (answer, segment) = match (channel.recv_with_fd::<Answer>(Some(left)), sent) {
        (Ok(answer), _) => answer,
        (Err(_), Err(sending)) => return Err(sending),
        (Err(receiving), Ok(())) => return Err(receiving),
    };
    match answer {
        Answer::Welcome(welcome) => Ok(Called {
            channel,
            welcome,
            segment,
        }),
        Answer::Refused(refused) => Err(ControlError::Refused(refused)),
    }
}

fn explain(path: &Path, e: io::Error) -> ControlError {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let name = RuntimeDir::of_socket(path)
                .map_or(path.display().to_string(), |d| d.name().to_string());
            ControlError::NotRunning {
                name,
                socket: path.into(),
            }
        }
        _ => ControlError::io(format!("cannot connect to {}", path.display()))(e),
    }
}
