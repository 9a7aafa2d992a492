//! The lab: famous scheduler and collector bugs, shown with real processes and real shared memory, under the old rule and the new.
//!
//! A *story* ([`stories`]) is a handful of actors, each a process with a program of single steps on a few shared words. The
//! *engine* ([`engine`]) starts the processes over a heap of its own and grants one step at a time, in an order drawn from the
//! seed; after each step the story is judged. So a run is a chosen interleaving of real processes: it can be replayed from its
//! seed, printed as a time-line, and counted over many seeds.
//!
//! A violation ends the command with exit code 5 and the time-line that led to it.

mod engine;
mod stories;

use crate::failure::Failure;
use coheap_protocol::codes;

pub use engine::act;

/// Which rule a story is run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rule {
    /// The rule with the bug.
    Old,
    /// The repaired rule: coheap's.
    New,
}

/// Arguments of `coheap lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {
    /// The story, or `list`
    pub name: String,
    /// Run it under this rule
    #[arg(long, value_enum, default_value_t = Rule::New)]
    pub rule: Rule,
    /// First seed: which process takes the next step is drawn from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Interleavings to try, one seed after the other
    #[arg(long, default_value_t = 200)]
    pub runs: u64,
}

/// Arguments of the hidden `coheap lab-actor`.
#[derive(Debug, clap::Args)]
pub struct ActorArgs {
    /// The heap's descriptor, as a path
    #[arg(long)]
    pub heap: String,
    /// The story
    #[arg(long)]
    pub name: String,
    /// Which actor of it
    #[arg(long)]
    pub actor: usize,
    /// The rule
    #[arg(long, value_enum)]
    pub rule: Rule,
}

/// Runs `coheap lab`.
pub fn run(args: &LabArgs) -> Result<u8, Failure> {
    if args.name == "list" {
        for story in stories::ALL {
            println!("{:<24} {}", story.name, story.about);
        }
        return Ok(codes::OK);
    }
    let story = find(&args.name)?;
    println!("{}: {}", story.name, story.about);
    println!(
        "rule {:?}: {}",
        args.rule,
        if args.rule == Rule::Old {
            story.old
        } else {
            story.new
        }
    );
    let mut steps = 0;
    for seed in args.seed..args.seed + args.runs {
        let run = engine::play(story, args.rule, seed)?;
        steps += run.timeline.len();
        if let Some(violation) = run.violation {
            println!("seed {seed}, violation after {} steps:", run.timeline.len());
            for (i, line) in run.timeline.iter().enumerate() {
                println!("{:>4}  {line}", i + 1);
            }
            println!("      {violation}");
            let again = format!(
                "coheap lab {} --rule old --seed {seed} --runs 1, which replays it; --rule new, which does not",
                story.name
            );
            return Err(Failure::new(
                codes::VIOLATION,
                "E050",
                format!("{}: {violation}", story.name),
                again,
            ));
        }
    }
    println!("{} interleavings, {steps} steps, no violation", args.runs);
    Ok(codes::OK)
}

fn find(name: &str) -> Result<&'static stories::Story, Failure> {
    stories::ALL.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<&str> = stories::ALL.iter().map(|s| s.name).collect();
        Failure::new(
            codes::USAGE,
            "E020",
            format!("there is no story {name:?}"),
            format!("one of {}, or list", names.join(", ")),
        )
    })
}
