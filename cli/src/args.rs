//! The command line of `coheap`.

use coheap_protocol::human;
use std::{path::PathBuf, time::Duration};

/// A garbage-collected heap that several processes share, and that kill -9 cannot break.
#[derive(Debug, clap::Parser)]
#[command(
    name = "coheap",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Name of the heap [default: default]
    #[arg(long, global = true, env = "COHEAP_NAME", hide_env_values = true)]
    pub name: Option<String>,
    /// Control socket, instead of the one the name leads to
    #[arg(long, global = true, env = "COHEAP_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Write JSON: one object, or one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice: even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colours on the terminal
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// How long to wait for an answer
    #[arg(long, global = true, default_value = "30s", value_parser = human::duration)]
    pub timeout: Duration,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Even into a file.
    Always,
    /// Never.
    Never,
}

/// Options of a heap that is to be made.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HeapOptions {
    /// Hard limit of the heap, e.g. 4GiB
    #[arg(long, value_parser = size)]
    pub max: Option<String>,
    /// Where its memory comes from: memfd, shm, shm:NAME or file:PATH
    #[arg(long)]
    pub backing: Option<String>,
    /// Growth before the next collection, in percent, or `off`
    #[arg(long)]
    pub gc_percent: Option<String>,
}

fn size(text: &str) -> Result<String, human::Unreadable> {
    human::bytes(text).map(|_| text.to_owned())
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// When all work is done.
    Smart,
    /// When the workers have given their P's back.
    Fast,
    /// Now.
    Immediate,
}

impl From<Mode> for coheap_protocol::StopMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Smart => coheap_protocol::StopMode::Smart,
            Mode::Fast => coheap_protocol::StopMode::Fast,
            Mode::Immediate => coheap_protocol::StopMode::Immediate,
        }
    }
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a daemon in the background
    Start {
        /// Workers to keep; without it those of the configuration, or of the heap that is taken over
        #[arg(short = 'n', long)]
        workers: Option<u16>,
        /// Wait until all workers are attached
        #[arg(short, long)]
        wait: bool,
        /// The heap.
        #[command(flatten)]
        heap: HeapOptions,
    },
    /// Stop a daemon, or with a P: SIGSTOP its process
    Stop {
        /// Stop only the process of this P
        p: Option<u16>,
        /// How
        #[arg(long, value_enum, default_value_t = Mode::Fast, conflicts_with = "p")]
        mode: Mode,
    },
    /// Stop a daemon and start it again with as many workers
    Restart {
        /// How to stop
        #[arg(long, value_enum, default_value_t = Mode::Fast)]
        mode: Mode,
        /// The heap.
        #[command(flatten)]
        heap: HeapOptions,
    },
    /// Show a daemon in numbers; ends with 3 if there is none
    Status,
    /// List the processes of a heap
    Ps,
    /// List the heaps of this user
    Ls,
    /// Start more workers
    Spawn {
        /// How many more
        n: u16,
    },
    /// Make it that many workers
    Resize {
        /// How many
        n: u16,
    },
    /// Show a famous scheduler or collector bug with real processes, under the old rule and the new (`lab list`)
    Lab(crate::lab::LabArgs),
    /// One process of a lab story
    #[command(hide = true)]
    LabActor(crate::lab::ActorArgs),
    /// Walk an interleaving by hand: hold and release named points of the runtime in real processes, from a script
    Step(crate::step::StepArgs),
    /// One process of a script
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    StepActor(crate::step::StepActorArgs),
    /// Run a workload in a heap of its own, or in that of --name
    Run(RunArgs),
    /// Run a daemon and N copies of a command until they end
    Up {
        /// Copies of the command
        #[arg(short = 'n', long, default_value_t = 2)]
        workers: u16,
        /// The heap.
        #[command(flatten)]
        heap: HeapOptions,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Collect garbage
    Gc {
        /// Return when a whole collection is over
        #[arg(long)]
        wait: bool,
    },
    /// Check the heap's invariants; ends with 5 if one is violated
    Verify {
        /// Stop the world and follow every reference
        #[arg(long)]
        deep: bool,
    },
    /// SIGKILL the process of a P
    Kill {
        /// The P
        p: u16,
    },
    /// SIGCONT the process of a P
    Cont {
        /// The P
        p: u16,
    },
    /// List unfinished tasks
    Tasks,
    /// List the processes that died
    Dead,
    /// List the slots of the mark workers: who is where, who moved
    Slots,
    /// List the named roots, what each keeps alive, or drop one
    #[command(args_conflicts_with_subcommands = true)]
    Roots {
        /// Walk the heap and show what each root keeps alive: what dropping it would free. The collector waits meanwhile
        #[arg(long)]
        sizes: bool,
        /// What to do, instead of listing.
        #[command(subcommand)]
        action: Option<RootsAction>,
    },
    /// Show what the heap is made of, by shape of its objects
    Histo,
    /// Show numbers of the heap, one line a second
    Stat {
        /// Time between two lines
        #[arg(long, default_value = "1s", value_parser = human::duration)]
        interval: Duration,
        /// Lines to show; without it until Ctrl-C
        #[arg(long)]
        count: Option<u64>,
        /// A table of size classes instead
        #[arg(long, conflicts_with = "prometheus")]
        classes: bool,
        /// Metrics in Prometheus' text format instead
        #[arg(long)]
        prometheus: bool,
    },
    /// Show the heap and its P's on a screen that refreshes itself, until Ctrl-C
    Top {
        /// Time between two pictures
        #[arg(long, default_value = "1s", value_parser = human::duration)]
        interval: Duration,
        /// Pictures to show; without it until Ctrl-C
        #[arg(long)]
        count: Option<u64>,
    },
    /// Show the daemon's log
    Logs {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Show the events in the daemon's log; with --json as objects
    Events {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only events that begin so, e.g. proc.dead,run
        #[arg(long)]
        kind: Option<String>,
    },
    /// Export what the P's did
    Trace {
        /// Which part.
        #[command(subcommand)]
        part: TracePart,
    },
    /// Read the configuration file again
    Reload,
    /// Look for what could go wrong; ends with 5 if it finds something
    Doctor,
    /// Show the configuration
    Config {
        /// What to do with it
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Show versions
    Version,
    /// Write a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory
    Man {
        /// The directory
        dir: PathBuf,
    },
}

/// Which part of the flight recorders.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TracePart {
    /// The last stretch of time
    Last {
        /// How long, e.g. 5s
        #[arg(value_parser = human::duration)]
        window: Duration,
        /// Write it here instead of standard output
        #[arg(short, long)]
        out: Option<PathBuf>,
        /// The format: for ui.perfetto.dev and chrome://tracing
        #[arg(long, value_enum, default_value_t = TraceFormat::Chrome)]
        format: TraceFormat,
    },
}

/// Format of an exported trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceFormat {
    /// JSON trace events.
    Chrome,
}

