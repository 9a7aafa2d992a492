//! Is this a segment whose tables can be believed? Asked before anything is done with one that others have made.
//!
//! Every index, count and offset in the segment is bounded here against the geometry, and a value out of bounds is an error with
//! the table's name in it. [`counts`] looks at what every reader uses (the header, P's, workers, slots, shapes, roots): a few hundred
//! records, at each opening. [`Segment::check`] looks at every span, task and buffer too: for whoever takes a heap over, or verifies it.
//!
//! **Invariants.** B1: a bound holds at every moment of a healthy heap, so a live one can be looked at; where two words belong
//! together (a span and its length) the first is read again before the second is judged. B2: nothing is written.
//! What is *not* promised: that a process which scribbles over the segment later is noticed.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::{
    CHUNK_PAGES, GRANULE_BYTES, MAX_P, MAX_WORKERS,
    geometry::ROOT_JOBS,
    proc::{ProcRecord, RUNQ},
    size_class,
    sync::AtomicU32,
    tables::{KINDS, SHAPES, ShapeRecord, scan},
    word::{
        BufWord, IntentWord, ListHead, Owner, PhaseWord, ProcWord, RootWord, SlotWord, SpanWord,
        TaskWord, WorkerWord,
    },
    workbuf::WORKBUF_REFS,
};

use super::Segment;
use crate::{
    Error,
    error::Result,
    heap::{shapes::Shape, sweep::BLOCK_PAGES},
    robust,
};

/// A value that is too large, or the word that is none.
struct Bad {
    table: &'static str,
    index: usize,
    value: u64,
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Error {
        Error::Violation {
            what: format!(
                "{} {} holds {:#x}, which no heap of this size has",
                bad.table, bad.index, bad.value
            ),
        }
    }
}

type Checked = std::result::Result<(), Bad>;

fn within(table: &'static str, index: usize, value: impl Into<u64>, most: usize) -> Checked {
    let value = value.into();
    if value <= most as u64 {
        Ok(())
    } else {
        Err(Bad {
            table,
            index,
            value,
        })
    }
}

/// What every reader uses.
pub(super) fn counts(segment: &Segment) -> Result<()> {
    Ok(header(segment)
        .and_then(|()| procs(segment))
        .and_then(|()| workers(segment))
        .and_then(|()| shapes(segment))
        .and_then(|()| roots(segment))?)
}

impl Segment {
    /// Checks every bound of every table; a heap that others use may be checked too.
    ///
    /// ```
    /// coheap::Segment::create(&Default::default())?.check()?;
    /// # Ok::<(), coheap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Violation`] naming the first table, record and value that no heap of this size can have.
    pub fn check(&self) -> Result<()> {
        counts(self)?;
        Ok(spans(self)
            .and_then(|()| tasks(self))
            .and_then(|()| buffers(self))?)
    }

    /// One past the largest reference.
    fn granules(&self) -> usize {
        self.geo.limit_bytes as usize / GRANULE_BYTES - 1
    }
}

fn header(s: &Segment) -> Checked {
    let (gc, sched) = (&s.hdr.gc, &s.hdr.sched);
    let chunks = s.hdr.committed_chunks.0.load(Acquire);
    within("committed chunks", 0, chunks, s.geo.chunks)?;
    within("P's", 0, sched.proc_high.load(Acquire), MAX_P)?;
    within(
        "mark workers",
        0,
        sched.worker_high.load(Acquire),
        MAX_WORKERS,
    )?;
    within("tasks", 0, sched.task_high.load(Acquire), s.geo.tasks)?;
    within(
        "work buffers",
        0,
        sched.workbuf_high.load(Acquire),
        s.geo.workbufs,
    )?;
    within(
        "P's that may run",
        0,
        sched.gomaxprocs.0.load(Acquire),
        u16::MAX.into(),
    )?;
    let phase = s.phase();
    within("phase", 0, phase.kind(), PhaseWord::STOPPED.into())?;
    within(
        "phase after the stop",
        0,
        gc.stop_resume.load(Acquire),
        PhaseWord::ROUND.into(),
    )?;
    let stop = gc.stop.0.load(Acquire);
    within("stop word", 0, stop >> 32, MAX_P)?;
    // Who has stopped the world says so before and after; nobody would start it again.
    if phase.kind() == PhaseWord::STOPPED && !is_held(s, stop) && s.phase() == phase {
        return Err(Bad {
            table: "stop word",
            index: 0,
            value: stop,
        });
    }
    within("root jobs", 0, gc.root_jobs.load(Acquire), ROOT_JOBS)?;
    let swept = gc.sweep_cursor.0.load(Acquire) & 0xffff_ffff;
    within("sweep cursor", 0, swept, s.geo.pages + 64)?;
    let lock: Vec<u64> = s.hdr.recovery.0.iter().map(|w| w.load(Relaxed)).collect();
    if robust::is_one(&lock) {
        Ok(())
    } else {
        Err(Bad {
            table: "recovery lock",
            index: 0,
            value: lock[2],
        })
    }
}

