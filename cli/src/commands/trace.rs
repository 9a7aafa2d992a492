//! `coheap trace last 5s -o F`: the flight recorders as a file for Perfetto (ui.perfetto.dev) or Chrome.
//!
//! One track per process and, in it, a lane per P: a process that died and the one that took its P are two tracks. Slices are steps of
//! tasks, mark workers and sleep; arrows go from the P that was stolen from to the thief, and from the P that parked a mark worker to
//! the one that runs it; an instant marks a death. A slice whose end was not written ends where its P's next event is.

use crate::{args::Global, connect, failure::Failure, show};
use coheap::{Happened, TraceEvent, recover::Death};
use coheap_protocol::codes;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Writes what happened in the last `window`.
pub fn last(global: &Global, window: Duration, out: Option<&Path>) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    let now = coheap::sysmon::clock_ns();
    let since = now.saturating_sub(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
    let events = segment.trace(since);
    let deaths: Vec<Death> = segment
        .deaths()
        .into_iter()
        .filter(|d| d.began_ns >= since)
        .collect();
    let chrome = json!({ "displayTimeUnit": "ns", "traceEvents": chrome(&events, &deaths, &segment.task_kinds()) });
    let text = format!("{chrome}\n");
    match out {
        None => show::print(&text),
        Some(path) => {
            std::fs::write(path, text)
                .map_err(Failure::io(format!("cannot write {}", path.display())))?;
            if !global.quiet {
                let (n, d) = (events.len(), deaths.len());
                show::complain(&format!("{}: {n} events, {d} deaths", path.display()));
            }
        }
    }
    Ok(codes::OK)
}

/// What a P is in, since when.
struct Open {
    name: String,
    category: &'static str,
    since_ns: u64,
    pid: u32,
}

