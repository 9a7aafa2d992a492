//! Tasks: named kinds of resumable work.
//!
//! A kind is a context type with a step function. A step reads its context, builds new objects, and returns what comes next; its
//! effects (spawns, root updates, the result) are collected and published together with "what comes next", by one
//! compare-exchange (`commit`). A step that dies, fails, or runs out of memory leaves the old context as it was.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    time::Duration,
};

use shm_layout::{
    Ref,
    geometry::TASK_STEP,
    task::TaskRecord,
    word::{Owner, TaskWord},
};

use crate::{
    Error,
    api::{self, Cx, Gc, Handle, P, Root, Shared},
    error::Result,
    failpoint, planted,
    sched::{
        commit::{Effect, Plan},
        join::Join,
        lost_runs,
        proc::Proc,
        run_queue::put_global,
        wake,
    },
    segment::{Segment, limits},
};

/// A kind of task: a context, and a step that takes it further.
///
/// ```
/// use coheap::*;
/// #[derive(Shared)]
/// struct Countdown { left: u64 }
/// impl Task for Countdown {
///     const KIND: &'static str = "countdown";
///     type Output = Countdown;
///     fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>, Error> {
///         let cx = &*cx;
///         match cx.context().left {
///             0 => Ok(Next::Done(Some(cx.context()))),
///             n => Ok(Next::Continue(cx.alloc(Countdown { left: n - 1 })?)),
///         }
///     }
/// }
/// let segment = Segment::create(&Default::default())?;
/// let mut p = P::lease(segment)?;
/// let kinds = Kinds::new().with::<Countdown>();
/// let done = p.submit(|cx| cx.alloc(Countdown { left: 1000 }))?;
/// p.run_until_idle(&kinds)?;
/// assert_eq!(p.enter(|cx| done.result(cx).map(|r| r.left)), Some(0));
/// # Ok::<(), Error>(())
/// ```
pub trait Task: Shared {
    /// Name by which processes know the kind.
    const KIND: &'static str;
    /// What a finished task leaves.
    type Output: Shared;
    /// One step. It may run more than once; its effects happen once.
    ///
    /// # Errors
    /// Out of memory ([`Error::HeapFull`], [`Error::NoMemory`]) is tried again after a collection, a few times; any other error
    /// fails the task.
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>>;
    /// The input in words, for the report about a task that was given up. Without words of its own the report shows the context's
    /// first bytes.
    fn describe(&self, _cx: &Cx<'_>) -> String {
        String::new()
    }
}

/// What comes after a step.
pub enum Next<'a, T: Task> {
    /// Go on from this context.
    Continue(Gc<'a, T>),
    /// Go on from the same context.
    Again,
    /// Go on from this context when the join is over. The step may be woken early: it looks at the join again.
    Join(Gc<'a, T>, JoinRef<'a>),
    /// Go on from this context after this time.
    Sleep(Gc<'a, T>, Duration),
    /// Over, with a result.
    Done(Option<Gc<'a, T::Output>>),
}

/// A join of any type, to wait for. See [`Gc::to_join`].
#[derive(Clone, Copy)]
pub struct JoinRef<'a>(Gc<'a, ()>);

impl<'a, T: Shared> Gc<'a, Join<T>> {
    /// This join, without its type, for [`Next::Join`].
    #[expect(unsafe_code, reason = "forgets the type of a reference")]
    pub fn to_join(self) -> JoinRef<'a> {
        // SAFETY: the same object; `()` promises nothing about its contents.
        JoinRef(unsafe { Gc::from_raw(self.as_bytes_ptr().cast_mut()) })
    }
}

/// A running step: a scope, the task's context, and the effects collected so far.
pub struct Step<'p, T: Task> {
    cx: Cx<'p>,
    task: usize,
    effects: RefCell<Vec<Pending>>,
    kind: std::marker::PhantomData<fn() -> T>,
}

/// An effect whose object is kept alive until the step ends.
struct Pending {
    effect: Effect,
    kept: Option<Handle<()>>,
}

impl<'p, T: Task> Deref for Step<'p, T> {
    type Target = Cx<'p>;
    fn deref(&self) -> &Cx<'p> {
        &self.cx
    }
}

impl<T: Task> DerefMut for Step<'_, T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.cx
    }
}

