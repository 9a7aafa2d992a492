//! Hostile segments: the bytes of a real one with words replaced by random ones, by ones, by zeroes, or by each other.
//!
//! 1. [`Template`] is the image of a heap with everything in it: types, roots, handles, tasks, a dead P, half a collection. 2. A
//! case copies it into a fresh memfd and spoils it, as its seed says. 3. A process of its own opens it and does what tools and a
//! daemon do that takes a heap over. It must come to an end in time, with an answer or with an error that has a code.
//! A crash, a panic or a hang is the victim process's; the parent sees which seed it was at, and goes on with the next.

use coheap::{
    Cx, Gc, GcMap, GcVec, Kinds, Next, P, Result, Segment, SegmentConfig, Shared, Slot, Step, Task,
    testing,
};
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        uio::{pread, pwrite},
    },
    unistd::{Whence, ftruncate, lseek},
};
use std::{
    io::{BufRead, BufReader, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// A case may take this long.
const CASE_MAX: Duration = Duration::from_secs(20);

#[derive(Shared)]
struct Node {
    left: Slot<Node>,
    right: Slot<Node>,
    value: u64,
}

#[derive(Shared)]
struct Count {
    left: u64,
}

impl Task for Count {
    const KIND: &'static str = "fuzz-count";
    type Output = Count;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let left = cx.context().left;
        if left == 0 {
            return Ok(Next::Done(None));
        }
        Ok(Next::Continue(cx.alloc(Count { left: left - 1 })?))
    }
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u64) -> Result<Gc<'a, Node>> {
    let node = cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
        value: depth,
    })?;
    if depth > 0 {
        node.left.store(cx, Some(tree(cx, depth - 1)?));
        node.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

/// The image of a used heap.
pub struct Template {
    bytes: usize,
    /// What holds data: offset and contents.
    pieces: Vec<(usize, Vec<u8>)>,
}

impl Template {
    /// Makes a heap, uses it, and takes its image.
    pub fn make() -> Result<Template> {
        let segment = Segment::create(&SegmentConfig {
            max_bytes: 8 << 20,
            name: "fuzz".into(),
            ..SegmentConfig::default()
        })?;
        // A thread that ends with its lease leaves a dead P in the middle of a collection.
        let other = segment.clone();
        let dead = std::thread::spawn(move || -> Result<()> {
            let mut p = P::lease(other)?;
            p.enter(|cx| {
                let map = GcMap::<Node>::new(cx)?;
                for i in 0..100u32 {
                    map.insert(cx, i.to_string(), tree(cx, 2)?)?;
                }
                cx.root::<GcMap<Node>>("map")?.set(cx, Some(map));
                Ok::<(), coheap::Error>(())
            })?;
            let kept = p.enter(|cx| cx.handle(tree(cx, 3)?))?;
            p.bench().drive(testing::phase::MARK);
            p.bench().enter();
            p.bench().shade_root("map");
            std::mem::forget(kept);
            std::mem::forget(p);
            Ok(())
        });
        dead.join().expect("no panic")?;
        let mut p = P::lease(segment.clone())?;
        p.enter(|cx| {
            let all = GcVec::<Node>::new(cx)?;
            for _ in 0..50 {
                all.push(cx, tree(cx, 4)?)?;
            }
            cx.root::<GcVec<Node>>("all")?.set(cx, Some(all));
            Ok::<(), coheap::Error>(())
        })?;
        for left in 0..20 {
            drop(p.submit::<Count>(|cx| cx.alloc(Count { left }))?);
        }
        let kinds = Kinds::new().with::<Count>();
        let turns = p.bench().resolve(&kinds)?;
        for _ in 0..10 {
            p.bench().schedule(&turns);
        }
        let image = Template::of(&segment);
        drop(turns);
        drop(p);
        Ok(image)
    }

    fn of(segment: &Segment) -> Template {
        let fd = segment.fd();
        let bytes = lseek(fd, 0, Whence::SeekEnd).expect("seeks") as usize;
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Ok(from) = lseek(fd, at, Whence::SeekData) {
            let to = lseek(fd, from, Whence::SeekHole).expect("a hole ends it");
            let mut data = vec![0; (to - from) as usize];
            let read = pread(fd, &mut data, from).expect("reads");
            assert_eq!(read, data.len());
            // Reserved pages that nobody has written to are as good as holes.
            for (i, page) in data.chunks(4096).enumerate() {
                if page.iter().any(|&b| b != 0) {
                    pieces.push((from as usize + i * 4096, page.to_vec()));
                }
            }
            at = to;
        }
        Template { bytes, pieces }
    }

    /// A copy, in a file of its own.
    pub fn copy(&self) -> OwnedFd {
        let fd = memfd_create(c"coheap-fuzz", MFdFlags::MFD_CLOEXEC).expect("makes");
        ftruncate(&fd, self.bytes as i64).expect("sizes");
        for (at, data) in &self.pieces {
            let written = pwrite(&fd, data, *at as i64).expect("writes");
            assert_eq!(written, data.len());
        }
        fd
    }

    /// Spoils a copy as `seed` says; in words, what was done.
    pub fn spoil(&self, fd: &OwnedFd, seed: u64) -> String {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut done = Vec::new();
        for _ in 0..rng.u32(1..6) {
            let at = self.place(&mut rng);
            let other = self.place(&mut rng);
            let mut word = [0u8; 8];
            pread(fd, &mut word, at as i64).expect("reads");
            let old = u64::from_le_bytes(word);
            let (what, new) = match rng.u32(0..8) {
                0 => ("random", rng.u64(..)),
                1 => ("ones", u64::MAX),
                2 => ("zero", 0),
                3 => ("bit", old ^ 1 << rng.u32(0..64)),
                4 => ("plus", old.wrapping_add(rng.u64(1..256))),
                5 => {
                    let mut theirs = [0u8; 8];
                    pread(fd, &mut theirs, other as i64).expect("reads");
                    pwrite(fd, &word, other as i64).expect("writes");
                    ("swapped", u64::from_le_bytes(theirs))
                }
                6 => {
                    let length = rng.usize(1..64) * 8;
                    let ones = vec![if rng.bool() { 0xff } else { rng.u8(..) }; length];
                    let end = (at + length).min(self.bytes);
                    pwrite(fd, &ones[..end - at], at as i64).expect("writes");
                    done.push(format!("{length} bytes at {at:#x}"));
                    continue;
                }
                _ => ("half", old & !0xffff_ffff | u64::from(rng.u32(..))),
            };
            pwrite(fd, &new.to_le_bytes(), at as i64).expect("writes");
            done.push(format!("{what} {old:#x} -> {new:#x} at {at:#x}"));
        }
        done.join(", ")
    }

    /// A word to spoil: of the header, or of a page that holds something, tables rather than objects.
    fn place(&self, rng: &mut fastrand::Rng) -> usize {
        if rng.u32(0..4) == 0 {
            return rng.usize(0..1024) * 8;
        }
        let (at, data) = &self.pieces[rng.usize(0..self.pieces.len())];
        // Words that are in use tell more than padding.
        for _ in 0..16 {
            let i = rng.usize(0..data.len() / 8) * 8;
            if data[i..i + 8].iter().any(|&b| b != 0) {
                return at + i;
            }
        }
        at + rng.usize(0..data.len() / 8) * 8
    }
}

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused when it was opened.
    NotOpened,
    /// Refused by whoever would take it over.
    NotTakenOver,
    /// Nothing that a check could have seen.
    Used,
}

