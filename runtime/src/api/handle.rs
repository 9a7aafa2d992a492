//! Handles: objects that this process keeps across scopes.
//!
//! A handle is an entry in the P's table in the segment, so a dead P's handles are simply cleared. It belongs to the P it was made
//! on, and is given back when dropped.

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{Relaxed, Release},
};

use shm_layout::proc::HANDLES;
use shm_layout::sync::AtomicU32;

use super::{Cx, Gc};
use crate::{Error, error::Result, sched::proc::Proc, segment::Segment};

/// Keeps an object alive, and finds it again, in later scopes of the same P.
///
/// ```
/// use coheap::*;
/// # #[derive(Shared)] struct Leaf { value: u64 }
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// let kept = p.enter(|cx| cx.handle(cx.alloc(Leaf { value: 7 })?))?;
/// assert_eq!(p.enter(|cx| kept.get(cx).value), 7);
/// # Ok::<(), Error>(())
/// ```
pub struct Handle<T> {
    segment: Segment,
    p: u16,
    inc: u32,
    index: u32,
    /// Handles go back to the P's table by plain stores of the owning thread.
    not_send: PhantomData<*mut ()>,
    target: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    fn entry(&self) -> &AtomicU32 {
        &self.segment.areas[self.p as usize].handles[self.index as usize]
    }

    /// The object.
    ///
    /// # Panics
    /// When used on another P than the one it was made on.
    pub fn get<'cx>(&self, cx: &'cx Cx<'_>) -> Gc<'cx, T> {
        assert!(
            self.is_of(cx.proc()),
            "a handle belongs to the P it was made on"
        );
        cx.gc(self.entry().load(Relaxed))
            .expect("a handle's entry is cleared only by its drop")
    }

    fn is_of(&self, proc: &Proc) -> bool {
        proc.seg.incarnation() == self.segment.incarnation()
            && proc.me.p == self.p
            && proc.inc == self.inc
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        use shm_layout::word::ProcWord;
        // A lease that has ended has cleared its table already, and somebody else may own it now.
        let owner = ProcWord(self.segment.procs[self.p as usize].word.0.load(Relaxed));
        if owner.inc() == self.inc && owner.state() == ProcWord::LIVE {
            self.entry().store(0, Release);
        }
    }
}

impl Cx<'_> {
    /// Keeps `gc` across scopes.
    ///
    /// # Errors
    /// [`Error::TableFull`] when this P holds 4,096 handles.
    pub fn handle<T>(&self, gc: Gc<'_, T>) -> Result<Handle<T>> {
        let proc = self.proc();
        let r = self.raw(Some(gc));
        let index = proc.free_handle()?;
        proc.write_barrier(r);
        proc.area.handles[index as usize].store(r, Release);
        Ok(Handle {
            segment: proc.seg.clone(),
            p: proc.me.p,
            inc: proc.inc,
            index,
            not_send: PhantomData,
            target: PhantomData,
        })
    }
}

impl Proc {
    fn free_handle(&self) -> Result<u32> {
        let mut free = self.handles_free.borrow_mut();
        if free.is_empty() {
            let high = self.handles_high.get();
            free.extend((0..high).filter(|&i| self.area.handles[i as usize].load(Relaxed) == 0));
            if free.len() < 16 && (high as usize) < HANDLES {
                let new_high = (high + 64).min(HANDLES as u32);
                free.extend(high..new_high);
                self.handles_high.set(new_high);
            }
        }
        free.pop().ok_or(Error::TableFull {
            table: "handles of one P",
            capacity: HANDLES,
        })
    }

    /// Clears the table when the lease ends.
    pub(crate) fn drop_all_handles(&self) {
        for handle in &self.area.handles[..self.handles_high.get() as usize] {
            handle.store(0, Release);
        }
    }
}
