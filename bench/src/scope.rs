//! `scope`: enter and leave, slot load and store with the barrier off, allocation without collection.

use std::hint::black_box;

use coheap::{P, Shared, Slot};
use serde_json::json;

use crate::heap::{Flags, Result, per_op, round, segment};

#[derive(Shared)]
struct Pair {
    left: Slot<Pair>,
    right: Slot<Pair>,
}

/// Flags: `--n` operations of a timing.
pub fn run(flags: &Flags) -> Result<()> {
    let n = flags.number("--n", 20_000_000);
    let mut p = P::lease(segment(1024, -1)?)?;
    let enter = per_op(5, n, || {
        for _ in 0..n {
            p.enter(|cx| {
                black_box(&*cx);
            });
        }
    });
    let (load, store) = p.enter(|cx| {
        let cx = &*cx;
        let pair = cx.alloc(Pair {
            left: Slot::nil(),
            right: Slot::nil(),
        })?;
        pair.left.store(cx, Some(pair));
        let load = per_op(5, n, || {
            for _ in 0..n {
                black_box(black_box(pair).left.load(cx));
            }
        });
        let store = per_op(5, n, || {
            for _ in 0..n {
                black_box(pair).left.store(cx, Some(black_box(pair)));
            }
        });
        Ok::<_, coheap::Error>((load, store))
    })?;
    println!(
        "{}",
        json!({"bench": "scope", "enter_leave_ns": round(enter), "slot_load_ns": round(load), "slot_store_ns": round(store)})
    );
    Ok(())
}
