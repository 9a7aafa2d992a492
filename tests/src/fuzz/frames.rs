//! Hostile messages: valid frames spoiled, cut, stretched, with lengths that lie, with descriptors nobody asked for.
//!
//! Callers say, among other things, that they are workers: so they are processes of their own, which the daemon may end.
//! A frame that spoiling has turned into a harmful but valid order (stop, kill, spawn, resize, run) is not sent: it would be obeyed,
//! which is right. Everything else may be answered or not; the daemon must go on, and give back every descriptor.

use coheap_protocol::{
    Hello, Outcome, Request, Role, RunId, RunRequest, SignalKind, StopMode, Storm, WorkerSays,
    Workload, decode, encode,
};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::{
    fs::File,
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

/// A connection that bytes of any kind can be pushed into.
pub struct Line(OwnedFd);

impl Line {
    /// Connects; `None` when the daemon does not take more just now.
    pub fn open(path: &Path) -> Option<Line> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .ok()?;
        nix::sys::socket::setsockopt(
            &fd,
            nix::sys::socket::sockopt::SendTimeout,
            &nix::sys::time::TimeVal::new(2, 0),
        )
        .ok()?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
        Some(Line(fd))
    }

    /// Sends a packet with descriptors; that the daemon has hung up is no news.
    pub fn push(&self, bytes: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let messages = if fds.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        let _ = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(bytes)],
            messages,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }
}

fn hello(rng: &mut fastrand::Rng) -> Hello {
    let role = [Role::Worker, Role::Tool, Role::Reader][rng.usize(0..3)];
    let (version, hash) = if rng.bool() {
        (
            coheap::Segment::layout_version(),
            coheap::Segment::layout_hash(),
        )
    } else {
        (rng.u32(..), rng.u64(..))
    };
    let mut hello = Hello::new(role, version, hash, "fuzz");
    if rng.bool() {
        hello.holds = rng.u64(..);
    }
    if rng.bool() {
        hello.leased = Some(rng.u16(..));
    }
    hello.supervised = rng.bool();
    hello
}

fn valid(rng: &mut fastrand::Rng) -> Vec<u8> {
    let run = RunId(rng.u64(..));
    let text = |rng: &mut fastrand::Rng| "x".repeat(rng.usize(0..1000));
    let frame = match rng.u32(0..22) {
        0 => encode(&hello(rng)),
        1 => encode(&Request::Ping),
        2 => encode(&Request::Status),
        3 => encode(&Request::Ps),
        4 => encode(&Request::Tasks),
        5 => encode(&Request::Dead),
        6 => encode(&Request::Totals),
        7 => encode(&Request::Config),
        8 => encode(&Request::Reload),
        9 => encode(&Request::Gc { wait: false }),
        10 => encode(&Request::Spawn { n: rng.u16(..) }),
        11 => encode(&Request::Resize { n: rng.u16(..) }),
        12 => encode(&Request::Signal {
            p: rng.u16(..),
            signal: SignalKind::Cont,
        }),
        13 => encode(&Request::Stop {
            mode: StopMode::Smart,
        }),
        14 | 15 => encode(&Request::Run(RunRequest {
            run,
            workload: Workload::Index {
                dir: text(rng),
                out: None,
            },
            seed: rng.u64(..),
            storm: Storm {
                kill_ms: rng.u32(..),
                stop_ms: rng.u32(..),
            },
            redeliver_max: rng.u32(..),
        })),
        16 => encode(&WorkerSays::Leased { p: rng.u16(..) }),
        17 => encode(&WorkerSays::Submitted { run }),
        18 => encode(&WorkerSays::Finished { run }),
        19 => encode(&WorkerSays::NotYet { run }),
        20 => encode(&WorkerSays::Result(Outcome {
            run,
            ok: rng.bool(),
            json: text(rng),
        })),
        _ => encode(&WorkerSays::Leaving),
    };
    frame.unwrap_or_default()
}

