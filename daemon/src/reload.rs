//! `coheap reload`: the configuration is read again, and what can change while the heap lives does.
//!
//! Flags and environment are those the daemon was started with, so they still win over the file. A file that makes no sense changes
//! nothing.

use crate::{config::Config, error::DaemonError, server::Daemon};
use coheap::gc::gc_controller;

impl Daemon {
    /// Reads the configuration again; what changed, in words, and what will only after a restart.
    pub(crate) fn reload(&mut self) -> Result<String, DaemonError> {
        let fresh = Config::resolve(&self.args, &|name| std::env::var_os(name))?;
        let mut said = String::new();
        let mut tell = |what: &str, old: String, new: String, now: bool| {
            if old != new {
                let when = if now { "" } else { " (after a restart)" };
                said += &format!("{what}: {old} -> {new}{when}\n");
            }
            old != new && now
        };
        let old = &self.config;
        let text = |d: std::time::Duration| coheap_protocol::human::show_duration(d);
        let gc = tell(
            "heap.gc_percent",
            old.gc_percent.value.to_string(),
            fresh.gc_percent.value.to_string(),
            true,
        );
        let soft = tell(
            "heap.soft",
            old.soft_bytes.value.to_string(),
            fresh.soft_bytes.value.to_string(),
            true,
        );
        let workers = tell(
            "workers.count",
            old.workers.value.to_string(),
            fresh.workers.value.to_string(),
            true,
        );
        let deaths = tell(
            "tasks.redeliver_max",
            old.redeliver_max.value.to_string(),
            fresh.redeliver_max.value.to_string(),
            true,
        );
        let level = tell(
            "log.level",
            old.log_level.value.to_string(),
            fresh.log_level.value.to_string(),
            true,
        );
        tell(
            "workers.stop_timeout",
            text(old.stop_timeout.value),
            text(fresh.stop_timeout.value),
            true,
        );
        tell(
            "workers.suspect_timeout",
            text(old.suspect_timeout.value),
            text(fresh.suspect_timeout.value),
            true,
        );
        tell(
            "heap.max",
            old.max_bytes.value.to_string(),
            fresh.max_bytes.value.to_string(),
            false,
        );
        tell(
            "heap.backing",
            old.backing.value.to_string(),
            fresh.backing.value.to_string(),
            false,
        );
        tell(
            "log.format",
            format!("{:?}", old.log_format.value),
            format!("{:?}", fresh.log_format.value),
            false,
        );
        if gc {
            gc_controller::set_gc_percent(&self.segment, fresh.gc_percent.value);
        }
        if soft {
            gc_controller::set_soft_limit(&self.segment, fresh.soft_bytes.value);
        }
        if deaths && self.run.is_none() {
            self.segment.set_redeliver_max(fresh.redeliver_max.value);
        }
        if level {
            log::set_max_level(fresh.log_level.value);
        }
        let count = fresh.workers.value;
        // What needs a restart stays as it is, or `coheap config show` would tell what is not so.
        self.config = Config {
            name: self.config.name.clone(),
            max_bytes: self.config.max_bytes.clone(),
            backing: self.config.backing.clone(),
            log_format: self.config.log_format.clone(),
            ..fresh
        };
        if workers {
            self.resize(count);
        }
        log::info!("ev=daemon.reloaded changes={}", said.lines().count());
        Ok(if said.is_empty() {
            "nothing changed\n".into()
        } else {
            said
        })
    }
}
