//! Shared collections: against models of the standard library, under contention with collections running, and after random work.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use coheap::*;

#[derive(Shared)]
struct Num {
    n: u64,
}

fn segment(gc_percent: i32) -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes: 256 << 20,
        gc_percent,
        ..SegmentConfig::default()
    })
    .unwrap()
}

fn num<'a>(cx: &'a Cx<'_>, n: u64) -> Gc<'a, Num> {
    cx.alloc(Num { n }).unwrap()
}

#[test]
fn map_behaves_like_the_standard_one() {
    let mut p = P::lease(segment(10)).unwrap();
    let kinds = Kinds::new();
    let map = p
        .enter(|cx| cx.handle(GcMap::<Num>::new(cx).unwrap()))
        .unwrap();
    let mut model = HashMap::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..200u64 {
        let keys = 10 + round * 20;
        p.enter(|cx| {
            let cx = &*cx;
            let map = map.get(cx);
            for _ in 0..500 {
                let (k, v) = (rng.u64(0..keys), rng.u64(..));
                let key = format!("{:x}", k.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let seen = match rng.u32(0..6) {
                    0 | 1 => {
                        let old = map.insert(cx, &key, num(cx, v)).unwrap().map(|n| n.n);
                        assert_eq!(old, model.insert(key, v));
                        continue;
                    }
                    2 => {
                        let old = map.remove(cx, &key).map(|n| n.n);
                        assert_eq!(old, model.remove(&key));
                        continue;
                    }
                    3 => {
                        let got = map.get_or_insert(cx, &key, num(cx, v)).unwrap().n;
                        assert_eq!(got, *model.entry(key).or_insert(v));
                        continue;
                    }
                    4 => {
                        if let Some(old) = map.get(cx, &key) {
                            assert!(map.replace(cx, &key, old, num(cx, v)));
                            assert!(!map.replace(cx, &key, old, num(cx, v)));
                            model.insert(key, v);
                        }
                        continue;
                    }
                    _ => map.get(cx, &key).map(|n| n.n),
                };
                assert_eq!(seen, model.get(&key).copied());
            }
            assert_eq!(map.len(), model.len());
            if round % 10 == 0 {
                let all: HashMap<_, _> = map
                    .iter(cx)
                    .map(|(k, v)| (k.as_str().unwrap().to_owned(), v.n))
                    .collect();
                assert_eq!(all, model);
                assert_eq!(map.iter(cx).count(), model.len());
            }
        });
        p.run_until_idle(&kinds).unwrap();
    }
    // Emptied, it keeps its buckets and nothing else.
    p.enter(|cx| {
        let cx = &*cx;
        for key in model.keys() {
            assert!(map.get(cx).remove(cx, key).is_some());
        }
        assert!(map.get(cx).is_empty() && map.get(cx).iter(cx).next().is_none());
    });
    assert!(p.collect());
    let report = gc::verify::verify_clean(&mut p, true).unwrap();
    assert!(report.objects < 50, "{report:?}");
}

#[test]
fn vec_and_queue_behave_like_the_standard_ones() {
    let mut p = P::lease(segment(10)).unwrap();
    let kinds = Kinds::new();
    let vec = p
        .enter(|cx| cx.handle(GcVec::<Num>::new(cx).unwrap()))
        .unwrap();
    let queue = p
        .enter(|cx| cx.handle(Queue::<Num>::new(cx).unwrap()))
        .unwrap();
    let (mut v, mut q) = (Vec::new(), VecDeque::new());
    let mut rng = fastrand::Rng::with_seed(8);
    for _ in 0..100 {
        p.enter(|cx| {
            let cx = &*cx;
            let (vec, queue) = (vec.get(cx), queue.get(cx));
            for _ in 0..300 {
                let n = rng.u64(..);
                match rng.u32(0..5) {
                    0 => {
                        assert_eq!(vec.push(cx, num(cx, n)).unwrap(), v.len());
                        v.push(n);
                    }
                    1 => {
                        let i = rng.usize(0..v.len() + 2);
                        assert_eq!(vec.get(cx, i).map(|n| n.n), v.get(i).copied());
                    }
                    2 => {
                        queue.push(cx, num(cx, n)).unwrap();
                        q.push_back(n);
                    }
                    _ => assert_eq!(queue.pop(cx).map(|n| n.n), q.pop_front()),
                }
            }
            assert_eq!(vec.len(), v.len());
            assert!(vec.iter(cx).map(|n| n.n).eq(v.iter().copied()));
            assert!(queue.iter(cx).map(|n| n.n).eq(q.iter().copied()));
        });
        p.run_until_idle(&kinds).unwrap();
    }
    assert!(p.collect());
    let report = gc::verify::verify_clean(&mut p, true).unwrap();
    let live = (v.len() + 2 * q.len()) as u64;
    assert!(report.objects < live + 50, "{report:?}, {live}");
}

#[test]
fn a_root_keeps_collections_of_different_types_apart() {
    let mut p = P::lease(segment(100)).unwrap();
    p.enter(|cx| {
        let cx = &*cx;
        cx.root::<GcVec<Num>>("things")
            .unwrap()
            .set(cx, Some(GcVec::new(cx).unwrap()));
        assert!(matches!(
            cx.root::<GcVec<GcStr>>("things").err(),
            Some(Error::TypeMismatch { .. })
        ));
    });
}

/// Runs `work` on four P's, each a thread; `work` gets the P and its number.
fn on_four_ps(segment: &Segment, work: impl Fn(&mut P, u64) + Send + Sync + 'static) {
    let (work, start) = (Arc::new(work), Arc::new(Barrier::new(4)));
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let (segment, work, start) = (segment.clone(), work.clone(), start.clone());
            std::thread::spawn(move || {
                let mut p = P::lease(segment).unwrap();
                start.wait();
                work(&mut p, t);
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

const EACH: u64 = 20_000;

#[test]
fn four_ps_fill_and_empty_one_map() {
    let segment = segment(10);
    let mut p = P::lease(segment.clone()).unwrap();
    p.enter(|cx| {
        let cx = &*cx;
        let map = GcMap::<Num>::new(cx).unwrap();
        cx.root("map").unwrap().set(cx, Some(map));
    });
    let (won, removed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (w, r) = (won.clone(), removed.clone());
    // All insert the same keys, each in another order, and take out every third; who wins a key counts it.
    on_four_ps(&segment, move |p, t| {
        let kinds = Kinds::new();
        for chunk in 0..EACH / 100 {
            p.enter(|cx| {
                let cx = &*cx;
                let map = cx.root::<GcMap<Num>>("map").unwrap().get(cx).unwrap();
                for i in chunk * 100..chunk * 100 + 100 {
                    let k = (i + t * EACH / 4) % EACH;
                    let mine = num(cx, k);
                    let got = map.get_or_insert(cx, k.to_le_bytes(), mine).unwrap();
                    assert_eq!(got.n, k);
                    w.fetch_add(u64::from(got.is(mine)), Relaxed);
                    if k.is_multiple_of(3) {
                        let gone = map.remove(cx, k.to_le_bytes());
                        r.fetch_add(u64::from(gone.is_some()), Relaxed);
                    }
                    let q = (k * 7) % EACH;
                    assert!(map.get(cx, q.to_le_bytes()).is_none_or(|n| n.n == q));
                }
            });
            p.run_until_idle(&kinds).unwrap();
        }
    });
    let left = p.enter(|cx| {
        let cx = &*cx;
        let map = cx.root::<GcMap<Num>>("map").unwrap().get(cx).unwrap();
        for k in (0..EACH).filter(|k| k % 3 != 0) {
            assert_eq!(map.get(cx, k.to_le_bytes()).map(|n| n.n), Some(k));
        }
        assert_eq!(map.iter(cx).count(), map.len());
        map.len() as u64
    });
    assert_eq!(won.load(Relaxed) - removed.load(Relaxed), left);
    assert!(p.collect());
    gc::verify::verify_clean(&mut p, true).unwrap();
    assert!(segment.status().gc_cycles > 1);
}

#[test]
fn four_ps_push_to_one_vector() {
    let segment = segment(10);
    let mut p = P::lease(segment.clone()).unwrap();
    p.enter(|cx| {
        let cx = &*cx;
        let vec = GcVec::<Num>::new(cx).unwrap();
        cx.root("vec").unwrap().set(cx, Some(vec));
    });
    on_four_ps(&segment, |p, t| {
        let kinds = Kinds::new();
        for chunk in 0..EACH / 100 {
            p.enter(|cx| {
                let cx = &*cx;
                let vec = cx.root::<GcVec<Num>>("vec").unwrap().get(cx).unwrap();
                for i in 0..100 {
                    let n = t * EACH + chunk * 100 + i;
                    let at = vec.push(cx, num(cx, n)).unwrap();
                    assert_eq!(vec.get(cx, at).unwrap().n, n);
                }
            });
            p.run_until_idle(&kinds).unwrap();
        }
    });
    p.enter(|cx| {
        let cx = &*cx;
        let vec = cx.root::<GcVec<Num>>("vec").unwrap().get(cx).unwrap();
        let all: Vec<u64> = vec.iter(cx).map(|n| n.n).collect();
        for t in 0..4 {
            assert!(
                all.iter()
                    .filter(|&&n| n / EACH == t)
                    .copied()
                    .eq(t * EACH..(t + 1) * EACH)
            );
        }
        assert_eq!(all.len(), vec.len());
    });
    gc::verify::verify_clean(&mut p, true).unwrap();
}

#[test]
fn four_ps_push_to_and_pop_from_one_queue() {
    let segment = segment(10);
    let mut p = P::lease(segment.clone()).unwrap();
    p.enter(|cx| {
        let cx = &*cx;
        let queue = Queue::<Num>::new(cx).unwrap();
        cx.root("queue").unwrap().set(cx, Some(queue));
    });
    let (sum, popped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (s, c) = (sum.clone(), popped.clone());
    on_four_ps(&segment, move |p, t| {
        let kinds = Kinds::new();
        let mut last = [0; 4];
        for chunk in 0..EACH / 100 {
            p.enter(|cx| {
                let cx = &*cx;
                let queue = cx.root::<Queue<Num>>("queue").unwrap().get(cx).unwrap();
                for i in 0..100 {
                    let n = t * EACH + chunk * 100 + i;
                    queue.push(cx, num(cx, n)).unwrap();
                    if i % 10 == 0 {
                        continue;
                    }
                    if let Some(got) = queue.pop(cx) {
                        s.fetch_add(got.n, Relaxed);
                        c.fetch_add(1, Relaxed);
                        let (from, at) = ((got.n / EACH) as usize, got.n % EACH + 1);
                        assert!(last[from] < at, "out of order");
                        last[from] = at;
                    }
                }
            });
            p.run_until_idle(&kinds).unwrap();
        }
    });
    p.enter(|cx| {
        let cx = &*cx;
        let queue = cx.root::<Queue<Num>>("queue").unwrap().get(cx).unwrap();
        while let Some(n) = queue.pop(cx) {
            sum.fetch_add(n.n, Relaxed);
            popped.fetch_add(1, Relaxed);
        }
    });
    assert_eq!(popped.load(Relaxed), 4 * EACH);
    assert_eq!(sum.load(Relaxed), (0..4 * EACH).sum());
    assert!(p.collect());
    let report = gc::verify::verify_clean(&mut p, true).unwrap();
    assert!(report.objects < 50, "{report:?}");
}

/// Takes two values, and fails in every other step.
#[derive(Shared)]
struct Careless {
    fail: u64,
    queue: Slot<Queue<Num>>,
}

impl Task for Careless {
    const KIND: &'static str = "careless";
    type Output = Num;
    fn step<'a>(cx: &'a mut Step<'_, Self>) -> Result<Next<'a, Self>> {
        let cx = &*cx;
        let me = cx.context();
        let queue = me.queue.load(cx).expect("a queue");
        let first = cx.take(queue)?.map_or(0, |n| n.n);
        let second = cx.take(queue)?.map_or(0, |n| n.n);
        cx.push(queue, cx.alloc(Num { n: 100 })?)?;
        if me.fail == 1 {
            return Err(Error::Task {
                what: "on purpose".into(),
            });
        }
        Ok(Next::Done(Some(cx.alloc(Num {
            n: first * 10 + second,
        })?)))
    }
}

#[test]
fn a_failed_step_takes_and_pushes_nothing() {
    let mut p = P::lease(segment(10)).unwrap();
    let kinds = Kinds::new().with::<Careless>();
    let queue = p
        .enter(|cx| cx.handle(Queue::<Num>::new(cx).unwrap()))
        .unwrap();
    p.enter(|cx| {
        for n in 1..=4 {
            queue.get(cx).push(cx, num(cx, n)).unwrap();
        }
    });
    let mut run = |fail| {
        let done = p
            .submit(|cx| {
                let task = cx.alloc(Careless {
                    fail,
                    queue: Slot::nil(),
                })?;
                task.queue.store(cx, Some(queue.get(cx)));
                Ok(task)
            })
            .unwrap();
        p.run_until_idle(&kinds).unwrap();
        p.enter(|cx| {
            let left: Vec<u64> = queue.get(cx).iter(cx).map(|n| n.n).collect();
            (done.result(cx).map(|n| n.n), left)
        })
    };
    assert_eq!(run(1), (None, vec![1, 2, 3, 4]));
    assert_eq!(run(0), (Some(12), vec![3, 4, 100]));
    assert_eq!(run(1), (None, vec![3, 4, 100]));
    assert_eq!(run(0), (Some(34), vec![100, 100]));
}
