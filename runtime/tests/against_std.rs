//! Random operations on a heap, beside a plain model in the standard library's collections.
//!
//! Three P's of one segment take turns, in an order that `proptest` chooses: objects are made, linked, hung under roots, held by
//! handles and let go, strings, arrays, vectors, maps and queues change, cycles begin, go on, and end in the middle of it all, P's
//! detach and others lease. After every few steps, and at the end, everything that the model holds is looked up in the heap, and the
//! heap is verified. A case that fails is shrunk to its shortest form.

use std::collections::{BTreeMap, VecDeque};

use coheap::{
    Array, Cx, Error, Gc, GcMap, GcStr, GcVec, Handle, P, Queue, Segment, SegmentConfig, Shared,
    Slot, gc::verify::verify,
};
use proptest::prelude::*;

/// An object with two references.
#[derive(Shared)]
struct Pair {
    left: Slot<Pair>,
    right: Slot<Pair>,
    id: u64,
}

/// What a root cannot hold by itself.
#[derive(Shared)]
struct Large {
    text: Slot<GcStr>,
    numbers: Slot<Array<u64>>,
}

/// What a case does next. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Op {
    /// A new object under a root, with the old one as its left.
    Grow(u8),
    /// The left of one root's object becomes the right of another's; with the flag the first lets go of it.
    Move(u8, u8, bool),
    Clear(u8),
    /// A handle to a root's object, or the handle let go.
    Hold(u8),
    Release(u8),
    Push,
    Insert(u8),
    Remove(u8),
    Enqueue,
    Dequeue,
    /// A string of so many bytes replaces the one under its root.
    Text(u16),
    /// An array of so many numbers replaces the one under its root.
    Numbers(u16),
    /// Garbage.
    Litter(u8),
    /// Another P goes on.
    Turn(u8),
    /// A whole collection.
    Collect,
    /// The P detaches, and another is leased in its place.
    Detach,
    Check,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any::<u8>().prop_map(Op::Grow),
        6 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(a, b, c)| Op::Move(a, b, c)),
        2 => any::<u8>().prop_map(Op::Clear),
        2 => any::<u8>().prop_map(Op::Hold),
        2 => any::<u8>().prop_map(Op::Release),
        3 => Just(Op::Push),
        4 => any::<u8>().prop_map(Op::Insert),
        2 => any::<u8>().prop_map(Op::Remove),
        3 => Just(Op::Enqueue),
        3 => Just(Op::Dequeue),
        2 => (0..20_000u16).prop_map(Op::Text),
        2 => (0..40_000u16).prop_map(Op::Numbers),
        3 => any::<u8>().prop_map(Op::Litter),
        4 => any::<u8>().prop_map(Op::Turn),
        2 => Just(Op::Collect),
        1 => Just(Op::Detach),
        1 => Just(Op::Check),
    ]
}

const ROOTS: usize = 3;

/// An object of the model: its links, by place in `Model::pairs`.
#[derive(Clone)]
struct Twin {
    left: Option<usize>,
    right: Option<usize>,
    id: u64,
}

#[derive(Default)]
struct Model {
    pairs: Vec<Twin>,
    roots: [Option<usize>; ROOTS],
    held: Vec<usize>,
    vec: Vec<String>,
    map: BTreeMap<u8, String>,
    queue: VecDeque<String>,
    text: Vec<u8>,
    numbers: Vec<u64>,
}

struct Heap {
    ps: Vec<P>,
    /// Whose turn it is.
    turn: usize,
    /// Each with the P that made it.
    handles: Vec<(usize, Handle<Pair>)>,
    segment: Segment,
}

fn name(root: usize) -> String {
    format!("pair {root}")
}

fn pair<'cx>(cx: &'cx Cx<'_>, root: usize) -> Result<Option<Gc<'cx, Pair>>, Error> {
    Ok(cx.root::<Pair>(&name(root))?.get(cx))
}

fn new_pair<'cx>(cx: &'cx Cx<'_>, id: u64) -> Result<Gc<'cx, Pair>, Error> {
    cx.alloc(Pair {
        left: Slot::nil(),
        right: Slot::nil(),
        id,
    })
}

fn vec<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, GcVec<GcStr>>, Error> {
    Ok(cx.root("vec")?.get(cx).expect("made at the start"))
}

fn map<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, GcMap<GcStr>>, Error> {
    Ok(cx.root("map")?.get(cx).expect("made at the start"))
}

fn large<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, Large>, Error> {
    Ok(cx.root("large")?.get(cx).expect("made at the start"))
}

fn queue<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, Queue<GcStr>>, Error> {
    Ok(cx.root("queue")?.get(cx).expect("made at the start"))
}