impl<T: Task> Step<'_, T> {
    /// The context this step started from. It stays as it is.
    pub fn context(&self) -> Gc<'_, T> {
        let record = &self.cx.proc().seg.tasks[self.task];
        let word = TaskWord(record.word.load(Relaxed));
        self.cx
            .gc(record.context[word.sel() as usize].load(Acquire))
            .expect("a running task has a context")
    }

    /// Runs that this step has already lost to deaths or to a lack of memory.
    pub fn attempts(&self) -> u32 {
        let lost = self.lost();
        (lost >> 32) as u32 + lost as u32
    }

    /// Runs that this step has already lost to a lack of memory.
    pub fn starved(&self) -> u32 {
        self.lost() as u32
    }

    /// Would a lack of memory in this run be the end of the task? A program may then give up what the task belongs to, so a "yes" is
    /// kept, whatever others free meanwhile.
    pub fn is_last_try(&self) -> bool {
        let proc = self.cx.proc();
        let word = TaskWord(proc.seg.tasks[self.task].word.load(Relaxed));
        let last = lost_runs::is_last_try(&proc.seg, self.task, word);
        proc.said_last.set(proc.said_last.get() || last);
        last
    }

    fn lost(&self) -> u64 {
        let segment = &self.cx.proc().seg;
        let word = TaskWord(segment.tasks[self.task].word.load(Relaxed));
        lost_runs::lost(segment, self.task, word)
    }

    /// Makes a new task from this context, if the step takes effect.
    ///
    /// # Errors
    /// [`Error::TableFull`] when there are too many tasks.
    pub fn spawn<K: Task>(&self, context: Gc<'_, K>) -> Result<()> {
        self.spawn_with(context, 0)
    }

    /// As [`Step::spawn`], with a join to wait for its result.
    ///
    /// # Errors
    /// As [`Step::spawn`], and those of an allocation.
    pub fn spawn_join<'cx, K: Task>(
        &'cx self,
        context: Gc<'_, K>,
    ) -> Result<Gc<'cx, Join<K::Output>>> {
        let join = self.cx.alloc(Join::<K::Output>::open())?;
        self.spawn_with(context, self.cx.raw(Some(join)))?;
        Ok(join)
    }

    fn spawn_with<K: Task>(&self, context: Gc<'_, K>, join: Ref) -> Result<()> {
        let proc = self.cx.proc();
        let kind = proc.kind_index::<K>()?;
        let (task, word) = proc.reserve_task(kind, self.cx.raw(Some(context)), join)?;
        self.effects.borrow_mut().push(Pending {
            effect: Effect::Spawn { task, word },
            kept: None,
        });
        Ok(())
    }

    /// Sets a root, if the step takes effect.
    ///
    /// # Errors
    /// [`Error::TableFull`] when this P holds too many handles.
    pub fn set_root<R: Shared>(&self, root: Root<R>, value: Option<Gc<'_, R>>) -> Result<()> {
        let proc = self.cx.proc();
        let r = self.cx.raw(value);
        let kept = match value {
            Some(value) => Some(self.cx.handle(value.untyped())?),
            None => None,
        };
        let effect = Effect::Root {
            index: root.index_in(&self.cx),
            r,
            seq: proc.next_update_seq(),
        };
        self.effects.borrow_mut().push(Pending { effect, kept });
        Ok(())
    }

    /// Adds an effect on `object`, which is kept alive until the step ends.
    pub(crate) fn add_effect(&self, object: Handle<()>, effect: Effect) {
        let kept = Some(object);
        self.effects.borrow_mut().push(Pending { effect, kept });
    }

    /// The task, and the number of this run of it.
    pub(crate) fn run(&self) -> (usize, u32) {
        let word = TaskWord(self.cx.proc().seg.tasks[self.task].word.load(Relaxed));
        (self.task, word.r#gen())
    }
}

/// A step function without its type.
type StepFn = fn(&Proc, usize) -> Result<Plan>;

/// The kinds of task that this process can run.
#[derive(Default)]
pub struct Kinds {
    entries: Vec<KindEntry>,
}

struct KindEntry {
    register: fn(&Proc) -> Result<usize>,
    step: StepFn,
    describe: fn(&Proc, usize) -> String,
}

impl Kinds {
    /// None.
    pub fn new() -> Kinds {
        Kinds::default()
    }

