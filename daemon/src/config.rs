//! What the daemon was told, by whom. A flag beats the environment, which beats the file, which beats the default.

use crate::{args::Args, error::DaemonError};
use coheap::{control::Name, segment::Backing};
use coheap_protocol::human;
use serde::Deserialize;
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Env(&'static str),
    /// A configuration file.
    File(PathBuf),
    /// Nobody.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value and who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub origin: Origin,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `ts=... lvl=... ev=...`.
    Logfmt,
    /// `<4>ev=...`, the time is journald's business.
    Journald,
}

/// Everything the daemon was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the heap.
    pub name: Setting<Name>,
    /// Hard limit, bytes.
    pub max_bytes: Setting<u64>,
    /// Soft limit, bytes; 0 for none.
    pub soft_bytes: Setting<u64>,
    /// GOGC; -1 for off.
    pub gc_percent: Setting<i32>,
    /// Where the memory comes from.
    pub backing: Setting<Backing>,
    /// Workers to keep.
    pub workers: Setting<u16>,
    /// Deaths of one step after which its task is given up; 0 never.
    pub redeliver_max: Setting<u32>,
    /// Least important level that is logged.
    pub log_level: Setting<log::LevelFilter>,
    /// Shape of log lines.
    pub log_format: Setting<LogFormat>,
    /// The worker program; `None` means look for it.
    pub worker_bin: Setting<Option<PathBuf>>,
    /// Patience with workers that should leave.
    pub stop_timeout: Setting<Duration>,
    /// Patience with workers that somebody stopped or froze; zero: without end.
    pub suspect_timeout: Setting<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    name: Option<String>,
    heap: HeapTable,
    workers: WorkersTable,
    tasks: TasksTable,
    log: LogTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeapTable {
    max: Option<String>,
    soft: Option<String>,
    gc_percent: Option<toml::Value>,
    backing: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WorkersTable {
    count: Option<u16>,
    program: Option<PathBuf>,
    stop_timeout: Option<String>,
    suspect_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TasksTable {
    redeliver_max: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogTable {
    level: Option<String>,
    format: Option<String>,
}

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Picks the strongest source that said something.
struct Sources<'a> {
    env: Env<'a>,
    file: Option<PathBuf>,
}

impl Sources<'_> {
    fn pick(
        &self,
        flag: (&'static str, Option<String>),
        env: Option<&'static str>,
        file: Option<String>,
        default: &str,
    ) -> Setting<String> {
        let from_env =
            env.and_then(|name| Some((name, (self.env)(name)?.to_string_lossy().into_owned())));
        let (value, origin) = match (flag.1, from_env, file) {
            (Some(value), ..) => (value, Origin::Flag(flag.0)),
            (None, Some((name, value)), _) => (value, Origin::Env(name)),
            (None, None, Some(value)) => {
                (value, Origin::File(self.file.clone().unwrap_or_default()))
            }
            (None, None, None) => (default.into(), Origin::Default),
        };
        Setting { value, origin }
    }
}

impl Setting<String> {
    fn read<T, E: fmt::Display>(
        self,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Setting<T>, DaemonError> {
        match read(&self.value) {
            Ok(value) => Ok(Setting {
                value,
                origin: self.origin,
            }),
            Err(e) => Err(DaemonError::BadSetting {
                origin: self.origin.to_string(),
                why: e.to_string(),
            }),
        }
    }
}

impl Config {
    /// Works out what was asked for, or says which source asked for nonsense.
    pub fn resolve(args: &Args, env: Env<'_>) -> Result<Config, DaemonError> {
        let early = Sources { env, file: None };
        let name = early.pick(
            ("--name", args.name.clone()),
            Some("COHEAP_NAME"),
            None,
            "default",
        );
        let path = file_path(args, env, &name.value);
        let file = match &path {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        let from = Sources { env, file: path };
        let name = from.pick(
            ("--name", args.name.clone()),
            Some("COHEAP_NAME"),
            file.name,
            "default",
        );
        let name: Setting<Name> = name.read(str::parse)?;
        let heap = file.heap;
        let gc_percent = heap
            .gc_percent
            .map(|v| v.as_str().map_or(v.to_string(), str::to_owned));
        let workers = file.workers;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let config = Config {
            max_bytes: from
                .pick(
                    ("--max", args.max.clone()),
                    Some("COHEAP_MEM_LIMIT"),
                    heap.max,
                    "4GiB",
                )
                .read(human::bytes)?,
            soft_bytes: from
                .pick(("--soft", args.soft.clone()), None, heap.soft, "0")
                .read(human::bytes)?,
            gc_percent: from
                .pick(
                    ("--gc-percent", args.gc_percent.clone()),
                    Some("COHEAP_GC_PERCENT"),
                    gc_percent,
                    "100",
                )
                .read(read_percent)?,
            backing: from
                .pick(
                    ("--backing", args.backing.clone()),
                    None,
                    heap.backing,
                    "memfd",
                )
                .read(|text| read_backing(text, &name.value))?,
            workers: from
                .pick(
                    ("--workers", args.workers.map(|n| n.to_string())),
                    None,
                    workers.count.map(|n| n.to_string()),
                    "0",
                )
                .read(read_count)?,
            redeliver_max: from
                .pick(
                    ("--redeliver-max", args.redeliver_max.map(|n| n.to_string())),
                    None,
                    file.tasks.redeliver_max.map(|n| n.to_string()),
                    "3",
                )
                .read(str::parse)?,
            log_level: from
                .pick(
                    ("--log-level", args.log_level.clone()),
                    Some("COHEAP_LOG"),
                    file.log.level,
                    "info",
                )
                .read(str::parse)?,
            log_format: from
                .pick(
                    ("--log-format", args.log_format.clone()),
                    None,
                    file.log.format,
                    "auto",
                )
                .read(|text| read_format(text, env))?,
            worker_bin: from
                .pick(
                    ("--worker-bin", args.worker_bin.as_deref().map(text)),
                    Some("COHEAP_WORKER_BIN"),
                    workers.program.as_deref().map(text),
                    "",
                )
                .read(|text| Ok::<_, &str>((!text.is_empty()).then(|| PathBuf::from(text))))?,
            stop_timeout: from
                .pick(
                    ("--stop-timeout", args.stop_timeout.clone()),
                    None,
                    workers.stop_timeout,
                    "2s",
                )
                .read(human::duration)?,
            suspect_timeout: from
                .pick(
                    ("--suspect-timeout", args.suspect_timeout.clone()),
                    None,
                    workers.suspect_timeout,
                    "0s",
                )
                .read(human::duration)?,
            name,
        };
        if config.soft_bytes.value > config.max_bytes.value {
            let why = format!(
                "the soft limit {} is above the hard limit",
                human::show_bytes(config.soft_bytes.value)
            );
            return Err(DaemonError::BadSetting {
                origin: config.soft_bytes.origin.to_string(),
                why,
            });
        }
        Ok(config)
    }

    /// The configuration as a file that would say the same; with `origins`, who said it.
    pub fn to_toml(&self, origins: bool) -> String {
        let percent = if self.gc_percent.value < 0 {
            "off".into()
        } else {
            self.gc_percent.value.to_string()
        };
        let program = self
            .worker_bin
            .value
            .as_deref()
            .unwrap_or(Path::new(""))
            .display()
            .to_string();
        let format = if self.log_format.value == LogFormat::Journald {
            "journald"
        } else {
            "logfmt"
        };
        let size = human::show_bytes;
        let rows: [(&str, &str, String, &str, &Origin); 12] = [
            (
                "",
                "name",
                quoted(self.name.value.as_str()),
                "",
                &self.name.origin,
            ),
            (
                "heap",
                "max",
                quoted(&size(self.max_bytes.value)),
                "hard limit; memory is reserved before use",
                &self.max_bytes.origin,
            ),
            (
                "heap",
                "soft",
                quoted(&size(self.soft_bytes.value)),
                "0B: none",
                &self.soft_bytes.origin,
            ),
            (
                "heap",
                "gc_percent",
                quoted(&percent),
                "growth before the next collection",
                &self.gc_percent.origin,
            ),
            (
                "heap",
                "backing",
                quoted(&self.backing.value.to_string()),
                "memfd, shm:NAME or file:PATH",
                &self.backing.origin,
            ),
            (
                "workers",
                "count",
                self.workers.value.to_string(),
                "kept running",
                &self.workers.origin,
            ),
            (
                "workers",
                "program",
                quoted(&program),
                "empty: coheap-worker beside coheapd, or in PATH",
                &self.worker_bin.origin,
            ),
            (
                "workers",
                "stop_timeout",
                quoted(&human::show_duration(self.stop_timeout.value)),
                "",
                &self.stop_timeout.origin,
            ),
            (
                "workers",
                "suspect_timeout",
                quoted(&human::show_duration(self.suspect_timeout.value)),
                "stopped by others for so long: killed; 0s: never",
                &self.suspect_timeout.origin,
            ),
            (
                "tasks",
                "redeliver_max",
                self.redeliver_max.value.to_string(),
                "deaths of one step that give its task up; 0: never",
                &self.redeliver_max.origin,
            ),
            (
                "log",
                "level",
                quoted(&self.log_level.value.to_string().to_lowercase()),
                "",
                &self.log_level.origin,
            ),
            (
                "log",
                "format",
                quoted(format),
                "auto, logfmt or journald",
                &self.log_format.origin,
            ),
        ];
        let mut out = String::new();
        let mut table = "";
        for (its_table, key, value, comment, origin) in rows {
            if its_table != table {
                out += &format!("\n[{its_table}]\n");
                table = its_table;
            }
            let note = if origins {
                origin.to_string()
            } else {
                comment.into()
            };
            let line = format!("{key} = {value}");
            out += &if note.is_empty() {
                format!("{line}\n")
            } else {
                format!("{line:<32} # {note}\n")
            };
        }
        out
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

/// The file to read: one that was named must exist, the usual one may.
fn file_path(args: &Args, env: Env<'_>, name: &str) -> Option<PathBuf> {
    if let Some(path) = args
        .config
        .clone()
        .or_else(|| env("COHEAP_CONFIG").map(PathBuf::from))
    {
        return Some(path);
    }
    let home = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".config")));
    let system = nix::unistd::geteuid()
        .is_root()
        .then(|| PathBuf::from("/etc"));
    let file = format!("coheap/{name}.toml");
    home.into_iter()
        .chain(system)
        .map(|dir| dir.join(&file))
        .find(|path| path.is_file())
}

fn read_file(path: &Path) -> Result<File, DaemonError> {
    let bad = |why: String| DaemonError::BadFile {
        path: path.into(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    toml::from_str(&text).map_err(|e| bad(e.to_string().trim().replace('\n', " ")))
}

fn read_percent(text: &str) -> Result<i32, String> {
    match text {
        "off" | "-1" => Ok(-1),
        _ => text
            .parse::<u16>()
            .map(i32::from)
            .map_err(|_| format!("`{text}` is no percentage; write 100 or off")),
    }
}

fn read_count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n) if n <= 256 => Ok(n),
        _ => Err(format!(
            "`{text}` workers are not possible; a heap has 256 P's"
        )),
    }
}

fn read_backing(text: &str, name: &Name) -> Result<Backing, String> {
    let text = if text == "shm" {
        format!("shm:coheap-{}-{name}", nix::unistd::geteuid())
    } else {
        text.into()
    };
    text.parse().map_err(|e| format!("{e}"))
}

fn read_format(text: &str, env: Env<'_>) -> Result<LogFormat, String> {
    match text {
        "auto" if env("JOURNAL_STREAM").is_some() => Ok(LogFormat::Journald),
        "auto" | "logfmt" => Ok(LogFormat::Logfmt),
        "journald" => Ok(LogFormat::Journald),
        _ => Err(format!(
            "`{text}` is no log format; write auto, logfmt or journald"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: Args, env: &[(&str, &str)]) -> Result<Config, DaemonError> {
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        Config::resolve(&args, &move |name| {
            env.iter().find(|(k, _)| k == name).map(|(_, v)| v.into())
        })
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), text).expect("write");
        file
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = file("[heap]\nmax = \"1GiB\"\ngc_percent = 50\n[workers]\ncount = 7\n");
        let args = Args {
            config: Some(file.path().into()),
            max: Some("3GiB".into()),
            ..Args::default()
        };
        let config = resolve(
            args,
            &[("COHEAP_MEM_LIMIT", "2GiB"), ("COHEAP_GC_PERCENT", "off")],
        )
        .expect("resolves");
        assert_eq!(
            (config.max_bytes.value, config.max_bytes.origin),
            (3 << 30, Origin::Flag("--max"))
        );
        assert_eq!(
            (config.gc_percent.value, config.gc_percent.origin),
            (-1, Origin::Env("COHEAP_GC_PERCENT"))
        );
        assert_eq!(
            (config.workers.value, config.workers.origin),
            (7, Origin::File(file.path().into()))
        );
        assert_eq!(
            (config.name.value.as_str(), config.name.origin),
            ("default", Origin::Default)
        );
    }

    #[test]
    fn what_is_printed_can_be_the_file() {
        let printed = resolve(
            Args {
                name: Some("demo".into()),
                ..Args::default()
            },
            &[],
        )
        .expect("resolves")
        .to_toml(false);
        let file = file(&printed);
        let again = resolve(
            Args {
                config: Some(file.path().into()),
                ..Args::default()
            },
            &[],
        )
        .expect("resolves");
        assert_eq!(again.to_toml(false), printed);
    }

    #[test]
    fn nonsense_is_refused_with_its_origin() {
        let args = Args {
            max: Some("lots".into()),
            ..Args::default()
        };
        assert_eq!(resolve(args, &[]).expect_err("nonsense").exit_code(), 2);
        let error = resolve(Args::default(), &[("COHEAP_LOG", "loud")]).expect_err("nonsense");
        assert!(error.to_string().contains("COHEAP_LOG"), "{error}");
        let file = file("[heap]\nmaximum = 1\n");
        let args = Args {
            config: Some(file.path().into()),
            ..Args::default()
        };
        assert!(
            resolve(args, &[])
                .expect_err("unknown key")
                .to_string()
                .contains("maximum")
        );
        let args = Args {
            max: Some("1MiB".into()),
            soft: Some("2MiB".into()),
            ..Args::default()
        };
        assert!(resolve(args, &[]).is_err());
    }
}
