//! A victim: a process that touches every page of an array, says so, and is killed, in one of three conditions.

use std::{
    hint::black_box,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use coheap::{Array, Cx, Gc, Idle, P, Shared, Slot, life};

use super::survivor::chain;
use crate::heap::{Flags, Result, attach, kinds as all_kinds};

/// Objects that a scope makes.
const SCOPE_OBJECTS: u64 = 200;
const PAGE_WORDS: usize = 512;

/// What victims map, and which of them is ready.
#[derive(Shared)]
#[shared(name = "bench.recover.Touched")]
pub struct Touched {
    pub ready: AtomicU64,
    words: Slot<Array<AtomicU64>>,
}

/// The root of [`Touched`].
pub const TOUCHED: &str = "touched";

/// Makes the array.
pub fn prepare<'a>(cx: &'a Cx<'_>, mb: u64) -> coheap::Result<Gc<'a, Touched>> {
    let touched = cx.alloc(Touched {
        ready: AtomicU64::new(0),
        words: Slot::nil(),
    })?;
    let words = cx.array::<AtomicU64>((mb << 20) as usize / 8)?;
    touched.words.store(cx, Some(words));
    cx.root(TOUCHED)?.set(cx, Some(touched));
    Ok(touched)
}

/// The program of a victim. Flag: `--victim`, what it does when it is killed: `computing`, in scopes all the time (the default);
/// `working`, a worker like the survivors; `asleep`, outside, waiting for nothing.
pub fn program(flags: &Flags) -> Result<()> {
    let mut p = life::patiently(|| attach(flags))?;
    let ready = p.enter(|cx| {
        let cx = &*cx;
        let touched = cx.root::<Touched>(TOUCHED)?.get(cx);
        let touched = touched.ok_or("a victim before its array")?;
        if let Some(words) = touched.words.load(cx) {
            for word in words.iter().step_by(PAGE_WORDS) {
                word.fetch_add(1, Relaxed);
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(cx.handle(touched)?)
    })?;
    p.enter(|cx| {
        let me = u64::from(std::process::id());
        ready.get(cx).ready.store(me, Release);
    });
    match flags.text("--victim") {
        Some("working") => {
            p.run(&all_kinds(), |_, _| Idle::Continue)?;
        }
        Some("asleep") => loop {
            std::thread::park();
        },
        _ => compute(&mut p),
    }
    Ok(())
}

fn compute(p: &mut P) {
    loop {
        for _ in 0..1000 {
            let full = p.enter(|cx| chain(cx, SCOPE_OBJECTS).map(black_box).is_err());
            if full {
                p.collect();
            }
        }
    }
}
