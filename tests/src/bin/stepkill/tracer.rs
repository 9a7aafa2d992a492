//! The stepped process: started by exec of this program, stopped at its first mark, taken further instruction by instruction.
//!
//! A step costs 30 µs where the kernel is a guest's, so a victim that only has to get somewhere is not stepped there: [`Stepped::run_to`]
//! sets a breakpoint at a [`Point`] that an earlier victim has passed, and counts. Children get the addresses that others had
//! ([`fix_addresses`]), so a point is an address.
//!
//! **If this program dies** the kernel kills what it traces (`PTRACE_O_EXITKILL`, and the death signal).

use std::{
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
};

use coheap::Segment;
use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::mark;

/// A moment in an operation: the n-th time that an instruction is the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Instructions of the operation that were done in the victim that was stepped.
    pub instruction: u64,
    /// Address of the next instruction.
    pub at: u64,
    /// How often it has been the next one.
    pub visit: u64,
}

/// An instruction that stops the process.
const BREAK: u8 = 0xcc;

/// Lets every child of this process have the same addresses.
pub fn fix_addresses() {
    use nix::sys::personality::{Persona, get, set};
    // Without, breakpoints are missed, and kills come at the operation's end.
    let _ = get().and_then(|now| set(now | Persona::ADDR_NO_RANDOMIZE));
}

/// Variable by which a victim learns which fault to have.
pub const PLANT: &str = "COHEAP_PLANT";

static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Gives the victims of this run a built-in fault.
#[cfg(feature = "planted")]
pub fn plant(name: &str) {
    PLANTED.get_or_init(|| name.to_owned());
}

/// A traced child.
pub struct Stepped {
    child: Child,
    pid: Pid,
    over: bool,
}

/// How one step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// One instruction further.
    Stepped,
    /// At the next mark.
    Mark,
    /// The process has ended, or stopped for a reason of its own.
    Other,
}

