//! What goes wrong on the way to a daemon, in words that say what to do.

use coheap_protocol::{CodecError, Refused, codes};
use std::{io, path::PathBuf, time::Duration};

/// A failure of the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon runs under the name `{name}` ({} does not answer)", socket.display())]
    NotRunning {
        /// The heap's name.
        name: String,
        /// Where it would listen.
        socket: PathBuf,
    },
    /// The name cannot be a directory's name.
    #[error(
        "`{0}` is no name for a heap: 1 to 32 of a-z A-Z 0-9 _ . - are, not beginning with . or -"
    )]
    BadName(String),
    /// The path does not fit into a socket address.
    #[error("the socket path {} is {} bytes long, and the kernel takes 107", .0.display(), .0.as_os_str().len())]
    PathTooLong(PathBuf),
    /// A directory others could tamper with.
    #[error("{} cannot hold a control socket: {why}", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another daemon holds the name.
    #[error("a daemon named `{name}` runs already, pid {pid}")]
    AlreadyRunning {
        /// The heap's name.
        name: String,
        /// The daemon's process.
        pid: String,
    },
    /// The process at the other end belongs to somebody else.
    #[error("the process at the other end has uid {theirs}, this one has uid {ours}")]
    OtherUid {
        /// The peer's uid.
        theirs: u32,
        /// Our uid.
        ours: u32,
    },
    /// The other end is gone.
    #[error("the connection was closed by the other end")]
    Closed,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Bytes that are no message.
    #[error(transparent)]
    Frame(#[from] CodecError),
    /// A packet that arrived cut.
    #[error("a packet of {0} bytes arrived cut: it, or the descriptors with it, were too many")]
    Cut(usize),
    /// The daemon said no.
    #[error("{}", .0.what)]
    Refused(Refused),
    /// The answer makes no sense here.
    #[error("the daemon answered something else than was asked for: {0}")]
    Unexpected(String),
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ControlError {
    /// Adds what was tried to what the system said.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> ControlError {
        let what = what.into();
        move |source| ControlError::Io { what, source }
    }

    /// The exit code a command ends with because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            ControlError::NotRunning { .. } => codes::NOT_RUNNING,
            ControlError::BadName(_) | ControlError::PathTooLong(_) => codes::USAGE,
            ControlError::UnsafeDirectory { .. } | ControlError::OtherUid { .. } => {
                codes::NOT_PERMITTED
            }
            ControlError::AlreadyRunning { .. } => codes::BUSY,
            ControlError::TimedOut(_) => codes::TIMEOUT,
            ControlError::Refused(refused) => refused.code,
            ControlError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                codes::NOT_PERMITTED
            }
            _ => codes::FAILED,
        }
    }

    /// Its number in the documentation.
    pub fn code(&self) -> &str {
        match self {
            ControlError::NotRunning { .. } => "E030",
            ControlError::AlreadyRunning { .. } => "E092",
            ControlError::OtherUid { .. } => "E042",
            ControlError::UnsafeDirectory { .. } => "E041",
            ControlError::BadName(_) => "E021",
            ControlError::PathTooLong(_) => "E022",
            ControlError::TimedOut(_) => "E091",
            ControlError::Closed => "E014",
            ControlError::Frame(_) | ControlError::Cut(_) | ControlError::Unexpected(_) => "E015",
            ControlError::Refused(refused) => &refused.error,
            ControlError::Io { .. } => "E010",
        }
    }

    /// What to do now.
    pub fn advice(&self) -> String {
        match self {
            ControlError::NotRunning { name, .. } => format!("coheap --name {name} start"),
            ControlError::BadName(_) => "a short name like `demo`".into(),
            ControlError::PathTooLong(_) => "a shorter name, or a shorter XDG_RUNTIME_DIR".into(),
            ControlError::UnsafeDirectory { .. } => {
                "remove it, or point XDG_RUNTIME_DIR at a directory of yours".into()
            }
            ControlError::AlreadyRunning { name, .. } => {
                format!("coheap --name {name} status, or another --name")
            }
            ControlError::OtherUid { .. } => {
                "the user who started the daemon; a heap has one owner".into()
            }
            ControlError::Closed => "coheap status; its log says why it ended".into(),
            ControlError::TimedOut(_) => {
                "a longer --timeout; coheap status says what it is doing".into()
            }
            ControlError::Frame(_) | ControlError::Cut(_) | ControlError::Unexpected(_) => {
                "one build of coheap on both ends (coheap version)".into()
            }
            ControlError::Refused(refused) => refused.advice.clone(),
            ControlError::Io { .. } => {
                "the message above names what failed; coheap doctor checks the rest".into()
            }
        }
    }

    /// The same as a refusal, for the other end of a connection.
    pub fn to_refused(&self) -> Refused {
        Refused::new(
            self.exit_code(),
            self.code(),
            self.to_string(),
            self.advice(),
        )
    }
}
