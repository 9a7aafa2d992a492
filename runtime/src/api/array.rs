//! Arrays: a count and that many elements, fixed when made.
//!
//! Elements start as zero bytes: empty slots, zero numbers. They change afterwards only through slots and atomics.
#![expect(unsafe_code, reason = "lays elements out behind a count")]

use std::{marker::PhantomData, ops::Index, sync::atomic::Ordering::Acquire};

use shm_layout::sync::AtomicU32;
use shm_layout::{Ref, size_class, tables::scan};

use super::{Cx, Field, Gc, RefMap, Target, TypeCell, Types, mix_keys};
use crate::{
    Error,
    error::Result,
    heap::shapes::{self, Shape},
    names,
    sched::proc::Proc,
};

/// What an array may hold: every [`Field`] and every [`Shared`](crate::Shared) struct.
///
/// # Safety
/// As for [`Field`]: `REFS` is exact, zero bytes are valid, nothing to drop, aligned to at most eight bytes.
pub unsafe trait Element: 'static {
    /// References of an element.
    const REFS: RefMap;
    /// Identifies the element's type among programs.
    const KEY: u64;
    /// As [`Field::targets`].
    fn targets(types: &mut Types<'_>);
}

// SAFETY: `Field` promises the same.
unsafe impl<F: Field> Element for F {
    const REFS: RefMap = F::REFS;
    const KEY: u64 = F::KEY;
    fn targets(types: &mut Types<'_>) {
        F::targets(types);
    }
}

// SAFETY: an array is its elements.
unsafe impl<E: Element> Target for Array<E> {
    const KEY: u64 = mix_keys(names::hash(b"coheap::Array"), E::KEY);
    fn declare(types: &mut Types<'_>) {
        E::targets(types);
    }
}

/// An array in the heap. Exists only behind a [`Gc`]: made by [`Cx::array`].
///
/// ```
/// use coheap::*;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let counts = cx.array::<AtomicU64>(1000)?;
///     counts[7].fetch_add(1, Relaxed);
///     assert_eq!(counts.iter().map(|c| c.load(Relaxed)).sum::<u64>(), 1);
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(C, align(8))]
pub struct Array<E> {
    len: AtomicU32,
    pad: u32,
    elements: PhantomData<E>,
}

impl<E: Element> Array<E> {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.len.load(Acquire) as usize
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements.
    pub fn as_slice(&self) -> &[E] {
        let first = (&raw const *self)
            .cast::<u8>()
            .wrapping_add(size_of::<Self>())
            .cast::<E>();
        // SAFETY: 1. An `Array` exists only where `array_of` made it, with room for `len` elements behind the count, all of them
        // initialised (zeroes at least). 2. They change through interior mutability only. 3. Alignment: at most eight, as the count.
        unsafe { std::slice::from_raw_parts(first, self.len()) }
    }

    /// Visits the elements in order.
    pub fn iter(&self) -> std::slice::Iter<'_, E> {
        self.as_slice().iter()
    }
}

impl<E: Element> Index<usize> for Array<E> {
    type Output = E;
    fn index(&self, i: usize) -> &E {
        &self.as_slice()[i]
    }
}

/// What the collector and the allocator need to know of an array's elements, made by the compiler.
pub(crate) struct Elements {
    stride: usize,
    map: RefMap,
    scan: u32,
    /// Number of the array type in this process, if it is one of the two that nearly all arrays are.
    number: Option<usize>,
}

impl Elements {
    const PLAIN: usize = 0;
    const SLOTS: usize = 1;

    /// Elements of this size, with these references.
    pub const fn of(stride: usize, map: RefMap) -> Elements {
        let plain = map.is_none();
        let slots = stride == size_of::<Ref>() && map.is_one();
        Elements {
            stride: if plain { 0 } else { stride },
            map,
            scan: if plain { scan::NONE } else { scan::ARRAY },
            number: if plain {
                Some(Elements::PLAIN)
            } else if slots {
                Some(Elements::SLOTS)
            } else {
                None
            },
        }
    }

    fn shape(&self, class: u32) -> Shape {
        Shape {
            class,
            scan: self.scan,
            stride: self.stride as u32,
            map: self.map.0,
        }
    }

    #[inline]
    fn number(&self) -> usize {
        self.number.unwrap_or_else(|| self.look_up())
    }

    /// Arrays look the same to the collector if their elements do.
    #[cold]
    fn look_up(&self) -> usize {
        static SEEN: std::sync::Mutex<Vec<(usize, RefMap)>> = std::sync::Mutex::new(Vec::new());
        let mut seen = SEEN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = seen
            .iter()
            .position(|(s, m)| *s == self.stride && *m == self.map);
        let at = at.unwrap_or_else(|| {
            seen.push((self.stride, self.map));
            seen.len() - 1
        });
        Elements::SLOTS + 1 + at
    }
}

