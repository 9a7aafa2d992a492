//! Who keeps what alive: the bytes of the heap by the root that holds them.
//!
//! 1. Every object gets the label of the first root that leads to it. 2. One that is met again by another root is *shared*, and so is
//!    all below it. An object is looked at twice at the most, so the time is linear, however many roots there are.
//!
//! What a root holds *alone* is what becomes garbage when the root is set to nil; the rows add up to everything reachable.
//!
//! The walk is one scope of a P: mutators go on, a cycle of the collector waits for its end. What changes meanwhile may be counted as
//! it was or as it is. **If the process dies** nothing is left but a P to recover: labels are private memory.
//! **Rejected:** a dominator tree, which would tell what *pairs* of roots hold: nobody has asked, and it takes a word per edge.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use shm_layout::{CHUNK_PAGES, PAGE_BYTES, PAGE_GRANULES, Ref, word::RootWord};

use crate::{
    api::{Inside, P},
    error::Result,
    gc::verify::{each_reference, each_unnamed_root},
    names,
    segment::Segment,
};

/// What one root keeps alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Who: a named root, all handles and tasks together, or several of these.
    pub by: Holder,
    /// Objects.
    pub objects: u64,
    /// Their bytes, by slot.
    pub bytes: u64,
}

/// Who keeps an object alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The named root, and nothing else.
    Root(String),
    /// Handles of processes, and tasks.
    HandlesAndTasks,
    /// More than one of these: no single drop frees it.
    Several,
}

/// Labels: 0 not met, 1 several, 2 handles and tasks, 3 and up the named roots.
const SEVERAL: u16 = 1;
const OTHERS: u16 = 2;
const FIRST_ROOT: u16 = 3;

impl P {
    /// What each named root, the handles and tasks, and several of these together keep alive, the largest first.
    ///
    /// Takes a quarter of the committed heap in private memory, and one scope: a cycle of the collector
    /// waits meanwhile, about a second for a hundred million bytes of small objects.
    ///
    /// ```
    /// use coheap::*;
    /// #[derive(Shared)]
    /// struct Node { next: Slot<Node> }
    /// let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// p.enter(|cx| {
    ///     let both = cx.alloc(Node { next: Slot::nil() })?;
    ///     for name in ["a", "b"] {
    ///         let node = cx.alloc(Node { next: Slot::nil() })?;
    ///         node.next.store(cx, Some(both));
    ///         cx.root::<Node>(name)?.set(cx, Some(node));
    ///     }
    ///     Ok::<(), Error>(())
    /// })?;
    /// let rows = p.retained()?;
    /// assert_eq!(rows.iter().map(|r| r.objects).sum::<u64>(), 3);
    /// assert_eq!(rows.iter().find(|r| r.by == Holder::Several).unwrap().objects, 1);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Violation`](crate::Error::Violation) when a table of the segment holds what no heap can have.
    pub fn retained(&mut self) -> Result<Vec<Retained>> {
        let proc = self.proc();
        proc.seg.check()?; // what follows believes the tables
        let _inside = Inside::enter(proc);
        Ok(Labels::new(&proc.seg).rows())
    }

    /// Sets the named root to nil, whatever its type: what it alone holds is garbage from now on. False when it was nil already, or there
    /// is none of that name.
    ///
    /// ```
    /// # use coheap::*;
    /// # #[derive(Shared)] struct Leaf { value: u64 }
    /// let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// p.enter(|cx| { cx.root::<Leaf>("old")?.set(cx, Some(cx.alloc(Leaf { value: 1 })?)); Ok::<(), Error>(()) })?;
    /// assert!(p.drop_root("old"));
    /// assert!(!p.drop_root("old"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn drop_root(&mut self, name: &str) -> bool {
        let proc = self.proc();
        let _inside = Inside::enter(proc);
        let key = names::hash(name.as_bytes());
        // Acquire: pairs with the Release of whoever made the root.
        let made = |r: &&shm_layout::tables::RootRecord| {
            r.key.load(Acquire) == key && r.ready.load(Acquire) == 1
        };
        proc.seg
            .roots
            .iter()
            .position(|r| made(&r))
            .is_some_and(|index| proc.seg.put_root(index, 0) != 0)
    }
}

struct Labels<'s> {
    segment: &'s Segment,
    /// By granule of the heap that is committed, not of its limit, which may be more than this machine has.
    of: Vec<u16>,
    /// Objects and bytes, by label.
    sums: Vec<(u64, u64)>,
    names: Vec<String>,
}

impl<'s> Labels<'s> {
    fn new(segment: &'s Segment) -> Labels<'s> {
        let mut labels = Labels {
            segment,
            of: Vec::new(),
            sums: vec![(0, 0); FIRST_ROOT as usize],
            names: Vec::new(),
        };
        each_unnamed_root(segment, &mut |r| labels.spread(r, OTHERS));
        for root in segment.roots {
            // Acquire: pairs with the Release of the root's writer.
            let r = RootWord(root.value.load(Acquire)).reference();
            if r == 0 {
                continue;
            }
            let label = FIRST_ROOT + labels.names.len() as u16;
            labels.names.push(names::read(&root.name));
            labels.sums.push((0, 0));
            labels.spread(r, label);
        }
        labels
    }

    /// Labels `from` and what hangs below it.
    fn spread(&mut self, from: Ref, label: u16) {
        let mut stack = Vec::new();
        self.meet(from, label, &mut stack);
        while let Some((r, label)) = stack.pop() {
            let segment = self.segment;
            each_reference(segment, r, &mut |child| self.meet(child, label, &mut stack));
        }
    }

    fn meet(&mut self, r: Ref, label: u16, stack: &mut Vec<(Ref, u16)>) {
        // Acquire: pairs with the growth that made the chunk ready.
        let chunks = self.segment.hdr.committed_chunks.0.load(Acquire) as usize;
        let granules = chunks * CHUNK_PAGES * PAGE_GRANULES;
        if r as usize >= granules {
            return; // names nothing; `verify` reports it
        }
        // At the first object, and when the heap has grown since.
        if self.of.len() <= r as usize {
            self.of.resize(granules, 0);
        }
        let now = self.of[r as usize];
        let next = if now == 0 || now == label {
            label
        } else {
            SEVERAL
        };
        if now == next {
            return;
        }
        let bytes = slot_bytes(self.segment, r);
        if now != 0 {
            let sum = &mut self.sums[now as usize];
            *sum = (sum.0 - 1, sum.1.saturating_sub(bytes));
        }
        let sum = &mut self.sums[next as usize];
        *sum = (sum.0 + 1, sum.1 + bytes);
        self.of[r as usize] = next;
        stack.push((r, next));
    }

    fn rows(self) -> Vec<Retained> {
        let named = self.names.into_iter().map(Holder::Root);
        let holders = [Holder::Several, Holder::HandlesAndTasks].into_iter();
        let mut rows: Vec<Retained> = holders
            .chain(named)
            .zip(&self.sums[SEVERAL as usize..])
            .map(|(by, &(objects, bytes))| Retained { by, objects, bytes })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
        rows
    }
}

/// Bytes of the slot of an object.
fn slot_bytes(segment: &Segment, r: Ref) -> u64 {
    let page = r as usize / PAGE_GRANULES;
    let span = &segment.spans[segment.span_head(page)];
    let shape = &segment.shapes[span.shape.load(Relaxed) as usize];
    match shape.bytes.load(Relaxed) {
        0 => u64::from(span.pages.load(Relaxed)) * PAGE_BYTES as u64,
        bytes => u64::from(bytes),
    }
}
