//! What is compared with what.

/// One line of the table.
pub struct Pair {
    /// Its line's name.
    pub what: &'static str,
    /// Of both figures.
    pub unit: &'static str,
    /// Our program's arguments, and the figure in its line.
    pub ours: (&'static [&'static str], &'static str),
    /// Name, program, arguments, environment, figure: a name after `R `, or `wall`, `cpu` for the whole process's seconds.
    pub peers: &'static [Peer],
}

/// A program beside ours.
pub struct Peer {
    /// For the table.
    pub name: &'static str,
    /// In the directory of peers; empty for a figure that our own line brings along.
    pub program: &'static str,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// Its environment.
    pub env: &'static [(&'static str, &'static str)],
    /// What to read.
    pub figure: &'static str,
    /// Too slow to run at every turn: at the first only.
    pub once: bool,
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
        once: false,
    }
}

/// A figure of our own program's line: the peer that it brings along.
const fn within(name: &'static str, figure: &'static str) -> Peer {
    go(name, "", &[], &[], figure)
}

/// A program with threads or processes of its own, and no environment.
const fn plain(
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    figure: &'static str,
) -> Peer {
    go(name, program, args, &[], figure)
}

/// The same, at the first turn only.
const fn slow(
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    figure: &'static str,
) -> Peer {
    let mut peer = plain(name, program, args, figure);
    peer.once = true;
    peer
}

const TREES_RICH: &[&str] = &[
    "trees",
    "--depth",
    "21",
    "--max",
    "1G",
    "--gc-percent",
    "off",
];
const ONE: &[(&str, &str)] = &[("GOMAXPROCS", "1")];
const TWO: &[(&str, &str)] = &[("GOMAXPROCS", "2")];
const REVERSE: &[(&str, &str)] = &[("ORD", "rev")];

