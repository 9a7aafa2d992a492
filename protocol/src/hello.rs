//! The first frame of each direction.

use serde::{Deserialize, Serialize};

/// The version both sides must share. It changes with any message's shape.
pub const PROTOCOL_VERSION: u32 = 1;

/// "COHP": what the first four bytes of a connection must be.
pub const MAGIC: u32 = u32::from_le_bytes(*b"COHP");

/// Who is calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A process that wants to be a P: it gets the segment's descriptor.
    Worker,
    /// A tool that asks questions and gives orders.
    Tool,
    /// A tool that reads the segment itself: it gets the descriptor too.
    Reader,
}

/// What the connecting side says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Who is calling.
    pub role: Role,
    /// Layout version the caller was built with.
    pub layout_version: u32,
    /// Hash of the layout the caller was built with.
    pub layout_hash: u64,
    /// Incarnation of a segment the caller already holds, whose descriptor comes with this frame; 0 for none. A worker
    /// that outlived its daemon hands the heap to the next one this way.
    pub holds: u64,
    /// The P it already leases in that segment, if it holds one.
    pub leased: Option<u16>,
    /// Whether the daemon started this worker, so that it is the daemon's to stop and to start again.
    pub supervised: bool,
    /// Name of the program, for people.
    pub program: String,
}

impl Hello {
    /// A first hello, from somebody who holds nothing yet.
    pub fn new(role: Role, layout_version: u32, layout_hash: u64, program: &str) -> Self {
        let program = program.chars().take(64).collect();
        Hello {
            magic: MAGIC,
            protocol: PROTOCOL_VERSION,
            role,
            layout_version,
            layout_hash,
            holds: 0,
            leased: None,
            supervised: false,
            program,
        }
    }

    /// Magic and protocol version of a frame, readable whatever version sent it.
    pub fn peek(frame: &[u8]) -> Option<(u32, u32)> {
        let word = |at: usize| Some(u32::from_le_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        Some((word(0)?, word(4)?))
    }

    /// The first thing that makes this caller a stranger, or `None`.
    ///
    /// Tools that never touch the segment need no equal layout.
    pub fn first_difference(&self, layout_version: u32, layout_hash: u64) -> Option<Refused> {
        if self.role == Role::Tool {
            return None;
        }
        let what = if self.layout_version != layout_version {
            format!(
                "layout_version differs: {} has {}, the daemon has {layout_version}",
                self.program, self.layout_version
            )
        } else if self.layout_hash != layout_hash {
            format!(
                "layout_hash differs: {} has {:#018x}, the daemon has {layout_hash:#018x}",
                self.program, self.layout_hash
            )
        } else {
            return None;
        };
        Some(Refused::new(
            crate::codes::LAYOUT,
            "E070",
            what,
            "install coheapd and the worker from one build",
        ))
    }
}

/// What the daemon answers to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Come in.
    Welcome(Welcome),
    /// Stay out, and this is why. Its bytes never change (P3).
    Refused(Refused),
}

/// Come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The daemon's process.
    pub daemon_pid: u32,
    /// Which life of the segment this is.
    pub incarnation: u64,
    /// The P the daemon would give a worker; the lease in the segment decides.
    pub p_hint: u16,
    /// Name of the heap.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
}

/// A refusal: enough to print the one line every failing command prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}; try: {advice}")]
pub struct Refused {
    /// Exit code, from [`crate::codes`].
    pub code: u8,
    /// `E0xx`, the number to search the documentation for.
    pub error: String,
    /// What happened, to what.
    pub what: String,
    /// What to do now.
    pub advice: String,
}

impl Refused {
    /// A refusal whose texts are cut so that it always fits into a frame.
    pub fn new(code: u8, error: &str, what: impl AsRef<str>, advice: impl AsRef<str>) -> Self {
        let cut = |text: &str, chars: usize| text.chars().take(chars).collect::<String>();
        Refused {
            code,
            error: cut(error, 8),
            what: cut(what.as_ref(), 600),
            advice: cut(advice.as_ref(), 300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;

    #[test]
    fn the_bytes_two_versions_share_never_change() {
        let frame = encode(&Hello::new(Role::Tool, 0, 0, "x")).expect("encodes");
        assert_eq!(&frame[..8], b"COHP\x01\0\0\0");
        assert_eq!(Hello::peek(&frame), Some((MAGIC, PROTOCOL_VERSION)));
        let frame = encode(&Answer::Refused(Refused::new(7, "E070", "w", "t"))).expect("encodes");
        let expected =
            b"\x01\0\0\0\x07\x04\0\0\0\0\0\0\0E070\x01\0\0\0\0\0\0\0w\x01\0\0\0\0\0\0\0t";
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_worker_of_another_layout_hears_the_first_difference() {
        let worker = Hello::new(Role::Worker, 2, 5, "w");
        assert!(worker.first_difference(2, 5).is_none());
        assert!(
            worker
                .first_difference(3, 6)
                .expect("differs")
                .what
                .starts_with("layout_version")
        );
        assert!(
            worker
                .first_difference(2, 6)
                .expect("differs")
                .what
                .starts_with("layout_hash")
        );
        assert!(
            Hello::new(Role::Tool, 9, 9, "t")
                .first_difference(2, 5)
                .is_none()
        );
    }

    #[test]
    fn the_longest_refusal_fits() {
        let long = "\u{10ffff}".repeat(9000);
        assert!(encode(&Answer::Refused(Refused::new(1, &long, &long, &long))).is_ok());
    }
}
