//! Questions about a heap.

use super::orders::text;
use crate::{args::Global, connect, failure::Failure, private, show};
use coheap::control::{RuntimeDir, instance, paths};
use coheap_protocol::{
    Reply, Request, Role, Status, codes,
    human::{show_bytes, show_duration},
};
use std::{process::Command, time::Duration};

fn ms(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}

fn p_of(p: Option<u16>) -> String {
    p.map_or("-".into(), |p| p.to_string())
}

/// The daemon in numbers.
pub fn status(global: &Global) -> Result<u8, Failure> {
    let rows = connect::once(global, &Request::Status)?;
    let status = connect::one(connect::only(rows, |row| match row {
        Reply::Status(status) => Some(status),
        _ => None,
    }))?;
    if global.json {
        show::json(&status);
    } else {
        show::print(&describe(&status));
    }
    Ok(codes::OK)
}

fn describe(s: &Status) -> String {
    let heap = &s.heap;
    let gc = if heap.gc_percent < 0 {
        "off".into()
    } else {
        format!("{}%", heap.gc_percent)
    };
    let adopted = if s.adopted {
        ", adopted the heap of a daemon that died"
    } else {
        ""
    };
    let run = s.run.as_ref().map_or("none".into(), |(name, p)| {
        format!(
            "{name}: {} of {} done, {} deaths survived, {}",
            p.done,
            p.total,
            p.deaths,
            ms(p.elapsed_ms)
        )
    });
    format!(
        "heap      {name} on {backing}, {max} at most\n\
         daemon    pid {pid}, version {version}, up {up}{adopted}\n\
         workers   {attached} attached of {wanted} wanted, {vacant} given up, {procs} P's may run\n\
         memory    {live} live, {goal} goal, {committed} committed, collector {gc}{refusal}\n\
         gc        {cycles} cycles, phase {phase}\n\
         tasks     {runnable} runnable, {running} running, {waiting} waiting, {failed} given up, {requeued} put back\n\
         deaths    {deaths} seen, {restarts} restarts, {recoveries} recovered in the heap\n\
         run       {run}\n\
         control   {tools} tools, bad_frames {bad}, refused {refused}\n",
        name = s.name,
        backing = s.backing,
        max = show_bytes(heap.max_bytes),
        pid = s.daemon_pid,
        version = s.version,
        up = ms(s.uptime_ms),
        attached = s.workers_attached,
        wanted = s.workers_wanted,
        vacant = s.workers_vacant,
        procs = s.procs,
        live = show_bytes(heap.live_bytes),
        goal = show_bytes(heap.goal_bytes),
        committed = show_bytes(heap.committed_bytes),
        refusal = heap.growth_refused.as_ref().map_or(String::new(), |who| {
            format!("; the last growth was refused: {who}")
        }),
        cycles = heap.gc_cycles,
        phase = heap.gc_phase,
        runnable = s.tasks_runnable,
        running = s.tasks_running,
        waiting = s.tasks_waiting,
        failed = s.tasks_failed,
        requeued = s.tasks_requeued,
        recoveries = s.recoveries,
        deaths = s.deaths,
        restarts = s.restarts,
        tools = s.tools,
        bad = s.bad_frames,
        refused = s.refused,
    )
}

/// Rows as a table, or as one JSON object a line.
pub fn rows<T: serde::Serialize>(
    global: &Global,
    head: &[&str],
    rows: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) -> u8 {
    if global.json {
        rows.iter().for_each(|row| show::json(row));
    } else {
        show::print(&show::table(
            head,
            &rows.iter().map(cells).collect::<Vec<_>>(),
        ));
    }
    codes::OK
}

/// The processes.
pub fn ps(global: &Global) -> Result<u8, Failure> {
    let found = connect::only(connect::once(global, &Request::Ps)?, |row| match row {
        Reply::Ps(row) => Some(row),
        _ => None,
    });
    let head = [
        "P", "PID", "STATE", "RUNQ", "STEALS", "ALLOC", "STEPS", "RESTARTS", "AGE", "CMD",
    ];
    Ok(rows(global, &head, &found, |r| {
        let pid = if r.pid == 0 {
            "-".into()
        } else {
            r.pid.to_string()
        };
        let (runq, steals, tasks) = (
            r.runq.to_string(),
            r.steals.to_string(),
            r.steps.to_string(),
        );
        let (alloc, restarts, age) = (
            show_bytes(r.alloc_bytes),
            r.restarts.to_string(),
            ms(r.age_ms),
        );
        vec![
            p_of(r.p),
            pid,
            r.state.clone(),
            runq,
            steals,
            alloc,
            tasks,
            restarts,
            age,
            r.program.clone(),
        ]
    }))
}

