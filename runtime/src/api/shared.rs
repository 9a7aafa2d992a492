//! Which types may live in the heap, and how two programs agree about them.
//!
//! A type is shareable when every field is plain data, an atomic, a [`Slot`](crate::Slot), or an array or shareable struct of those:
//! no pointer, no length that another process could not check, nothing to drop. `#[derive(Shared)]` proves it field by field, and
//! yields what the segment's type table needs: name, size, field descriptions, the map of reference fields.
//! **If a process dies while registering** the entry is completed by the next one that asks for the same name: contents are a
//! function of the key.
#![expect(
    unsafe_code,
    reason = "declares the unsafe traits that derive implements, and implements them for primitive types"
)]

use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32,
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use shm_layout::tables::{FIELDS_BYTES, MAP_WORDS, TypeRecord};

use crate::{Error, error::Result, names, sched::proc::Proc};

/// Where a type holds references: bit i stands for the four bytes at 4 i.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefMap(pub [u64; MAP_WORDS]);

impl RefMap {
    /// No references.
    pub const NONE: RefMap = RefMap([0; MAP_WORDS]);
    /// One reference, in the first four bytes.
    pub const ONE: RefMap = {
        let mut map = [0; MAP_WORDS];
        map[0] = 1;
        RefMap(map)
    };

    /// This map with `inner` added at byte `offset`.
    ///
    /// # Panics
    /// (at compile time, in a derive) when a reference lies beyond the first 4 KiB, or not on a multiple of four bytes.
    pub const fn with(mut self, offset: usize, inner: RefMap) -> RefMap {
        let mut i = 0;
        while i < MAP_WORDS * 64 {
            if inner.0[i / 64] >> (i % 64) & 1 != 0 {
                assert!(
                    offset.is_multiple_of(4),
                    "a Slot must be aligned to four bytes"
                );
                let at = offset / 4 + i;
                assert!(
                    at < MAP_WORDS * 64,
                    "a shared type may hold Slots in its first 4 KiB only: use an Array for more"
                );
                self.0[at / 64] |= 1 << (at % 64);
            }
            i += 1;
        }
        self
    }

    /// Are there none?
    pub const fn is_none(&self) -> bool {
        let mut i = 0;
        while i < MAP_WORDS {
            if self.0[i] != 0 {
                return false;
            }
            i += 1;
        }
        true
    }

    /// Is it [`RefMap::ONE`]?
    pub(crate) const fn is_one(&self) -> bool {
        let mut i = 0;
        while i < MAP_WORDS {
            if self.0[i] != Self::ONE.0[i] {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// One field, as derive describes it.
#[derive(Clone, Copy, Debug)]
pub struct FieldDesc {
    /// Its name.
    pub name: &'static str,
    /// Its type's name.
    pub type_name: &'static str,
    /// Bytes from the struct's start.
    pub offset: usize,
    /// [`Field::KEY`] of its type: two slots differ when what they may refer to differs.
    pub key: u64,
}

/// A number that this process gives to a type when it is first allocated; 0 before. One static per type, made by derive.
#[derive(Debug, Default)]
pub struct TypeCell(AtomicU32);

impl TypeCell {
    /// A cell without a number.
    pub const fn new() -> TypeCell {
        TypeCell(AtomicU32::new(0))
    }

    /// The type's number in this process, 0 none yet.
    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed) as usize
    }

    /// Gives the type a number, if it has none.
    pub(crate) fn number(&self) -> usize {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        if self.0.load(Relaxed) == 0 {
            let fresh = NEXT.fetch_add(1, Relaxed);
            let _ = self.0.compare_exchange(0, fresh, Relaxed, Relaxed);
        }
        self.get()
    }
}

/// A type whose values may live in the heap. Implement it by `#[derive(Shared)]`.
///
/// ```
/// use coheap::{Shared, Slot};
/// #[derive(Shared)]
/// struct Node { left: Slot<Node>, right: Slot<Node>, value: u64 }
/// assert_eq!(Node::NAME, "Node");
/// assert_eq!(Node::REFS.0[0].count_ones(), 2);
/// ```
///
/// # Safety
/// `REFS` names exactly the [`Slot`](crate::Slot)s of the type; every other byte is plain data or an atomic, for which all-zero
/// bytes are valid; the type has no destructor and an alignment of at most eight bytes; `cell` returns the same cell for this type only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot live in the shared heap",
    label = "not shareable",
    note = "derive it: `#[derive(Shared)]` on a struct of plain data, atomics and `Slot`s"
)]
pub unsafe trait Shared: Sized + 'static {
    /// The name that all programs use for it.
    const NAME: &'static str;
    /// Its fields, in the order of their offsets.
    const FIELDS: &'static [FieldDesc];
    /// Its references.
    const REFS: RefMap;
    /// Identifies the type among programs: two types with one key must have the same fields. A type with a parameter mixes the
    /// parameter's key in, by [`mix_keys`].
    const KEY: u64 = names::hash(Self::NAME.as_bytes());
    /// Is it a [`Weak`](crate::Weak), whose word only the collector understands?
    #[doc(hidden)]
    const WEAK: bool = false;
    /// The type's number in this process.
    fn cell() -> &'static TypeCell;
    /// Declares the types that its slots refer to: who may read one of these may come to read those.
    fn targets(types: &mut Types<'_>);
}

