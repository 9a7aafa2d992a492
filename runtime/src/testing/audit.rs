//! The audit: what must not be while nobody works, each finding a sentence.
//!
//! 1. P's: nothing recorded as in progress; a vacant one has no handles, no cached spans, and a closed slot. 2. Work buffers: all free
//! and to be found; no finder hides a word. 3. Mark workers: free, or parked in the slot that designates them. 4. Tasks: none claimed,
//! no free record lost. 5. Chunks and pages: nothing half committed or half released, bits and span words agree, spans have owners.
//!
//! **Only for a quiet segment**: the caller has seen to it that the phase is "off" and every P is outside. What is in between is
//! right while somebody works, and a finding here.

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use shm_layout::{
    CHUNK_PAGES,
    word::{BufWord, JobWord, Owner, ProcWord, SlotWord, SpanWord, TaskWord, WorkerWord},
};

use super::state::is_vacant;
use crate::{heap::sweep, segment::Segment};

/// What must not be while nobody works: the phase is "off" and every P is outside.
pub fn audit(segment: &Segment) -> Vec<String> {
    let mut out = Vec::new();
    audit_procs(segment, &mut out);
    audit_buffers(segment, &mut out);
    audit_workers(segment, &mut out);
    audit_tasks(segment, &mut out);
    audit_chunks(segment, &mut out);
    out
}

fn live(segment: &Segment, owner: Owner) -> bool {
    segment.procs.get(owner.p as usize).is_some_and(|r| {
        let word = ProcWord(r.word.0.load(SeqCst));
        word.state() != ProcWord::VACANT && Owner::new(owner.p, word.inc()) == owner
    })
}

fn audit_procs(segment: &Segment, out: &mut Vec<String>) {
    if segment.hdr.gc.stop.0.load(SeqCst) != 0 {
        out.push("somebody holds the world stopped".into());
    }
    for (p, record) in segment.used_procs().iter().enumerate() {
        let vacant = is_vacant(segment, p);
        let now = &record.now.0;
        let left = [
            ("shade", &now.shade),
            ("task", &now.task),
            ("root_job", &now.root_job),
            ("sweep_span", &now.sweep_span),
            ("sweep_block", &now.sweep_block),
            ("workbuf", &now.workbuf),
            ("workbuf2", &now.workbuf2),
            ("worker", &now.worker),
            ("gcw", &now.gcw[0]),
            ("gcw", &now.gcw[1]),
        ];
        for (name, word) in left {
            if word.load(SeqCst) != 0 && (vacant || !matches!(name, "worker" | "task")) {
                out.push(format!(
                    "P{p} is idle and records {name} {}",
                    word.load(SeqCst)
                ));
            }
        }
        if now.intent.load(SeqCst) != 0 {
            out.push(format!("P{p} is idle and has an intent"));
        }
        if now.inflight.iter().any(|r| r.load(SeqCst) != 0) {
            out.push(format!("P{p} is idle and has references in flight"));
        }
        if vacant && (record.dedicated.load(SeqCst) != 0 || record.scope.0.load(SeqCst) & 8 != 0) {
            out.push(format!("P{p} is vacant, and inside or a budget holder"));
        }
        if vacant && SlotWord(segment.slots[p].word.load(SeqCst)).state() != SlotWord::CLOSED {
            out.push(format!("P{p} is vacant and its slot is open"));
        }
        if vacant && record.armed.load(SeqCst) == 0 && p < 4 {
            let area = &segment.areas[p];
            if area.handles.iter().any(|h| h.load(SeqCst) != 0) {
                out.push(format!("P{p} is vacant and has handles"));
            }
            if area.cached.iter().any(|c| c.load(SeqCst) != 0) {
                out.push(format!("P{p} is vacant and has cached spans"));
            }
        }
    }
}

fn audit_buffers(segment: &Segment, out: &mut Vec<String>) {
    let high = segment.hdr.sched.workbuf_high.load(SeqCst) as usize;
    let bit = |finder: &shm_layout::bits::Finder<'_>, i: usize| {
        finder.bits[i / 64].load(SeqCst) >> (i % 64) & 1 != 0
    };
    for i in 0..high {
        let word = BufWord(segment.buf_words[i].load(SeqCst));
        match word.state() {
            BufWord::FREE if !bit(&segment.buf_free, i) => {
                out.push(format!(
                    "work buffer {i} is free and not to be found: leaked"
                ));
            }
            BufWord::FREE => {}
            BufWord::FULL => out.push(format!("work buffer {i} is published and no cycle is on")),
            _ => out.push(format!(
                "work buffer {i} is owned by P{} although nobody marks",
                word.p()
            )),
        }
    }
    for (name, finder, high) in [
        ("free buffer", &segment.buf_free, high),
        (
            "free task",
            &segment.task_free,
            segment.hdr.sched.task_high.load(SeqCst) as usize,
        ),
        (
            "queued task",
            &segment.task_run,
            segment.hdr.sched.task_high.load(SeqCst) as usize,
        ),
    ] {
        for w in 0..high.div_ceil(64) {
            let hidden = finder.bits[w].load(SeqCst) != 0
                && finder.upper[w / 64].load(SeqCst) >> (w % 64) & 1 == 0;
            if hidden {
                out.push(format!("finder of {name}s hides word {w}"));
            }
        }
    }
}

