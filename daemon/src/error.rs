//! Why a daemon cannot start or go on.

use coheap::control::ControlError;
use coheap_protocol::{Refused, codes};
use std::{io, path::PathBuf};

/// A failure that ends the daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The control socket, the lock or the runtime directory.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The segment.
    #[error("{0}")]
    Heap(#[from] coheap::Error),
    /// A setting that makes no sense.
    #[error("{origin}: {why}")]
    BadSetting {
        /// Where it was set.
        origin: String,
        /// What is wrong with it.
        why: String,
    },
    /// A configuration file that cannot be read.
    #[error("{}: {why}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No worker program.
    #[error("no coheap-worker beside {} and none in PATH", .0.display())]
    NoWorker(PathBuf),
    /// What a daemon started in the background said.
    #[error("{}", .0.what)]
    Child(Refused),
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl DaemonError {
    /// Adds what was tried.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> DaemonError {
        let what = what.into();
        move |source| DaemonError::Io {
            what,
            source: source.into(),
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            DaemonError::Control(e) => e.exit_code(),
            DaemonError::Heap(e) => u8::try_from(e.exit_code()).unwrap_or(codes::FAILED),
            DaemonError::BadSetting { .. } | DaemonError::BadFile { .. } => codes::USAGE,
            DaemonError::Child(refused) => refused.code,
            DaemonError::NoWorker(_) | DaemonError::Io { .. } => codes::FAILED,
        }
    }

    /// Its number in the documentation.
    pub fn code(&self) -> String {
        match self {
            DaemonError::Control(e) => e.code().into(),
            DaemonError::Heap(e) => e.code().into(),
            DaemonError::BadSetting { .. } => "E023".into(),
            DaemonError::BadFile { .. } => "E024".into(),
            DaemonError::NoWorker(_) => "E016".into(),
            DaemonError::Child(refused) => refused.error.clone(),
            DaemonError::Io { .. } => "E010".into(),
        }
    }

    /// What to do now.
    pub fn advice(&self) -> String {
        match self {
            DaemonError::Control(e) => e.advice(),
            DaemonError::Heap(e) => e.hint().into(),
            DaemonError::BadSetting { .. } | DaemonError::BadFile { .. } => {
                "coheapd --print-config, which shows a correct one".into()
            }
            DaemonError::NoWorker(_) => "COHEAP_WORKER_BIN=/path/to/coheap-worker".into(),
            DaemonError::Child(refused) => refused.advice.clone(),
            DaemonError::Io { .. } => {
                "the message names what failed; with --log-level debug it says more".into()
            }
        }
    }

    /// The same for the other end of a connection.
    pub fn to_refused(&self) -> Refused {
        Refused::new(
            self.exit_code(),
            &self.code(),
            self.to_string(),
            self.advice(),
        )
    }
}
