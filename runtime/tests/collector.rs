//! The collector's modes, budgets, limits and resizing, seen from outside.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use coheap::*;

#[derive(Shared)]
struct Node {
    left: Slot<Node>,
    right: Slot<Node>,
    payload: [u64; 5],
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
    let node = cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
        payload: [depth.into(); 5],
    })?;
    if depth > 0 {
        node.left.store(cx, Some(tree(cx, depth - 1)?));
        node.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

/// Allocates trees for ever, keeping none.
#[derive(Shared)]
struct Churn {
    left: u64,
}

impl Task for Churn {
    const KIND: &'static str = "churn";
    type Output = Churn;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let left = cx.context().left;
        if left == 0 {
            return Ok(Next::Done(None));
        }
        tree(cx, 6)?;
        Ok(Next::Continue(cx.alloc(Churn { left: left - 1 })?))
    }
}

fn segment(max_bytes: u64, gc_percent: i32) -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes,
        gc_percent,
        ..SegmentConfig::default()
    })
    .unwrap()
}

/// Runs `tasks` churning tasks on `procs` P's over a live tree; returns the status at the end.
fn churn(segment: &Segment, depth: u32, procs: usize, tasks: usize, steps: u64) -> Status {
    let mut p = P::lease(segment.clone()).unwrap();
    let _kept = p.enter(|cx| cx.handle(tree(cx, depth)?)).unwrap();
    let _tasks: Vec<_> = (0..tasks)
        .map(|_| p.submit(|cx| cx.alloc(Churn { left: steps })).unwrap())
        .collect();
    let kinds = || Kinds::new().with::<Churn>();
    let start = Arc::new(Barrier::new(procs));
    let threads: Vec<_> = (1..procs)
        .map(|_| {
            let (segment, start) = (segment.clone(), start.clone());
            std::thread::spawn(move || {
                let mut p = P::lease(segment).unwrap();
                start.wait();
                p.run_until_idle(&kinds()).unwrap();
            })
        })
        .collect();
    start.wait();
    p.run_until_idle(&kinds()).unwrap();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(p.collect());
    gc::verify::verify_clean(&mut p, true).unwrap();
    // I20: budgets return to their start value.
    assert!(gc::gc_controller::budgets_returned(segment));
    segment.status()
}

#[test]
fn four_ps_run_a_dedicated_worker() {
    let status = churn(&segment(128 << 20, 50), 15, 4, 8, 4000);
    assert!(status.mark_runs[0] > 0, "{status:?}");
}

#[test]
fn two_ps_run_fractional_workers() {
    let status = churn(&segment(128 << 20, 50), 15, 2, 4, 4000);
    assert_eq!(status.mark_runs[0], 0, "{status:?}");
    assert!(status.mark_runs[1] > 0, "{status:?}");
}

#[test]
fn a_p_with_nothing_else_to_do_runs_an_idle_worker() {
    let segment = segment(128 << 20, 100);
    let mut p = P::lease(segment.clone()).unwrap();
    let _kept = p.enter(|cx| cx.handle(tree(cx, 16)?)).unwrap();
    for _ in 0..20 {
        assert!(p.collect());
    }
    assert!(segment.status().mark_runs[2] > 0, "{:?}", segment.status());
}

#[test]
fn the_heap_stays_near_its_goal() {
    for percent in [10, 100, 400] {
        let segment = segment(512 << 20, percent);
        let status = churn(&segment, 18, 2, 4, 6000);
        let live = status.marked_live;
        assert!(
            (23 << 20..32 << 20).contains(&live),
            "{percent}: {live} live"
        );
        let goal = live + live / 100 * percent as u64;
        // Room for what two P's allocate, at 1 GB/s each, while a third party has descheduled the one that holds the last grey objects.
        let bound = goal + goal / 4 + (64 << 20);
        assert!(
            status.committed_bytes <= bound,
            "{percent}: {} committed, goal {goal}",
            status.committed_bytes
        );
        assert!(
            status.gc_cycles >= if percent == 10 { 5 } else { 1 },
            "{percent}: {} cycles",
            status.gc_cycles
        );
    }
}