/// All of them; those that share our program's arguments stand together, and are measured by the same runs.
pub const PAIRS: &[Pair] = &[
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
            plain("mimalloc, 2 threads", "bintrees_mi", &["18", "2"], "wall"),
            plain(
                "Java Parallel, 2 threads",
                "java",
                &["-XX:+UseParallelGC", "BinTrees", "18", "2"],
                "wall",
            ),
            plain(
                "Boost.Interprocess' pool, 2 processes",
                "bintrees_boost",
                &["18", "2", "pool"],
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
        what: "trees 21, two P's, whole processes: wall",
        unit: "s",
        ours: (&["trees", "--depth", "21"], "wall_s"),
        peers: &[
            go(
                "Go, P=2",
                "go27_bintrees",
                &["-n", "21", "-par"],
                TWO,
                "wall",
            ),
            plain("mimalloc, 2 threads", "bintrees_mi", &["21", "2"], "wall"),
            slow(
                "Boost.Interprocess' pool, 2 processes (one turn)",
                "bintrees_boost",
                &["21", "2", "pool"],
                "wall",
            ),
        ],
    },
    Pair {
        what: "trees 21, two P's: CPU",
        unit: "s",
        ours: (&["trees", "--depth", "21"], "cpu_s"),
        peers: &[
            go(
                "Go, P=2",
                "go27_bintrees",
                &["-n", "21", "-par"],
                TWO,
                "cpu",
            ),
            plain("mimalloc, 2 threads", "bintrees_mi", &["21", "2"], "cpu"),
        ],
    },
    Pair {
        what: "trees 21 with 1 GiB and no pacing: wall",
        unit: "s",
        ours: (TREES_RICH, "wall_s"),
        peers: &[plain(
            "Java Parallel, 2 threads, 1 GiB",
            "java",
            &["-XX:+UseParallelGC", "-Xmx1g", "BinTrees", "21", "2"],
            "wall",
        )],
    },
    Pair {
        what: "trees 21 with 1 GiB and no pacing: CPU",
        unit: "s",
        ours: (TREES_RICH, "cpu_s"),
        peers: &[plain(
            "Java Parallel, 2 threads, 1 GiB",
            "java",
            &["-XX:+UseParallelGC", "-Xmx1g", "BinTrees", "21", "2"],
            "cpu",
        )],
    },
    Pair {
        what: "mark a tree of 16.8 M, one worker",
        unit: "CPU ns/object",
        ours: (
            &["mark", "--kind", "tree", "--reps", "3"],
            "collect_cpu_ns_per_object",
        ),
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
        ours: (
            &["mark", "--kind", "shuffled", "--reps", "3"],
            "collect_cpu_ns_per_object",
        ),
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
        ours: (
            &["mark", "--kind", "graph", "--reps", "3"],
            "collect_cpu_ns_per_object",
        ),
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
        what: "mark the random graph, two workers: the busiest one",
        unit: "CPU ns/object",
        ours: (
            &["mark", "--kind", "graph", "--reps", "3", "--procs", "2"],
            "busiest_cpu_ns_per_object",
        ),
        peers: &[],
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
        what: "yield, one P",
        unit: "ns",
        ours: (&["sched"], "yield_ns"),
        peers: &[
            go(
                "Go, P=1",
                "go27_sched",
                &[],
                ONE,
                "gosched_pair_per_switch_ns",
            ),
            plain(
                "tokio, 1 worker",
                "rs_sched",
                &["1"],
                "tokio_yield_pair_per_switch_ns",
            ),
        ],
    },
    Pair {
        what: "wake a sleeping process for a task",
        unit: "us",
        ours: (&["sched", "--reps", "1"], "wake_p50_us"),
        peers: &[within("a thread on a futex", "futex_wake_p50_us")],
    },
    Pair {
        what: "hand over 64 B and back, polling",
        unit: "us",
        ours: (&["handoff"], "poll_new_p50_us"),
        peers: &[plain(
            "iceoryx2",
            "rs_ipc",
            &["iox", "64", "100000"],
            "rtt_touch1_p50_us",
        )],
    },
    Pair {
        what: "hand over 64 B and back, sleeping",
        unit: "us",
        ours: (&["handoff"], "sleep_new_p50_us"),
        peers: &[
            within("the futex alone", "futex_p50_us"),
            plain(
                "iceoryx2 with events",
                "rs_ipc",
                &["ioxev", "64", "5000"],
                "rtt_touch1_p50_us",
            ),
        ],
    },
    Pair {
        what: "hand over 1 MB and back, the same again, polling",
        unit: "us",
        ours: (&["handoff", "--bytes", "1048576"], "poll_same_p50_us"),
        peers: &[plain(
            "iceoryx2",
            "rs_ipc",
            &["iox", "1048576", "1000"],
            "rtt_touch1_p50_us",
        )],
    },
    Pair {
        what: "hand over 1 MB and back, new and zeroed, polling",
        unit: "us",
        ours: (&["handoff", "--bytes", "1048576"], "poll_new_p50_us"),
        peers: &[plain(
            "iceoryx2 (its pool, not zeroed)",
            "rs_ipc",
            &["iox", "1048576", "1000"],
            "rtt_touch1_p50_us",
        )],
    },
    Pair {
        what: "index, two workers: wall",
        unit: "ms",
        ours: (&["index", "--runs", "5"], "two_workers_ms"),
        peers: &[
            within("plain Rust, two threads", "plain_two_threads_ms"),
            within("one worker of ours", "one_worker_ms"),
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
        what: "map, gets only, two processes (Go: two threads of one)",
        unit: "M ops/s",
        ours: (&["map", "--reps", "3"], "many_put0"),
        peers: SMAP0,
    },
    Pair {
        what: "map, half puts, two processes (Go: two threads of one)",
        unit: "M ops/s",
        ours: (&["map", "--reps", "3"], "many_put50"),
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
    plain(
        "LMDB, 2 processes",
        "rs_lmdb",
        &["200000", "2", "0", "1"],
        "Mops_s",
    ),
    plain(
        "Boost, one lock, 2 processes",
        "map_boost",
        &["1000000", "2", "0", "1"],
        "Mops_s",
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
    plain(
        "LMDB, 2 processes",
        "rs_lmdb",
        &["200000", "2", "50", "1"],
        "Mops_s",
    ),
    plain(
        "Boost, one lock, 2 processes",
        "map_boost",
        &["1000000", "2", "50", "1"],
        "Mops_s",
    ),
];