impl Stepped {
    /// Starts `role` (`--victim OP` or `--recoverer x`) on the segment; it stands at its first mark when this returns.
    pub fn start(role: &[&str], segment: &Segment) -> Result<Stepped, String> {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            segment.fd().as_raw_fd()
        );
        let child = Command::new(std::env::current_exe().map_err(|e| e.to_string())?)
            .args(role)
            .args(["--segment", &path])
            // Filling and copying by vector instructions: a `rep stos` would be a stop per byte.
            .env(
                "GLIBC_TUNABLES",
                "glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824",
            )
            .envs(
                PLANTED
                    .get()
                    .filter(|_| role[0] == "--victim")
                    .map(|name| (PLANT, name)),
            )
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| format!("starting the victim: {e}"))?;
        let pid = Pid::from_raw(child.id() as i32);
        let mut stepped = Stepped {
            child,
            pid,
            over: false,
        };
        // It stops itself once it is traced, so that options are set before it can run away.
        stepped.wait_for(Signal::SIGSTOP)?;
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).map_err(|e| e.to_string())?;
        ptrace::cont(pid, None).map_err(|e| e.to_string())?;
        stepped.wait_for(Signal::SIGILL)?;
        stepped.skip_mark()?;
        Ok(stepped)
    }

    fn wait_for(&mut self, signal: Signal) -> Result<(), String> {
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(|e| e.to_string())? {
            WaitStatus::Stopped(_, s) if s == signal => Ok(()),
            other => {
                self.over |= matches!(other, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
                Err(format!("expected {signal}, got {other:?}"))
            }
        }
    }

    fn skip_mark(&self) -> Result<(), String> {
        let mut regs = ptrace::getregs(self.pid).map_err(|e| e.to_string())?;
        regs.rip += mark::BYTES;
        ptrace::setregs(self.pid, regs).map_err(|e| e.to_string())
    }

    /// Address of the next instruction.
    pub fn at(&self) -> u64 {
        ptrace::getregs(self.pid).map_or(0, |r| r.rip)
    }

    /// The next instruction as file and line.
    pub fn place(&self) -> String {
        self.place_of(self.at())
    }

    /// An address of the stepped process as file and line, if `addr2line` is there.
    pub fn place_of(&self, at: u64) -> String {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let exe = std::env::current_exe().unwrap_or_default();
        let exe = exe.to_string_lossy();
        let mut base = None;
        for line in maps.lines() {
            let Some((from, rest)) = line.split_once('-') else {
                continue;
            };
            let (Ok(from), Ok(to)) = (
                u64::from_str_radix(from, 16),
                u64::from_str_radix(rest.split(' ').next().unwrap_or(""), 16),
            ) else {
                continue;
            };
            if line.ends_with(&*exe) {
                base.get_or_insert(from);
                if (from..to).contains(&at) {
                    break;
                }
            } else if (from..to).contains(&at) {
                return format!("in {}", line.rsplit(' ').next().unwrap_or("?"));
            }
        }
        let offset = at - base.unwrap_or(0);
        let found = Command::new("addr2line")
            .args(["-fiCe", &exe, &format!("{offset:#x}")])
            .stderr(Stdio::null())
            .output();
        let text = found.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into());
        let lines: Vec<&str> = text.lines().collect();
        let places: Vec<String> = lines
            .chunks(2)
            .filter(|c| c.len() == 2 && c[1].contains("runtime/src"))
            .take(3)
            .map(|c| {
                let file = c[1].split("runtime/src/").nth(1).unwrap_or(c[1]);
                format!("{} ({file})", c[0].rsplit("::").next().unwrap_or(c[0]))
            })
            .collect();
        if places.is_empty() {
            format!("at +{offset:#x}")
        } else {
            places.join(" < ")
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// One instruction.
    pub fn step(&mut self) -> Stop {
        if ptrace::step(self.pid, None).is_err() {
            return Stop::Other;
        }
        self.wait()
    }

    fn wait(&mut self) -> Stop {
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => Stop::Stepped,
            Ok(WaitStatus::Stopped(_, Signal::SIGILL)) => Stop::Mark,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                self.over = true;
                Stop::Other
            }
            _ => Stop::Other,
        }
    }

    /// Runs from the first mark to a point, or to the next mark.
    ///
    /// # Errors
    /// The child cannot be traced any more.
    pub fn run_to(&mut self, point: &Point) -> Result<Stop, String> {
        let mut visits = 0;
        let plain = self.peek(point.at)?;
        loop {
            // One step: off the breakpoint, or on a first one.
            let stop = self.step();
            visits += u64::from(stop == Stop::Stepped && self.at() == point.at);
            if stop != Stop::Stepped || visits == point.visit {
                return Ok(stop);
            }
            if self.at() == point.at {
                continue;
            }
            self.poke(point.at, plain & !0xff | i64::from(BREAK))?;
            ptrace::cont(self.pid, None).map_err(|e| e.to_string())?;
            let stop = self.wait();
            if stop == Stop::Other {
                return Ok(stop);
            }
            self.poke(point.at, plain)?;
            if stop == Stop::Mark {
                return Ok(stop);
            }
            self.back_to(point.at)?;
            visits += 1;
            if visits == point.visit {
                return Ok(Stop::Stepped);
            }
        }
    }

    /// Runs to the next mark.
    ///
    /// # Errors
    /// The child cannot be traced any more.
    pub fn run_to_mark(&mut self) -> Result<Stop, String> {
        ptrace::cont(self.pid, None).map_err(|e| e.to_string())?;
        Ok(self.wait())
    }

    fn peek(&self, at: u64) -> Result<i64, String> {
        ptrace::read(self.pid, at as ptrace::AddressType).map_err(|e| e.to_string())
    }

    fn poke(&self, at: u64, word: i64) -> Result<(), String> {
        ptrace::write(self.pid, at as ptrace::AddressType, word).map_err(|e| e.to_string())
    }

    /// Over the breakpoint it has run; the instruction there has not.
    fn back_to(&self, at: u64) -> Result<(), String> {
        let mut regs = ptrace::getregs(self.pid).map_err(|e| e.to_string())?;
        if regs.rip != at + 1 {
            return Err(format!("a trap at {:#x} that nobody set", regs.rip));
        }
        regs.rip = at;
        ptrace::setregs(self.pid, regs).map_err(|e| e.to_string())
    }

    /// Kills it, and waits until the kernel has marked what it held.
    pub fn kill(mut self) {
        self.end();
    }

    /// As [`Stepped::kill`], for a victim that is part of something.
    pub fn kill_in_place(&mut self) {
        self.end();
    }

    /// [`Stepped::place`] where it is wanted: it costs a process.
    pub fn place_if(&self, wanted: bool) -> String {
        if wanted { self.place() } else { String::new() }
    }

    fn end(&mut self) {
        if !self.over {
            // Gone already is as good.
            let _ = self.child.kill();
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            self.over = true;
        }
    }

    /// Lets it run to its end, over its other marks; an error if it does not end well.
    pub fn finish(&mut self, at_mark: bool) -> Result<(), String> {
        let mut skip = at_mark;
        for _ in 0..4 {
            if skip {
                self.skip_mark()?;
            }
            ptrace::cont(self.pid, None).map_err(|e| e.to_string())?;
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(|e| e.to_string())? {
                WaitStatus::Stopped(_, Signal::SIGILL) => skip = true,
                WaitStatus::Exited(_, 0) => {
                    self.over = true;
                    return Ok(());
                }
                other => {
                    self.over |= matches!(other, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
                    return Err(format!("the victim did not end well: {other:?}"));
                }
            }
        }
        Err("the victim meets too many marks".into())
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.end();
    }
}
