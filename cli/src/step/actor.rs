//! An actor of `coheap step`: a process that is a P, does what a line of its standard input says, and asks at every named point.
//!
//! It writes `at POINT` and waits for a line; or `done TEXT`, and the next line is another operation. When its input ends, so does it.

use super::script;
use crate::failure::Failure;
use coheap::{
    P, Segment, Shared, Slot,
    gc::verify::verify,
    recover::recover_dead,
    testing::{Bench, Claimed, phase},
};
use coheap_protocol::codes;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    time::Duration,
};

/// Arguments of the hidden `coheap step-actor`.
#[derive(Debug, clap::Args)]
pub struct StepActorArgs {
    /// The heap's descriptor, as a path
    #[arg(long)]
    pub heap: String,
    /// A rule that is taken away
    #[arg(long)]
    pub rule: Option<String>,
}

/// An element of the lists that scripts make.
#[derive(Shared)]
struct Element {
    next: Slot<Element>,
}

/// Operations wait for others at most so long; the director's patience is the one that people set.
const VERY_LONG: Duration = Duration::from_secs(3600);

/// Runs `coheap step-actor`.
pub fn act(args: &StepActorArgs) -> Result<u8, Failure> {
    // The command may be interrupted at any time; its actors end with it.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    if let Some(rule) = &args.rule {
        coheap::twin::break_rule(rule);
    }
    coheap::failpoint::at_every_point(stand);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&args.heap)
        .map_err(Failure::io(&args.heap))?;
    let mut actor = Actor {
        p: P::lease(Segment::open_fd(file.into())?)?,
        claimed: None,
        inside: false,
    };
    say(&format!("done is P{}", actor.p.index()));
    loop {
        let operation = hear();
        let said = actor
            .perform(&operation)
            .unwrap_or_else(|e| format!("failed: {e}"));
        say(&format!("done {said}"));
    }
}

/// Stands at a named point until the director lets it go on.
fn stand(point: &'static str) {
    say(&format!("at {point}"));
    hear();
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(codes::FAILED.into());
    }
}

/// The next line; the director's end is the actor's.
fn hear() -> String {
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(n) if n > 0 => line.trim_end().to_owned(),
        _ => std::process::exit(codes::OK.into()),
    }
}

struct Actor {
    p: P,
    /// The mark worker that is in its hands.
    claimed: Option<Claimed>,
    /// In a scope by `enter`.
    inside: bool,
}

impl Actor {
    fn bench(&self) -> Bench<'_> {
        self.p.bench()
    }

    fn perform(&mut self, operation: &str) -> coheap::Result<String> {
        let (name, what) = operation.split_once(' ').unwrap_or((operation, ""));
        let in_the_way = match name {
            "enter" | "edge" | "new" | "move" | "length" | "drive" | "work" | "collect"
            | "verify" | "stop-world" => self.inside,
            "leave" => !self.inside,
            _ => false,
        };
        if in_the_way {
            let where_it_is = if self.inside { "inside" } else { "outside" };
            return Ok(format!("does nothing: it is {where_it_is} a scope"));
        }
        match name {
            "new" | "move" | "length" => self.list(name, what),
            "claim" | "run" | "park" | "detach" | "mark-done" | "migrate" | "start-worker" => {
                Ok(self.worker(name, what))
            }
            "recover" => Ok(self.recover()),
            "verify" => {
                let report = verify(&mut self.p, true)?;
                Ok(match report.findings.first() {
                    None => "finds nothing".into(),
                    Some(first) => format!("VIOLATION {first}"),
                })
            }
            _ => self.collector(name, what),
        }
    }

    fn collector(&mut self, name: &str, what: &str) -> coheap::Result<String> {
        let bench = self.p.bench();
        let said = match name {
            "enter" => {
                bench.enter();
                self.inside = true;
                "is in a scope"
            }
            "leave" => {
                bench.leave();
                self.inside = false;
                "has left it"
            }
            "edge" => {
                bench.edge();
                "has seen the phase"
            }
            "request" => {
                bench.request();
                "has asked for a collection"
            }
            "gc-step" => {
                bench.step();
                "has looked at the phase"
            }
            "work" => {
                bench.edge();
                if bench.work() {
                    "has done some"
                } else {
                    "finds none"
                }
            }
            "drive" => {
                bench.drive(kind(what));
                "is there"
            }
            "collect" if bench.collect_within(VERY_LONG) => "has collected",
            "collect" => "has given it up",
            _ => {
                bench.stop()?;
                "has stopped the world and started it again"
            }
        };
        Ok(said.into())
    }

    fn worker(&mut self, name: &str, what: &str) -> String {
        if name == "start-worker" {
            let p = script::actor(what).unwrap_or(0);
            return if self.bench().start_worker(p) {
                "has made one".into()
            } else {
                "finds the slot taken".into()
            };
        }
        if name == "claim" && self.claimed.is_none() {
            self.claimed = self.bench().claim_slot_worker();
            return match &self.claimed {
                Some(claimed) => format!("has claimed w{}", claimed.number()),
                None => "finds none in its slot that it may claim".into(),
            };
        }
        if name == "migrate" {
            return if self.bench().migrate() {
                "has gone on with one".into()
            } else {
                "finds none".into()
            };
        }
        let Some(claimed) = self.claimed.take() else {
            return "does nothing: it has no worker in its hands".into();
        };
        let g = claimed.number();
        match name {
            "run" => {
                self.bench().run_worker(claimed);
                format!("w{g} has run")
            }
            "park" => {
                self.bench().park_worker(claimed);
                format!("has parked w{g}")
            }
            "mark-done" => {
                self.bench().mark_done(claimed);
                format!("w{g} has looked whether marking is over")
            }
            "detach" => {
                self.bench().detach_worker(&claimed);
                self.claimed = Some(claimed);
                format!("has taken w{g} out of its slot")
            }
            _ => {
                self.claimed = Some(claimed);
                format!("does nothing: it has w{g} in its hands")
            }
        }
    }

    fn recover(&self) -> String {
        let deaths = recover_dead(self.p.segment());
        let who: Vec<String> = deaths.iter().map(|d| format!("P{}", d.p)).collect();
        if who.is_empty() {
            return "finds nobody dead".into();
        }
        format!("has recovered {}", who.join(" and "))
    }

    fn list(&mut self, name: &str, what: &str) -> coheap::Result<String> {
        self.p.enter(|cx| {
            let cx = &*cx;
            let (root, to) = what.split_once(' ').unwrap_or((what, what));
            let root_of = cx.root::<Element>(root)?;
            match name {
                "new" => {
                    let mut first = None;
                    for _ in 0..3 {
                        let element = cx.alloc(Element { next: Slot::nil() })?;
                        element.next.store(cx, first);
                        first = Some(element);
                    }
                    root_of.set(cx, first);
                    Ok(format!("{root} is a list of three"))
                }
                "move" => {
                    cx.root::<Element>(to)?.set(cx, root_of.get(cx));
                    root_of.set(cx, None);
                    Ok(format!("{to} is what {root} was"))
                }
                _ => {
                    let (mut at, mut n) = (root_of.get(cx), 0);
                    while let Some(element) = at {
                        n += 1;
                        at = element.next.load(cx);
                    }
                    Ok(format!("{root} has length {n}"))
                }
            }
        })
    }
}

fn kind(name: &str) -> u8 {
    match name {
        "barrier" => phase::BARRIER,
        "black" => phase::BLACK,
        "mark" => phase::MARK,
        "round" => phase::ROUND,
        _ => phase::OFF,
    }
}