/// What to do with a named root.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RootsAction {
    /// Set a root to nil: what it alone keeps alive is garbage from now on
    Drop {
        /// The root, as `coheap roots` names it
        root: String,
    },
}

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub enum ConfigAction {
    /// Print it: the running daemon's, or what a new one would use
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

/// A run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// What to run.
    #[command(subcommand)]
    pub workload: WorkloadArgs,
}

/// Options of every run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// Workers
    #[arg(short = 'n', long, default_value_t = 4)]
    pub workers: u16,
    /// The heap.
    #[command(flatten)]
    pub heap: HeapOptions,
    /// Deaths of one step that give its task up [default: 3, and 1000 with --kill-storm]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub redeliver_max: Option<u32>,
    /// SIGKILL a random worker this often, e.g. 200ms
    #[arg(long, value_parser = human::duration)]
    pub kill_storm: Option<Duration>,
    /// SIGSTOP a random worker this often, for half that time
    #[arg(long, value_parser = human::duration)]
    pub stop_storm: Option<Duration>,
    /// SIGKILL the daemon this often and start it again
    #[arg(long, value_parser = human::duration)]
    pub restart_daemon: Option<Duration>,
    /// Hand the mark workers on to another process after every slice of marking and every change of phase
    #[arg(long)]
    pub migrate_every: bool,
    /// Seed of everything random
    #[arg(long, env = "COHEAP_SEED")]
    pub seed: Option<u64>,
}

/// The workloads.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum WorkloadArgs {
    /// Index every file below a directory: words, links, posting lists
    Index {
        /// The directory
        dir: PathBuf,
        /// Write the full word list here
        #[arg(long)]
        out: Option<PathBuf>,
        /// Options of every run.
        #[command(flatten)]
        options: RunOptions,
    },
    /// Binary trees with the published check values
    Trees {
        /// Depth of the deepest tree
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=26))]
        depth: u32,
        /// Options of every run.
        #[command(flatten)]
        options: RunOptions,
    },
    /// Boehm's GCBench
    Gcbench {
        /// Levels less than the original, 0 to 12: for quick tests
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=12))]
        smaller: u32,
        /// Options of every run.
        #[command(flatten)]
        options: RunOptions,
    },
}

impl WorkloadArgs {
    /// Options of every run.
    pub fn options(&self) -> &RunOptions {
        match self {
            WorkloadArgs::Index { options, .. }
            | WorkloadArgs::Trees { options, .. }
            | WorkloadArgs::Gcbench { options, .. } => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_lines_people_type_are_understood() {
        for line in [
            "coheap start -w -n 4 --max 4GiB",
            "coheap --name demo stop --mode immediate",
            "coheap stop 2",
            "coheap run index /usr/share/doc -n 4 --kill-storm 200ms --seed 7 --json",
            "coheap run trees --depth 12 --backing shm:x --restart-daemon 2s --migrate-every",
            "coheap up -n 3 -- indexer --heap demo",
            "coheap config show --origin",
            "coheap trace last 5s -o f --format chrome",
            "coheap stat --interval 200ms --count 3",
            "coheap events -f --kind proc.dead",
            "coheap step attach-before-park-old --go-on --patience 1s",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "coheap run index",
            "coheap start --max lots",
            "coheap up -n 3",
            "coheap run trees --depth 99",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
