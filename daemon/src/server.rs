//! The poll loop.
//!
//! Each round: what the clock brings (`Daemon::tick`), then sleep until a descriptor or a deadline calls, then whoever
//! called, in the order listener, bell, owner, newcomers, tools, workers, deaths. An idle daemon sleeps without end.
//!
//! A *newcomer* has connected and not said hello; it is given `HELLO_PATIENCE`. Its uid was checked before anything was
//! read. After the hello it is a tool or a worker.

use crate::{
    adopt::{self, Caller},
    args::Args,
    background::{self, Notify},
    config::{Config, Origin},
    error::DaemonError,
    events::{Event, Events, Notifier},
    heap::{self, Death},
    logging,
    outbox::Outbox,
    runs::{Run, Stage},
    state::State,
    stop::{Step, Stopping},
    workers::{Crew, Launch, cause, end_lost, find_program},
};
use coheap::{
    control::{ControlError, Instance, Listener, Peer, Received, RuntimeDir, Socket},
    segment::Segment,
};
use coheap_protocol::{
    Answer, DeadRow, Hello, Outcome, PROTOCOL_VERSION, Refused, Reply, Request, Role, StopMode,
    Totals, Welcome, WorkerOrder, WorkerSays, codes, decode, encode, hello::MAGIC,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Time a connection has to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Time for a worker to change the number of P's: it waits for the end of a collection.
const PROCS_PATIENCE: Duration = Duration::from_secs(1);
/// Deaths remembered for `coheap dead`.
const DEAD_KEPT: usize = 256;
/// Connections that may be open and silent at a time: a flood of them must not use up the descriptors.
const NEWCOMERS_MAX: usize = 128;

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

struct Newcomer {
    socket: Socket,
    peer: Peer,
    deadline: Instant,
}

/// The daemon: all of its state.
pub struct Daemon {
    pub(crate) config: Config,
    instance: Instance,
    listener: Listener,
    events: Events,
    owner: Option<Socket>,
    pub(crate) segment: Segment,
    pub(crate) crew: Crew,
    newcomers: BTreeMap<u64, Newcomer>,
    pub(crate) tools: BTreeMap<u64, Outbox>,
    next_connection: u64,
    pub(crate) run: Option<Run>,
    pub(crate) outcomes: VecDeque<(Outcome, Totals)>,
    pub(crate) gc_waits: Vec<(u64, u32)>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) stop_waiters: Vec<u64>,
    pub(crate) counters: Counters,
    pub(crate) dead: VecDeque<(Instant, DeadRow)>,
    recoveries: BTreeMap<u32, Death>,
    pub(crate) started: Instant,
    pub(crate) adopted: bool,
    procs_asked: Option<u16>,
    procs_told: Option<(u16, Instant)>,
    pub(crate) state_is_old: bool,
    exit_code: u8,
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
    heap::watch(&daemon.segment, &notifier)?;
    daemon.announce(args, notify)?;
    daemon.serve()?;
    daemon.end(&notifier)
}

