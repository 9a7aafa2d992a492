//! Programs that lease a P again and again, and steps that end badly: nothing runs out.

use coheap::*;

#[test]
fn a_program_may_lease_more_often_than_it_has_types() {
    let segment = Segment::create(&SegmentConfig {
        max_bytes: 16 << 20,
        ..SegmentConfig::default()
    })
    .unwrap();
    for _ in 0..1500 {
        let mut p = P::lease(segment.clone()).unwrap();
        p.enter(|cx| cx.array::<u64>(4).map(drop)).unwrap();
    }
}

#[derive(Shared)]
struct Careless {
    left: u64,
}

impl Task for Careless {
    const KIND: &'static str = "careless";
    type Output = Careless;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        cx.spawn(cx.alloc(Careless { left: 0 })?)?;
        assert!(cx.context().left == 0, "a step that panics");
        Ok(Next::Done(None))
    }
}

#[test]
fn a_step_that_panics_leaves_no_child_behind() {
    let mut p = P::lease(Segment::create(&SegmentConfig::default()).unwrap()).unwrap();
    let task = p.submit(|cx| cx.alloc(Careless { left: 1 })).unwrap();
    // Ends only when no task is alive: the child that was never spawned is none.
    p.run_until_idle(&Kinds::new().with::<Careless>()).unwrap();
    assert!(p.enter(|cx| task.has_failed(cx)));
}