/// A frame of this seed: valid, spoiled or noise.
pub fn frame(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = valid(rng);
    for _ in 0..rng.u32(0..4) {
        match rng.u32(0..8) {
            0 => bytes.truncate(rng.usize(0..=bytes.len())),
            1 => bytes.extend((0..rng.usize(0..64)).map(|_| rng.u8(..))),
            2 if !bytes.is_empty() => {
                let i = rng.usize(0..bytes.len());
                bytes[i] ^= 1 << rng.u32(0..8);
            }
            // A length, or a kind, that lies.
            3 if bytes.len() >= 8 => {
                let at = rng.usize(0..=bytes.len() - 8);
                let huge = [u64::MAX, 1 << 63, 1 << 32, 4097, bytes.len() as u64][rng.usize(0..5)];
                bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            }
            4 => bytes = (0..rng.usize(0..5000)).map(|_| rng.u8(..)).collect(),
            5 => bytes.resize(rng.usize(0..9000), 0xff),
            6 => bytes.extend(valid(rng)),
            _ => {
                let other = valid(rng);
                let at = rng.usize(0..=bytes.len().min(other.len()));
                bytes.truncate(at);
                bytes.extend(&other[at..]);
            }
        }
    }
    bytes
}

/// Would this be obeyed, and end what is being tested?
pub fn is_harmful(bytes: &[u8]) -> bool {
    matches!(
        decode::<Request>(bytes),
        Ok(Request::Stop { .. }
            | Request::Spawn { .. }
            | Request::Resize { .. }
            | Request::Run(_)
            | Request::Signal { .. })
    )
}

/// One caller's life: connects, greets or not, talks nonsense, hangs up. Returns packets sent.
pub fn caller(path: &Path, seed: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let Some(line) = Line::open(path) else {
        std::thread::sleep(Duration::from_millis(5));
        return 0;
    };
    if rng.u32(0..4) != 0 {
        let frame = encode(&hello(&mut rng)).unwrap_or_default();
        let fds = some_fds(&mut rng);
        line.push(&frame, &raw(&fds));
    }
    let packets = rng.u64(0..6);
    for _ in 0..packets {
        let bytes = frame(&mut rng);
        if is_harmful(&bytes) {
            continue;
        }
        let fds = some_fds(&mut rng);
        line.push(&bytes, &raw(&fds));
    }
    packets + 1
}

fn raw(fds: &[OwnedFd]) -> Vec<RawFd> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Descriptors of the wrong kinds, often none, now and then as many as the kernel lets through.
fn some_fds(rng: &mut fastrand::Rng) -> Vec<OwnedFd> {
    let n = match rng.u32(0..8) {
        0..=3 => 0,
        4 | 5 => 1,
        6 => rng.usize(2..9),
        _ => 253,
    };
    let kind = ["/dev/null", "/", "/proc/self/exe", "/dev/zero"][rng.usize(0..4)];
    (0..n)
        .filter_map(|_| File::open(kind).ok().map(OwnedFd::from))
        .collect()
}

/// Callers from `seed` on, until `until`, each seed's packets pushed in turn; packets sent. In a process of its own: some say that they
/// are workers, and a daemon that stops ends its workers.
pub fn callers(path: &Path, mut seed: u64, until: std::time::Instant) -> (u64, u64) {
    let mut packets = 0;
    while std::time::Instant::now() < until {
        packets += caller(path, seed);
        seed += 1;
    }
    (packets, seed)
}

/// Runs [`callers`] for so long in a process of the program `fuzz`; packets sent and the seed after the last.
pub fn in_a_process(fuzz: &Path, path: &Path, seed: u64, time: Duration) -> (u64, u64) {
    let output = std::process::Command::new(fuzz)
        .arg("--callers")
        .arg(path)
        .args([seed.to_string(), time.as_millis().to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(seed))
}
