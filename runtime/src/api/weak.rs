//! Weak references for programs: caches, canonical copies, parent links.
#![expect(unsafe_code, reason = "declares a type whose word the collector reads")]

use std::{marker::PhantomData, sync::atomic::Ordering::Acquire};

use shm_layout::{sync::AtomicU64, word::WeakWord};

use super::{Cx, Field, FieldDesc, Gc, RefMap, Shared, Target, TypeCell, Types, mix_keys};
use crate::{error::Result, names};

/// A reference that does not keep its object alive. It is an object itself, made by [`Cx::weak`]: keep it in a `Slot<Weak<T>>`, under
/// a root, in a map. Once a cycle has found no other way to the object, [`Weak::get`] answers `None`, for ever.
///
/// ```
/// use coheap::*;
/// #[derive(Shared)] struct Page { number: u64 }
/// # let mut p = P::lease(Segment::create(&Default::default())?)?;
/// let kept = p.enter(|cx| {
///     let page = cx.alloc(Page { number: 7 })?;
///     cx.root::<Weak<Page>>("cached")?.set(cx, Some(cx.weak(page)?));
///     cx.handle(page)
/// })?;
/// let cached = |cx: &mut Cx<'_>| {
///     let weak = cx.root::<Weak<Page>>("cached")?.get(cx).expect("set above");
///     Ok::<_, Error>(weak.get(cx).map(|page| page.number))
/// };
/// p.collect();
/// assert_eq!(p.enter(cached)?, Some(7));
/// drop(kept);
/// p.collect();
/// assert_eq!(p.enter(cached)?, None);
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct Weak<T> {
    word: AtomicU64,
    target: PhantomData<fn() -> T>,
}

// SAFETY: one atomic word, which is no reference to the mark loop; zero bytes name nothing. `WEAK` says how it is looked at.
unsafe impl<T: Target> Shared for Weak<T> {
    const NAME: &'static str = "coheap::Weak";
    const FIELDS: &'static [FieldDesc] = &[FieldDesc {
        name: "word",
        type_name: "AtomicU64",
        offset: 0,
        key: <AtomicU64 as Field>::KEY,
    }];
    const REFS: RefMap = RefMap::NONE;
    const KEY: u64 = mix_keys(names::hash(Self::NAME.as_bytes()), T::KEY);
    const WEAK: bool = true;
    fn cell() -> &'static TypeCell {
        // One number for all: they look the same to the collector.
        static CELL: TypeCell = TypeCell::new();
        &CELL
    }
    fn targets(types: &mut Types<'_>) {
        T::declare(types);
    }
}

impl<T: Target> Weak<T> {
    /// The object, held by this scope, or `None` when it is gone.
    ///
    /// # Panics
    /// If this weak reference lies in another heap than that of `cx`.
    #[inline]
    pub fn get<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T>> {
        assert!(
            cx.proc().in_heap((&raw const self.word).cast()),
            "a Weak is read only inside its heap"
        );
        // Acquire: pairs with the initialising store's publication, as for every object.
        let word = WeakWord(self.word.load(Acquire));
        cx.gc(cx.proc().weak_to_strong(word))
    }
}

impl<T> std::fmt::Debug for Weak<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weak({:#x})", WeakWord(self.word.load(Acquire)).target())
    }
}

impl<'p> Cx<'p> {
    /// A weak reference to `object`. Each call makes a new one.
    ///
    /// # Errors
    /// As [`Cx::alloc`].
    ///
    /// # Panics
    /// If `object` belongs to another heap.
    pub fn weak<'cx, T: Target>(&'cx self, object: Gc<'_, T>) -> Result<Gc<'cx, Weak<T>>> {
        let word = self.proc().weak_word(self.raw(Some(object)));
        self.alloc(Weak {
            word: AtomicU64::new(word.0),
            target: PhantomData,
        })
    }
}
