//! The n-th system call fails: a command and everything it starts run under ptrace, and one call of one program is made to fail.
//!
//! 1. The command is started traced, with its children, threads and what they exec. 2. Calls of the chosen name are counted in processes
//! of the chosen program, from the moment the program's own code runs (what the dynamic linker meets is not ours). 3. The n-th is
//! replaced by a call that does not exist, and its result by the error; or its length is cut, for a short read or write. 4. Everything
//! must end in time, each process with an exit code of the table; what failed says so in one line.
//!
//! **Not failed**: private memory (`malloc` without memory ends a Rust program, by design of its standard library).
//! **If this program dies** the kernel kills what it traces (`PTRACE_O_EXITKILL`).
#![expect(
    unsafe_code,
    reason = "a child asks to be traced between fork and exec"
)]

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::HashMap,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails so.
    Error(Errno),
    /// It is asked for half of what was wanted, and at least one byte.
    Short,
}

/// One experiment.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Program whose calls count.
    pub program: &'static str,
    /// The call, by name and number.
    pub call: (&'static str, i64),
    /// Which of them; 0 none.
    pub nth: u32,
    /// What becomes of it.
    pub fault: Fault,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Was there an n-th call?
    pub injected: bool,
    /// Program and exit code of every process that ended so.
    pub exits: Vec<(String, i32)>,
    /// What must not be, in words.
    pub findings: Vec<String>,
    /// Standard output and standard error of the command, and of what inherited them.
    pub said: [String; 2],
}

/// Calls worth failing, with the errors that are.
pub const CALLS: &[(&str, i64, &[Fault])] = {
    use Fault::{Error as E, Short};
    &[
        ("read", libc_nr::READ, &[E(Errno::EINTR), Short]),
        ("write", libc_nr::WRITE, &[E(Errno::EINTR), Short]),
        (
            "openat",
            libc_nr::OPENAT,
            &[E(Errno::EMFILE), E(Errno::EINTR)],
        ),
        ("mmap", libc_nr::MMAP, &[E(Errno::ENOMEM)]),
        (
            "socket",
            libc_nr::SOCKET,
            &[E(Errno::EMFILE), E(Errno::ENOMEM)],
        ),
        ("socketpair", libc_nr::SOCKETPAIR, &[E(Errno::EMFILE)]),
        (
            "connect",
            libc_nr::CONNECT,
            &[E(Errno::EINTR), E(Errno::EAGAIN)],
        ),
        (
            "accept4",
            libc_nr::ACCEPT4,
            &[E(Errno::EMFILE), E(Errno::EINTR), E(Errno::ENOMEM)],
        ),
        (
            "sendmsg",
            libc_nr::SENDMSG,
            &[E(Errno::EPIPE), E(Errno::EINTR), E(Errno::ENOMEM)],
        ),
        (
            "recvmsg",
            libc_nr::RECVMSG,
            &[E(Errno::EINTR), E(Errno::ENOMEM), E(Errno::ECONNRESET)],
        ),
        ("poll", libc_nr::POLL, &[E(Errno::EINTR), E(Errno::ENOMEM)]),
        ("bind", libc_nr::BIND, &[E(Errno::ENOMEM)]),
        ("listen", libc_nr::LISTEN, &[E(Errno::EADDRINUSE)]),
        ("futex", libc_nr::FUTEX, &[E(Errno::EINTR)]),
        (
            "futex_waitv",
            libc_nr::FUTEX_WAITV,
            &[E(Errno::EINTR), E(Errno::ENOMEM)],
        ),
        (
            "fallocate",
            libc_nr::FALLOCATE,
            &[E(Errno::ENOMEM), E(Errno::EINTR), E(Errno::ENOSPC)],
        ),
        (
            "ftruncate",
            libc_nr::FTRUNCATE,
            &[E(Errno::ENOMEM), E(Errno::EINTR)],
        ),
        (
            "memfd_create",
            libc_nr::MEMFD_CREATE,
            &[E(Errno::EMFILE), E(Errno::ENOMEM)],
        ),
        ("madvise", libc_nr::MADVISE, &[E(Errno::ENOMEM)]),
        ("clone3", libc_nr::CLONE3, &[E(Errno::EAGAIN)]),
        ("vfork", libc_nr::VFORK, &[E(Errno::EAGAIN)]),
        ("pidfd_open", libc_nr::PIDFD_OPEN, &[E(Errno::EMFILE)]),
        ("eventfd2", libc_nr::EVENTFD2, &[E(Errno::EMFILE)]),
        ("signalfd4", libc_nr::SIGNALFD4, &[E(Errno::EMFILE)]),
        (
            "mkdir",
            libc_nr::MKDIR,
            &[E(Errno::ENOSPC), E(Errno::EINTR)],
        ),
        ("rename", libc_nr::RENAME, &[E(Errno::ENOSPC)]),
        (
            "fcntl",
            libc_nr::FCNTL,
            &[E(Errno::EMFILE), E(Errno::EINTR)],
        ),
        ("pread64", libc_nr::PREAD64, &[E(Errno::EINTR), Short]),
        ("statx", libc_nr::STATX, &[E(Errno::ENOMEM)]),
    ]
};

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;

