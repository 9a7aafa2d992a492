//! A process that meets weak references, and dies where `COHEAP_FAILPOINTS` says: `weak-victim SEGMENT scan|round`.
//!
//! `scan`: marks everything, so it looks at every weak reference. `round`: makes one strong in the round that would end marking, which
//! the parent, in a scope, holds open. No workload of `coheap-worker` has weak references.

use coheap::testing::phase;
use coheap::*;
use coheap_tests::weak::{NAMES, Page};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    failpoint::arm_from_environment().expect("points that exist");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&args[1]);
    let file = file.expect("the parent's descriptor");
    let segment = Segment::open_fd(file.into()).expect("the parent's segment");
    let mut p = P::lease(segment).expect("a vacant P");
    if args[2] == "scan" {
        p.bench().drive(phase::MARK);
        let _worker = p.bench().claim_worker().expect("a worker");
        p.bench().drain();
    } else {
        p.bench().edge();
        let worker = p.bench().claim_worker().expect("a worker");
        p.bench().drain();
        p.bench().dispose();
        p.bench().run_worker(worker);
        assert_eq!(p.bench().phase(), phase::ROUND);
        p.enter(|cx| {
            let weak = cx.root::<Weak<Page>>(NAMES[0]).expect("a root").get(cx);
            let found = weak.expect("set by the parent").get(cx).is_some();
            panic!("nobody died, and the page is there: {found}");
        });
    }
    panic!("nobody died in a scan");
}
