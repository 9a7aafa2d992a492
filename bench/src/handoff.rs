//! `handoff`: an object goes from one process to another and an answer comes back, through two slots of the shared heap. 64 bytes and
//! 1 MB; polling, and sleeping on a bell. Beside it, between the same two processes: the bell alone, which is the raw futex round trip.
//!
//! 1. The sender makes an object, fills its first word (or all of it, `--full`), and stores it to the receiver's slot. 2. The receiver
//! finds it, empties the slot, reads the first word (or all of it), and answers in the same way. With `--same` one object goes to and fro, which is what
//! programs with pools of samples do; without, every message is a new object and the collector's share is in the time.
//! Two processors, one each, as the programs of others do it.
//!
//! Sleeping: a bell is a futex word in the same heap object. It is waited on outside any scope, so a sleeper holds up nobody.

#![expect(unsafe_code, reason = "waits on a word of an object outside the scope")]

use std::{
    hint::{black_box, spin_loop},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    time::Duration,
};

use coheap::{Array, Cx, Gc, Handle, Idle, Kinds, P, Shared, Slot};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use rustix::thread::futex;
use serde_json::json;

use crate::heap::{Children, Flags, Result, attach, now_ns, round, segment};

/// Polls of one scope: a P that waits inside a scope would hold up the collector.
const POLLS: u32 = 1000;

/// Bytes made by one side after which it lets the collector work: nobody else runs in this heap.
const COLLECT_BYTES: usize = 4 << 20;

/// What goes to and fro.
type Message = Array<AtomicU64>;

/// One side's letter box.
#[derive(Shared, Default)]
#[shared(name = "bench.handoff.Side")]
struct Side {
    inbox: Slot<Message>,
    bell: AtomicU32,
}

/// What the named root holds, and what the parent tells the child to do.
#[derive(Shared, Default)]
#[shared(name = "bench.handoff.Pair")]
struct Pair {
    /// Message size in words; 0: only the bells ring.
    words: AtomicU64,
    full: AtomicU64,
    same: AtomicU64,
    sleeping: AtomicU64,
    rounds: AtomicU64,
    /// Number of the present measurement; the child answers `rounds` messages of each.
    go: AtomicU64,
    sides: [Slot<Side>; 2],
}

/// How a measurement runs.
#[derive(Clone, Copy)]
struct Mode {
    words: usize,
    full: bool,
    same: bool,
    sleeping: bool,
    rounds: u64,
}

/// One of the two processes.
struct Party {
    p: P,
    pair: Handle<Pair>,
    mine: Handle<Side>,
    theirs: Handle<Side>,
    my_bell: &'static AtomicU32,
    their_bell: &'static AtomicU32,
    mode: Mode,
}

