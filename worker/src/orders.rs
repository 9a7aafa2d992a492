//! What the P does between two stretches of tasks: the orders in its inbox.

use crate::inbox::Inbox;
use coheap::{Error, P, sched};
use coheap_protocol::{Outcome, Refused, RunId, WorkerOrder, WorkerSays, Workload};
use coheap_worker::workloads::{self, Report, Running, WorkloadSpec};

/// A result's JSON must fit into a frame, with room for the rest of the message.
const JSON_MAX: usize = 3500;

/// Does everything that was ordered; `false` when that is to leave, or when the heap is shut down.
pub fn obey(p: &mut P, inbox: &Inbox) -> bool {
    while let Some(order) = inbox.next() {
        match order {
            WorkerOrder::Stop { .. } => return false,
            WorkerOrder::Submit { run, workload, .. } => inbox.say(submit(p, run, &workload)),
            WorkerOrder::Collect { run, .. } => inbox.say(collect(p, run)),
            WorkerOrder::Procs { n } => resize(p, n),
        }
    }
    !sched::shutdown_requested(p.segment())
}

fn submit(p: &mut P, run: RunId, args: &Workload) -> WorkerSays {
    match workloads::submit(p, run.0, &spec(args)) {
        Ok(_) => WorkerSays::Submitted { run },
        Err(error) => WorkerSays::RunFailed {
            run,
            why: refused(&error),
        },
    }
}

fn spec(args: &Workload) -> WorkloadSpec {
    match args {
        Workload::Index { dir, out } => WorkloadSpec::Index {
            dir: dir.into(),
            out: out.as_ref().map(Into::into),
        },
        Workload::Trees { depth } => WorkloadSpec::Trees { depth: *depth },
        Workload::GcBench { smaller } => WorkloadSpec::GcBench { smaller: *smaller },
    }
}

fn collect(p: &mut P, run: RunId) -> WorkerSays {
    match (Running { run: run.0 }).poll(p) {
        None => WorkerSays::NotYet { run },
        Some(Ok(report)) => WorkerSays::Result(Outcome {
            run,
            ok: report.ok,
            json: json(report),
        }),
        Some(Err(error)) => WorkerSays::RunFailed {
            run,
            why: refused(&error),
        },
    }
}

/// The report as JSON that fits: examples of problems go first, then the text of the checks. Their counts stay.
fn json(mut report: Report) -> String {
    loop {
        let text = serde_json::to_string(&report).unwrap_or_else(|_| "{}".into());
        if text.len() <= JSON_MAX {
            return text;
        }
        if report.problems.pop().is_none() {
            let half = report.checks.chars().count() / 2;
            report.checks = report.checks.chars().take(half).collect();
        }
    }
}

/// Changes how many P's may run. Busy is no failure: the daemon looks at the segment, and asks again.
fn resize(p: &mut P, n: u16) {
    match sched::resize(p, n.into()) {
        Ok(old) => log::info!("ev=procs.resized from={old} to={n}"),
        Err(error) => log::warn!("ev=procs.not_resized to={n} msg={:?}", error.to_string()),
    }
}

fn refused(error: &Error) -> Refused {
    let code = u8::try_from(error.exit_code()).unwrap_or(1);
    Refused::new(code, error.code(), error.to_string(), error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_too_long_loses_its_examples_and_stays_json() {
        let report = Report {
            problems: vec!["x".repeat(1000); 10],
            checks: "\"".repeat(9000),
            ..Report::default()
        };
        let text = json(report);
        assert!(text.len() <= JSON_MAX);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
