//! `P` and `Cx`: a leased processor, and a scope on it.
//!
//! ```
//! use coheap::*;
//! #[derive(Shared)] struct Leaf { value: u64 }
//! let segment = Segment::create(&Default::default())?;
//! let mut p = P::lease(segment)?;
//! p.enter(|cx| {
//!     let leaf = cx.alloc(Leaf { value: 7 })?;
//!     cx.root::<Leaf>("leaf")?.set(cx, Some(leaf));
//!     Ok::<(), Error>(())
//! })?;
//! assert_eq!(p.enter(|cx| cx.root::<Leaf>("leaf").unwrap().get(cx).unwrap().value), 7);
//! # Ok::<(), Error>(())
//! ```
#![expect(
    unsafe_code,
    reason = "makes references to objects it has just initialised"
)]

use std::marker::PhantomData;

use shm_layout::{Ref, size_class, tables::scan};

use super::{Gc, Shared, shared};
use crate::{
    error::Result,
    heap::shapes::{self, Shape},
    sched::proc::Proc,
    segment::Segment,
};

/// A leased P. Belongs to the thread that leased it, and is given back when it is dropped.
pub struct P {
    proc: Box<Proc>,
    /// The life word belongs to this thread.
    not_send: PhantomData<*mut ()>,
}

/// A scope: the right to hold references. See [`P::enter`].
pub struct Cx<'p> {
    proc: &'p Proc,
    not_send: PhantomData<*mut ()>,
}

impl P {
    /// Leases a P of the segment to this thread. One thread may hold one P of a segment at a time.
    ///
    /// # Errors
    /// [`crate::Error::TableFull`] when all P's are leased; [`crate::Error::NoMemory`] when there is no memory for its tables.
    pub fn lease(segment: Segment) -> Result<P> {
        Ok(P {
            proc: Box::new(Proc::lease(segment)?),
            not_send: PhantomData,
        })
    }

    /// Runs `f` inside a scope. A program that runs no tasks takes its part in the collector at the ends of its scopes: a quarter of
    /// its time at most while a cycle is on. What a single scope allocates is garbage to no cycle before the scope ends.
    #[inline]
    pub fn enter<R>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let result = {
            let _inside = Inside::enter(&self.proc);
            f(&mut Cx::new(&self.proc))
        };
        if self.proc.collector_due.get() {
            self.proc.help_at_edge();
        }
        result
    }

    /// Its number in the P table.
    pub fn index(&self) -> usize {
        self.proc.index()
    }

    /// The heap it belongs to.
    pub fn segment(&self) -> &Segment {
        &self.proc.seg
    }

    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }
}

/// Leaves the scope on every way out, a panic included.
pub(crate) struct Inside<'p>(&'p Proc);

impl<'p> Inside<'p> {
    #[inline]
    pub fn enter(proc: &'p Proc) -> Inside<'p> {
        proc.enter_scope();
        Inside(proc)
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave_scope();
    }
}

impl<'p> Cx<'p> {
    #[inline]
    pub(crate) fn new(proc: &'p Proc) -> Cx<'p> {
        Cx {
            proc,
            not_send: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn proc(&self) -> &'p Proc {
        self.proc
    }

    /// The reference as a `Gc`; nil is `None`.
    #[inline]
    pub(crate) fn gc<'cx, T>(&'cx self, r: Ref) -> Option<Gc<'cx, T>> {
        // SAFETY: the callers read `r` from a place that the type table says holds a `T`, and that is reachable.
        (r != 0).then(|| unsafe { Gc::from_raw(self.proc.object_at(r)) })
    }

    /// The reference of a `Gc`.
    ///
    /// # Panics
    /// If it belongs to another heap: its address means nothing here.
    #[inline]
    pub(crate) fn raw<T>(&self, gc: Option<Gc<'_, T>>) -> Ref {
        gc.map_or(0, |gc| {
            let r = self.proc.reference_of(gc.as_bytes_ptr());
            r.unwrap_or_else(|| panic!("a Gc of another heap"))
        })
    }

    /// Puts a value into the heap.
    ///
    /// # Errors
    /// [`crate::Error::HeapFull`] with numbers at the hard limit, [`crate::Error::NoMemory`] when the machine has none left;
    /// [`crate::Error::TypeMismatch`] when another program has a different type of that name.
    #[inline]
    pub fn alloc<'cx, T: Shared>(&'cx self, value: T) -> Result<Gc<'cx, T>> {
        const { shared::check::<T>() }
        const {
            assert!(
                size_of::<T>() <= size_class::MAX_SMALL_BYTES,
                "a shared struct may have 32 KiB at most: use an Array"
            )
        }
        let bytes = const { size_class::class_bytes(size_class::class_of(size_of::<T>())) };
        let i = T::cell().get();
        let at = match self.proc.cursors.get(i) {
            Some(cursor) if cursor.cur.get() != cursor.end.get() => {
                let at = cursor.cur.get();
                cursor.cur.set(at.wrapping_add(bytes));
                at
            }
            _ => self.alloc_slow::<T>()?,
        };
        // SAFETY: the slot was taken just now; its class holds a `T`.
        unsafe { self.proc.init_slot(at, value) };
        // SAFETY: initialised just now.
        Ok(unsafe { Gc::from_raw(at) })
    }

    #[cold]
    fn alloc_slow<T: Shared>(&self) -> Result<*mut u8> {
        let i = self.proc.cursor_of::<T>()?;
        self.proc.take_slot_slow(i)
    }

    /// The heap it is a scope of.
    pub fn segment(&self) -> &Segment {
        &self.proc.seg
    }

    /// Passes a safepoint: the collector's handshakes are acknowledged. No `Gc` can be alive here.
    #[inline]
    pub fn safepoint(&mut self) {
        self.proc.leave_scope();
        self.proc.enter_scope();
    }

    /// Runs `f` outside the scope: for reading files, for waiting. No `Gc` can be alive here; others need not wait for us.
    pub fn outside<R>(&mut self, f: impl FnOnce() -> R) -> R {
        struct Back<'p>(&'p Proc);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.enter_scope();
            }
        }
        self.proc.leave_scope();
        let _back = Back(self.proc);
        f()
    }

    /// Has the scheduler asked this P to let other tasks run? A long step should return then.
    #[inline]
    pub fn should_yield(&self) -> bool {
        self.proc
            .rec
            .preempt
            .load(std::sync::atomic::Ordering::Relaxed)
            != 0
    }
}

impl Proc {
    /// The cursor of a type, registering the type in the segment when this P uses it for the first time.
    pub(crate) fn cursor_of<T: Shared>(&self) -> Result<usize> {
        let i = T::cell().number();
        let Some(cursor) = self.cursors.get(i) else {
            return Err(crate::Error::TableFull {
                table: "types of one process",
                capacity: self.cursors.len(),
            });
        };
        self.declare::<T>()?;
        if cursor.shape.get() == 0 {
            let kind = if T::WEAK {
                scan::WEAK
            } else if T::REFS.is_none() {
                scan::NONE
            } else {
                scan::MAP
            };
            let class = size_class::class_of(size_of::<T>()) as u32;
            let shape = shapes::intern(
                &self.seg,
                &Shape {
                    class,
                    scan: kind,
                    stride: 0,
                    map: T::REFS.0,
                },
            )?;
            cursor.shape.set(u32::from(shape) + 1);
            self.cursors_used.set(self.cursors_used.get().max(i + 1));
        }
        Ok(i)
    }
}
