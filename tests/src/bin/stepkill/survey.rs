//! The survey of an operation, image mode: one victim is stepped through it and stands for the deaths at all its images.
//!
//! 1. A death at the first mark is looked at: what it leaves is what "before the operation" means.
//! 2. The victim goes on, instruction by instruction. Where one has changed the segment there is a new image, and it is looked at
//!    (with `--every-instruction`, after any).
//!    In double mode, an image whose recovery takes branches that none before has taken gets recoverers that die.
//! 3. A death at the second mark is what "after the operation" means.
//! 4. Every image that left neither is a failure, unless the task of the operation may be given up and was; so is one at which
//!    survivors failed.
//!
//! The points of the images are the answer: kill mode and stop mode choose among them.
//!
//! **The judgement comes last**, because what a finished operation leaves is known only then.

use std::collections::{BTreeSet, HashMap};

use coheap::testing;

use crate::{
    double::double_mode,
    examine::examine,
    image,
    ops::Op,
    options::Args,
    report::Outcome,
    scene::Scene,
    survive::Signature,
    tracer::{Point, Stop},
    watchdog::alive,
};

/// The operation at which the short form kills recoverers too.
const DOUBLE_IN_SHORT: &str = "give-up";

/// Image mode: one victim, stepped to its end. Returns the points after the first mark at which there is a new image.
pub fn step_through(op: &Op, args: &Args, out: &mut Outcome) -> Result<Vec<Point>, String> {
    let mut scene = Scene::set(op)?;
    let pid = scene.victim.pid();
    let mut copy = image::new_segment();
    let mut watcher = image::Watcher::new(&scene.segment);
    let first = examine(&scene.segment, &mut copy, op, pid, out)
        .map_err(|e| format!("killed before the operation: {e}"))?
        .0;
    // The whole operation, to know what it leaves when it is done.
    let mut steps: Vec<(u64, String, Result<Signature, String>, u64)> = Vec::new();
    let mut images = Vec::new();
    let mut visits: HashMap<u64, u64> = HashMap::new();
    let mut n = 0;
    // The short form lets recoverers die at one operation, where the second of them has most to know of the first.
    let double = ["double", "all"].contains(&&*args.mode)
        || args.mode == "short" && op.name == DOUBLE_IN_SHORT;
    let mut seen_branches: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    loop {
        match scene.victim.step() {
            Stop::Stepped => n += 1,
            Stop::Mark => break,
            Stop::Other => return Err(format!("the victim ended by itself after instruction {n}")),
        }
        let at = scene.victim.at();
        let visit = visits.entry(at).or_default();
        *visit += 1;
        let point = Point {
            instruction: n,
            at,
            visit: *visit,
        };
        let changed = watcher.changed();
        if changed.is_none() && !args.every_instruction {
            continue;
        }
        alive();
        let changed = changed.map_or("nothing".into(), |at| testing::name_of(&scene.segment, at));
        if args.verbose {
            println!("      {n}: {changed}");
        }
        images.push(point);
        match examine(&scene.segment, &mut copy, op, pid, out) {
            Ok((signature, branches)) => {
                if double && seen_branches.insert(branches) {
                    double_mode(&scene.segment, op, pid, n, out);
                }
                if !signature.is(&first, op.lags) {
                    steps.push((n, changed, Ok(signature), at));
                }
            }
            Err(e) => steps.push((n, changed, Err(e), at)),
        }
    }
    let last = examine(&scene.segment, &mut copy, op, pid, out)
        .map_err(|e| format!("killed after the operation: {e}"))?
        .0;
    for (n, changed, result, place) in steps {
        match result {
            Ok(signature)
                if signature.is(&last, op.lags) || op.may_give_up && signature.gave_up() => {}
            Ok(signature) => out.fail(
                "killed",
                n,
                &scene.victim.place_of(place),
                &changed,
                format!("left {signature}; before the operation {first}; after it {last}"),
            ),
            Err(e) => out.fail("killed", n, &scene.victim.place_of(place), &changed, e),
        }
    }
    out.instructions = n;
    // The one before the first instruction too.
    out.images = images.len() + 1;
    scene.strike(op);
    Ok(images)
}
