//! `prove`: everything on the page `tests/README.md`, from one command.
//!
//! Three parts: the explorer (every interleaving and death, within bounds), `loom` (weak memory), `shuttle` (long random schedules).
//! Each runs the code as it is, which must show nothing, and again with a rule or an order taken away (a *twin*), which must show
//! something. Prints a line per search, and exits with 5 when one of them does not end as it must.
//!
//! ```text
//! prove [--short | --long] [--all | --explore | --loom | --shuttle] [--story] [NAME [TWIN]]
//!       [--deaths=N --recoverer-deaths=N --preemptions=N --seconds=N] [--seed=N] [--sweep] [--no-twins] [--complete] [--whole]
//! ```
//! `--story` prints how each violation came about; with a scenario and bounds, one search within exactly these:
//! `--recoverer-deaths` are deaths in the middle of a recovery (of a daemon, or of who recovers in its stead), besides `--deaths` of
//! others. `--seed` is where
//! random schedules begin. `--no-twins` leaves these out; with `--complete` a search that its time limit ends is wrong, too.
//! `--whole` looks at each scenario within two deaths and one of a recoverer, and must come to the end of each that is known to have one
//! (`Whole`); `--short` does so for those that take seconds. `--sweep` takes away, one by one, every order of every word of a model of weak memory.

use std::{process::ExitCode, time::Duration};

use coheap::model::{
    Bounds, Case, OrderModel, Outcome, Report, Runs, Weakening, Whole, cases, order_models,
    schedules,
};

struct Options {
    long: bool,
    story: bool,
    scenario: Option<String>,
    twin: Option<String>,
    bounds: Option<Bounds>,
    seed: u64,
    sweep: bool,
    /// Without the twins.
    plain: bool,
    /// A search that does not come to its end is wrong, too.
    complete: bool,
    /// Only: two deaths and one of a recoverer, in full.
    whole: bool,
    /// Parts: explorer, loom, shuttle.
    parts: [bool; 3],
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.scenario.as_ref().is_none_or(|s| s == name)
    }
}

const USAGE: &str =
    "prove [--short | --long] [--all | --explore | --loom | --shuttle] [--story] [NAME [TWIN]]
      [--deaths=N --recoverer-deaths=N --preemptions=N --seconds=N] [--seed=N] [--sweep] [--no-twins] [--complete] [--whole]
";
const FLAGS: [&str; 16] = [
    "--short",
    "--long",
    "--all",
    "--explore",
    "--loom",
    "--shuttle",
    "--story",
    "--sweep",
    "--no-twins",
    "--complete",
    "--whole",
    "--deaths",
    "--recoverer-deaths",
    "--preemptions",
    "--seconds",
    "--seed",
];

/// What makes no sense on the command line: a flag that is none, a name that nothing has.
fn nonsense(args: &[String]) -> Option<&String> {
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    names.extend(order_models().iter().map(|model| model.name));
    names.extend(schedules().iter().map(|workload| workload.name));
    let flag = |arg: &&String| {
        let name = arg.split('=').next().unwrap_or_default();
        !FLAGS.contains(&name)
    };
    let (flags, words): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with("--"));
    let unknown = words
        .into_iter()
        .take(1)
        .find(|word| !names.contains(&word.as_str()));
    flags.into_iter().find(flag).or(unknown)
}

fn options(args: &[String]) -> Options {
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let number = |flag: &str| {
        let text = args.iter().find_map(|a| a.strip_prefix(flag))?;
        text.parse::<u32>().ok()
    };
    let mut names = args.iter().filter(|a| !a.starts_with("--")).cloned();
    let bounds = number("--deaths=").map(|deaths| Bounds {
        deaths,
        recoverer_deaths: number("--recoverer-deaths="),
        preemptions: number("--preemptions="),
        patience: Duration::from_secs(number("--seconds=").unwrap_or(60).into()),
    });
    let mut parts = [has("--explore"), has("--loom"), has("--shuttle")];
    if has("--all") || parts == [false; 3] {
        parts = [true; 3];
    }
    Options {
        seed: number("--seed=").map_or(1, u64::from),
        sweep: has("--sweep"),
        plain: has("--no-twins"),
        complete: has("--complete"),
        whole: has("--whole"),
        parts,
        long: has("--long"),
        story: has("--story"),
        scenario: names.next(),
        twin: names.next(),
        bounds,
    }
}

fn print(case: &Case, twin: &str, report: &Report, story: bool) {
    let verdict = report
        .violation
        .as_ref()
        .map_or("holds", |v| v.what.as_str());
    println!(
        "{:<12} {:<27} {:>9} states {:>9} executions {:>7} judged {:>6} replays {:>6.1} s  {:<12} {verdict}",
        case.name,
        twin,
        report.states,
        report.executions,
        report.judged,
        report.replays,
        report.took.as_secs_f64(),
        report.reach(),
    );
    for line in report
        .violation
        .iter()
        .filter(|_| story)
        .flat_map(|v| &v.story)
    {
        println!("    {line}");
    }
}

