//! A queue that every process may push to and take from, as part of a task's step if it likes.
//!
//! Michael and Scott's: a list of nodes, the first of which is a dummy. A node's state word decides; head and tail are hints that
//! may lag. Nodes are never used twice, and a link, once set, stays: from any node the end can be reached.
//!
//! | node state | meaning | moved on by |
//! |---|---|---|
//! | `UNLINKED` | not known to be in the list | its pusher, after linking it, to `LINKED`; a taker |
//! | `LINKED`   | in the list, free | a taker, to `TAKEN` or `RESERVED` |
//! | `RESERVED(task, run)` | taken if this run of this task's step takes effect | its commit, to `TAKEN`; who finds the run over, to its own |
//! | `TAKEN`    | gone | – |
//!
//! 1. *Push*: link the node behind the last one, by one compare-exchange (**the push**); say `LINKED`; move the tail.
//! 2. *Pop*: the first free node goes to `TAKEN`, by one compare-exchange (**the pop**); then the head moves over what is taken.
//! 3. *[`Step::push`]* makes the node at once and links it as an effect of the commit. Repeated after a death, it *first walks*
//!    the queue, *then reads the state*: found, or anything but `UNLINKED`, means done. The other order would miss a node that is
//!    taken in between.
//! 4. *[`Step::take`]* reserves. The reservation counts while the task's word says "this run, running" or "its commit, being applied".
//!    A commit says `TAKEN` before the word moves on. So `RESERVED` by a run that is over means that it took no effect: failed, died,
//!    or ran out of memory. Nobody gives a reservation back: the next taker just overrules it.
//!
//! There is no wait for a value: a step that finds none returns `Next::Sleep`, or is spawned by whoever pushes.
//!
//! **Cost**: O(1), plus the nodes reserved by others. **Order**: first in, first out among what is committed; a node whose taker
//! did not take effect is back in its place. **If a process dies** between link and tail, the tail lags; between `TAKEN` and head,
//! the head does: the next one moves them. A plain pop by a process that dies is a value lost: at most once. Taking in a step is
//! exactly once.
//! **Rejected:** giving reservations back in recovery (a second finder of what the task's word says already).
#![expect(
    unsafe_code,
    reason = "reaches nodes by their reference, from recovery too; gives values their type back"
)]

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use shm_layout::sync::AtomicU64;
use shm_layout::{Ref, word::TaskWord};

use super::{Cx, Gc, Slot, Target, item::shareable_shell};
use crate::{
    Shared,
    error::Result,
    failpoint,
    sched::{
        Step, Task,
        commit::{Effect, Pass},
    },
    segment::Segment,
};

#[derive(Shared)]
#[shared(name = "coheap::QueueNode")]
struct Node {
    state: AtomicU64,
    next: Slot<Node>,
    value: Slot<()>,
    /// The queue it is made for.
    home: Slot<QueueCell>,
    pad: u32,
}

#[derive(Shared)]
#[shared(name = "coheap::Queue")]
struct QueueCell {
    /// A node that is taken, before every one that is not.
    head: Slot<Node>,
    /// Any node near the end.
    tail: Slot<Node>,
}

/// Node states: two bits, and with `RESERVED` the run (26 bits) and the task.
mod state {
    pub const UNLINKED: u64 = 0;
    pub const LINKED: u64 = 1 << 62;
    pub const TAKEN: u64 = 2 << 62;
    pub const KIND: u64 = 3 << 62;
    pub const RUN_BITS: u32 = 26;

    pub fn reserved(task: usize, run: u32) -> u64 {
        KIND | u64::from(run) << 32 | task as u64
    }
}

/// A queue of references that every process may push to and take from at any time.
///
/// ```
/// use coheap::*;
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let cx = &*cx;
///     let queue = Queue::<GcStr>::new(cx)?;
///     queue.push(cx, cx.str("first")?)?;
///     queue.push(cx, cx.str("second")?)?;
///     assert_eq!(queue.pop(cx).unwrap().as_str(), Some("first"));
///     assert_eq!(queue.len(cx), 1);
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct Queue<T> {
    cell: QueueCell,
    items: PhantomData<fn() -> T>,
}

shareable_shell!(Queue, QueueCell);

impl<T: Target> Queue<T> {
    /// A new, empty queue.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`].
    pub fn new<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, Queue<T>>> {
        let dummy = new_node(cx, state::TAKEN)?;
        let queue = cx.alloc(Queue {
            cell: QueueCell {
                head: Slot::nil(),
                tail: Slot::nil(),
            },
            items: PhantomData,
        })?;
        queue.cell.head.store(cx, Some(dummy));
        queue.cell.tail.store(cx, Some(dummy));
        Ok(queue)
    }

