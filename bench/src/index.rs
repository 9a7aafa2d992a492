//! `index`: `coheap run index` beside a plain program: two threads, one process, a hash map in shards behind mutexes. In turns, whole
//! processes, the same result hash or an error.
//!
//! The plain program is what somebody writes who needs no crash safety and no index afterwards: it keeps totals, ours keeps which
//! files too, and leaves them in the heap.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use serde_json::json;

use crate::{
    heap::{Flags, Result, children_cpu_s, median, round},
    whole::coheap,
};

/// Shards of the plain program's map.
const SHARDS: usize = 64;
const DIR: &str = "/usr/share/doc/postgresql-doc-15";

/// Word to (how often, in how many files).
type Shard = Mutex<HashMap<Vec<u8>, (u64, u64)>>;

/// FNV-1a, as `coheap run` prints it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Counts one file, then adds its counts to the shards: a lock for each different word of the file, none for the others.
fn count(path: &Path, words: &mut HashMap<Vec<u8>, u64>, shards: &[Shard]) -> io::Result<()> {
    let text = fs::read(path)?;
    for word in text.split(|b| !b.is_ascii_alphabetic()) {
        if word.is_empty() {
            continue;
        }
        let word = word.to_ascii_lowercase();
        *words.entry(word).or_default() += 1;
    }
    for (word, n) in words.drain() {
        let shard = &shards[fnv1a(&word) as usize % SHARDS];
        let mut shard = shard.lock().map_err(|_| io::ErrorKind::Other)?;
        let entry = shard.entry(word).or_default();
        entry.0 += n;
        entry.1 += 1;
    }
    Ok(())
}

/// The plain program. Flags: `--dir`, `--threads`, `--out`.
pub fn plain(flags: &Flags) -> Result<()> {
    let dir = flags.text("--dir").unwrap_or(DIR);
    let threads = flags.number("--threads", 2);
    let started = Instant::now();
    let mut paths = Vec::new();
    files(Path::new(dir), &mut paths)?;
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::default()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            let mut words = HashMap::new();
            while let Some(path) = paths.get(next.fetch_add(1, Relaxed)) {
                count(path, &mut words, &shards)?;
            }
            Ok::<_, io::Error>(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|t| {
                t.join()
                    .map_err(|_| "a thread panicked")?
                    .map_err(Into::into)
            })
            .map_err(|e: Box<dyn std::error::Error>| e)
    })?;
    let mut lines: Vec<(Vec<u8>, (u64, u64))> = Vec::new();
    for shard in shards {
        lines.extend(shard.into_inner().map_err(|_| "a thread panicked")?);
    }
    lines.sort_unstable();
    let mut text = Vec::new();
    for (word, (total, files)) in &lines {
        text.extend_from_slice(word);
        text.extend_from_slice(format!("\t{total}\t{files}\n").as_bytes());
    }
    if let Some(out) = flags.text("--out") {
        fs::write(out, &text)?;
    }
    println!(
        "{}",
        json!({
            "bench": "index-plain", "threads": threads, "files": paths.len(), "distinct": lines.len(),
            "hash": format!("{:016x}", fnv1a(&text)), "wall_s": started.elapsed().as_secs_f64(),
        })
    );
    Ok(())
}

/// One of the programs: its command, and the seconds it took.
struct Contender {
    command: Vec<String>,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Contender {
    fn new(program: &Path, args: &[&str]) -> Contender {
        let program = program.to_string_lossy().into_owned();
        let args = args.iter().map(|a| (*a).to_string());
        Contender {
            command: std::iter::once(program).chain(args).collect(),
            wall: Vec::new(),
            cpu: Vec::new(),
        }
    }

    /// Runs it; the result's hash.
    fn turn(&mut self) -> Result<String> {
        let (started, cpu) = (Instant::now(), children_cpu_s()?);
        let output = Command::new(&self.command[0])
            .args(&self.command[1..])
            .output()?;
        self.wall.push(started.elapsed().as_secs_f64());
        self.cpu.push(children_cpu_s()? - cpu);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let is_hash = |w: &&str| w.len() == 16 && w.bytes().all(|b| b.is_ascii_hexdigit());
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .find(is_hash)
            .map(str::to_string)
            .ok_or_else(|| format!("{:?} prints no hash: {text}", self.command).into())
    }
}

/// Flags: `--dir`, `--runs`.
pub fn run(flags: &Flags) -> Result<()> {
    let dir = flags.text("--dir").unwrap_or(DIR);
    let (coheap, me) = (coheap()?, std::env::current_exe()?);
    let ours = |n| Contender::new(&coheap, &["run", "index", dir, "-n", n]);
    let plain = ["index-plain", "--dir", dir, "--threads", "2"];
    let mut all = [ours("1"), ours("2"), Contender::new(&me, &plain)];
    for _ in 0..flags.number("--runs", 11) {
        let hashes = all.iter_mut().map(Contender::turn);
        let hashes = hashes.collect::<Result<Vec<_>>>()?;
        if hashes.iter().any(|h| *h != hashes[0]) {
            return Err(format!("the results differ: {hashes:?}").into());
        }
    }
    let [one, two, plain] = all.map(|c| (median(c.wall), median(c.cpu)));
    println!(
        "{}",
        json!({
            "bench": "index", "dir": dir,
            "one_worker_ms": round(one.0 * 1e3), "two_workers_ms": round(two.0 * 1e3), "plain_two_threads_ms": round(plain.0 * 1e3),
            "one_worker_cpu_ms": round(one.1 * 1e3), "two_workers_cpu_ms": round(two.1 * 1e3), "plain_cpu_ms": round(plain.1 * 1e3),
            "two_workers_to_plain": round(two.0 / plain.0), "one_to_two_workers": round(one.0 / two.0),
        })
    );
    Ok(())
}
