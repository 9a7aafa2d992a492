//! Verification: walks everything that is reachable, and accounts for every page.
//!
//! *Reachable* is what the roots lead to: named roots, handles, tasks. Every reference must name the first granule of a slot that is
//! taken, in a page of a span. *Pages* are free (by word and bit), in a span, the null page, or not committed; anything else is a
//! named leak.
#![expect(
    unsafe_code,
    reason = "reads reference fields of objects through addresses in the mapped heap"
)]

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::sync::AtomicU32;
use shm_layout::{
    CHUNK_PAGES, GRANULE_BYTES, PAGE_BYTES, PAGE_GRANULES, Ref,
    proc::ProcRecord,
    tables::{ShapeRecord, scan},
    word::{ProcWord, RootWord, SpanWord, TaskWord},
};

use crate::{
    Error,
    api::P,
    error::Result,
    gc::weak,
    heap::{marks, oracle, sweep},
    segment::Segment,
};

/// What a verification counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that the roots lead to.
    pub objects: u64,
    /// Their bytes, by slot.
    pub bytes: u64,
    /// Spans.
    pub spans: u64,
    /// Pages in spans.
    pub span_pages: u64,
    /// Bytes of slots that are taken and were not reached: garbage that no cycle has found yet, and what P's hold for their next
    /// allocations. Deep only, as what follows.
    pub floating_bytes: u64,
    /// Bytes free in spans, what is left at their ends included.
    pub free_slot_bytes: u64,
    /// Free pages.
    pub free_pages: u64,
    /// Pages of the heap: those of spans, the free ones, and the one that no reference names.
    pub pages: u64,
    /// What must not be, in words.
    pub findings: Vec<String>,
}

/// Stops the world and verifies the heap. With `deep`, also every page, queue and word.
///
/// ```
/// let mut p = coheap::P::lease(coheap::Segment::create(&Default::default()).unwrap()).unwrap();
/// assert!(coheap::gc::verify::verify(&mut p, true)?.findings.is_empty());
/// # Ok::<(), coheap::Error>(())
/// ```
///
/// # Errors
/// [`Error::Busy`] when the world cannot be stopped; [`Error::Violation`] when a table holds what no heap can have.
pub fn verify(p: &mut P, deep: bool) -> Result<Report> {
    let proc = p.proc();
    drop(crate::api::Inside::enter(proc));
    let _stopped = proc.stop_the_world()?;
    proc.seg.check()?; // what follows believes the tables
    Ok(report(&proc.seg, deep))
}

/// Findings of a deep verification while nobody else runs, for the explorer.
#[cfg(feature = "model")]
pub(crate) fn findings(
    proc: &crate::sched::proc::Proc,
) -> std::result::Result<Vec<String>, String> {
    drop(crate::api::Inside::enter(proc));
    Ok(report(&proc.seg, true).findings)
}

/// Walks and accounts while the world is stopped.
pub(crate) fn report(segment: &Segment, deep: bool) -> Report {
    let mut report = Report::default();
    let mut walk = Walk::new(segment);
    let mut findings = Vec::new();
    let (mut objects, mut bytes) = (0, 0);
    walk.run(&mut |parent, child| match check_object(segment, child) {
        Ok(size) => {
            objects += 1;
            bytes += size as u64;
            if let Some(Err(why)) = weak::target(segment, child).map(|t| check_object(segment, t)) {
                findings.push(format!(
                    "weak reference {child:#x} calls its object alive: {why}"
                ));
            }
            true
        }
        Err(why) => {
            findings.push(format!("object {parent:#x} refers to {child:#x}: {why}"));
            false
        }
    });
    report.objects = objects;
    report.bytes = bytes;
    report.findings = findings;
    if deep {
        check_pages(segment, &mut report);
        balance(&mut report);
        check_tasks(segment, &mut report);
        check_procs(segment, &mut report);
    }
    report
}

