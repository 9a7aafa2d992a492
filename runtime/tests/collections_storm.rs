//! Real processes, real kills: children fill one map and one vector and move values between two queues while the parent kills them at
//! random. Afterwards every key is there once, and every value stands in one queue, once.
//! `cargo test -p coheap --test collections_storm -- --kills 2000 --seed 7` for more. With the feature `failpoints` the children also
//! obey `COHEAP_FAILPOINTS="queue.linked=1%kill"`; the map's points are passed often, so there less than 0.05 %: a step that dies
//! too often is given up.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    process::{Child, Command},
    time::{Duration, Instant},
};

use coheap::*;

#[derive(Shared)]
struct Num {
    n: u64,
}

/// Where everything is.
#[derive(Shared)]
struct World {
    map: Slot<GcMap<Num>>,
    seen: Slot<GcVec<Num>>,
    from: Slot<Queue<Num>>,
    to: Slot<Queue<Num>>,
}

const FILLERS: u64 = 16;
const STEPS: u64 = 150;
const KEYS: u64 = 20;
const PUSHES: u64 = 2;
const MOVERS: u64 = 4;
const QUOTA: u64 = 1000;

/// Inserts `KEYS` keys in each step, takes every fourth out again, and pushes `PUSHES` values as an effect.
#[derive(Shared)]
struct Fill {
    number: u64,
    step: u64,
    world: Slot<World>,
}

impl Task for Fill {
    const KIND: &'static str = "fill";
    type Output = Num;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let world = me.world.load(cx).expect("a world");
        let map = world.map.load(cx).expect("a map");
        let base = (me.number * STEPS + me.step) * KEYS;
        if me.step == STEPS {
            return Ok(Next::Done(None));
        }
        for k in base..base + KEYS {
            map.get_or_insert_with(cx, key(k), || cx.alloc(Num { n: k }))?;
            if k % 4 == 0 {
                map.remove(cx, key(k));
            }
        }
        let seen = world.seen.load(cx).expect("a vector");
        seen.push(cx, cx.alloc(Num { n: base })?)?;
        for i in 0..PUSHES {
            let n = (me.number * STEPS + me.step) * PUSHES + i;
            cx.push(world.from.load(cx).expect("a queue"), cx.alloc(Num { n })?)?;
        }
        let next = cx.alloc(Fill {
            number: me.number,
            step: me.step + 1,
            world: Slot::nil(),
        })?;
        next.world.store(cx, Some(world));
        Ok(Next::Continue(next))
    }
}

/// Moves `left` values from one queue to the other, two in a step.
#[derive(Shared)]
struct Move {
    left: u64,
    world: Slot<World>,
}

impl Task for Move {
    const KIND: &'static str = "move";
    type Output = Num;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if me.left == 0 {
            return Ok(Next::Done(None));
        }
        let world = me.world.load(cx).expect("a world");
        let (from, to) = (world.from.load(cx).unwrap(), world.to.load(cx).unwrap());
        let mut moved = 0;
        while moved < me.left.min(2) {
            let Some(value) = cx.take(from)? else { break };
            cx.push(to, value)?;
            moved += 1;
        }
        let next = cx.alloc(Move {
            left: me.left - moved,
            world: Slot::nil(),
        })?;
        next.world.store(cx, Some(world));
        if moved == 0 {
            return Ok(Next::Sleep(next, Duration::from_micros(300)));
        }
        Ok(Next::Continue(next))
    }
}

/// Bound for the objects that a finished run needs: entry, key, value and link of each key, and two more links while the table is
/// half moved; node and value in the queues; the vector's values.
fn live() -> u64 {
    FILLERS * STEPS * (KEYS / 4 * 3 * 6 + PUSHES * 2 + 1) + 200
}

fn key(k: u64) -> String {
    format!("key {k}")
}

fn kinds() -> Kinds {
    Kinds::new().with::<Fill>().with::<Move>()
}