/// Everything that tools and a daemon do with a segment.
pub fn use_it(fd: OwnedFd) -> Outcome {
    let Ok(segment) = Segment::open_fd(fd) else {
        return Outcome::NotOpened;
    };
    let status = segment.status();
    assert!(status.procs.len() <= 256);
    let lists = [
        segment.list_tasks(500).len(),
        segment.slots().len(),
        segment.named_roots().len(),
        segment.task_kinds().len(),
        segment.shapes_in_use().len(),
        segment.trace(0).len(),
        segment.deaths().len(),
        segment.probes().len(),
        segment
            .longest_gap(0, u64::MAX, 0)
            .map_or(0, |g| g.ns as usize),
        coheap::sysmon::sched_line(&segment, 1, true).len(),
    ];
    std::hint::black_box(lists);
    let taken_over = segment.check().is_ok();
    if taken_over {
        coheap::sysmon::tick(&segment);
        coheap::life::Watch::new(segment.clone()).wait(Duration::from_millis(1));
        coheap::recover::recover_dead(&segment);
    }
    // `coheap verify`: an error or findings are both answers.
    if let Ok(mut p) = P::lease(segment) {
        let _ = coheap::gc::verify::verify(&mut p, true);
        let _ = p.failed_tasks(100);
    }
    if taken_over {
        Outcome::Used
    } else {
        Outcome::NotTakenOver
    }
}

