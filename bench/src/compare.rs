//! `compare`: ours and every peer that is installed, pair by pair, and a Markdown table.
//!
//! A pair runs in turns, `--runs` times, so that what disturbs the machine disturbs both; the table shows medians and their ratio. Peers are the
//! programs that `reference/baselines/build.sh` builds; they are looked for in `$BIN`, else `~/peers/bin`, Java's classes in `java` there. A peer that our own
//! program brings along prints its figure beside ours, in the same line.
//!
//! 1. Pairs with the same arguments of ours are a *group*; in one turn of a group each program runs once, however many lines need it. 2. After each turn the
//! figures go to `--out` with `.json` behind it, and the table to `--out`. 3. The next call with that file goes on with the turns that are missing, so a
//! run may be cut into pieces (`--seconds`), or begun again where it was killed.

mod pairs;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::heap::{Flags, Result, children_cpu_s, median};
use pairs::{PAIRS, Pair, Peer};

/// What was measured: line of the table, then who (ours is ""), then turn by turn.
type Figures = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

fn peers_dir() -> PathBuf {
    std::env::var_os("BIN").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("peers/bin"),
        PathBuf::from,
    )
}

/// The peer's command, if it is installed.
fn command(program: &str) -> Option<Command> {
    let path = peers_dir().join(program);
    if program != "java" {
        return path.exists().then(|| Command::new(path));
    }
    path.exists().then(|| {
        let mut command = Command::new(program);
        command.env("CLASSPATH", path);
        command
    })
}

fn ours(args: &[&str]) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?).args(args).output()?;
    serde_json::from_slice(&output.stdout).map_err(|e| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("{}: {e}: {stderr}", args.join(" ")).into()
    })
}

fn figure_of(line: &Value, figure: &str) -> Result<f64> {
    line[figure]
        .as_f64()
        .ok_or_else(|| format!("no {figure} in {line}").into())
}

/// What a peer printed, and what it took.
#[derive(Clone)]
struct Ran {
    text: String,
    wall: f64,
    cpu: f64,
}

