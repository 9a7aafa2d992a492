//! `counts`: instructions of the hot paths, counted by callgrind and compared with `counts.toml`: a slip shows without timing noise.
//!
//! ```text
//! bench counts              compares; fails where a path takes more, or much less, than the file says
//! bench counts --update     writes the file
//! ```
//! 1. For each path this program runs itself under valgrind. 2. There it sets a heap up, warms the path, and calls one function
//! that is never inlined, `counted_...`; valgrind collects only inside it (`--toggle-collect`), and only on the thread that is in it. 3. The
//! instructions divided by the operations are the figure. Functions whose code would be the same say different strings, or the compiler
//! makes one of them.
//!
//! The tolerance is 5 % and half an instruction, with another compiler than the file's 15 %: what another version of it does to a
//! loop is not our slip. A path that takes less than the tolerance allows fails too, so that the file says what the code does. Running a task
//! is not quite independent of the clock (life words are looked at every 0.1 ms, turns end every 0.5): two hosts counted 1,281 and 1,336 for the same
//! program; the file has their middle.

#![allow(clippy::print_stderr)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    hint::black_box,
    path::PathBuf,
    process::Command,
    sync::{atomic::AtomicU64, mpsc},
};

use coheap::{Cx, Gc, GcMap, Idle, Kinds, P, Shared, Slot};

use crate::{
    heap::{Flags, Result, kinds as all_kinds, segment},
    mark, sched,
};

/// Name, operations of a run, what is measured.
type CountedPath = (&'static str, u64, fn(u64) -> Result<()>);

/// The compared paths.
const PATHS: &[CountedPath] = &[
    ("enter_leave", 10_000, enter_leave),
    ("alloc_16_bytes", 100_000, alloc_16),
    ("alloc_array_of_7", 100_000, alloc_array),
    ("slot_load", 10_000, slot_load),
    ("slot_store_barrier_off", 10_000, slot_store_off),
    ("slot_store_barrier_on", 10_000, slot_store_on),
    ("map_get", 10_000, map_get),
    ("map_insert", 10_000, map_insert),
    ("spawn_and_run", 20_000, spawn_and_run),
    ("steal_and_run", 20_000, steal_and_run),
    ("mark_graph_object", 200_000, mark_graph),
    ("mark_tree_object", (1 << 18) - 1, mark_tree),
];

/// Share by which a figure may differ; with another compiler.
const TOLERANCE: f64 = 0.05;
const TOLERANCE_OTHER_COMPILER: f64 = 0.15;
/// Instructions by which it may differ in any case.
const SLACK: f64 = 0.5;

#[derive(Shared)]
#[shared(name = "bench.counts.Small")]
struct Small {
    a: Slot<Small>,
    b: Slot<Small>,
    x: u64,
}

fn small<'a>(cx: &'a Cx<'_>) -> coheap::Result<Gc<'a, Small>> {
    cx.alloc(Small {
        a: Slot::nil(),
        b: Slot::nil(),
        x: 0,
    })
}

fn enter_leave(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_enter_leave(p: &mut P, n: u64) {
        for _ in 0..n {
            p.enter(|cx| {
                black_box(&*cx);
            });
        }
    }
    let mut p = P::lease(segment(64, -1)?)?;
    counted_enter_leave(&mut p, n);
    Ok(())
}

fn alloc_16(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_alloc_16_bytes(cx: &Cx<'_>, n: u64) -> coheap::Result<()> {
        for _ in 0..n {
            black_box(small(cx)?);
        }
        Ok(())
    }
    let mut p = P::lease(segment(64, -1)?)?;
    p.enter(|cx| {
        small(cx)?;
        counted_alloc_16_bytes(cx, n)
    })?;
    Ok(())
}

fn alloc_array(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_alloc_array_of_7(cx: &Cx<'_>, n: u64) -> coheap::Result<()> {
        for _ in 0..n {
            black_box(cx.array::<AtomicU64>(black_box(7))?);
        }
        Ok(())
    }
    let mut p = P::lease(segment(64, -1)?)?;
    p.enter(|cx| {
        cx.array::<AtomicU64>(7)?;
        counted_alloc_array_of_7(cx, n)
    })?;
    Ok(())
}

fn slot_load(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_slot_load(cx: &Cx<'_>, object: Gc<'_, Small>, n: u64) {
        for _ in 0..n {
            black_box(black_box(object).a.load(cx));
        }
    }
    let mut p = P::lease(segment(64, -1)?)?;
    p.enter(|cx| {
        let cx = &*cx;
        let object = small(cx)?;
        object.a.store(cx, Some(object));
        counted_slot_load(cx, object, n);
        Ok::<_, coheap::Error>(())
    })?;
    Ok(())
}

fn slot_store_off(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_slot_store_barrier_off(cx: &Cx<'_>, object: Gc<'_, Small>, n: u64) {
        black_box("arrier_off");
        for _ in 0..n {
            black_box(object).a.store(cx, Some(black_box(object)));
        }
    }
    let mut p = P::lease(segment(64, -1)?)?;
    p.enter(|cx| {
        let cx = &*cx;
        counted_slot_store_barrier_off(cx, small(cx)?, n);
        Ok::<_, coheap::Error>(())
    })?;
    Ok(())
}

/// Stores of a marked object while the collector marks: the cycle that is asked for is met between two pieces of work.
fn slot_store_on(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_slot_store_barrier_on(cx: &Cx<'_>, object: Gc<'_, Small>, n: u64) {
        black_box("arrier_on");
        for _ in 0..n {
            black_box(object).a.store(cx, Some(black_box(object)));
        }
    }
    let mut p = P::lease(segment(256, 100)?)?;
    mark::fill(&mut p, "graph", 500_000)?;
    coheap::gc::request(p.segment());
    let mut met = Ok(false);
    let mut looks = 0;
    p.run(&Kinds::new(), |p, _idle| {
        if p.segment().status().phase == "mark" {
            met = p.enter(|cx| {
                let cx = &*cx;
                let object = small(cx)?;
                counted_slot_store_barrier_on(cx, object, n);
                Ok::<_, coheap::Error>(p_is_marking(cx))
            });
            return Idle::Return;
        }
        // What is left of the last cycle is swept first, a part at a time.
        looks += 1;
        if looks > 10_000 {
            Idle::Return
        } else {
            Idle::Continue
        }
    })?;
    if met? {
        Ok(())
    } else {
        Err("no marking was met".into())
    }
}

fn p_is_marking(cx: &Cx<'_>) -> bool {
    cx.segment().status().phase == "mark"
}

/// What a map maps to.
fn with_map(
    n: u64,
    f: impl for<'a> FnOnce(&'a Cx<'_>, Gc<'a, GcMap<Small>>) -> coheap::Result<()>,
) -> Result<()> {
    let mut p = P::lease(segment(128, -1)?)?;
    p.enter(|cx| {
        let cx = &*cx;
        let map = GcMap::<Small>::new(cx)?;
        for key in 0..n {
            map.insert(cx, key.to_ne_bytes(), small(cx)?)?;
        }
        f(cx, map)
    })?;
    Ok(())
}

