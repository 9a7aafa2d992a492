//! Running workloads on P's that are threads.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use coheap::{Backing, P, Result, Segment, SegmentConfig};
use coheap_worker::workloads::{self, Report, WorkloadSpec};

/// A segment for one test.
pub fn segment(max_mib: u64, gc_percent: i32, backing: Backing) -> Segment {
    Segment::create(&SegmentConfig {
        max_bytes: max_mib << 20,
        gc_percent,
        backing,
        name: "test".into(),
        ..SegmentConfig::default()
    })
    .unwrap()
}

/// Runs one workload on `ps` threads to its end.
pub fn run(segment: &Segment, run: u64, spec: &WorkloadSpec, ps: usize) -> Result<Report> {
    let mut p = P::lease(segment.clone())?;
    let running = workloads::submit(&mut p, run, spec)?;
    std::thread::scope(|scope| {
        for _ in 1..ps {
            scope.spawn(|| {
                let mut p = P::lease(segment.clone()).unwrap();
                p.run_until_idle(&workloads::kinds()).unwrap();
            });
        }
        p.run_until_idle(&workloads::kinds())
    })?;
    running.poll(&mut p).expect("idle, so it must be over")
}

/// A name for a named segment that no other test has.
pub fn shm(test: &str) -> Backing {
    Backing::Shm(format!("coheap-worker-test-{}-{test}", std::process::id()))
}
