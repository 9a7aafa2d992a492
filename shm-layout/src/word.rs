//! Packed words: one 64-bit word says everything that must change at once.
//!
//! Each type here is a *snapshot*: reading it costs nothing and it cannot be stale in part. Only the code that owns a protocol
//! writes the atomic behind it, by compare-exchange from one snapshot to the next.

/// A P and which lease of it: a known index with an old incarnation is a dead process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Owner {
    /// Index in the P table, or [`Owner::RECOVERER`].
    pub p: u16,
    /// Incarnation of the lease; the low 20 bits are what words carry.
    pub inc: u32,
}

impl Owner {
    /// The index that stands for "whoever runs recovery": never a P.
    pub const RECOVERER: u16 = 0x1ff;
    /// How many bits of the incarnation fit into a word.
    pub const INC_BITS: u32 = 20;
    /// The incarnation as words carry it.
    pub const INC_MASK: u32 = (1 << Self::INC_BITS) - 1;

    /// An owner whose incarnation is cut to what a word carries, so that equality is equality of words.
    ///
    /// ```
    /// use shm_layout::word::Owner;
    /// assert_eq!(Owner::new(3, 7), Owner { p: 3, inc: 7 });
    /// ```
    pub const fn new(p: u16, inc: u32) -> Owner {
        Owner {
            p,
            inc: inc & Self::INC_MASK,
        }
    }
}

/// Declares a snapshot type over named bit ranges of a `u64`, with getters and `with_` setters.
macro_rules! packed {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty = $lo:literal .. $hi:literal, $with:ident;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);
        impl $name {
            $(
                $(#[$fdoc])*
                #[inline]
                pub const fn $field(self) -> $ty {
                    ((self.0 >> $lo) & ((1u64 << ($hi - $lo)) - 1)) as $ty
                }
                /// The same word with this field replaced; excess bits of the value are cut off.
                #[inline]
                #[must_use]
                pub const fn $with(self, value: $ty) -> Self {
                    let mask = ((1u64 << ($hi - $lo)) - 1) << $lo;
                    $name((self.0 & !mask) | (((value as u64) << $lo) & mask))
                }
            )+
        }
    };
}

/// What the words share that carry an owner and a count of their transitions.
macro_rules! owned {
    ($name:ident, $count:ident, $with_count:ident) => {
        impl $name {
            /// Next snapshot with another state and owner.
            pub const fn moved(self, state: u8, owner: Owner) -> $name {
                self.with_state(state)
                    .with_p(owner.p)
                    .with_inc(owner.inc)
                    .$with_count(self.$count().wrapping_add(1))
            }
            /// Next snapshot with another state and no owner.
            pub const fn released(self, state: u8) -> $name {
                self.moved(state, Owner { p: 0, inc: 0 })
            }
            /// Whose it is, where the state has an owner.
            pub const fn owner(self) -> Owner {
                Owner {
                    p: self.p(),
                    inc: self.inc(),
                }
            }
        }
    };
}

packed! {
    /// Life of a P record: who leases it.
    ///
    /// | state     | who may move it on                         | if that process dies here              |
    /// |-----------|--------------------------------------------|----------------------------------------|
    /// | `VACANT`  | any attaching thread, to `JOINING`         | nothing is lost                        |
    /// | `JOINING` | its owner, to `LIVE`                       | certified like `LIVE`                  |
    /// | `LIVE`    | its owner to `LEAVING`; a recoverer to `DEAD` | certificate, then recovery          |
    /// | `LEAVING` | its owner, to `VACANT`                     | certified like `LIVE`                  |
    /// | `DEAD`    | a recoverer, to `VACANT`                   | the next recoverer starts again        |
    ProcWord {
        /// One of the `state` constants.
        state: u8 = 61..64, with_state;
        /// Process id of the owner.
        pid: u32 = 32..61, with_pid;
        /// Incarnation of the lease: grows with every lease of this record.
        inc: u32 = 0..32, with_inc;
    }
}

impl ProcWord {
    /// Nobody leases this record.
    pub const VACANT: u8 = 0;
    /// Being leased: the life word is not yet armed.
    pub const JOINING: u8 = 1;
    /// Leased by a thread that holds the life word.
    pub const LIVE: u8 = 2;
    /// Its owner is giving it up in order.
    pub const LEAVING: u8 = 3;
    /// Certified dead, being recovered.
    pub const DEAD: u8 = 4;
}