/// As [`verify`], but findings are an error.
///
/// # Errors
/// [`Error::Violation`] with the first finding; [`Error::Busy`].
pub fn verify_clean(p: &mut P, deep: bool) -> Result<Report> {
    let report = verify(p, deep)?;
    match report.findings.first() {
        None => Ok(report),
        Some(first) => Err(Error::Violation {
            what: format!("{first} ({} findings)", report.findings.len()),
        }),
    }
}

/// Is this the reference of a taken slot? Its bytes, or what is wrong.
fn check_object(segment: &Segment, r: Ref) -> std::result::Result<usize, String> {
    let page = r as usize / PAGE_GRANULES;
    if page == 0 || page >= segment.hdr.committed_chunks.0.load(Acquire) as usize * CHUNK_PAGES {
        return Err("outside the committed heap".into());
    }
    let head = segment.span_head(page);
    let span = &segment.spans[head];
    let word = SpanWord(span.word.load(Acquire));
    if !sweep::is_span(word) {
        return Err(format!(
            "page {page} is in no span (state {})",
            word.state()
        ));
    }
    let shape = &segment.shapes[span.shape.load(Relaxed) as usize];
    let bytes = shape.bytes.load(Relaxed) as usize;
    let offset = r as usize - head * PAGE_GRANULES;
    if bytes == 0 {
        return if offset == 0 {
            Ok(span.pages.load(Relaxed) as usize * PAGE_BYTES)
        } else {
            Err("inside a large object".into())
        };
    }
    let step = bytes / GRANULE_BYTES;
    if !offset.is_multiple_of(step) {
        return Err(format!("not the start of a slot of {bytes} bytes"));
    }
    let index = offset / step;
    let taken = (index as u32) < span.free_index.load(Relaxed)
        || marks::is_marked(segment.marks_of(u32::from(word.sweepgen())), r);
    let phase = segment.running_phase();
    let unswept = word.sweepgen() != sweep::sweepgen_of(phase);
    let dead = unswept && !marks::is_marked(segment.marks_of(phase.cycle()), r);
    match (taken, dead) {
        (false, _) => Err(format!("slot {index} is free")),
        (true, true) => Err("unmarked in the cycle that has just ended".into()),
        (true, false) if oracle::is_freed(segment, r, bytes) => {
            Err("it has been freed: its memory is filled with the pattern".into())
        }
        (true, false) => Ok(bytes),
    }
}

/// Every byte is something: reachable, taken and not reached, free in a span, in a free page, or named in a finding.
fn balance(report: &mut Report) {
    let taken = report.span_pages * PAGE_BYTES as u64 - report.free_slot_bytes;
    match taken.checked_sub(report.bytes) {
        Some(floating) => report.floating_bytes = floating,
        None => report.findings.push(format!(
            "{} bytes are reachable and only {taken} taken",
            report.bytes
        )),
    }
    // Pages in other states have a finding each.
    let known = 1 + report.span_pages + report.free_pages;
    if report.findings.is_empty() && known != report.pages {
        report.findings.push(format!(
            "{} pages in all, but {known} in spans, free or reserved",
            report.pages
        ));
    }
}

fn check_pages(segment: &Segment, report: &mut Report) {
    let committed = segment.hdr.committed_chunks.0.load(Acquire) as usize * CHUNK_PAGES;
    report.pages = committed as u64;
    let mut page = 1;
    while page < committed {
        let word = SpanWord(segment.spans[page].word.load(Acquire));
        let free_bit = segment.page_bits[page / 64].load(Acquire) >> (page % 64) & 1 != 0;
        match word.state() {
            SpanWord::FREE => {
                report.free_pages += 1;
                if !free_bit && chunk_is_ready(segment, page) {
                    report.findings.push(format!(
                        "page {page} is free by its word, taken by its bit: leaked"
                    ));
                }
                if marks::count(segment.marks[0], page, 1) + marks::count(segment.marks[1], page, 1)
                    != 0
                {
                    report
                        .findings
                        .push(format!("free page {page} has mark bits"));
                }
                page += 1;
            }
            _ if sweep::is_span(word) => {
                let pages = segment.spans[page].pages.load(Relaxed) as usize;
                report.spans += 1;
                report.span_pages += pages as u64;
                report.free_slot_bytes +=
                    (pages * PAGE_BYTES) as u64 - taken_bytes(segment, page, pages);
                check_span(segment, page, pages, report);
                page += pages.max(1);
            }
            state => {
                report.findings.push(format!(
                    "page {page} is in state {state} although nobody is working on it"
                ));
                page += 1;
            }
        }
    }
}

