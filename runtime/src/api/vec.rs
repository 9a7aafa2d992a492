//! A vector that grows, and that every process may push to.
//!
//! Elements lie in parts of 8, 16, 32 ... slots which never move, so a reader needs no more than two loads and a growing vector
//! copies nothing. `len` counts elements of which the vector is sure; the slot at `len` may be filled already.
//!
//! 1. *Push*: read `len`; make its part if it is missing (one compare-exchange, a loser's part is garbage); put the element into the
//!    slot at `len` if that is empty, by one compare-exchange: **this is the push**. Then move `len` over it, by another one.
//! 2. A filled slot at `len` means that somebody has pushed and not moved `len` yet: whoever meets it moves it.
//!
//! **Linearised** at the compare-exchange on the slot. **Cost**: O(1), plus the allocation of a part as large as all before it.
//! **If the process dies** after the push and before `len` has moved, the next one moves it; before the push nothing happened.
//! Invariant: slots below `len` are filled and stay so; none above `len` is. So there is no `pop`: emptying the last slot while
//! others push above it would need two words at once. A [`Queue`](super::Queue) gives elements back.
#![expect(unsafe_code, reason = "gives elements their type back")]

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
};

use super::{Array, Cx, Gc, Slot, Target, item::shareable_shell};
use crate::{Error, Shared, error::Result};
use shm_layout::sync::AtomicU32;

/// Slots of the first part, and how many parts there can be: 8 (2^26 - 1) elements.
const FIRST: usize = 8;
const PARTS: usize = 26;

#[derive(Shared)]
#[shared(name = "coheap::Vec")]
struct VecCell {
    len: AtomicU32,
    parts: [Slot<Array<Slot<()>>>; PARTS],
}

/// A vector of references that every process may read and push to at any time.
///
/// ```
/// use coheap::*;
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let cx = &*cx;
///     let words = GcVec::<GcStr>::new(cx)?;
///     cx.root("words")?.set(cx, Some(words));
///     for word in ["grey", "black", "white"] {
///         words.push(cx, cx.str(word)?)?;
///     }
///     assert_eq!(words.len(), 3);
///     assert_eq!(words.get(cx, 1).unwrap().as_str(), Some("black"));
///     assert!(words.get(cx, 3).is_none());
///     assert!(words.iter(cx).any(|w| w.as_bytes() == b"white"));
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct GcVec<T> {
    cell: VecCell,
    items: PhantomData<fn() -> T>,
}

shareable_shell!(GcVec, VecCell);

/// Part and place of element `i`.
fn place(i: usize) -> (usize, usize) {
    let part = (i / FIRST + 1).ilog2() as usize;
    (part, i - FIRST * ((1 << part) - 1))
}

impl<T: Target> GcVec<T> {
    /// A new, empty vector.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`].
    pub fn new<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, GcVec<T>>> {
        cx.alloc(GcVec {
            cell: VecCell {
                len: AtomicU32::new(0),
                parts: [const { Slot::nil() }; PARTS],
            },
            items: PhantomData,
        })
    }

    /// Appends `value`; returns its index.
    ///
    /// # Errors
    /// [`Error::TableFull`] at 2^29 - 8 elements; those of [`Cx::array`] when a part is needed. Nothing has happened then.
    pub fn push(&self, cx: &Cx<'_>, value: Gc<'_, T>) -> Result<usize> {
        loop {
            let i = self.cell.len.load(Acquire);
            let slot = self.slot_or_part(cx, i as usize)?;
            let pushed = slot.is_nil() && slot.compare_exchange(cx, None, Some(value.untyped()));
            self.count(i);
            if pushed {
                return Ok(i as usize);
            }
        }
    }

    /// Moves `len` over the filled slot at `i`. Idempotent.
    fn count(&self, i: u32) {
        // A failure: somebody else has.
        let _ = self.cell.len.compare_exchange(i, i + 1, AcqRel, Relaxed);
    }

    fn slot_or_part<'cx>(&self, cx: &'cx Cx<'_>, i: usize) -> Result<&'cx Slot<()>> {
        let (part, at) = place(i);
        let Some(slots) = self.cell.parts.get(part) else {
            return Err(Error::TableFull {
                table: "elements of one vector",
                capacity: FIRST * ((1 << PARTS) - 1),
            });
        };
        if slots.is_nil() {
            let fresh = cx.array::<Slot<()>>(FIRST << part)?;
            slots.compare_exchange(cx, None, Some(fresh));
        }
        let slots = slots.load(cx).expect("a part stays");
        Ok(&slots.to_ref()[at])
    }

    fn slot<'cx>(&self, cx: &'cx Cx<'_>, i: usize) -> Option<&'cx Slot<()>> {
        let (part, at) = place(i);
        let slots = self.cell.parts.get(part)?.load(cx)?;
        Some(&slots.to_ref()[at])
    }

    /// How many elements: every push that has returned is counted.
    pub fn len(&self) -> usize {
        self.cell.len.load(Acquire) as usize
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i`, if there is one.
    pub fn get<'cx>(&self, cx: &'cx Cx<'_>, i: usize) -> Option<Gc<'cx, T>> {
        let value = self.slot(cx, i)?.load(cx)?;
        // SAFETY: only `push` and `compare_exchange` fill the slots of a `GcVec<T>`, with `T`s.
        Some(unsafe { value.cast() })
    }

    /// Replaces element `i` by `new` if it is `old`. True when it did.
    ///
    /// ```
    /// # use coheap::*;
    /// # let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// # p.enter(|cx| {
    /// # let cx = &*cx;
    /// let words = GcVec::<GcStr>::new(cx)?;
    /// let (old, new) = (cx.str("old")?, cx.str("new")?);
    /// words.push(cx, old)?;
    /// assert!(words.compare_exchange(cx, 0, old, new));
    /// assert!(!words.compare_exchange(cx, 0, old, new));
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn compare_exchange(&self, cx: &Cx<'_>, i: usize, old: Gc<'_, T>, new: Gc<'_, T>) -> bool {
        self.slot(cx, i)
            .is_some_and(|slot| slot.compare_exchange(cx, Some(old.untyped()), Some(new.untyped())))
    }

    /// The elements in order, those that are pushed meanwhile included.
    pub fn iter<'cx>(&self, cx: &'cx Cx<'_>) -> impl Iterator<Item = Gc<'cx, T>> {
        (0..).map_while(move |i| self.get(cx, i))
    }
}