    /// These, and `T`.
    #[must_use]
    pub fn with<T: Task>(mut self) -> Kinds {
        self.entries.push(KindEntry {
            register: Proc::kind_index::<T>,
            step: run_step::<T>,
            describe: describe::<T>,
        });
        self
    }

    /// Enters the kinds into the segment; the result finds a step by kind number.
    pub(crate) fn resolve(&self, proc: &Proc) -> Result<Resolved<'_>> {
        let mut by_index = vec![None; shm_layout::tables::KINDS];
        for entry in &self.entries {
            by_index[(entry.register)(proc)?] = Some(entry);
        }
        Ok(Resolved { by_index })
    }
}

/// Kinds by their number in one segment.
pub(crate) struct Resolved<'k> {
    by_index: Vec<Option<&'k KindEntry>>,
}

impl Resolved<'_> {
    pub fn step(&self, kind: usize) -> Option<StepFn> {
        self.by_index.get(kind).copied().flatten().map(|e| e.step)
    }

    /// Whether the task is of one of these kinds.
    pub fn knows(&self, proc: &Proc, task: usize) -> bool {
        let kind = proc.seg.tasks[task].kind.load(Relaxed) as usize;
        self.by_index.get(kind).is_some_and(Option::is_some)
    }

    pub fn describe(&self, proc: &Proc, task: usize) -> String {
        let kind = proc.seg.tasks[task].kind.load(Relaxed) as usize;
        self.by_index
            .get(kind)
            .copied()
            .flatten()
            .map_or(String::new(), |e| (e.describe)(proc, task))
    }
}

/// Runs one step inside the caller's scope, up to the plan of what comes next. Nothing has taken effect yet.
fn run_step<T: Task>(proc: &Proc, task: usize) -> Result<Plan> {
    let mut step = Step::<T> {
        cx: Cx::new(proc),
        task,
        effects: RefCell::new(Vec::new()),
        kind: std::marker::PhantomData,
    };
    let next = T::step(&mut step).map(|next| raw_next(proc, next));
    // On any other way out, a panic included, dropping the step takes its reservations back.
    let mut plan = next?;
    let effects = std::mem::take(&mut *step.effects.borrow_mut());
    plan.effects = effects.iter().map(|p| p.effect).collect();
    plan.kept = effects.into_iter().filter_map(|p| p.kept).collect();
    Ok(plan)
}

impl<T: Task> Drop for Step<'_, T> {
    /// Nothing happened: reserved children go back. After a step that took effect there are none.
    fn drop(&mut self) {
        for pending in self.effects.borrow().iter() {
            if let Effect::Spawn { task, word } = pending.effect {
                self.cx.proc().unreserve_task(task, word);
            }
        }
    }
}

fn raw_next<T: Task>(proc: &Proc, next: Next<'_, T>) -> Plan {
    let raw = |at: *const u8| {
        assert!(proc.seg.contains(at), "a Gc of another heap");
        proc.seg.reference(at)
    };
    match next {
        Next::Continue(context) => Plan::to(TaskWord::RUNNABLE, raw(context.as_bytes_ptr())),
        Next::Again => Plan::to(TaskWord::RUNNABLE, 0),
        Next::Join(context, join) => Plan {
            wait_join: raw(join.0.as_bytes_ptr()),
            ..Plan::to(TaskWord::WAITING, raw(context.as_bytes_ptr()))
        },
        Next::Sleep(context, time) => Plan {
            wake_at_ns: crate::time::now_ns() + time.as_nanos() as u64,
            ..Plan::to(TaskWord::WAITING, raw(context.as_bytes_ptr()))
        },
        Next::Done(result) => Plan {
            result: result.map_or(0, |r| raw(r.as_bytes_ptr())),
            ..Plan::to(TaskWord::FREE, 0)
        },
    }
}

fn describe<T: Task>(proc: &Proc, task: usize) -> String {
    let record = &proc.seg.tasks[task];
    let sel = TaskWord(record.word.load(Acquire)).sel() as usize;
    let cx = Cx::new(proc);
    let Some(context) = cx.gc::<T>(record.context[sel].load(Acquire)) else {
        return String::new();
    };
    match context.describe(&cx) {
        text if text.is_empty() => hex(context),
        text => text,
    }
}

