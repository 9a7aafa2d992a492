//! Names for addresses, so that the story of a violation can be read.

use std::mem::{offset_of, size_of};

use shm_layout::{
    MAX_P, MAX_WORKERS,
    geometry::ROOT_JOBS,
    header::{Gc, Header, Sched},
    proc::{InProgress, ProcArea, ProcRecord},
    span::SpanRecord,
    tables::{ROOTS, RootRecord},
    task::TaskRecord,
    workbuf::WORKBUF_BYTES,
    worker::{SlotRecord, WorkerRecord},
};

use crate::segment::Segment;

/// The last of `(offset, name)` at or before `at`.
fn field(at: usize, fields: &[(usize, &'static str)]) -> &'static str {
    fields
        .iter()
        .filter(|(o, _)| *o <= at)
        .max_by_key(|(o, _)| *o)
        .map_or("?", |(_, n)| n)
}

macro_rules! fields {
    ($t:ty: $($f:ident),*) => { &[$((offset_of!($t, $f), stringify!($f))),*] };
}

/// What stands at this address.
pub(super) fn name(segment: &Segment, address: usize) -> String {
    let g = &segment.geo;
    let at = address.wrapping_sub(segment.base_address());
    let within = |from: usize, each: usize, count: usize| {
        (at >= from && at < from + each * count).then(|| ((at - from) / each, (at - from) % each))
    };
    if at < size_of::<Header>() {
        return header(at);
    }
    if let Some((p, o)) = within(g.procs_at, size_of::<ProcRecord>(), MAX_P) {
        return proc(p, o);
    }
    if let Some((p, o)) = within(g.areas_at, size_of::<ProcArea>(), MAX_P) {
        return format!(
            "P{p}.{}",
            field(o, fields!(ProcArea: cached, handles, ring))
        );
    }
    if let Some((w, o)) = within(g.workers_at, size_of::<WorkerRecord>(), MAX_WORKERS) {
        return format!(
            "worker{w}.{}",
            field(
                o,
                fields!(WorkerRecord: word, home, pc, mode, parked_by, round_epoch, runs, migrations, scanned, moved_at_ns, seq)
            )
        );
    }
    if let Some((p, _)) = within(g.slots_at, size_of::<SlotRecord>(), MAX_P) {
        return format!("P{p}.gc_bg_mark_worker");
    }
    if let Some((j, _)) = within(g.root_jobs_at, 8, ROOT_JOBS) {
        return format!("root_job{j}");
    }
    if let Some((r, o)) = within(g.roots_at, size_of::<RootRecord>(), ROOTS) {
        return format!("root{r}+{o}");
    }
    if let Some((t, o)) = within(g.tasks_at, size_of::<TaskRecord>(), g.tasks) {
        return format!(
            "task{t}.{}",
            field(
                o,
                fields!(TaskRecord: word, context, commit, join, kind, steps, wake_at_ns, tries, last_death, error, error_code)
            )
        );
    }
    if let Some((p, o)) = within(g.spans_at, size_of::<SpanRecord>(), g.pages) {
        return format!(
            "span{p}.{}",
            field(
                o,
                fields!(SpanRecord: word, pages, free_index, live, next, listed, shape)
            )
        );
    }
    if let Some((b, o)) = within(g.workbufs_at, WORKBUF_BYTES, g.workbufs) {
        return format!("workbuf{b}+{o}");
    }
    if at >= g.heap_at {
        return format!("object{:#x}", (at - g.heap_at) / 8);
    }
    let tables = [
        (g.task_free_at, "task_free"),
        (g.task_free_upper_at, "task_free_upper"),
        (g.task_run_at, "task_run"),
        (g.task_run_upper_at, "task_run_upper"),
        (g.buf_words_at, "buf_word"),
        (g.buf_full_at, "buf_full"),
        (g.buf_full_upper_at, "buf_full_upper"),
        (g.buf_free_at, "buf_free"),
        (g.buf_free_upper_at, "buf_free_upper"),
        (g.chunk_words_at, "chunk_word"),
        (g.page_bits_at, "page_bits"),
        (g.marks_at[0], "marks_even"),
        (g.marks_at[1], "marks_odd"),
        (g.page_shapes_at, "page_shape"),
        (g.shapes_at, "shape"),
        (g.types_at, "type"),
        (g.kinds_at, "kind"),
    ];
    let table = field(at, &tables);
    let from = tables.iter().find(|(_, n)| *n == table).map_or(0, |t| t.0);
    format!("{table}[{}]", (at - from.min(at)) / 8)
}

fn header(at: usize) -> String {
    let (gc, sched) = (offset_of!(Header, gc), offset_of!(Header, sched));
    if at >= offset_of!(Header, seen) {
        return format!("seen[{}]", (at - offset_of!(Header, seen)) / 4);
    }
    if at >= sched && at < sched + size_of::<Sched>() {
        return format!(
            "sched.{}",
            field(
                at - sched,
                fields!(Sched: gomaxprocs, shutdown, task_high, workbuf_high, proc_high, worker_high, idle, spinning, next_timer_ns, global_next, redeliver_max, run, leases)
            )
        );
    }
    if at >= gc && at < gc + size_of::<Gc>() {
        return format!(
            "gc.{}",
            field(
                at - gc,
                fields!(Gc: phase, dirty, stop, stop_resume, overflow, requested_cycle, trigger_kind, sweep_cursor, pages_swept, heap_live, trigger, goal, marked_live, live_at_start, live_at_mark_end, bytes_marked, scan_work, bg_scan_credit, assist_ratio, trigger_ratio, gc_percent, dedicated_wanted, fractional_goal, idle_max, soft_limit, root_jobs, root_next, at_ns, rounds, checkmarks, verified_cycle, verifications, over_goal_permille)
            )
        );
    }
    format!(
        "header.{}",
        field(
            at,
            fields!(Header: id, committed_chunks, recovery, gc, sched, stats, seen)
        )
    )
}

fn proc(p: usize, o: usize) -> String {
    let now = offset_of!(ProcRecord, now);
    if o >= now && o < now + size_of::<InProgress>() {
        return format!(
            "P{p}.now.{}",
            field(
                o - now,
                fields!(InProgress: intent, shade, task, root_job, sweep_span, sweep_block, workbuf, worker, workbuf2, gcw, inflight)
            )
        );
    }
    format!(
        "P{p}.{}",
        field(
            o,
            fields!(ProcRecord: word, tid, armed, start_time, leased_at_ns, life, scope, ev, preempt, dedicated, mark_mode, activity, now, stats, update_seq, runq_head, runq_tail, runnext, runq)
        )
    )
}