/// Number of the cursors for arrays of this number and size class: one for all P's that this process leases, one after the other
/// or at once. Each P fills in the shape for its own segment.
fn cursor_number(number: usize, class: usize) -> usize {
    static CELLS: std::sync::Mutex<Vec<[TypeCell; size_class::CLASSES]>> =
        std::sync::Mutex::new(Vec::new());
    let mut cells = CELLS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    while cells.len() <= number {
        cells.push([const { TypeCell::new() }; size_class::CLASSES]);
    }
    cells[number][class].number()
}

impl<'p> Cx<'p> {
    /// A new array of `len` zero elements.
    ///
    /// # Errors
    /// [`Error::HeapFull`], [`Error::NoMemory`]; [`Error::Invalid`] for more than 2^32 - 1 elements.
    pub fn array<'cx, E: Element>(&'cx self, len: usize) -> Result<Gc<'cx, Array<E>>> {
        let elements = const { &Elements::of(size_of::<E>(), E::REFS) };
        let at = self.proc().array_of(len, size_of::<E>(), elements, true)?;
        // SAFETY: `array_of` made an array of `len` elements of this size there.
        Ok(unsafe { Gc::from_raw(at) })
    }

    /// A new array whose elements `f` makes, in order. For plain data: slots are filled by storing to them afterwards.
    ///
    /// # Errors
    /// As [`Cx::array`].
    pub fn array_from_fn<'cx, E: Element>(
        &'cx self,
        len: usize,
        mut f: impl FnMut(usize) -> E,
    ) -> Result<Gc<'cx, Array<E>>> {
        let array = self.array::<E>(len)?;
        let first = array.as_slice().as_ptr().cast_mut();
        for i in 0..len {
            let element = f(i);
            // SAFETY: within the array, which nobody else knows yet; a zero element needs no drop.
            unsafe { first.wrapping_add(i).write(element) };
        }
        Ok(array)
    }
}

impl Proc {
    /// Memory for an array: count stored, elements zero (or, for data without references, whatever was there).
    #[inline]
    pub(crate) fn array_of(
        &self,
        len: usize,
        bytes_each: usize,
        elements: &'static Elements,
        zeroed: bool,
    ) -> Result<*mut u8> {
        let bytes = len
            .checked_mul(bytes_each)
            .and_then(|bytes| bytes.checked_add(8));
        let at = match bytes {
            // The count matters where elements have no bytes.
            Some(bytes) if bytes <= size_class::MAX_SMALL_BYTES && len <= u32::MAX as usize => {
                let class = size_class::class_of(bytes);
                let i = self.array_cursor(elements, class)?;
                let cursor = &self.cursors[i];
                let at = if cursor.cur.get() != cursor.end.get() {
                    let at = cursor.cur.get();
                    let size = size_class::class_bytes(class);
                    cursor.cur.set(at.wrapping_add(size));
                    at
                } else {
                    self.take_slot_slow(i)?
                };
                if zeroed {
                    self.zero(at, bytes);
                }
                at
            }
            _ => self.large_array_of(len, bytes, elements)?,
        };
        #[cfg(feature = "model")]
        crate::model::plainly_stores(at, 8);
        // SAFETY: the slot has at least the eight bytes of the header; nobody else knows it yet.
        unsafe { at.cast::<[u32; 2]>().write([len as u32, 0]) };
        #[cfg(feature = "model")]
        crate::model::plainly_stored(at, 8);
        Ok(at)
    }

    /// One in pages of its own.
    #[cold]
    fn large_array_of(
        &self,
        len: usize,
        bytes: Option<usize>,
        elements: &Elements,
    ) -> Result<*mut u8> {
        let Some(bytes) = bytes.filter(|_| u32::try_from(len).is_ok()) else {
            return Err(Error::Invalid {
                what: format!("an array of {len} elements is too long"),
            });
        };
        if bytes as u64 > self.seg.geo.limit_bytes {
            return Err(self.seg.heap_full(bytes as u64));
        }
        let index = shapes::intern(&self.seg, &elements.shape(Shape::LARGE))?;
        self.alloc_large(bytes, index as usize)
    }

    /// The cursor of an array type and size class.
    #[inline]
    fn array_cursor(&self, elements: &Elements, class: usize) -> Result<usize> {
        let number = elements.number();
        let known = self.array_cursors.borrow();
        match known.get(number).map(|classes| classes[class]) {
            Some(i) if i != 0 => Ok(i as usize),
            _ => {
                drop(known);
                self.find_array_cursor(number, elements, class)
            }
        }
    }

    #[cold]
    fn find_array_cursor(&self, number: usize, elements: &Elements, class: usize) -> Result<usize> {
        let mut known = self.array_cursors.borrow_mut();
        if known.len() <= number {
            known.resize(number + 1, [0; size_class::CLASSES]);
        }
        let i = cursor_number(number, class);
        let Some(cursor) = self.cursors.get(i) else {
            return Err(Error::TableFull {
                table: "types of one process",
                capacity: self.cursors.len(),
            });
        };
        let shape = shapes::intern(&self.seg, &elements.shape(class as u32))?;
        cursor.shape.set(u32::from(shape) + 1);
        self.cursors_used.set(self.cursors_used.get().max(i + 1));
        known[number][class] = i as u16;
        Ok(i)
    }
}