/// A type that may be a field of a [`Shared`] struct.
///
/// What would not survive a visit by another process is refused when the program is compiled:
/// ```compile_fail
/// #[derive(coheap::Shared)]
/// struct Page { text: String }
/// ```
/// ```compile_fail
/// #[derive(coheap::Shared)]
/// struct List { items: Vec<u64> }
/// ```
/// ```compile_fail
/// #[derive(coheap::Shared)]
/// struct Node { next: Option<Box<u64>> }
/// ```
/// ```compile_fail
/// #[derive(coheap::Shared)]
/// enum Either { This(u64), That(u32) }
/// ```
///
/// # Safety
/// As for [`Shared`]: `REFS` is exact, zero bytes are valid, nothing to drop, aligned to at most eight bytes.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot live in the shared heap",
    label = "not plain data, an atomic, or a `Slot`",
    note = "instead of String use Slot<GcStr>; of Vec or a slice, Slot<Array<T>>; of Box, Rc, Arc, & or a raw pointer, Slot<T>; of Cell or RefCell, an atomic"
)]
pub unsafe trait Field: 'static {
    /// Name for descriptions.
    const TYPE_NAME: &'static str;
    /// Its references.
    const REFS: RefMap;
    /// Tells apart what the name and the map do not: the types that slots refer to.
    const KEY: u64;
    /// As [`Shared::targets`]; plain data has none.
    fn targets(_types: &mut Types<'_>) {}
}

/// What a [`Slot`](crate::Slot) may refer to: shareable structs, strings, arrays.
///
/// # Safety
/// `KEY` is the same for no two types with different contents.
pub unsafe trait Target: 'static {
    /// Identifies the type among programs.
    const KEY: u64;
    /// Declares the type, and what it leads to.
    fn declare(types: &mut Types<'_>);
}

// SAFETY: `Shared::KEY` promises it.
unsafe impl<T: Shared> Target for T {
    const KEY: u64 = <T as Shared>::KEY;
    fn declare(types: &mut Types<'_>) {
        types.declare::<T>();
    }
}

/// A walk over the types that a type leads to, entering each into the segment's table, or finding it there with the same fields.
///
/// So a type that another program defines differently is refused before anything that could refer to one of its objects is read,
/// not only when this program makes one.
pub struct Types<'p> {
    proc: &'p Proc,
    outcome: Result<()>,
}

impl Types<'_> {
    fn declare<T: Shared>(&mut self) {
        // By the type's cell too: of two types with one key the second must be looked at, and refused.
        let known = (std::ptr::from_ref(T::cell()) as usize, T::KEY);
        if self.outcome.is_err() || !self.proc.types_known.borrow_mut().insert(known) {
            return;
        }
        let entry = Entry {
            name: T::NAME,
            key: T::KEY,
            bytes: size_of::<T>(),
            fields: T::FIELDS,
        };
        self.outcome = register(self.proc.seg.types, "types", &entry).map(|_| ());
        T::targets(self);
        if self.outcome.is_err() {
            // Asked again, it is refused again.
            self.proc.types_known.borrow_mut().remove(&known);
        }
    }
}

impl Proc {
    /// Enters a type and all that it leads to into the segment, once per P.
    ///
    /// # Errors
    /// [`Error::TypeMismatch`] naming the type and the first field that differs; [`Error::TableFull`].
    pub(crate) fn declare<T: Shared>(&self) -> Result<()> {
        let mut types = Types {
            proc: self,
            outcome: Ok(()),
        };
        types.declare::<T>();
        types.outcome
    }
}

/// The key of a type with a parameter, from its own and the parameter's.
///
/// ```
/// assert_ne!(coheap::mix_keys(1, 2), coheap::mix_keys(2, 1));
/// ```
pub const fn mix_keys(outer: u64, inner: u64) -> u64 {
    let mixed = (outer.rotate_left(17) ^ inner).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if mixed == 0 { 1 } else { mixed }
}

