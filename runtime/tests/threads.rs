//! P's as threads of one process: the same protocols as between processes, minus deaths.

use coheap::*;

#[derive(Shared)]
struct Node {
    left: Slot<Node>,
    right: Slot<Node>,
}

fn segment(max_bytes: u64) -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes,
        name: "test".into(),
        ..SegmentConfig::default()
    })
    .unwrap()
}

fn tree<'a>(cx: &'a Cx<'_>, depth: u32) -> Result<Gc<'a, Node>> {
    let node = cx.alloc(Node {
        left: Slot::nil(),
        right: Slot::nil(),
    })?;
    if depth > 0 {
        node.left.store(cx, Some(tree(cx, depth - 1)?));
        node.right.store(cx, Some(tree(cx, depth - 1)?));
    }
    Ok(node)
}

fn count(cx: &Cx<'_>, node: Gc<'_, Node>) -> u64 {
    1 + node.left.load(cx).map_or(0, |n| count(cx, n))
        + node.right.load(cx).map_or(0, |n| count(cx, n))
}

#[test]
fn one_p_collects_while_it_allocates() {
    let mut p = P::lease(segment(64 << 20)).unwrap();
    let kinds = Kinds::new();
    let kept = p.enter(|cx| cx.handle(tree(cx, 14)?)).unwrap();
    for _ in 0..2000 {
        let n = p.enter(|cx| tree(cx, 10).map(|t| count(cx, t))).unwrap();
        assert_eq!(n, 2047);
        p.run_until_idle(&kinds).unwrap();
    }
    assert_eq!(p.enter(|cx| count(cx, kept.get(cx))), (1 << 15) - 1);
    let cycles = p.segment().status().gc_cycles;
    assert!(cycles > 2, "{cycles} cycles");
    assert!(p.collect());
    let report = gc::verify::verify_clean(&mut p, true).unwrap();
    assert!(report.objects >= (1 << 15) - 1);
    assert!(
        report.objects < (1 << 15) + 100,
        "{} objects",
        report.objects
    );
}

#[derive(Shared)]
struct Grow {
    depth: u32,
    left: u32,
    sum: u64,
}

impl Task for Grow {
    const KIND: &'static str = "grow";
    type Output = Grow;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        if me.left == 0 {
            return Ok(Next::Done(Some(me)));
        }
        let n = count(cx, tree(cx, me.depth)?);
        Ok(Next::Continue(cx.alloc(Grow {
            depth: me.depth,
            left: me.left - 1,
            sum: me.sum + n,
        })?))
    }
}

/// 64 tasks on four P's, to their end.
fn grow_on_four(segment: &Segment, p: &mut P) {
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            p.submit(|cx| {
                cx.alloc(Grow {
                    depth: 9,
                    left: 200,
                    sum: 0,
                })
            })
            .unwrap()
        })
        .collect();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let segment = segment.clone();
            std::thread::spawn(move || {
                P::lease(segment)
                    .unwrap()
                    .run_until_idle(&Kinds::new().with::<Grow>())
                    .unwrap()
            })
        })
        .collect();
    p.run_until_idle(&Kinds::new().with::<Grow>()).unwrap();
    for t in threads {
        t.join().unwrap();
    }
    for t in &tasks {
        assert_eq!(p.enter(|cx| t.result(cx).map(|r| r.sum)), Some(200 * 1023));
    }
}

#[test]
fn four_ps_run_tasks_and_collect() {
    let segment = segment(64 << 20);
    let mut p = P::lease(segment.clone()).unwrap();
    // On one core a P may do the work of all before the next one runs, once in a hundred times.
    for _ in 0..10 {
        grow_on_four(&segment, &mut p);
        if segment.status().migrations > 0 {
            break;
        }
    }
    assert!(p.collect());
    gc::verify::verify_clean(&mut p, true).unwrap();
    let status = segment.status();
    assert!(status.gc_cycles > 3, "{} cycles", status.gc_cycles);
    assert!(status.migrations > 0, "no mark worker migrated");
}
