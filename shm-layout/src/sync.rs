//! The atomics that the segment is made of.
//!
//! In every ordinary build these are the types of `core`, by re-export: nothing is added. With the feature `model` they are
//! transparent wrappers of the same size which report each access to two hooks, one before and one after it. The explorer
//! (`coheap::model`) uses the first to decide which process goes on, or dies, and the second to tell states apart. So what it
//! explores is the product's own code, access by access. A *router* may take an access over: that is how `loom` answers it, by the
//! word's address, with the order that the code passed.

#[cfg(not(feature = "model"))]
pub use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64};

#[cfg(feature = "model")]
pub use hooked::{
    Access, AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Op, Request, set_change_hook,
    set_hooks, set_router,
};

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

    /// What is asked of a word; values as wide as a `u64`.
    #[derive(Clone, Copy, Debug)]
    pub enum Op {
        Load,
        Store(u64),
        Swap(u64),
        CompareExchange {
            current: u64,
            new: u64,
            failure: Ordering,
        },
        Add(u64),
        Sub(u64),
        Or(u64),
        And(u64),
        Max(u64),
        Min(u64),
    }

    /// An access that somebody else may carry out.
    #[derive(Clone, Copy, Debug)]
    pub struct Request {
        /// Where.
        pub at: usize,
        /// Bytes.
        pub size: u8,
        /// As the code says it; of a compare-exchange that of success.
        pub order: Ordering,
        /// What.
        pub op: Op,
    }

    type Hook = fn(&Access);
    type Router = fn(&Request) -> Option<Result<u64, u64>>;
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    static AFTER: AtomicUsize = AtomicUsize::new(0);
    static ROUTER: AtomicUsize = AtomicUsize::new(0);

    /// Sets the function that may carry an access out in the place of memory, and say what was there: `Err` for a compare-exchange
    /// that failed, `None` for "do it in memory".
    pub fn set_router(router: Router) {
        ROUTER.store(router as usize, Ordering::Release);
    }

    #[inline]
    fn routed(request: &Request) -> Option<Result<u64, u64>> {
        let f = ROUTER.load(Ordering::Acquire);
        if f == 0 {
            return None;
        }
        // SAFETY: only `set_router` stores here, and it stores function pointers of this type.
        let f = unsafe { core::mem::transmute::<usize, Router>(f) };
        f(request)
    }

    /// Sets the functions called around each access of every thread.
    pub fn set_hooks(before: Hook, after: Hook) {
        AFTER.store(after as usize, Ordering::Release);
        BEFORE.store(before as usize, Ordering::Release);
    }

    /// Has only changes reported, after they are made; loads are not.
    pub fn set_change_hook(after: Hook) {
        BEFORE.store(0, Ordering::Release);
        AFTER.store(after as usize, Ordering::Release);
    }

    /// The explorer's judge reads a whole heap per end: its loads must not cost a call each.
    #[inline]
    fn nobody_sees_loads() -> bool {
        BEFORE.load(Ordering::Relaxed) == 0 && ROUTER.load(Ordering::Relaxed) == 0
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

    /// The value of an access that cannot fail.
    fn whole<T>(value: Result<T, T>) -> T {
        match value {
            Ok(v) | Err(v) => v,
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
                fn access(
                    &self,
                    order: Ordering,
                    op: Op,
                    f: impl FnOnce(&core::sync::atomic::$name) -> Result<$int, $int>,
                ) -> Result<$int, $int> {
                    let request = Request {
                        at: self.0.as_ptr() as usize,
                        size: size_of::<$int>() as u8,
                        order,
                        op,
                    };
                    if let Some(answer) = routed(&request) {
                        return answer.map(|v| v as $int).map_err(|v| v as $int);
                    }
                    let (reads, writes) = (!matches!(op, Op::Store(_)), !matches!(op, Op::Load));
                    if !writes && BEFORE.load(Ordering::Acquire) == 0 {
                        return f(&self.0);
                    }
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

                #[inline]
                pub fn load(&self, order: Ordering) -> $int {
                    if nobody_sees_loads() {
                        return self.0.load(order);
                    }
                    whole(self.access(order, Op::Load, |a| Ok(a.load(order))))
                }
                pub fn store(&self, value: $int, order: Ordering) {
                    let _ = self.access(order, Op::Store(value as u64), |a| {
                        a.store(value, order);
                        Ok(value)
                    });
                }
                pub fn swap(&self, value: $int, order: Ordering) -> $int {
                    whole(self.access(order, Op::Swap(value as u64), |a| Ok(a.swap(value, order))))
                }
                pub fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    let op = Op::CompareExchange {
                        current: current as u64,
                        new: new as u64,
                        failure,
                    };
                    self.access(success, op, |a| {
                        a.compare_exchange(current, new, success, failure)
                    })
                }
                pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::Add(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_add(value, order))))
                }
                pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::Sub(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_sub(value, order))))
                }
                pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::Or(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_or(value, order))))
                }
                pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::And(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_and(value, order))))
                }
                pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::Max(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_max(value, order))))
                }
                pub fn fetch_min(&self, value: $int, order: Ordering) -> $int {
                    let op = Op::Min(value as u64);
                    whole(self.access(order, op, |a| Ok(a.fetch_min(value, order))))
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
