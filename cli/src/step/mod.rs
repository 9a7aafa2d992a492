//! `coheap step`: an interleaving walked by hand, over the product's own code.
//!
//! Where the lab ([`crate::lab`]) plays stories with words of their own, the actors here are P's of a real heap and their points are
//! the runtime's failpoints: the named steps of its protocols. Each *actor* ([`actor`]) is a process that does one operation at a
//! time and asks at every point whether it may go on. The *director* ([`director`]) answers, after the lines of a *script*
//! ([`script`]), and shows the words that matter after each. So nothing moves but what a line lets move.
//!
//! **Points cost time**, so an ordinary build has none: there the command reads and checks scripts, and says how to build the other
//! one. **Rejected:** breakpoints set by `ptrace` on a no-op at each point. They would work in any build, but there a rule could not
//! be taken away, and the order that had the bug is what a reader wants to walk.

#[cfg(feature = "failpoints")]
mod actor;
#[cfg(feature = "failpoints")]
mod director;
mod script;

use crate::{args::Global, failure::Failure, show};
use coheap_protocol::{codes, human};
use script::Line;
use std::{
    io::{BufRead, IsTerminal},
    time::Duration,
};

#[cfg(feature = "failpoints")]
pub use actor::{StepActorArgs, act};

/// The scripts that come with the command, by name.
const SHIPPED: &[(&str, &str)] = &[
    (
        "attach-before-park-old",
        include_str!("../../steps/attach-before-park-old.step"),
    ),
    (
        "attach-before-park-new",
        include_str!("../../steps/attach-before-park-new.step"),
    ),
    (
        "two-for-one-slot",
        include_str!("../../steps/two-for-one-slot.step"),
    ),
    (
        "death-in-the-barrier",
        include_str!("../../steps/death-in-the-barrier.step"),
    ),
];

/// Arguments of `coheap step`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = script::HELP)]
pub struct StepArgs {
    /// A file, or one of those that `--list` names; without it lines are read from standard input
    pub script: Option<String>,
    /// List the scripts that come with the command
    #[arg(long)]
    pub list: bool,
    /// Print the script instead of playing it
    #[arg(long)]
    pub print: bool,
    /// After a violation go on; the command still ends with 5
    #[arg(long)]
    pub go_on: bool,
    /// How long an operation may take until it ends or stands at a point
    #[arg(long, default_value = "5s", value_parser = human::duration)]
    pub patience: Duration,
}

/// Runs `coheap step`.
pub fn run(global: &Global, args: &StepArgs) -> Result<u8, Failure> {
    if args.list {
        for (name, text) in SHIPPED {
            let about = text.lines().next().unwrap_or("").trim_start_matches('#');
            show::print(&format!("{name:<24}{about}\n"));
        }
        return Ok(codes::OK);
    }
    let Some(name) = &args.script else {
        return by_hand(global, args);
    };
    let text = find(name)?;
    if args.print {
        show::print(&text);
        return Ok(codes::OK);
    }
    let lines = script::parse(&text).map_err(|(number, what)| bad_line(name, number, &what))?;
    play(global, args, name, &lines)
}

fn find(name: &str) -> Result<String, Failure> {
    if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
        return Ok((*text).to_owned());
    }
    std::fs::read_to_string(name).map_err(|e| {
        Failure::new(
            codes::USAGE,
            "E020",
            format!("{name}: {e}"),
            "coheap step --list, or the path of a script",
        )
    })
}

fn bad_line(name: &str, number: usize, what: &str) -> Failure {
    Failure::new(
        codes::USAGE,
        "E020",
        format!("{name}, line {number}: {what}"),
        "coheap step --help, which lists the commands",
    )
}

/// Plays a script that has been read to its end.
#[cfg(feature = "failpoints")]
fn play(
    global: &Global,
    args: &StepArgs,
    name: &str,
    lines: &[(usize, Line)],
) -> Result<u8, Failure> {
    let mut director = director::Director::new(global, args, name)?;
    for (number, line) in lines {
        director.follow(*number, line)?;
    }
    director.end()
}

/// Plays lines as they come. On a terminal a bad one is only said; elsewhere it ends the command, as in a script.
#[cfg(feature = "failpoints")]
fn by_hand(global: &Global, args: &StepArgs) -> Result<u8, Failure> {
    const NAME: &str = "standard input";
    let forgiving = std::io::stdin().is_terminal();
    let mut director = director::Director::new(global, args, NAME)?;
    let prompt = || {
        if forgiving {
            eprint!("step> ");
        }
    };
    prompt();
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(Failure::io("reading a line"))?;
        let done = match script::parse_line(&line) {
            Ok(None) => Ok(()),
            Ok(Some(line)) => director.follow(number, &line),
            Err(what) => Err(bad_line(NAME, number, &what)),
        };
        match done {
            Err(failure) if forgiving => show::complain(&failure.line()),
            done => done?,
        }
        prompt();
    }
    director.end()
}

#[cfg(not(feature = "failpoints"))]
fn play(_: &Global, _: &StepArgs, _: &str, _: &[(usize, Line)]) -> Result<u8, Failure> {
    Err(no_points())
}

#[cfg(not(feature = "failpoints"))]
fn by_hand(_: &Global, _: &StepArgs) -> Result<u8, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(no_points());
    }
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(Failure::io("reading a line"))?;
        script::parse_line(&line).map_err(|what| bad_line("standard input", number, &what))?;
    }
    Err(no_points())
}

#[cfg(not(feature = "failpoints"))]
fn no_points() -> Failure {
    Failure::new(
        codes::FAILED,
        "E032",
        "this coheap was built without named points, which would cost it time",
        "cargo run --release -p coheap-cli --features failpoints -- step ...",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_script_can_be_read_and_says_what_it_shows() {
        for (name, text) in SHIPPED {
            let lines = script::parse(text).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert!(lines.len() > 3, "{name}");
            assert!(text.starts_with("# "), "{name}");
        }
    }
}
