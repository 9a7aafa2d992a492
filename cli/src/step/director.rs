//! The director of `coheap step`: starts the actors, lets them go on as the script says, shows the words, objects.
//!
//! An actor that passes a point that nobody holds is told to go on at once, but only while the director is waiting for somebody:
//! between two lines everybody stands still, or is about to stand at its next point.

use super::{StepArgs, script::Line};
use crate::{args::Global, failure::Failure, show};
use coheap::{Segment, SegmentConfig, stepping};
use coheap_protocol::codes;
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    os::fd::AsRawFd,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

/// Names of points that a complaint lists.
const POINTS_SHOWN: usize = 8;

/// What an actor is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running,
    At(String),
    Gone,
}

/// A point that an actor is to stop at.
struct Held {
    line: usize,
    point: String,
    passes_left: u32,
}

struct Actor {
    child: Child,
    input: ChildStdin,
    /// Tells its lines from those of an earlier process in its place.
    life: u64,
    state: State,
    held: Vec<Held>,
    stop_at_next: bool,
    /// What it said at the end of its last operation.
    said: String,
    /// Points that it passed in the present operation, the last ones.
    passed: VecDeque<String>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Gone already is as good as ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of an actor, or `None` at its end.
struct Said {
    actor: usize,
    life: u64,
    line: Option<String>,
}

/// A script being followed.
pub struct Director {
    name: String,
    json: bool,
    go_on: bool,
    patience: Duration,
    rule: Option<String>,
    segment: Segment,
    actors: Vec<Actor>,
    lives: u64,
    said: (Sender<Said>, Receiver<Said>),
    shown: String,
    violation: Option<String>,
    number: usize,
}

impl Director {
    /// A heap, and nobody on it yet.
    pub fn new(global: &Global, args: &StepArgs, name: &str) -> Result<Director, Failure> {
        let config = SegmentConfig {
            max_bytes: 16 << 20,
            name: "step".into(),
            // Collections begin where the script says.
            gc_percent: -1,
            ..SegmentConfig::default()
        };
        Ok(Director {
            name: name.to_owned(),
            json: global.json,
            go_on: args.go_on,
            patience: args.patience,
            rule: None,
            segment: Segment::create(&config)?,
            actors: Vec::new(),
            lives: 0,
            said: channel(),
            shown: String::new(),
            violation: None,
            number: 0,
        })
    }

    /// Does what a line says; shows what came of it.
    pub fn follow(&mut self, number: usize, line: &Line) -> Result<(), Failure> {
        self.number = number;
        if let Line::Rule(name) = line {
            if !self.actors.is_empty() {
                return Err(self.bad("a rule is taken away before there are actors"));
            }
            self.rule = Some(name.clone());
            self.show("", &format!("the rule {name} is taken away"), false);
            return Ok(());
        }
        if let Line::Actors(n) = line {
            if !self.actors.is_empty() {
                return Err(self.bad("there are actors already"));
            }
            self.start_all(*n)?;
            return self.look("", &format!("{n} processes are P's of one heap"), false);
        }
        if self.actors.is_empty() {
            self.start_all(2)?;
        }
        self.direct(line)
    }

    fn direct(&mut self, line: &Line) -> Result<(), Failure> {
        match line {
            Line::Actors(_) | Line::Rule(_) => Ok(()),
            Line::Do {
                actor,
                operation,
                wait,
            } => self.begin(*actor, operation, *wait),
            Line::Hold { actor, point, pass } => {
                self.hold(*actor, point, *pass)?;
                let which = if *pass == 1 {
                    String::new()
                } else {
                    format!(", pass {pass}")
                };
                self.look(
                    &name(*actor),
                    &format!("will stop at {point}{which}"),
                    false,
                )
            }
            Line::Release(k) => {
                self.let_go(*k)?;
                self.wait_and_look(*k, "goes on")
            }
            Line::Next(k) => {
                self.let_go(*k)?;
                self.actors[*k].stop_at_next = true;
                self.wait_and_look(*k, "goes on")
            }
            Line::Reach { actor, point } => self.reach(*actor, point),
            Line::Wait(k) => {
                self.known(*k)?;
                self.wait_and_look(*k, "is waited for")
            }
            Line::Kill(k) => self.kill(*k),
            Line::Start(k) => self.replace(*k),
            Line::Show => self.look("", "shown", true),
            Line::Expect { text, not } => self.expect(text, *not),
        }
    }

