//! `compare`: ours and every peer that is installed, pair by pair, and a Markdown table.
//!
//! A pair runs in turns, `--runs` times each, so that what disturbs the machine disturbs both; the table shows medians and their
//! ratio. Peers are the programs that `reference/baselines/build.sh` builds; they are looked for in `$BIN`, else `~/peers/bin`.

use std::{path::PathBuf, process::Command};

use crate::heap::{Flags, Result, median};

/// One line of the table.
struct Pair {
    what: &'static str,
    unit: &'static str,
    ours: (&'static [&'static str], &'static str),
    /// Name, program, arguments, environment, figure: a name after `R `, or `wall`, `cpu` for the whole process's seconds.
    peers: &'static [Peer],
}

struct Peer {
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    figure: &'static str,
}

const fn go(
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    procs: &'static [(&'static str, &'static str)],
    figure: &'static str,
) -> Peer {
    Peer {
        name,
        program,
        args,
        env: procs,
        figure,
    }
}

const ONE: &[(&str, &str)] = &[("GOMAXPROCS", "1")];
const TWO: &[(&str, &str)] = &[("GOMAXPROCS", "2")];
const REVERSE: &[(&str, &str)] = &[("ORD", "rev")];

const PAIRS: &[Pair] = &[
    Pair {
        what: "enter + leave a scope",
        unit: "ns",
        ours: (&["scope"], "enter_leave_ns"),
        peers: &[],
    },
    Pair {
        what: "slot store, barrier off",
        unit: "ns",
        ours: (&["scope"], "slot_store_ns"),
        peers: &[],
    },
    Pair {
        what: "allocate 16 B with references, collection included, one P",
        unit: "ns/object",
        ours: (
            &["alloc", "--only", "refs16"],
            "refs16_ns_per_object_per_core",
        ),
        peers: &[
            go(
                "Go, P=1",
                "go27_alloc",
                &["-n", "10000000"],
                ONE,
                "ptr16_cpu_ns_per_obj",
            ),
            go(
                "mimalloc, malloc + free",
                "alloc_mi",
                &["10000000", "1"],
                &[],
                "ring16_cpu_ns_per_pair",
            ),
        ],
    },
    Pair {
        what: "allocate 64 B with references, one P",
        unit: "ns/object",
        ours: (
            &["alloc", "--only", "refs64"],
            "refs64_ns_per_object_per_core",
        ),
        peers: &[go(
            "Go, P=1",
            "go27_alloc",
            &["-n", "10000000"],
            ONE,
            "ptr64_cpu_ns_per_obj",
        )],
    },
    Pair {
        what: "trees 18, two P's, whole processes: wall",
        unit: "s",
        ours: (&["trees", "--depth", "18"], "wall_s"),
        peers: &[
            go(
                "Go, P=2",
                "go27_bintrees",
                &["-n", "18", "-par"],
                TWO,
                "wall",
            ),
            go(
                "mimalloc, 2 threads",
                "bintrees_mi",
                &["18", "2"],
                &[],
                "wall",
            ),
        ],
    },
    Pair {
        what: "trees 18, two P's: CPU",
        unit: "s",
        ours: (&["trees", "--depth", "18"], "cpu_s"),
        peers: &[go(
            "Go, P=2",
            "go27_bintrees",
            &["-n", "18", "-par"],
            TWO,
            "cpu",
        )],
    },
    Pair {
        what: "mark a tree of 16.8 M, one worker",
        unit: "CPU ns/object",
        ours: (&["mark", "--kind", "tree"], "collect_cpu_ns_per_object"),
        peers: &[
            go(
                "limit: prefetch, reverse push",
                "limits",
                &["mark", "tree", "16777216", "1", "pf", "16", "0", "3"],
                REVERSE,
                "cpu_ns_per_obj",
            ),
            go(
                "Go, P=1",
                "go27_mark",
                &["-kind", "tree", "-reps", "3"],
                ONE,
                "ns_per_obj_worker",
            ),
        ],
    },
    Pair {
        what: "mark the same, shuffled",
        unit: "CPU ns/object",
        ours: (&["mark", "--kind", "shuffled"], "collect_cpu_ns_per_object"),
        peers: &[
            go(
                "limit: prefetch, reverse push",
                "limits",
                &["mark", "shuf", "16777216", "1", "pf", "16", "0", "3"],
                REVERSE,
                "cpu_ns_per_obj",
            ),
            go(
                "Go, P=1",
                "go27_mark",
                &["-kind", "shuf", "-reps", "3"],
                ONE,
                "ns_per_obj_worker",
            ),
        ],
    },
    Pair {
        what: "mark a random graph of 10 M",
        unit: "CPU ns/object",
        ours: (&["mark", "--kind", "graph"], "collect_cpu_ns_per_object"),
        peers: &[
            go(
                "limit: prefetch, reverse push",
                "limits",
                &["mark", "graph", "10000000", "1", "pf", "16", "0", "3"],
                REVERSE,
                "cpu_ns_per_obj",
            ),
            go(
                "Go, P=1",
                "go27_mark",
                &["-kind", "graph", "-n", "10000000", "-reps", "3"],
                ONE,
                "ns_per_obj_worker",
            ),
        ],
    },
    Pair {
        what: "spawn + run a task, one P",
        unit: "ns",
        ours: (&["sched"], "spawn_run_ns"),
        peers: &[
            go("Go, P=1", "go27_sched", &[], ONE, "spawn_run_1M_ns"),
            go(
                "tokio, 1 worker",
                "rs_sched",
                &["1"],
                &[],
                "tokio_spawn_run_1M_from_worker_ns",
            ),
            go(
                "rayon scope, 1 thread",
                "rs_sched",
                &["1"],
                &[],
                "rayon_scope_spawn_1M_ns",
            ),
        ],
    },
    Pair {
        what: "pause, 512 MB live, two P's: operation p99",
        unit: "us",
        ours: (&["pause"], "operation_p99_us"),
        peers: &[go("Go, P=2", "go27_pause", &[], TWO, "op_p99_us")],
    },
    Pair {
        what: "pause, 512 MB live, two P's: operation p99.99",
        unit: "us",
        ours: (&["pause"], "operation_p9999_us"),
        peers: &[go("Go, P=2", "go27_pause", &[], TWO, "op_p9999_us")],
    },
    Pair {
        what: "pause, 512 MB live, two P's: objects made",
        unit: "M/s",
        ours: (&["pause"], "m_objects_per_s"),
        peers: &[go("Go, P=2", "go27_pause", &[], TWO, "Mobj_s_total")],
    },
    Pair {
        what: "map, gets only, two processes (Go: two threads, one process)",
        unit: "M ops/s",
        ours: (&["map"], "many_put0"),
        peers: SMAP0,
    },
    Pair {
        what: "map, half puts, two processes (Go: two threads, one process)",
        unit: "M ops/s",
        ours: (&["map"], "many_put50"),
        peers: SMAP50,
    },
];