/// Bytes of the taken slots of a span.
fn taken_bytes(segment: &Segment, page: usize, pages: usize) -> u64 {
    let span = &segment.spans[page];
    let bytes = segment.shapes[span.shape.load(Relaxed) as usize]
        .bytes
        .load(Relaxed) as usize;
    if bytes == 0 {
        return (pages * PAGE_BYTES) as u64;
    }
    let bits = segment.marks_of(u32::from(SpanWord(span.word.load(Acquire)).sweepgen()));
    let first = page * PAGE_GRANULES;
    let below = (span.free_index.load(Relaxed) as usize).min(pages * PAGE_BYTES / bytes);
    let beyond = (below..pages * PAGE_BYTES / bytes)
        .filter(|slot| marks::is_marked(bits, (first + slot * (bytes / GRANULE_BYTES)) as Ref))
        .count();
    ((below + beyond) * bytes) as u64
}

fn chunk_is_ready(segment: &Segment, page: usize) -> bool {
    let word = shm_layout::word::JobWord(segment.chunk_words[page / CHUNK_PAGES].load(Acquire));
    word.state() == 2
}

fn check_span(segment: &Segment, page: usize, pages: usize, report: &mut Report) {
    let word = SpanWord(segment.spans[page].word.load(Acquire));
    if word.state() == SpanWord::SWEEPING {
        report.findings.push(format!(
            "span {page} is being swept by P{} although the world is stopped",
            word.p()
        ));
    }
    if word.state() == SpanWord::CACHED {
        let owner = ProcWord(segment.procs[word.p() as usize].word.0.load(Acquire));
        let lease = shm_layout::word::Owner::new(word.p(), owner.inc());
        if owner.state() == ProcWord::VACANT || lease != word.owner() {
            report.findings.push(format!(
                "span {page} is cached by P{}, a lease that has ended",
                word.p()
            ));
        }
    }
    if word.sweepgen() == sweep::sweepgen_of(segment.running_phase())
        && let Some(r) =
            oracle::first_written(segment, page, segment.marks_of(u32::from(word.sweepgen())))
    {
        report
            .findings
            .push(format!("free memory at {r:#x} was written to"));
    }
    for body in page + 1..page + pages {
        if SpanWord(segment.spans[body].word.load(Acquire)).state() != SpanWord::BODY {
            report
                .findings
                .push(format!("page {body} should belong to the span at {page}"));
        }
    }
}

fn check_tasks(segment: &Segment, report: &mut Report) {
    let high = segment.hdr.sched.task_high.load(Acquire) as usize;
    let queued = |task: usize| {
        let bit = segment.task_run.bits[task / 64].load(Acquire) >> (task % 64) & 1 != 0;
        bit || segment.used_procs().iter().any(|r| in_ring(r, task))
    };
    for (i, task) in segment.tasks[..high].iter().enumerate() {
        let word = TaskWord(task.word.load(Acquire));
        match word.state() {
            TaskWord::RUNNABLE if !queued(i) => report
                .findings
                .push(format!("task {i} is runnable and stands in no queue")),
            TaskWord::RUNNING | TaskWord::COMMITTED | TaskWord::RESERVED => {
                let owner = ProcWord(segment.procs[word.p() as usize].word.0.load(Acquire));
                let lease = shm_layout::word::Owner::new(word.p(), owner.inc());
                if owner.state() == ProcWord::VACANT || lease != word.owner() {
                    report.findings.push(format!(
                        "task {i} is in the hands of P{}, a lease that has ended",
                        word.p()
                    ));
                }
            }
            _ => {}
        }
    }
}