packed! {
    /// Life of a span, kept at its first page; pages inside a span carry `BODY` and nothing else.
    ///
    /// | state      | who may touch objects' bits and free slots | moved on by                                  | if the owner dies        |
    /// |------------|--------------------------------------------|----------------------------------------------|--------------------------|
    /// | `FREE`     | nobody                                     | a P that claimed the page bits, to `CLAIMED` | –                        |
    /// | `CLAIMED`  | its owner                                  | owner, to `CACHED`, `FULL` or back to `FREE` | pages go back            |
    /// | `CACHED`   | owner allocates                            | owner, to `PARTIAL`/`FULL`; after the owner passed the edge of a new sweep generation anybody, to `SWEEPING` | becomes `FULL` until the next sweep |
    /// | `PARTIAL`  | nobody                                     | any P, to `CACHED` or `SWEEPING`             | –                        |
    /// | `FULL`     | nobody                                     | any sweeper, to `SWEEPING`                   | –                        |
    /// | `SWEEPING` | owner sweeps                               | owner, to `PARTIAL`, `FULL`, `FREEING`       | swept again, from the start |
    /// | `FREEING`  | owner returns the pages                    | owner, to `FREE`                             | pages go back            |
    SpanWord {
        /// One of the `state` constants.
        state: u8 = 60..64, with_state;
        /// P that owns the span where the state has an owner.
        p: u16 = 51..60, with_p;
        /// Incarnation of that P's lease, cut to 20 bits.
        inc: u32 = 31..51, with_inc;
        /// Sweep generation, modulo 256: its parity names the bitmap that says which slots are free.
        sweepgen: u8 = 23..31, with_sweepgen;
        /// Grows with every transition, so that no old snapshot can win a compare-exchange.
        version: u32 = 0..23, with_version;
    }
}

impl SpanWord {
    /// Page belongs to no span.
    pub const FREE: u8 = 0;
    /// Being made.
    pub const CLAIMED: u8 = 1;
    /// A P allocates from it.
    pub const CACHED: u8 = 2;
    /// Has free slots.
    pub const PARTIAL: u8 = 3;
    /// Has none that anybody knows of.
    pub const FULL: u8 = 4;
    /// Being swept.
    pub const SWEEPING: u8 = 5;
    /// Its pages are going back.
    pub const FREEING: u8 = 6;
    /// A page inside a span, not its first.
    pub const BODY: u8 = 7;
}

owned!(SpanWord, version, with_version);

packed! {
    /// Life of a task (Go's G).
    ///
    /// | state       | context                       | moved on by                                | if the owner dies                 |
    /// |-------------|-------------------------------|--------------------------------------------|-----------------------------------|
    /// | `FREE`      | none                          | any P, to `RESERVED`                       | –                                 |
    /// | `RESERVED`  | being filled by its owner     | the effect of the spawning commit, to `RUNNABLE` | freed, unless a commit names it |
    /// | `RUNNABLE`  | complete                      | any P, to `RUNNING`                        | –                                 |
    /// | `RUNNING`   | complete, read only           | owner, to `COMMITTED`                      | `RUNNABLE` from the old context   |
    /// | `COMMITTED` | complete, next one chosen     | owner, to `RUNNABLE`, `WAITING` or `FREE`  | whoever finds it applies the rest |
    /// | `WAITING`   | complete                      | a waker, to `RUNNABLE`                     | –                                 |
    /// | `FAILED`    | kept for the report           | a person (`coheap tasks`)                  | –                                 |
    TaskWord {
        /// One of the `state` constants.
        state: u8 = 60..64, with_state;
        /// Which of the two context fields of the record is current.
        sel: u8 = 59..60, with_sel;
        /// Runs of this step that took no effect, at most 15; what became of them stands in the record.
        attempts: u8 = 55..59, with_attempts;
        /// P that runs or reserves it.
        p: u16 = 46..55, with_p;
        /// Incarnation of that P's lease, cut to 20 bits.
        inc: u32 = 26..46, with_inc;
        /// Grows with every transition.
        r#gen: u32 = 0..26, with_gen;
    }
}

impl TaskWord {
    /// No task.
    pub const FREE: u8 = 0;
    /// A spawn that has not been committed.
    pub const RESERVED: u8 = 1;
    /// May be run by any P.
    pub const RUNNABLE: u8 = 2;
    /// A P runs its step.
    pub const RUNNING: u8 = 3;
    /// Its step's effects are decided and being applied.
    pub const COMMITTED: u8 = 4;
    /// Waits for a join, a queue or a time.
    pub const WAITING: u8 = 5;
    /// Given up.
    pub const FAILED: u8 = 6;
}

