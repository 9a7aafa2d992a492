//! Everything the daemon does with the segment: counters in, orders out, never an object.

use crate::{
    config::Config,
    error::DaemonError,
    events::{Event, Notifier},
    logging,
    state::State,
};
use coheap::segment::{Backing, Segment, SegmentConfig};
use coheap_protocol::{HeapNumbers, Progress, RunId, TaskRow, Totals, run::counter};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long the watcher sleeps, unless a P dies or is leased, before it looks at what no word tells: a death in the middle of a lease.
const LIFE_PATIENCE: Duration = Duration::from_millis(100);
/// Time after a repair in which the living have gone on, or waited for the dead.
const SURVIVORS_GO_ON: Duration = Duration::from_millis(2);
/// How long before its repair a P may have died unseen, at most: a step's time slice and more.
const SILENCE_NS: u64 = 50_000_000;
/// Time between two rounds of sysmon.
const SYSMON_EVERY: Duration = Duration::from_millis(10);
/// Tasks in a list for people.
const TASKS_SHOWN: usize = 500;

/// A P that died, and what its recovery did.
#[derive(Clone, Debug, Default)]
pub struct Death {
    /// The P.
    pub p: u16,
    /// Its process.
    pub pid: u32,
    /// What it was in the middle of.
    pub at: String,
    /// Tasks put back to be run again.
    pub requeued: u32,
    /// Time the recovery took.
    pub took: Duration,
}

/// P's that may run until somebody says otherwise (`resize`): all there are.
pub const PROCS: u16 = 256;

/// Makes the segment.
pub fn create(config: &Config) -> Result<Segment, DaemonError> {
    let segment = Segment::create(&SegmentConfig {
        max_bytes: config.max_bytes.value,
        backing: config.backing.value.clone(),
        gc_percent: config.gc_percent.value,
        soft_limit_bytes: config.soft_bytes.value,
        procs: PROCS,
        redeliver_max: config.redeliver_max.value,
        name: config.name.value.to_string(),
    })?;
    Ok(segment)
}

/// Opens a segment that a worker handed over.
pub fn adopt(fd: OwnedFd) -> Result<Segment, DaemonError> {
    let segment = Segment::open_fd(fd)?;
    segment.check()?; // recovery, which comes next, believes the tables
    Ok(segment)
}

/// Recovers every P whose death is certified, here and now.
pub fn recover(segment: &Segment) -> Vec<Death> {
    told(coheap::recover::recover_dead(segment))
}

/// As the protocol tells it.
fn told(reports: Vec<coheap::recover::DeathReport>) -> Vec<Death> {
    let death = |r: coheap::recover::DeathReport| Death {
        p: r.p as u16,
        pid: r.pid,
        at: r.activity.into(),
        requeued: r.requeued as u32,
        took: Duration::from_nanos(r.repair_ns),
    };
    reports.into_iter().map(death).collect()
}