fn in_ring(record: &ProcRecord, task: usize) -> bool {
    let (head, tail) = (
        record.runq_head.0.load(Acquire),
        record.runq_tail.0.load(Acquire),
    );
    let ring = (head..head.wrapping_add(tail.wrapping_sub(head)))
        .any(|i| record.runq.0[i as usize % record.runq.0.len()].load(Relaxed) == task as u32);
    ring || record.runnext.load(Acquire) == task as u32 + 1
        || record.now.0.task.load(Acquire) == task as u32 + 1
}

fn check_procs(segment: &Segment, report: &mut Report) {
    for (p, record) in segment.used_procs().iter().enumerate() {
        if ProcWord(record.word.0.load(Acquire)).state() == ProcWord::VACANT
            && record.now.0.intent.load(Acquire) != 0
        {
            report
                .findings
                .push(format!("P{p} is vacant and has an intent"));
        }
    }
}

/// A reference in words, for reports.
pub(crate) fn describe(segment: &Segment, r: Ref) -> String {
    let page = r as usize / PAGE_GRANULES;
    if page >= segment.hdr.committed_chunks.0.load(Acquire) as usize * CHUNK_PAGES {
        return "outside the committed heap".into();
    }
    let head = segment.span_head(page);
    let span = &segment.spans[head];
    let word = SpanWord(span.word.load(Acquire));
    let bytes = segment.shapes[span.shape.load(Relaxed) as usize]
        .bytes
        .load(Relaxed);
    let index = (r as usize - head * PAGE_GRANULES) * GRANULE_BYTES / (bytes as usize).max(1);
    format!(
        "slot {index} of {bytes} bytes, free_index {}, span state {} of P{} generation {}, marks {} {}",
        span.free_index.load(Relaxed),
        word.state(),
        word.p(),
        word.sweepgen(),
        marks::is_marked(segment.marks[0], r),
        marks::is_marked(segment.marks[1], r)
    )
}

/// A walk over everything reachable, with a private visited set.
pub(crate) struct Walk<'s> {
    segment: &'s Segment,
    visited: Vec<u64>,
    stack: Vec<Ref>,
}

