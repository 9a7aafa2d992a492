//! The collector's own checks (`COHEAPDEBUG`): each really acts, and each sees what it is there to see.
//!
//! A check that finds something ends its process, so what is to be found happens in a process of its own: this program again, with
//! the name of the scene in [`SCENE`]. With the feature `planted`, a barrier that does not shade is caught by every mode.

#![expect(
    unsafe_code,
    reason = "writes through stale addresses on purpose: the checks must see it"
)]

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use coheap::{testing::set_oracles, *};

/// Variable that names the scene of a victim.
const SCENE: &str = "COHEAP_ORACLE_SCENE";

#[derive(Shared)]
struct Cell {
    value: AtomicU64,
    check: AtomicU64,
    next: Slot<Cell>,
    leaf: Slot<Leaf>,
}

#[derive(Shared)]
struct Leaf {
    value: u64,
    check: u64,
}

fn cell<'a>(cx: &'a Cx<'_>, value: u64) -> Gc<'a, Cell> {
    cx.alloc(Cell {
        value: AtomicU64::new(value),
        check: AtomicU64::new(!value),
        next: Slot::nil(),
        leaf: Slot::nil(),
    })
    .expect("room")
}

fn heap(words: &str) -> P {
    let segment = Segment::create(&SegmentConfig {
        max_bytes: 32 << 20,
        gc_percent: -1,
        ..SegmentConfig::default()
    })
    .expect("makes");
    set_oracles(&segment, words);
    P::lease(segment).expect("leases")
}

/// Makes a root that keeps one of two leaves alive, so that their span stays; the address of the other.
fn neighbours(p: &mut P) -> *mut u64 {
    p.enter(|cx| {
        let kept = cell(cx, 1);
        let leaf = |value| {
            cx.alloc(Leaf {
                value,
                check: !value,
            })
            .expect("room")
        };
        kept.leaf.store(cx, Some(leaf(1)));
        let lost = leaf(2);
        assert_eq!((lost.value, lost.check), (2, !2));
        cx.root::<Cell>("kept").expect("root").set(cx, Some(kept));
        std::ptr::from_ref(lost.to_ref()).cast_mut().cast::<u64>()
    })
}

/// What a stale pointer does.
fn write_stale(at: *mut u64, value: u64) {
    // SAFETY: the heap is mapped as long as the segment lives, and the words are accessed as atomics everywhere.
    unsafe { AtomicU64::from_ptr(at) }.store(value, Relaxed);
}

fn read_stale(at: *mut u64) -> u64 {
    // SAFETY: as above.
    unsafe { AtomicU64::from_ptr(at) }.load(Relaxed)
}

/// Collects and sweeps.
fn cycle(p: &mut P) {
    assert!(p.collect());
    let kinds = Kinds::new();
    p.run_until_idle(&kinds).expect("idle");
    while p.segment().status().phase != "off" {}
    p.enter(|_| ());
    // The start of the next cycle sweeps what is left; so does verification's stop, which needs it swept.
    for _ in 0..64 {
        p.run_until_idle(&kinds).expect("idle");
    }
}

/// Runs a scene in a process of its own.
fn scene(name: &str) -> Output {
    Command::new(std::env::current_exe().expect("me"))
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env(SCENE, name)
        .output()
        .expect("runs")
}

#[track_caller]
fn caught(name: &str, says: &str) {
    let output = scene(name);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name}: nothing was seen");
    assert!(text.contains(says), "{name}: {text}");
}

#[test]
#[ignore = "a part of the other tests: run by them, in a process of its own"]
fn victim() {
    match std::env::var(SCENE).as_deref() {
        Ok("write-after-free") => {
            let mut p = heap("clobberfree=1");
            let lost = neighbours(&mut p);
            cycle(&mut p);
            cycle(&mut p);
            write_stale(lost, 7);
            for _ in 0..20_000 {
                p.enter(|cx| {
                    cx.alloc(Leaf {
                        value: 3,
                        check: !3,
                    })
                    .expect("room");
                });
            }
        }
        Ok("write-in-quarantine") => {
            let mut p = heap("quarantine=3");
            let lost = neighbours(&mut p);
            cycle(&mut p);
            cycle(&mut p);
            write_stale(lost, 7);
            for _ in 0..4 {
                cycle(&mut p);
            }
        }
        Ok("reached-in-quarantine") => {
            let mut p = heap("quarantine=3");
            let lost = neighbours(&mut p);
            cycle(&mut p);
            cycle(&mut p);
            // The kept cell's reference to the lost one, as a missed barrier leaves it.
            p.enter(|cx| {
                let kept = cx
                    .root::<Cell>("kept")
                    .expect("root")
                    .get(cx)
                    .expect("kept");
                let near = kept.leaf.load(cx).expect("kept");
                let at = std::ptr::from_ref(near.to_ref()) as usize;
                let field = std::ptr::from_ref(&kept.leaf).cast_mut().cast::<u32>();
                // SAFETY: the field is a reference, accessed as an atomic by everybody.
                let field = unsafe { std::sync::atomic::AtomicU32::from_ptr(field) };
                let distance = (lost as isize - at as isize) / 8;
                field.store(
                    field.load(Relaxed).wrapping_add_signed(distance as i32),
                    Relaxed,
                );
            });
            for _ in 0..3 {
                cycle(&mut p);
            }
        }
        #[cfg(feature = "planted")]
        Ok(plan) if plan.starts_with("barrier:") => missed_barrier(&plan["barrier:".len()..]),
        other => panic!("no such scene: {other:?}"),
    }
}

