//! What the programs share: flags, a segment, P's in processes of their own, clocks.

use std::{
    fs::OpenOptions,
    os::fd::AsRawFd,
    process::{Child, Command},
    time::{Duration, Instant},
};

use coheap::{Cx, Gc, Idle, Kinds, P, Segment, SegmentConfig, Task, sched as runtime_sched};
use nix::sys::{
    prctl,
    resource::{UsageWho, getrusage},
    signal::Signal,
};

/// What goes wrong, for people.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `--name value` pairs.
pub struct Flags(Vec<String>);

impl Flags {
    /// The command line after the subcommand.
    pub fn new(args: Vec<String>) -> Flags {
        Flags(args)
    }

    /// A flag's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// Is a flag there?
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }

    /// A flag's number.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name)
            .and_then(|t| t.parse().ok())
            .unwrap_or(default)
    }
}

/// A segment of `max_mb` MiB.
pub fn segment(max_mb: u64, gc_percent: i32) -> Result<Segment> {
    Ok(Segment::create(&SegmentConfig {
        max_bytes: max_mb << 20,
        gc_percent,
        name: "bench".into(),
        ..SegmentConfig::default()
    })?)
}

/// The kinds of task of every program.
pub fn kinds() -> Kinds {
    let kinds = crate::sched::kinds(crate::alloc::kinds(Kinds::new()));
    let kinds = crate::pause::kinds(crate::recover::kinds(kinds));
    let kinds = crate::sh6bench::kinds(crate::larson::kinds(kinds));
    crate::map::kinds(crate::threadtest::kinds(kinds))
}

/// Processes that run tasks of the segment until they are told to leave.
pub struct Children {
    segment: Segment,
    children: Vec<Child>,
}

impl Children {
    /// Starts `n` of them, and waits until they are P's.
    pub fn start(segment: &Segment, n: usize) -> Result<Children> {
        Children::start_as("child", segment, n)
    }

    /// The same, with another program than `child`.
    pub fn start_as(program: &str, segment: &Segment, n: usize) -> Result<Children> {
        let before = live(segment);
        let children = (0..n)
            .map(|_| spawn(program, segment))
            .collect::<Result<_>>()?;
        while live(segment) < before + n {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Children {
            segment: segment.clone(),
            children,
        })
    }

    /// Processor time that they and this thread have taken, in nanoseconds: on a busy machine it says more than the wall's.
    pub fn cpu_ns(&self) -> u64 {
        self.each_cpu_ns().iter().sum()
    }

    /// The same, one by one: this thread, then the children.
    pub fn each_cpu_ns(&self) -> Vec<u64> {
        let of = |child: &Child| schedstat_ns(&format!("/proc/{}/schedstat", child.id()));
        std::iter::once(thread_cpu_ns())
            .chain(self.children.iter().map(of))
            .collect()
    }

    /// Tells them to leave; returns the processor time they took, in nanoseconds.
    pub fn stop(self) -> Result<u64> {
        runtime_sched::request_shutdown(&self.segment);
        for mut child in self.children {
            child.wait()?;
        }
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let ns = |t: nix::sys::time::TimeVal| {
            t.tv_sec() as u64 * 1_000_000_000 + t.tv_usec() as u64 * 1000
        };
        Ok(ns(usage.user_time()) + ns(usage.system_time()))
    }
}

/// Some P's, this process's and its children's, that run one task each.
pub struct Workers {
    p: P,
    children: Children,
    procs: usize,
}

/// What a run of them took.
pub struct Spent {
    /// Time on the wall.
    pub wall_ns: u64,
    /// Processor time of all.
    pub cpu_ns: u64,
}

impl Workers {
    /// Starts `procs` of them on a heap of their own. Flags: `--max-mb`, `--gc-percent`.
    pub fn start(procs: usize, flags: &Flags) -> Result<Workers> {
        let percent = flags.number("--gc-percent", 100) as i32;
        let segment = segment(flags.number("--max-mb", 2048), percent)?;
        let p = P::lease(segment.clone())?;
        let children = Children::start(&segment, procs - 1)?;
        Ok(Workers { p, children, procs })
    }

