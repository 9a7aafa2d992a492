//! Named roots: where programs meet.
//!
//! A root's word names the update that wrote it (P and sequence number), and whoever replaces another's value first records that
//! the other's update had been seen. So an update that belongs to a task's effects can be repeated after a death without
//! happening twice (`sched::commit`).

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use shm_layout::{Ref, tables::ROOTS, word::RootWord};

use super::{Cx, Gc, Shared};
use crate::{Error, error::Result, failpoint, names, sched::proc::Proc, segment::Segment};

/// A named root that holds a `T` or nothing. See [`Cx::root`].
pub struct Root<T> {
    index: usize,
    /// Incarnation of the heap it is a root of.
    heap: u64,
    target: PhantomData<fn() -> T>,
}

impl<T> Clone for Root<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Root<T> {}

impl<T> Root<T> {
    /// Its place in the heap of `cx`.
    ///
    /// # Panics
    /// If it is a root of another heap.
    pub(crate) fn index_in(&self, cx: &Cx<'_>) -> usize {
        assert!(
            self.heap == cx.proc().seg.incarnation(),
            "a root of another heap"
        );
        self.index
    }

    /// The object, if there is one.
    pub fn get<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T>> {
        // Acquire: pairs with the writer's Release.
        cx.gc(RootWord(cx.proc().seg.roots[self.index_in(cx)].value.load(Acquire)).reference())
    }

    /// Replaces the object, at once. In a task prefer `Step::set_root`, which takes effect with the step or not at all.
    pub fn set(&self, cx: &Cx<'_>, value: Option<Gc<'_, T>>) {
        let proc = cx.proc();
        let r = cx.raw(value);
        proc.write_barrier(r);
        proc.seg.put_root(self.index_in(cx), r);
    }
}

impl<T> Root<T> {
    /// Replaces `old` by `new`, at once, if the root holds `old`. True when it did; otherwise nothing changes.
    ///
    /// ```
    /// use coheap::*;
    /// # #[derive(Shared)] struct Leaf { value: u64 }
    /// # let segment = Segment::create(&Default::default())?;
    /// # let mut p = P::lease(segment)?;
    /// p.enter(|cx| {
    ///     let root = cx.root::<Leaf>("first one wins")?;
    ///     assert!(root.compare_exchange(cx, None, Some(cx.alloc(Leaf { value: 1 })?)));
    ///     assert!(!root.compare_exchange(cx, None, Some(cx.alloc(Leaf { value: 2 })?)));
    ///     assert_eq!(root.get(cx).unwrap().value, 1);
    ///     Ok::<(), Error>(())
    /// })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn compare_exchange(
        &self,
        cx: &Cx<'_>,
        old: Option<Gc<'_, T>>,
        new: Option<Gc<'_, T>>,
    ) -> bool {
        let proc = cx.proc();
        let (old, new) = (cx.raw(old), cx.raw(new));
        proc.write_barrier(new);
        let value = &proc.seg.roots[self.index_in(cx)].value;
        loop {
            let seen = RootWord(value.load(Acquire));
            if seen.reference() != old {
                return false;
            }
            proc.seg.seen_update(seen.p(), seen.seq());
            let to = RootWord(0).with_reference(new).with_p(NOBODY);
            // AcqRel: as in `set`. A failure may be another update that stored the same reference: look again.
            if value
                .compare_exchange(seen.0, to.0, AcqRel, Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }
}

/// Writer of updates that nobody will ask about.
const NOBODY: u16 = 0x1ff;

/// Is sequence number `a` at or after `b`? They count modulo 2^23.
fn reached(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) & 0x7f_ffff < 1 << 22
}