impl<'s> Walk<'s> {
    pub fn new(segment: &'s Segment) -> Walk<'s> {
        let granules =
            segment.hdr.committed_chunks.0.load(Acquire) as usize * CHUNK_PAGES * PAGE_GRANULES;
        Walk {
            segment,
            visited: vec![0; granules.div_ceil(64)],
            stack: Vec::new(),
        }
    }

    /// Visits each reachable object once, with the object that led to it (0: a root); goes on below it if `visit` says so.
    pub fn run(&mut self, visit: &mut dyn FnMut(Ref, Ref) -> bool) {
        let mut roots = Vec::new();
        each_root(self.segment, &mut |r| roots.push(r));
        for &r in &roots {
            self.meet(0, r, visit);
        }
        let mut children = roots;
        while let Some(parent) = self.stack.pop() {
            children.clear();
            each_reference(self.segment, parent, &mut |child| children.push(child));
            for &child in &children {
                self.meet(parent, child, visit);
            }
        }
    }

    fn meet(&mut self, parent: Ref, child: Ref, visit: &mut dyn FnMut(Ref, Ref) -> bool) {
        if child as usize * GRANULE_BYTES >= self.segment.geo.limit_bytes as usize {
            visit(parent, child); // names nothing: not looked into, whatever they say
            return;
        }
        // The heap may have grown since the walk began.
        if self.visited.len() <= child as usize / 64 {
            self.visited.resize(child as usize / 64 + 1, 0);
        }
        let word = &mut self.visited[child as usize / 64];
        let bit = 1 << (child % 64);
        if *word & bit == 0 {
            *word |= bit;
            if visit(parent, child) {
                self.stack.push(child);
            }
        }
    }
}

/// Every root's reference, nil left out.
fn each_root(segment: &Segment, f: &mut dyn FnMut(Ref)) {
    for root in segment.roots {
        let r = RootWord(root.value.load(Acquire)).reference();
        if r != 0 {
            f(r);
        }
    }
    each_unnamed_root(segment, f);
}

/// The references of handles and tasks, nil left out.
pub(crate) fn each_unnamed_root(segment: &Segment, f: &mut dyn FnMut(Ref)) {
    let mut root = |r: Ref| {
        if r != 0 {
            f(r);
        }
    };
    for (p, record) in segment.used_procs().iter().enumerate() {
        if ProcWord(record.word.0.load(Acquire)).state() != ProcWord::VACANT
            && record.armed.load(Acquire) == 1
        {
            segment.areas[p]
                .handles
                .iter()
                .for_each(|h| root(h.load(Acquire)));
        }
    }
    let high = segment.hdr.sched.task_high.load(Acquire) as usize;
    for task in &segment.tasks[..high] {
        let word = TaskWord(task.word.load(Acquire));
        let unfilled = word.state() == TaskWord::RESERVED && word.sel() == 1;
        if word.state() == TaskWord::FREE || unfilled {
            continue;
        }
        root(task.context[word.sel() as usize].load(Acquire));
        root(task.join.load(Acquire));
        root(task.error.load(Acquire));
        if word.state() == TaskWord::COMMITTED {
            root(task.commit.load(Acquire));
        }
    }
}

/// Every reference in an object, nil left out.
pub(crate) fn each_reference(segment: &Segment, r: Ref, f: &mut dyn FnMut(Ref)) {
    let page = r as usize / PAGE_GRANULES;
    let shape = &segment.shapes[segment.page_shapes[page].load(Relaxed) as usize];
    let at = segment.object(r);
    match shape.scan.load(Relaxed) {
        scan::NONE | scan::WEAK => {}
        scan::MAP => each_mapped(at, shape, shm_layout::tables::MAP_WORDS * 64, f),
        _ => {
            let stride = shape.stride.load(Relaxed) as usize;
            let room = match shape.bytes.load(Relaxed) as usize {
                0 => {
                    segment.spans[segment.span_head(page)].pages.load(Relaxed) as usize * PAGE_BYTES
                }
                bytes => bytes,
            };
            // Bounded: a count that is none must not lead out of the object.
            let count = (load(at) as usize).min((room - 8) / stride);
            for i in 0..count {
                each_mapped(
                    at.wrapping_add(8 + i * stride),
                    shape,
                    stride.div_ceil(4),
                    f,
                );
            }
        }
    }
}

fn each_mapped(at: *mut u8, shape: &ShapeRecord, words: usize, f: &mut dyn FnMut(Ref)) {
    for i in 0..words.min(shape.map.len() * 64) {
        if shape.map[i / 64].load(Relaxed) >> (i % 64) & 1 != 0 {
            let r = load(at.wrapping_add(i * 4));
            if r != 0 {
                f(r);
            }
        }
    }
}

/// The text of a string object that something keeps alive; at most 4 KiB of it.
pub(crate) fn read_text(segment: &Segment, r: Ref) -> String {
    let room = (segment.geo.limit_bytes as usize).saturating_sub(r as usize * GRANULE_BYTES + 8);
    if room == 0 {
        return String::new();
    }
    let at = segment.object(r);
    let len = (load(at) as usize).min(4096).min(room);
    // SAFETY: 1. A string is a count and that many bytes, which never change. 2. It is alive: see above.
    let bytes = unsafe { std::slice::from_raw_parts(at.wrapping_add(8), len) };
    String::from_utf8_lossy(bytes).into_owned()
}

fn load(at: *mut u8) -> u32 {
    // SAFETY: `at` is a four-byte aligned address inside an object, where its shape says "reference" or "count"; accessed as an
    // atomic by everybody.
    unsafe { AtomicU32::from_ptr(at.cast()) }.load(Acquire)
}
