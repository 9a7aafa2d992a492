//! A survivor: a process that runs short steps without a pause, and measures the time between their ends.
//!
//! Each process has a *gauge*, an object of its own in the heap. While a window is open, every end of a step is compared with
//! the one before, and the longest *gap* is kept together with what it consists of: time on a processor (the step, the scheduler, the
//! collector, page faults), time spent waiting for one although ready to run, by the kernel's own account
//! (`/proc/thread-self/schedstat`), and the rest, in which the thread was blocked. A gap that has begun before the window counts twice: in full
//! (`whole`), and from the window's opening on (`within`).
//!
//! Three system calls a step cost it about a microsecond, and say why a gap was long without tracing anything.

use std::{
    cell::RefCell,
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use coheap::{Cx, Gc, Handle, Idle, Next, Shared, Slot, Step, Task};

use crate::heap::{Flags, Result, attach, kinds as all_kinds, now_ns, thread_cpu_ns};

/// Objects that a step makes.
const STEP_OBJECTS: u64 = 16;

/// Something to allocate: a list's node.
#[derive(Shared, Default)]
#[shared(name = "bench.recover.Node")]
pub struct Node {
    next: Slot<Node>,
    x: [u64; 3],
}

/// A list of `n` nodes.
pub fn chain<'a>(cx: &'a Cx<'_>, n: u64) -> coheap::Result<Gc<'a, Node>> {
    let mut head = cx.alloc(Node::default())?;
    for _ in 1..n {
        let node = cx.alloc(Node::default())?;
        node.next.store(cx, Some(head));
        head = node;
    }
    Ok(head)
}

/// What is known about the gaps of one process. It alone writes all but `opened_ns`.
#[derive(Shared, Default)]
#[shared(name = "bench.recover.Gauge")]
pub struct Gauge {
    steps: AtomicU64,
    /// When the window was opened; 0: it is closed.
    opened_ns: AtomicU64,
    /// The longest gap, its part after the opening, its beginning, and what it consists of.
    longest: [AtomicU64; 5],
}

/// A gap of one survivor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// From the end of one step to the end of the next.
    pub whole_ns: u64,
    /// The part of it since the window was opened.
    pub within_ns: u64,
    /// When it began.
    pub began_ns: u64,
    /// In it, on a processor.
    pub computing_ns: u64,
    /// In it, ready to run and waiting for a processor.
    pub waiting_ns: u64,
}

impl Gap {
    /// In it, neither: blocked.
    pub fn blocked_ns(&self) -> u64 {
        self.whole_ns
            .saturating_sub(self.computing_ns + self.waiting_ns)
    }

    fn words(&self) -> [u64; 5] {
        [
            self.whole_ns,
            self.within_ns,
            self.began_ns,
            self.computing_ns,
            self.waiting_ns,
        ]
    }
}

impl Gauge {
    /// Forgets what it knows and begins a window.
    pub fn open(&self, now: u64) {
        self.opened_ns.store(0, Relaxed);
        self.longest.iter().for_each(|word| word.store(0, Relaxed));
        // Release: a step that sees the window sees it empty.
        self.opened_ns.store(now, Release);
    }

    /// Steps that have ended so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Acquire)
    }

    /// The longest gap of the window, which ends.
    pub fn close(&self) -> Gap {
        let word = |i: usize| self.longest[i].load(Relaxed);
        let gap = Gap {
            whole_ns: word(0),
            within_ns: word(1),
            began_ns: word(2),
            computing_ns: word(3),
            waiting_ns: word(4),
        };
        self.opened_ns.store(0, Relaxed);
        gap
    }

    fn note(&self, last: &Account, now: &Account) {
        let opened = self.opened_ns.load(Acquire);
        let gap = now.since(last, opened);
        if opened != 0 && opened < now.at_ns && gap.whole_ns > self.longest[0].load(Relaxed) {
            for (word, value) in self.longest.iter().zip(gap.words()) {
                word.store(value, Relaxed);
            }
        }
        self.steps.fetch_add(1, Release);
    }
}

/// What the kernel had given this thread until a moment.
#[derive(Clone, Copy, Default)]
struct Account {
    at_ns: u64,
    computed_ns: u64,
    waited_ns: u64,
}

