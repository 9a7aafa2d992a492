//! Double faults: the recoverer is a process too, and dies at each of *its* images; another recovers.
//!
//! 1. The image is copied, the victim is dead in the copy, and a recoverer is started there.
//! 2. It is stepped through the recovery. At each of its images a death of its own is looked at, in a second copy.
//! 3. What its undisturbed end leaves is what every one of those deaths must leave.
//!
//! **A recovery may be cut anywhere, and the next one comes to the same**: here nothing has a "before" and an "after".

use coheap::{Segment, testing};

use crate::{
    examine::examine,
    image,
    ops::Op,
    report::Outcome,
    survive::Signature,
    tracer::{Stepped, Stop},
    watchdog::alive,
};

/// Double mode: the recoverer of this image is a process, and dies at each of its own images.
pub fn double_mode(segment: &Segment, op: &Op, pid: u32, n: u64, out: &mut Outcome) {
    let first = image::new_segment();
    image::copy(segment, &first);
    testing::mark_dead(&first, pid, pid);
    if op.p0_inside {
        testing::put_outside(&first, 0);
    }
    let mut recoverer = match Stepped::start(&["--recoverer", "now"], &first) {
        Ok(r) => r,
        Err(e) => return out.fail("double", n, "", "", format!("no recoverer: {e}")),
    };
    let mut second = image::new_segment();
    let mut watcher = image::Watcher::new(&first);
    let mut k = 0u64;
    let mut signatures: Vec<(u64, String, String, Result<Signature, String>)> = Vec::new();
    loop {
        match recoverer.step() {
            Stop::Stepped => k += 1,
            Stop::Mark => break,
            Stop::Other => return out.fail("double", n, "", "", "the recoverer ended".into()),
        }
        let Some(at) = watcher.changed() else {
            continue;
        };
        alive();
        out.doubles += 1;
        let result = examine(&first, &mut second, op, recoverer.pid(), out).map(|r| r.0);
        signatures.push((
            k,
            testing::name_of(&first, at),
            recoverer.place_if(result.is_err()),
            result,
        ));
    }
    recoverer.kill();
    let expected = examine(&first, &mut second, op, pid, out).map(|r| r.0);
    for (k, changed, place, result) in signatures {
        match (&result, &expected) {
            (Ok(a), Ok(b)) if a.is(b, op.lags) => {}
            (Ok(a), Ok(b)) => out.fail(
                "double",
                n,
                &place,
                &changed,
                format!("then the recoverer after {k}: left {a}; undisturbed {b}"),
            ),
            (Err(e), _) | (_, Err(e)) => out.fail(
                "double",
                n,
                &place,
                &changed,
                format!("then the recoverer after {k}: {e}"),
            ),
        }
    }
}
