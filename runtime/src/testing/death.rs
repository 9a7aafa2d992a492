//! A death in a copy of a segment: the words are changed that the kernel changes, and a survivor's scope is left.
//!
//! **For copies only**: nobody has died, and the P that is called dead is alive in the segment that was copied.
#![expect(
    unsafe_code,
    reason = "looks at the lock word inside a robust pthread mutex"
)]

use std::sync::atomic::Ordering::SeqCst;

use shm_layout::word::ProcWord;

use crate::{life, segment::Segment};

/// Does what the kernel does when thread `tid` ends: its life words and the recovery lock say "owner died"; and, for a lease whose
/// life word does not speak yet or no more, names a process that does not exist. For copies of a segment only.
pub fn mark_dead(segment: &Segment, pid: u32, tid: u32) {
    const OWNER_DIED: u32 = 0x4000_0000;
    const WAITERS: u32 = 0x8000_0000;
    const NOBODY: u32 = 0x1fff_fffe;
    let die = |word: &shm_layout::sync::AtomicU32| {
        let seen = word.load(SeqCst);
        if seen & !WAITERS == tid {
            word.store(seen & WAITERS | OWNER_DIED, SeqCst);
        }
    };
    for record in segment.used_procs() {
        die(life::word(record));
        let owner = ProcWord(record.word.0.load(SeqCst));
        if owner.state() != ProcWord::VACANT && owner.pid() == pid {
            record.word.0.store(owner.with_pid(NOBODY).0, SeqCst);
        }
    }
    // SAFETY: 1. In bounds and aligned: the first four bytes of an array of `AtomicU64`. 2. The lock word of a `pthread_mutex_t`.
    die(unsafe { &*(&raw const segment.hdr.recovery.0).cast::<shm_layout::sync::AtomicU32>() });
}

/// Makes P `p` of a copy leave its scope: what a survivor that is inside would do next. It has shaded nothing.
pub fn put_outside(segment: &Segment, p: usize) {
    let scope = &segment.procs[p].scope.0;
    scope.store(scope.load(SeqCst) & !(1 << 3), SeqCst);
}
