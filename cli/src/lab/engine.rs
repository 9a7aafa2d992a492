//! The engine: real processes, one step at a time.
//!
//! The board is an object of a heap that the command makes and every actor attaches to. `turn` names who may take the next step;
//! the actor takes it, writes what it did, and acknowledges. An actor that a story wants dead is killed for real, when it is about
//! to take that step, and the survivors go on.

use super::{
    ActorArgs, Rule, find,
    stories::{Did, Story, Words},
};
use crate::failure::Failure;
use coheap::{Cx, Gc, P, Segment, SegmentConfig, Shared};
use coheap_protocol::codes;
use std::{
    fs::OpenOptions,
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::{Duration, Instant},
};

/// Steps after which a story that goes on is called stuck.
const STEPS_MAX: usize = 400;
/// Steps in a row in which nobody moved: everybody waits.
const STALL: usize = 24;
/// Words of text on the board.
const TEXT: usize = 16;

/// What the actors share.
#[derive(Shared)]
pub struct Board {
    /// Step number and, in the low byte, actor plus one.
    turn: AtomicU64,
    /// Step number and, in the low byte, what came of it.
    ack: AtomicU64,
    /// What the actor did, in words.
    text: [AtomicU64; TEXT],
    /// The story's words.
    words: [AtomicU64; 16],
}

/// A finished run.
pub struct Run {
    pub timeline: Vec<String>,
    pub violation: Option<String>,
}

/// The actors' processes; ended when dropped, however the run ends.
struct Cast(Vec<Option<Child>>);

impl Drop for Cast {
    fn drop(&mut self) {
        for child in self.0.iter_mut().flatten() {
            // Gone already is as good as ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Plays a story once.
pub fn play(story: &'static Story, rule: Rule, seed: u64) -> Result<Run, Failure> {
    let config = SegmentConfig {
        max_bytes: 8 << 20,
        name: "lab".into(),
        ..SegmentConfig::default()
    };
    let segment = Segment::create(&config)?;
    let mut p = P::lease(segment.clone())?;
    p.enter(|cx| {
        let zero = || std::array::from_fn(|_| AtomicU64::new(0));
        let board = cx.alloc(Board {
            turn: AtomicU64::new(0),
            ack: AtomicU64::new(0),
            text: std::array::from_fn(|_| AtomicU64::new(0)),
            words: zero(),
        })?;
        (story.setup)(&board.words, rule);
        cx.root::<Board>("board")?.set(cx, Some(board));
        Ok::<(), coheap::Error>(())
    })?;
    let mut cast = Cast(
        (0..story.actors.len())
            .map(|k| start(&segment, story, rule, k).map(Some))
            .collect::<Result<_, _>>()?,
    );
    p.enter(|cx| direct(story, rule, seed, board(cx)?, &mut cast))
}

fn board<'a>(cx: &'a Cx<'_>) -> Result<Gc<'a, Board>, Failure> {
    let root = cx.root::<Board>("board")?;
    root.get(cx).ok_or_else(|| {
        Failure::new(
            codes::FAILED,
            "E010",
            "the lab's heap holds no board",
            "coheap lab list",
        )
    })
}

fn start(segment: &Segment, story: &Story, rule: Rule, actor: usize) -> Result<Child, Failure> {
    let heap = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        segment.fd().as_raw_fd()
    );
    let rule = if rule == Rule::Old { "old" } else { "new" };
    let me = std::env::current_exe().map_err(Failure::io("finding this program"))?;
    Command::new(me)
        .args([
            "lab-actor",
            "--heap",
            &heap,
            "--name",
            story.name,
            "--rule",
            rule,
            "--actor",
            &actor.to_string(),
        ])
        .stdin(Stdio::null())
        .spawn()
        .map_err(Failure::io("starting an actor"))
}

/// Grants steps until everybody is done, everybody waits, or the judge objects.
fn direct(
    story: &Story,
    rule: Rule,
    seed: u64,
    board: Gc<'_, Board>,
    cast: &mut Cast,
) -> Result<Run, Failure> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut run = Run {
        timeline: Vec::new(),
        violation: None,
    };
    let mut done = vec![false; story.actors.len()];
    let (mut number, mut idle) = (0u64, 0);
    while run.timeline.len() < STEPS_MAX && idle < STALL && done.iter().any(|d| !d) {
        let actor = rng.usize(0..done.len());
        if done[actor] {
            continue;
        }
        number += 1;
        let (did, text) = grant(board, number, actor, cast)?;
        match did {
            Did::Waited => idle += 1,
            Did::Moved => idle = 0,
            Did::Done => done[actor] = true,
            Did::Died => {
                done[actor] = true;
                idle = 0;
                if let Some(mut child) = cast.0[actor].take() {
                    child.kill().map_err(Failure::io("killing an actor"))?;
                    child.wait().map_err(Failure::io("waiting for an actor"))?;
                }
            }
        }
        if did != Did::Waited {
            run.timeline
                .push(format!("{:<10} {text}", story.actors[actor]));
        }
        run.violation = (story.judge)(&board.words, rule, false).map(str::to_owned);
        if run.violation.is_some() {
            return Ok(run);
        }
    }
    run.violation = (story.judge)(&board.words, rule, true).map(str::to_owned);
    Ok(run)
}

fn grant(
    board: Gc<'_, Board>,
    number: u64,
    actor: usize,
    cast: &mut Cast,
) -> Result<(Did, String), Failure> {
    board.turn.store(number << 8 | (actor as u64 + 1), Release);
    let began = Instant::now();
    loop {
        let ack = board.ack.load(Acquire);
        if ack >> 8 == number {
            return Ok((Did::from_code(ack as u8), read_text(&board.text)));
        }
        if began.elapsed() > Duration::from_secs(10) {
            let gone = cast.0[actor]
                .as_mut()
                .is_none_or(|c| !matches!(c.try_wait(), Ok(None)));
            let why = if gone { "has ended" } else { "does not answer" };
            return Err(Failure::new(
                codes::FAILED,
                "E010",
                format!("actor {actor} {why}"),
                "coheap lab list",
            ));
        }
        std::thread::yield_now();
    }
}

/// Runs `coheap lab-actor`: one actor's process.
pub fn act(args: &ActorArgs) -> Result<u8, Failure> {
    // The command may be interrupted at any time; its actors end with it.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let story = find(&args.name)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&args.heap)
        .map_err(Failure::io(&args.heap))?;
    let mut p = P::lease(Segment::open_fd(file.into())?)?;
    p.enter(|cx| {
        let board = board(cx)?;
        let (mut pc, mut last) = (0, 0);
        loop {
            let turn = board.turn.load(Acquire);
            if turn >> 8 == last || turn as u8 as usize != args.actor + 1 {
                std::thread::yield_now();
                continue;
            }
            last = turn >> 8;
            let words: &Words = &board.words;
            let (did, text) = (story.step)(words, args.rule, args.actor, &mut pc);
            write_text(&board.text, text);
            board.ack.store(last << 8 | u64::from(did.code()), Release);
            if did == Did::Done {
                return Ok(codes::OK);
            }
        }
    })
}

fn write_text(words: &[AtomicU64; TEXT], text: &str) {
    let mut bytes = text.bytes();
    for word in words {
        let packed: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        word.store(u64::from_le_bytes(packed), Release);
    }
}

fn read_text(words: &[AtomicU64; TEXT]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Acquire).to_le_bytes())
        .take_while(|&b| b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
