//! Tables read from the segment itself: mark worker slots, shapes, the dead.
//!
//! This process maps the segment and reads words; it leases nothing, so it holds nobody up, and a kill of it leaves nothing.

use super::query::rows;
use crate::{args::Global, connect, failure::Failure};
use coheap::recover::Death;
use coheap_protocol::{
    DeadRow, Reply, Request,
    human::{show_bytes, show_duration},
};
use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

fn ns(ns: u64) -> String {
    show_duration(Duration::from_nanos(ns))
}

fn maybe<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".into(), |v| v.to_string())
}

#[derive(serde::Serialize)]
struct SlotRow {
    slot: u16,
    state: &'static str,
    worker: Option<u16>,
    worker_state: &'static str,
    by_p: Option<u16>,
    mode: &'static str,
    runs: u32,
    migrations: u32,
    scanned: u32,
    moved_ago_ns: u64,
}

/// The slots in which P's keep their mark workers.
pub fn slots(global: &Global) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    let found: Vec<SlotRow> = segment
        .slots()
        .into_iter()
        .map(|s| SlotRow {
            slot: s.p,
            state: s.slot,
            worker: s.worker,
            worker_state: s.state,
            by_p: s.by,
            mode: s.mode,
            runs: s.runs,
            migrations: s.migrations,
            scanned: s.scanned,
            moved_ago_ns: s.moved_ago_ns,
        })
        .collect();
    let head = [
        "SLOT",
        "STATE",
        "WORKER",
        "IS",
        "BY",
        "MODE",
        "RUNS",
        "MIGRATIONS",
        "SCANNED",
        "MOVED",
    ];
    Ok(rows(global, &head, &found, |r| {
        let moved = if r.worker.is_some() {
            ns(r.moved_ago_ns)
        } else {
            "-".into()
        };
        vec![
            format!("p{}", r.slot),
            r.state.into(),
            maybe(r.worker.map(|w| format!("w{w}"))),
            r.worker_state.into(),
            maybe(r.by_p.map(|p| format!("P{p}"))),
            r.mode.into(),
            r.runs.to_string(),
            r.migrations.to_string(),
            r.scanned.to_string(),
            moved,
        ]
    }))
}

#[derive(serde::Serialize)]
struct ShapeRow {
    shape: u32,
    object_bytes: u32,
    scan: &'static str,
    references: u32,
    spans: u64,
    span_bytes: u64,
    objects: u64,
    capacity: u64,
}

/// What the heap is made of.
pub fn histo(global: &Global) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    let found: Vec<ShapeRow> = segment
        .shapes_in_use()
        .into_iter()
        .map(|s| ShapeRow {
            shape: s.shape,
            object_bytes: s.object_bytes,
            scan: s.scan,
            references: s.references,
            spans: s.spans,
            span_bytes: s.span_bytes,
            objects: s.objects,
            capacity: s.capacity,
        })
        .collect();
    let head = [
        "SHAPE", "OBJECT", "SCAN", "REFS", "SPANS", "BYTES", "SWEPT", "CAPACITY",
    ];
    Ok(rows(global, &head, &found, |r| {
        let object = match r.object_bytes {
            0 => "large".into(),
            n => show_bytes(n.into()),
        };
        vec![
            r.shape.to_string(),
            object,
            r.scan.into(),
            r.references.to_string(),
            r.spans.to_string(),
            show_bytes(r.span_bytes),
            r.objects.to_string(),
            r.capacity.to_string(),
        ]
    }))
}

/// One death as it is shown.
#[derive(Debug, Default, serde::Serialize)]
struct DeadLine {
    p: Option<u16>,
    pid: u32,
    cause: String,
    at: String,
    task: Option<u32>,
    kind: String,
    requeued: u32,
    adopted: u32,
    recovered_by: Option<u32>,
    detect_us: Option<u64>,
    repair_us: Option<u64>,
    survivor_gap_us: Option<u64>,
    survivor_p: Option<u16>,
    ago_ms: u64,
}

/// The dead: those the segment remembers, and those who died before they were a P.
pub fn dead(global: &Global) -> Result<u8, Failure> {
    let never_leased = connect::only(connect::once(global, &Request::Dead)?, |row| match row {
        Reply::Dead(row) => Some(row),
        _ => None,
    });
    let segment = connect::segment(global)?;
    let now = coheap::sysmon::clock_ns();
    let mut found: Vec<DeadLine> = never_leased.into_iter().map(from_daemon).collect();
    found.extend(segment.deaths().into_iter().map(|d| from_segment(d, now)));
    found.sort_by_key(|d| std::cmp::Reverse(d.ago_ms));
    let head = [
        "P", "PID", "CAUSE", "AT", "TASK", "AGAIN", "GREY", "DETECT", "REPAIR", "WAITED", "BY",
        "AGO",
    ];
    let us = |us: Option<u64>| maybe(us.map(|us| show_duration(Duration::from_micros(us))));
    Ok(rows(global, &head, &found, |d| {
        let task = d.task.map(|t| format!("{t} {}", d.kind));
        vec![
            maybe(d.p),
            d.pid.to_string(),
            d.cause.clone(),
            if d.at.is_empty() {
                "-".into()
            } else {
                d.at.clone()
            },
            maybe(task),
            d.requeued.to_string(),
            d.adopted.to_string(),
            us(d.detect_us),
            us(d.repair_us),
            waited(d),
            maybe(d.recovered_by),
            show_duration(Duration::from_millis(d.ago_ms)),
        ]
    }))
}

/// Which of the living waited longest, and how long.
fn waited(death: &DeadLine) -> String {
    match (death.survivor_p, death.survivor_gap_us) {
        (Some(p), Some(us)) => format!("P{p} {}", show_duration(Duration::from_micros(us))),
        (None, Some(_)) => "nobody".into(),
        (_, None) => "-".into(),
    }
}

fn from_daemon(row: DeadRow) -> DeadLine {
    DeadLine {
        p: row.p,
        pid: row.pid,
        cause: row.cause,
        at: row.at,
        requeued: row.requeued,
        ago_ms: row.ago_ms,
        ..DeadLine::default()
    }
}

fn from_segment(death: Death, now_ns: u64) -> DeadLine {
    let (task, kind) = match death.task {
        Some((task, kind)) => (Some(task), kind),
        None => (None, String::new()),
    };
    let us = |ns: Option<u64>| ns.map(|ns| ns.div_ceil(1000));
    DeadLine {
        p: Some(death.p),
        pid: death.pid,
        cause: cause(death.status),
        at: death.at,
        task,
        kind,
        requeued: death.requeued,
        adopted: death.adopted,
        recovered_by: Some(death.recoverer),
        detect_us: us(death.detect_ns),
        repair_us: us(death.repair_ns),
        survivor_gap_us: us(death.gap_ns),
        survivor_p: death.waiter,
        ago_ms: now_ns.saturating_sub(death.began_ns) / 1_000_000,
    }
}

fn cause(status: Option<i32>) -> String {
    let Some(status) = status.map(ExitStatus::from_raw) else {
        return "unknown (no parent saw it)".into();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |s| s.as_str());
            format!("signal {signal} ({name})")
        }
        (None, code) => format!("exit {}", code.unwrap_or(-1)),
    }
}
