//! Strings: immutable bytes in the heap.
#![expect(unsafe_code, reason = "copies bytes behind a count")]

use super::{Array, Cx, Elements, Gc, RefMap, Target, Types};
use crate::{error::Result, names};

/// Immutable bytes, UTF-8 or not. Exists only behind a [`Gc`].
///
/// ```
/// use coheap::*;
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let s = cx.str("grey")?;
///     assert_eq!(s.as_str(), Some("grey"));
///     assert_eq!(s.as_bytes(), b"grey");
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct GcStr(Array<u8>);

// SAFETY: bytes, and nothing else has this key.
unsafe impl Target for GcStr {
    const KEY: u64 = names::hash(b"coheap::GcStr");
    fn declare(_types: &mut Types<'_>) {}
}

impl GcStr {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The bytes as text, if they are UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for GcStr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(self.as_bytes()).fmt(f)
    }
}

impl<'p> Cx<'p> {
    /// Copies bytes into the heap.
    ///
    /// # Errors
    /// [`crate::Error::HeapFull`], [`crate::Error::NoMemory`].
    pub fn str<'cx>(&'cx self, bytes: impl AsRef<[u8]>) -> Result<Gc<'cx, GcStr>> {
        let bytes = bytes.as_ref();
        let at = {
            let elements = const { &Elements::of(1, RefMap::NONE) };
            self.proc().array_of(bytes.len(), 1, elements, false)?
        };
        // SAFETY: `array_of` made room for `bytes.len()` bytes behind the eight of the count; the object is ours alone; the source
        // is private memory or another object.
        unsafe { std::ptr::copy(bytes.as_ptr(), at.wrapping_add(8), bytes.len()) };
        // SAFETY: an array of bytes, initialised just now; `GcStr` is one.
        Ok(unsafe { Gc::from_raw(at) })
    }
}
