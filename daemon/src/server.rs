//! The poll loop.
//!
//! Each round: what the clock brings (`Daemon::tick`), then sleep until a descriptor or a deadline calls, then whoever
//! called, in the order listener, bell, owner, newcomers, tools, workers, deaths. An idle daemon sleeps without end.
//!
//! A *newcomer* has connected and not said hello; it is given `HELLO_PATIENCE`. Its uid was checked before anything was
//! read. After the hello it is a tool or a worker.

use crate::{
    adopt,
    args::Args,
    background::{self, Notify},
    config::{Config, Origin},
    deaths::Untold,
    error::DaemonError,
    events::{Event, Events},
    heap::{self, Death},
    janitor::Janitor,
    logging,
    notify::Supervisor,
    outbox::Outbox,
    runs::Run,
    state::State,
    stop::{Step, Stopping},
    workers::{Crew, Launch, end_lost, find_program},
};
use coheap::{
    control::{Instance, Listener, Peer, Received, RuntimeDir, Socket},
    segment::Segment,
};
use coheap_protocol::{DeadRow, Outcome, StopMode, Totals, WorkerOrder, codes};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Time for a worker to change the number of P's: it waits for the end of a collection.
const PROCS_PATIENCE: Duration = Duration::from_secs(1);

/// Between two waits of which the kernel refuses the first.
const BREATH: Duration = Duration::from_millis(10);

/// What went wrong with others, counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections closed for bytes that are no message.
    pub bad_frames: u64,
    /// Connections refused.
    pub refused: u64,
    /// Workers that died.
    pub deaths: u64,
}

pub(crate) struct Newcomer {
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    pub(crate) deadline: Instant,
}

/// The daemon: all of its state.
pub struct Daemon {
    /// What it was started with.
    pub(crate) args: Args,
    pub(crate) config: Config,
    pub(crate) instance: Instance,
    pub(crate) listener: Listener,
    pub(crate) events: Events,
    pub(crate) owner: Option<Socket>,
    pub(crate) segment: Segment,
    pub(crate) crew: Crew,
    pub(crate) newcomers: BTreeMap<u64, Newcomer>,
    pub(crate) tools: BTreeMap<u64, Outbox>,
    pub(crate) next_connection: u64,
    pub(crate) run: Option<Run>,
    pub(crate) outcomes: VecDeque<(Outcome, Totals)>,
    pub(crate) gc_waits: Vec<(u64, u32)>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) stop_waiters: Vec<u64>,
    pub(crate) counters: Counters,
    pub(crate) dead: VecDeque<(Instant, DeadRow)>,
    pub(crate) untold: Vec<Untold>,
    pub(crate) recoveries: BTreeMap<u32, Death>,
    pub(crate) started: Instant,
    pub(crate) adopted: bool,
    pub(crate) procs_asked: Option<u16>,
    pub(crate) procs_told: Option<(u16, Instant)>,
    pub(crate) next_suspects: Instant,
    pub(crate) state_is_old: bool,
    pub(crate) exit_code: u8,
    pub(crate) supervisor: Supervisor,
    pub(crate) janitor: Option<Janitor>,
}

/// Who made `poll` return.
#[derive(Clone, Copy, Debug)]
enum Key {
    Listener,
    Bell,
    Owner,
    Newcomer(u64),
    Tool(u64),
    Worker(u64),
    Death(u64),
}

/// Becomes the daemon of the configured name and serves until it is told to stop.
pub fn serve(args: &Args, config: Config, notify: &mut Notify) -> Result<u8, DaemonError> {
    if args.detached {
        background::make_session();
    }
    logging::start(&config);
    let (notifier, events) = Events::new()?;
    let on_signal = notifier.clone();
    ctrlc::set_handler(move || on_signal.send(Event::Signal))
        .map_err(|e| DaemonError::io("cannot catch signals")(std::io::Error::other(e)))?;
    let mut daemon = Daemon::begin(args, config, events)?;
    let announced =
        heap::watch(&daemon.segment, &notifier).and_then(|()| daemon.announce(args, notify));
    if let Err(error) = announced {
        return Err(daemon.vanish(error));
    }
    daemon.serve()?;
    daemon.end(&notifier)
}