/// The first bytes of a context, as words of four bytes: better than nothing.
#[expect(unsafe_code, reason = "reads an object's bytes without its type")]
fn hex<T: Task>(context: Gc<'_, T>) -> String {
    let first = context.as_bytes_ptr().cast::<u32>();
    let words = (size_of::<T>() / 4).min(16);
    let shown: Vec<String> = (0..words)
        .map(|i| {
            // SAFETY: inside the object, which is `size_of::<T>()` bytes long and begins at a multiple of 8. Volatile: fields that
            // are atomics may be changed meanwhile by a step that shares the object; any value is as good for a report.
            format!("{:08x}", unsafe { first.wrapping_add(i).read_volatile() })
        })
        .collect();
    format!("context {}", shown.join(" "))
}

impl Proc {
    /// Number of a kind in this segment; looked up once by this P.
    pub(crate) fn kind_index<T: Task>(&self) -> Result<usize> {
        // A type is one kind of task: its number in this process finds what was registered before.
        let number = T::cell().number();
        if let Some(&known) = self.kinds_known.borrow().get(number)
            && known != 0
        {
            return Ok(known as usize - 1);
        }
        self.declare::<T>()?;
        let key = crate::names::hash(T::KIND.as_bytes());
        let entry = api::Entry {
            name: T::KIND,
            key,
            bytes: size_of::<T>(),
            fields: T::FIELDS,
        };
        let kind = api::register(self.seg.kinds, "task kinds", &entry)?;
        let mut known = self.kinds_known.borrow_mut();
        if known.len() <= number {
            known.resize(number + 1, 0);
        }
        known[number] = kind as u16 + 1;
        Ok(kind)
    }

    /// A free task record, reserved for a spawn of ours, filled. It is nobody's until the effect is applied.
    pub(crate) fn reserve_task(
        &self,
        kind: usize,
        context: Ref,
        join: Ref,
    ) -> Result<(usize, TaskWord)> {
        loop {
            let task = self.free_task()?;
            let record = &self.seg.tasks[task];
            let word = TaskWord(record.word.load(Acquire));
            // `sel` 1 while it is being filled: what the fields refer to is stale, and no root (`markroot`).
            let unfilled = word
                .moved(
                    TaskWord::RESERVED,
                    if planted!(ReservedByNobody) {
                        Owner::new(0, 0)
                    } else {
                        self.me
                    },
                )
                .with_sel(1)
                .with_attempts(0);
            if word.state() != TaskWord::FREE
                || record
                    .word
                    .compare_exchange(word.0, unfilled.0, AcqRel, Relaxed)
                    .is_err()
            {
                continue;
            }
            failpoint!("task.reserved");
            self.write_barrier(context);
            self.write_barrier(join);
            record.context[0].store(context, Release);
            record.join.store(join, Release);
            record.kind.store(kind as u32, Relaxed);
            record.steps.store(0, Relaxed);
            record.wake_at_ns.store(0, Relaxed);
            record.error.store(0, Relaxed);
            record.error_code.store(0, Relaxed);
            failpoint!("task.filled");
            let reserved = unfilled.moved(TaskWord::RESERVED, self.me).with_sel(0);
            // Release: the fields before the word that makes them roots. Nobody else moves a word reserved by us.
            record.word.store(reserved.0, Release);
            return Ok((task, reserved));
        }
    }

    /// Takes a reservation back: the step that made it did not take effect.
    pub(crate) fn unreserve_task(&self, task: usize, word: TaskWord) {
        if self.seg.tasks[task]
            .word
            .compare_exchange(
                word.0,
                word.moved(TaskWord::FREE, Owner::new(0, 0)).0,
                AcqRel,
                Relaxed,
            )
            .is_ok()
        {
            self.task_cache.borrow_mut().push(task as u32);
        }
    }

    /// A record that was free a moment ago, from our private cache, which is refilled by blocks of 64.
    fn free_task(&self) -> Result<usize> {
        let mut cache = self.task_cache.borrow_mut();
        if let Some(task) = cache.pop() {
            return Ok(task as usize);
        }
        // A cached record is free by its word and marked by no bit; recovery after our death marks every free record again, which
        // is harmless for those that others have in their caches: the reservation decides.
        let word = self.next_block()?;
        let mut mask = self.seg.task_free.take_word(word);
        failpoint!("task.block_taken");
        while mask != 0 {
            cache.push((word * 64) as u32 + 63 - mask.leading_zeros());
            mask &= !(1 << (63 - mask.leading_zeros()));
        }
        drop(cache);
        self.free_task()
    }

