//! `coheap stat`: one line a second, size classes, or Prometheus metrics.

use super::query::rows;
use crate::{args::Global, connect, failure::Failure, show};
use coheap::{Segment, Status};
use coheap_protocol::{
    codes,
    human::{show_bytes, show_duration},
};
use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// What to show.
pub struct Wanted {
    /// Time between two lines.
    pub interval: Duration,
    /// Lines; `None`: until Ctrl-C.
    pub count: Option<u64>,
    /// A table of size classes instead.
    pub classes: bool,
    /// Prometheus' text format instead.
    pub prometheus: bool,
}

/// Shows it.
pub fn stat(global: &Global, wanted: &Wanted) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    if wanted.prometheus {
        show::print(&prometheus(&segment));
    } else if wanted.classes {
        return Ok(classes(global, &segment));
    } else {
        lines(global, &segment, wanted);
    }
    Ok(codes::OK)
}

#[derive(serde::Serialize)]
struct Line {
    live_bytes: u64,
    goal_bytes: u64,
    committed_bytes: u64,
    alloc_bytes_per_s: u64,
    steps_per_s: u64,
    steals_per_s: u64,
    gc_cycles: u64,
    phase: &'static str,
    pause_p99_ns: u64,
    procs: usize,
    runnable: u64,
    deaths: u64,
}

fn lines(global: &Global, segment: &Segment, wanted: &Wanted) {
    let head = format!(
        "{:>9} {:>9} {:>9} {:>10} {:>8} {:>8} {:>7} {:>8} {:>9} {:>3} {:>8} {:>6}\n",
        "LIVE",
        "GOAL",
        "MEMORY",
        "ALLOC/s",
        "STEPS/s",
        "STEALS/s",
        "CYCLES",
        "PHASE",
        "PAUSE99",
        "P",
        "RUNNABLE",
        "DEATHS"
    );
    if !global.json {
        show::print(&head);
    }
    let mut before = segment.status();
    let mut shown = 0;
    while wanted.count.is_none_or(|count| shown < count) {
        std::thread::sleep(wanted.interval);
        let now = segment.status();
        let line = line(&before, &now, wanted.interval);
        if global.json {
            show::json(&line);
        } else {
            show::print(&format!(
                "{:>9} {:>9} {:>9} {:>10} {:>8} {:>8} {:>7} {:>8} {:>9} {:>3} {:>8} {:>6}\n",
                show_bytes(line.live_bytes),
                show_bytes(line.goal_bytes),
                show_bytes(line.committed_bytes),
                show_bytes(line.alloc_bytes_per_s),
                line.steps_per_s,
                line.steals_per_s,
                line.gc_cycles,
                line.phase,
                show_duration(Duration::from_nanos(line.pause_p99_ns)),
                line.procs,
                line.runnable,
                line.deaths,
            ));
        }
        before = now;
        shown += 1;
    }
}

fn line(before: &Status, now: &Status, interval: Duration) -> Line {
    let rate = |new: u64, old: u64| {
        (new.saturating_sub(old) as f64 / interval.as_secs_f64().max(1e-3)) as u64
    };
    Line {
        live_bytes: now.heap_live,
        goal_bytes: now.heap_goal,
        committed_bytes: now.committed_bytes,
        alloc_bytes_per_s: rate(now.alloc_bytes, before.alloc_bytes),
        steps_per_s: rate(now.steps, before.steps),
        steals_per_s: rate(now.steals, before.steals),
        gc_cycles: now.gc_cycles,
        phase: now.phase,
        pause_p99_ns: now.pause_ns[1],
        procs: now.procs.len(),
        runnable: now.tasks[0],
        deaths: now.deaths,
    }
}

#[derive(Default, serde::Serialize)]
struct ClassRow {
    object_bytes: u32,
    shapes: u32,
    spans: u64,
    span_bytes: u64,
    objects: u64,
    capacity: u64,
}

fn classes(global: &Global, segment: &Segment) -> u8 {
    let mut by_size: BTreeMap<u32, ClassRow> = BTreeMap::new();
    for shape in segment.shapes_in_use() {
        // Large objects have no class: last.
        let key = shape.object_bytes.wrapping_sub(1);
        let row = by_size.entry(key).or_default();
        row.object_bytes = shape.object_bytes;
        row.shapes += 1;
        row.spans += shape.spans;
        row.span_bytes += shape.span_bytes;
        row.objects += shape.objects;
        row.capacity += shape.capacity;
    }
    let found: Vec<ClassRow> = by_size.into_values().collect();
    let head = ["OBJECT", "SHAPES", "SPANS", "BYTES", "SWEPT", "CAPACITY"];
    rows(global, &head, &found, |r| {
        let object = match r.object_bytes {
            0 => "large".into(),
            n => show_bytes(n.into()),
        };
        vec![
            object,
            r.shapes.to_string(),
            r.spans.to_string(),
            show_bytes(r.span_bytes),
            r.objects.to_string(),
            r.capacity.to_string(),
        ]
    })
}

