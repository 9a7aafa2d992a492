//! What an offset of the segment belongs to, for people: `P[1].now.task`, `span[7].word`, `heap page 3`.
//!
//! 1. The header and the records of P's, by field. 2. Every other table by the last one that begins at or before the offset, the
//! records of tasks, spans and mark workers by field. 3. Heap pages by number.

use shm_layout::{
    PAGE_BYTES,
    header::{Gc as GcWords, Header, Sched, Stats},
    proc::{CURSORS, InProgress, ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{RootRecord, ShapeRecord, TypeRecord},
    task::TaskRecord,
    workbuf::WORKBUF_BYTES,
    worker::{SlotRecord, WorkerRecord},
};

use crate::segment::Segment;

/// What an offset of the segment belongs to, in words.
pub fn name_of(segment: &Segment, at: usize) -> String {
    let g = &segment.geo;
    let field = |names: &[(&'static str, usize)], off: usize| {
        names
            .iter()
            .rev()
            .find(|(_, o)| *o <= off)
            .map_or("?", |(n, _)| *n)
    };
    macro_rules! fields {
        ($t:ty: $($f:ident),+) => { &[$((stringify!($f), std::mem::offset_of!($t, $f))),+] };
    }
    if at < g.procs_at {
        let top = field(
            fields!(Header: id, committed_chunks, recovery, gc, sched, stats, seen),
            at,
        );
        let sub = match top {
            "gc" => field(
                fields!(GcWords: phase, dirty, stop, stop_resume, overflow, starved_cycle, barren, requested_cycle, trigger_kind,
                    sweep_cursor, pages_swept, heap_live, trigger, goal, marked_live, live_at_start, live_at_mark_end, bytes_marked,
                    scan_work, bg_scan_credit, assist_ratio, trigger_ratio, gc_percent, dedicated_wanted, fractional_goal,
                    idle_max, soft_limit, root_jobs, root_next, at_ns, rounds, checkmarks, verified_cycle, verifications, over_goal_permille),
                at - std::mem::offset_of!(Header, gc),
            ),
            "sched" => field(
                fields!(Sched: gomaxprocs, shutdown, task_high, workbuf_high, proc_high, worker_high, idle,
                    spinning, next_timer_ns, global_next, redeliver_max, run, leases),
                at - std::mem::offset_of!(Header, sched),
            ),
            "stats" => field(
                fields!(Stats: cycles, deaths, probes, progress),
                at - std::mem::offset_of!(Header, stats),
            ),
            _ => "",
        };
        return format!("header.{top}.{sub}");
    }
    let record = |name: &str, base: usize, size: usize| {
        let i = (at - base) / size;
        (format!("{name}[{i}]"), (at - base) % size)
    };
    if at < g.areas_at {
        let (name, off) = record("P", g.procs_at, size_of::<ProcRecord>());
        let top = field(
            fields!(ProcRecord: word, tid, armed, start_time, leased_at_ns, life, scope, ev, preempt, dedicated, mark_mode,
                activity, now, stats, update_seq, runq_head, runq_tail, runnext, runq),
            off,
        );
        if top == "now" {
            let sub = field(
                fields!(InProgress: intent, shade, task, root_job, sweep_span, sweep_block, workbuf, worker, workbuf2, gcw, inflight),
                off - std::mem::offset_of!(ProcRecord, now),
            );
            return format!("{name}.now.{sub}");
        }
        return format!("{name}.{top}");
    }
    let tables: [(&str, usize, usize); 20] = [
        ("area", g.areas_at, size_of::<ProcArea>()),
        ("worker", g.workers_at, size_of::<WorkerRecord>()),
        ("slot", g.slots_at, size_of::<SlotRecord>()),
        ("root_job", g.root_jobs_at, 8),
        ("shape", g.shapes_at, size_of::<ShapeRecord>()),
        ("type", g.types_at, size_of::<TypeRecord>()),
        ("kind", g.kinds_at, size_of::<TypeRecord>()),
        ("root", g.roots_at, size_of::<RootRecord>()),
        ("task_free", g.task_free_at, 8),
        ("task_run", g.task_run_at, 8),
        ("buf_word", g.buf_words_at, 8),
        ("buf_full", g.buf_full_at, 8),
        ("buf_free", g.buf_free_at, 8),
        ("chunk", g.chunk_words_at, 8),
        ("page_bits", g.page_bits_at, 8),
        ("task", g.tasks_at, size_of::<TaskRecord>()),
        ("workbuf", g.workbufs_at, WORKBUF_BYTES),
        ("span", g.spans_at, size_of::<SpanRecord>()),
        ("page_shape", g.page_shapes_at, 2),
        ("mark", g.marks_at[0], 8),
    ];
    if at >= g.heap_at {
        return format!("heap page {}", (at - g.heap_at) / PAGE_BYTES);
    }
    let &(name, base, size) = tables
        .iter()
        .rev()
        .find(|t| t.1 <= at)
        .unwrap_or(&tables[0]);
    let (name, off) = record(name, base, size);
    match name.split('[').next() {
        Some("area") if off >= CURSORS * 4 => format!("{name}.handles"),
        Some("area") => format!("{name}.cached"),
        Some("task") => format!(
            "{name}.{}",
            field(
                fields!(TaskRecord: word, context, commit, join, kind, steps, wake_at_ns, tries, last_death, error, error_code),
                off
            )
        ),
        Some("span") => format!(
            "{name}.{}",
            field(
                fields!(SpanRecord: word, pages, free_index, live, next, listed, shape),
                off
            )
        ),
        Some("worker") => format!(
            "{name}.{}",
            field(
                fields!(WorkerRecord: word, home, pc, mode, parked_by, round_epoch, runs, migrations, scanned, moved_at_ns, seq),
                off
            )
        ),
        _ => format!("{name}+{off}"),
    }
}