/// Does a P of that lease hold the world?
fn is_held(s: &Segment, stop: u64) -> bool {
    let Some(p) = (stop >> 32).checked_sub(1) else {
        return false;
    };
    let word = ProcWord(s.procs[p as usize].word.0.load(Acquire));
    word.state() != ProcWord::VACANT && Owner::new(0, word.inc()).inc == stop as u32
}

fn procs(s: &Segment) -> Checked {
    for (p, record) in s.used_procs().iter().enumerate() {
        let word = ProcWord(record.word.0.load(Acquire));
        within("life of P", p, word.state(), ProcWord::DEAD.into())?;
        queue(s, p, record)?;
        in_progress(s, p, record)?;
        let slot = SlotWord(s.slots[p].word.load(Acquire));
        within("slot of P", p, slot.state(), SlotWord::FULL.into())?;
        within("slot of P", p, slot.worker(), MAX_WORKERS - 1)?;
        // Only an armed lease has an area for certain.
        if record.armed.load(Acquire) == 1 {
            let area = &s.areas[p];
            all("cached span of P", p, &area.cached, s.geo.pages)?;
            all("handle of P", p, &area.handles, s.granules())?;
        }
    }
    Ok(())
}

fn all(table: &'static str, index: usize, values: &[AtomicU32], most: usize) -> Checked {
    values
        .iter()
        .try_for_each(|v| within(table, index, v.load(Relaxed), most))
}

fn queue(s: &Segment, p: usize, record: &ProcRecord) -> Checked {
    // The tail first: it only runs away from a head read later.
    let tail = record.runq_tail.0.load(Acquire);
    let head = record.runq_head.0.load(Acquire);
    let length = tail.wrapping_sub(head) as i32;
    within("run queue of P", p, length.max(0) as u32, RUNQ)?;
    within(
        "next task of P",
        p,
        record.runnext.load(Relaxed),
        s.geo.tasks,
    )?;
    all("run queue of P", p, &record.runq.0, s.geo.tasks)
}

fn in_progress(s: &Segment, p: usize, record: &ProcRecord) -> Checked {
    let now = &record.now.0;
    let table = "what is in progress in P";
    let intent = IntentWord(now.intent.load(Acquire));
    within(
        table,
        p,
        u64::from(intent.start()) + u64::from(intent.count()),
        s.geo.pages,
    )?;
    within(table, p, now.task.load(Relaxed), s.geo.tasks)?;
    within(table, p, now.root_job.load(Relaxed), ROOT_JOBS)?;
    within(table, p, now.sweep_span.load(Relaxed), s.geo.pages)?;
    within(
        table,
        p,
        now.sweep_block.load(Relaxed),
        s.geo.pages.div_ceil(BLOCK_PAGES), // the number of a block, and one
    )?;
    for buf in [&now.workbuf, &now.workbuf2, &now.gcw[0], &now.gcw[1]] {
        within(table, p, buf.load(Relaxed), s.geo.workbufs)?;
    }
    within(table, p, now.worker.load(Relaxed), MAX_WORKERS)?;
    within(table, p, now.shade.load(Relaxed), s.granules())?;
    all(table, p, &now.inflight, s.granules())
}

fn workers(s: &Segment) -> Checked {
    let high = s.hdr.sched.worker_high.load(Acquire) as usize;
    for (g, w) in s.workers[..high].iter().enumerate() {
        let word = WorkerWord(w.word.load(Acquire));
        within("mark worker", g, word.state(), WorkerWord::PARKED.into())?;
        owner("mark worker", g, word.owner())?;
        within(
            "home of mark worker",
            g,
            w.home.load(Relaxed) >> 32,
            MAX_P - 1,
        )?;
    }
    Ok(())
}

/// A P that is one, or the recoverer's mark.
fn owner(table: &'static str, index: usize, owner: Owner) -> Checked {
    if owner.p == Owner::RECOVERER {
        return Ok(());
    }
    within(table, index, owner.p, MAX_P - 1)
}

fn shapes(s: &Segment) -> Checked {
    for (i, shape) in s.shapes.iter().enumerate() {
        if shape.ready.load(Acquire) != 0 && !is_shape(shape) {
            let value = shape.key.load(Relaxed);
            return Err(Bad {
                table: "shape",
                index: i,
                value,
            });
        }
        let list = ListHead(shape.partial.load(Relaxed));
        within("list of shape", i, list.top(), s.geo.pages)?;
    }
    Ok(())
}