/// Starts the threads that watch life words, look after the heap, and look how the living fared. They end with the process.
///
/// The watcher recovers a death itself, at once: the pidfd that the poll loop waits for follows only when the dead
/// process's memory is torn down, tens of milliseconds later for a large one. It may run before everybody else
/// ([`coheap::life::be_prompt`]), so what is not urgent about a death is another thread's.
pub fn watch(segment: &Segment, notifier: &Notifier) -> Result<(), DaemonError> {
    let (life, notifier) = (segment.clone(), notifier.clone());
    let (died, deaths) = mpsc::channel();
    // `coheap doctor` knows it by this name.
    thread("life", move || {
        let promptness = coheap::life::be_prompt();
        log::debug!("ev=life.watch promptness={promptness:?}");
        let watch = coheap::life::Watch::new(life.clone());
        let mut known = 0;
        loop {
            let deaths = told(watch.recover(LIFE_PATIENCE));
            if !deaths.is_empty() {
                notifier.send(Event::Recovered(deaths));
            }
            let ever = life.deaths_ever();
            if ever != known {
                known = ever;
                // Only the end of the process ends the receiver.
                let _ = died.send(());
            }
        }
    })?;
    let living = segment.clone();
    thread("survivors", move || {
        while deaths.recv().is_ok() {
            std::thread::sleep(SURVIVORS_GO_ON);
            while look_at_survivors(&living) > 0 {
                std::thread::sleep(SURVIVORS_GO_ON);
            }
        }
    })?;
    let heap = segment.clone();
    thread("sysmon", move || {
        let begun = Instant::now();
        let trace = coheap::sysmon::schedtrace();
        let mut next = Duration::ZERO;
        loop {
            coheap::sysmon::tick(&heap);
            if let Some((every_ms, detail)) = trace.filter(|_| begun.elapsed() >= next) {
                let now = begun.elapsed();
                next = now + Duration::from_millis(every_ms);
                let line = coheap::sysmon::sched_line(&heap, now.as_millis() as u64, detail);
                logging::complain(line.trim_end());
            }
            std::thread::sleep(SYSMON_EVERY);
        }
    })
}

/// Writes down who paused longest around each death, whoever recovered it: from the order to kill, or else the dead's last sign of life,
/// until a moment after the repair, long enough to see the living go on. How many deaths are too young for that.
fn look_at_survivors(segment: &Segment) -> usize {
    let now = coheap::sysmon::clock_ns();
    let (old, settled) = (LIFE_PATIENCE.as_nanos() * 10, SURVIVORS_GO_ON.as_nanos());
    let mut young = 0;
    let unseen = |d: &coheap::recover::Death| {
        d.gap_ns.is_none() && u128::from(now.saturating_sub(d.began_ns)) < old
    };
    for death in segment.deaths().iter().filter(|d| unseen(d)) {
        let repaired = death.repair_ns.map(|took| death.began_ns + took);
        if repaired.is_none_or(|at| u128::from(now.saturating_sub(at)) < settled) {
            young += 1;
            continue;
        }
        let gap = segment.longest_gap(begin_of(death), now, death.p);
        segment.note_death_gap(death, gap);
    }
    young
}