/// Stores `r` as update `seq` of P `p`. Idempotent: an update that was applied is not applied again.
pub(crate) fn update_root(segment: &Segment, index: usize, r: Ref, p: u16, seq: u32) {
    let value = &segment.roots[index].value;
    let new = RootWord(0).with_reference(r).with_p(p).with_seq(seq);
    loop {
        let seen = RootWord(value.load(Acquire));
        if applied(segment, seen, p, seq) {
            return;
        }
        // Whoever replaces another's value says first that it had been there.
        segment.seen_update(seen.p(), seen.seq());
        failpoint!("root.seen");
        if value
            .compare_exchange(seen.0, new.0, AcqRel, Relaxed)
            .is_ok()
        {
            failpoint!("root.updated");
            return;
        }
    }
}

/// Was the update done? By the word, or by what others have seen; the word is read first.
fn applied(segment: &Segment, word: RootWord, p: u16, seq: u32) -> bool {
    (word.p() == p && word.seq() == seq)
        || !crate::twin!("seen-unread") && reached(segment.hdr.seen[p as usize].load(SeqCst), seq)
}

impl Segment {
    /// Stores `r` in root `index`, at once; what was there. The caller has shaded `r`.
    pub(crate) fn put_root(&self, index: usize, r: Ref) -> Ref {
        let value = &self.roots[index].value;
        let new = RootWord(0).with_reference(r).with_p(NOBODY);
        loop {
            let seen = RootWord(value.load(Acquire));
            self.seen_update(seen.p(), seen.seq());
            // AcqRel: pairs with the Acquire of readers, and with the other writers.
            if value
                .compare_exchange(seen.0, new.0, AcqRel, Relaxed)
                .is_ok()
            {
                return seen.reference();
            }
        }
    }

    fn seen_update(&self, p: u16, seq: u32) {
        let Some(seen) = self.hdr.seen.get(p as usize) else {
            return;
        };
        // Only ever moves forward; somebody else may have moved it further.
        let _ = seen.fetch_update(SeqCst, SeqCst, |now| (!reached(now, seq)).then_some(seq));
    }

    /// Index of the root called `name`, made if there is none.
    pub(crate) fn root_index(&self, name: &str) -> Result<usize> {
        let key = names::hash(name.as_bytes());
        for (i, root) in self.roots.iter().enumerate() {
            let seen = match root.key.compare_exchange(0, key, AcqRel, Acquire) {
                Ok(_) => key,
                Err(seen) => seen,
            };
            if seen == key {
                if root.ready.load(Acquire) == 0 {
                    names::write(&root.name, name);
                    root.ready.store(1, Release);
                }
                return Ok(i);
            }
        }
        Err(Error::TableFull {
            table: "roots",
            capacity: ROOTS,
        })
    }
}

impl Proc {
    /// The next number of a detectable update of this P; grows across leases.
    pub(crate) fn next_update_seq(&self) -> u32 {
        self.rec.update_seq.fetch_add(1, Relaxed).wrapping_add(1) & 0x7f_ffff
    }
}

impl Cx<'_> {
    /// The named root `name`, made if there is none.
    ///
    /// # Errors
    /// [`Error::TypeMismatch`] when it holds another type; [`Error::TableFull`] when there are 1,024 roots.
    pub fn root<T: Shared>(&self, name: &str) -> Result<Root<T>> {
        let segment = &self.proc().seg;
        // Before anything is believed about the type: registered, or refused by the name of a field.
        self.proc().cursor_of::<T>()?;
        let index = segment.root_index(name)?;
        let type_key = T::KEY;
        if let Err(other) = segment.roots[index]
            .type_key
            .compare_exchange(0, type_key, AcqRel, Acquire)
            && other != type_key
        {
            let theirs = segment
                .types
                .iter()
                .find(|t| t.key.load(Acquire) == other)
                .map_or("another type".into(), |t| names::read(&t.name));
            return Err(Error::TypeMismatch {
                name: format!("root {name}"),
                difference: format!("{theirs} there, {} here", T::NAME),
            });
        }
        Ok(Root {
            index,
            heap: segment.incarnation(),
            target: PhantomData,
        })
    }
}
