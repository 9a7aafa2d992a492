//! What the P does between two stretches of tasks: the orders in its inbox.

use crate::{inbox::Inbox, workload, workloads};
use coheap::{Error, sched::P};
use coheap_protocol::{Outcome, Refused, RunId, WorkerOrder, WorkerSays, Workload};

/// Does everything that was ordered; `false` when that is to leave.
pub fn obey(p: &mut P, inbox: &Inbox) -> bool {
    if p.shutdown_requested() {
        return false;
    }
    while let Some(order) = inbox.next() {
        match order {
            WorkerOrder::Stop { .. } => return false,
            WorkerOrder::Submit {
                run,
                seed,
                workload,
            } => inbox.say(submit(p, run, seed, &workload)),
            WorkerOrder::Collect { run, workload } => inbox.say(collect(p, run, &workload)),
        }
    }
    true
}

fn submit(p: &mut P, run: RunId, seed: u64, args: &Workload) -> WorkerSays {
    let begun = find(args)
        .and_then(|workload| workload.submit(p, run, seed, args).map_err(|e| refused(&e)));
    match begun {
        Ok(()) => WorkerSays::Submitted { run },
        Err(why) => WorkerSays::RunFailed { run, why },
    }
}

fn collect(p: &mut P, run: RunId, args: &Workload) -> WorkerSays {
    let found =
        find(args).and_then(|workload| workload.collect(p, run, args).map_err(|e| refused(&e)));
    match found {
        Ok(None) => WorkerSays::NotYet { run },
        Ok(Some(workload::Report { ok, json })) => WorkerSays::Result(Outcome { run, ok, json }),
        Err(why) => WorkerSays::RunFailed { run, why },
    }
}

fn find(args: &Workload) -> Result<&'static dyn workload::Workload, Refused> {
    let named = |w: &&&dyn workload::Workload| w.name() == args.name();
    workloads::ALL.iter().find(named).copied().ok_or_else(|| {
        let what = format!("this worker knows no workload `{}`", args.name());
        Refused::new(
            2,
            "E028",
            what,
            "a coheap-worker from the same build as coheap",
        )
    })
}

fn refused(error: &Error) -> Refused {
    Refused::new(
        u8::try_from(error.exit_code()).unwrap_or(1),
        error.code(),
        error.to_string(),
        error.hint(),
    )
}