#[test]
fn resizing_works_while_tasks_run() {
    let segment = segment(128 << 20, 50);
    let mut p = P::lease(segment.clone()).unwrap();
    let kinds = || Kinds::new().with::<Churn>();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (segment, stop) = (segment.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut p = P::lease(segment).unwrap();
                p.run(&kinds(), |_, _| {
                    if stop.load(Relaxed) {
                        Idle::Return
                    } else {
                        Idle::Continue
                    }
                })
                .unwrap();
            })
        })
        .collect();
    let tasks: Vec<_> = (0..6)
        .map(|_| p.submit(|cx| cx.alloc(Churn { left: 6000 })).unwrap())
        .collect();
    let mut resized = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !p.enter(|cx| tasks.iter().all(|t| t.is_over(cx))) {
        // P0 is this thread and runs nothing: two at least, or nobody would.
        match sched::resize(&mut p, 2 + resized % 3) {
            Ok(_) => resized += 1,
            Err(Error::Busy { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        std::thread::sleep(Duration::from_millis(2));
        assert!(Instant::now() < deadline, "{:?}", segment.status());
    }
    assert!(resized > 3, "{resized} times");
    stop.store(true, Relaxed);
    sched::request_shutdown(&segment);
    threads.into_iter().for_each(|t| t.join().unwrap());
    gc::verify::verify_clean(&mut p, true).unwrap();
}

#[test]
fn a_full_heap_is_an_error_with_numbers_and_usable_afterwards() {
    for percent in [-1, 100] {
        let mut p = P::lease(segment(16 << 20, percent)).unwrap();
        let e = p.enter(|cx| tree(cx, 20).map(|_| ())).unwrap_err();
        let Error::HeapFull {
            need_bytes,
            live_bytes,
            limit_bytes,
        } = &e
        else {
            panic!("{e}")
        };
        assert!(
            *need_bytes > 0 && *live_bytes <= *limit_bytes && *limit_bytes == 16 << 20,
            "{e}"
        );
        assert_eq!(e.exit_code(), 6);
        assert!(p.collect());
        p.enter(|cx| tree(cx, 14).map(|_| ())).unwrap();
        gc::verify::verify_clean(&mut p, true).unwrap();
    }
}

#[test]
fn a_program_that_runs_no_tasks_is_collected_at_the_ends_of_its_scopes() {
    let segment = segment(48 << 20, 100);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let segment = segment.clone();
            std::thread::spawn(move || {
                let mut p = P::lease(segment).unwrap();
                for _ in 0..4000 {
                    p.enter(|cx| tree(cx, 10).map(|_| ()))
                        .expect("room, since all of it is garbage");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let status = segment.status();
    assert!(
        status.gc_cycles > 3 && status.alloc_bytes > 4 * (48 << 20),
        "{status:?}"
    );
}

#[test]
fn a_task_that_fills_the_heap_is_given_up_with_code_6() {
    #[derive(Shared)]
    struct Hog {
        kept: Slot<Node>,
    }
    impl Task for Hog {
        const KIND: &'static str = "hog";
        type Output = Hog;
        fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
            let cx = &*cx;
            let hog = cx.alloc(Hog { kept: Slot::nil() })?;
            hog.kept.store(cx, Some(tree(cx, 20)?));
            Ok(Next::Continue(hog))
        }
        fn describe(&self, _: &Cx<'_>) -> String {
            "a hog".into()
        }
    }
    let mut p = P::lease(segment(16 << 20, 100)).unwrap();
    let hog = p.submit(|cx| cx.alloc(Hog { kept: Slot::nil() })).unwrap();
    assert_eq!(
        p.run_until_idle(&Kinds::new().with::<Hog>())
            .unwrap()
            .gave_up,
        1
    );
    assert!(p.enter(|cx| hog.has_failed(cx)));
    let failed = p.segment().list_tasks(10);
    assert_eq!((failed[0].state, failed[0].error_code), ("failed", 6));
}

#[test]
fn both_backings_hold_a_heap_and_leave_nothing() {
    let name = format!("coheap-test-{}", std::process::id());
    let dir = tempfile::tempdir().unwrap();
    for backing in [
        Backing::Memfd,
        Backing::Shm(name.clone()),
        Backing::File(dir.path().join("heap")),
    ] {
        let config = SegmentConfig {
            max_bytes: 32 << 20,
            backing: backing.clone(),
            ..SegmentConfig::default()
        };
        let segment = Segment::create(&config).unwrap();
        if let Backing::Shm(id) = &backing {
            let again = Segment::create(&config).map(|_| ()).unwrap_err();
            assert!(matches!(again, Error::Exists { .. }), "{again}");
            assert_eq!(
                Segment::open_named(id).unwrap().incarnation(),
                segment.incarnation()
            );
        }
        let mut p = P::lease(segment).unwrap();
        for _ in 0..20 {
            p.enter(|cx| tree(cx, 12).map(|_| ())).unwrap();
            assert!(p.collect());
        }
        gc::verify::verify_clean(&mut p, true).unwrap();
    }
    assert!(!std::path::Path::new("/dev/shm").join(&name).exists());
    assert!(!dir.path().join("heap").exists());
}

#[test]
fn a_type_of_another_shape_is_refused_by_name_of_the_field() {
    mod other {
        use super::*;
        #[derive(Shared)]
        #[shared(name = "Thing")]
        pub struct Thing {
            pub first: u64,
            pub second: u32,
        }
    }
    #[derive(Shared)]
    struct Thing {
        first: u64,
        second: u64,
    }
    let mut p = P::lease(segment(16 << 20, 100)).unwrap();
    p.enter(|cx| {
        cx.alloc(Thing {
            first: 1,
            second: 2,
        })
        .map(|t| assert_eq!(t.first + t.second, 3))
    })
    .unwrap();
    let e = p
        .enter(|cx| {
            cx.alloc(other::Thing {
                first: 1,
                second: 2,
            })
            .map(|t| t.first + u64::from(t.second))
        })
        .unwrap_err();
    assert_eq!(e.exit_code(), 7);
    assert!(
        e.to_string().contains("second:u64@8") && e.to_string().contains("second:u32@8"),
        "{e}"
    );
}

#[test]
fn large_arrays_are_scanned_in_pieces_and_freed() {
    let mut p = P::lease(segment(256 << 20, 100)).unwrap();
    let kept = p
        .enter(|cx| {
            let cx = &*cx;
            let array = cx.array::<Slot<Node>>(500_000)?;
            for i in (0..500_000).step_by(1000) {
                array[i].store(cx, Some(tree(cx, 2)?));
            }
            cx.handle(array)
        })
        .unwrap();
    for _ in 0..5 {
        p.enter(|cx| cx.array::<Slot<Node>>(1_000_000).map(|_| ()))
            .unwrap();
        assert!(p.collect());
    }
    let report = gc::verify::verify_clean(&mut p, true).unwrap();
    assert_eq!(report.objects, 1 + 500 * 7);
    p.enter(|cx| {
        let cx = &*cx;
        let array = kept.get(cx);
        assert!((0..500_000).all(|i| array[i].load(cx).is_some() == (i % 1000 == 0)));
    });
    assert!(
        p.segment().status().committed_bytes <= 32 << 20,
        "{:?}",
        p.segment().status()
    );
}

#[test]
fn memory_goes_back_when_the_heap_has_shrunk_and_comes_again() {
    let segment = segment(256 << 20, 100);
    let mut p = P::lease(segment.clone()).unwrap();
    for _ in 0..2 {
        let kept = p.enter(|cx| cx.handle(tree(cx, 19)?)).unwrap();
        let grown = segment.status().committed_bytes;
        assert!(grown >= 48 << 20, "{grown}");
        drop(kept);
        assert!(p.collect());
        let began = Instant::now();
        p.run(&Kinds::new(), |p, _| {
            let shrunk = p.segment().status().committed_bytes < 32 << 20;
            if shrunk || began.elapsed() > Duration::from_secs(10) {
                Idle::Return
            } else {
                Idle::Continue
            }
        })
        .unwrap();
        assert!(
            segment.status().committed_bytes < 32 << 20,
            "{:?}",
            segment.status()
        );
        gc::verify::verify_clean(&mut p, true).unwrap();
    }
}

#[test]
#[should_panic(expected = "another heap")]
fn a_reference_of_another_heap_is_refused() {
    let (mut a, mut b) = (
        P::lease(segment(16 << 20, 100)).unwrap(),
        P::lease(segment(16 << 20, 100)).unwrap(),
    );
    a.enter(|a| {
        let theirs = tree(a, 0).unwrap();
        b.enter(|b| tree(b, 0).unwrap().left.store(b, Some(theirs)));
    });
}

#[test]
#[should_panic(expected = "inside the heap")]
fn a_slot_outside_the_heap_is_not_stored_to() {
    let mut p = P::lease(segment(16 << 20, 100)).unwrap();
    p.enter(|cx| Slot::<Node>::nil().store(cx, Some(tree(cx, 0).unwrap())));
}

#[test]
fn roots_of_one_name_and_two_types_are_refused() {
    #[derive(Shared)]
    struct One {
        slot: Slot<Node>,
    }
    #[derive(Shared)]
    #[shared(name = "One")]
    struct Other {
        slot: Slot<One>,
    }
    let mut p = P::lease(segment(16 << 20, 100)).unwrap();
    p.enter(|cx| {
        cx.root::<One>("root")
            .unwrap()
            .set(cx, Some(cx.alloc(One { slot: Slot::nil() }).unwrap()));
        // Same name, same offsets; but what the slot refers to differs, and believing it would be type confusion.
        assert_eq!(
            cx.root::<Other>("root")
                .map(|_| ())
                .unwrap_err()
                .exit_code(),
            7
        );
        assert_eq!(
            cx.root::<Node>("root").map(|_| ()).unwrap_err().exit_code(),
            7
        );
        assert!(
            cx.root::<One>("root")
                .unwrap()
                .get(cx)
                .unwrap()
                .slot
                .is_nil()
        );
        assert!(cx.alloc(Other { slot: Slot::nil() }).is_err());
    });
}

#[test]
fn a_type_that_is_only_read_is_checked_too() {
    mod theirs {
        use super::*;
        #[derive(Shared)]
        #[shared(name = "Inner")]
        pub struct Inner {
            pub a: u32,
            pub b: u64,
        }
        #[derive(Shared)]
        #[shared(name = "Outer")]
        pub struct Outer {
            pub inner: Slot<Inner>,
        }
    }
    #[derive(Shared)]
    struct Inner {
        next: Slot<Inner>,
    }
    #[derive(Shared)]
    struct Outer {
        inner: Slot<Inner>,
    }
    let segment = segment(16 << 20, 100);
    let mut p = P::lease(segment.clone()).unwrap();
    p.enter(|cx| {
        let cx = &*cx;
        let outer = cx.alloc(theirs::Outer { inner: Slot::nil() }).unwrap();
        outer
            .inner
            .store(cx, Some(cx.alloc(theirs::Inner { a: 1, b: 2 }).unwrap()));
        cx.root("outer").unwrap().set(cx, Some(outer));
        assert_eq!(outer.inner.load(cx).map(|i| u64::from(i.a) + i.b), Some(3));
    });
    // Another program, whose Outer looks the same, and whose Inner would read a number as a reference.
    let mut q = P::lease(segment).unwrap();
    let e = q
        .enter(|cx| cx.root::<Outer>("outer").map(|_| ()))
        .unwrap_err();
    assert_eq!(e.exit_code(), 7);
    assert!(e.to_string().contains("type Inner"), "{e}");
    q.enter(|cx| {
        assert!(
            cx.alloc(Inner { next: Slot::nil() })
                .map(|i| i.next.is_nil())
                .is_err()
        )
    });
}

#[test]
fn a_step_that_panics_or_fails_gives_its_spawns_back() {
    #[derive(Shared)]
    struct Bad {
        panics: u64,
    }
    impl Task for Bad {
        const KIND: &'static str = "bad";
        type Output = Bad;
        fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
            let cx = &*cx;
            for _ in 0..100 {
                cx.spawn(cx.alloc(Churn { left: 0 })?)?;
            }
            if cx.context().panics == 1 {
                std::panic::resume_unwind(Box::new("no luck"));
            }
            Err(Error::Task {
                what: "no luck".into(),
            })
        }
    }
    let mut p = P::lease(segment(16 << 20, 100)).unwrap();
    for panics in [0, 1] {
        let bad = p.submit(|cx| cx.alloc(Bad { panics })).unwrap();
        p.run_until_idle(&Kinds::new().with::<Bad>().with::<Churn>())
            .unwrap();
        assert!(p.enter(|cx| bad.has_failed(cx)));
    }
    let left = p.segment().list_tasks(1000);
    assert!(left.iter().all(|t| t.state == "failed"), "{left:?}");
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|t| t.error.contains("no luck")), "{left:?}");
}
