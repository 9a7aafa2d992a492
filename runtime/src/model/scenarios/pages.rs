//! Pages claimed and returned, spans that change hands between allocators and sweepers (rule 5).

use shm_layout::word::PhaseWord;

use super::{Case, Whole, judge::*, script::*, twin};
use crate::{api::Inside, gc::gc_start, heap::sweep::BLOCK_PAGES, model::world::World};

/// The scenarios of this file.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "sweep",
            "rule 5: spans change hands between allocators and sweepers, over a whole cycle",
            sweep,
        ).whole(Whole::InSmallerForms)
        .short(1, 1)
        .long(2, 3, 900)
        .twins(&[twin("sweep-outside", 0, 1), twin("sweep-cached", 0, 2)]),
        Case::new(
            "sweep-last",
            "as `sweep`, from where all but the last blocks is swept, until the next cycle has begun",
            sweep_last,
        )
        .short(1, 1)
        .long(2, 3, 900)
        .twins(&[twin("sweep-cached", 0, 2)]),
        Case::new(
            "pages",
            "two P's claim and return pages: no page is lost, none given twice",
            pages,
        ).whole(Whole::InCi)
        .short(2, 2)
        .long(3, None, 600)
        .twins(&[twin("settle-once", 1, 1)]),
        Case::new(
            "pages-large",
            "a run over several words of the bitmap is claimed and returned",
            pages_large,
        ).whole(Whole::InCi)
        .short(1, 2)
        .long(2, None, 600)
        .twins(&[twin("first-page-decides", 1, 1)]),
    ]
}

/// Words of the bitmap of pages at whose pages objects are put by `sweep_last`: the last of the first chunk.
const LAST_WORD: usize = shm_layout::CHUNK_PAGES / 64 - 1;

fn sweep_last() -> World {
    let mut w = World::new(3);
    for p in &w.procs {
        p.page_hint.set(LAST_WORD);
    }
    swept_by(&mut w, &[8], 3, 0);
    scope(&w.procs[0], |_| {
        for _ in 0..LAST_WORD * 64 / BLOCK_PAGES {
            assert!(w.procs[0].sweep_some());
        }
    });
    w.freeze();
    w
}

fn sweep() -> World {
    let mut w = World::new(3);
    swept_by(&mut w, &[8, 9], 6, 1000);
    w.freeze();
    w
}

/// After a cycle S sweeps a block, M makes objects of these ids, and C looks `looks` times at the next cycle, then sweeps `blocks`.
fn swept_by(w: &mut World, ids: &'static [u64], looks: usize, blocks: usize) {
    chain(&w.procs[0], "a", &[1, 2]);
    chain(&w.procs[2], "b", &[3]);
    gc_start::request(&w.seg);
    for _ in 0..200 {
        if w.seg.phase().kind() == PhaseWord::OFF && w.seg.phase().cycle() == 1 {
            break;
        }
        work(&w.procs[0]);
    }
    drop(Inside::enter(&w.procs[1]));
    w.process("S", 1, true, |p| {
        p.background_sweep();
    });
    w.process("M", 2, true, move |p| {
        for &id in ids {
            scope(p, |cx| {
                let old = get_root(cx, "b");
                set_root(cx, "b", Some(node(cx, id, old)));
            });
        }
    });
    let seg = w.seg.clone();
    w.process("C", 3, true, move |p| {
        gc_start::request(&seg);
        for _ in 0..looks {
            work(p);
        }
        scope(p, |_| (0..blocks).take_while(|_| p.sweep_some()).count());
    });
    w.recoverer("R");
    w.check = Box::new(|w| {
        finish_cycle(w)?;
        heap_is_sound(w)?;
        expect_chain(w, "a", &[1, 2])?;
        let b = chain_ids(&w.procs[0], "b");
        let ways: [&[u64]; 3] = [&[3], &[8, 3], &[9, 8, 3]];
        if !ways.contains(&&b[..]) {
            return Err(format!("under b: {b:?}"));
        }
        // New objects must not come to lie on old ones.
        chain(&w.procs[0], "d", &[20, 21, 22, 23]);
        expect_chain(w, "a", &[1, 2])?;
        if chain_ids(&w.procs[0], "b") != b {
            return Err(format!("{b:?} under b was overwritten"));
        }
        whole_cycle(w)?;
        heap_is_sound(w)
    });
}

fn pages() -> World {
    let mut w = World::new(2);
    for (name, p) in [("P1", 1), ("P2", 2)] {
        w.process(name, p, true, |p| {
            let first = p.seg.claim_pages(2, p.me, &mut 0, &mut || false);
            p.seg.free_pages(first.expect("free pages"), p.me);
        });
    }
    w.recoverer("R");
    w.recoverer("S");
    w.check = Box::new(heap_is_sound);
    w.freeze();
    w
}

fn pages_large() -> World {
    let mut w = World::new(2);
    w.process("P1", 1, true, |p| {
        let first = p.seg.claim_pages(70, p.me, &mut 0, &mut || false);
        p.seg.free_pages(first.expect("free pages"), p.me);
    });
    w.process("P2", 2, false, |p| {
        let first = p.seg.claim_pages(1, p.me, &mut 0, &mut || false);
        p.seg.free_pages(first.expect("free pages"), p.me);
    });
    w.recoverer("R");
    w.check = Box::new(heap_is_sound);
    w.freeze();
    w
}
