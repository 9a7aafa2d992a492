//! A garbage-collected heap that several OS processes share, and that `kill -9` cannot break.

pub mod control;

// ---- placeholders below: the shapes the daemon and the worker are written against until the core lands ----
#[expect(missing_docs, reason = "replaced by the core")]
mod placeholder {
    use std::{
        fmt,
        fs::File,
        os::{
            fd::{AsFd, BorrowedFd, OwnedFd},
            unix::fs::FileExt,
        },
        path::PathBuf,
        str::FromStr,
        sync::Arc,
    };

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    pub struct Error(pub String);
    impl Error {
        pub fn exit_code(&self) -> i32 {
            1
        }
        pub fn code(&self) -> &'static str {
            "E001"
        }
        pub fn hint(&self) -> &'static str {
            "coheap doctor"
        }
    }
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Backing {
        Memfd,
        Shm(String),
        File(PathBuf),
    }
    impl FromStr for Backing {
        type Err = Error;
        fn from_str(s: &str) -> Result<Self, Error> {
            match s.split_once(':') {
                None if s == "memfd" => Ok(Backing::Memfd),
                Some(("shm", n)) => Ok(Backing::Shm(n.into())),
                Some(("file", p)) => Ok(Backing::File(p.into())),
                _ => Err(Error(format!("`{s}` is no backing"))),
            }
        }
    }
    impl fmt::Display for Backing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Backing::Memfd => f.write_str("memfd"),
                Backing::Shm(n) => write!(f, "shm:{n}"),
                Backing::File(p) => write!(f, "file:{}", p.display()),
            }
        }
    }
    #[derive(Clone, Debug)]
    pub struct SegmentConfig {
        pub max_bytes: u64,
        pub backing: Backing,
        pub gc_percent: i32,
        pub soft_limit_bytes: u64,
        pub procs: u16,
        pub name: String,
        pub debug_flags: u32,
    }
    #[derive(Clone)]
    pub struct Segment {
        file: Arc<File>,
        incarnation: u64,
    }
    #[derive(Clone, Debug, Default)]
    pub struct PRow {
        pub p: u16,
        pub pid: u32,
        pub state: &'static str,
        pub runq: u32,
        pub steals: u64,
        pub alloc_bytes: u64,
        pub tasks_done: u64,
    }
    #[derive(Clone, Debug, Default)]
    pub struct Status {
        pub live_bytes: u64,
        pub goal_bytes: u64,
        pub committed_bytes: u64,
        pub max_bytes: u64,
        pub gc_cycles: u64,
        pub gc_phase: &'static str,
        pub gc_percent: i32,
        pub procs: u16,
        pub tasks_runnable: u64,
        pub tasks_done: u64,
        pub ps: Vec<PRow>,
    }
    impl Segment {
        pub fn create(config: &SegmentConfig) -> Result<Segment, Error> {
            let fd = rustix::fs::memfd_create("coheap", rustix::fs::MemfdFlags::CLOEXEC)
                .map_err(|e| Error(e.to_string()))?;
            let file = File::from(fd);
            let incarnation = u64::from(std::process::id()) | 1 << 40;
            file.write_all_at(&incarnation.to_le_bytes(), 0)
                .map_err(|e| Error(e.to_string()))?;
            file.write_all_at(&config.max_bytes.to_le_bytes(), 8)
                .map_err(|e| Error(e.to_string()))?;
            Ok(Segment {
                file: Arc::new(file),
                incarnation,
            })
        }
        pub fn open_fd(fd: OwnedFd) -> Result<Segment, Error> {
            let file = File::from(fd);
            let mut word = [0; 8];
            file.read_exact_at(&mut word, 0)
                .map_err(|e| Error(e.to_string()))?;
            Ok(Segment {
                file: Arc::new(file),
                incarnation: u64::from_le_bytes(word),
            })
        }
        pub fn open_named(name: &str) -> Result<Segment, Error> {
            Err(Error(format!("no segment {name}")))
        }
        pub fn fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
        pub fn incarnation(&self) -> u64 {
            self.incarnation
        }
        pub fn layout_hash() -> u64 {
            1
        }
        pub fn layout_version() -> u32 {
            1
        }
        pub fn status(&self) -> Status {
            Status {
                gc_phase: "off",
                ..Status::default()
            }
        }
    }
}
pub use placeholder::Error;
/// Placeholder.
pub mod segment {
    pub use crate::placeholder::{Backing, PRow, Segment, SegmentConfig, Status};
}
/// Placeholder.
#[expect(missing_docs, reason = "replaced by the core")]
pub mod sched {
    use std::sync::{Arc, Condvar, Mutex};
    #[derive(Default)]
    pub struct Kinds(pub u8);
    #[derive(Clone)]
    pub struct Interrupter(Arc<(Mutex<bool>, Condvar)>);
    impl Interrupter {
        pub fn interrupt(&self) {
            if let Ok(mut flag) = self.0.0.lock() {
                *flag = true;
            }
            self.0.1.notify_all();
        }
    }
    pub struct P(Interrupter, u16);
    impl P {
        pub fn new(p: u16) -> P {
            P(Interrupter(Arc::default()), p)
        }
        pub fn index(&self) -> u16 {
            self.1
        }
        pub fn interrupter(&self) -> Interrupter {
            self.0.clone()
        }
        pub fn run_until_stopped(&mut self, _kinds: &Kinds) {
            let Ok(mut flag) = self.0.0.0.lock() else {
                return;
            };
            while !*flag {
                let Ok(next) = self.0.0.1.wait(flag) else {
                    return;
                };
                flag = next;
            }
            *flag = false;
        }
        pub fn shutdown_requested(&self) -> bool {
            false
        }
        pub fn detach(self) {}
    }
}
/// Placeholder.
pub struct Heap;
#[expect(missing_docs, reason = "replaced by the core")]
impl Heap {
    pub fn attach(_segment: segment::Segment) -> Heap {
        Heap
    }
    pub fn lease(&self) -> Result<sched::P, Error> {
        let hint = std::env::var("COHEAP_P_HINT")
            .ok()
            .and_then(|p| p.parse().ok());
        Ok(sched::P::new(hint.unwrap_or(99)))
    }
}