/// The models of weak memory. Returns how many did not end as they must.
fn weak_memory(options: &Options) -> u32 {
    println!("model        order taken away              ... words in loom's hands, executions");
    let patience = Duration::from_secs(if options.long { 600 } else { 20 });
    let mut wrong = 0;
    for model in order_models() {
        if !options.wants(model.name) {
            continue;
        }
        let preemptions = model
            .preemptions
            .map(|p| if options.long { p + 1 } else { p });
        let run = |weak| model.run(preemptions, patience, weak);
        let whole = run(None);
        wrong += u32::from(whole.violation.is_some());
        print_order(&model, "", &whole, true);
        for twin in &model.twins {
            let outcome = run(Some(*twin));
            wrong += u32::from(outcome.violation.is_none());
            print_order(&model, &twin.to_string(), &outcome, options.story);
        }
        for words in whole.words.iter().filter(|_| options.sweep) {
            let words: &'static str = Box::leak(words.clone().into_boxed_str());
            for only_seq_cst in [false, true] {
                let weak = Weakening {
                    words,
                    only_seq_cst,
                };
                print_order(
                    &model,
                    &format!("({weak})"),
                    &run(Some(weak)),
                    options.story,
                );
            }
        }
    }
    wrong
}

fn print_order(model: &OrderModel, twin: &str, outcome: &Outcome, story: bool) {
    let verdict = match &outcome.violation {
        Some(what) => what,
        None if outcome.complete => "holds",
        None => "holds as far as it got",
    };
    println!(
        "{:<12} {:<30} {:>3} words {:>8} executions {:>6.1} s  {verdict}",
        model.name,
        twin,
        outcome.words.len(),
        outcome.executions,
        outcome.took.as_secs_f64(),
    );
    for line in outcome.story.iter().filter(|_| story) {
        println!("    {line}");
    }
}

/// Random schedules. Returns how many searches did not end as they must.
fn random(options: &Options) -> u32 {
    println!("workload     rule taken away             ... runs, switch points");
    let seconds = if options.long { 600 } else { 5 };
    let mut wrong = 0;
    for work in schedules() {
        if !options.wants(work.name) {
            continue;
        }
        for twin in std::iter::once(&"").chain(work.twins) {
            let patience = if twin.is_empty() { seconds } else { 60 };
            let runs = work.search(options.seed, Duration::from_secs(patience), twin);
            wrong += u32::from(runs.violation.is_some() == twin.is_empty());
            print_runs(work.name, twin, &runs, options.story);
        }
    }
    wrong
}

fn print_runs(name: &str, twin: &str, runs: &Runs, story: bool) {
    let verdict = match &runs.violation {
        None => "holds".to_owned(),
        Some((seed, what)) => format!("seed {seed}: {what}"),
    };
    println!(
        "{name:<12} {twin:<27} {:>7} runs {:>10} switch points {:>6.1} s  {verdict}",
        runs.runs,
        runs.steps,
        runs.took.as_secs_f64(),
    );
    for line in runs.story.iter().filter(|_| story) {
        println!("    {line}");
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if let Some(word) = nonsense(&args) {
        eprint!("prove: `{word}` is neither a flag nor a name of a search\n{USAGE}");
        return ExitCode::from(2);
    }
    let options = options(&args);
    // A panic inside a scenario is a finding, and told as one; one of the explorer itself is not.
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or_default();
        if what.starts_with("a fault of the explorer") {
            eprintln!("{panic}");
        }
    }));
    let parts: [fn(&Options) -> u32; 3] = [explore, weak_memory, random];
    let wrong: u32 = parts
        .iter()
        .zip(options.parts)
        .filter(|(_, wanted)| *wanted)
        .map(|(part, _)| part(&options))
        .sum();
    if wrong == 0 {
        println!("all as it must be");
        ExitCode::SUCCESS
    } else {
        println!("{wrong} searches did not end as they must");
        ExitCode::from(5)
    }
}

/// The explorer's scenarios. Returns how many searches did not end as they must.
fn explore(options: &Options) -> u32 {
    println!(
        "scenario     twin (rule taken away)       ... reach: deaths+preemptions looked at in full"
    );
    let mut wrong = 0;
    for case in cases() {
        if !options.wants(case.name) {
            continue;
        }
        if options.twin.is_none() && options.bounds.is_none() {
            wrong += in_full(&case, options);
        }
        if options.whole {
            continue;
        }
        if options.twin.is_none() {
            let bounds = if options.long { case.long } else { case.short };
            let report = match options.bounds {
                Some(bounds) => case.search(bounds, ""),
                None => case.run(bounds, ""),
            };
            let cut_short = options.complete && !report.complete;
            wrong += u32::from(report.violation.is_some() || cut_short);
            print(
                &case,
                "",
                &report,
                options.story || report.violation.is_some(),
            );
        }
        // A switch that the scenario does not promise to catch: tried as asked, and not held against it.
        if let (Some(name), Some(bounds)) = (&options.twin, options.bounds)
            && !case.twins.iter().any(|t| t.name == name)
        {
            let name: &'static str = Box::leak(name.clone().into_boxed_str());
            let report = case.search(bounds, name);
            print(&case, name, &report, options.story);
        }
        for twin in case.twins.iter().filter(|_| !options.plain) {
            if options.twin.as_ref().is_some_and(|t| t != twin.name) {
                continue;
            }
            let report = case.search(options.bounds.unwrap_or(twin.bounds), twin.name);
            if report.violation.is_none() {
                wrong += 1;
            }
            print(&case, twin.name, &report, options.story);
        }
    }
    wrong
}

/// Two deaths and one of a recoverer, in full, where that is the place for it. Returns 1 if it does not end as it must.
fn in_full(case: &Case, options: &Options) -> u32 {
    let seconds = match case.whole {
        Whole::InCi if !options.long => 120,
        Whole::InCi | Whole::AtNight if options.whole => 1200,
        _ => return 0,
    };
    let report = case.search(Whole::bounds(Duration::from_secs(seconds)), "");
    print(case, "(two deaths, a recoverer's)", &report, options.story);
    u32::from(report.violation.is_some() || !report.complete)
}