    /// After the last line: has every hold been reached, and was everything in order?
    pub fn end(mut self) -> Result<u8, Failure> {
        if let Some(violation) = &self.violation {
            return Err(violated(violation));
        }
        let left = self.actors.iter().enumerate().find_map(|(k, a)| {
            let held = a.held.first().filter(|_| a.state != State::Gone)?;
            Some((k, held.line, held.point.clone()))
        });
        if let Some((k, line, point)) = left {
            self.number = line;
            return Err(self.late(k, &format!("never reached {point}")));
        }
        Ok(codes::OK)
    }

    fn start_all(&mut self, n: usize) -> Result<(), Failure> {
        for k in 0..n {
            let actor = self.start(k)?;
            self.actors.push(actor);
            self.wait_for(k)?;
        }
        Ok(())
    }

    fn start(&mut self, k: usize) -> Result<Actor, Failure> {
        let heap = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.segment.fd().as_raw_fd()
        );
        let me = std::env::current_exe().map_err(Failure::io("finding this program"))?;
        let mut command = Command::new(me);
        command.args(["step-actor", "--heap", &heap]);
        if let Some(rule) = &self.rule {
            command.args(["--rule", rule]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::io("starting an actor"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.bad("an actor without pipes"));
        };
        self.lives += 1;
        let (to, life) = (self.said.0.clone(), self.lives);
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for line in lines.map(Some).chain([None]) {
                // The director may be gone already.
                let _ = to.send(Said {
                    actor: k,
                    life,
                    line,
                });
            }
        });
        Ok(Actor {
            child,
            input,
            life,
            state: State::Running,
            held: Vec::new(),
            stop_at_next: false,
            said: String::new(),
            passed: VecDeque::new(),
        })
    }

    fn begin(&mut self, k: usize, operation: &str, wait: bool) -> Result<(), Failure> {
        self.known(k)?;
        match &self.actors[k].state {
            State::Idle => {}
            State::At(point) => {
                let what = format!("P{k} stands at {point}; release it, or reach a later point");
                return Err(self.bad(&what));
            }
            State::Running => return Err(self.bad(&format!("P{k} is busy; wait for it"))),
            State::Gone => return Err(self.bad(&format!("P{k} is dead"))),
        }
        self.actors[k].passed.clear();
        self.tell(k, operation)?;
        if wait {
            self.wait_and_look(k, operation)
        } else {
            self.look(&name(k), &format!("{operation}: has begun"), false)
        }
    }

    fn hold(&mut self, k: usize, point: &str, pass: u32) -> Result<(), Failure> {
        self.known(k)?;
        let line = self.number;
        self.actors[k].held.push(Held {
            line,
            point: point.to_owned(),
            passes_left: pass,
        });
        Ok(())
    }

    fn let_go(&mut self, k: usize) -> Result<(), Failure> {
        self.known(k)?;
        if !matches!(self.actors[k].state, State::At(_)) {
            return Err(self.bad(&format!("P{k} stands at no point")));
        }
        self.tell(k, "go")
    }

    fn reach(&mut self, k: usize, point: &str) -> Result<(), Failure> {
        self.hold(k, point, 1)?;
        if matches!(self.actors[k].state, State::At(_)) {
            self.tell(k, "go")?;
        }
        self.wait_for(k)?;
        if self.actors[k].state != State::At(point.to_owned()) {
            let instead = self.actors[k].doing();
            return Err(self.late(k, &format!("did not reach {point}: it {instead}")));
        }
        self.look(&name(k), &format!("stands at {point}"), false)
    }

    fn kill(&mut self, k: usize) -> Result<(), Failure> {
        self.known(k)?;
        let actor = &mut self.actors[k];
        actor
            .child
            .kill()
            .map_err(Failure::io("killing an actor"))?;
        actor
            .child
            .wait()
            .map_err(Failure::io("waiting for an actor"))?;
        actor.state = State::Gone;
        actor.held.clear();
        self.look(&name(k), "is killed", false)
    }

    fn replace(&mut self, k: usize) -> Result<(), Failure> {
        self.known(k)?;
        if self.actors[k].state != State::Gone {
            return Err(self.bad(&format!("P{k} is alive")));
        }
        self.actors[k] = self.start(k)?;
        self.wait_for(k)?;
        let said = self.actors[k].said.clone();
        if said != format!("is P{k}") {
            return Err(self.bad(&format!(
                "the new process {said}: P{k} has not been recovered"
            )));
        }
        self.look(&name(k), "is a new process", false)
    }

    fn expect(&mut self, text: &str, not: bool) -> Result<(), Failure> {
        let words = stepping::words(&self.segment).to_string();
        let said = self.actors.iter().any(|a| a.said.contains(text));
        if (words.contains(text) || said) == not {
            let which = if not { "not " } else { "" };
            return Err(Failure::new(
                codes::FAILED,
                "E033",
                format!(
                    "{}, line {}: expected {which}{text:?}: {words}",
                    self.name, self.number
                ),
                "the lines before it, by hand: coheap step",
            ));
        }
        let held = if not { "is not so" } else { "is so" };
        self.look("", &format!("{text:?} {held}"), false)
    }

    fn known(&self, k: usize) -> Result<(), Failure> {
        if k < self.actors.len() {
            return Ok(());
        }
        Err(self.bad(&format!(
            "there is no P{k} among {} actors",
            self.actors.len()
        )))
    }

    /// Sends a line, after which the actor runs.
    fn tell(&mut self, k: usize, line: &str) -> Result<(), Failure> {
        let actor = &mut self.actors[k];
        actor.state = State::Running;
        actor.stop_at_next = false;
        writeln!(actor.input, "{line}").map_err(Failure::io(format!("telling P{k} to go on")))
    }

    /// Waits until an actor has ended its operation, stands at a held point, or is gone. Others go on meanwhile.
    fn wait_for(&mut self, k: usize) -> Result<(), Failure> {
        let until = Instant::now() + self.patience;
        while self.actors[k].state == State::Running {
            let left = until.saturating_duration_since(Instant::now());
            match self.said.1.recv_timeout(left) {
                Ok(said) => self.heard(said)?,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(self.late(k, "neither ended nor stands at a held point"));
                }
                Err(_) => {}
            }
            // Somebody who passes points all the time must not keep the clock from being looked at.
            if Instant::now() >= until && self.actors[k].state == State::Running {
                return Err(self.late(k, "neither ended nor stands at a held point"));
            }
        }
        Ok(())
    }

    fn heard(&mut self, said: Said) -> Result<(), Failure> {
        let k = said.actor;
        let Some(actor) = self.actors.get_mut(k).filter(|a| a.life == said.life) else {
            return Ok(());
        };
        if actor.state == State::Gone {
            return Ok(());
        }
        match said
            .line
            .as_deref()
            .map(|l| l.split_once(' ').unwrap_or((l, "")))
        {
            None => {
                actor.state = State::Gone;
                actor.said = "has ended".into();
            }
            Some(("at", point)) => {
                if actor.passes(point) {
                    actor.state = State::At(point.to_owned());
                } else {
                    writeln!(actor.input, "go")
                        .map_err(Failure::io("telling an actor to go on"))?;
                }
            }
            Some((_, text)) => {
                actor.state = State::Idle;
                actor.said = text.to_owned();
            }
        }
        Ok(())
    }

    fn wait_and_look(&mut self, k: usize, what: &str) -> Result<(), Failure> {
        self.wait_for(k)?;
        let actor = &self.actors[k];
        let doing = actor.doing();
        if actor.state == State::Gone {
            let what = format!("P{k} has ended in {what}, unasked");
            return Err(Failure::new(
                codes::FAILED,
                "E010",
                what,
                "the lines that it wrote before",
            ));
        }
        if let Some(finding) = actor.said.strip_prefix("VIOLATION ") {
            let finding = finding.to_owned();
            self.object(finding)?;
        }
        self.look(&name(k), &format!("{what}: {doing}"), false)
    }

    /// Shows what a line did and the words if they changed; objects if they break a rule.
    fn look(&mut self, who: &str, did: &str, always: bool) -> Result<(), Failure> {
        self.show(who, did, always);
        match stepping::violation(&stepping::words(&self.segment)) {
            // What has been said already, and goes on, is not said again.
            Some(violation) if self.violation.as_ref() != Some(&violation) => {
                self.object(violation)
            }
            _ => Ok(()),
        }
    }

    fn show(&mut self, who: &str, did: &str, always: bool) {
        let words = stepping::words(&self.segment);
        let text = words.to_string();
        let changed = always || self.shown != text;
        if self.json {
            show::json(&serde_json::json!({
                "line": self.number, "actor": who, "did": did, "words": text,
                "violation": stepping::violation(&words),
            }));
        } else {
            show::print(&format!("{:>4}  {who:<4}{did}\n", self.number));
            if changed && !self.actors.is_empty() {
                show::print(&format!("          {text}\n"));
            }
        }
        self.shown = text;
    }

    fn object(&mut self, violation: String) -> Result<(), Failure> {
        if !self.json {
            show::print(&format!("          violation: {violation}\n"));
        }
        let failure = violated(&violation);
        self.violation = Some(violation);
        if self.go_on { Ok(()) } else { Err(failure) }
    }

    fn bad(&self, what: &str) -> Failure {
        super::bad_line(&self.name, self.number, what)
    }

    fn late(&self, k: usize, what: &str) -> Failure {
        let actor = &self.actors[k];
        let last = actor.passed.iter().map(String::as_str);
        let passed = last.collect::<Vec<_>>().join(", ");
        let passed = if passed.is_empty() {
            "no point".into()
        } else {
            passed
        };
        Failure::new(
            codes::TIMEOUT,
            "E091",
            format!(
                "{}, line {}: P{k} {what}; it passed {passed}",
                self.name, self.number
            ),
            "another point, more --patience, or & behind an operation that waits for others",
        )
    }
}

impl Actor {
    /// It passes a point: is this where it is to stop?
    fn passes(&mut self, point: &str) -> bool {
        if self.passed.back().is_none_or(|last| last != point) {
            self.passed.push_back(point.to_owned());
        }
        if self.passed.len() > POINTS_SHOWN {
            self.passed.pop_front();
        }
        let found = self.held.iter().position(|h| h.point == point);
        let due = found.is_some_and(|i| {
            self.held[i].passes_left -= 1;
            self.held[i].passes_left == 0
        });
        if let Some(i) = found.filter(|_| due) {
            self.held.remove(i);
        }
        due || std::mem::take(&mut self.stop_at_next)
    }

    fn doing(&self) -> String {
        match &self.state {
            State::At(point) => format!("stands at {point}"),
            State::Running => "goes on".into(),
            State::Idle | State::Gone => self.said.clone(),
        }
    }
}

fn name(k: usize) -> String {
    format!("P{k}")
}

fn violated(violation: &str) -> Failure {
    Failure::new(
        codes::VIOLATION,
        "E050",
        violation,
        "coheap step --help; the lines above lead to it",
    )
}
