//! References: `Gc` on the stack, `Slot` in objects.
//!
//! A [`Gc`] is a plain pointer that borrows from the scope's [`Cx`]. Everything that ends a scope or passes a safepoint takes the
//! `Cx` by `&mut`, so the compiler proves that no `Gc` is alive there. A [`Slot`] is four bytes inside an object; it can be made
//! empty only, and stored to only where it lies in the heap: a reference can never be carried past a safepoint in a value that
//! the collector does not see.
#![expect(unsafe_code, reason = "turns references into pointers into the heap")]

use std::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull,
    sync::atomic::Ordering::{AcqRel, Acquire, Release},
};

use shm_layout::Ref;
use shm_layout::sync::AtomicU32;

use super::{Cx, Field, RefMap, Target, Types, mix_keys};
use crate::names;

/// A reference to an object, for as long as the scope's `Cx` stays borrowed.
///
/// ```compile_fail
/// # use coheap::*;
/// # #[derive(Shared)] struct Leaf { value: u64 }
/// fn keep(cx: &mut Cx) {
///     let leaf = cx.alloc(Leaf { value: 1 }).unwrap();
///     cx.safepoint();          // takes `&mut Cx`: no `Gc` may be alive here
///     println!("{}", leaf.value);
/// }
/// ```
pub struct Gc<'cx, T: ?Sized> {
    at: NonNull<T>,
    scope: PhantomData<&'cx T>,
}

impl<T: ?Sized> Clone for Gc<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: ?Sized> Copy for Gc<'_, T> {}

impl<T> Deref for Gc<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: 1. A `Gc` is made from a live object of type `T` (`Cx`), which no collection frees while the scope lasts. 2. Other
        // processes may store into it meanwhile: `T: Shared` has interior mutability for everything that changes.
        unsafe { self.at.as_ref() }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Gc<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<'cx, T> Gc<'cx, T> {
    /// # Safety
    /// `at` is an initialised object of type `T` in the heap of the P whose scope `'cx` borrows, reachable or just allocated.
    #[inline]
    pub(crate) unsafe fn from_raw(at: *mut u8) -> Gc<'cx, T> {
        // SAFETY: an object of the heap is not at address zero.
        let at = unsafe { NonNull::new_unchecked(at.cast()) };
        Gc {
            at,
            scope: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn as_bytes_ptr(self) -> *const u8 {
        self.at.as_ptr().cast()
    }

    /// The object, borrowed for as long as the scope's `Cx`, not only for as long as this `Gc`.
    ///
    /// ```
    /// # use coheap::*;
    /// fn bytes<'cx>(s: Gc<'cx, GcStr>) -> &'cx [u8] {
    ///     s.to_ref().as_bytes()
    /// }
    /// ```
    #[inline]
    pub fn to_ref(self) -> &'cx T {
        // SAFETY: as for `deref`; the object is not freed before the scope's `Cx` is used by `&mut` again, which ends `'cx`.
        unsafe { self.at.as_ref() }
    }

    /// The same object, as whatever it is.
    #[inline]
    pub(crate) fn untyped(self) -> Gc<'cx, ()> {
        // SAFETY: the same object; `()` promises nothing about its contents.
        unsafe { self.cast() }
    }

    /// # Safety
    /// The object is a `U`.
    #[inline]
    pub(crate) unsafe fn cast<U>(self) -> Gc<'cx, U> {
        // SAFETY: an object of the heap; the caller says of which type.
        unsafe { Gc::from_raw(self.as_bytes_ptr().cast_mut()) }
    }

    /// Do both name the same object?
    ///
    /// ```
    /// # use coheap::*;
    /// # #[derive(Shared)] struct Leaf { value: u64 }
    /// # let segment = Segment::create(&Default::default())?;
    /// # let mut p = P::lease(segment)?;
    /// p.enter(|cx| {
    ///     let a = cx.alloc(Leaf { value: 1 })?;
    ///     let b = cx.alloc(Leaf { value: 1 })?;
    ///     assert!(a.is(a) && !a.is(b));
    ///     Ok::<(), Error>(())
    /// })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn is(self, other: Gc<'_, T>) -> bool {
        std::ptr::eq(self.as_bytes_ptr(), other.as_bytes_ptr())
    }
}

