//! The atomics that the segment is made of.
//!
//! In every ordinary build these are the types of `core`, by re-export: nothing is added. With the feature `model` they are
//! transparent wrappers of the same size which report each access to two hooks, one before and one after it. The explorer
//! (`coheap::model`) uses the first to decide which process goes on, or dies, and the second to tell states apart. So what it
//! explores is the product's own code, access by access.

#[cfg(not(feature = "model"))]
pub use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64};

#[cfg(feature = "model")]
pub use hooked::{Access, AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64, set_hooks};

/// Atomics that report what is done with them.
#[cfg(feature = "model")]
#[allow(unsafe_code, missing_docs)]
mod hooked {
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// An access to a word of the segment.
    #[derive(Clone, Copy, Debug)]
    pub struct Access {
        /// Where.
        pub at: usize,
        /// Bytes.
        pub size: u8,
        /// Can it change the word?
        pub writes: bool,
        /// Does the program learn the old value?
        pub reads: bool,
        /// Value before, known after the access.
        pub old: u64,
        /// Value after.
        pub new: u64,
    }

    type Hook = fn(&Access);
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    static AFTER: AtomicUsize = AtomicUsize::new(0);

    /// Sets the functions called around each access of every thread.
    pub fn set_hooks(before: Hook, after: Hook) {
        AFTER.store(after as usize, Ordering::Release);
        BEFORE.store(before as usize, Ordering::Release);
    }

    #[inline]
    fn call(hook: &AtomicUsize, access: &Access) {
        let f = hook.load(Ordering::Acquire);
        if f != 0 {
            // SAFETY: only `set_hooks` stores here, and it stores function pointers of this type.
            let f = unsafe { core::mem::transmute::<usize, Hook>(f) };
            f(access);
        }
    }

    macro_rules! hooked {
        ($name:ident, $int:ty) => {
            #[repr(transparent)]
            pub struct $name(core::sync::atomic::$name);

            impl $name {
                pub const fn new(value: $int) -> Self {
                    Self(core::sync::atomic::$name::new(value))
                }

                /// # Safety
                /// That of the type in `core`.
                pub const unsafe fn from_ptr<'a>(at: *mut $int) -> &'a Self {
                    // SAFETY: promised by the caller; the wrapper is transparent.
                    unsafe { &*at.cast::<Self>() }
                }

                pub const fn as_ptr(&self) -> *mut $int {
                    self.0.as_ptr()
                }

                #[inline]
                fn access<R>(
                    &self,
                    reads: bool,
                    writes: bool,
                    f: impl FnOnce(&core::sync::atomic::$name) -> R,
                ) -> R {
                    let mut access = Access {
                        at: self.0.as_ptr() as usize,
                        size: size_of::<$int>() as u8,
                        writes,
                        reads,
                        old: 0,
                        new: 0,
                    };
                    call(&BEFORE, &access);
                    access.old = self.0.load(Ordering::Relaxed) as u64;
                    let result = f(&self.0);
                    access.new = self.0.load(Ordering::Relaxed) as u64;
                    call(&AFTER, &access);
                    result
                }

                pub fn load(&self, order: Ordering) -> $int {
                    self.access(true, false, |a| a.load(order))
                }
                pub fn store(&self, value: $int, order: Ordering) {
                    self.access(false, true, |a| a.store(value, order));
                }
                pub fn swap(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.swap(value, order))
                }
                pub fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    self.access(true, true, |a| {
                        a.compare_exchange(current, new, success, failure)
                    })
                }
                pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_add(value, order))
                }
                pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_sub(value, order))
                }
                pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_or(value, order))
                }
                pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_and(value, order))
                }
                pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_max(value, order))
                }
                pub fn fetch_min(&self, value: $int, order: Ordering) -> $int {
                    self.access(true, true, |a| a.fetch_min(value, order))
                }
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    mut f: impl FnMut($int) -> Option<$int>,
                ) -> Result<$int, $int> {
                    let mut seen = self.load(fetch);
                    while let Some(next) = f(seen) {
                        match self.compare_exchange(seen, next, set, fetch) {
                            Ok(was) => return Ok(was),
                            Err(now) => seen = now,
                        }
                    }
                    Err(seen)
                }
            }
        };
    }

    hooked!(AtomicU16, u16);
    hooked!(AtomicU32, u32);
    hooked!(AtomicU64, u64);
    hooked!(AtomicI32, i32);
    hooked!(AtomicI64, i64);
}