    /// Appends `value`, at once. In a step prefer [`Step::push`], which takes effect with the step or not at all.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`]. Nothing has happened then.
    pub fn push(&self, cx: &Cx<'_>, value: Gc<'_, T>) -> Result<()> {
        let node = self.node_for(cx, value)?;
        let proc = cx.proc();
        let node = cx.raw(Some(node));
        proc.write_barrier(node);
        append(&proc.seg, node, Pass::First);
        Ok(())
    }

    fn node_for<'cx>(&self, cx: &'cx Cx<'_>, value: Gc<'_, T>) -> Result<Gc<'cx, Node>> {
        let node = new_node(cx, state::UNLINKED)?;
        node.value.store(cx, Some(value.untyped()));
        let here = (&raw const self.cell).cast();
        assert!(cx.proc().seg.contains(here), "a queue of another heap");
        let home = cx.proc().seg.reference(here);
        node.home.store(cx, cx.gc(home));
        Ok(node)
    }

    /// Takes the first value, at once: lost if the process dies before it has done anything with it. In a step prefer
    /// [`Step::take`]. `None` when there is none that is not reserved.
    pub fn pop<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T>> {
        let node = self.claim(cx, state::TAKEN)?;
        failpoint!("queue.popped");
        let value = Self::value(cx, node);
        node.value.store(cx, None);
        self.advance(cx);
        value
    }

    /// Claims the first free node.
    fn claim<'cx>(&self, cx: &'cx Cx<'_>, claim: u64) -> Option<Gc<'cx, Node>> {
        self.advance(cx);
        nodes(cx, self.cell.head.load(cx)).find(|node| node.claim(&cx.proc().seg, claim))
    }

    /// Moves the head over what is taken.
    fn advance(&self, cx: &Cx<'_>) {
        while let Some(head) = self.cell.head.load(cx) {
            let Some(next) = head.next.load(cx).filter(|n| n.is_taken()) else {
                return;
            };
            self.cell.head.compare_exchange(cx, Some(head), Some(next));
        }
    }

    fn value<'cx>(cx: &'cx Cx<'_>, node: Gc<'_, Node>) -> Option<Gc<'cx, T>> {
        // SAFETY: a node of a `Queue<T>` is made by `node_for` only, which gives it a `T`.
        node.value.load(cx).map(|value| unsafe { value.cast() })
    }

    /// How many values are in it, reserved ones included. Counts them.
    pub fn len(&self, cx: &Cx<'_>) -> usize {
        nodes(cx, self.cell.head.load(cx))
            .filter(|n| !n.is_taken())
            .count()
    }

    /// Is there none?
    pub fn is_empty(&self, cx: &Cx<'_>) -> bool {
        self.len(cx) == 0
    }

    /// The values in order, reserved ones included; those that are pushed meanwhile too.
    pub fn iter<'cx>(&self, cx: &'cx Cx<'_>) -> impl Iterator<Item = Gc<'cx, T>> {
        nodes(cx, self.cell.head.load(cx))
            .filter(|n| !n.is_taken())
            .filter_map(|n| Self::value(cx, n))
    }
}

impl<K: Task> Step<'_, K> {
    /// Appends `value` to `queue`, if the step takes effect: then exactly once.
    ///
    /// ```
    /// use coheap::*;
    /// #[derive(Shared)] struct Job { queue: Slot<Queue<Job>> }
    /// impl Task for Job {
    ///     const KIND: &'static str = "job";
    ///     type Output = Job;
    ///     fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
    ///         let cx = &*cx;
    ///         let queue = cx.context().queue.load(cx).unwrap();
    ///         match cx.take(queue)? {
    ///             Some(job) => Ok(Next::Done(Some(job))),
    ///             None => {
    ///                 cx.push(queue, cx.context())?;
    ///                 Ok(Next::Again)
    ///             }
    ///         }
    ///     }
    /// }
    /// # let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// let done = p.submit(|cx| {
    ///     let job = cx.alloc(Job { queue: Slot::nil() })?;
    ///     job.queue.store(cx, Some(Queue::new(cx)?));
    ///     Ok(job)
    /// })?;
    /// p.run_until_idle(&Kinds::new().with::<Job>())?;
    /// assert!(p.enter(|cx| done.result(cx).unwrap().queue.load(cx).unwrap().is_empty(cx)));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Cx::alloc`] and [`Cx::handle`].
    pub fn push<T: Target>(&self, queue: Gc<'_, Queue<T>>, value: Gc<'_, T>) -> Result<()> {
        let node = queue.node_for(self, value)?;
        let kept = self.handle(node.untyped())?;
        let node = self.raw(Some(node));
        self.add_effect(kept, Effect::Push { node });
        Ok(())
    }

    /// Takes the first value of `queue`, if the step takes effect: then exactly once. Until then nobody else gets it; if the step
    /// takes no effect, it is back in its place. `None` when there is none that is not reserved. See [`Step::push`].
    ///
    /// # Errors
    /// Those of [`Cx::handle`].
    pub fn take<'cx, T: Target>(&'cx self, queue: Gc<'_, Queue<T>>) -> Result<Option<Gc<'cx, T>>> {
        let (task, run) = self.run();
        let Some(node) = queue.claim(self, state::reserved(task, run)) else {
            return Ok(None);
        };
        failpoint!("queue.reserved");
        let kept = self.handle(node.untyped()).inspect_err(|_| {
            node.state.store(state::LINKED, Release);
        })?;
        let taken = self.raw(Some(node));
        self.add_effect(kept, Effect::Take { node: taken });
        Ok(Queue::<T>::value(self, node))
    }
}

