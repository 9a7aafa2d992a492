//! The subcommands.

mod doctor;
mod help;
mod lifecycle;
mod logs;
mod orders;
mod query;
mod report;
mod roots;
mod run;
mod stat;
mod tables;
mod top;
mod trace;
mod up;

use crate::{
    args::{Args, Command, ConfigAction, RootsAction, TraceFormat, TracePart},
    failure::Failure,
};
use coheap_protocol::{Request, SignalKind};

/// Does what was asked for; the exit code.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let global = &args.global;
    match &args.command {
        Command::Start {
            workers,
            wait,
            heap,
        } => lifecycle::start(global, *workers, *wait, heap),
        Command::Stop { p: Some(p), .. } => orders::signal(global, *p, SignalKind::Stop),
        Command::Stop { p: None, mode } => lifecycle::stop(global, *mode),
        Command::Restart { mode, heap } => lifecycle::restart(global, *mode, heap),
        Command::Status => query::status(global),
        Command::Ps => query::ps(global),
        Command::Ls => query::ls(global),
        Command::Spawn { n } => orders::order(global, &Request::Spawn { n: *n }),
        Command::Resize { n } => orders::order(global, &Request::Resize { n: *n }),
        Command::Lab(lab) => crate::lab::run(lab),
        Command::LabActor(actor) => crate::lab::act(actor),
        Command::Step(step) => crate::step::run(global, step),
        #[cfg(feature = "failpoints")]
        Command::StepActor(actor) => crate::step::act(actor),
        Command::Run(run) => run::run(global, run),
        Command::Up {
            workers,
            heap,
            command,
        } => up::up(global, *workers, heap, command),
        Command::Gc { wait } => orders::order(global, &Request::Gc { wait: *wait }),
        Command::Verify { deep } => orders::verify(global, *deep),
        Command::Kill { p } => orders::signal(global, *p, SignalKind::Kill),
        Command::Cont { p } => orders::signal(global, *p, SignalKind::Cont),
        Command::Tasks => query::tasks(global),
        Command::Dead => tables::dead(global),
        Command::Slots => tables::slots(global),
        Command::Roots {
            action: Some(RootsAction::Drop { root }),
            ..
        } => roots::drop_one(global, root),
        Command::Roots { sizes: true, .. } => roots::sizes(global),
        Command::Roots { .. } => roots::list(global),
        Command::Histo => tables::histo(global),
        Command::Stat {
            interval,
            count,
            classes,
            prometheus,
        } => {
            let wanted = stat::Wanted {
                interval: *interval,
                count: *count,
                classes: *classes,
                prometheus: *prometheus,
            };
            stat::stat(global, &wanted)
        }
        Command::Top { interval, count } => top::top(global, *interval, *count),
        Command::Logs { follow } => logs::logs(global, *follow),
        Command::Events { follow, kind } => logs::events(global, *follow, kind.as_deref()),
        Command::Trace {
            part:
                TracePart::Last {
                    window,
                    out,
                    format: TraceFormat::Chrome,
                },
        } => trace::last(global, *window, out.as_deref()),
        Command::Reload => orders::reload(global),
        Command::Doctor => doctor::doctor(global),
        Command::Config {
            action: ConfigAction::Show { origin },
        } => query::config(global, *origin),
        Command::Version => help::version(global),
        Command::Completions { shell } => help::completions(*shell),
        Command::Man { dir } => help::man(dir),
    }
}