/// The word of a side's bell. Stays valid outside scopes.
fn bell(side: Gc<'_, Side>) -> &'static AtomicU32 {
    let bell = &raw const side.bell;
    // SAFETY: objects do not move, the party's handle keeps the side alive, and the segment stays mapped until the party's P goes
    // with the process; an atomic, so that any process may change it at any time.
    unsafe { &*bell }
}

impl Party {
    fn new(mut p: P, me: usize) -> Result<Party> {
        let (pair, mine, theirs, my_bell, their_bell) = p.enter(|cx| {
            let cx = &*cx;
            let pair = cx.root::<Pair>("pair")?.get(cx).expect("set by the parent");
            let side = |i: usize| pair.sides[i].load(cx).expect("set by the parent");
            let (mine, theirs) = (side(me), side(1 - me));
            Ok::<_, coheap::Error>((
                cx.handle(pair)?,
                cx.handle(mine)?,
                cx.handle(theirs)?,
                bell(mine),
                bell(theirs),
            ))
        })?;
        Ok(Party {
            p,
            pair,
            mine,
            theirs,
            my_bell,
            their_bell,
            mode: Mode {
                words: 0,
                full: false,
                same: false,
                sleeping: false,
                rounds: 0,
            },
        })
    }

    fn ring(&self) {
        self.their_bell.store(1, SeqCst);
        // Fails only for an address that is not mapped.
        let _ = futex::wake(self.their_bell, futex::Flags::empty(), 1);
    }

    fn sleep(&self) {
        while self.my_bell.swap(0, SeqCst) == 0 {
            let patience = rustix::time::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            // Rung meanwhile, timed out, woken: looked at again in each case.
            let _ = futex::wait(self.my_bell, futex::Flags::empty(), 0, Some(&patience));
        }
    }

    /// A new message in the other's letter box.
    fn send_new(&mut self) -> Result<()> {
        let (mode, theirs) = (self.mode, &self.theirs);
        self.p.enter(|cx| send(cx, mode, theirs, None))?;
        if mode.sleeping {
            self.ring();
        }
        Ok(())
    }

    /// Waits for a message; answers it with `answer`.
    fn receive(&mut self, answer: bool) -> Result<()> {
        let mode = self.mode;
        if mode.sleeping {
            self.sleep();
        }
        let (mine, theirs) = (&self.mine, &self.theirs);
        loop {
            let found = self.p.enter(|cx| {
                let cx = &*cx;
                let side = mine.get(cx);
                for _ in 0..POLLS {
                    if let Some(message) = side.inbox.load(cx) {
                        side.inbox.store(cx, None);
                        read(message, mode.full);
                        let same = Some(message).filter(|_| mode.same);
                        return if answer {
                            send(cx, mode, theirs, same).map(|()| true)
                        } else {
                            Ok(true)
                        };
                    }
                    spin_loop();
                }
                Ok(false)
            })?;
            if found {
                break;
            }
        }
        if answer && mode.sleeping {
            self.ring();
        }
        Ok(())
    }

    /// The collector's turn, every so many messages: in the time of the round, as it is paid for by whoever allocates.
    fn collector_turn(&mut self, round: u64) -> Result<()> {
        let every = COLLECT_BYTES / (self.mode.words * 8).max(1);
        if self.mode.words > 0 && round.is_multiple_of(every.max(1) as u64) {
            let kinds = Kinds::new();
            self.p.run(
                &kinds,
                |_, idle| {
                    if idle { Idle::Return } else { Idle::Continue }
                },
            )?;
        }
        Ok(())
    }

    /// As the one that answers: one measurement.
    fn answer_all(&mut self) -> Result<()> {
        for i in 0..self.mode.rounds {
            self.collector_turn(i)?;
            if self.mode.words == 0 {
                self.sleep();
                self.ring();
            } else {
                self.receive(true)?;
            }
        }
        Ok(())
    }
}

fn send(
    cx: &Cx<'_>,
    mode: Mode,
    to: &Handle<Side>,
    same: Option<Gc<'_, Message>>,
) -> coheap::Result<()> {
    let message = match same {
        Some(message) => message,
        None => cx.array::<AtomicU64>(mode.words)?,
    };
    let fill = if mode.full { mode.words } else { 1 };
    for word in &message.as_slice()[..fill] {
        word.store(1, Relaxed);
    }
    to.get(cx).inbox.store(cx, Some(message));
    Ok(())
}

fn read(message: Gc<'_, Message>, full: bool) {
    let words = message.as_slice();
    // Of every cache line one word.
    let sum: u64 = if full {
        words.iter().step_by(8).map(|w| w.load(Relaxed)).sum()
    } else {
        words[0].load(Relaxed)
    };
    black_box(sum);
}

/// This process's processor.
fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// The process that answers.
pub fn child(flags: &Flags) -> Result<()> {
    let p = attach(flags)?;
    pin(1)?;
    let segment = p.segment().clone();
    let mut party = Party::new(p, 1)?;
    let mut done = 0;
    while !coheap::sched::shutdown_requested(&segment) {
        let pair = &party.pair;
        let todo = party.p.enter(|cx| {
            let pair = pair.get(cx);
            let go = pair.go.load(Acquire);
            (go != done).then(|| {
                done = go;
                Mode {
                    words: pair.words.load(Relaxed) as usize,
                    full: pair.full.load(Relaxed) != 0,
                    same: pair.same.load(Relaxed) != 0,
                    sleeping: pair.sleeping.load(Relaxed) != 0,
                    rounds: pair.rounds.load(Relaxed),
                }
            })
        });
        if let Some(mode) = todo {
            party.mode = mode;
            party.answer_all()?;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Round trips in microseconds: p50, p99.
fn measure(party: &mut Party, mode: Mode) -> Result<(f64, f64)> {
    party.mode = mode;
    let pair = &party.pair;
    party.p.enter(|cx| {
        let pair = pair.get(cx);
        pair.words.store(mode.words as u64, Relaxed);
        pair.full.store(mode.full.into(), Relaxed);
        pair.same.store(mode.same.into(), Relaxed);
        pair.sleeping.store(mode.sleeping.into(), Relaxed);
        pair.rounds.store(mode.rounds, Relaxed);
        pair.go.fetch_add(1, Release);
    });
    let mut times = Vec::with_capacity(mode.rounds as usize);
    if mode.words > 0 && mode.same {
        party.send_new()?;
        for i in 0..mode.rounds {
            let started = now_ns();
            party.collector_turn(i)?;
            party.receive(i + 1 < mode.rounds)?;
            times.push(now_ns() - started);
        }
    } else {
        for i in 0..mode.rounds {
            let started = now_ns();
            party.collector_turn(i)?;
            if mode.words == 0 {
                party.ring();
                party.sleep();
            } else {
                party.send_new()?;
                party.receive(false)?;
            }
            times.push(now_ns() - started);
        }
    }
    times.sort_unstable();
    let at = |q: f64| round(times[(times.len() as f64 * q) as usize] as f64 / 1e3);
    Ok((at(0.5), at(0.99)))
}

/// Flags: `--bytes`, `--rounds`, `--gc-percent`.
pub fn run(flags: &Flags) -> Result<()> {
    let bytes = flags.number("--bytes", 64) as usize;
    let rounds = flags.number("--rounds", if bytes > 4096 { 2_000 } else { 100_000 });
    let segment = segment(1024, flags.number("--gc-percent", 100) as i32)?;
    let mut p = P::lease(segment.clone())?;
    p.enter(|cx| {
        let cx = &*cx;
        let pair = cx.alloc(Pair::default())?;
        for slot in &pair.sides {
            slot.store(cx, Some(cx.alloc(Side::default())?));
        }
        cx.root("pair")?.set(cx, Some(pair));
        Ok::<_, coheap::Error>(())
    })?;
    let child = Children::start_as("handoff-child", &segment, 1)?;
    pin(0)?;
    let mut party = Party::new(p, 0)?;
    // The count in front of an array is eight bytes.
    let words = bytes / 8 - 1;
    let sleeping_rounds = (rounds / 10).max(500);
    let mut line =
        json!({"bench": "handoff", "bytes": bytes, "rounds": rounds, "unit": "us, there and back"});
    let mut add = |name: &str, mode: Mode| {
        let (p50, p99) = measure(&mut party, mode)?;
        line[format!("{name}_p50_us")] = json!(p50);
        line[format!("{name}_p99_us")] = json!(p99);
        Ok::<_, Box<dyn std::error::Error>>(p50)
    };
    let new = Mode {
        words,
        full: false,
        same: false,
        sleeping: false,
        rounds,
    };
    let asleep = Mode {
        sleeping: true,
        rounds: sleeping_rounds,
        ..new
    };
    add("poll_new", new)?;
    add("poll_new_full", Mode { full: true, ..new })?;
    add("poll_same", Mode { same: true, ..new })?;
    let same_full = Mode {
        same: true,
        full: true,
        ..new
    };
    add("poll_same_full", same_full)?;
    // In turns, three times each; the middle one counts.
    let (mut objects, mut bells) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        bells.push(add("futex", Mode { words: 0, ..asleep })?);
        objects.push(add("sleep_new", asleep)?);
    }
    let (objects, bells) = (crate::heap::median(objects), crate::heap::median(bells));
    line["sleep_new_p50_us"] = json!(objects);
    line["futex_p50_us"] = json!(bells);
    line["sleep_to_futex"] = json!(round(objects / bells));
    line["gc_cycles"] = json!(segment.status().gc_cycles);
    println!("{line}");
    child.stop()?;
    Ok(())
}
