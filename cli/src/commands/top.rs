//! `coheap top`: the heap and its P's on a screen that refreshes itself, until Ctrl-C.
//!
//! Escape sequences that every terminal knows, in one write per picture: no flicker, and no library.

use crate::{
    args::Global, connect, failure::Failure, interrupt::Interrupt, interrupt::Woken, show,
};
use coheap::{ProcStatus, Status};
use coheap_protocol::{
    codes,
    human::{show_bytes, show_duration},
};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Shows pictures, as many as asked for or until Ctrl-C.
pub fn top(global: &Global, interval: Duration, count: Option<u64>) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    let interrupt = Interrupt::catch()?;
    let screen = std::io::stdout().is_terminal();
    if screen {
        show::print("\x1b[?1049h\x1b[?25l");
    }
    let mut before = segment.status();
    let mut shown = 0;
    while count.is_none_or(|count| shown < count) {
        let woken = interrupt.wait(None, Some(Instant::now() + interval));
        if woken == Woken::Interrupted {
            break;
        }
        let now = segment.status();
        let picture = picture(&before, &now, interval);
        let clear = if screen { "\x1b[H\x1b[J" } else { "" };
        show::print(&format!("{clear}{picture}"));
        before = now;
        shown += 1;
    }
    if screen {
        show::print("\x1b[?25h\x1b[?1049l");
    }
    Ok(codes::OK)
}

fn picture(before: &Status, now: &Status, interval: Duration) -> String {
    let seconds = interval.as_secs_f64().max(1e-3);
    let per_s = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds) as u64;
    let [runnable, running, waiting, failed] = now.tasks;
    let mut text = format!(
        "{}: {} live, goal {}, {} of {} committed, {}/s allocated\n\
         gc: {} cycles, phase {}, pause p99 {} max {}; {} migrations\n\
         tasks: {runnable} runnable, {running} running, {waiting} waiting, {failed} given up; {} steals; {} deaths, {} requeued\n\n",
        now.name,
        show_bytes(now.heap_live),
        show_bytes(now.heap_goal),
        show_bytes(now.committed_bytes),
        show_bytes(now.limit_bytes),
        show_bytes(per_s(now.alloc_bytes, before.alloc_bytes)),
        now.gc_cycles,
        now.phase,
        show_duration(Duration::from_nanos(now.pause_ns[1])),
        show_duration(Duration::from_nanos(now.pause_ns[2])),
        now.migrations,
        now.steals,
        now.deaths,
        now.requeued,
    );
    let rows: Vec<Vec<String>> = now
        .procs
        .iter()
        .map(|p| row(p, before.procs.iter().find(|b| b.p == p.p), seconds))
        .collect();
    let head = [
        "P", "PID", "STATE", "TASK", "RUNQ", "STEPS/s", "ALLOC/s", "MARK%", "STEALS", "WORKER",
    ];
    text += &show::table(&head, &rows);
    text
}

fn row(p: &ProcStatus, before: Option<&ProcStatus>, seconds: f64) -> Vec<String> {
    let since =
        |f: fn(&ProcStatus) -> u64| f(p).saturating_sub(before.map_or(0, f)) as f64 / seconds;
    vec![
        p.p.to_string(),
        p.pid.to_string(),
        if p.state == "live" {
            p.activity
        } else {
            p.state
        }
        .into(),
        p.task.map_or("-".into(), |t| t.to_string()),
        p.runq.to_string(),
        format!("{:.0}", since(|p| p.steps)),
        show_bytes(since(|p| p.alloc_bytes) as u64),
        format!("{:.1}", since(|p| p.mark_ns) / 1e7),
        p.steals.to_string(),
        p.worker
            .map_or("-".into(), |w| format!("w{w} {}", p.worker_state)),
    ]
}