const SMAP0: &[Peer] = &[
    go(
        "Go sync.Map, P=2",
        "go27_smap",
        &[],
        TWO,
        "syncMap_put0_Mops_s",
    ),
    go(
        "Go map under a mutex, P=2",
        "go27_smap",
        &[],
        TWO,
        "mutex_map_put0_Mops_s",
    ),
];
const SMAP50: &[Peer] = &[
    go(
        "Go sync.Map, P=2",
        "go27_smap",
        &[],
        TWO,
        "syncMap_put50_Mops_s",
    ),
    go(
        "Go map under a mutex, P=2",
        "go27_smap",
        &[],
        TWO,
        "mutex_map_put50_Mops_s",
    ),
];

fn peers_dir() -> PathBuf {
    std::env::var_os("BIN").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("peers/bin"),
        PathBuf::from,
    )
}

fn ours(args: &[&str], figure: &str) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?).args(args).output()?;
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| {
        format!(
            "{}: {e}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    line[figure]
        .as_f64()
        .ok_or_else(|| format!("{} prints no {figure}", args.join(" ")).into())
}

/// A peer's figure; the median of those it prints.
fn theirs(peer: &Peer) -> Result<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        Ok::<_, nix::Error>(s(usage.user_time()) + s(usage.system_time()))
    };
    let (started, before) = (std::time::Instant::now(), cpu()?);
    let output = Command::new(peers_dir().join(peer.program))
        .args(peer.args)
        .envs(peer.env.iter().copied())
        .output()?;
    match peer.figure {
        "wall" => return Ok(started.elapsed().as_secs_f64()),
        "cpu" => return Ok(cpu()? - before),
        _ => {}
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let values: Vec<f64> = text
        .lines()
        .filter_map(|l| {
            let mut words = l.strip_prefix("R ")?.split(' ');
            (words.next() == Some(peer.figure)).then_some(())?;
            words.next()?.parse().ok()
        })
        .collect();
    if values.is_empty() {
        return Err(format!("{} prints no {}", peer.program, peer.figure).into());
    }
    Ok(median(values))
}

/// Flags: `--runs` of each pair, `--only` a part of the lines' names, `--out` a file for the table.
pub fn run(flags: &Flags) -> Result<()> {
    let runs = flags.number("--runs", 3);
    let only = flags.text("--only").unwrap_or("");
    let mut table = String::from(
        "| work | unit | coheap | peer | | ours / peer |\n|---|---|---|---|---|---|\n",
    );
    for pair in PAIRS.iter().filter(|p| p.what.contains(only)) {
        let installed: Vec<&Peer> = pair
            .peers
            .iter()
            .filter(|p| peers_dir().join(p.program).exists())
            .collect();
        let mut mine = Vec::new();
        let mut others = vec![Vec::new(); installed.len()];
        for _ in 0..runs {
            mine.push(ours(pair.ours.0, pair.ours.1)?);
            for (values, peer) in others.iter_mut().zip(&installed) {
                values.push(theirs(peer)?);
            }
        }
        let mine = median(mine);
        if installed.is_empty() {
            table.push_str(&format!(
                "| {} | {} | {mine:.2} | – | | |\n",
                pair.what, pair.unit
            ));
        }
        for (values, peer) in others.into_iter().zip(&installed) {
            let other = median(values);
            table.push_str(&format!(
                "| {} | {} | {mine:.2} | {} | {other:.2} | {:.2} |\n",
                pair.what,
                pair.unit,
                peer.name,
                mine / other
            ));
        }
        eprint!(
            "{}",
            table
                .lines()
                .last()
                .map_or(String::new(), |l| format!("{l}\n"))
        );
    }
    match flags.text("--out") {
        Some(path) => std::fs::write(path, table)?,
        None => print!("{table}"),
    }
    Ok(())
}