/// The heap that a daemon begins with.
struct Found {
    listener: Listener,
    segment: Segment,
    callers: Vec<adopt::Caller>,
    /// What the daemon before left, if its heap was taken over.
    inherited: Option<State>,
}

/// Listens, and takes a heap over or makes one. `left` is what a daemon left whose heap may still live, `stored` its segment if systemd
/// kept it.
fn find_heap(
    instance: &Instance,
    config: &Config,
    left: Option<&State>,
    stored: Option<Segment>,
    stale: Option<&State>,
) -> Result<Found, DaemonError> {
    let listener = instance.listen()?;
    let (segment, callers) = match (left, stored) {
        (Some(state), None) => {
            let adoption = adopt::wait(&listener, state)?;
            (adoption.segment, adoption.callers)
        }
        (_, stored) => (stored, Vec::new()),
    };
    let inherited = left.filter(|_| segment.is_some()).cloned();
    let segment = match segment {
        Some(segment) => segment,
        None => {
            left.iter().for_each(|state| end_lost(&state.living()));
            stale.iter().for_each(|state| heap::remove_stale(state));
            heap::create(config)?
        }
    };
    Ok(Found {
        listener,
        segment,
        callers,
        inherited,
    })
}

impl Daemon {
    fn begin(args: &Args, config: Config, events: Events) -> Result<Daemon, DaemonError> {
        let dir = RuntimeDir::of(&config.name.value);
        let launch = launch(args, &config, &dir)?;
        let instance = Instance::acquire(dir)?;
        // Without one, what everybody's death leaves stays until the next start; no reason not to start.
        let janitor = Janitor::start(instance.dir().name())
            .inspect_err(|e| log::warn!("ev=janitor.missing msg={:?}", e.to_string()))
            .ok();
        let found = State::load(instance.dir());
        let stale = found.clone();
        let stored = found.as_ref().and_then(adopt::take_stored);
        let left = found.filter(|state| stored.is_some() || !state.living().is_empty());
        let heap = find_heap(&instance, &config, left.as_ref(), stored, stale.as_ref());
        let Found {
            listener,
            segment,
            callers,
            inherited,
        } = match heap {
            Ok(heap) => heap,
            // What a living heap's next daemon needs stays; otherwise nothing of ours does.
            Err(error) => {
                if left.is_none() {
                    instance.remove().unwrap_or_else(|e| {
                        log::warn!("ev=daemon.leftover msg={:?}", e.to_string())
                    });
                }
                return Err(error);
            }
        };
        let mut daemon = Daemon {
            crew: Crew::new(launch),
            args: args.clone(),
            config,
            instance,
            listener,
            events,
            owner: None,
            segment,
            newcomers: BTreeMap::new(),
            tools: BTreeMap::new(),
            next_connection: 1,
            run: None,
            outcomes: VecDeque::new(),
            gc_waits: Vec::new(),
            stopping: None,
            stop_waiters: Vec::new(),
            counters: Counters::default(),
            dead: VecDeque::new(),
            untold: Vec::new(),
            recoveries: BTreeMap::new(),
            started: Instant::now(),
            adopted: inherited.is_some(),
            procs_asked: None,
            procs_told: None,
            next_suspects: Instant::now(),
            state_is_old: true,
            exit_code: codes::OK,
            supervisor: Supervisor::from_env(),
            janitor,
        };
        let asked = &daemon.config.workers;
        let (asked, said) = (asked.value, asked.origin != Origin::Default);
        if let Some(state) = inherited {
            daemon.inherit_backing(&state);
            daemon.crew.resize(state.wanted);
            daemon.crew.inherit(&state.living(), Instant::now());
            // As many as there were, unless somebody said otherwise.
            if said {
                daemon.resize(asked);
            }
        } else {
            daemon.crew.resize(asked);
        }
        for caller in callers {
            daemon.line_up(caller);
        }
        Ok(daemon)
    }

    /// The heap is on what it was made on, whatever this daemon was told: the end must remove that name, and no other.
    fn inherit_backing(&mut self, state: &State) {
        let Ok(backing) = state.backing.parse() else {
            return;
        };
        let asked = &mut self.config.backing;
        if asked.value != backing {
            if asked.origin != Origin::Default {
                log::warn!(
                    "ev=heap.backing asked={} has={}",
                    logging::value(&asked.value.to_string()),
                    logging::value(&state.backing)
                );
            }
            asked.value = backing;
            asked.origin = Origin::File(self.instance.dir().state_file());
        }
    }

