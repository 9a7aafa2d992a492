//! The command line of `coheapd`. Every value is optional here: [`crate::config`] decides which source wins.

use std::path::PathBuf;

/// The coheap daemon: owns a shared heap and supervises its processes.
#[derive(Clone, Debug, Default, clap::Parser)]
#[command(name = "coheapd", version, max_term_width = 100)]
pub struct Args {
    /// Name of the heap [env: COHEAP_NAME] [default: default]
    #[arg(long)]
    pub name: Option<String>,
    /// Configuration file [env: COHEAP_CONFIG] [default: $XDG_CONFIG_HOME/coheap/NAME.toml if it exists]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Hard limit of the heap, e.g. 4GiB [env: COHEAP_MEM_LIMIT]
    #[arg(long)]
    pub max: Option<String>,
    /// Soft limit: the collector works harder above it
    #[arg(long)]
    pub soft: Option<String>,
    /// Growth before the next collection, in percent; `off` for none [env: COHEAP_GC_PERCENT]
    #[arg(long)]
    pub gc_percent: Option<String>,
    /// Where the memory comes from: memfd, shm, shm:NAME or file:PATH
    #[arg(long)]
    pub backing: Option<String>,
    /// Workers to keep running
    #[arg(short = 'n', long)]
    pub workers: Option<u16>,
    /// Deaths of one step after which its task is given up; 0: never [default: 3]
    #[arg(long)]
    pub redeliver_max: Option<u32>,
    /// Do not detach from the terminal
    #[arg(long)]
    pub foreground: bool,
    /// Only check the configuration
    #[arg(short = 't', long)]
    pub test: bool,
    /// Print the configuration in effect, ready to be a configuration file
    #[arg(long)]
    pub print_config: bool,
    /// With --print-config: say where each value comes from
    #[arg(long, requires = "print_config")]
    pub origins: bool,
    /// error, warn, info, debug or trace [env: COHEAP_LOG]
    #[arg(long)]
    pub log_level: Option<String>,
    /// auto (journald prefixes under systemd, else logfmt), logfmt or journald
    #[arg(long)]
    pub log_format: Option<String>,
    /// Program to start as worker [env: COHEAP_WORKER_BIN] [default: coheap-worker beside coheapd, or in PATH]
    #[arg(long)]
    pub worker_bin: Option<PathBuf>,
    /// Time for workers to leave before they are terminated, then killed
    #[arg(long)]
    pub stop_timeout: Option<String>,
    /// Kill a worker that has been stopped or frozen for so long, by somebody else; 0s: never [default: 0s]
    #[arg(long)]
    pub suspect_timeout: Option<String>,
    /// Worker command and arguments in place of the worker program
    #[arg(last = true)]
    pub command: Vec<String>,

    /// Standard input is a socket that wants to hear when the daemon is ready
    #[arg(long, hide = true)]
    pub notify: bool,
    /// Standard input is a socket whose other end owns this daemon: when it closes, so does everything
    #[arg(long, hide = true)]
    pub owner: bool,
    /// Wait until the daemon of this name and its workers are gone, and clean up after them
    #[arg(long, hide = true)]
    pub janitor: bool,
    /// Detached by an earlier `coheapd`: make a session, log to the file
    #[arg(long, hide = true)]
    pub detached: bool,
}
