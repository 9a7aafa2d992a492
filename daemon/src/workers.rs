//! The processes: places that want a worker, workers that live, and how one becomes the other.
//!
//! A *place* wants a worker and remembers deaths. A *worker* is a process, known by its pidfd from before it can have
//! said anything until the pidfd says that all of its threads are gone. A worker of a place was started by this daemon
//! or by the one before it; a worker without a place attached by itself, and is never killed by the daemon's end.
//!
//! **Invariants.**
//! - *W1.* A worker leaves [`Crew`] only when its pidfd is readable: never by a timer, a closed socket or its own word.
//! - *W2.* Signals go through the pidfd.
//! - *W3.* Children are started by `Command` from the poll loop's thread, each in a session of its own ([`session`]): Ctrl-C
//!   in a terminal reaches the daemon only.
//! - *W4.* A child's standard error is the log or the daemon's own, never a pipe: a full pipe would stop a worker.

use crate::{
    error::DaemonError,
    outbox::Outbox,
    restart::{History, Verdict},
    session,
    state::{WorkerState, started},
};
use coheap_protocol::WorkerOrder;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// Where its standard error goes; `None`: where the daemon's goes.
    pub log: Option<PathBuf>,
    /// Its log level.
    pub log_level: String,
}

impl Launch {
    fn start(&self, place: usize) -> Result<Child, DaemonError> {
        let (program, args) = self
            .command
            .split_first()
            .ok_or_else(|| DaemonError::NoWorker(PathBuf::new()))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        session::separate(&mut command);
        command
            .env("COHEAP_SOCKET", &self.socket)
            .env("COHEAP_P_HINT", place.to_string());
        command.env("COHEAP_LOG", &self.log_level);
        for supervisors in crate::notify::OURS {
            command.env_remove(supervisors);
        }
        if let Some(log) = &self.log {
            let file = OpenOptions::new().append(true).create(true).open(log);
            command
                .stderr(file.map_err(DaemonError::io(format!("cannot open {}", log.display())))?);
            command.stdout(Stdio::null());
        }
        command.spawn().map_err(DaemonError::io(format!(
            "cannot start {}",
            program.display()
        )))
    }
}

/// A process that is, or will be, a P.
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// Readable when all of its threads are gone.
    pub pidfd: OwnedFd,
    /// Its connection, once it said hello.
    pub outbox: Option<Outbox>,
    /// Its P, once it leases one.
    pub p: Option<u16>,
    /// Its program.
    pub program: String,
    /// When it was started or came.
    pub since: Instant,
    /// Its place, if it has one.
    pub place: Option<usize>,
    /// Whether a daemon started it, so that the daemon ends it.
    pub supervised: bool,
    /// Its death was ordered.
    pub doomed: bool,
    /// When that was, by the segment's clock; 0 never.
    pub killed_ns: u64,
    /// It said that it leaves.
    pub leaving: bool,
    /// We stopped it.
    pub stopped: bool,
    /// A person stopped it: it stays so, whatever becomes of this daemon.
    pub held: bool,
    /// Since when it has been found stopped or frozen, not by us ([`crate::suspects`]).
    pub suspect_since: Option<Instant>,
    child: Option<Child>,
}

impl Worker {
    /// Sends a signal to exactly this process; a dead one is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it, and remembers when.
    pub fn kill(&mut self) {
        self.doomed = true;
        self.killed_ns = coheap::sysmon::clock_ns();
        self.signal(Signal::KILL);
    }

    /// Sends an order if it is connected; `false` if it is not, or not any more.
    pub fn order(&mut self, order: &WorkerOrder) -> bool {
        let sent = self
            .outbox
            .as_mut()
            .is_some_and(|outbox| outbox.send(order).is_ok());
        if !sent {
            self.outbox = None;
        }
        sent
    }

    /// Whether it can be asked to do something.
    pub fn is_ready(&self) -> bool {
        self.outbox.is_some() && self.p.is_some() && !self.leaving
    }
}

/// Something that wants a worker.
#[derive(Default)]
pub struct Place {
    history: History,
    /// Times its worker was started again.
    pub restarts: u32,
    /// What it is waiting for.
    pub state: PlaceState,
}