/// When the living may have begun to wait for the dead.
fn begin_of(death: &coheap::recover::Death) -> u64 {
    match death.detect_ns {
        Some(detect) => death.began_ns.saturating_sub(detect),
        // The dead may have been silent for long before it died.
        None => death
            .last_sign_ns
            .max(death.began_ns.saturating_sub(SILENCE_NS)),
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), DaemonError> {
    let begun = std::thread::Builder::new().name(name.into()).spawn(body);
    begun
        .map(drop)
        .map_err(DaemonError::io(format!("cannot start the thread {name}")))
}

/// A snapshot of the counters.
pub fn status(segment: &Segment) -> coheap::Status {
    segment.status()
}

/// The heap in numbers.
pub fn numbers(status: &coheap::Status) -> HeapNumbers {
    HeapNumbers {
        live_bytes: status.heap_live,
        goal_bytes: status.heap_goal,
        committed_bytes: status.committed_bytes,
        max_bytes: status.limit_bytes,
        gc_cycles: status.gc_cycles,
        gc_phase: status.phase.into(),
        gc_percent: status.gc_percent,
        growth_refused: status.growth_refused.clone(),
    }
}

/// Everything counted since the heap was made.
pub fn totals(status: &coheap::Status) -> Totals {
    Totals {
        gc_cycles: status.gc_cycles,
        gc_cycle_ns: status.cycle_ns,
        pause_hist: status.pause_hist.clone(),
        pause_max_ns: status.pause_ns[2],
        alloc_bytes: status.alloc_bytes,
        alloc_objects: status.alloc_objects,
        freed_bytes: status.freed_bytes,
        live_bytes: status.heap_live,
        steals: status.steals,
        migrations: status.migrations,
        steps: status.steps,
        recoveries: status.deaths,
        requeued: status.requeued,
        gave_up: status.gave_up,
        checkmarks: status.checkmarks.into(),
        verifications: status.verifications.into(),
        over_goal_permille: status.over_goal_permille.into(),
    }
}

/// Unfinished tasks, for people.
pub fn task_rows(segment: &Segment) -> Vec<TaskRow> {
    let rows = segment.list_tasks(TASKS_SHOWN).into_iter();
    let row = |t: coheap::TaskStatus| TaskRow {
        id: t.task as u64,
        kind: t.kind,
        state: t.state.into(),
        p: t.p,
        attempts: t.attempts,
        steps: t.steps,
        error_code: t.error_code,
        error: t.error.chars().take(300).collect(),
        run: t.run,
    };
    rows.map(row).collect()
}

/// Adds the run's counters to its progress; whether its root task is finished.
pub fn progress(status: &coheap::Status, run: RunId, progress: &mut Progress) -> bool {
    let counter = |index: usize| status.progress.get(index).copied().unwrap_or(0);
    progress.done = counter(counter::DONE);
    progress.total = counter(counter::TOTAL);
    progress.items = counter(counter::ITEMS);
    counter(counter::FINISHED) == run.0
}

/// Asks for a collection; the number of the cycle that began after this call.
pub fn request_gc(segment: &Segment) -> u32 {
    coheap::gc::request(segment)
}

/// Whether that cycle is over.
pub fn is_collected(status: &coheap::Status, cycle: u32) -> bool {
    let over = if status.phase == "off" {
        status.cycle
    } else {
        status.cycle.wrapping_sub(1)
    };
    // Numbers wrap: later means less than half a circle ahead.
    over.wrapping_sub(cycle) < u32::MAX / 2
}

/// Tells every P to give itself back at its next safepoint.
pub fn shut_down(segment: &Segment) {
    coheap::sched::request_shutdown(segment);
}

/// Removes what of the segment has a name, if that name still leads to it.
pub fn remove(segment: &Segment, backing: &Backing) {
    let ours = rustix::fs::fstat(segment.fd())
        .map(|s| (s.st_dev, s.st_ino))
        .ok();
    let Some(path) = path_of(backing) else { return };
    let named = rustix::fs::stat(&path).map(|s| (s.st_dev, s.st_ino)).ok();
    if ours.is_some() && ours == named {
        unlink(&path);
    }
}

/// Removes the segment that a killed daemon left under a name, when none of its processes lives. A name that leads to anything else
/// by now is a stranger's, and stays.
pub fn remove_stale(state: &State) {
    let backing: Result<Backing, _> = state.backing.parse();
    let Some(path) = backing.ok().as_ref().and_then(path_of) else {
        return;
    };
    let Ok(file) = File::open(&path) else { return };
    if Segment::incarnation_of(&file) != Some(state.incarnation()) {
        let path = path.display();
        return log::warn!("ev=heap.stranger path={path} msg=\"not the segment that was left\"");
    }
    let path_shown = path.display();
    log::warn!(
        "ev=heap.stale path={path_shown} msg=\"removing the heap of a daemon that was killed with all its workers\""
    );
    unlink(&path);
}

/// Where the segment has a name.
pub fn path_of(backing: &Backing) -> Option<PathBuf> {
    match backing {
        Backing::Memfd => None,
        Backing::Shm(name) => Some(Path::new("/dev/shm").join(name)),
        Backing::File(path) => Some(path.clone()),
    }
}

fn unlink(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        log::warn!(
            "ev=heap.not_removed path={} msg={:?}",
            path.display(),
            error.to_string()
        );
    }
}

/// Whether no task runs or could.
pub fn is_idle(segment: &Segment) -> bool {
    let [runnable, running, waiting, _] = segment.status().tasks;
    runnable + running + waiting == 0
}
