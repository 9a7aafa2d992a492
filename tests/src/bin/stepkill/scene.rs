//! A scene: a segment, a survivor, and a victim that stands at its first mark.
//!
//! 1. The survivor leases a P and does what the operation needs beforehand.
//! 2. It gives its private task records back: they would look like a leak.
//! 3. The victim is started and runs to its first mark.
//! 4. The survivor does what belongs at the mark.
//!
//! The same operation always gets the same scene, which is what lets a point found in one victim be a point in another.

use coheap::{P, Segment, recover};

use crate::{image, ops::Op, tracer::Stepped};

/// A segment, its survivor, and a victim at its first mark.
pub struct Scene {
    pub victim: Stepped,
    pub p0: P,
    _kept: Box<dyn std::any::Any>,
    pub segment: Segment,
}

impl Scene {
    /// Sets it.
    pub fn set(op: &Op) -> Result<Scene, String> {
        let segment = image::new_segment();
        let mut p0 = P::lease(segment.clone()).map_err(|e| e.to_string())?;
        let kept = (op.before)(&mut p0);
        // What the survivor keeps for itself would look like a leak before a recovery makes it findable.
        p0.bench().return_tasks();
        let victim = Stepped::start(&["--victim", op.name], &segment)?;
        (op.at_mark)(&mut p0);
        Ok(Scene {
            victim,
            p0,
            _kept: kept,
            segment,
        })
    }

    /// Ends the scene in order.
    pub fn strike(mut self, op: &Op) {
        self.victim.kill_in_place();
        if op.p0_inside {
            self.p0.bench().leave();
        }
        recover::recover_dead(&self.segment);
    }
}