/// What a place is waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlaceState {
    /// To be filled now.
    #[default]
    Empty,
    /// Nothing: this worker fills it.
    Filled(u64),
    /// For that time.
    Backoff(Instant),
    /// For somebody to ask for it: its workers died too often.
    Vacant,
    /// For nothing: its command ended well.
    Done,
}

/// All places and all workers.
pub struct Crew {
    launch: Launch,
    places: Vec<Place>,
    workers: BTreeMap<u64, Worker>,
    next_id: u64,
    /// Workers started again after a death.
    pub restarts: u64,
}

/// How a process ended, in words, and whether it ended well.
pub fn cause(status: Option<ExitStatus>) -> (String, bool) {
    let Some(status) = status else {
        return ("lost (not a child of this daemon)".into(), false);
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |s| s.as_str());
            (format!("signal {signal} ({name})"), false)
        }
        (None, code) => (format!("exit {}", code.unwrap_or(-1)), status.success()),
    }
}

impl Crew {
    /// No places, no workers.
    pub fn new(launch: Launch) -> Crew {
        Crew {
            launch,
            places: Vec::new(),
            workers: BTreeMap::new(),
            next_id: 1,
            restarts: 0,
        }
    }

    /// Every worker.
    pub fn workers(&self) -> &BTreeMap<u64, Worker> {
        &self.workers
    }

    /// Every worker.
    pub fn workers_mut(&mut self) -> &mut BTreeMap<u64, Worker> {
        &mut self.workers
    }

    /// Every place.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Workers wanted.
    pub fn wanted(&self) -> u16 {
        self.places.len() as u16
    }

    /// The highest P of those that stay.
    pub fn highest_p(&self) -> Option<u16> {
        self.workers
            .values()
            .filter(|w| !w.leaving)
            .filter_map(|w| w.p)
            .max()
    }