#[test]
fn freed_memory_is_filled_and_free_memory_is_checked() {
    let mut p = heap("clobberfree=1");
    let lost = neighbours(&mut p);
    assert_eq!(read_stale(lost), 2);
    cycle(&mut p);
    cycle(&mut p);
    assert_eq!(read_stale(lost), 0xfbad_f4ee_fbad_f4ee);
    assert_eq!(
        gc::verify::verify(&mut p, true).expect("verifies").findings,
        [""; 0]
    );
    write_stale(lost, 7);
    let findings = gc::verify::verify(&mut p, true).expect("verifies").findings;
    assert!(
        findings.iter().any(|f| f.contains("was written to")),
        "{findings:?}"
    );
    caught("write-after-free", "free memory was written to");
}

#[test]
fn without_the_mode_nothing_is_touched() {
    let mut p = heap("");
    let lost = neighbours(&mut p);
    cycle(&mut p);
    cycle(&mut p);
    assert_eq!(read_stale(lost), 2);
}

#[test]
fn quarantine_keeps_a_slot_for_its_cycles_and_then_lets_it_go() {
    let mut p = heap("quarantine=2");
    let lost = neighbours(&mut p);
    let kept: Vec<u64> = (0..5)
        .map(|_| {
            cycle(&mut p);
            read_stale(lost) & 0xffff_ffff
        })
        .collect();
    assert!(kept.contains(&0xfbad_c000), "{kept:x?}");
    assert!(kept.contains(&0xfbad_c001), "{kept:x?}");
    assert_eq!(kept.last(), Some(&0xfbad_f4ee), "{kept:x?}");
    assert_eq!(
        gc::verify::verify(&mut p, true).expect("verifies").findings,
        [""; 0]
    );
    caught("write-in-quarantine", "freed memory was written to");
    caught("reached-in-quarantine", "is reachable, and was freed");
}

#[test]
fn stress_collects_all_the_time() {
    let cycles = |words: &str| {
        let mut p = heap(words);
        let kinds = Kinds::new();
        for _ in 0..200 {
            p.enter(|cx| {
                let _ = cell(cx, 3);
            });
            p.run_until_idle(&kinds).expect("idle");
        }
        p.segment().status().gc_cycles
    };
    assert_eq!(cycles(""), 0);
    let stressed = cycles("gcstress=1");
    assert!(stressed >= 20, "{stressed} cycles");
}

/// That each slice then is another P's, and that without the mode it is not, is shown by hand-made turns in `gc::migrate_every`.
#[test]
fn a_run_may_migrate_at_every_slice() {
    let sandbox = coheap_tests::sandbox::Sandbox::new();
    let args = [
        "run",
        "trees",
        "--depth",
        "14",
        "-n",
        "3",
        "--migrate-every",
    ];
    let json = sandbox.json(&args).remove(0);
    assert_eq!(json["ok"], true, "{json}");
    assert!(json["gc_cycles"].as_u64() > Some(0), "{json}");
    assert!(json["mark_worker_migrations"].as_u64() > Some(0), "{json}");
}

/// Two P's: one moves cells from list to list behind the other's back, which collects. Ends by itself when nothing is noticed.
#[cfg(feature = "planted")]
fn missed_barrier(words: &str) {
    use std::sync::atomic::AtomicBool;
    const LISTS: u64 = 512;
    static OVER: AtomicBool = AtomicBool::new(false);
    let mut p = heap(words);
    let segment = p.segment().clone();
    p.enter(|cx| {
        let all = GcVec::<Cell>::new(cx).expect("room");
        for i in 0..LISTS {
            let holder = cell(cx, i);
            holder.next.store(cx, Some(cell(cx, i + LISTS)));
            all.push(cx, holder).expect("room");
        }
        cx.root::<GcVec<Cell>>("all")
            .expect("root")
            .set(cx, Some(all));
    });
    testing::plant("barrier-missed").expect("built in");
    let collector = std::thread::spawn(move || {
        let mut p = P::lease(segment).expect("leases");
        while !OVER.load(Relaxed) {
            p.collect();
        }
    });
    let mut rng = fastrand::Rng::with_seed(1);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::time::Instant::now() < until {
        p.enter(|cx| {
            let all = cx
                .root::<GcVec<Cell>>("all")
                .expect("root")
                .get(cx)
                .expect("set");
            for _ in 0..8 {
                let (a, b) = (rng.usize(0..LISTS as usize), rng.usize(0..LISTS as usize));
                let (Some(a), Some(b)) = (all.get(cx, a), all.get(cx, b)) else {
                    continue;
                };
                let (x, y) = (a.next.load(cx), b.next.load(cx));
                for c in [x, y].into_iter().flatten() {
                    let (value, check) = (c.value.load(Relaxed), c.check.load(Relaxed));
                    if value != !check {
                        eprintln!("the program reads freed memory: {value:#x} {check:#x}");
                        std::process::abort();
                    }
                }
                a.next.store(cx, y);
                b.next.store(cx, x);
            }
            let _ = cell(cx, 3);
        });
    }
    OVER.store(true, Relaxed);
    collector.join().expect("collects");
    let findings = gc::verify::verify(&mut p, true).expect("verifies").findings;
    assert_eq!(findings, [""; 0], "verify found");
}

#[cfg(feature = "planted")]
#[test]
fn a_barrier_that_does_not_shade_is_caught_by_each_mode() {
    for words in [
        "clobberfree=1",
        "quarantine=4",
        "clobberfree=1,gcstress=1",
        "quarantine=4,gcstress=1",
    ] {
        let output = scene(&format!("barrier:{words}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{words}: nothing was seen");
        assert!(
            [
                "freed memory",
                "was freed",
                "bad reference",
                "has been freed"
            ]
            .iter()
            .any(|s| text.contains(s)),
            "{words}: {text}"
        );
    }
}
