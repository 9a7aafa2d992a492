//! What a finished run says: one flat JSON object for programs, one or two lines for people.
//!
//! The workload's own result (what it counted, its hash, its problems) comes from the heap by way of a worker; the numbers of
//! collector and scheduler are the segment's, so they cover the dead as well as the living.

use coheap_protocol::{
    Totals,
    human::{show_bytes, show_duration},
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Everything known about a run that ended.
pub struct Report<'a> {
    /// The workload's name.
    pub workload: &'a str,
    /// Whether it calls its own result right.
    pub ok: bool,
    /// Its result, as the worker wrote it.
    pub result: &'a Map<String, Value>,
    /// What the heap did meanwhile.
    pub totals: &'a Totals,
    /// Workers wanted.
    pub workers: u64,
    /// Where the memory came from.
    pub backing: &'a str,
    /// Seed of everything random.
    pub seed: u64,
    /// From the order to the result.
    pub elapsed: Duration,
    /// Processes that died.
    pub deaths: u64,
    /// Daemons that died.
    pub daemon_restarts: u32,
    /// Deaths of one step that would have given its task up.
    pub redeliver_max: u32,
    /// Who waited longest for one of the dead, in a storm of kills.
    pub waited: Option<Waited>,
}

/// One of the living waited for one of the dead.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// Its P.
    pub p: u16,
    /// How long.
    pub time: Duration,
    /// The dead one's P.
    pub dead: u16,
}

/// Fields of a result that other workloads than `index` leave at 0.
const COUNTS: [&str; 4] = ["files", "words", "distinct", "unreadable"];

impl Report<'_> {
    /// For programs.
    pub fn json(&self) -> Value {
        let t = self.totals;
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| all.insert(key.into(), value);
        put("workload", self.workload.into());
        put("ok", self.ok.into());
        for (key, value) in self.result {
            let counts = COUNTS.contains(&key.as_str());
            let said = match key.as_str() {
                "ok" => continue,
                "checks" if self.workload == "index" => continue,
                "result_hash" => json!(hash(value)),
                _ if counts && self.workload != "index" => continue,
                _ => value.clone(),
            };
            put(key, said);
        }
        put("elapsed_s", json!(self.elapsed.as_secs_f64()));
        put("workers", self.workers.into());
        put("backing", self.backing.into());
        put("seed", self.seed.into());
        put("deaths", self.deaths.into());
        put("daemon_restarts", self.daemon_restarts.into());
        put("redeliver_max", self.redeliver_max.into());
        let waited = self
            .waited
            .map(|w| json!({ "p": w.p, "us": w.time.as_micros() as u64, "dead_p": w.dead }));
        put("survivor_gap", waited.into());
        put("recoveries", t.recoveries.into());
        put("requeued", t.requeued.into());
        put("gave_up", t.gave_up.into());
        put("steps", t.steps.into());
        put("steals", t.steals.into());
        put("gc_cycles", t.gc_cycles.into());
        put("gc_checkmarks", t.checkmarks.into());
        put("gc_verifications", t.verifications.into());
        put("gc_over_goal_permille", t.over_goal_permille.into());
        put(
            "gc_pause_ns",
            json!({ "p50": t.pause_ns(0.5), "p99": t.pause_ns(0.99), "max": t.pause_max_ns }),
        );
        put("mark_worker_migrations", t.migrations.into());
        put("alloc_bytes", t.alloc_bytes.into());
        put("alloc_objects", t.alloc_objects.into());
        put("freed_bytes", t.freed_bytes.into());
        put("live_bytes", t.live_bytes.into());
        Value::Object(all)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.workload != "index" {
            text += self
                .result
                .get("checks")
                .and_then(Value::as_str)
                .unwrap_or_default();
        }
        for problem in self
            .result
            .get("problems")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            text += &format!("not read: {}\n", problem.as_str().unwrap_or_default());
        }
        let verdict = if self.ok { "done" } else { "WRONG" };
        let t = self.totals;
        let counts: String = COUNTS
            .iter()
            .filter(|_| self.workload == "index")
            .filter_map(|&key| Some((key, self.result.get(key)?.as_u64()?)))
            .filter(|&(key, n)| n > 0 || key != "unreadable")
            .map(|(key, n)| format!(" {n} {key},"))
            .collect();
        let hash = self.result.get("result_hash").map_or(String::new(), hash);
        text += &format!(
            "{verdict}: {}:{counts} {} workers, hash {hash}, {}\n",
            self.workload,
            self.workers,
            show_duration(self.elapsed)
        );
        text += &format!(
            "      {} allocated, {} live, {} collections, pause p99 {} max {}, {} steals, {} mark worker migrations\n",
            show_bytes(t.alloc_bytes),
            show_bytes(t.live_bytes),
            t.gc_cycles,
            ns(t.pause_ns(0.99)),
            ns(t.pause_max_ns),
            t.steals,
            t.migrations
        );
        if self.deaths > 0 || self.daemon_restarts > 0 {
            let limit = match self.redeliver_max {
                0 => "never".into(),
                n => format!("after {n} deaths of one step"),
            };
            text += &format!(
                "      survived {} deaths of workers and {} of the daemon; {} tasks run again (given up {limit}); seed {}\n",
                self.deaths, self.daemon_restarts, t.requeued, self.seed
            );
        }
        if let Some(w) = self.waited {
            text += &format!(
                "      longest wait of a survivor: P{} {}, when P{} died (of the last 63 deaths)\n",
                w.p,
                show_duration(w.time),
                w.dead
            );
        }
        text
    }
}

fn ns(ns: u64) -> String {
    show_duration(Duration::from_nanos(ns))
}

/// A hash as everybody writes one.
fn hash(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| value.to_string(), |n| format!("{n:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(workload: &str, see: impl FnOnce(&Report<'_>) -> T) -> T {
        let result = json!({
            "ok": true, "files": 3, "words": 0, "distinct": 0, "unreadable": 1,
            "problems": ["x: gone"], "checks": "a\n", "result_hash": u64::MAX,
        });
        let Value::Object(result) = result else {
            panic!("an object")
        };
        let totals = Totals {
            gc_cycles: 2,
            ..Totals::default()
        };
        see(&Report {
            workload,
            ok: true,
            result: &result,
            totals: &totals,
            workers: 4,
            backing: "memfd",
            seed: 7,
            elapsed: Duration::from_millis(1500),
            deaths: 0,
            daemon_restarts: 0,
            redeliver_max: 3,
            waited: Some(Waited {
                p: 2,
                time: Duration::from_micros(1500),
                dead: 1,
            }),
        })
    }

    #[test]
    fn an_index_has_its_counts_at_the_top_and_its_hash_in_hex() {
        let json = with("index", |r| r.json());
        assert_eq!(
            (&json["files"], &json["unreadable"]),
            (&3.into(), &1.into())
        );
        assert_eq!(json["result_hash"], "ffffffffffffffff");
        assert_eq!(json["gc_pause_ns"]["p99"], 0);
        assert!(json.get("checks").is_none() && json.get("result").is_none());
    }

    #[test]
    fn trees_have_checks_instead() {
        let json = with("trees", |r| r.json());
        assert_eq!(json["checks"], "a\n");
        assert!(json.get("files").is_none());
    }

    #[test]
    fn people_read_what_matters() {
        let text = with("index", |r| r.text());
        assert!(text.starts_with("not read: x: gone\ndone: index: 3 files, 0 words, 0 distinct, 1 unreadable, 4 workers"), "{text}");
        assert!(!text.contains("survived"), "{text}");
    }
}
