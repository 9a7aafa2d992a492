//! What can go wrong, in words a person can act on.
//!
//! Every error has a code (`E0xx`, stable, for scripts and search engines), an exit code after the table in the README, and a
//! hint: what to do now. Only the edge (a command, a daemon's log line) prints the chain.

use std::io;

/// Any failure of the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was being done, to what.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The heap's hard limit is reached.
    #[error("heap is full: {need_bytes} bytes wanted, {live_bytes} of {limit_bytes} bytes in use")]
    HeapFull {
        /// Bytes of the request.
        need_bytes: u64,
        /// Bytes in use, garbage of the running cycle included.
        live_bytes: u64,
        /// The hard limit.
        limit_bytes: u64,
    },
    /// Memory below the limit could not be reserved: the machine, the file system or the cgroup has none.
    #[error("no memory to grow the heap by {need_bytes} bytes: {reason}")]
    NoMemory {
        /// Bytes of the growth step.
        need_bytes: u64,
        /// Who refused, with numbers.
        reason: String,
    },
    /// The segment was made by another version of the layout.
    #[error("segment differs in {field}: it has {theirs}, this program has {ours}")]
    LayoutMismatch {
        /// First field that differs.
        field: &'static str,
        /// What the segment says.
        theirs: String,
        /// What this program expects.
        ours: String,
    },
    /// A type of the same name has other fields in another program.
    #[error("type {name} differs between programs at {difference}")]
    TypeMismatch {
        /// Name of the type.
        name: String,
        /// The first field that differs, both ways.
        difference: String,
    },
    /// A table of the segment is full.
    #[error("the segment's table of {table} is full ({capacity} entries)")]
    TableFull {
        /// Which.
        table: &'static str,
        /// Its size.
        capacity: usize,
    },
    /// Something of that name exists.
    #[error("{what} exists already")]
    Exists {
        /// What.
        what: String,
    },
    /// A value given by a person is out of range or malformed.
    #[error("{what}")]
    Invalid {
        /// What, and what would be right.
        what: String,
    },
    /// The daemon or the heap is not there.
    #[error("{what} is not running")]
    NotRunning {
        /// Which.
        what: String,
    },
    /// There, but it does not answer or does not let us in.
    #[error("{what}")]
    Unreachable {
        /// What happened.
        what: String,
    },
    /// A check of the heap found something that must not be.
    #[error("heap violates its invariants: {what}")]
    Violation {
        /// The first finding.
        what: String,
    },
    /// A task was given up.
    #[error("task {name} was given up after {attempts} attempts: {reason}")]
    GaveUp {
        /// Kind and input of the task.
        name: String,
        /// Runs that died or failed.
        attempts: u32,
        /// Why the last one ended.
        reason: String,
    },
    /// Not now.
    #[error("{what}")]
    Busy {
        /// Who is in the way.
        what: String,
    },
    /// A deadline of the caller passed.
    #[error("{what} took longer than {seconds} s")]
    TimedOut {
        /// What.
        what: String,
        /// The deadline.
        seconds: u64,
    },
    /// A step refused its input.
    #[error("{what}")]
    Task {
        /// The step's own words.
        what: String,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Os`] from the last `errno` or from a crate's error that converts to one.
    pub fn os(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Os {
            what: what.into(),
            source: source.into(),
        }
    }

    /// Stable code of this kind of error.
    ///
    /// ```
    /// let e = coheap::Error::NotRunning { what: "heap demo".into() };
    /// assert_eq!((e.code(), e.exit_code()), ("E030", 3));
    /// ```
    pub fn code(&self) -> &'static str {
        match self {
            Error::Os { .. } => "E010",
            Error::Task { .. } => "E011",
            Error::TableFull { .. } => "E012",
            Error::Exists { .. } => "E013",
            Error::Invalid { .. } => "E020",
            Error::NotRunning { .. } => "E030",
            Error::Unreachable { .. } => "E040",
            Error::Violation { .. } => "E050",
            Error::HeapFull { .. } => "E060",
            Error::NoMemory { .. } => "E061",
            Error::LayoutMismatch { .. } => "E070",
            Error::TypeMismatch { .. } => "E071",
            Error::GaveUp { .. } => "E080",
            Error::Busy { .. } => "E090",
            Error::TimedOut { .. } => "E091",
        }
    }

    /// Exit code of a command that ends with this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Os { .. }
            | Error::Task { .. }
            | Error::TableFull { .. }
            | Error::Exists { .. } => 1,
            Error::Invalid { .. } => 2,
            Error::NotRunning { .. } => 3,
            Error::Unreachable { .. } => 4,
            Error::Violation { .. } => 5,
            Error::HeapFull { .. } | Error::NoMemory { .. } => 6,
            Error::LayoutMismatch { .. } | Error::TypeMismatch { .. } => 7,
            Error::GaveUp { .. } => 8,
            Error::Busy { .. } => 75,
            Error::TimedOut { .. } => 124,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Os { .. } => {
                "see the system's message; `coheap doctor` checks limits and permissions"
            }
            Error::Task { .. } => "look at the input the message names",
            Error::TableFull { .. } => "use fewer names, or a heap with a larger limit",
            Error::Exists { .. } => "choose another name, or stop the one that is running",
            Error::Invalid { .. } => "`--help` lists what is accepted",
            Error::NotRunning { .. } => "start it with `coheap start`",
            Error::Unreachable { .. } => {
                "check that it belongs to your user and is alive: `coheap status`"
            }
            Error::Violation { .. } => "keep the heap and report the finding",
            Error::HeapFull { .. } => "give a larger --max, or let the program keep less alive",
            Error::NoMemory { .. } => {
                "free memory, raise the limit that refused, or use --backing memfd"
            }
            Error::LayoutMismatch { .. } => "use programs of one version with one heap",
            Error::TypeMismatch { .. } => "rebuild the programs from the same type, or rename one",
            Error::GaveUp { .. } => "`coheap tasks` shows its input; fix it and run again",
            Error::Busy { .. } => "try again later",
            Error::TimedOut { .. } => {
                "give more time with --timeout, or look who is stopped: `coheap ps`"
            }
        }
    }

    /// The one line a command prints to stderr before it ends with [`Error::exit_code`].
    ///
    /// ```
    /// let e = coheap::Error::Busy { what: "heap demo is being resized".into() };
    /// assert_eq!(e.line(), "coheap: error[E090]: heap demo is being resized; try: try again later");
    /// ```
    pub fn line(&self) -> String {
        let text = self.to_string().replace('\n', " ");
        format!(
            "coheap: error[{}]: {}; try: {}",
            self.code(),
            text,
            self.hint()
        )
    }
}
