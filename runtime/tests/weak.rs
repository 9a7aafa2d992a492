//! Weak references: what they name while it lives, and that they say so when it is gone.

use coheap::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[derive(Shared)]
struct Item {
    id: u64,
    twice: u64,
}

/// A strong and a weak reference to one item.
#[derive(Shared)]
struct Entry {
    strong: Slot<Item>,
    weak: Slot<Weak<Item>>,
}

fn segment(max_bytes: u64, gc_percent: i32) -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes,
        gc_percent,
        name: "weak".into(),
        ..SegmentConfig::default()
    })
    .expect("a segment")
}

fn item<'a>(cx: &'a Cx<'_>, id: u64) -> Result<Gc<'a, Item>> {
    cx.alloc(Item { id, twice: 2 * id })
}

fn fill(cx: &Cx<'_>, entry: &Entry, id: u64) -> Result<()> {
    let item = item(cx, id)?;
    entry.weak.store(cx, Some(cx.weak(item)?));
    entry.strong.store(cx, Some(item));
    Ok(())
}

fn weakly(cx: &Cx<'_>, entry: &Entry) -> Option<u64> {
    let item = entry.weak.load(cx).expect("set").get(cx)?;
    assert_eq!(item.twice, 2 * item.id, "something else is in its place");
    Some(item.id)
}

#[test]
fn what_nothing_else_refers_to_is_gone_after_a_cycle_and_for_ever() {
    let mut p = P::lease(segment(32 << 20, -1)).expect("a P");
    let entries = p
        .enter(|cx| {
            let entries = cx.array::<Slot<Entry>>(1000)?;
            for (id, slot) in entries.iter().enumerate() {
                let entry = cx.alloc(Entry {
                    strong: Slot::nil(),
                    weak: Slot::nil(),
                })?;
                fill(cx, &entry, id as u64)?;
                slot.store(cx, Some(entry));
            }
            cx.handle(entries)
        })
        .expect("room");
    for round in 0..6u64 {
        p.enter(|cx| {
            for (id, slot) in entries.get(cx).iter().enumerate() {
                let entry = slot.load(cx).expect("set");
                let kept = id as u64 >= 100 * round;
                assert_eq!(weakly(cx, &entry), kept.then_some(id as u64), "in {round}");
                if (id as u64) < 100 * (round + 1) {
                    entry.strong.store(cx, None);
                    assert_eq!(weakly(cx, &entry), kept.then_some(id as u64));
                }
            }
        });
        assert!(p.collect());
        // Others take the places.
        p.enter(|cx| (0..500).try_for_each(|i| item(cx, 1 << 32 | i).map(|_| ())))
            .expect("room");
        gc::verify::verify_clean(&mut p, true).expect("a sound heap");
    }
}

#[test]
fn a_weak_reference_made_strong_keeps_its_object_whatever_the_collector_is_doing() {
    let segment = segment(24 << 20, 20);
    let names: Vec<String> = (0..64).map(|i| format!("entry{i}")).collect();
    let mut p = P::lease(segment.clone()).expect("a P");
    p.enter(|cx| {
        names.iter().enumerate().try_for_each(|(id, name)| {
            let entry = cx.alloc(Entry {
                strong: Slot::nil(),
                weak: Slot::nil(),
            })?;
            fill(cx, &entry, id as u64)?;
            cx.root::<Entry>(name)?.set(cx, Some(entry));
            Ok::<_, Error>(())
        })
    })
    .expect("room");
    let done = AtomicBool::new(false);
    // One drops the strong references and makes new ones of the weak; the others fill the heap and collect.
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let mut p = P::lease(segment.clone()).expect("a P");
                while !done.load(Relaxed) {
                    p.enter(|cx| (0..200).try_for_each(|i| item(cx, i).map(|_| ())))
                        .expect("room");
                    p.run_until_idle(&Kinds::new()).expect("no kinds");
                }
            });
        }
        let (mut back, mut gone, mut turn) = (0u64, 0u64, 0u64);
        let cycles = || segment.status().gc_cycles;
        while (back < 2000 || gone < 50 || cycles() < 5) && turn < 200_000 {
            turn += 1;
            p.enter(|cx| {
                for (id, name) in names.iter().enumerate() {
                    let entry = cx.root::<Entry>(name)?.get(cx).expect("set");
                    match weakly(cx, &entry) {
                        Some(found) => {
                            assert_eq!(found, id as u64);
                            let item = entry.weak.load(cx).expect("set").get(cx);
                            if item.is_some() && entry.strong.is_nil() {
                                back += 1;
                            }
                            let strong = if (turn + id as u64).is_multiple_of(3) {
                                None
                            } else {
                                item
                            };
                            entry.strong.store(cx, strong);
                        }
                        None => {
                            assert!(entry.strong.load(cx).is_none(), "held, and called gone");
                            gone += 1;
                            fill(cx, &entry, id as u64)?;
                            entry.strong.store(cx, None);
                        }
                    }
                }
                Ok::<_, Error>(())
            })
            .expect("room");
        }
        done.store(true, Relaxed);
        assert!(
            back >= 2000 && gone >= 50,
            "{back} made strong, {gone} gone"
        );
    });
    assert!(segment.status().gc_cycles >= 5);
    gc::verify::verify_clean(&mut p, true).expect("a sound heap");
}

#[test]
fn strings_and_arrays_can_be_named_weakly_and_types_are_told_apart() {
    let mut p = P::lease(segment(8 << 20, 100)).expect("a P");
    p.enter(|cx| {
        let text = cx.str("parent")?;
        let weak = cx.weak(text)?;
        assert_eq!(weak.get(cx).expect("held").as_str(), Some("parent"));
        let list = cx.array::<u64>(3)?;
        assert_eq!(cx.weak(list)?.get(cx).expect("held").len(), 3);
        cx.root::<Weak<GcStr>>("text")?.set(cx, Some(weak));
        assert!(cx.root::<Weak<Item>>("text").is_err(), "another type");
        Ok::<_, Error>(())
    })
    .expect("room");
    assert!(p.collect());
    p.enter(|cx| {
        let weak = cx.root::<Weak<GcStr>>("text")?.get(cx).expect("set");
        assert!(weak.get(cx).is_none());
        Ok::<_, Error>(())
    })
    .expect("no error");
}