owned!(TaskWord, r#gen, with_gen);

packed! {
    /// Life of a mark worker context: the word that owns the worker. The slot of a P only designates.
    ///
    /// | state      | who may touch the context | moved on by                                                   |
    /// |------------|---------------------------|---------------------------------------------------------------|
    /// | `FREE`     | nobody                    | a starter, to `RUNNING`                                       |
    /// | `RUNNING`  | its owner alone           | owner, to `PARKED`, `RUNNABLE` or `FREE`; recoverer after a certificate |
    /// | `RUNNABLE` | nobody (complete)         | any P, to `RUNNING`                                           |
    /// | `PARKED`   | nobody (complete)         | the home P, to `RUNNING`; its custodian, to `FREE`, after a lost attach |
    WorkerWord {
        /// One of the `state` constants.
        state: u8 = 61..64, with_state;
        /// Owner or custodian P.
        p: u16 = 52..61, with_p;
        /// Incarnation of that P's lease, cut to 20 bits.
        inc: u32 = 32..52, with_inc;
        /// Grows with every transition: the double scan of `gc_mark_done` needs it.
        r#gen: u32 = 0..32, with_gen;
    }
}

impl WorkerWord {
    /// No context.
    pub const FREE: u8 = 0;
    /// A process runs it.
    pub const RUNNING: u8 = 1;
    /// Between two steps of `gc_mark_done`; any P may go on with it.
    pub const RUNNABLE: u8 = 2;
    /// Stands still, in the custody of a P until its slot designates it.
    pub const PARKED: u8 = 3;
}

owned!(WorkerWord, r#gen, with_gen);

packed! {
    /// The slot `gc_bg_mark_worker` of a P: empty, closed, or the index of the worker it designates.
    SlotWord {
        /// One of the `state` constants.
        state: u8 = 61..64, with_state;
        /// Index in the worker table, when `FULL`.
        worker: u16 = 32..48, with_worker;
        /// Incarnation of the P's lease.
        inc: u32 = 0..32, with_inc;
    }
}

impl SlotWord {
    /// No lease: nothing may attach. Zeroed memory reads as this.
    pub const CLOSED: u8 = 0;
    /// May be attached to.
    pub const EMPTY: u8 = 1;
    /// Designates a worker; frozen unless one owns that worker.
    pub const FULL: u8 = 2;

    /// An empty slot of this lease.
    pub const fn empty(inc: u32) -> SlotWord {
        SlotWord(0).with_state(Self::EMPTY).with_inc(inc)
    }
    /// A closed slot of this lease.
    pub const fn closed(inc: u32) -> SlotWord {
        SlotWord(0).with_state(Self::CLOSED).with_inc(inc)
    }
    /// A slot of this lease that designates `worker`.
    pub const fn full(worker: u16, inc: u32) -> SlotWord {
        SlotWord(0)
            .with_state(Self::FULL)
            .with_worker(worker)
            .with_inc(inc)
    }
}

packed! {
    /// The collector's phase. Every handshake is a new epoch, so "who has seen it" is one comparison.
    PhaseWord {
        /// Cycle number: cycle n marks in bitmap n mod 2.
        cycle: u32 = 32..64, with_cycle;
        /// Counts handshakes.
        epoch: u32 = 4..32, with_epoch;
        /// One of the `kind` constants.
        kind: u8 = 0..4, with_kind;
    }
}

impl PhaseWord {
    /// No marking. Barrier off; spans of the last cycle are swept.
    pub const OFF: u8 = 0;
    /// First handshake: the barrier is being turned on everywhere.
    pub const BARRIER: u8 = 1;
    /// Second handshake: allocation is being turned black everywhere.
    pub const BLACK: u8 = 2;
    /// Marking.
    pub const MARK: u8 = 3;
    /// A round of flush and re-check: marking, with a handshake that decides whether it is over.
    pub const ROUND: u8 = 4;
    /// Everybody stands still outside a scope, for one process named in the stop word.
    pub const STOPPED: u8 = 5;

    /// The word after this one: a new epoch of the given kind.
    pub const fn next(self, kind: u8) -> PhaseWord {
        self.with_epoch(self.epoch().wrapping_add(1))
            .with_kind(kind)
    }
    /// Are reference stores shaded?
    pub const fn barrier(self) -> bool {
        matches!(
            self.kind(),
            Self::BARRIER | Self::BLACK | Self::MARK | Self::ROUND
        )
    }
    /// Is allocation black?
    pub const fn black(self) -> bool {
        matches!(self.kind(), Self::BLACK | Self::MARK | Self::ROUND)
    }
    /// May workers and assists blacken?
    pub const fn blacken(self) -> bool {
        matches!(self.kind(), Self::MARK | Self::ROUND)
    }
}

packed! {
    /// A weak reference. All zero: what it named is gone.
    WeakWord {
        /// The last finished cycle of which it is known that the object has survived it, or was made after it.
        cycle: u32 = 32..64, with_cycle;
        /// The object.
        target: u32 = 0..32, with_target;
    }
}

packed! {
    /// A claim on something that is done once per cycle: root jobs.
    JobWord {
        /// One of the `state` constants.
        state: u8 = 61..64, with_state;
        /// P that claimed it.
        p: u16 = 52..61, with_p;
        /// Incarnation of that P's lease, cut to 20 bits.
        inc: u32 = 32..52, with_inc;
        /// Cycle the claim belongs to; another cycle means "not claimed yet".
        cycle: u32 = 0..32, with_cycle;
    }
}

impl JobWord {
    /// Not claimed in this cycle.
    pub const OPEN: u8 = 0;
    /// Being done by its owner.
    pub const CLAIMED: u8 = 1;
    /// Done in this cycle.
    pub const DONE: u8 = 2;
}

packed! {
    /// Life of a work buffer of grey references.
    BufWord {
        /// One of the `state` constants.
        state: u8 = 61..64, with_state;
        /// P that fills or empties it.
        p: u16 = 52..61, with_p;
        /// Incarnation of that P's lease, cut to 20 bits.
        inc: u32 = 32..52, with_inc;
        /// Grows with every transition.
        version: u32 = 0..32, with_version;
    }
}

impl BufWord {
    /// Empty and nobody's.
    pub const FREE: u8 = 0;
    /// In a P's `gcw`.
    pub const OWNED: u8 = 1;
    /// Published: holds work and is nobody's.
    pub const FULL: u8 = 2;
}

owned!(BufWord, version, with_version);

packed! {
    /// The structural step a P is in the middle of; zero when none. Written before the step starts, cleared after it ends.
    IntentWord {
        /// One of the `op` constants.
        op: u8 = 56..64, with_op;
        /// How many pages.
        count: u32 = 28..56, with_count;
        /// First page.
        start: u32 = 0..28, with_start;
    }
}

impl IntentWord {
    /// Page bits are being claimed or given back for `count` pages from `start`.
    pub const PAGES: u8 = 1;
}

packed! {
    /// A root's value, with the update that wrote it: a compare-exchange whose success can be told after a death.
    RootWord {
        /// The reference.
        reference: u32 = 0..32, with_reference;
        /// P that wrote it.
        p: u16 = 32..41, with_p;
        /// That P's update sequence number; goes on growing across its incarnations.
        seq: u32 = 41..64, with_seq;
    }
}

packed! {
    /// Head of a per-shape stack of partial spans: derived; emptied at every sweep generation.
    ListHead {
        /// First page of the span on top, plus one; zero when empty.
        top: u32 = 0..24, with_top;
        /// Sweep generation the list belongs to.
        sweepgen: u8 = 24..32, with_sweepgen;
        /// Grows with every transition (ABA).
        tag: u32 = 32..64, with_tag;
    }
}

/// One line per word whose fields must not overlap: a compile-time check of the tables above.
const _: () = {
    assert!(
        SpanWord(0)
            .with_state(15)
            .with_p(0x1ff)
            .with_inc(0xf_ffff)
            .with_sweepgen(255)
            .with_version(0x7f_ffff)
            .0
            == u64::MAX
    );
    assert!(
        TaskWord(0)
            .with_state(15)
            .with_sel(1)
            .with_attempts(15)
            .with_p(0x1ff)
            .with_inc(0xf_ffff)
            .with_gen(0x3ff_ffff)
            .0
            == u64::MAX
    );
    assert!(
        WorkerWord(0)
            .with_state(7)
            .with_p(0x1ff)
            .with_inc(0xf_ffff)
            .with_gen(u32::MAX)
            .0
            == u64::MAX
    );
};