impl Daemon {
    fn begin(args: &Args, config: Config, events: Events) -> Result<Daemon, DaemonError> {
        let dir = RuntimeDir::of(&config.name.value);
        let launch = launch(args, &config, &dir)?;
        let instance = Instance::acquire(dir)?;
        let found = State::load(instance.dir());
        let stale = found.as_ref().map(|state| state.backing.clone());
        let left = found.filter(|state| !state.living().is_empty());
        let listener = instance.listen()?;
        let (segment, callers) = match &left {
            Some(state) => {
                let adoption = adopt::wait(&listener, state)?;
                (adoption.segment, adoption.callers)
            }
            None => (None, Vec::new()),
        };
        let adopted = segment.is_some();
        let segment = match segment {
            Some(segment) => segment,
            None => {
                left.iter().for_each(|state| end_lost(&state.living()));
                stale.iter().for_each(|backing| heap::remove_stale(backing));
                heap::create(&config)?
            }
        };
        let mut daemon = Daemon {
            crew: Crew::new(launch),
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
            recoveries: BTreeMap::new(),
            started: Instant::now(),
            adopted,
            procs_asked: None,
            procs_told: None,
            state_is_old: true,
            exit_code: codes::OK,
        };
        let asked = &daemon.config.workers;
        let (asked, said) = (asked.value, asked.origin != Origin::Default);
        if let Some(state) = left.filter(|_| adopted) {
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
        let look = (draining || !self.gc_waits.is_empty())
            .then(|| Instant::now() + Duration::from_millis(20));
        [hello, run, procs, stop, restart, look]
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

    fn happened(&mut self, event: Event) {
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

    // ---- connections -------------------------------------------------------------------------------------------------

    fn accept(&mut self) {
        while self.newcomers.len() < NEWCOMERS_MAX {
            let socket = match self.listener.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => return log::warn!("ev=accept.failed msg={:?}", error.to_string()),
            };
            match socket.peer_of_our_uid() {
                Ok(peer) => self.line_up(Caller {
                    socket,
                    peer,
                    hello: None,
                }),
                Err(error) => self.turn_away(&socket, &error.to_refused()),
            }
        }
    }

    fn line_up(&mut self, caller: Caller) {
        let id = self.next_connection;
        self.next_connection += 1;
        let Caller {
            socket,
            peer,
            hello,
        } = caller;
        match hello {
            Some(hello) => self.greet(socket, peer, hello),
            None => {
                let deadline = Instant::now() + HELLO_PATIENCE;
                self.newcomers.insert(
                    id,
                    Newcomer {
                        socket,
                        peer,
                        deadline,
                    },
                );
            }
        }
    }

    fn turn_away(&mut self, socket: &Socket, refused: &Refused) {
        self.counters.refused += 1;
        log::warn!(
            "ev=conn.refused code={} msg={:?}",
            refused.code,
            refused.what
        );
        if let Ok(frame) = encode(&Answer::Refused(refused.clone())) {
            // Whoever does not take it has gone.
            let _ = socket.try_send(&frame, None);
        }
    }

    fn bad_frame(&mut self, pid: u32, why: &str) {
        self.counters.bad_frames += 1;
        log::warn!("ev=conn.bad_frame pid={pid} msg={why:?}");
    }

    fn hear_newcomer(&mut self, id: u64) {
        let Some(newcomer) = self.newcomers.get(&id) else {
            return;
        };
        let received = newcomer.socket.try_recv();
        if matches!(received, Ok(Received::Nothing)) {
            return;
        }
        let Some(Newcomer { socket, peer, .. }) = self.newcomers.remove(&id) else {
            return;
        };
        match received {
            Ok(Received::Frame(bytes, _)) => match read_hello(&bytes) {
                Ok(hello) => self.greet(socket, peer, hello),
                Err(Some(refused)) => self.turn_away(&socket, &refused),
                Err(None) => self.bad_frame(peer.pid, "no hello"),
            },
            Err(error @ ControlError::Cut(_)) => self.bad_frame(peer.pid, &error.to_string()),
            _ => {}
        }
    }

    fn greet(&mut self, socket: Socket, peer: Peer, hello: Hello) {
        if let Some(refused) = self.objection(&hello) {
            return self.turn_away(&socket, &refused);
        }
        let place = self
            .crew
            .by_pid(peer.pid)
            .and_then(|id| self.crew.workers().get(&id)?.place);
        let welcome = Answer::Welcome(Welcome {
            daemon_pid: std::process::id(),
            incarnation: self.segment.incarnation(),
            p_hint: place.unwrap_or(0) as u16,
            name: self.config.name.value.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
        });
        let fd = (hello.role != Role::Tool && hello.holds == 0).then(|| self.segment.fd());
        let sent = encode(&welcome)
            .map_err(ControlError::from)
            .and_then(|frame| socket.try_send(&frame, fd));
        if !matches!(sent, Ok(true)) {
            return;
        }
        match hello.role {
            Role::Worker => self.welcome_worker(socket, peer, &hello),
            Role::Tool | Role::Reader => {
                let id = self.next_connection;
                self.next_connection += 1;
                self.tools.insert(id, Outbox::new(socket));
            }
        }
    }

    /// Why this caller cannot come in.
    fn objection(&self, hello: &Hello) -> Option<Refused> {
        if let Some(refused) =
            hello.first_difference(Segment::layout_version(), Segment::layout_hash())
        {
            return Some(refused);
        }
        if hello.holds != 0 && hello.holds != self.segment.incarnation() {
            let what = format!(
                "the heap {:#x} that {} holds has ended",
                hello.holds, hello.program
            );
            return Some(Refused::new(
                codes::FAILED,
                "E017",
                what,
                "starting it again; it will get the new heap",
            ));
        }
        let newcomer = hello.role == Role::Worker && self.stopping.is_some();
        newcomer.then(|| {
            Refused::new(
                codes::BUSY,
                "E093",
                "the daemon is stopping",
                "coheap start when it is gone",
            )
        })
    }

    fn welcome_worker(&mut self, socket: Socket, peer: Peer, hello: &Hello) {
        let now = Instant::now();
        let known = self.crew.by_pid(peer.pid);
        let id = match known {
            Some(id) => id,
            None => {
                let raw = Pid::from_raw(peer.pid.cast_signed());
                let pidfd = peer
                    .pidfd
                    .or_else(|| pidfd_open(raw?, PidfdFlags::empty()).ok());
                let Some(pidfd) = pidfd else {
                    return self.bad_frame(peer.pid, "it has no process");
                };
                let place = self.crew.free_place().filter(|_| hello.supervised);
                self.crew.add(peer.pid, pidfd, place, &hello.program, now)
            }
        };
        if let Some(worker) = self.crew.workers_mut().get_mut(&id) {
            worker.supervised |= hello.supervised;
            worker.outbox = Some(Outbox::new(socket));
            worker.p = hello.leased.or(worker.p);
            worker.program.clone_from(&hello.program);
        }
        log::info!(
            "ev=proc.hello pid={} program={}",
            peer.pid,
            logging::value(&hello.program)
        );
        self.state_is_old = true;
    }

    fn hear_tool(&mut self, id: u64, flags: PollFlags) {
        let Some(tool) = self.tools.get_mut(&id) else {
            return;
        };
        let mut open = !flags.contains(PollFlags::POLLOUT) || tool.flush().is_ok();
        // One request a round: a tool that never stops asking must not keep the others waiting.
        let received = tool.socket().try_recv();
        match received {
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => open = false,
            Ok(Received::Frame(bytes, _)) => match decode::<Request>(&bytes) {
                Ok(request) => self.answer(id, request),
                Err(error) => {
                    self.bad_frame(0, &error.to_string());
                    open = false;
                }
            },
            Err(error) => {
                self.bad_frame(0, &error.to_string());
                open = false;
            }
        }
        if !open {
            self.tools.remove(&id);
        }
    }

    /// Sends a reply to a tool; one that does not take it is let go.
    pub fn reply(&mut self, tool: u64, reply: &Reply) {
        if self
            .tools
            .get_mut(&tool)
            .is_some_and(|outbox| outbox.send(reply).is_err())
        {
            self.tools.remove(&tool);
        }
    }

    fn hear_worker(&mut self, id: u64, flags: PollFlags) {
        let Some(worker) = self.crew.workers_mut().get_mut(&id) else {
            return;
        };
        let pid = worker.pid;
        let Some(outbox) = worker.outbox.as_mut() else {
            return;
        };
        let mut open = !flags.contains(PollFlags::POLLOUT) || outbox.flush().is_ok();
        match outbox.socket().try_recv() {
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => open = false,
            Ok(Received::Frame(bytes, _)) => match decode::<WorkerSays>(&bytes) {
                Ok(word) => self.worker_says(id, word),
                Err(error) => {
                    self.bad_frame(pid, &error.to_string());
                    open = false;
                }
            },
            Err(error) => {
                self.bad_frame(pid, &error.to_string());
                open = false;
            }
        }
        if let Some(worker) = self.crew.workers_mut().get_mut(&id).filter(|_| !open) {
            // Not a death: it may knock again. The pidfd decides.
            worker.outbox = None;
        }
    }

    fn worker_says(&mut self, id: u64, word: WorkerSays) {
        let Some(worker) = self.crew.workers_mut().get_mut(&id) else {
            return;
        };
        match word {
            WorkerSays::Leased { p } => {
                worker.p = Some(p);
                log::info!("ev=proc.attached p={p} pid={}", worker.pid);
                self.state_is_old = true;
                self.run_ask(Instant::now());
            }
            WorkerSays::Leaving => worker.leaving = true,
            WorkerSays::Submitted { run } => self.run_stage(run, Stage::Submit, Stage::Running),
            WorkerSays::Finished { run } => {
                // Finished means submitted too, whoever said so first.
                self.run_stage(run, Stage::Submit, Stage::Running);
                self.run_stage(run, Stage::Running, Stage::Collect);
            }
            WorkerSays::NotYet { run } => self.run_stage(run, Stage::Collect, Stage::Running),
            WorkerSays::Result(outcome) => self.run_over(outcome.run, Ok(outcome)),
            WorkerSays::RunFailed { run, why } => self.run_over(run, Err(why)),
        }
    }

    // ---- workers -----------------------------------------------------------------------------------------------------

    /// Makes it that many workers, and lets as many P's run.
    pub fn resize_procs(&mut self, n: u16) {
        self.procs_asked = Some(n.max(1));
        self.resize(n);
    }

    /// Makes it that many workers.
    pub fn resize(&mut self, n: u16) {
        let dismissed = self.crew.resize(n);
        for id in dismissed {
            if let Some(worker) = self.crew.workers_mut().get_mut(&id)
                && !worker.order(&WorkerOrder::Stop {
                    mode: StopMode::Fast,
                })
            {
                worker.signal(Signal::TERM);
            }
        }
        if self.procs_asked.is_some_and(|asked| asked < n) {
            self.procs_asked = Some(n);
        }
        log::info!("ev=procs.resize workers={n}");
        self.state_is_old = true;
    }

    /// The pidfd says that all threads of a worker are gone.
    fn worker_gone(&mut self, id: u64) {
        let Some((worker, status)) = self.crew.remove(id) else {
            return;
        };
        let now = Instant::now();
        // The watcher's report may be in the queue already.
        self.events
            .take()
            .into_iter()
            .for_each(|event| self.happened(event));
        let deaths = heap::recover(&self.segment);
        self.recovered(deaths);
        let (cause, exited_well) = cause(status);
        let well = exited_well || (worker.leaving && status.is_none());
        let next = worker.place.map_or("no place".into(), |place| {
            self.crew.settle(place, worker.doomed, well, now)
        });
        let pid = worker.pid;
        let p = worker.p.map_or("-".into(), |p| p.to_string());
        if worker.leaving || well || self.stopping.is_some() {
            self.recoveries.remove(&pid);
            log::info!("ev=proc.left p={p} pid={pid} cause={cause:?}");
        } else {
            self.counters.deaths += 1;
            let found = self.recoveries.remove(&pid).unwrap_or_default();
            let (at, us, requeued) = (found.at, found.took.as_micros() as u64, found.requeued);
            log::warn!(
                "ev=proc.dead p={p} pid={pid} cause={cause:?} at={} requeued={requeued} recovery_us={us} restart={next:?}",
                logging::value(&at)
            );
            self.remember(DeadRow {
                p: worker.p,
                pid,
                cause,
                at,
                requeued,
                recovery_us: us,
                ago_ms: 0,
            });
        }
        self.state_is_old = true;
        self.run_ask(now);
    }

    fn remember(&mut self, row: DeadRow) {
        self.dead.push_back((Instant::now(), row));
        if self.dead.len() > DEAD_KEPT {
            self.dead.pop_front();
        }
    }

    /// P's were recovered, here or by the thread that watches life words.
    fn recovered(&mut self, deaths: Vec<Death>) {
        for death in deaths {
            log::info!(
                "ev=proc.recovered p={} pid={} us={}",
                death.p,
                death.pid,
                death.took.as_micros()
            );
            if self.crew.by_pid(death.pid).is_some() {
                // The pidfd will follow, with the cause.
                self.recoveries.insert(death.pid, death);
                continue;
            }
            let row = self
                .dead
                .iter_mut()
                .map(|(_, row)| row)
                .rev()
                .find(|row| row.pid == death.pid && row.at.is_empty());
            if let Some(row) = row {
                row.at = death.at;
                row.requeued = death.requeued;
                row.recovery_us = death.took.as_micros() as u64;
            } else {
                self.recoveries.insert(death.pid, death);
            }
        }
    }

    // ---- the end -----------------------------------------------------------------------------------------------------

    /// Begins to stop, or hurries.
    pub fn begin_stop(&mut self, mode: StopMode, why: &str) {
        let now = Instant::now();
        let news = match &mut self.stopping {
            Some(stopping) => stopping.hurry(mode, now),
            None => {
                self.stopping = Some(Stopping::new(mode, self.config.stop_timeout.value, now));
                true
            }
        };
        if news {
            log::info!("ev=daemon.stopping mode={mode:?} msg={why:?}");
            if mode != StopMode::Smart {
                self.abandon_run();
            }
            self.act_on_stop();
        }
    }

    fn abandon_run(&mut self) {
        let Some(id) = self.run.as_ref().map(|r| r.request.run) else {
            return;
        };
        let refused = Refused::new(
            codes::FAILED,
            "E019",
            "the run was cut short: the daemon is stopping",
            "running it again",
        );
        self.run_over(id, Err(refused));
    }

    fn stop_tick(&mut self, now: Instant) {
        let drained = self.run.is_none() && heap::is_idle(&self.segment);
        if self
            .stopping
            .as_mut()
            .and_then(|s| s.advance(now, drained))
            .is_some()
        {
            self.act_on_stop();
        }
    }

    /// Does what the step of the end demands of the workers.
    fn act_on_stop(&mut self) {
        let Some(step) = self.stopping.as_ref().map(Stopping::step) else {
            return;
        };
        if step >= Step::Asked {
            heap::shut_down(&self.segment);
        }
        for worker in self.crew.workers_mut().values_mut() {
            let mine = worker.supervised;
            match step {
                Step::Draining => {}
                Step::Asked => {
                    if !worker.order(&WorkerOrder::Stop {
                        mode: StopMode::Fast,
                    }) && mine
                    {
                        worker.signal(Signal::TERM);
                    }
                }
                Step::Termed if mine => {
                    worker.signal(Signal::TERM);
                    worker.signal(Signal::CONT);
                }
                Step::Killed if mine => worker.signal(Signal::KILL),
                Step::Termed | Step::Killed => {}
            }
        }
    }

    /// Whether nobody is left to wait for. Guests are asked to leave, and not waited for longer than that.
    fn is_over(&self) -> bool {
        let Some(step) = self.stopping.as_ref().map(Stopping::step) else {
            return false;
        };
        let waited_for = |supervised: bool| supervised || step < Step::Termed;
        step > Step::Draining
            && !self
                .crew
                .workers()
                .values()
                .any(|w| waited_for(w.supervised))
    }

    /// Removes everything with a name, then tells those who wait for that.
    fn end(mut self, _notifier: &Notifier) -> Result<u8, DaemonError> {
        heap::remove(&self.segment, &self.config.backing.value);
        log::info!(
            "ev=daemon.ended name={} pid={}",
            self.config.name.value,
            std::process::id()
        );
        self.instance.remove()?;
        for tool in std::mem::take(&mut self.stop_waiters) {
            if let Some(outbox) = self.tools.get_mut(&tool) {
                let _ = outbox.send(&Reply::End(0));
            }
        }
        Ok(self.exit_code)
    }
}

/// A hello, or the refusal to send (`None`: it is none, and deserves no answer).
fn read_hello(bytes: &[u8]) -> Result<Hello, Option<Refused>> {
    match Hello::peek(bytes) {
        Some((MAGIC, PROTOCOL_VERSION)) => decode(bytes).map_err(|_| None),
        Some((MAGIC, other)) => {
            let what = format!(
                "protocol version differs: the caller has {other}, the daemon has {PROTOCOL_VERSION}"
            );
            Err(Some(Refused::new(
                codes::LAYOUT,
                "E072",
                what,
                "install coheap and coheapd from one build",
            )))
        }
        _ => Err(None),
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