fn run_peer(peer: &Peer) -> Result<Ran> {
    let mut command = command(peer.program).ok_or("not installed")?;
    let (started, before) = (Instant::now(), children_cpu_s()?);
    let output = command
        .args(peer.args)
        .envs(peer.env.iter().copied())
        .output()?;
    Ok(Ran {
        wall: started.elapsed().as_secs_f64(),
        cpu: children_cpu_s()? - before,
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}

/// A peer's figure; the median of those it printed.
fn theirs(peer: &Peer, ran: &Ran) -> Result<f64> {
    match peer.figure {
        "wall" => return Ok(ran.wall),
        "cpu" => return Ok(ran.cpu),
        _ => {}
    }
    let values: Vec<f64> = ran
        .text
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

fn installed(peer: &Peer) -> bool {
    peer.program.is_empty() || command(peer.program).is_some()
}

/// One turn of a group: ours, then each peer that some line of it needs.
fn turn(group: &[&Pair], number: usize, figures: &mut Figures) -> Result<()> {
    let line = ours(group[0].ours.0)?;
    let mut ran: HashMap<String, Ran> = HashMap::new();
    let mut new = Vec::new();
    for pair in group {
        new.push((pair.what, "", figure_of(&line, pair.ours.1)?));
        for peer in pair.peers.iter().filter(|p| installed(p)) {
            if peer.once && number > 0 {
                continue;
            }
            let value = if peer.program.is_empty() {
                figure_of(&line, peer.figure)?
            } else {
                let key = format!("{} {:?} {:?}", peer.program, peer.args, peer.env);
                if !ran.contains_key(&key) {
                    ran.insert(key.clone(), run_peer(peer)?);
                }
                theirs(peer, &ran[&key])?
            };
            new.push((pair.what, peer.name, value));
        }
    }
    // All of a turn or nothing: a line's turns are counted by ours.
    for (what, who, value) in new {
        let of_line = figures.entry(what.into()).or_default();
        of_line.entry(who.into()).or_default().push(value);
    }
    Ok(())
}

fn turns_of(group: &[&Pair], figures: &Figures) -> usize {
    let of_line = |pair: &&Pair| figures.get(pair.what).and_then(|f| f.get(""));
    group
        .iter()
        .map(|p| of_line(p).map_or(0, Vec::len))
        .min()
        .unwrap_or(0)
}

fn table(figures: &Figures) -> String {
    let mut table = String::from(
        "| work | unit | coheap | peer | | ours / peer |\n|---|---|---|---|---|---|\n",
    );
    let lines = PAIRS.iter().filter_map(|p| Some((p, figures.get(p.what)?)));
    for (pair, of_line) in lines {
        let Some(mine) = of_line.get("").cloned().map(median) else {
            continue;
        };
        let head = format!("| {} | {} | {mine:.2} |", pair.what, pair.unit);
        let before = table.len();
        for peer in pair.peers {
            if let Some(other) = of_line.get(peer.name).cloned().map(median) {
                let ratio = mine / other;
                table.push_str(&format!(
                    "{head} {} | {other:.2} | {ratio:.2} |\n",
                    peer.name
                ));
            }
        }
        if table.len() == before {
            table.push_str(&format!("{head} – | | |\n"));
        }
    }
    table
}

fn kept(path: &Path) -> Figures {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|t| serde_json::from_str(&t).ok())
        .unwrap_or_default()
}

/// The pairs whose names contain `only`, by what runs them.
fn groups(only: &str) -> Vec<Vec<&'static Pair>> {
    let mut groups: Vec<Vec<&Pair>> = Vec::new();
    for pair in PAIRS.iter().filter(|p| p.what.contains(only)) {
        match groups.iter_mut().find(|g| g[0].ours.0 == pair.ours.0) {
            Some(group) => group.push(pair),
            None => groups.push(vec![pair]),
        }
    }
    groups
}

/// Flags: `--runs` of each pair; `--only` a part of the lines' names; `--out` a file for the table, beside which the figures are kept;
/// `--seconds` after which no turn begins: the next call goes on. It says on the standard error what is left.
pub fn run(flags: &Flags) -> Result<()> {
    let runs = flags.number("--runs", 5) as usize;
    let out = flags.text("--out").map(PathBuf::from);
    let state = out.as_ref().map(|o| o.with_added_extension("json"));
    let until = Instant::now() + Duration::from_secs(flags.number("--seconds", 86400));
    let mut figures = state.as_deref().map(kept).unwrap_or_default();
    for group in groups(flags.text("--only").unwrap_or("")) {
        for number in turns_of(&group, &figures)..runs {
            if Instant::now() >= until {
                eprintln!("more to do: {}, turn {number}", group[0].what);
                return Ok(());
            }
            turn(&group, number, &mut figures)?;
            if let (Some(out), Some(state)) = (&out, &state) {
                std::fs::write(state, serde_json::to_string_pretty(&figures)?)?;
                std::fs::write(out, table(&figures))?;
            }
        }
    }
    if out.is_none() {
        print!("{}", table(&figures));
    }
    eprintln!("all done");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_share_a_program_stand_together_and_have_names_of_their_own() {
        let all = groups("");
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), PAIRS.len());
        let names: std::collections::HashSet<_> = PAIRS.iter().map(|p| p.what).collect();
        assert_eq!(names.len(), PAIRS.len());
        assert_eq!(groups("trees 21").len(), 2, "paced, and with memory");
    }

    #[test]
    fn a_table_has_medians_and_goes_on_where_it_stopped() {
        let pair = &PAIRS[2];
        let mut figures = Figures::new();
        assert_eq!(turns_of(&[pair], &figures), 0);
        let of_line = figures.entry(pair.what.into()).or_default();
        of_line.insert("".into(), vec![3.0, 1.0, 2.0]);
        of_line.insert(pair.peers[0].name.into(), vec![4.0, 8.0, 4.0]);
        assert_eq!(turns_of(&[pair], &figures), 3);
        let line = format!("| 2.00 | {} | 4.00 | 0.50 |", pair.peers[0].name);
        assert!(table(&figures).contains(&line), "{}", table(&figures));
    }
}
