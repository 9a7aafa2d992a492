//! Robust, process-shared pthread mutexes in memory of the segment: the only locks a dying owner does not take with it.
//!
//! The kernel marks what a thread held when it ends. Two uses: the life word of a P (held for life, never waited for), and the
//! recoverers' mutex (only ever tried). Memory that held one is never used for anything else.
#![expect(
    unsafe_code,
    reason = "calls the pthread functions on memory of the segment"
)]

use std::mem::MaybeUninit;

use libc::{pthread_mutex_t, pthread_mutexattr_t};

use crate::{Error, error::Result};

/// Bytes set aside for one.
pub(crate) const BYTES: usize = shm_layout::proc::LIFE_BYTES;

const _: () = assert!(size_of::<pthread_mutex_t>() <= BYTES);

/// Makes the mutex.
///
/// # Safety
/// `at` points to [`BYTES`] bytes of a mapping that stays, aligned to eight; nobody uses them as a mutex meanwhile.
///
/// # Errors
/// [`Error::Os`] when the C library refuses.
pub(crate) unsafe fn init(at: *mut pthread_mutex_t) -> Result<()> {
    let mut attr = MaybeUninit::<pthread_mutexattr_t>::uninit();
    let attr = attr.as_mut_ptr();
    // SAFETY: memory for an attribute object.
    let made = unsafe { libc::pthread_mutexattr_init(attr) };
    check(made, "making mutex attributes")?;
    // SAFETY: initialised above.
    let shared = unsafe { libc::pthread_mutexattr_setpshared(attr, libc::PTHREAD_PROCESS_SHARED) };
    check(shared, "sharing a mutex")?;
    // SAFETY: initialised above.
    let robust = unsafe { libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST) };
    check(robust, "making a mutex robust")?;
    // SAFETY: room and exclusiveness are promised by the caller; the attributes are initialised.
    let ready = unsafe { libc::pthread_mutex_init(at, attr) };
    check(ready, "making a mutex")?;
    // SAFETY: initialised above, not used afterwards.
    let dropped = unsafe { libc::pthread_mutexattr_destroy(attr) };
    check(dropped, "dropping mutex attributes")
}

/// Is this the memory of such a mutex, as far as can be told from outside? glibc's functions believe its kind.
pub(crate) fn is_one(words: &[u64]) -> bool {
    let mut model = MaybeUninit::<pthread_mutex_t>::zeroed();
    // SAFETY: room for a mutex, of this function alone.
    if unsafe { init(model.as_mut_ptr()) }.is_err() {
        return false;
    }
    // SAFETY: initialised, from zeroes: every byte of it may be read.
    let bytes = unsafe { std::slice::from_raw_parts(model.as_ptr().cast::<u8>(), KIND_AT + 4) };
    let kind = u32::from_ne_bytes(bytes[KIND_AT..].try_into().expect("four bytes"));
    words.get(KIND_AT / 8).is_some_and(|&w| w as u32 == kind)
}

/// Where glibc keeps a mutex's kind: behind lock, count, owner and users.
const KIND_AT: usize = 16;

fn check(code: i32, what: &str) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(Error::os(what, std::io::Error::from_raw_os_error(code)))
    }
}
