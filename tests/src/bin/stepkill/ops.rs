//! The critical operations, each between two marks.
//!
//! An operation is a function that the victim process runs: it leases a P, brings it to where the operation starts, passes
//! `mark()`, does the one thing, passes `mark` again, and then puts everything in order, so that a victim that was only stopped
//! can end well. What the survivor P0 does beforehand stands in `before`, what it does at the first mark in `at_mark`.

mod before;
mod collector;
mod memory;
mod processes;
mod scopes;
mod tasks;
mod world;

use std::any::Any;

use coheap::{P, Segment};

use {
    before::{
        a_large_array, a_tree, failing, garbage, goes_outside, holes, inside_marking, leaves,
        local_leaves, many_leaves, mover, next_leaf, nothing, one_leaf, parent, publishes, queues,
        sleeper, stays, survivor_marks, weak_ones, weak_only, worn_leaf,
    },
    collector::{
        buffer_dispose, buffer_fetch, gc_black, gc_mark, gc_start, gc_start_unswept, mark_done,
        mark_objects, mark_wait, migrate, rescan, root_job, weak_load, weak_load_in_round,
        worker_claim, worker_claim_dedicated, worker_dedicated, worker_lost, worker_park,
        worker_reattach, worker_start,
    },
    memory::{
        alloc_fast, alloc_large, alloc_large_black, alloc_large_multi, alloc_new_span,
        alloc_next_run, alloc_next_run_black, alloc_partial, grow, grow_ahead, pages_few,
        pages_multi, release, store_full, store_off, store_on, sweep,
    },
    processes::{
        attach, detach, detach_marking, handle, handle_marking, names, resize, root_set, stop,
    },
    scopes::{enter, enter_barrier, enter_black, enter_off, leave, leave_marking},
    tasks::{
        commit, complete, fail, park, queue_global, queue_overflow, queue_pop, queue_pop_ring,
        queue_push, run_task, sleep, spawn, steal, submit, timer, value_pop, value_push,
    },
};

pub use world::{kinds, outcome, own_work, submit_own};

/// An operation.
pub struct Op {
    pub name: &'static str,
    /// What the survivor does before the victim starts. What it returns is kept until the end.
    pub before: fn(&mut P) -> Box<dyn Any>,
    /// What the victim does.
    pub run: fn(&Segment),
    /// What the survivor does when the victim has reached the first mark.
    pub at_mark: fn(&mut P),
    /// Is the survivor inside a scope during the operation?
    pub p0_inside: bool,
    /// Has the task lost so many runs that a death in the middle is its last?
    pub may_give_up: bool,
    /// May garbage stay reachable for a while after a death in the middle, behind a hint that lags?
    pub lags: bool,
    /// Too long for the short form, which meets the same steps elsewhere?
    pub long: bool,
}

macro_rules! ops {
    ($($name:literal: $before:ident, $run:ident $(, at_mark $at:ident)? $(, inside $inside:literal)? $(, worn $worn:literal)? $(, lags $lags:literal)? $(, long $long:literal)?;)+) => {
        &[$(Op {
            name: $name,
            before: $before,
            run: $run,
            at_mark: { let at: fn(&mut P) = stays; $(let at: fn(&mut P) = { let _ = at; $at };)? at },
            p0_inside: { let inside = false; $(let inside = { let _ = inside; $inside };)? inside },
            may_give_up: { let worn = false; $(let worn = { let _ = worn; $worn };)? worn },
            lags: { let lags = false; $(let lags = { let _ = lags; $lags };)? lags },
            long: { let long = false; $(let long = { let _ = long; $long };)? long },
        }),+]
    };
}

/// Every operation.
pub const OPS: &[Op] = ops! {
    "enter": a_tree, enter;
    "enter-barrier": a_tree, enter_barrier;
    "enter-black": a_tree, enter_black;
    "enter-off": a_tree, enter_off;
    "leave": nothing, leave;
    "leave-marking": a_tree, leave_marking;
    "alloc-fast": a_tree, alloc_fast;
    "alloc-next-run": holes, alloc_next_run;
    "alloc-next-run-black": holes, alloc_next_run_black;
    "alloc-partial": holes, alloc_partial;
    "alloc-new-span": a_tree, alloc_new_span;
    "alloc-large": nothing, alloc_large;
    "alloc-large-black": a_tree, alloc_large_black, long true;
    "alloc-large-multi": nothing, alloc_large_multi;
    "store": a_tree, store_off;
    "store-marking": a_tree, store_on;
    "store-full": a_tree, store_full;
    "sweep": garbage, sweep;
    "grow": nothing, grow;
    "grow-ahead": nothing, grow_ahead;
    "release": nothing, release;
    "pages": nothing, pages_few;
    "pages-multi": nothing, pages_multi;
    "steal": local_leaves, steal;
    "steal-next": next_leaf, steal;
    "queue-push": leaves, queue_push;
    "queue-pop": leaves, queue_pop;
    "queue-pop-ring": leaves, queue_pop_ring;
    "queue-global": leaves, queue_global;
    "queue-overflow": many_leaves, queue_overflow, long true;
    "submit": nothing, submit;
    "spawn": parent, spawn;
    "commit": parent, commit;
    "commit-done": one_leaf, commit;
    "run-task": leaves, run_task;
    "park": parent, park;
    "complete": parent, complete;
    "sleep": sleeper, sleep;
    "timer": sleeper, timer;
    "value-push": queues, value_push;
    "value-pop": queues, value_pop, lags true;
    "value-move": mover, run_task, lags true;
    "value-commit": mover, commit, lags true;
    "fail": failing, fail;
    "give-up": worn_leaf, run_task, worn true;
    "gc-start": a_tree, gc_start;
    "gc-start-unswept": garbage, gc_start_unswept;
    "gc-black": a_tree, gc_black;
    "gc-mark": a_tree, gc_mark;
    "worker-start": nothing, worker_start;
    "worker-lost": nothing, worker_lost;
    "worker-claim": a_tree, worker_claim;
    "worker-claim-dedicated": leaves, worker_claim_dedicated;
    "worker-dedicated": leaves, worker_dedicated, long true;
    "worker-park": a_tree, worker_park;
    "worker-reattach": a_tree, worker_reattach;
    "root-job": a_tree, root_job;
    "mark": a_tree, mark_objects;
    "mark-large": a_large_array, mark_objects;
    "mark-done": a_tree, mark_done;
    "mark-wait": inside_marking, mark_wait, inside true;
    "migrate": inside_marking, migrate, at_mark goes_outside;
    "rescan": a_tree, rescan, long true;
    "buffer-fetch": survivor_marks, buffer_fetch, at_mark publishes;
    "buffer-dispose": a_tree, buffer_dispose;
    "weak-load": weak_ones, weak_load;
    "weak-load-in-round": weak_only, weak_load_in_round, inside true;
    "weak-scan": weak_ones, mark_objects;
    "resize": a_tree, resize;
    "stop": a_tree, stop;
    "attach": leaves, attach;
    "attach-marking": survivor_marks, attach;
    "detach": leaves, detach;
    "detach-marking": a_tree, detach_marking;
    "handle": nothing, handle;
    "handle-marking": a_tree, handle_marking;
    "root-set": a_tree, root_set;
    "names": nothing, names;
};
