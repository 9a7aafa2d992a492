//! Real kills and stops, at points that the survey has found, each with a victim of its own and a survivor that was attached, with
//! objects and tasks, all the time.
//!
//! **Kill**: the victim runs to the point and gets SIGKILL; the kernel marks what it held; the survivor recovers, works, collects.
//! What is left must be what a death at the first mark leaves, or one at the second, wherever the survivor's objects lie.
//!
//! **Stop**: the victim only stands still. The survivor's own work must end meanwhile, unless it is inside a scope or the world is
//! stopped; then the victim goes on to its end, and all must end well.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use coheap::{Segment, testing};

use crate::{
    ops::Op,
    report::Outcome,
    scene::Scene,
    survive::{self, Signature},
    tracer::{Point, Stop},
    watchdog::alive,
};

/// Where a victim dies: at its first mark, at a point, at its second mark.
#[derive(Clone, Copy)]
enum Where<'a> {
    Begin,
    At(&'a Point),
    End,
}

impl Where<'_> {
    /// For people.
    fn instruction(self) -> u64 {
        match self {
            Where::Begin => 0,
            Where::At(point) => point.instruction,
            Where::End => u64::MAX,
        }
    }
}

/// Kill mode: real deaths, and a survivor with a life of its own.
pub fn kill_mode(op: &Op, points: &[Point], out: &mut Outcome) {
    let mut first: Option<Signature> = None;
    let mut results = Vec::new();
    let points = points.iter().map(Where::At);
    for to in [Where::Begin].into_iter().chain(points).chain([Where::End]) {
        alive();
        let n = to.instruction();
        let result = Scene::set(op).and_then(|mut scene| {
            match to {
                Where::Begin => Stop::Stepped,
                Where::At(point) => scene.victim.run_to(point)?,
                Where::End => scene.victim.run_to_mark()?,
            };
            let place = scene.victim.place_if(n != 0);
            scene.victim.kill_in_place();
            if op.p0_inside {
                scene.p0.bench().leave();
            }
            let before: BTreeMap<String, u64> = scene.segment.probes().into_iter().collect();
            let result = recover_real(&scene.segment)
                .and_then(|()| survive::old_survivor(&mut scene.p0))
                .and_then(|s| survive::audited_with_survivor(&mut scene.p0).map(|()| s));
            out.count_probes(&before, &scene.segment);
            if result.is_err() {
                // A survivor that panicked in a scope cannot detach in order.
                std::mem::forget(scene.p0);
            }
            out.kills += 1;
            Ok((result, place))
        });
        match result {
            Ok((result, place)) => results.push((n, place, result)),
            Err(e) => out.fail("kill", n, "", "", format!("the scene cannot be set: {e}")),
        }
    }
    let end = results
        .last()
        .and_then(|(_, _, r): &(u64, String, Result<Signature, String>)| r.clone().ok());
    for (n, place, result) in results {
        match result {
            Ok(signature) => {
                let first = first.get_or_insert_with(|| signature.clone());
                let known = signature.is_elsewhere(first, op.lags)
                    || end
                        .as_ref()
                        .is_some_and(|end| signature.is_elsewhere(end, op.lags))
                    || op.may_give_up && signature.gave_up();
                if !known {
                    out.fail(
                        "kill",
                        n,
                        &place,
                        "",
                        format!("left {signature}; before {first}; after {end:?}"),
                    );
                }
            }
            Err(e) => out.fail("kill", n, &place, "", e),
        }
    }
}

/// Recovers; the kernel may take a moment to mark the life word.
fn recover_real(segment: &Segment) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        survive::recover(segment).map(drop).or_else(|e| {
            if Instant::now() > until {
                Err(e)
            } else {
                Ok(())
            }
        })?;
        if testing::live_leases(segment) <= 1 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err("the dead lease was not recovered within a second".into());
        }
        std::thread::yield_now();
    }
}

/// Stop mode: the victim stands still, survivors work; then it goes on.
pub fn stop_mode(op: &Op, points: &[Point], out: &mut Outcome) {
    for point in points {
        alive();
        let mut place = String::new();
        let result = Scene::set(op).and_then(|mut scene| {
            let at_mark = match scene.victim.run_to(point)? {
                Stop::Stepped => false,
                Stop::Mark => true,
                Stop::Other => return Err("the victim ended by itself".into()),
            };
            place = scene.victim.place();
            out.stops += 1;
            let meanwhile = if op.p0_inside || testing::is_stopped(&scene.segment) {
                Ok(())
            } else {
                survive::own_work(&mut scene.p0, Duration::from_millis(500))
            };
            if op.p0_inside {
                scene.p0.bench().leave();
            }
            let result = meanwhile
                .and_then(|()| scene.victim.finish(at_mark))
                .and_then(|()| survive::old_survivor(&mut scene.p0))
                .and_then(|_| survive::audited_with_survivor(&mut scene.p0));
            if result.is_err() {
                std::mem::forget(scene.p0);
            }
            result
        });
        if let Err(e) = result {
            out.fail("stop", point.instruction, &place, "", e);
        }
    }
}