fn child(path: &str) -> ! {
    // A test that is ended by force leaves no children behind.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .expect("a process may ask for a signal");
    #[cfg(feature = "failpoints")]
    failpoint::arm_from_environment().expect("a list of failpoints");
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
    let fd = segment.fd().as_raw_fd();
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
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

/// The tasks of one run over a new world, which the root `world` holds.
struct Run {
    fills: Vec<Submitted<Fill>>,
    moves: Vec<Submitted<Move>>,
}

impl Run {
    fn begin(p: &mut P) -> Run {
        p.enter(|cx| {
            let cx = &*cx;
            let world = cx.alloc(World {
                map: Slot::nil(),
                seen: Slot::nil(),
                from: Slot::nil(),
                to: Slot::nil(),
            })?;
            world.map.store(cx, Some(GcMap::new(cx)?));
            world.seen.store(cx, Some(GcVec::new(cx)?));
            world.from.store(cx, Some(Queue::new(cx)?));
            world.to.store(cx, Some(Queue::new(cx)?));
            cx.root("world")?.set(cx, Some(world));
            Ok::<_, Error>(())
        })
        .unwrap();
        let fill = |cx: &Cx<'_>, slot: &Slot<World>| {
            slot.store(cx, cx.root("world").unwrap().get(cx));
        };
        let fills = (0..FILLERS).map(|number| {
            p.submit(|cx| {
                let task = cx.alloc(Fill {
                    number,
                    step: 0,
                    world: Slot::nil(),
                })?;
                fill(cx, &task.to_ref().world);
                Ok(task)
            })
            .unwrap()
        });
        let fills = fills.collect();
        let moves = (0..MOVERS).map(|_| {
            p.submit(|cx| {
                let task = cx.alloc(Move {
                    left: QUOTA,
                    world: Slot::nil(),
                })?;
                fill(cx, &task.to_ref().world);
                Ok(task)
            })
            .unwrap()
        });
        let moves = moves.collect();
        Run { fills, moves }
    }

    fn is_over(&self, p: &mut P) -> bool {
        p.enter(|cx| {
            self.fills.iter().all(|t| t.is_over(cx)) && self.moves.iter().all(|t| t.is_over(cx))
        })
    }

    /// Every key once, every value in one queue once.
    fn check(&self, p: &mut P, what: &str) {
        p.enter(|cx| {
            let cx = &*cx;
            assert!(!self.fills.iter().any(|t| t.has_failed(cx)), "{what}");
            assert!(!self.moves.iter().any(|t| t.has_failed(cx)), "{what}");
            let world = cx.root::<World>("world").unwrap().get(cx).unwrap();
            let map = world.map.load(cx).unwrap();
            let keys = FILLERS * STEPS * KEYS;
            for k in 0..keys {
                let wanted = (k % 4 != 0).then_some(k);
                assert_eq!(map.get(cx, key(k)).map(|v| v.n), wanted, "{what}: key {k}");
            }
            assert_eq!(map.iter(cx).count() as u64, keys / 4 * 3, "{what}");
            let seen = world.seen.load(cx).unwrap();
            let bases: HashSet<u64> = seen.iter(cx).map(|n| n.n).collect();
            assert_eq!(bases.len() as u64, FILLERS * STEPS, "{what}");
            assert_eq!(seen.iter(cx).count(), seen.len(), "{what}");
            let of = |queue: &Slot<Queue<Num>>| -> Vec<u64> {
                let queue = queue.load(cx).unwrap();
                queue.iter(cx).map(|n| n.n).collect()
            };
            let (from, to) = (of(&world.from), of(&world.to));
            assert_eq!(to.len() as u64, MOVERS * QUOTA, "{what}");
            let mut all = [from, to].concat();
            all.sort_unstable();
            assert!(
                all.iter().copied().eq(0..FILLERS * STEPS * PUSHES),
                "{what}: {} values: {all:?}",
                all.len()
            );
        });
    }
}

/// Kills a random child and has another in its place.
fn kill_one(segment: &Segment, children: &mut [Child], rng: &mut fastrand::Rng) {
    let i = rng.usize(0..children.len());
    children[i].kill().unwrap();
    assert_eq!(children[i].wait().unwrap().signal(), Some(9));
    recover::recover_dead(segment);
    children[i] = spawn(segment);
}

/// Children that a failpoint has killed.
fn replace_dead(segment: &Segment, children: &mut [Child]) -> u64 {
    let mut dead = 0;
    for c in children {
        if let Some(status) = c.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(9), "a child ended by itself");
            recover::recover_dead(segment);
            *c = spawn(segment);
            dead += 1;
        }
    }
    dead
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(i) = args.iter().position(|a| a == "--child") {
        child(&args[i + 1]);
    }
    if args.iter().any(|a| a == "--list") {
        println!("collections_storm: test");
        return;
    }
    let (kills, seed, width) = (arg("--kills", 100), arg("--seed", 1), arg("--children", 4));
    println!("collections_storm: seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let segment = Segment::create(&SegmentConfig {
        max_bytes: 256 << 20,
        gc_percent: 10,
        name: "collections".into(),
        ..SegmentConfig::default()
    })
    .unwrap();
    let mut p = P::lease(segment.clone()).unwrap();
    let mut children: Vec<Child> = (0..width).map(|_| spawn(&segment)).collect();
    let (mut killed, mut runs) = (0, 0);
    let began = Instant::now();
    while killed < kills {
        let run = Run::begin(&mut p);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !run.is_over(&mut p) {
            std::thread::sleep(Duration::from_micros(rng.u64(100..6000)));
            killed += replace_dead(&segment, &mut children);
            if killed < kills {
                kill_one(&segment, &mut children, &mut rng);
                killed += 1;
            }
            assert!(
                Instant::now() < deadline,
                "stuck: {:?} {:?}",
                segment.status(),
                segment.list_tasks(50)
            );
        }
        let what = format!("seed {seed}, run {runs}");
        run.check(&mut p, &what);
        drop(run);
        runs += 1;
        if runs % 3 == 0 {
            let report = gc::verify::verify_clean(&mut p, true).unwrap();
            assert!(report.objects < live(), "{what}: {report:?}");
        }
    }
    sched::request_shutdown(&segment);
    for c in &mut children {
        c.wait().unwrap();
    }
    recover::recover_dead(&segment);
    let status = segment.status();
    println!(
        "collections_storm: {killed} kills, {} recovered, {runs} runs, {} cycles, {} requeued, {:.1?}",
        status.deaths,
        status.gc_cycles,
        status.requeued,
        began.elapsed()
    );
    for (probe, n) in segment.probes().iter().filter(|(_, n)| *n > 0) {
        println!("  {probe}: {n}");
    }
    println!("test result: ok. 1 passed; 0 failed");
}