impl Account {
    /// All three of one moment: a thread loses its processor at the end of a system call more often than anywhere else.
    fn now(schedstat: &File) -> Account {
        let mut waited = waited_ns(schedstat);
        loop {
            let (computed_ns, at_ns) = (thread_cpu_ns(), now_ns());
            let again = waited_ns(schedstat);
            if again == waited {
                return Account {
                    at_ns,
                    computed_ns,
                    waited_ns: waited.unwrap_or(0),
                };
            }
            waited = again;
        }
    }

    fn since(&self, last: &Account, opened: u64) -> Gap {
        Gap {
            whole_ns: self.at_ns.saturating_sub(last.at_ns),
            within_ns: self.at_ns.saturating_sub(last.at_ns.max(opened)),
            began_ns: last.at_ns,
            computing_ns: self.computed_ns - last.computed_ns,
            waiting_ns: self.waited_ns - last.waited_ns,
        }
    }
}

/// Nanoseconds that the thread which this file describes has waited for a processor. (The first number of the file, the time on one, is
/// brought up to date only at ticks.)
fn waited_ns(schedstat: &File) -> Option<u64> {
    let mut buffer = [0; 64];
    let len = schedstat.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..len]).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// This process's gauge, and the account at the end of its last step.
struct Mine {
    gauge: Handle<Gauge>,
    schedstat: File,
    last: Account,
}

thread_local! {
    static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
}

/// A task that allocates a little, again and again, on whichever process has it.
#[derive(Shared, Default)]
#[shared(name = "bench.recover.Survivor")]
pub struct Survivor {
    kept: Slot<Node>,
}

impl Task for Survivor {
    const KIND: &'static str = "bench.survivor";
    type Output = Survivor;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> coheap::Result<Next<'a, Self>> {
        let cx = &*cx;
        cx.context().kept.store(cx, Some(chain(cx, STEP_OBJECTS)?));
        MINE.with_borrow_mut(|mine| {
            if let Some(mine) = mine {
                let now = Account::now(&mine.schedstat);
                mine.gauge.get(cx).note(&mine.last, &now);
                mine.last = now;
            }
        });
        Ok(Next::Again)
    }
}

/// The root of survivor `i`'s gauge.
pub fn gauge_name(i: u64) -> String {
    format!("gauge {i}")
}

/// The program of a survivor. Flags: `--number`, which gauge is its own; `--think-us`, to sleep between two steps.
pub fn program(flags: &Flags) -> Result<()> {
    let mut p = attach(flags)?;
    let name = gauge_name(flags.number("--number", 0));
    let gauge = p.enter(|cx| {
        let cx = &*cx;
        let gauge = cx.root::<Gauge>(&name)?.get(cx);
        cx.handle(gauge.ok_or("a survivor before its gauge")?)
            .map_err(Box::<dyn std::error::Error>::from)
    })?;
    let schedstat = File::open("/proc/thread-self/schedstat")?;
    let last = Account::now(&schedstat);
    MINE.set(Some(Mine {
        gauge,
        schedstat,
        last,
    }));
    let think = Duration::from_micros(flags.number("--think-us", 0));
    p.run(&all_kinds(), |_, _| {
        if !think.is_zero() {
            std::thread::sleep(think);
        }
        Idle::Continue
    })?;
    // Before the P goes, whose handle it holds.
    MINE.set(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_ns: u64, computed_ns: u64, waited_ns: u64) -> Account {
        Account {
            at_ns,
            computed_ns,
            waited_ns,
        }
    }

    #[test]
    fn a_gap_is_what_it_consists_of_and_counts_from_the_opening_too() {
        let gauge = Gauge::default();
        gauge.note(&at(0, 0, 0), &at(900, 900, 0));
        gauge.open(1000);
        gauge.note(&at(900, 900, 0), &at(1100, 950, 100));
        gauge.note(&at(1100, 950, 100), &at(1250, 1100, 100));
        let gap = gauge.close();
        assert_eq!((gap.whole_ns, gap.within_ns, gap.began_ns), (200, 100, 900));
        assert_eq!(
            (gap.computing_ns, gap.waiting_ns, gap.blocked_ns()),
            (50, 100, 50)
        );
        gauge.note(&at(2000, 0, 0), &at(9000, 0, 0));
        assert_eq!((gauge.close(), gauge.steps()), (gap, 4));
    }

    #[test]
    fn the_kernel_accounts_for_this_thread() {
        let schedstat = File::open("/proc/thread-self/schedstat").expect("a kernel that accounts");
        assert!(waited_ns(&schedstat).is_some());
    }
}
