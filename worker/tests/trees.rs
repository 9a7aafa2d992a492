//! `trees` and `gcbench`: their checks, in small heaps, with different pacing.

mod common;

use coheap::{Backing, Error, P, gc};
use coheap_worker::workloads::{self, WorkloadSpec};
use common::{run, segment, shm};

/// What the Benchmarks Game's program prints for 10.
const DEPTH_10: &str = "stretch tree of depth 11\t check: 4095
1024\t trees of depth 4\t check: 31744
256\t trees of depth 6\t check: 32512
64\t trees of depth 8\t check: 32704
16\t trees of depth 10\t check: 32752
long lived tree of depth 10\t check: 2047
";

#[test]
fn trees_print_the_published_checks() {
    for (ps, gc_percent, backing) in [
        (1, 100, Backing::Memfd),
        (2, 10, Backing::Memfd),
        (4, 400, shm("trees")),
    ] {
        let segment = segment(32, gc_percent, backing);
        let report = run(&segment, 1, &WorkloadSpec::Trees { depth: 10 }, ps).unwrap();
        assert!(report.ok);
        assert_eq!(report.checks, DEPTH_10);
    }
}

#[test]
fn deep_trees_are_built_by_several_tasks() {
    let segment = segment(64, 50, Backing::Memfd);
    let report = run(&segment, 1, &WorkloadSpec::Trees { depth: 17 }, 3).unwrap();
    assert!(report.ok, "{report:?}");
    assert!(
        report
            .checks
            .contains("\n32\t trees of depth 16\t check: 4194272\n"),
        "{}",
        report.checks
    );
    assert!(segment.status().gc_cycles > 2);
    let mut p = P::lease(segment).unwrap();
    assert!(p.collect());
    gc::verify::verify_clean(&mut p, true).unwrap();
}

#[test]
fn gcbench_checks_its_counts() {
    let mut reports = Vec::new();
    for ps in [1, 3] {
        let segment = segment(48, 100, Backing::Memfd);
        let report = run(&segment, 1, &WorkloadSpec::GcBench { smaller: 4 }, ps).unwrap();
        assert!(report.ok, "{}", report.checks);
        assert!(
            report
                .checks
                .starts_with("stretch tree of depth 14\t nodes: 32767\n")
        );
        assert!(
            report
                .checks
                .ends_with("long-lived array\t element 1000: 1/1001\n")
        );
        reports.push(report);
    }
    assert_eq!(reports[0], reports[1]);
}

#[test]
fn a_run_is_submitted_once() {
    let segment = segment(32, 100, Backing::Memfd);
    let mut p = P::lease(segment.clone()).unwrap();
    let spec = WorkloadSpec::Trees { depth: 6 };
    let first = workloads::submit(&mut p, 7, &spec).unwrap();
    // Before it has begun: an extra task, which finds the run taken.
    assert_eq!(workloads::submit(&mut p, 7, &spec).unwrap(), first);
    p.run_until_idle(&workloads::kinds()).unwrap();
    let report = first.poll(&mut p).unwrap().unwrap();
    let steps = segment.status().procs[0].steps;
    workloads::submit(&mut p, 7, &spec).unwrap();
    p.run_until_idle(&workloads::kinds()).unwrap();
    assert_eq!(segment.status().procs[0].steps, steps);
    assert_eq!(first.poll(&mut p).unwrap().unwrap(), report);
    assert_eq!(segment.status().progress[workloads::progress::FINISHED], 7);
    // Many runs later the first is forgotten, the last is not.
    for id in 100..150 {
        run_again(&mut p, id, &spec);
    }
    assert!(first.poll(&mut p).is_none());
    let last = workloads::Running { run: 149 };
    assert_eq!(last.poll(&mut p).unwrap().unwrap(), report);
}

fn run_again(p: &mut P, id: u64, spec: &WorkloadSpec) {
    workloads::submit(p, id, spec).unwrap();
    p.run_until_idle(&workloads::kinds()).unwrap();
}

#[test]
fn a_full_heap_is_an_error_with_numbers() {
    let segment = segment(8, 100, Backing::Memfd);
    let error = run(&segment, 1, &WorkloadSpec::Trees { depth: 18 }, 2).unwrap_err();
    assert!(
        matches!(error, Error::HeapFull { need_bytes, .. } if need_bytes > 0),
        "{error}"
    );
    assert_eq!(error.exit_code(), 6);
    // What has failed does not keep the heap full.
    let report = run(&segment, 2, &WorkloadSpec::Trees { depth: 10 }, 2).unwrap();
    assert_eq!(report.checks, DEPTH_10);
}

#[test]
fn arguments_are_checked() {
    let segment = segment(16, 100, Backing::Memfd);
    let mut p = P::lease(segment).unwrap();
    for spec in [
        WorkloadSpec::Trees { depth: 27 },
        WorkloadSpec::GcBench { smaller: 13 },
    ] {
        let error = workloads::submit(&mut p, 1, &spec).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}