/// Numbers of the calls on x86-64.
mod libc_nr {
    pub const READ: i64 = 0;
    pub const WRITE: i64 = 1;
    pub const POLL: i64 = 7;
    pub const MMAP: i64 = 9;
    pub const PREAD64: i64 = 17;
    pub const MADVISE: i64 = 28;
    pub const SOCKET: i64 = 41;
    pub const CONNECT: i64 = 42;
    pub const SENDMSG: i64 = 46;
    pub const RECVMSG: i64 = 47;
    pub const BIND: i64 = 49;
    pub const LISTEN: i64 = 50;
    pub const SOCKETPAIR: i64 = 53;
    pub const VFORK: i64 = 58;
    pub const FCNTL: i64 = 72;
    pub const FTRUNCATE: i64 = 77;
    pub const RENAME: i64 = 82;
    pub const MKDIR: i64 = 83;
    pub const SIGALTSTACK: i64 = 131;
    pub const FUTEX: i64 = 202;
    pub const OPENAT: i64 = 257;
    pub const FALLOCATE: i64 = 285;
    pub const ACCEPT4: i64 = 288;
    pub const SIGNALFD4: i64 = 289;
    pub const EVENTFD2: i64 = 290;
    pub const MEMFD_CREATE: i64 = 319;
    pub const STATX: i64 = 332;
    pub const PIDFD_OPEN: i64 = 434;
    pub const CLONE3: i64 = 435;
    pub const FUTEX_WAITV: i64 = 449;
}

/// Exit codes of the table in the README, and those of a shell that passes them on.
pub const CODES: &[i32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 75, 124, 130];

#[derive(Default)]
struct Thread {
    program: String,
    /// Not its process's first thread, or a child before its exec.
    is_further: bool,
    /// Seen once, so the stop that every new thread begins with is over.
    begun: bool,
    in_call: bool,
    /// Calls of `sigaltstack` since exec: after the second, the program's own code runs.
    stacks: u32,
    result: Option<i64>,
}

/// Runs a command under a plan, for at most so long.
pub fn run(mut command: Command, plan: Plan, patience: Duration) -> Report {
    let mut report = Report::default();
    let out = tempfile::tempfile().expect("a file");
    let err = tempfile::tempfile().expect("a file");
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("another descriptor"))
        .stderr(err.try_clone().expect("another descriptor"));
    // SAFETY: the one call between fork and exec is a system call without side effects on memory.
    unsafe {
        command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from));
    }
    let child = command.spawn().expect("starts");
    let root = Pid::from_raw(child.id() as i32);
    Tracer {
        plan,
        root,
        count: 0,
        threads: HashMap::new(),
        report: &mut report,
    }
    .follow(patience);
    drop(child); // waited for by the tracer
    report.said = [out, err].map(read_back);
    report.judge();
    report
}

fn read_back(mut file: std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("reads");
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Tracer<'r> {
    plan: Plan,
    root: Pid,
    count: u32,
    threads: HashMap<Pid, Thread>,
    report: &'r mut Report,
}