impl Heap {
    fn new() -> Result<Heap, Error> {
        let segment = Segment::create(&SegmentConfig {
            max_bytes: 64 << 20,
            procs: 4,
            ..SegmentConfig::default()
        })?;
        let mut ps = (0..3)
            .map(|_| P::lease(segment.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        ps[0].enter(|cx| {
            let cx = &*cx;
            cx.root("vec")?.set(cx, Some(GcVec::<GcStr>::new(cx)?));
            cx.root("map")?.set(cx, Some(GcMap::<GcStr>::new(cx)?));
            cx.root("queue")?.set(cx, Some(Queue::<GcStr>::new(cx)?));
            let large = cx.alloc(Large {
                text: Slot::nil(),
                numbers: Slot::nil(),
            })?;
            cx.root("large")?.set(cx, Some(large));
            Ok::<(), Error>(())
        })?;
        Ok(Heap {
            ps,
            turn: 0,
            handles: Vec::new(),
            segment,
        })
    }

    fn on<R>(&mut self, f: impl FnOnce(&Cx<'_>) -> Result<R, Error>) -> Result<R, Error> {
        self.ps[self.turn].enter(|cx| f(cx))
    }

    /// Does it in the heap and in the model.
    fn step(&mut self, model: &mut Model, op: &Op, number: u64) -> Result<(), Error> {
        match *op {
            Op::Grow(root) => {
                let root = root as usize % ROOTS;
                model.pairs.push(Twin {
                    left: model.roots[root],
                    right: None,
                    id: number,
                });
                model.roots[root] = Some(model.pairs.len() - 1);
                self.on(|cx| {
                    let new = new_pair(cx, number)?;
                    new.left.store(cx, pair(cx, root)?);
                    cx.root(&name(root))?.set(cx, Some(new));
                    Ok(())
                })
            }
            Op::Move(from, to, hide) => {
                self.relink(model, from as usize % ROOTS, to as usize % ROOTS, hide)
            }
            Op::Clear(root) => {
                let root = root as usize % ROOTS;
                model.roots[root] = None;
                self.on(|cx| {
                    cx.root::<Pair>(&name(root))?.set(cx, None);
                    Ok(())
                })
            }
            Op::Hold(root) => {
                let root = root as usize % ROOTS;
                if let Some(at) = model.roots[root] {
                    model.held.push(at);
                    let handle =
                        self.on(|cx| cx.handle(pair(cx, root)?.expect("as in the model")))?;
                    self.handles.push((self.turn, handle));
                }
                Ok(())
            }
            Op::Release(k) => {
                if !self.handles.is_empty() {
                    let k = k as usize % self.handles.len();
                    model.held.swap_remove(k);
                    drop(self.handles.swap_remove(k));
                }
                Ok(())
            }
            Op::Litter(n) => self.on(|cx| {
                for _ in 0..u32::from(n) * 8 {
                    new_pair(cx, u64::MAX)?;
                }
                Ok(())
            }),
            Op::Turn(p) => {
                self.turn = p as usize % self.ps.len();
                Ok(())
            }
            Op::Collect => {
                self.ps[self.turn].collect();
                Ok(())
            }
            Op::Detach => {
                // A handle belongs to the P that made it: let go before that P does.
                self.handles.clear();
                model.held.clear();
                drop(self.ps.remove(self.turn));
                self.ps.push(P::lease(self.segment.clone())?);
                self.turn = 0;
                Ok(())
            }
            Op::Check => self.check(model),
            ref other => self.collection(model, other, number),
        }
    }

    fn relink(
        &mut self,
        model: &mut Model,
        from: usize,
        to: usize,
        hide: bool,
    ) -> Result<(), Error> {
        if let (Some(a), Some(b)) = (model.roots[from], model.roots[to]) {
            let left = model.pairs[a].left;
            if hide {
                model.pairs[a].left = None;
            }
            model.pairs[b].right = left;
        }
        self.on(|cx| {
            if let (Some(a), Some(b)) = (pair(cx, from)?, pair(cx, to)?) {
                let left = a.left.load(cx);
                if hide {
                    a.left.store(cx, None);
                }
                b.right.store(cx, left);
            }
            Ok(())
        })
    }

    fn collection(&mut self, model: &mut Model, op: &Op, number: u64) -> Result<(), Error> {
        let word = format!("word {number}");
        match *op {
            Op::Push => {
                self.on(|cx| vec(cx)?.push(cx, cx.str(&word)?).map(drop))?;
                model.vec.push(word);
            }
            Op::Insert(key) => {
                let before = self.on(|cx| {
                    let old = map(cx)?.insert(cx, [key], cx.str(&word)?)?;
                    Ok(old.map(|s| s.as_str().expect("text").to_owned()))
                })?;
                assert_eq!(before, model.map.insert(key, word), "insert {key}");
            }
            Op::Remove(key) => {
                let before = self.on(|cx| {
                    let old = map(cx)?.remove(cx, [key]);
                    Ok(old.map(|s| s.as_str().expect("text").to_owned()))
                })?;
                assert_eq!(before, model.map.remove(&key), "remove {key}");
            }
            Op::Enqueue => {
                self.on(|cx| queue(cx)?.push(cx, cx.str(&word)?))?;
                model.queue.push_back(word);
            }
            Op::Dequeue => {
                let first = self.on(|cx| {
                    let first = queue(cx)?.pop(cx);
                    Ok(first.map(|s| s.as_str().expect("text").to_owned()))
                })?;
                assert_eq!(first, model.queue.pop_front(), "pop");
            }
            Op::Text(bytes) => {
                model.text = (0..bytes).map(|i| (u64::from(i) ^ number) as u8).collect();
                let text = &model.text;
                self.on(|cx| {
                    large(cx)?.text.store(cx, Some(cx.str(text)?));
                    Ok(())
                })?;
            }
            Op::Numbers(count) => {
                model.numbers = (0..u64::from(count)).map(|i| i * number).collect();
                let numbers = &model.numbers;
                self.on(|cx| {
                    let array = cx.array_from_fn(numbers.len(), |i| numbers[i])?;
                    large(cx)?.numbers.store(cx, Some(array));
                    Ok(())
                })?;
            }
            _ => unreachable!("the others are done by `step`"),
        }
        Ok(())
    }

    /// Everything that the model holds is in the heap, and the heap is sound.
    fn check(&mut self, model: &Model) -> Result<(), Error> {
        for ((p, handle), at) in self.handles.iter().zip(&model.held) {
            self.ps[*p].enter(|cx| same(cx, model, Some(*at), Some(handle.get(cx))));
        }
        self.on(|cx| {
            for root in 0..ROOTS {
                same(cx, model, model.roots[root], pair(cx, root)?);
            }
            let words: Vec<_> = vec(cx)?
                .iter(cx)
                .map(|s| s.as_str().expect("text").to_owned())
                .collect();
            assert_eq!(words, model.vec, "vec");
            let mut entries: Vec<_> = map(cx)?
                .iter(cx)
                .map(|(k, v)| (k.as_bytes()[0], v.as_str().expect("text").to_owned()))
                .collect();
            entries.sort();
            let expected: Vec<_> = model.map.iter().map(|(k, v)| (*k, v.clone())).collect();
            assert_eq!(entries, expected, "map");
            let waiting: Vec<_> = queue(cx)?
                .iter(cx)
                .map(|s| s.as_str().expect("text").to_owned())
                .collect();
            assert_eq!(VecDeque::from(waiting), model.queue, "queue");
            let text = large(cx)?.text.load(cx);
            assert_eq!(
                text.map_or(Vec::new(), |t| t.as_bytes().to_vec()),
                model.text,
                "text"
            );
            let numbers = large(cx)?.numbers.load(cx);
            assert_eq!(
                numbers.map_or(Vec::new(), |n| n.as_slice().to_vec()),
                model.numbers,
                "numbers"
            );
            Ok(())
        })?;
        let report = verify(&mut self.ps[self.turn], true)?;
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        Ok(())
    }
}

/// The graphs below the two are the same: ids and links, shared objects and rings included.
fn same(cx: &Cx<'_>, model: &Model, at: Option<usize>, object: Option<Gc<'_, Pair>>) {
    let mut seen = BTreeMap::new();
    let mut todo = vec![(at, object)];
    while let Some(next) = todo.pop() {
        let (at, object) = match next {
            (Some(at), Some(object)) => (at, object),
            (None, None) => continue,
            (at, _) => panic!("a reference is nil on one side only: model {at:?}"),
        };
        let address = std::ptr::from_ref(&*object) as usize;
        assert_eq!(object.id, model.pairs[at].id, "another object in its place");
        if let Some(before) = seen.insert(at, address) {
            assert_eq!(before, address, "two objects for one");
            continue;
        }
        todo.push((model.pairs[at].left, object.left.load(cx)));
        todo.push((model.pairs[at].right, object.right.load(cx)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_heap_is_as_the_plain_model_says(ops in prop::collection::vec(op(), 1..120)) {
        let mut heap = Heap::new().expect("a small segment");
        let mut model = Model::default();
        for (number, op) in ops.iter().enumerate() {
            heap.step(&mut model, op, number as u64 + 1).expect("room");
        }
        heap.check(&model).expect("a sound heap");
    }
}