    /// Index of a block of 64 records of which some are free.
    fn next_block(&self) -> Result<usize> {
        if let Some(task) = self.seg.task_free.first_below(0, self.seg.tasks_used()) {
            return Ok(task / 64);
        }
        extend_tasks(&self.seg)
    }

    /// Puts a record that this P has freed into its cache; a full cache goes back to everybody.
    pub(crate) fn recycle_task(&self, task: usize) {
        let mut cache = self.task_cache.borrow_mut();
        cache.push(task as u32);
        if cache.len() > 512 {
            for task in cache.drain(..256) {
                self.seg.task_free.set(task as usize);
            }
        }
    }

    /// Gives the cache back, before the lease ends.
    pub(crate) fn return_tasks(&self) {
        self.runq_to_global();
        for task in self.task_cache.borrow_mut().drain(..) {
            self.seg.task_free.set(task as usize);
        }
    }
}

/// Puts 64 never used records into the bitmap of free ones; returns their block.
fn extend_tasks(segment: &Segment) -> Result<usize> {
    let high = &segment.hdr.sched.task_high;
    loop {
        let first = high.load(Acquire) as usize;
        if first >= segment.geo.tasks {
            return Err(Error::TableFull {
                table: "tasks",
                capacity: segment.geo.tasks,
            });
        }
        if first.is_multiple_of(TASK_STEP) {
            let n = TASK_STEP.min(segment.geo.tasks - first);
            limits::reserve(
                segment.fd(),
                segment.geo.tasks_at + first * size_of::<TaskRecord>(),
                n * size_of::<TaskRecord>(),
            )?;
        }
        if high
            .compare_exchange(first as u32, first as u32 + 64, AcqRel, Relaxed)
            .is_ok()
        {
            // A death here loses up to 64 records until `recover` has looked: it sets the bits of free records below the mark.
            failpoint!("task.extended");
            for task in first..first + 64 {
                segment.task_free.set(task);
            }
            return Ok(first / 64);
        }
    }
}

/// A task submitted from outside any task, and its result.
pub struct Submitted<T: Task> {
    join: Handle<Join<T::Output>>,
}

impl<T: Task> Submitted<T> {
    /// Is it over?
    pub fn is_over(&self, cx: &Cx<'_>) -> bool {
        self.join.get(cx).is_over()
    }

    /// Was it given up, or did it fail?
    pub fn has_failed(&self, cx: &Cx<'_>) -> bool {
        self.join.get(cx).has_failed()
    }

    /// Its result, when it is over and has one.
    pub fn result<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, T::Output>> {
        self.join.get(cx).result(cx)
    }
}

impl P {
    /// Makes a task from outside any task: it is runnable when this returns.
    ///
    /// # Errors
    /// Those of `make`, of an allocation, and [`Error::TableFull`] when there are too many tasks or handles.
    pub fn submit<T: Task>(
        &mut self,
        make: impl for<'cx> FnOnce(&'cx Cx<'_>) -> Result<Gc<'cx, T>>,
    ) -> Result<Submitted<T>> {
        self.enter(|cx| {
            let cx = &*cx;
            let context = make(cx)?;
            let join = cx.alloc(Join::<T::Output>::open())?;
            let proc = cx.proc();
            let kind = proc.kind_index::<T>()?;
            let kept = cx.handle(join)?;
            let (task, word) =
                proc.reserve_task(kind, cx.raw(Some(context)), cx.raw(Some(join)))?;
            make_runnable(&proc.seg, task, word);
            put_global(&proc.seg, task);
            wake::wake_one(&proc.seg);
            Ok(Submitted { join: kept })
        })
    }
}

/// The effect of a spawn: `RESERVED` to `RUNNABLE`. Idempotent; true when it was this call that did it.
pub(crate) fn make_runnable(segment: &Segment, task: usize, reserved: TaskWord) -> bool {
    let record = &segment.tasks[task];
    record
        .word
        .compare_exchange(
            reserved.0,
            reserved.moved(TaskWord::RUNNABLE, Owner::new(0, 0)).0,
            AcqRel,
            Relaxed,
        )
        .is_ok()
}
