//! The coheap daemon: it owns the segment, starts the workers, and watches.
//!
//! It never reads or writes object memory. It makes the segment, hands its descriptor out, moves the words that belong to
//! dead processes (through `coheap::recover`), and answers questions with the segment's counters. A workload is started
//! and its result read by workers, on order ([`runs`]).
//!
//! # One thread decides
//! [`server`] is a poll loop, with [`connections`], [`deaths`] and [`ending`] as its other pages. All state of the daemon belongs to its thread; the others only send it [`events`]:
//! the thread of ctrlc (a stop was asked for), the thread that watches life words (a P died and was recovered), and the
//! thread of sysmon (which sends nothing). Children are started from the poll loop's thread only, never by a bare fork.
//!
//! # What a death of the daemon leaves
//! The lock is released by the kernel; the socket file, pid file and `state.toml` stay; the workers go on, since
//! collection, scheduling and recovery live in the library, and knock at the socket until somebody answers. The next
//! daemon reads `state.toml`, takes the descriptor from the first worker that comes ([`adopt`]) and goes on.
//! If `coheap run` or `coheap up` started it, it ends with them: its first connection is their end of a socket pair,
//! and the kernel closes that whatever happens to them. When the workers are killed as well, the [`janitor`] removes the files.
//!
//! # Modules
//! [`args`] and [`config`] say what is wanted; [`background`] detaches; [`logging`] writes logfmt; [`heap`] is everything
//! the daemon does with the segment; [`workers`] and [`restart`] keep the processes; [`tools`] answers people;
//! [`storm`] kills on order.

pub mod adopt;
pub mod args;
pub mod background;
pub mod config;
pub mod connections;
pub mod deaths;
pub mod ending;
pub mod error;
pub mod events;
pub mod heap;
pub mod janitor;
pub mod logging;
pub mod notify;
pub mod outbox;
pub mod reload;
pub mod restart;
pub mod runs;
pub mod server;
pub mod session;
pub mod state;
pub mod stop;
pub mod storm;
pub mod suspects;
pub mod tools;
pub mod workers;

use args::Args;
use background::Notify;
use config::Config;
use error::DaemonError;

/// Does what the command line says; the exit code when that is all.
pub fn main(args: &Args) -> Result<u8, DaemonError> {
    if args.janitor {
        let config = Config::resolve(args, &|name| std::env::var_os(name))?;
        janitor::wait_and_clean(&config.name.value);
        return Ok(0);
    }
    let mut notify = Notify::take(args)?;
    match run(args, &mut notify) {
        // Whoever started the daemon was told, and prints it.
        Err(error) if notify.failed(&error) => Ok(error.exit_code()),
        other => other,
    }
}

fn run(args: &Args, notify: &mut Notify) -> Result<u8, DaemonError> {
    let config = Config::resolve(args, &|name| std::env::var_os(name))?;
    if args.print_config {
        logging::print(&config.to_toml(args.origins));
        return Ok(0);
    }
    if args.test {
        logging::print(&format!(
            "coheapd: the configuration of `{}` is fine\n",
            config.name.value
        ));
        return Ok(0);
    }
    if args.foreground {
        server::serve(args, config, notify)
    } else {
        background::start(&config)
    }
}
