//! Real processes, real kills: children run tasks in one heap while the parent kills them at random, recovers, and checks that
//! every task counted once and that the heap is whole. `cargo test -p coheap --test storm -- --kills 2000 --seed 7` for more.

use std::{
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    process::{Child, Command},
    time::{Duration, Instant},
};

use coheap::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[derive(Shared)]
struct Node {
    left: Slot<Node>,
    right: Slot<Node>,
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
    let node = cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
    })?;
    if depth > 0 {
        node.left.store(cx, Some(tree(cx, depth - 1)?));
        node.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

fn count(cx: &Cx<'_>, node: Gc<'_, Node>) -> u64 {
    1 + node.left.load(cx).map_or(0, |n| count(cx, n))
        + node.right.load(cx).map_or(0, |n| count(cx, n))
}

/// Fans out `width` leaves, waits for each, sums their results; `rounds` times.
#[derive(Shared)]
struct Fan {
    rounds: u32,
    width: u32,
    next: u32,
    pad: u32,
    sum: u64,
    joins: Slot<Array<Slot<Join<Sum>>>>,
}

#[derive(Shared)]
struct Leaf {
    depth: u32,
    steps: u32,
    sum: u64,
    kept: Slot<Node>,
}

#[derive(Shared)]
struct Sum {
    nodes: u64,
}

impl Task for Leaf {
    const KIND: &'static str = "leaf";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let kept = me.kept.load(cx).map_or(0, |n| count(cx, n));
        let sum = me.sum + kept;
        if me.steps == 0 {
            return Ok(Next::Done(Some(cx.alloc(Sum { nodes: sum })?)));
        }
        let next = cx.alloc(Leaf {
            depth: me.depth,
            steps: me.steps - 1,
            sum,
            kept: Slot::nil(),
        })?;
        next.kept.store(cx, Some(tree(cx, me.depth)?));
        Ok(Next::Continue(next))
    }
}

impl Task for Fan {
    const KIND: &'static str = "fan";
    type Output = Sum;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let again = |rounds, next, sum| {
            let fan = cx.alloc(Fan {
                rounds,
                width: me.width,
                next,
                pad: 0,
                sum,
                joins: Slot::nil(),
            })?;
            fan.joins.store(cx, me.joins.load(cx));
            Ok::<_, Error>(fan)
        };
        if me.next < me.width
            && let Some(joins) = me.joins.load(cx)
        {
            let join = joins[me.next as usize]
                .load(cx)
                .expect("every entry was filled before the step took effect");
            if !join.is_over() {
                return Ok(Next::Join(
                    again(me.rounds, me.next, me.sum)?,
                    join.to_join(),
                ));
            }
            assert!(!join.has_failed(), "a leaf was given up");
            let nodes = join.result(cx).map_or(0, |s| s.nodes);
            return Ok(Next::Continue(again(
                me.rounds,
                me.next + 1,
                me.sum + nodes,
            )?));
        }
        if me.rounds == 0 {
            return Ok(Next::Done(Some(cx.alloc(Sum { nodes: me.sum })?)));
        }
        let fan = cx.alloc(Fan {
            rounds: me.rounds - 1,
            width: me.width,
            next: 0,
            pad: 0,
            sum: me.sum,
            joins: Slot::nil(),
        })?;
        let joins = cx.array::<Slot<Join<Sum>>>(me.width as usize)?;
        for slot in joins.iter() {
            let leaf = cx.alloc(Leaf {
                depth: 8,
                steps: 6,
                sum: 0,
                kept: Slot::nil(),
            })?;
            slot.store(cx, Some(cx.spawn_join(leaf)?));
        }
        fan.joins.store(cx, Some(joins));
        Ok(Next::Continue(fan))
    }
}

fn kinds() -> Kinds {
    Kinds::new().with::<Leaf>().with::<Fan>()
}

fn child(path: &str) -> ! {
    // A test that is ended by force leaves no children behind.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .expect("a process may ask for a signal");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the parent's descriptor");
    let segment = Segment::open_fd(file.into()).expect("the parent's segment");
    let mut p = P::lease(segment).expect("a vacant P");
    p.run(&kinds(), |_, _| Idle::Continue).expect("kinds fit");
    drop(p);
    std::process::exit(0)
}