fn is_shape(shape: &ShapeRecord) -> bool {
    let class = shape.class.load(Relaxed);
    let bytes = shape.bytes.load(Relaxed);
    let sized = if class == Shape::LARGE {
        bytes == 0
    } else {
        (class as usize) < size_class::CLASSES
            && bytes as usize == size_class::class_bytes(class as usize)
    };
    let stride = shape.stride.load(Relaxed) as usize;
    let scanned = match shape.scan.load(Relaxed) {
        scan::NONE => true,
        scan::MAP => class == Shape::LARGE || bytes != 0,
        scan::WEAK => bytes as usize == size_of::<shm_layout::word::WeakWord>(),
        scan::ARRAY => (4..=shm_layout::tables::MAP_WORDS * 256).contains(&stride),
        _ => false,
    };
    sized && scanned
}

fn roots(s: &Segment) -> Checked {
    let values = s.roots.iter().enumerate();
    values
        .map(|(i, r)| (i, RootWord(r.value.load(Acquire)).reference()))
        .try_for_each(|(i, r)| within("root", i, r, s.granules()))
}

fn spans(s: &Segment) -> Checked {
    let pages = s.hdr.committed_chunks.0.load(Acquire) as usize * CHUNK_PAGES;
    for (c, word) in s.chunk_words.iter().enumerate() {
        let state = shm_layout::word::JobWord(word.load(Acquire)).state();
        within("chunk", c, state, 4)?;
    }
    for page in 0..pages {
        span(s, page, pages)?;
    }
    Ok(())
}

fn span(s: &Segment, page: usize, pages: usize) -> Checked {
    let record = &s.spans[page];
    let word = record.word.load(Acquire);
    let seen = SpanWord(word);
    within("span", page, seen.state(), SpanWord::BODY.into())?;
    owner("owner of span", page, seen.owner())?;
    let length = record.pages.load(Acquire) as usize;
    let shape = record.shape.load(Acquire) as usize;
    let page_shape = usize::from(s.page_shapes[page].load(Acquire));
    if record.word.load(Acquire) != word {
        return Ok(()); // it is being changed just now (B1)
    }
    let fits = match seen.state() {
        SpanWord::CACHED | SpanWord::PARTIAL | SpanWord::FULL | SpanWord::SWEEPING => {
            length >= 1
                && length <= pages - page
                && shape < SHAPES
                && s.shapes[shape].ready.load(Acquire) != 0
                && page_shape == shape
        }
        // The null page is a body without a head.
        SpanWord::BODY => page == 0 || length >= 1 && length <= page && page_shape < SHAPES,
        _ => true,
    };
    let next = record.next.load(Relaxed);
    within("next of span", page, next, s.geo.pages)?;
    if fits {
        Ok(())
    } else {
        Err(Bad {
            table: "length or shape of span",
            index: page,
            value: word,
        })
    }
}

fn tasks(s: &Segment) -> Checked {
    let high = s.hdr.sched.task_high.load(Acquire) as usize;
    for (i, task) in s.tasks[..high].iter().enumerate() {
        let word = TaskWord(task.word.load(Acquire));
        within("task", i, word.state(), TaskWord::FAILED.into())?;
        owner("owner of task", i, word.owner())?;
        within("kind of task", i, task.kind.load(Relaxed), KINDS - 1)?;
        all("context of task", i, &task.context, s.granules())?;
        for r in [&task.commit, &task.join, &task.error] {
            within("reference of task", i, r.load(Relaxed), s.granules())?;
        }
    }
    Ok(())
}

fn buffers(s: &Segment) -> Checked {
    let high = s.hdr.sched.workbuf_high.load(Acquire) as usize;
    for (i, word) in s.buf_words[..high].iter().enumerate() {
        let word = BufWord(word.load(Acquire));
        within("work buffer", i, word.state(), BufWord::FULL.into())?;
        owner("work buffer", i, word.owner())?;
        let buf = &s.bufs[i];
        let len = buf.len.load(Acquire) as usize;
        within("length of work buffer", i, len as u64, WORKBUF_REFS)?;
        all("work buffer", i, &buf.refs[..len], s.granules())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{P, SegmentConfig};

    /// A heap whose sweeper was in its upper three quarters could not be opened: the bound was that of blocks of 64 pages.
    #[test]
    fn a_heap_can_be_opened_while_its_last_block_is_swept_and_not_with_one_beyond() {
        let segment = Segment::create(&SegmentConfig::default()).expect("a small segment");
        let p = P::lease(segment.clone()).expect("a P");
        let block = &segment.procs[p.index()].now.0.sweep_block;
        let last = segment.geo.pages / BLOCK_PAGES;
        let open = || {
            let fd = rustix::io::fcntl_dupfd_cloexec(segment.fd(), 0).expect("a descriptor");
            Segment::open_fd(fd).map(drop)
        };
        block.store(last as u32, Relaxed);
        open().expect("what a sweeper writes");
        block.store(last as u32 + 1, Relaxed);
        assert!(matches!(open(), Err(Error::Violation { .. })));
        block.store(0, Relaxed);
    }
}