    /// Makes it `n` places. Those that go away send their workers away; those left vacant are filled again.
    pub fn resize(&mut self, n: u16) -> Vec<u64> {
        let n = usize::from(n);
        // Low P's stay: those from `gomaxprocs` on run nothing. Places without a P go last.
        let p_of = |place: &Place| match place.state {
            PlaceState::Filled(id) => self
                .workers
                .get(&id)
                .and_then(|w| w.p)
                .unwrap_or(u16::MAX - 1),
            _ => u16::MAX,
        };
        let mut places = std::mem::take(&mut self.places);
        places.sort_by_key(p_of);
        self.places = places;
        self.renumber();
        for place in self
            .places
            .iter_mut()
            .filter(|p| p.state == PlaceState::Vacant)
        {
            *place = Place {
                restarts: place.restarts,
                ..Place::default()
            };
        }
        let dismissed = self
            .places
            .drain(n.min(self.places.len())..)
            .filter_map(|p| match p.state {
                PlaceState::Filled(id) => Some(id),
                _ => None,
            });
        let dismissed: Vec<u64> = dismissed.collect();
        for id in &dismissed {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.doomed = true;
                worker.leaving = true;
                worker.place = None;
            }
        }
        self.places.resize_with(n, Place::default);
        dismissed
    }

    fn renumber(&mut self) {
        for (number, place) in self.places.iter().enumerate() {
            if let PlaceState::Filled(id) = place.state
                && let Some(worker) = self.workers.get_mut(&id)
            {
                worker.place = Some(number);
            }
        }
    }

    /// The next time a place has to be filled.
    pub fn due(&self) -> Option<Instant> {
        let due = self.places.iter().filter_map(|p| match p.state {
            PlaceState::Backoff(then) => Some(then),
            _ => None,
        });
        due.min()
    }

    /// Fills every place whose time has come; how many.
    pub fn fill(&mut self, now: Instant) -> usize {
        let mut filled = 0;
        for place in 0..self.places.len() {
            let due = match self.places[place].state {
                PlaceState::Empty => true,
                PlaceState::Backoff(then) => then <= now,
                _ => false,
            };
            if due {
                filled += 1;
                self.start(place, now);
            }
        }
        filled
    }

    fn start(&mut self, place: usize, now: Instant) {
        let begun = self.launch.start(place).and_then(|child| {
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .map_err(DaemonError::io("cannot open a pidfd"))?;
            Ok((child, pidfd))
        });
        match begun {
            Ok((child, pidfd)) => {
                let pid = child.id();
                let program = self.launch.command.first().and_then(|p| p.file_name());
                let program = program.map_or(String::new(), |p| p.to_string_lossy().into_owned());
                let id = self.add(pid, pidfd, Some(place), &program, now);
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.child = Some(child);
                }
                log::info!("ev=proc.start place={place} pid={pid}");
            }
            Err(error) => {
                log::error!(
                    "ev=proc.start_failed place={place} msg={:?}",
                    error.to_string()
                );
                self.bury(place, now);
            }
        }
    }

    fn bury(&mut self, place: usize, now: Instant) {
        let Some(place) = self.places.get_mut(place) else {
            return;
        };
        place.state = match place.history.died(now) {
            Verdict::RestartAt(then) => PlaceState::Backoff(then),
            Verdict::Vacant => PlaceState::Vacant,
        };
    }

    /// Takes note of a process; its place, if any, is filled.
    pub fn add(
        &mut self,
        pid: u32,
        pidfd: OwnedFd,
        place: Option<usize>,
        program: &str,
        now: Instant,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(place) = place.and_then(|place| self.places.get_mut(place)) {
            place.state = PlaceState::Filled(id);
        }
        let worker = Worker {
            pid,
            pidfd,
            outbox: None,
            p: None,
            program: program.into(),
            since: now,
            place,
            supervised: place.is_some(),
            doomed: false,
            killed_ns: 0,
            leaving: false,
            stopped: false,
            held: false,
            suspect_since: None,
            child: None,
        };
        self.workers.insert(id, worker);
        id
    }

    /// Takes note of the workers an earlier daemon left, one place each.
    pub fn inherit(&mut self, living: &[WorkerState], now: Instant) {
        for (place, worker) in living.iter().enumerate().take(self.places.len()) {
            let Some(pid) = Pid::from_raw(worker.pid.cast_signed()) else {
                continue;
            };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Asked again now that the pidfd pins the process: the pid may have changed hands before.
            if started(worker.pid) != Some(worker.started) {
                continue;
            }
            let id = self.add(worker.pid, pidfd, Some(place), "coheap-worker", now);
            let Some(entry) = self.workers.get_mut(&id) else {
                continue;
            };
            (entry.stopped, entry.held) = (worker.held, worker.held);
            if !worker.held {
                // The storm of the daemon before may have stopped it, and it alone knew.
                entry.signal(Signal::CONT);
            }
        }
    }

    /// The worker with this process.
    pub fn by_pid(&self, pid: u32) -> Option<u64> {
        self.workers
            .iter()
            .find(|(_, w)| w.pid == pid)
            .map(|(&id, _)| id)
    }

    /// The worker of this P.
    pub fn by_p(&self, p: u16) -> Option<u64> {
        self.workers
            .iter()
            .find(|(_, w)| w.p == Some(p))
            .map(|(&id, _)| id)
    }

    /// Whether there is nobody, and nobody will come by itself.
    pub fn is_hopeless(&self) -> bool {
        let lost = |p: &Place| matches!(p.state, PlaceState::Vacant | PlaceState::Done);
        self.workers.is_empty() && !self.places.is_empty() && self.places.iter().all(lost)
    }

    /// Whether every place's command ended well.
    pub fn is_done(&self) -> bool {
        !self.places.is_empty() && self.places.iter().all(|p| p.state == PlaceState::Done)
    }

    /// A place nobody fills, if there is one.
    pub fn free_place(&self) -> Option<usize> {
        self.places
            .iter()
            .position(|p| matches!(p.state, PlaceState::Empty | PlaceState::Backoff(_)))
    }

    /// Its pidfd is readable: takes the worker out, with its exit status if it was a child.
    pub fn remove(&mut self, id: u64) -> Option<(Worker, Option<ExitStatus>)> {
        let mut worker = self.workers.remove(&id)?;
        // Readable means that it can be waited for without blocking.
        let status = worker.child.as_mut().and_then(|child| child.wait().ok());
        Some((worker, status))
    }

    /// Decides what becomes of a dead worker's place; the delay in words.
    pub fn settle(&mut self, place: usize, ordered: bool, well: bool, now: Instant) -> String {
        let Some(entry) = self.places.get_mut(place) else {
            return "gone".into();
        };
        if well {
            entry.state = PlaceState::Done;
            return "done".into();
        }
        entry.restarts += 1;
        self.restarts += 1;
        if ordered {
            entry.state = PlaceState::Empty;
            return "now".into();
        }
        self.bury(place, now);
        match self.places[place].state {
            PlaceState::Backoff(then) => format!("{}ms", (then - now).as_millis()),
            _ => "never (died too often)".into(),
        }
    }

    /// Those that live, as the next daemon must know them.
    pub fn state(&self) -> Vec<WorkerState> {
        let mine = self.workers.values().filter(|w| w.place.is_some());
        mine.filter_map(|w| {
            Some(WorkerState {
                pid: w.pid,
                started: started(w.pid)?,
                held: w.held,
            })
        })
        .collect()
    }
}