fn audit_workers(segment: &Segment, out: &mut Vec<String>) {
    for (g, w) in crate::gc::gc_bg_mark_worker::used_workers(segment)
        .iter()
        .enumerate()
    {
        let word = WorkerWord(w.word.load(SeqCst));
        let home = w.home.load(SeqCst);
        let slot = segment
            .slots
            .get((home >> 32) as usize)
            .map(|s| SlotWord(s.word.load(SeqCst)));
        let designated = slot == Some(SlotWord::full(g as u16, home as u32));
        match word.state() {
            WorkerWord::FREE if designated => {
                out.push(format!("mark worker {g} is free and stands in a slot"));
            }
            WorkerWord::FREE => {}
            WorkerWord::PARKED if designated => {}
            state => out.push(format!(
                "mark worker {g} is stranded: state {state}, P{}, designated {designated}",
                word.p()
            )),
        }
    }
    for (p, slot) in segment.slots.iter().enumerate() {
        let word = SlotWord(slot.word.load(SeqCst));
        if word.state() == SlotWord::FULL {
            let w = &segment.workers[word.worker() as usize];
            if WorkerWord(w.word.load(SeqCst)).state() != WorkerWord::PARKED
                || w.home.load(SeqCst) != (p as u64) << 32 | u64::from(word.inc())
            {
                out.push(format!(
                    "slot of P{p} designates worker {}, which is not its",
                    word.worker()
                ));
            }
        }
    }
}

fn audit_tasks(segment: &Segment, out: &mut Vec<String>) {
    let high = segment.hdr.sched.task_high.load(SeqCst) as usize;
    for (i, task) in segment.tasks[..high].iter().enumerate() {
        let word = TaskWord(task.word.load(SeqCst));
        let free_bit = segment.task_free.bits[i / 64].load(SeqCst) >> (i % 64) & 1 != 0;
        match word.state() {
            TaskWord::FREE if !free_bit => {
                out.push(format!(
                    "task record {i} is free and not to be found: leaked"
                ));
            }
            TaskWord::RESERVED | TaskWord::RUNNING | TaskWord::COMMITTED => {
                let who = if live(segment, word.owner()) {
                    "idle"
                } else {
                    "gone"
                };
                out.push(format!(
                    "task {i} is in state {} of P{}, which is {who}",
                    word.state(),
                    word.p()
                ));
            }
            _ => {}
        }
    }
}

fn audit_chunks(segment: &Segment, out: &mut Vec<String>) {
    let committed = segment.hdr.committed_chunks.0.load(SeqCst) as usize;
    for c in 0..segment.geo.chunks {
        let word = JobWord(segment.chunk_words[c].load(SeqCst));
        match word.state() {
            0 if c < committed => out.push(format!("chunk {c} counts as committed and is absent")),
            1 | 3 => out.push(format!(
                "chunk {c} is being committed or released by nobody"
            )),
            4 => {
                let first = c * CHUNK_PAGES / 64;
                if segment.page_bits[first..first + CHUNK_PAGES / 64]
                    .iter()
                    .any(|w| w.load(SeqCst) != 0)
                {
                    out.push(format!("chunk {c} is released and has free pages"));
                }
            }
            _ => {}
        }
    }
    for page in 1..committed * CHUNK_PAGES {
        let word = SpanWord(segment.spans[page].word.load(SeqCst));
        let bit = segment.page_bits[page / 64].load(Acquire) >> (page % 64) & 1 != 0;
        if bit && word.state() != SpanWord::FREE {
            out.push(format!(
                "page {page} is free by its bit and in a span by its word"
            ));
        }
        if sweep::is_span(word) && word.state() == SpanWord::CACHED && !live(segment, word.owner())
        {
            out.push(format!("span {page} is cached by nobody"));
        }
        if word.state() == SpanWord::BODY {
            let back = segment.spans[page].pages.load(Relaxed) as usize;
            if back == 0
                || back > page
                || !sweep::is_span(SpanWord(segment.spans[page - back].word.load(SeqCst)))
            {
                out.push(format!("page {page} is inside a span that is none"));
            }
        }
    }
}