    fn announce(&mut self, args: &Args, notify: &mut Notify) -> Result<(), DaemonError> {
        let (name, pid) = (&self.config.name.value, std::process::id());
        let max = coheap_protocol::human::show_bytes(self.config.max_bytes.value);
        let backing = logging::value(&self.config.backing.value.to_string());
        let adopted = self.adopted;
        if args.detached {
            let log = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(self.instance.dir().log_file());
            background::redirect_stderr(
                &log.map_err(DaemonError::io("cannot open the log"))?.into(),
            )?;
        }
        log::info!(
            "ev=daemon.ready name={name} pid={pid} max={max} backing={backing} adopted={adopted}"
        );
        self.supervisor.store(self.segment.fd());
        self.supervisor
            .ready(&format!("{name}: {max} at most, adopted={adopted}"));
        self.owner = notify.ready(args.owner);
        Ok(())
    }

    fn serve(&mut self) -> Result<(), DaemonError> {
        loop {
            self.tick(Instant::now());
            if self.is_over() {
                return Ok(());
            }
            for (key, flags) in self.sleep()? {
                self.called(key, flags);
            }
        }
    }

    /// What the clock brings.
    fn tick(&mut self, now: Instant) {
        self.newcomers.retain(|_, newcomer| newcomer.deadline > now);
        self.tell_deaths();
        self.suspect_tick(now);
        self.run_tick(now);
        self.gc_tick();
        if self.stopping.is_none() {
            if self.crew.fill(now) > 0 {
                self.state_is_old = true;
            }
            if self.owner.is_some() && self.crew.is_done() && self.run.is_none() {
                self.begin_stop(StopMode::Fast, "every command has ended");
            } else if self.owner.is_some() && self.crew.is_hopeless() && self.run.is_none() {
                self.exit_code = codes::FAILED;
                self.begin_stop(StopMode::Fast, "every worker died too often");
            }
        }
        self.stop_tick(now);
        self.match_procs(now);
        self.save_state();
        self.supervisor.tick(now);
    }

    /// Brings the number of P's that may run to what was asked for. Only a P can change it, so a worker is told to; whether
    /// it did is read from the segment, and if it died, another is told.
    fn match_procs(&mut self, now: Instant) {
        let Some(asked) = self.procs_asked else {
            return;
        };
        let wanted = self.crew.highest_p().map_or(asked, |p| asked.max(p + 1));
        let waiting = self
            .procs_told
            .is_some_and(|(n, when)| n == wanted && now < when + PROCS_PATIENCE);
        if waiting || u32::from(wanted) == heap::status(&self.segment).gomaxprocs {
            return;
        }
        let told = self
            .crew
            .workers_mut()
            .values_mut()
            .filter(|w| w.is_ready())
            .any(|w| w.order(&WorkerOrder::Procs { n: wanted }));
        self.procs_told = told.then_some((wanted, now));
    }

    fn save_state(&mut self) {
        if !std::mem::take(&mut self.state_is_old) || self.stopping.is_some() {
            return;
        }
        let state = State {
            incarnation: format!("{:#x}", self.segment.incarnation()),
            backing: self.config.backing.value.to_string(),
            wanted: self.crew.wanted(),
            stored: self.supervisor.keeps_heap(),
            worker: self.crew.state(),
        };
        if let Err(error) = state.save(self.instance.dir()) {
            log::warn!("ev=state.unsaved msg={:?}", error.to_string());
        }
    }