fn map_get(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_map_get(cx: &Cx<'_>, map: Gc<'_, GcMap<Small>>, n: u64) {
        for key in 0..n {
            black_box(map.get(cx, black_box(key).to_ne_bytes()));
        }
    }
    with_map(n, |cx, map| {
        counted_map_get(cx, map, n);
        Ok(())
    })
}

fn map_insert(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_map_insert(
        cx: &Cx<'_>,
        map: Gc<'_, GcMap<Small>>,
        value: Gc<'_, Small>,
        n: u64,
    ) -> coheap::Result<()> {
        for key in 0..n {
            black_box(map.insert(cx, black_box(key).to_ne_bytes(), value)?);
        }
        Ok(())
    }
    with_map(n, |cx, map| counted_map_insert(cx, map, small(cx)?, n))
}

fn spawn_and_run(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_spawn_and_run(p: &mut P, kinds: &Kinds, n: u64) -> Result<()> {
        sched::spawn_leaves(p, n)?;
        sched::until_idle(p, kinds)
    }
    let mut p = P::lease(segment(256, -1)?)?;
    let kinds = all_kinds();
    sched::spawn_leaves(&mut p, n)?;
    sched::until_idle(&mut p, &kinds)?;
    counted_spawn_and_run(&mut p, &kinds, n)
}

/// One thread's P makes tasks and does not run them; the other's steals half, and half of the rest, and so on.
fn steal_and_run(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_steal_and_run(p: &mut P, kinds: &Kinds) -> Result<()> {
        sched::until_idle(p, kinds)
    }
    let segment = segment(256, -1)?;
    let mut maker = P::lease(segment.clone())?;
    let kinds = all_kinds();
    let (go, to_go) = mpsc::channel::<()>();
    let (done, all_done) = mpsc::channel::<bool>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let kinds = all_kinds();
            let Ok(mut thief) = P::lease(segment) else {
                return;
            };
            while to_go.recv().is_ok() {
                let ok = counted_steal_and_run(&mut thief, &kinds).is_ok();
                if done.send(ok).is_err() {
                    return;
                }
            }
        });
        for _ in 0..n / sched::BATCH {
            sched::spawn_leaves(&mut maker, sched::BATCH)?;
            // The spawner's first step: its leaves stand in the maker's queue afterwards.
            maker.run(&kinds, |_, _| Idle::Return)?;
            go.send(())?;
            if !all_done.recv()? {
                return Err("the thief failed".into());
            }
        }
        drop(go);
        Ok(())
    })
}