static WATCHED: AtomicU64 = AtomicU64::new(0);

/// The victim: does the cases `seed..seed + cases`, saying which it is at. Ends the process when one takes too long.
pub fn victim(seed: u64, cases: u64) {
    let template = Template::make().expect("a heap");
    // What is not spoiled is not refused: else this would show nothing.
    let whole = Segment::open_fd(template.copy()).and_then(|s| s.check());
    assert!(whole.is_ok(), "{whole:?}");
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
    std::thread::spawn(|| {
        let mut seen = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = WATCHED.load(SeqCst);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if now != 0 && seen.1.elapsed() > CASE_MAX {
                eprintln!("does not come to an end");
                std::process::abort();
            }
        }
    });
    let mut out = std::io::stdout();
    for case in seed..seed + cases {
        WATCHED.fetch_add(1, SeqCst);
        let fd = template.copy();
        let done = template.spoil(&fd, case);
        writeln!(out, "at {case} {done}")
            .and_then(|()| out.flush())
            .expect("the parent reads");
        let outcome = use_it(fd);
        writeln!(out, "did {case} {outcome:?}")
            .and_then(|()| out.flush())
            .expect("the parent reads");
    }
}

/// What a run of cases found.
#[derive(Debug, Default)]
pub struct Found {
    /// Cases done.
    pub cases: u64,
    /// How many were refused at opening, refused at the take-over, and used.
    pub outcomes: [u64; 3],
    /// Crashes and hangs, in words.
    pub findings: Vec<String>,
}

/// Runs cases in victims until `until`, or until so many are done.
///
/// `program` with `args` must call [`victim`] with the seed and count that are appended.
pub fn hunt(
    program: &std::path::Path,
    args: &[&str],
    mut seed: u64,
    cases: u64,
    until: Instant,
) -> Found {
    let mut found = Found::default();
    let end = seed.saturating_add(cases);
    while seed < end && Instant::now() < until && found.findings.len() < 20 {
        let mut child = Command::new(program)
            .args(args)
            .args([seed.to_string(), (end - seed).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut last = String::new();
        let mut late = false;
        for line in lines.map_while(std::io::Result::ok) {
            if line.starts_with("did ") {
                found.cases += 1;
                let which = ["NotOpened", "NotTakenOver", "Used"]
                    .iter()
                    .position(|o| line.ends_with(o));
                found.outcomes[which.unwrap_or(2)] += 1;
                seed += 1;
                late = Instant::now() >= until;
                if late {
                    break;
                }
            } else {
                last = line;
            }
        }
        if late {
            // It is at its next case: of no interest any more.
            let _ = child.kill();
        }
        let output = child.wait_with_output().expect("waits");
        if late || output.status.success() {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        found
            .findings
            .push(format!("{last}: {}: {said}", output.status));
        seed += 1;
    }
    found
}

/// A path by which another process can open what we hold.
pub fn path_of(fd: impl AsFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd())
}