/// Metrics in Prometheus' text format: P numbers as labels, never process numbers.
fn prometheus(segment: &Segment) -> String {
    let s = segment.status();
    let mut metrics = Metrics::default();
    let mut metric = |name, kind, help, rows: &[(String, f64)]| metrics.add(name, kind, help, rows);
    let one = |n: u64| [(String::new(), n as f64)];
    let label = |key: &str, value: &str, n: u64| (format!("{{{key}=\"{value}\"}}"), n as f64);
    let info = format!(
        "{{version=\"{}\",layout=\"{:#018x}\"}}",
        env!("CARGO_PKG_VERSION"),
        Segment::layout_hash()
    );
    metric(
        "coheap_build_info",
        "gauge",
        "Version of the tool and layout of the heap.",
        &[(info, 1.0)],
    );
    metric(
        "coheap_heap_bytes",
        "gauge",
        "Bytes of the heap.",
        &[
            label("kind", "live", s.heap_live),
            label("kind", "marked", s.marked_live),
            label("kind", "committed", s.committed_bytes),
            label("kind", "max", s.limit_bytes),
            label("kind", "goal", s.heap_goal),
        ],
    );
    let by_p = |f: fn(&coheap::ProcStatus) -> u64| -> Vec<(String, f64)> {
        s.procs
            .iter()
            .map(|p| (format!("{{p=\"{}\"}}", p.p), f(p) as f64))
            .collect()
    };
    metric(
        "coheap_alloc_bytes_total",
        "counter",
        "Bytes allocated.",
        &by_p(|p| p.alloc_bytes),
    );
    metric(
        "coheap_alloc_objects_total",
        "counter",
        "Objects allocated.",
        &one(s.alloc_objects),
    );
    metric(
        "coheap_freed_bytes_total",
        "counter",
        "Bytes freed by sweeping.",
        &one(s.freed_bytes),
    );
    let triggers = ["pace", "limit", "forced", "periodic", "death"];
    let by: Vec<_> = triggers
        .iter()
        .zip(s.gc_by)
        .map(|(t, n)| label("trigger", t, n))
        .collect();
    metric(
        "coheap_gc_cycles_total",
        "counter",
        "Collections by what started them.",
        &by,
    );
    let (bounds, below) = histogram(&s.pause_hist);
    metric(
        "coheap_gc_pause_seconds",
        "histogram",
        "Delays the collector put on P's.",
        &bounds,
    );
    let (n, sum) = below;
    for (what, value) in [("sum", sum), ("count", n)] {
        metrics.line(&format!("coheap_gc_pause_seconds_{what}"), value);
    }
    let mut metric = |name, kind, help, rows: &[(String, f64)]| metrics.add(name, kind, help, rows);
    let cpu: Vec<_> = ["dedicated", "fractional", "idle", "assist"]
        .iter()
        .zip(s.mark_ns)
        .map(|(class, ns)| (format!("{{class=\"{class}\"}}"), ns as f64 / 1e9))
        .collect();
    metric(
        "coheap_gc_cpu_seconds_total",
        "counter",
        "Time spent marking.",
        &cpu,
    );
    let idle = s.procs.iter().filter(|p| p.activity == "idle").count() as u64;
    let dead = s.procs.iter().filter(|p| p.state == "dead").count() as u64;
    metric(
        "coheap_procs",
        "gauge",
        "P's by state.",
        &[
            label("state", "running", s.procs.len() as u64 - idle - dead),
            label("state", "idle", idle),
            label("state", "dead", dead),
        ],
    );
    metric(
        "coheap_proc_deaths_total",
        "counter",
        "Deaths recovered.",
        &one(s.deaths),
    );
    metric(
        "coheap_tasks_total",
        "counter",
        "Tasks put back and given up.",
        &[
            label("outcome", "requeued", s.requeued),
            label("outcome", "gave_up", s.gave_up),
        ],
    );
    metric(
        "coheap_runqueue_depth",
        "gauge",
        "Tasks in a P's queue.",
        &by_p(|p| p.runq.into()),
    );
    metric(
        "coheap_steals_total",
        "counter",
        "Tasks stolen.",
        &[label("result", "hit", s.steals)],
    );
    let slots = segment.slots();
    let count = |f: fn(&coheap::SlotStatus) -> bool| slots.iter().filter(|s| f(s)).count() as u64;
    metric(
        "coheap_mark_worker_slots",
        "gauge",
        "Mark worker slots by state.",
        &[
            label("state", "empty", count(|s| s.slot == "empty")),
            label("state", "parked", count(|s| s.state == "parked")),
            label("state", "running", count(|s| s.state == "running")),
        ],
    );
    metric(
        "coheap_mark_worker_migrations_total",
        "counter",
        "Mark workers run by another P than parked them.",
        &one(s.migrations),
    );
    metric(
        "coheap_mark_worker_cas_lost_total",
        "counter",
        "Attaches that lost.",
        &one(s.attach_lost),
    );
    metric(
        "coheap_roots",
        "gauge",
        "Roots.",
        &[label("kind", "named", segment.named_roots().len() as u64)],
    );
    metrics.0
}

/// Metrics as text.
#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn add(&mut self, name: &str, kind: &str, help: &str, rows: &[(String, f64)]) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in rows {
            self.line(&format!("{name}{labels}"), *value);
        }
    }

    fn line(&mut self, series: &str, value: f64) {
        let _ = writeln!(self.0, "{series} {value}");
    }
}

/// Buckets that hold something, as cumulated counts below their upper bounds in seconds; and how many in all, with their sum taken at
/// the middle of each bucket.
fn histogram(hist: &[u64]) -> (Vec<(String, f64)>, (f64, f64)) {
    let (mut below, mut sum) = (0, 0.0);
    let mut rows = Vec::new();
    for (b, &n) in hist.iter().enumerate().filter(|&(_, &n)| n > 0) {
        below += n;
        sum += n as f64 * 1.5 * (1u64 << b) as f64 / 1e9;
        let bound = (2u64 << b) as f64 / 1e9;
        rows.push((format!("_bucket{{le=\"{bound}\"}}"), below as f64));
    }
    rows.push(("_bucket{le=\"+Inf\"}".into(), below as f64));
    (rows, (below as f64, sum))
}