/// Where the next slice of a task or a worker is to be met by an arrow.
struct Arrow {
    pid: u32,
    p: u16,
    at_ns: u64,
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn chrome(events: &[TraceEvent], deaths: &[Death], kinds: &[String]) -> Vec<Value> {
    let mut out = Vec::new();
    let mut open: BTreeMap<u16, Open> = BTreeMap::new();
    let mut stolen: BTreeMap<u32, Arrow> = BTreeMap::new();
    let mut parked: BTreeMap<u32, Arrow> = BTreeMap::new();
    let mut last_pid: BTreeMap<u16, u32> = BTreeMap::new();
    let mut lanes: BTreeMap<(u32, u16), ()> = BTreeMap::new();
    let mut arrows = 0;
    for e in events {
        lanes.insert((e.pid, e.p), ());
        if let Some(slice) = open.remove(&e.p) {
            out.push(complete(&slice, e.p, e.at_ns));
        }
        let begin = |name: String, category| Open {
            name,
            category,
            since_ns: e.at_ns,
            pid: e.pid,
        };
        let mut arrow = |from: Option<Arrow>, name: &str| {
            if let Some(from) = from.filter(|f| (f.pid, f.p) != (e.pid, e.p)) {
                arrows += 1;
                out.push(flow("s", name, arrows, from.pid, from.p, from.at_ns));
                out.push(flow("f", name, arrows, e.pid, e.p, e.at_ns));
            }
        };
        match e.what {
            Happened::StepBegins => {
                arrow(stolen.remove(&e.a), "steal");
                let kind = kinds.get(e.b as usize).filter(|k| !k.is_empty());
                let name = kind.map_or("task".into(), |k| format!("{k} {}", e.a));
                open.insert(e.p, begin(name, "task"));
            }
            Happened::WorkerPicked => {
                arrow(parked.remove(&e.a), "migration");
                let mode = ["", "dedicated", "fractional", "idle"][e.b as usize & 3];
                open.insert(e.p, begin(format!("mark w{} {mode}", e.a), "mark"));
            }
            Happened::Sleeps => {
                open.insert(e.p, begin("sleep".into(), "idle"));
            }
            Happened::WorkerParked | Happened::Migrates | Happened::Detached => {
                let from = Arrow {
                    pid: e.pid,
                    p: e.p,
                    at_ns: e.at_ns,
                };
                parked.insert(e.a, from);
            }
            Happened::Stolen => {
                let victim = e.a as u16;
                let pid = last_pid.get(&victim).copied().unwrap_or(0);
                let from = Arrow {
                    pid,
                    p: victim,
                    at_ns: e.at_ns,
                };
                stolen.insert(e.b, from);
            }
            Happened::CycleBegins => out.push(instant(e, format!("gc {} begins", e.a))),
            Happened::CycleEnds => out.push(instant(e, format!("gc {} marked", e.a))),
            Happened::Phase => out.push(instant(e, format!("phase {} of gc {}", e.a, e.b))),
            Happened::Resized => out.push(instant(e, format!("{} to {} P's", e.a, e.b))),
            Happened::AttachLost => out.push(instant(e, format!("w{} lost the slot", e.a))),
            Happened::StepEnds | Happened::Wakes | Happened::Attached | Happened::Other => {}
        }
        last_pid.insert(e.p, e.pid);
    }
    for death in deaths {
        lanes.insert((death.pid, death.p), ());
        out.push(json!({
            "name": format!("death of pid {} ({})", death.pid, death.at), "ph": "i", "s": "g", "cat": "death",
            "ts": us(death.began_ns), "pid": death.pid, "tid": death.p,
        }));
    }
    out.extend(lanes.keys().flat_map(|&(pid, p)| names(pid, p)));
    out
}

fn complete(slice: &Open, p: u16, end_ns: u64) -> Value {
    json!({
        "name": slice.name, "cat": slice.category, "ph": "X", "pid": slice.pid, "tid": p,
        "ts": us(slice.since_ns), "dur": us(end_ns.saturating_sub(slice.since_ns)),
    })
}

fn flow(phase: &str, name: &str, id: u64, pid: u32, p: u16, at_ns: u64) -> Value {
    let mut arrow = json!({
        "name": name, "cat": name, "ph": phase, "id": id, "pid": pid, "tid": p, "ts": us(at_ns),
    });
    if phase == "f" {
        arrow["bp"] = "e".into();
    }
    arrow
}

fn instant(e: &TraceEvent, name: String) -> Value {
    json!({ "name": name, "cat": "gc", "ph": "i", "s": "t", "pid": e.pid, "tid": e.p, "ts": us(e.at_ns) })
}

fn names(pid: u32, p: u16) -> [Value; 2] {
    let process = if pid == 0 {
        "gone".into()
    } else {
        format!("pid {pid}")
    };
    [
        json!({ "name": "process_name", "ph": "M", "pid": pid, "args": { "name": process } }),
        json!({ "name": "thread_name", "ph": "M", "pid": pid, "tid": p, "args": { "name": format!("P{p}") } }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ns: u64, p: u16, what: Happened, a: u32, b: u32) -> TraceEvent {
        TraceEvent {
            at_ns,
            p,
            pid: 100 + u32::from(p),
            what,
            a,
            b,
        }
    }

    #[test]
    fn steps_are_slices_and_a_stolen_task_has_an_arrow() {
        let events = [
            event(1000, 0, Happened::StepBegins, 7, 0),
            event(2000, 1, Happened::Stolen, 0, 8),
            event(3000, 1, Happened::StepBegins, 8, 0),
            event(4000, 0, Happened::StepEnds, 7, 2),
            event(6000, 1, Happened::StepEnds, 8, 2),
        ];
        let out = chrome(&events, &[], &["index".into()]);
        let slices: Vec<&Value> = out.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(slices.len(), 2);
        assert_eq!(
            (&slices[0]["name"], &slices[0]["dur"]),
            (&"index 7".into(), &3.0.into())
        );
        let arrow = |ph: &str| out.iter().find(|e| e["ph"] == ph).map(|e| e["pid"].clone());
        assert_eq!(
            (arrow("s"), arrow("f")),
            (Some(100.into()), Some(101.into()))
        );
    }

    #[test]
    fn a_worker_that_moves_has_an_arrow_and_one_that_stays_has_none() {
        let park = |at, p| event(at, p, Happened::WorkerParked, 3, 0);
        let pick = |at, p| event(at, p, Happened::WorkerPicked, 3, 1);
        let flows = |events: &[TraceEvent]| {
            chrome(events, &[], &[])
                .iter()
                .filter(|e| e["ph"] == "f")
                .count()
        };
        assert_eq!(flows(&[park(1, 0), pick(2, 1)]), 1);
        assert_eq!(flows(&[park(1, 0), pick(2, 0)]), 0);
    }
}
