//! `COHEAPDEBUG=gctrace=1`: one line per cycle, in Go's shape, our fields at the end.
//!
//! `gc N @Ts U%: a+b+c ms clock, d+e/f/g+h ms cpu, x->y->z MB, G MB goal, 0 MB stacks, R MB globals, P P`. We do not stop the
//! world: d and h are 0, for no processor works at a stop, and there is no stopping to tell from a total; the longest delay that the
//! collector has put on a running P so far stands at the end. a is the handshakes that start a cycle ("stopping" nobody), c the last round. Then `(forced)`, and after a bar what only we have.

use std::{io::Write, sync::atomic::Ordering::Relaxed};

pub(crate) use crate::debug::debug;
use crate::segment::Segment;

/// Prints the line of the cycle that has just ended, if asked to: one write, so that lines of several processes do not mix.
pub(crate) fn cycle(segment: &Segment, cycle: u32) {
    if debug().gctrace {
        // A closed stderr is not worth an error here.
        let _ = std::io::stderr().write_all(line(segment, cycle).as_bytes());
    }
}

fn line(segment: &Segment, cycle: u32) -> String {
    let gc = &segment.hdr.gc;
    let stats = &segment.hdr.stats;
    let at: Vec<f64> = gc
        .at_ns
        .iter()
        .map(|a| a.load(Relaxed) as f64 / 1e6)
        .collect();
    let ms = |ns: usize| {
        stats.mark_ns[ns]
            .load(Relaxed)
            .saturating_sub(stats.mark_ns_at_start[ns].load(Relaxed)) as f64
            / 1e6
    };
    let mb = |bytes: u64| bytes >> 20;
    let procs = super::gc_controller::active_procs(segment);
    let first = segment
        .used_procs()
        .iter()
        .filter_map(|r| Some(r.leased_at_ns.load(Relaxed)).filter(|&t| t != 0))
        .min()
        .unwrap_or(0) as f64
        / 1e6;
    let (start, mark, end) = (
        (at[2] - at[0]).max(0.0),
        (at[3] - at[2]).max(0.0),
        (at[4] - at[3]).max(0.0),
    );
    let total: u64 = [0, 1, 3]
        .iter()
        .map(|&m: &usize| stats.mark_ns[m].load(Relaxed))
        .sum();
    let share = total as f64 / 1e6 / ((at[4] - first).max(1.0) * procs as f64) * 100.0;
    let forced = if gc.trigger_kind.load(Relaxed) == 2 {
        " (forced)"
    } else {
        ""
    };
    format!(
        "gc {cycle} @{:.3}s {share:.0}%: {start:.3}+{mark:.2}+{end:.3} ms clock, 0+{:.2}/{:.2}/{:.2}+0 ms cpu, {}->{}->{} MB, {} MB goal, 0 MB stacks, 0 MB globals, {procs} P{forced} | rounds {} migrations {} longest delay {:.3} ms\n",
        (at[0] - first).max(0.0) / 1e3,
        ms(3),
        ms(0) + ms(1),
        ms(2),
        mb(gc.live_at_start.load(Relaxed)),
        mb(gc.live_at_mark_end.load(Relaxed)),
        mb(gc.marked_live.load(Relaxed)),
        mb(gc.goal.load(Relaxed)),
        gc.rounds.load(Relaxed),
        stats.migrations.load(Relaxed),
        stats.pause_max_ns.load(Relaxed) as f64 / 1e6,
    )
}