fn spawn(segment: &Segment) -> Child {
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        segment.fd().as_raw_fd()
    );
    Command::new(std::env::current_exe().unwrap())
        .args(["--child", &path])
        .spawn()
        .expect("a child")
}

fn arg(name: &str, default: u64) -> u64 {
    let args: Vec<String> = std::env::args().collect();
    args.iter()
        .position(|a| a == name)
        .and_then(|i| args.get(i + 1)?.parse().ok())
        .unwrap_or(default)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(i) = args.iter().position(|a| a == "--child") {
        child(&args[i + 1]);
    }
    if args.iter().any(|a| a == "--list") {
        println!("storm: test");
        return;
    }
    let (kills, seed, width) = (
        arg("--kills", 150),
        arg("--seed", 1),
        arg("--children", 4) as usize,
    );
    println!("storm: seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let config = SegmentConfig {
        max_bytes: 256 << 20,
        gc_percent: arg("--gc-percent", 10) as i32,
        name: "storm".into(),
        ..SegmentConfig::default()
    };
    let segment = Segment::create(&config).unwrap();
    let mut p = P::lease(segment.clone()).unwrap();
    let mut children: Vec<Child> = (0..width).map(|_| spawn(&segment)).collect();
    let (mut killed, mut stopped, mut runs, mut died) = (0u64, 0u64, 0u64, 0u64);
    let began = Instant::now();
    let runs_min = arg("--runs", 0);
    while killed < kills || runs < runs_min {
        let fans: Vec<_> = (0..4)
            .map(|_| {
                p.submit(|cx| {
                    cx.alloc(Fan {
                        rounds: 6,
                        width: 16,
                        next: 0,
                        pad: 0,
                        sum: 0,
                        joins: Slot::nil(),
                    })
                })
                .unwrap()
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(12);
        while !p.enter(|cx| fans.iter().all(|f| f.is_over(cx))) {
            std::thread::sleep(Duration::from_micros(rng.u64(100..6000)));
            if rng.u8(..) < 40 {
                // A stopped process holds up the end of a cycle, and nobody else.
                let pid = Pid::from_raw(children[rng.usize(0..children.len())].id() as i32);
                kill(pid, Signal::SIGSTOP).unwrap();
                std::thread::sleep(Duration::from_micros(rng.u64(100..20_000)));
                kill(pid, Signal::SIGCONT).unwrap();
                stopped += 1;
            }
            if killed < kills {
                let i = rng.usize(0..children.len());
                children[i].kill().unwrap();
                let status = children[i].wait().unwrap();
                assert_eq!(
                    status.signal(),
                    Some(9),
                    "a child ended by itself: {status:?}"
                );
                killed += 1;
                died += recover::recover_dead(&segment).len() as u64;
                children[i] = spawn(&segment);
            }
            for c in &mut children {
                if let Some(status) = c.try_wait().unwrap() {
                    panic!("a child ended by itself: {status:?}");
                }
            }
            assert!(
                Instant::now() < deadline,
                "stuck: {:?} {:?}",
                segment.status(),
                segment.list_tasks(100)
            );
        }
        // 6 steps of trees of depth 8 each are counted once: 511 nodes, 6 times, 16 leaves, 6 rounds.
        for fan in &fans {
            let sum = p.enter(|cx| fan.result(cx).map(|s| s.nodes));
            assert_eq!(
                sum,
                Some(511 * 6 * 16 * 6),
                "seed {seed}, run {runs}: {:#?}",
                segment.list_tasks(50)
            );
        }
        runs += 1;
        if runs.is_multiple_of(3) {
            let report = gc::verify::verify_clean(&mut p, true)
                .unwrap_or_else(|e| panic!("seed {seed}, run {runs}: {e}"));
            assert!(report.objects < 100_000, "{} objects live", report.objects);
        }
    }
    sched::request_shutdown(&segment);
    for c in &mut children {
        c.wait().unwrap();
    }
    recover::recover_dead(&segment);
    let status = segment.status();
    println!(
        "storm: {killed} kills, {stopped} stops, {died} recovered by the parent, {} in all, {runs} runs, {} cycles, {} migrations, {} requeued, {:.1?}",
        status.deaths,
        status.gc_cycles,
        status.migrations,
        status.requeued,
        began.elapsed()
    );
    for (probe, n) in segment.probes() {
        println!("  {probe}: {n}");
    }
    println!("test result: ok. 1 passed; 0 failed");
}