    /// Runs a task for each, made by `make` from its number, and shows the results.
    pub fn run<T: Task>(
        &mut self,
        make: impl for<'a> Fn(&'a Cx<'_>, usize) -> coheap::Result<Gc<'a, T>>,
        mut result: impl FnMut(Gc<'_, T::Output>),
    ) -> Result<Spent> {
        let (started, cpu_ns) = (now_ns(), self.children.cpu_ns());
        let tasks = (0..self.procs)
            .map(|i| self.p.submit(|cx| make(cx, i)))
            .collect::<coheap::Result<Vec<_>>>()?;
        self.p.run(&kinds(), |p, _| {
            let over = p.enter(|cx| tasks.iter().all(|t| t.is_over(cx)));
            if over { Idle::Return } else { Idle::Continue }
        })?;
        let spent = Spent {
            wall_ns: now_ns() - started,
            cpu_ns: self.children.cpu_ns() - cpu_ns,
        };
        self.p.enter(|cx| {
            for task in &tasks {
                match task.result(cx) {
                    Some(of) => result(of),
                    None => return Err("a worker was given up".into()),
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        Ok(spent)
    }

    /// This process's P.
    pub fn p(&mut self) -> &mut P {
        &mut self.p
    }

    /// Ends the children.
    pub fn stop(self) -> Result<()> {
        self.children.stop()?;
        Ok(())
    }
}

fn live(segment: &Segment) -> usize {
    let status = segment.status();
    status.procs.iter().filter(|p| p.state == "live").count()
}

/// Starts a process that runs `program` of this executable on the segment.
pub fn spawn(program: &str, segment: &Segment) -> Result<Child> {
    spawn_with(program, segment, &[])
}

/// The same, with flags.
pub fn spawn_with(program: &str, segment: &Segment, flags: &[&str]) -> Result<Child> {
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        segment.fd().as_raw_fd()
    );
    let mut command = Command::new(std::env::current_exe()?);
    command.args([program, "--segment", &path]).args(flags);
    Ok(command.spawn()?)
}

/// A child's first steps: it ends with its parent, and becomes a P of the parent's segment.
pub fn attach(flags: &Flags) -> Result<P> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let path = flags.text("--segment").ok_or("child without --segment")?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(P::lease(Segment::open_fd(file.into())?)?)
}

/// The program of a child.
pub fn child(flags: &Flags) -> Result<()> {
    attach(flags)?.run(&kinds(), |_, _| Idle::Continue)?;
    Ok(())
}

/// Processor time of all children that have ended, in seconds.
pub fn children_cpu_s() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(s(usage.user_time()) + s(usage.system_time()))
}

/// The monotonic clock, which all processes share, in nanoseconds: the one of the heap's own records.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Processor time of this thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn schedstat_ns(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Time of a measurement: the thread's processor time where one P does it all, which other programs disturb least, else the wall's.
pub struct Clock {
    wall: Instant,
    cpu_ns: u64,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Clock {
        Clock {
            wall: Instant::now(),
            cpu_ns: thread_cpu_ns(),
        }
    }

    /// Nanoseconds since, for a measurement with `procs` P's.
    pub fn ns(&self, procs: usize) -> f64 {
        if procs == 1 {
            (thread_cpu_ns() - self.cpu_ns) as f64
        } else {
            self.wall.elapsed().as_nanos() as f64
        }
    }
}

/// Median nanoseconds per operation of `rounds` timings of `f`, which does `n` operations.
pub fn per_op(rounds: usize, n: u64, mut f: impl FnMut()) -> f64 {
    let times = (0..rounds).map(|_| {
        let clock = Clock::start();
        f();
        clock.ns(1) / n as f64
    });
    median(times.collect())
}

/// The middle one; the upper of two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Two digits after the point are enough.
pub fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