fn mark_graph(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_mark_graph_object(p: &mut P) -> bool {
        black_box("graph");
        p.collect()
    }
    marked(n, "graph", counted_mark_graph_object)
}

fn mark_tree(n: u64) -> Result<()> {
    #[inline(never)]
    fn counted_mark_tree_object(p: &mut P) -> bool {
        black_box("tree");
        p.collect()
    }
    marked(n, "tree", counted_mark_tree_object)
}

fn marked(n: u64, kind: &str, collect: fn(&mut P) -> bool) -> Result<()> {
    let mut p = P::lease(segment(256, -1)?)?;
    mark::fill(&mut p, kind, n as usize)?;
    // The first one makes the mark workers.
    if p.collect() && collect(&mut p) {
        Ok(())
    } else {
        Err("a collection did not end".into())
    }
}

/// The program under valgrind. Flag: `--path`.
pub fn child(flags: &Flags) -> Result<()> {
    let wanted = flags.text("--path").ok_or("counts-child without --path")?;
    let (_, n, run) = PATHS.iter().find(|p| p.0 == wanted).ok_or("no such path")?;
    run(*n)
}

/// Instructions of one operation.
fn count(name: &str, n: u64) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--collect-atstart=no")
        .arg(format!("--toggle-collect=*counted_{name}"))
        .arg(std::env::current_exe()?)
        .args(["counts-child", "--path", name])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|l| l.split_once("Collected : ")?.1.trim().parse::<f64>().ok())
        .filter(|&c| c > 0.0 && output.status.success())
        .ok_or_else(|| format!("{name}: {text}"))?;
    Ok(collected / n as f64)
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.toml")
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    text.unwrap_or_else(|_| "unknown".into())
}

/// The file: `compiler = "..."`, then `path = figure`, one a line.
fn read() -> Result<(String, BTreeMap<String, f64>)> {
    let text = std::fs::read_to_string(file())?;
    let (mut of, mut figures) = (String::new(), BTreeMap::new());
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        match value.strip_prefix('"') {
            Some(text) => of = text.trim_end_matches('"').to_string(),
            None => {
                figures.insert(name.to_string(), value.parse()?);
            }
        }
    }
    Ok((of, figures))
}

fn write(figures: &[(&str, f64)]) -> Result<()> {
    let mut text = format!(
        "# Instructions of the hot paths, by `cargo run --release -p bench -- counts --update`.\ncompiler = \"{}\"\n",
        compiler()
    );
    for (name, figure) in figures {
        writeln!(text, "{name} = {figure:.1}")?;
    }
    std::fs::write(file(), text)?;
    Ok(())
}

/// How a figure differs: `None` within the tolerance.
fn differs(figure: f64, wanted: f64, tolerance: f64) -> Option<&'static str> {
    let allowed = wanted * tolerance + SLACK;
    if figure > wanted + allowed {
        Some("MORE than before")
    } else if figure < wanted - allowed {
        Some("less than before: update the file")
    } else {
        None
    }
}

/// Flags: `--update`, `--only` a part of the paths' names.
pub fn run(flags: &Flags) -> Result<()> {
    let only = flags.text("--only").unwrap_or("");
    let mut figures = Vec::new();
    for (name, n, _) in PATHS.iter().filter(|p| p.0.contains(only)) {
        figures.push((*name, count(name, *n)?));
    }
    if flags.has("--update") {
        return write(&figures);
    }
    let (of, wanted) = read()?;
    let tolerance = if of == compiler() {
        TOLERANCE
    } else {
        TOLERANCE_OTHER_COMPILER
    };
    let mut slips = 0;
    for (name, figure) in figures {
        let before = *wanted
            .get(name)
            .ok_or("a path that the file does not have")?;
        let verdict = differs(figure, before, tolerance);
        slips += usize::from(verdict.is_some());
        println!(
            "{name:24} {before:8.1} {figure:8.1} {:+6.1} % {}",
            (figure / before - 1.0) * 100.0,
            verdict.unwrap_or("")
        );
    }
    if slips > 0 {
        return Err(format!("{slips} hot paths differ from {}", file().display()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_six_in_a_hundred_shows() {
        assert_eq!(differs(104.0, 100.0, TOLERANCE), None);
        assert!(differs(106.0, 100.0, TOLERANCE).is_some());
        assert!(differs(94.0, 100.0, TOLERANCE).is_some());
        assert_eq!(differs(7.4, 7.0, TOLERANCE), None);
    }

    #[test]
    fn every_path_has_its_figure() {
        let (_, figures) = read().expect("counts.toml");
        let names: Vec<_> = PATHS.iter().map(|p| p.0).collect();
        assert!(names.iter().all(|n| figures.contains_key(*n)));
        assert_eq!(names.len(), figures.len());
    }
}