/// Ends workers of a heap that could not be taken over: nobody else would, and stopped ones would stay for ever.
pub fn end_lost(lost: &[WorkerState]) {
    for worker in lost {
        let Some(pid) = Pid::from_raw(worker.pid.cast_signed()) else {
            continue;
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Asked again now that the pidfd pins the process.
        if started(worker.pid) == Some(worker.started) {
            log::warn!(
                "ev=proc.lost pid={} msg=\"its heap could not be taken over\"",
                worker.pid
            );
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// Finds the worker program: the one that was named, the one beside this program, or one in PATH.
pub fn find_program(named: Option<&PathBuf>) -> Result<PathBuf, DaemonError> {
    if let Some(named) = named {
        return Ok(named.clone());
    }
    let me = std::env::current_exe().map_err(DaemonError::io("cannot find my own program"))?;
    let beside = me.with_file_name("coheap-worker");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("coheap-worker"));
    std::iter::once(beside)
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or(DaemonError::NoWorker(me))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(command: &[&str]) -> Crew {
        Crew::new(Launch {
            command: command.iter().map(PathBuf::from).collect(),
            socket: "/nowhere".into(),
            log: None,
            log_level: "info".into(),
        })
    }

    fn wait(crew: &mut Crew) -> (Worker, Option<ExitStatus>) {
        let (&id, worker) = crew.workers().iter().next().expect("a worker");
        let mut fds = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(&worker.pidfd),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(
            nix::poll::poll(&mut fds, 10_000u16).expect("poll"),
            1,
            "it never ended"
        );
        crew.remove(id).expect("there")
    }

    #[test]
    fn a_killed_worker_is_reaped_named_and_its_place_waits() {
        let mut crew = crew(&["/bin/sleep", "60"]);
        crew.resize(1);
        assert_eq!(crew.fill(Instant::now()), 1);
        crew.workers().values().for_each(|w| w.signal(Signal::KILL));
        let (worker, status) = wait(&mut crew);
        assert_eq!(cause(status), ("signal 9 (SIGKILL)".into(), false));
        assert_eq!(
            crew.settle(worker.place.expect("a place"), false, false, Instant::now()),
            "100ms"
        );
        assert_eq!(crew.fill(Instant::now()), 0);
        assert!(crew.due().is_some());
    }

    #[test]
    fn a_command_that_ends_well_is_not_started_again() {
        let mut crew = crew(&["/bin/true"]);
        crew.resize(1);
        crew.fill(Instant::now());
        let (worker, status) = wait(&mut crew);
        let (text, well) = cause(status);
        assert_eq!(text, "exit 0");
        crew.settle(worker.place.expect("a place"), false, well, Instant::now());
        assert_eq!(crew.places()[0].state, PlaceState::Done);
    }

    #[test]
    fn a_program_that_cannot_be_started_ends_in_a_vacant_place() {
        let mut crew = crew(&["/nowhere/at-all"]);
        crew.resize(1);
        let mut now = Instant::now();
        while crew.places()[0].state != PlaceState::Vacant {
            crew.fill(now);
            now = crew.due().unwrap_or(now);
        }
        assert!(crew.workers().is_empty());
        crew.resize(1);
        assert_eq!(
            crew.places()[0].state,
            PlaceState::Empty,
            "asking again fills it"
        );
    }
}