/// A reference field of an object: empty, or a `T`. Every process may load and store it at any time.
///
/// ```
/// use coheap::*;
/// #[derive(Shared)] struct Pair { first: Slot<Leaf>, second: Slot<Leaf> }
/// #[derive(Shared)] struct Leaf { value: u64 }
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let pair = cx.alloc(Pair { first: Slot::nil(), second: Slot::nil() })?;
///     pair.first.store(cx, Some(cx.alloc(Leaf { value: 7 })?));
///     assert_eq!(pair.first.load(cx).unwrap().value, 7);
///     assert!(pair.second.load(cx).is_none());
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct Slot<T> {
    raw: AtomicU32,
    target: PhantomData<fn() -> T>,
}

// SAFETY: one reference of four bytes; zero is nil; an atomic otherwise.
unsafe impl<T: Target> Field for Slot<T> {
    const TYPE_NAME: &'static str = "Slot";
    const KEY: u64 = mix_keys(names::hash(b"Slot"), T::KEY);
    fn targets(types: &mut Types<'_>) {
        T::declare(types);
    }
    const REFS: RefMap = RefMap::ONE;
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::nil()
    }
}

impl<T> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({:#x})", self.raw.load(Acquire))
    }
}

impl<T> Slot<T> {
    /// An empty slot: the only kind that can be made outside the heap.
    #[inline]
    pub const fn nil() -> Slot<T> {
        Slot {
            raw: AtomicU32::new(0),
            target: PhantomData,
        }
    }

    /// What it refers to.
    ///
    /// # Panics
    /// If the slot does not lie in the heap of `cx`: its reference means nothing there.
    #[inline]
    pub fn load<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T>> {
        let here = (&raw const self.raw).cast();
        assert!(
            cx.proc().in_heap(here),
            "a Slot is loaded from only inside the heap"
        );
        // Acquire: pairs with the Release in `store`: the object's contents before the reference to it.
        cx.gc(self.raw.load(Acquire))
    }

    /// Is it empty?
    #[inline]
    pub fn is_nil(&self) -> bool {
        self.raw.load(Acquire) == 0
    }

    /// Makes it refer to `value`, or empties it.
    ///
    /// # Panics
    /// If the slot does not lie in the heap: a reference in a private value would escape the collector.
    #[inline]
    pub fn store(&self, cx: &Cx<'_>, value: Option<Gc<'_, T>>) {
        if crate::twin!("store-then-shade") {
            self.raw.store(cx.raw(value), Release);
        }
        let r = self.prepare(cx, value);
        // Release: see `load`. After the barrier: shade, then store (rule 2).
        self.raw.store(r, Release);
    }

    /// Makes it refer to `new` if it refers to `old`. True when it did; otherwise nothing changes.
    ///
    /// # Panics
    /// As [`Slot::store`].
    pub fn compare_exchange(
        &self,
        cx: &Cx<'_>,
        old: Option<Gc<'_, T>>,
        new: Option<Gc<'_, T>>,
    ) -> bool {
        let r = self.prepare(cx, new);
        self.raw
            .compare_exchange(cx.raw(old), r, AcqRel, Acquire)
            .is_ok()
    }

    /// Its word, for protocols that need other moves than these. Whoever stores a reference there shades it first.
    #[inline]
    pub(crate) fn raw(&self) -> &AtomicU32 {
        &self.raw
    }

    #[inline]
    fn prepare(&self, cx: &Cx<'_>, value: Option<Gc<'_, T>>) -> Ref {
        let here = (&raw const self.raw).cast();
        assert!(
            cx.proc().in_heap(here),
            "a Slot is stored to only inside the heap"
        );
        let r = cx.raw(value);
        cx.proc().write_barrier(r);
        r
    }
}
