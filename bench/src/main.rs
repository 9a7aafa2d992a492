//! Programs that measure coheap, one a subcommand, each printing one JSON line; `compare` runs them beside their peers.
//!
//! ```text
//! bench scope | alloc | mark | sched | trees | gcbench | recover | pause | threadtest | larson | sh6bench | handoff | map | index | scale
//! bench counts [--update]                      instructions of the hot paths, compared with `counts.toml`
//! bench compare [--runs N] [--out FILE]        Markdown: ours and every peer that is installed, pair by pair
//! ```
//! Figures are for comparing within one run; the machine's own noise is larger than most differences.

mod alloc;
mod compare;
mod counts;
mod handoff;
mod heap;
mod histogram;
mod index;
mod larson;
mod map;
mod mark;
mod pause;
mod recover;
mod scale;
mod sched;
mod scope;
mod sh6bench;
mod threadtest;
mod whole;

use heap::Flags;

fn main() {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let flags = Flags::new(args.collect());
    let result = match command.as_str() {
        "child" => heap::child(&flags),
        "recover-survivor" => recover::survivor(&flags),
        "recover-victim" => recover::victim(&flags),
        "recover" => recover::run(&flags),
        "pause" => pause::run(&flags),
        "threadtest" => threadtest::run(&flags),
        "map" => map::run(&flags),
        "scope" => scope::run(&flags),
        "alloc" => alloc::run(&flags),
        "mark" => mark::run(&flags),
        "sched" => sched::run(&flags),
        "trees" => whole::trees(&flags),
        "gcbench" => whole::gcbench(&flags),
        "index" => index::run(&flags),
        "index-plain" => index::plain(&flags),
        "handoff" => handoff::run(&flags),
        "handoff-child" => handoff::child(&flags),
        "larson" => larson::run(&flags),
        "sh6bench" => sh6bench::run(&flags),
        "counts" => counts::run(&flags),
        "counts-child" => counts::child(&flags),
        "scale" => scale::run(&flags),
        "compare" => compare::run(&flags),
        _ => {
            eprintln!(
                "usage: bench scope | alloc | mark | sched | trees | gcbench | recover | pause | threadtest | larson | sh6bench | handoff | map | index | scale | counts | compare, with [--flag value]..."
            );
            std::process::exit(2);
        }
    };
    if let Err(e) = result {
        eprintln!("bench: {e}");
        std::process::exit(1);
    }
}
