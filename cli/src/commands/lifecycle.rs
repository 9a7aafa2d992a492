//! Start, stop, restart.

use crate::{
    args::{Global, HeapOptions, Mode},
    connect,
    failure::Failure,
    private, show,
};
use coheap_protocol::{Reply, Request, Status, codes};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Starts a daemon in the background. The daemon's own starter says what is wrong, if something is.
pub fn start(
    global: &Global,
    workers: Option<u16>,
    wait: bool,
    heap: &HeapOptions,
) -> Result<u8, Failure> {
    let program = private::find_daemon();
    let mut command = Command::new(&program);
    command.args(["--name", connect::name(global)?.as_str()]);
    if let Some(workers) = workers {
        command.args(["--workers", &workers.to_string()]);
    }
    command.args(private::heap_flags(heap)).stdin(Stdio::null());
    if global.quiet || global.json {
        command.stdout(Stdio::null());
    }
    let status = command
        .status()
        .map_err(|e| private::not_started(&program, &e))?;
    if !status.success() {
        return private::code_of(&program, status);
    }
    if wait {
        wait_for_workers(global)?;
    }
    if global.json {
        show::json(&status_of(global)?);
    }
    Ok(codes::OK)
}

fn status_of(global: &Global) -> Result<Status, Failure> {
    let rows = connect::once(global, &Request::Status)?;
    let status = connect::only(rows, |row| match row {
        Reply::Status(status) => Some(*status),
        _ => None,
    });
    connect::one(status)
}

fn wait_for_workers(global: &Global) -> Result<(), Failure> {
    let deadline = Instant::now() + global.timeout;
    loop {
        let status = status_of(global)?;
        if status.workers_attached >= status.workers_wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = format!(
                "{} of {} workers attached in {:?}",
                status.workers_attached, status.workers_wanted, global.timeout
            );
            return Err(Failure::new(
                codes::TIMEOUT,
                "E091",
                what,
                "coheap ps, and a longer --timeout",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Stops the daemon and waits until nothing is left of it.
pub fn stop(global: &Global, mode: Mode) -> Result<u8, Failure> {
    let name = connect::dir(global)?.name().clone();
    let channel = connect::tool(global)?;
    // Asked while it lives: the pidfd pins its process, whoever gets the number afterwards.
    let daemon = channel.socket().peer()?;
    connect::ask(
        &channel,
        &Request::Stop { mode: mode.into() },
        global.timeout,
    )?;
    // Its files are gone; its process follows, and takes the last mapping of the heap along.
    if let Some(pidfd) = daemon.pidfd {
        wait_for_end(&pidfd, global.timeout);
    }
    if !global.quiet && !global.json {
        show::print(&format!("coheapd: stopped name={}\n", name));
    }
    Ok(codes::OK)
}

fn wait_for_end(pidfd: &OwnedFd, patience: Duration) {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // Its answer said that nothing is left but the process itself; a poll that fails changes nothing about that.
    let _ = poll(
        &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
        timeout,
    );
}

/// Stops the daemon and starts it with as many workers as it had.
pub fn restart(global: &Global, mode: Mode, heap: &HeapOptions) -> Result<u8, Failure> {
    let status = status_of(global)?;
    stop(global, mode)?;
    let workers = u16::try_from(status.workers_wanted).unwrap_or(u16::MAX);
    start(global, Some(workers), true, heap)
}