/// The tasks.
pub fn tasks(global: &Global) -> Result<u8, Failure> {
    let found = connect::only(connect::once(global, &Request::Tasks)?, |row| match row {
        Reply::Task(row) => Some(row),
        _ => None,
    });
    let head = [
        "ID", "KIND", "STATE", "P", "STEPS", "ATTEMPTS", "RUN", "ERROR",
    ];
    Ok(rows(global, &head, &found, |r| {
        vec![
            r.id.to_string(),
            r.kind.clone(),
            r.state.clone(),
            p_of(r.p),
            r.steps.to_string(),
            r.attempts.to_string(),
            if r.run == 0 {
                "-".into()
            } else {
                format!("{:#x}", r.run)
            },
            match (r.error_code, r.error.as_str()) {
                (0, "") => "-".into(),
                (8, "") => "its process died each time".into(),
                (code, "") => format!("code {code}"),
                (_, error) => error.to_owned(),
            },
        ]
    }))
}

#[derive(serde::Serialize)]
struct HeapRow {
    name: String,
    pid: Option<u32>,
    state: &'static str,
    workers: u32,
    live_bytes: u64,
    max_bytes: u64,
    age_ms: u64,
}

/// The heaps of this user.
pub fn ls(global: &Global) -> Result<u8, Failure> {
    let found: Vec<HeapRow> = paths::names()
        .iter()
        .map(|name| heap_row(&RuntimeDir::of(name), global))
        .collect();
    let head = ["NAME", "PID", "STATE", "WORKERS", "LIVE", "MAX", "AGE"];
    Ok(rows(global, &head, &found, |r| {
        let pid = r.pid.map_or("-".into(), |p| p.to_string());
        let (live, max) = (show_bytes(r.live_bytes), show_bytes(r.max_bytes));
        vec![
            r.name.clone(),
            pid,
            r.state.into(),
            r.workers.to_string(),
            live,
            max,
            ms(r.age_ms),
        ]
    }))
}

fn heap_row(dir: &RuntimeDir, global: &Global) -> HeapRow {
    let name = dir.name().to_string();
    let running = instance::is_running(dir);
    let nobody = |state| {
        let pid = instance::recorded_pid(dir).filter(|_| running);
        HeapRow {
            name: name.clone(),
            pid,
            state,
            workers: 0,
            live_bytes: 0,
            max_bytes: 0,
            age_ms: 0,
        }
    };
    if !running {
        return nobody("left over");
    }
    let patience = global.timeout.min(Duration::from_secs(2));
    let asked = connect::call(&dir.socket(), Role::Tool, patience)
        .and_then(|called| connect::ask(&called.channel, &Request::Status, patience));
    match asked.map(|rows| rows.into_iter().next()) {
        Ok(Some(Reply::Status(s))) => HeapRow {
            name,
            pid: Some(s.daemon_pid),
            state: "running",
            workers: s.workers_attached,
            live_bytes: s.heap.live_bytes,
            max_bytes: s.heap.max_bytes,
            age_ms: s.uptime_ms,
        },
        _ => nobody("no answer"),
    }
}

/// The configuration of the running daemon, or of the one that would be started.
pub fn config(global: &Global, origin: bool) -> Result<u8, Failure> {
    let running = match connect::once(global, &Request::Config) {
        Ok(rows) => Some(text(rows)),
        Err(failure) if failure.code == codes::NOT_RUNNING => None,
        Err(failure) => return Err(failure),
    };
    if let Some(text) = running {
        let bare = |line: &str| {
            line.split_once(" # ")
                .map_or(line, |(value, _)| value)
                .trim_end()
                .to_owned()
        };
        let lines = text
            .lines()
            .map(|line| if origin { line.into() } else { bare(line) });
        show::print(&lines.map(|line| line + "\n").collect::<String>());
        return Ok(codes::OK);
    }
    let program = private::find_daemon();
    let mut command = Command::new(&program);
    command.args([
        "--print-config",
        "--name",
        connect::dir(global)?.name().as_str(),
    ]);
    if origin {
        command.arg("--origins");
    }
    let status = command
        .status()
        .map_err(|e| private::not_started(&program, &e))?;
    private::code_of(&program, status)
}
