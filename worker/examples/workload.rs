//! Runs a workload without a daemon: P's are threads of this process.
//!
//! usage: workload [-n P] [-m MiB] [-g GOGC] index DIR [OUT] | trees DEPTH | gcbench

use std::time::Instant;

use coheap::{Error, P, Result, Segment, SegmentConfig};
use coheap_worker::workloads::{self, Report, WorkloadSpec};

struct Args {
    ps: usize,
    config: SegmentConfig,
    spec: WorkloadSpec,
}

fn parse() -> Option<Args> {
    let mut args = std::env::args().skip(1);
    let mut config = SegmentConfig {
        max_bytes: 2 << 30,
        ..SegmentConfig::default()
    };
    let mut ps = 2;
    let name = loop {
        match args.next()?.as_str() {
            "-n" => ps = args.next()?.parse().ok()?,
            "-m" => config.max_bytes = args.next()?.parse::<u64>().ok()? << 20,
            "-g" => config.gc_percent = args.next()?.parse().ok()?,
            name => break name.to_owned(),
        }
    };
    let spec = match name.as_str() {
        "index" => WorkloadSpec::Index {
            dir: args.next()?.into(),
            out: args.next().map(Into::into),
        },
        "trees" => WorkloadSpec::Trees {
            depth: args.next()?.parse().ok()?,
        },
        "gcbench" => WorkloadSpec::GcBench { smaller: 0 },
        _ => return None,
    };
    Some(Args { ps, config, spec })
}

fn run(args: &Args) -> Result<Report> {
    let segment = Segment::create(&args.config)?;
    let mut p = P::lease(segment.clone())?;
    let started = Instant::now();
    let running = workloads::submit(&mut p, 1, &args.spec)?;
    std::thread::scope(|scope| {
        for _ in 1..args.ps {
            scope.spawn(|| P::lease(segment.clone())?.run_until_idle(&workloads::kinds()));
        }
        p.run_until_idle(&workloads::kinds())
    })?;
    let elapsed = started.elapsed();
    let report = running.poll(&mut p).unwrap_or_else(|| {
        Err(Error::NotRunning {
            what: "the run".into(),
        })
    })?;
    let status = segment.status();
    let items = report
        .words
        .max(status.progress[workloads::progress::ITEMS])
        .max(1);
    eprintln!(
        "{:.3} s, {:.1} ns per item, {} cycles, {} MiB live, {} MiB committed, pauses {:?} us",
        elapsed.as_secs_f64(),
        elapsed.as_nanos() as f64 / items as f64,
        status.gc_cycles,
        status.heap_live >> 20,
        status.committed_bytes >> 20,
        status.pause_ns.map(|ns| ns / 1000),
    );
    Ok(report)
}

fn main() {
    let Some(args) = parse() else {
        eprintln!(
            "usage: workload [-n P] [-m MiB] [-g GOGC] index DIR [OUT] | trees DEPTH | gcbench"
        );
        std::process::exit(2);
    };
    match run(&args) {
        Ok(report) => {
            print!("{}", report.checks);
            println!(
                "files {} words {} distinct {} unreadable {} hash {:016x} ok {}",
                report.files,
                report.words,
                report.distinct,
                report.unreadable,
                report.result_hash,
                report.ok
            );
        }
        Err(e) => {
            eprintln!("{}", e.line());
            std::process::exit(e.exit_code());
        }
    }
}