macro_rules! plain_fields {
    ($($t:ty),+) => { $(
        // SAFETY: plain data or an atomic: no references, zero is valid, nothing to drop, aligned to its size of at most eight.
        unsafe impl Field for $t {
            const TYPE_NAME: &'static str = stringify!($t);
            const REFS: RefMap = RefMap::NONE;
            const KEY: u64 = names::hash(stringify!($t).as_bytes());
        }
    )+ };
}
plain_fields!(
    u8,
    u16,
    u32,
    u64,
    i8,
    i16,
    i32,
    i64,
    f32,
    f64,
    bool,
    char,
    (),
    AtomicBool,
    AtomicU8,
    AtomicU16,
    AtomicU32,
    AtomicU64,
    AtomicI8,
    AtomicI16,
    AtomicI32,
    AtomicI64
);

/// In the explorer's build the segment's atomics are types of their own; keys and names are those of the plain ones.
#[cfg(feature = "model")]
mod explored {
    use super::{Field, RefMap, names};
    use shm_layout::sync::{AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64};
    plain_fields!(AtomicU16, AtomicU32, AtomicU64, AtomicI32, AtomicI64);
}

// SAFETY: an array of N fields one after the other: references as often, everything else as its elements.
unsafe impl<F: Field, const N: usize> Field for [F; N] {
    const TYPE_NAME: &'static str = F::TYPE_NAME;
    const KEY: u64 = mix_keys(N as u64, F::KEY);
    fn targets(types: &mut Types<'_>) {
        F::targets(types);
    }
    const REFS: RefMap = {
        let mut map = RefMap::NONE;
        let mut i = 0;
        while i < N && !F::REFS.is_none() {
            map = map.with(i * size_of::<F>(), F::REFS);
            i += 1;
        }
        map
    };
}

/// Describes fields as one string: `name:type@offset;...`, with part of the key where the name does not tell all.
pub(crate) fn describe(fields: &[FieldDesc]) -> String {
    let mut text = String::new();
    for f in fields {
        let plain = f.key == names::hash(f.type_name.as_bytes());
        let key = if plain {
            String::new()
        } else {
            format!("#{:04x}", f.key >> 48)
        };
        text.push_str(&format!("{}:{}{key}@{};", f.name, f.type_name, f.offset));
    }
    text
}

/// A name to enter into a table, and what belongs to it.
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub key: u64,
    pub bytes: usize,
    pub fields: &'a [FieldDesc],
}

/// Enters a name with its fields into a table, or checks that it stands there with the same fields. Returns its index.
///
/// # Errors
/// [`Error::TypeMismatch`] naming the first field that differs; [`Error::TableFull`].
pub(crate) fn register(
    table: &'static [TypeRecord],
    what: &'static str,
    entry: &Entry<'_>,
) -> Result<usize> {
    let text = describe(entry.fields);
    let layout = entry.fields.iter().fold(
        names::hash(format!("{}:{text}", entry.bytes).as_bytes()),
        |h, f| mix_keys(h, f.key),
    );
    for (i, record) in table.iter().enumerate() {
        let seen = match record.key.compare_exchange(0, entry.key, AcqRel, Acquire) {
            Ok(_) => entry.key,
            Err(seen) => seen,
        };
        if seen != entry.key {
            continue;
        }
        let theirs = match record.layout.compare_exchange(0, layout, AcqRel, Acquire) {
            Ok(_) => layout,
            Err(theirs) => theirs,
        };
        if theirs != layout {
            return Err(Error::TypeMismatch {
                name: entry.name.to_owned(),
                difference: difference(record, entry.bytes, &text),
            });
        }
        if record.ready.load(Acquire) == 0 {
            record.bytes.store(entry.bytes as u32, Relaxed);
            names::write(&record.name, entry.name);
            names::write(&record.fields, &text[..text.len().min(FIELDS_BYTES)]);
            record.ready.store(1, Release);
        }
        return Ok(i);
    }
    Err(Error::TableFull {
        table: what,
        capacity: table.len(),
    })
}

/// The first field at which a registered description and ours part.
fn difference(record: &TypeRecord, bytes: usize, ours: &str) -> String {
    let theirs = names::read(&record.fields);
    let (mut a, mut b) = (theirs.split(';'), ours.split(';'));
    loop {
        match (a.next(), b.next()) {
            (Some(x), Some(y)) if x == y => continue,
            (None, None) => {
                return format!(
                    "its size: {} bytes there, {bytes} here",
                    record.bytes.load(Relaxed)
                );
            }
            (x, y) => {
                return format!(
                    "{:?} there, {:?} here",
                    x.unwrap_or("no field"),
                    y.unwrap_or("no field")
                );
            }
        }
    }
}

/// Checks a type once more where derive cannot: at compile time, when it is first used.
pub(crate) const fn check<T: Shared>() {
    assert!(
        align_of::<T>() <= 8,
        "a shared type may be aligned to eight bytes at most"
    );
    assert!(
        !std::mem::needs_drop::<T>(),
        "a shared type must have nothing to drop: nobody would drop it"
    );
}
