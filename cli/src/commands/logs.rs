//! `coheap logs` and `coheap events`: the daemon's log file, as it is or event by event.

use crate::{args::Global, connect, failure::Failure, show};
use coheap_protocol::codes;
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    time::Duration,
};

/// How much of an old log is shown before what is new.
const TAIL_BYTES: u64 = 256 << 10;

/// Shows the log; with `follow`, also what comes, until the daemon has ended.
pub fn logs(global: &Global, follow: bool) -> Result<u8, Failure> {
    each_line(global, follow, |line| show::print(&format!("{line}\n")))
}

/// Shows events: lines that have an `ev=`, as they are or as JSON. `kind`: only those that begin with one of these, between commas.
pub fn events(global: &Global, follow: bool, kind: Option<&str>) -> Result<u8, Failure> {
    each_line(global, follow, |line| {
        let fields = fields(line);
        let Some(ev) = fields.get("ev").and_then(Value::as_str) else {
            return;
        };
        if !kind.is_none_or(|kinds| kinds.split(',').any(|kind| ev.starts_with(kind))) {
            return;
        }
        if global.json {
            show::json(&fields);
        } else {
            show::print(&format!("{line}\n"));
        }
    })
}

fn each_line(global: &Global, follow: bool, mut see: impl FnMut(&str)) -> Result<u8, Failure> {
    let dir = connect::dir(global)?;
    let path = dir.log_file();
    let mut file = File::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            codes::NOT_RUNNING,
            "E031",
            format!("there is no log {}", path.display()),
            "coheap start; a daemon in the foreground logs to its standard error",
        ),
        _ => Failure::io(format!("cannot read {}", path.display()))(e),
    })?;
    let bad = || Failure::io(format!("cannot read {}", path.display()));
    let size = file.metadata().map_err(bad())?.len();
    let from = size.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).map_err(bad())?;
    let mut rest = Vec::new();
    let mut cut = from > 0;
    loop {
        let read = file.read_to_end(&mut rest).map_err(bad())?;
        let whole = rest
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let text: Vec<u8> = rest.drain(..whole).collect();
        // The first line may have begun before what was read.
        for line in String::from_utf8_lossy(&text)
            .lines()
            .skip(usize::from(std::mem::take(&mut cut)))
        {
            see(line);
        }
        if !follow || (read == 0 && !path.exists()) {
            return Ok(codes::OK);
        }
        if read == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The fields of a logfmt line.
fn fields(line: &str) -> Map<String, Value> {
    let mut all = Map::new();
    let mut rest = line;
    while let Some((key, after)) = rest.trim_start().split_once('=') {
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            let end = end_of_quoted(quoted);
            (
                quoted[..end].replace("\\\"", "\"").replace("\\\\", "\\"),
                quoted.get(end + 1..).unwrap_or_default(),
            )
        } else {
            let (value, after) = after.split_once(' ').unwrap_or((after, ""));
            (value.to_owned(), after)
        };
        // A word without a value before the key belongs to nothing.
        let key = key.rsplit(' ').next().unwrap_or(key);
        all.insert(key.into(), value.into());
        rest = after;
    }
    all
}

fn end_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_becomes_fields() {
        let all = fields(
            r#"ts=2026 lvl=warn ev=proc.dead p=1 cause="signal 9 (SIGKILL)" msg="say \"no\"""#,
        );
        assert_eq!(all["ev"], "proc.dead");
        assert_eq!(all["cause"], "signal 9 (SIGKILL)");
        assert_eq!(all["msg"], r#"say "no""#);
        assert!(fields("gc 7 @3.414s 4%: no fields").get("ev").is_none());
    }
}
