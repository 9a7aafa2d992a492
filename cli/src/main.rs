//! `coheap`: the one command people type.
//!
//! Each subcommand is a page under [`commands`]; [`connect`] finds the daemon, [`private`] starts one that lives and dies
//! with this command, [`show`] turns rows into columns or JSON.
//!
//! Standard output carries results only: a table or text for people, JSON with `--json`. Progress and complaints go to
//! standard error. A command that fails prints exactly one line there, `coheap: error[E0xx]: what; try: ...`, and ends
//! with the code of [`coheap_protocol::codes`] that says why.

mod args;
mod commands;
mod connect;
mod failure;
mod interrupt;
mod lab;
mod private;
mod show;
mod step;

use args::Args;
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            show::print(&error.render().to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let failure = Failure::usage(&error);
            show::complain(&failure.line());
            return ExitCode::from(failure.code);
        }
    };
    match commands::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            show::complain(&failure.line());
            ExitCode::from(failure.code)
        }
    }
}
