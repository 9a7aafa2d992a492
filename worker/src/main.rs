//! `coheap-worker`: a process that is a P.
//!
//! 1. Connect to the socket named by `COHEAP_SOCKET`, say hello, receive the segment's descriptor.
//! 2. Map the segment and lease a P: the main thread is that P from here on.
//! 3. The *control thread* ([`control`]) reads orders. It never touches the heap: it puts them into the [`inbox`].
//! 4. The main thread runs tasks until there are orders, does what the inbox holds, and goes on; on `Stop` it gives the P
//!    back, says `Leaving` and ends with 0.
//!
//! **If the daemon dies** the control thread knocks at the socket until the next daemon answers, and hands it the heap.
//! The P goes on meanwhile: the library needs no daemon to run, collect or recover. If nobody answers for
//! [`control::ORPHAN_PATIENCE`], the worker gives its P back and ends, so that a heap nobody owns does not stay.
//!
//! **If this process dies**, at any instruction, the others recover its P; the daemon sees the pidfd and starts another.
//!
//! Only one thread may hold references to the heap, so only one is a P; the control thread works on plain messages.

mod control;
mod inbox;
mod orders;

use coheap::{Error, Idle, P, control::Called, segment::Segment};
use coheap_protocol::{Hello, Role, RunId, WorkerSays, run::counter};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Time to connect and be answered.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("COHEAP_SOCKET is not set")]
    NoSocket,
    #[error(transparent)]
    Control(#[from] coheap::control::ControlError),
    #[error("{0}")]
    Heap(#[from] Error),
    #[error("the daemon sent no descriptor of the segment")]
    NoSegment,
    #[error("cannot start the control thread: {0}")]
    Thread(std::io::Error),
}

impl Failure {
    fn report(&self) -> (u8, String, String) {
        match self {
            Failure::Control(e) => (e.exit_code(), e.code().into(), e.advice()),
            Failure::Heap(e) => (
                u8::try_from(e.exit_code()).unwrap_or(1),
                e.code().into(),
                e.hint().into(),
            ),
            Failure::NoSocket => (
                2,
                "E027".into(),
                "letting the daemon start it: coheap start -n 4".into(),
            ),
            Failure::NoSegment | Failure::Thread(_) => (1, "E015".into(), "coheap status".into()),
        }
    }
}

fn main() -> ExitCode {
    start_log();
    #[cfg(feature = "failpoints")]
    if let Err(what) = coheap::failpoint::arm_from_environment() {
        log::error!(
            "coheap: error[E002]: {what}; try: COHEAP_FAILPOINTS='commit.committed=9*off->kill'"
        );
        return ExitCode::from(2);
    }
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, number, advice) = failure.report();
            log::error!("coheap: error[{number}]: {failure}; try: {advice}");
            ExitCode::from(code)
        }
    }
}

fn start_log() {
    let level = std::env::var("COHEAP_LOG")
        .ok()
        .and_then(|l| l.parse().ok())
        .unwrap_or(log::LevelFilter::Info);
    let pid = std::process::id();
    env_logger::Builder::new()
        .filter_level(level)
        .format(move |out, record| {
            use std::io::Write;
            let level = record.level().as_str().to_lowercase();
            writeln!(
                out,
                "ts={} lvl={level} pid={pid} {}",
                out.timestamp_micros(),
                record.args()
            )
        })
        .init();
}

fn work() -> Result<(), Failure> {
    let socket = std::env::var_os("COHEAP_SOCKET")
        .map(PathBuf::from)
        .ok_or(Failure::NoSocket)?;
    // Whoever lives works meanwhile, and may have lost this worker's predecessor a moment ago.
    let (called, segment, mut p) = coheap::life::patiently(|| attach(&socket))?;
    // The P table has 256 records.
    let index = p.index() as u16;
    called.channel.send(&WorkerSays::Leased { p: index })?;
    let (inbox, outbox) = inbox::pair().map_err(Failure::Thread)?;
    let link = control::Link {
        socket,
        segment,
        p: index,
        channel: Some(called.channel),
    };
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control::serve(link, &outbox))
        .map_err(Failure::Thread)?;
    let kinds = coheap_worker::workloads::kinds();
    let mut ends = Ends::new(p.segment());
    while orders::obey(&mut p, &inbox) {
        p.run(&kinds, |p, _| {
            if let Some(run) = ends.new_one(p.segment()) {
                inbox.say(WorkerSays::Finished { run });
            }
            if inbox.is_pending() {
                Idle::Return
            } else {
                Idle::Continue
            }
        })?;
    }
    drop(p);
    inbox.leave();
    Ok(())
}

/// Which run has ended last, as far as this worker has said so.
///
/// Looked at after each piece of work, so whoever runs the step that ends a run sees it once that has taken effect. Others may see it a moment
/// before: the daemon asks, hears "not yet", and finds out at its next look.
struct Ends(u64);

impl Ends {
    fn new(segment: &Segment) -> Ends {
        Ends(segment.progress(counter::FINISHED))
    }

    /// The run that has ended since the last look.
    fn new_one(&mut self, segment: &Segment) -> Option<RunId> {
        let last = segment.progress(counter::FINISHED);
        (std::mem::replace(&mut self.0, last) != last).then_some(RunId(last))
    }
}

/// Steps 1 and 2.
fn attach(socket: &Path) -> Result<(Called, Segment, P), Failure> {
    let mut called = coheap::control::call(socket, &hello(), None, HELLO_PATIENCE)?;
    let segment = Segment::open_fd(called.segment.take().ok_or(Failure::NoSegment)?)?;
    let p = P::lease(segment.clone())?;
    Ok((called, segment, p))
}

/// What a worker says first.
fn hello() -> Hello {
    let mut hello = Hello::new(
        Role::Worker,
        Segment::layout_version(),
        Segment::layout_hash(),
        "coheap-worker",
    );
    hello.supervised = std::env::var_os("COHEAP_P_HINT").is_some();
    hello
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_and_an_old_one_never() {
        let segment = Segment::create(&coheap::SegmentConfig::default()).expect("memory");
        segment.progress_set(counter::FINISHED, 7);
        let mut ends = Ends::new(&segment);
        assert_eq!(ends.new_one(&segment), None);
        segment.progress_set(counter::FINISHED, 8);
        assert_eq!(ends.new_one(&segment), Some(RunId(8)));
        assert_eq!(ends.new_one(&segment), None);
    }
}
