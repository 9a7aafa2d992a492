//! Tables for people: mark worker slots, named roots, what the heap is made of. Reads only, without stopping anybody, so the rows of
//! a table were read one after the other.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::{
    CHUNK_PAGES, PAGE_BYTES,
    size_class::span_objects,
    tables::scan,
    word::{RootWord, SlotWord, SpanWord, WorkerWord},
};

use crate::{gc::gc_bg_mark_worker::used_workers, names, segment::Segment, time::now_ns};

/// The slot of a P's mark worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// The P whose slot it is.
    pub p: u16,
    /// empty, full or closed.
    pub slot: &'static str,
    /// The worker in it.
    pub worker: Option<u16>,
    /// running, runnable, parked or free.
    pub state: &'static str,
    /// P that runs it, or parked it last.
    pub by: Option<u16>,
    /// dedicated, fractional, idle, or - before its first run.
    pub mode: &'static str,
    /// Times it was claimed.
    pub runs: u32,
    /// Times another lease claimed it than the one that parked it.
    pub migrations: u32,
    /// Objects it has scanned.
    pub scanned: u32,
    /// Nanoseconds since its last transition.
    pub moved_ago_ns: u64,
}

/// A named root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootStatus {
    /// Its name.
    pub name: String,
    /// Type of what it refers to, once known.
    pub type_name: String,
    /// Does it refer to something?
    pub is_set: bool,
    /// Updates so far, modulo a large number.
    pub updates: u32,
}

/// All objects of one shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShapeStatus {
    /// Number of the shape.
    pub shape: u32,
    /// Bytes of an object; 0 for those with a span of their own.
    pub object_bytes: u32,
    /// none, map or array: how its references are found.
    pub scan: &'static str,
    /// References in an object, or in an element.
    pub references: u32,
    /// Spans.
    pub spans: u64,
    /// Bytes of these spans.
    pub span_bytes: u64,
    /// Objects that fit.
    pub capacity: u64,
    /// Objects in use when each span was swept last.
    pub objects: u64,
}

impl Segment {
    /// The slots of all P's ever leased.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.slots().is_empty());
    /// ```
    pub fn slots(&self) -> Vec<SlotStatus> {
        let slots = self.slots.iter().take(self.used_procs().len()).enumerate();
        slots
            .map(|(p, slot)| self.slot(p, SlotWord(slot.word.load(Acquire))))
            .collect()
    }

    fn slot(&self, p: usize, word: SlotWord) -> SlotStatus {
        let mut status = SlotStatus {
            p: p as u16,
            slot: match word.state() {
                SlotWord::EMPTY => "empty",
                SlotWord::FULL => "full",
                _ => "closed",
            },
            state: "-",
            mode: "-",
            ..SlotStatus::default()
        };
        if word.state() != SlotWord::FULL {
            return status;
        }
        let Some(w) = used_workers(self).get(word.worker() as usize) else {
            return status;
        };
        let its = WorkerWord(w.word.load(Acquire));
        status.worker = Some(word.worker());
        status.state = match its.state() {
            WorkerWord::RUNNING => "running",
            WorkerWord::RUNNABLE => "runnable",
            WorkerWord::PARKED => "parked",
            _ => "free",
        };
        status.by = Some(its.p());
        status.mode = ["-", "dedicated", "fractional", "idle"][w.mode.load(Relaxed) as usize & 3];
        status.runs = w.runs.load(Relaxed);
        status.migrations = w.migrations.load(Relaxed);
        status.scanned = w.scanned.load(Relaxed);
        status.moved_ago_ns = now_ns().saturating_sub(w.moved_at_ns.load(Relaxed));
        status
    }

    /// The named roots, by name.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.named_roots().is_empty());
    /// ```
    pub fn named_roots(&self) -> Vec<RootStatus> {
        let type_name = |key: u64| {
            let record = self
                .types
                .iter()
                .find(|t| key != 0 && t.key.load(Acquire) == key);
            record.map_or(String::new(), |t| names::read(&t.name))
        };
        let mut roots: Vec<RootStatus> = self
            .roots
            .iter()
            .filter(|r| r.key.load(Acquire) != 0 && r.ready.load(Acquire) == 1)
            .map(|r| {
                let word = RootWord(r.value.load(Acquire));
                RootStatus {
                    name: names::read(&r.name),
                    type_name: type_name(r.type_key.load(Relaxed)),
                    is_set: word.reference() != 0,
                    updates: word.seq(),
                }
            })
            .collect();
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        roots
    }

    /// Names of the task kinds, by number; empty where there is none.
    pub fn task_kinds(&self) -> Vec<String> {
        let last = self.kinds.iter().rposition(|k| k.key.load(Acquire) != 0);
        let known = &self.kinds[..last.map_or(0, |last| last + 1)];
        known.iter().map(|k| names::read(&k.name)).collect()
    }

    /// What the heap is made of, by shape, the largest first.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(segment.shapes_in_use().is_empty());
    /// ```
    pub fn shapes_in_use(&self) -> Vec<ShapeStatus> {
        let pages = self.chunks_used() * CHUNK_PAGES;
        let mut rows: Vec<ShapeStatus> = self.shapes.iter().enumerate().map(shape).collect();
        for span in &self.spans[..pages.min(self.spans.len())] {
            let state = SpanWord(span.word.load(Acquire)).state();
            if matches!(state, SpanWord::FREE | SpanWord::BODY | SpanWord::CLAIMED) {
                continue;
            }
            let Some(row) = rows.get_mut(span.shape.load(Relaxed) as usize) else {
                continue;
            };
            let record = &self.shapes[row.shape as usize];
            let class = record.class.load(Relaxed);
            row.spans += 1;
            row.span_bytes += u64::from(span.pages.load(Relaxed)) * PAGE_BYTES as u64;
            row.capacity += if class == u32::MAX {
                1
            } else {
                span_objects(class as usize) as u64
            };
            row.objects += u64::from(span.live.load(Relaxed));
        }
        rows.retain(|row| row.spans > 0);
        rows.sort_by_key(|row| std::cmp::Reverse(row.span_bytes));
        rows
    }
}

fn shape((number, record): (usize, &shm_layout::tables::ShapeRecord)) -> ShapeStatus {
    ShapeStatus {
        shape: number as u32,
        object_bytes: record.bytes.load(Relaxed),
        scan: match record.scan.load(Relaxed) {
            scan::NONE => "none",
            scan::MAP => "map",
            scan::WEAK => "weak",
            _ => "array",
        },
        references: record
            .map
            .iter()
            .map(|w| w.load(Relaxed).count_ones())
            .sum(),
        ..ShapeStatus::default()
    }
}
