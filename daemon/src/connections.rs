//! Connections: who knocks, who gets in as what, and what they say.
//!
//! A *newcomer* has connected and not said hello; it is given [`HELLO_PATIENCE`]. Its uid was checked before anything was read. After
//! the hello it is a tool or a worker. Whoever sends what is no message is let go and counted; nothing else happens to him or to us.

use crate::{
    adopt::Caller,
    logging,
    outbox::Outbox,
    runs::Stage,
    server::{Daemon, Newcomer},
};
use coheap::{
    control::{ControlError, Peer, Received, Socket},
    segment::Segment,
};
use coheap_protocol::{
    Answer, Hello, PROTOCOL_VERSION, Refused, Reply, Request, Role, StopMode, Welcome, WorkerOrder,
    WorkerSays, codes, decode, encode, hello::MAGIC,
};
use nix::poll::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::time::{Duration, Instant};

/// Time a connection has to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Connections that may be open and silent at a time: a flood of them must not use up the descriptors.
const NEWCOMERS_MAX: usize = 128;

impl Daemon {
    pub(crate) fn accept(&mut self) {
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

    pub(crate) fn line_up(&mut self, caller: Caller) {
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

    pub(crate) fn turn_away(&mut self, socket: &Socket, refused: &Refused) {
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

    pub(crate) fn bad_frame(&mut self, pid: u32, why: &str) {
        self.counters.bad_frames += 1;
        log::warn!("ev=conn.bad_frame pid={pid} msg={why:?}");
        #[cfg(feature = "failpoints")]
        coheap::failpoint::hit("daemon.bad_frame");
    }

    pub(crate) fn hear_newcomer(&mut self, id: u64) {
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

    pub(crate) fn greet(&mut self, socket: Socket, peer: Peer, hello: Hello) {
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
    pub(crate) fn objection(&self, hello: &Hello) -> Option<Refused> {
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

    pub(crate) fn welcome_worker(&mut self, socket: Socket, peer: Peer, hello: &Hello) {
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
        if known.is_none() && hello.supervised {
            self.dismiss_surplus(id);
        }
        self.state_is_old = true;
    }

    /// A worker that the daemon before had started and not yet written down: its place has been filled again meanwhile. One too
    /// many; it gives back what it has leased, and ends.
    fn dismiss_surplus(&mut self, id: u64) {
        let Some(worker) = self.crew.workers_mut().get_mut(&id) else {
            return;
        };
        if worker.place.is_some() {
            return;
        }
        log::warn!("ev=proc.surplus pid={}", worker.pid);
        (worker.doomed, worker.leaving) = (true, true);
        let mode = StopMode::Fast;
        if !worker.order(&WorkerOrder::Stop { mode }) {
            worker.signal(Signal::TERM);
        }
    }

    pub(crate) fn hear_tool(&mut self, id: u64, flags: PollFlags) {
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

    pub(crate) fn hear_worker(&mut self, id: u64, flags: PollFlags) {
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

    pub(crate) fn worker_says(&mut self, id: u64, word: WorkerSays) {
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