    fn due(&self) -> Option<Instant> {
        let hello = self.newcomers.values().map(|n| n.deadline).min();
        let run = self.run.as_ref().and_then(Run::due);
        let procs = self
            .procs_told
            .map(|(_, when)| when + PROCS_PATIENCE)
            .filter(|&when| when > Instant::now());
        let stop = self.stopping.as_ref().and_then(Stopping::deadline);
        let restart = self.crew.due().filter(|_| self.stopping.is_none());
        // Neither a collection nor the end of all work calls by itself.
        let draining = self
            .stopping
            .as_ref()
            .is_some_and(|s| s.step() == Step::Draining);
        let look = (draining || !self.gc_waits.is_empty() || !self.untold.is_empty())
            .then(|| Instant::now() + Duration::from_millis(20));
        [
            self.suspects_due(),
            hello,
            run,
            procs,
            stop,
            restart,
            look,
            self.supervisor.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn sleep(&self) -> Result<Vec<(Key, PollFlags)>, DaemonError> {
        let input = PollFlags::POLLIN;
        let flags = |outbox: &Outbox| {
            if outbox.wants_room() {
                input | PollFlags::POLLOUT
            } else {
                input
            }
        };
        let mut keys = vec![Key::Listener, Key::Bell];
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), input),
            PollFd::new(self.events.as_fd(), input),
        ];
        let mut watch = |key, fd| {
            keys.push(key);
            fds.push(fd);
        };
        if let Some(owner) = &self.owner {
            watch(Key::Owner, PollFd::new(owner.as_fd(), input));
        }
        for (&id, newcomer) in &self.newcomers {
            watch(
                Key::Newcomer(id),
                PollFd::new(newcomer.socket.as_fd(), input),
            );
        }
        for (&id, tool) in &self.tools {
            watch(Key::Tool(id), PollFd::new(tool.as_fd(), flags(tool)));
        }
        for (&id, worker) in self.crew.workers() {
            if let Some(outbox) = &worker.outbox {
                watch(Key::Worker(id), PollFd::new(outbox.as_fd(), flags(outbox)));
            }
            watch(Key::Death(id), PollFd::new(worker.pidfd.as_fd(), input));
        }
        let left = self
            .due()
            .map(|due| due.saturating_duration_since(Instant::now()));
        // Rounded up, or the loop would spin through the last millisecond.
        let timeout = left.map_or(PollTimeout::NONE, |l| {
            PollTimeout::try_from(l.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(e @ nix::errno::Errno::ENOMEM) => {
                // The kernel has no memory for its own tables, for now: no reason to leave a heap without its daemon.
                log::warn!("ev=poll.refused msg={:?}", e.desc());
                std::thread::sleep(BREATH);
                return Ok(Vec::new());
            }
            Err(e) => return Err(DaemonError::io("cannot wait for events")(e)),
        }
        let flags = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(keys
            .iter()
            .copied()
            .zip(flags)
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn called(&mut self, key: Key, flags: PollFlags) {
        match key {
            Key::Listener => self.accept(),
            Key::Bell => self
                .events
                .take()
                .into_iter()
                .for_each(|event| self.happened(event)),
            Key::Owner => self.hear_owner(),
            Key::Newcomer(id) => self.hear_newcomer(id),
            Key::Tool(id) => self.hear_tool(id, flags),
            Key::Worker(id) => self.hear_worker(id, flags),
            Key::Death(id) => self.worker_gone(id),
        }
    }

    pub(crate) fn happened(&mut self, event: Event) {
        match event {
            Event::Signal if self.stopping.is_some() => {
                self.begin_stop(StopMode::Immediate, "a second signal")
            }
            Event::Signal => self.begin_stop(StopMode::Fast, "a signal"),
            Event::Recovered(deaths) => self.recovered(deaths),
            Event::Nudge => {}
        }
    }

    fn hear_owner(&mut self) {
        match self.owner.as_ref().map(Socket::try_recv) {
            Some(Ok(Received::Nothing)) | None => {}
            Some(Ok(Received::Frame(..))) => self.counters.bad_frames += 1,
            Some(Ok(Received::Closed) | Err(_)) => {
                self.owner = None;
                self.begin_stop(
                    StopMode::Fast,
                    "the command that started the daemon has ended",
                );
            }
        }
    }
}

fn launch(args: &Args, config: &Config, dir: &RuntimeDir) -> Result<Launch, DaemonError> {
    let command = match args.command.as_slice() {
        [] => match find_program(config.worker_bin.value.as_ref()) {
            Ok(program) => vec![program],
            // Without workers wanted, their program may come later.
            Err(_) if config.workers.value == 0 => vec![PathBuf::from("coheap-worker")],
            Err(error) => return Err(error),
        },
        command => command.iter().map(PathBuf::from).collect(),
    };
    let log = args.detached.then(|| dir.log_file());
    let log_level = config.log_level.value.to_string().to_lowercase();
    Ok(Launch {
        command,
        socket: dir.socket(),
        log,
        log_level,
    })
}
