//! `prove`: everything on the page `tests/README.md`, from one command.
//!
//! For each scenario: one search of the code as it is, which must find nothing, and one for each of its twins (a rule taken away),
//! which must find a violation. Prints a line per search, and exits with 5 when one of them does not end as it must.
//!
//! ```text
//! prove [--short | --long] [--story] [SCENARIO [TWIN]] [--deaths=N --preemptions=N --seconds=N]
//! ```
//! `--story` prints how each violation came about; with a scenario and bounds, one search within exactly these.

use std::{process::ExitCode, time::Duration};

use coheap::model::{Bounds, Case, Report, cases};

struct Options {
    long: bool,
    story: bool,
    scenario: Option<String>,
    twin: Option<String>,
    bounds: Option<Bounds>,
}

fn options() -> Options {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let number = |flag: &str| {
        let text = args.iter().find_map(|a| a.strip_prefix(flag))?;
        text.parse::<u32>().ok()
    };
    let mut names = args.iter().filter(|a| !a.starts_with("--")).cloned();
    let bounds = number("--deaths=").map(|deaths| Bounds {
        deaths,
        preemptions: number("--preemptions="),
        patience: Duration::from_secs(number("--seconds=").unwrap_or(60).into()),
    });
    Options {
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
        "{:<12} {:<27} {:>9} states {:>8} executions {:>7} judged {:>6.1} s  {:<12} {verdict}",
        case.name,
        twin,
        report.states,
        report.executions,
        report.judged,
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

fn main() -> ExitCode {
    let options = options();
    // A panic inside a scenario is a finding, and told as one.
    std::panic::set_hook(Box::new(|_| {}));
    println!(
        "scenario     twin (rule taken away)       ... reach: deaths+preemptions looked at in full"
    );
    let mut wrong = 0;
    for case in cases() {
        if options.scenario.as_ref().is_some_and(|s| s != case.name) {
            continue;
        }
        if options.twin.is_none() {
            let bounds = if options.long { case.long } else { case.short };
            let report = match options.bounds {
                Some(bounds) => case.search(bounds, ""),
                None => case.run(bounds, ""),
            };
            wrong += u32::from(report.violation.is_some());
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
        for twin in &case.twins {
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
    if wrong == 0 {
        println!("all as it must be");
        ExitCode::SUCCESS
    } else {
        println!("{wrong} searches did not end as they must");
        ExitCode::from(5)
    }
}