impl Tracer<'_> {
    fn follow(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut idle = 0u32;
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    idle += 1;
                    if idle > 200 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
                Ok(status) => {
                    idle = 0;
                    self.met(status);
                }
                Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => {}
                Err(e) => panic!("waitpid: {e}"),
            }
            if Instant::now() > until {
                return self.give_up();
            }
        }
    }

    /// Ends everything that is left, by number.
    fn give_up(&mut self) {
        let mut left: Vec<&str> = self.threads.values().map(|t| t.program.as_str()).collect();
        left.sort_unstable();
        left.dedup();
        self.report
            .findings
            .push(format!("does not come to an end: {}", left.join(", ")));
        for pid in self.threads.keys() {
            // Gone already is as good.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL)) {
            if let WaitStatus::PtraceEvent(pid, ..) = status {
                let _ = ptrace::cont(pid, None);
            }
        }
    }

    fn met(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.exited(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.killed(pid, signal),
            WaitStatus::PtraceSyscall(pid) => {
                self.call(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                self.event(pid, event);
                self.go_on(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => self.stopped(pid, signal),
            _ => {}
        }
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        // It may have been killed meanwhile; then its end is reported next.
        let _ = ptrace::syscall(pid, signal);
    }

    fn exited(&mut self, pid: Pid, code: i32) {
        let thread = self.threads.remove(&pid).unwrap_or_default();
        // Threads end too; a process is what its first thread is.
        if !thread.is_further && !thread.program.is_empty() {
            self.report.exits.push((thread.program, code));
        }
    }

    fn killed(&mut self, pid: Pid, signal: Signal) {
        let thread = self.threads.remove(&pid).unwrap_or_default();
        if matches!(
            signal,
            Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGABRT | Signal::SIGILL
        ) {
            self.report
                .findings
                .push(format!("{} was ended by {signal}", thread.program));
        }
    }

    fn stopped(&mut self, pid: Pid, signal: Signal) {
        let thread = self.threads.entry(pid).or_default();
        if !thread.begun {
            thread.begun = true;
            if pid == self.root {
                let options = Options::PTRACE_O_TRACESYSGOOD
                    | Options::PTRACE_O_TRACEFORK
                    | Options::PTRACE_O_TRACEVFORK
                    | Options::PTRACE_O_TRACECLONE
                    | Options::PTRACE_O_TRACEEXEC
                    | Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(pid, options).expect("traced");
                thread.program = program_of(pid);
            }
            // The exec's trap, or a new thread's first stop: neither is a signal.
            return self.go_on(pid, None);
        }
        self.go_on(pid, (signal != Signal::SIGTRAP).then_some(signal));
    }

    fn event(&mut self, pid: Pid, event: i32) {
        if event == nix::libc::PTRACE_EVENT_EXEC {
            let thread = self.threads.entry(pid).or_default();
            thread.program = program_of(pid);
            thread.stacks = 0;
            thread.is_further = false;
            return;
        }
        if let Ok(new) = ptrace::getevent(pid) {
            let (program, stacks) = self
                .threads
                .get(&pid)
                .map_or_else(Default::default, |t| (t.program.clone(), t.stacks));
            let thread = self.threads.entry(Pid::from_raw(new as i32)).or_default();
            thread.program = program;
            thread.stacks = stacks;
            // Until it execs, a child is a part of its parent.
            thread.is_further = true;
        }
    }

    fn call(&mut self, pid: Pid) {
        let Ok(mut regs) = ptrace::getregs(pid) else {
            return;
        };
        let thread = self.threads.entry(pid).or_default();
        thread.in_call = !thread.in_call;
        if !thread.in_call {
            if let Some(result) = thread.result.take() {
                regs.rax = result as u64;
                // Killed meanwhile: then nobody sees the result.
                let _ = ptrace::setregs(pid, regs);
            }
            return;
        }
        let number = regs.orig_rax as i64;
        thread.stacks += u32::from(number == libc_nr::SIGALTSTACK);
        let ours = thread.stacks >= 2 && thread.program == self.plan.program;
        // Private memory is left alone: see the module.
        let private = number == libc_nr::MMAP && regs.r8 as i32 == -1;
        // Of a futex only a wait can be interrupted; glibc ends a process whose wake-up is. (For the same reason `flock` is not on the
        // list: without waiting it is never interrupted.)
        let wakes =
            number == libc_nr::FUTEX && !matches!(regs.rsi & 0x7f, FUTEX_WAIT | FUTEX_WAIT_BITSET);
        if !ours || number != self.plan.call.1 || private || wakes {
            return;
        }
        self.count += 1;
        if self.count != self.plan.nth {
            return;
        }
        self.report.injected = true;
        match self.plan.fault {
            Fault::Error(errno) => {
                regs.orig_rax = u64::MAX;
                thread.result = Some(-i64::from(errno as i32));
            }
            Fault::Short => regs.rdx = (regs.rdx / 2).max(1),
        }
        let _ = ptrace::setregs(pid, regs);
    }
}

fn program_of(pid: Pid) -> String {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.file_name()
        .map_or(String::new(), |n| n.to_string_lossy().into_owned())
}

impl Report {
    fn judge(&mut self) {
        for (program, code) in &self.exits {
            let ours = ["coheap", "coheapd", "coheap-worker"].contains(&program.as_str());
            if ours && !CODES.contains(code) {
                self.findings.push(format!("{program} ended with {code}"));
            }
        }
        for said in &self.said {
            if let Some(line) = said.lines().find(|l| l.contains("panicked at")) {
                self.findings.push(line.to_owned());
            }
        }
    }
}