fn new_node<'cx>(cx: &'cx Cx<'_>, state: u64) -> Result<Gc<'cx, Node>> {
    cx.alloc(Node {
        state: AtomicU64::new(state),
        next: Slot::nil(),
        value: Slot::nil(),
        home: Slot::nil(),
        pad: 0,
    })
}

/// The nodes behind `node`.
fn nodes<'cx>(cx: &'cx Cx<'_>, node: Option<Gc<'cx, Node>>) -> impl Iterator<Item = Gc<'cx, Node>> {
    std::iter::successors(node, |n| n.next.load(cx)).skip(1)
}

impl Node {
    fn is_taken(&self) -> bool {
        self.state.load(Acquire) == state::TAKEN
    }

    /// Free, or reserved by a run that is over: it gets state `claim`. True when it was this call that claimed it.
    fn claim(&self, segment: &Segment, claim: u64) -> bool {
        loop {
            let seen = self.state.load(Acquire);
            if seen == state::TAKEN || (seen & state::KIND == state::KIND && runs(segment, seen)) {
                return false;
            }
            // A reservation that stands although its run is over has not been committed: `TAKEN` comes before the end of the run.
            if self
                .state
                .compare_exchange(seen, claim, AcqRel, Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }

    fn linked(&self) {
        // A failure: a taker was quicker.
        let _ = self
            .state
            .compare_exchange(state::UNLINKED, state::LINKED, AcqRel, Relaxed);
    }
}

/// Does the run that made this reservation go on, or is its commit being applied?
fn runs(segment: &Segment, reserved: u64) -> bool {
    let word = TaskWord(segment.tasks[reserved as u32 as usize].word.load(Acquire));
    let mask = (1 << state::RUN_BITS) - 1;
    let since = word.r#gen().wrapping_sub((reserved >> 32) as u32) & mask;
    match word.state() {
        TaskWord::RUNNING => since == 0,
        TaskWord::COMMITTED => since == 1,
        _ => false,
    }
}

fn node_at(segment: &Segment, r: Ref) -> &Node {
    // SAFETY: `r` comes from a commit record's push or take, or from a link of the list these lead to: always a node. It is alive: the
    // committing P is inside its scope, or was when it died, which holds up the collector until it has been recovered.
    unsafe { &*segment.object(r).cast::<Node>() }
}

fn home_of<'s>(segment: &'s Segment, node: &Node) -> &'s QueueCell {
    let r = node.home.raw().load(Acquire);
    // SAFETY: set by `node_for` to its queue, before anybody else knew the node; alive as in `node_at`.
    unsafe { &*segment.object(r).cast::<QueueCell>() }
}

/// Links a node into its queue. Idempotent when told that it may have been done. The caller has shaded `r`, so that storing it
/// needs no barrier; no other reference is stored.
pub(crate) fn append(segment: &Segment, r: Ref, pass: Pass) {
    let node = node_at(segment, r);
    let queue = home_of(segment, node);
    let tail = queue.tail.raw().load(Acquire);
    if pass == Pass::Again && (is_in(segment, queue, r) || is_known(node)) {
        crate::probe!(segment, QueueNodeTaken);
        node.linked();
        return;
    }
    link(segment, tail, r);
    failpoint!("queue.linked");
    node.linked();
    failpoint!("queue.marked");
    let _ = queue.tail.raw().compare_exchange(tail, r, AcqRel, Relaxed);
}

/// The walk. Before the look at the state.
fn is_in(segment: &Segment, queue: &QueueCell, r: Ref) -> bool {
    let mut at = queue.head.raw().load(Acquire);
    while at != 0 && at != r {
        at = node_at(segment, at).next.raw().load(Acquire);
    }
    at == r
}

fn is_known(node: &Node) -> bool {
    node.state.load(Acquire) != state::UNLINKED
}

/// Puts `r` behind the last node, which is looked for from `at`.
fn link(segment: &Segment, mut at: Ref, r: Ref) {
    // Release: the node's contents before the link to it.
    while let Err(next) = node_at(segment, at)
        .next
        .raw()
        .compare_exchange(0, r, AcqRel, Acquire)
    {
        at = next;
    }
}

/// The effect of a take. Idempotent.
pub(crate) fn taken(segment: &Segment, r: Ref) {
    let node = node_at(segment, r);
    // Nobody else moves a reservation of a run that is being committed.
    node.state.store(state::TAKEN, Release);
    node.value.raw().store(0, Release);
}
