//! Finding the daemon and asking it one thing.

use crate::{args::Global, failure::Failure};
use coheap::{
    control::{Channel, ControlError, Name, RuntimeDir, channel::Called},
    segment::Segment,
};
use coheap_protocol::{Hello, Reply, Request, Role, codes};
use std::{path::Path, time::Duration};

/// The heap the options name.
pub fn name(global: &Global) -> Result<Name, Failure> {
    Ok(global
        .name
        .as_deref()
        .unwrap_or("default")
        .parse::<Name>()?)
}

/// Where it lives.
pub fn dir(global: &Global) -> Result<RuntimeDir, Failure> {
    match (&global.socket, &global.name) {
        (Some(socket), None) => Ok(RuntimeDir::of_socket(socket)?),
        _ => Ok(RuntimeDir::of(&name(global)?)),
    }
}

/// Connects to a daemon.
pub fn call(socket: &Path, role: Role, patience: Duration) -> Result<Called, Failure> {
    let hello = Hello::new(
        role,
        Segment::layout_version(),
        Segment::layout_hash(),
        "coheap",
    );
    Ok(coheap::control::call(socket, &hello, None, patience)?)
}

/// Connects to the daemon the options name.
pub fn tool(global: &Global) -> Result<Channel, Failure> {
    Ok(call(&dir(global)?.socket(), Role::Tool, global.timeout)?.channel)
}

/// The segment of the daemon the options name, mapped into this process.
pub fn segment(global: &Global) -> Result<Segment, Failure> {
    let called = call(&dir(global)?.socket(), Role::Reader, global.timeout)?;
    let fd = called.segment.ok_or(ControlError::Closed)?;
    Ok(Segment::open_fd(fd)?)
}

/// Asks one thing; the rows before `End`.
pub fn ask(
    channel: &Channel,
    request: &Request,
    patience: Duration,
) -> Result<Vec<Reply>, Failure> {
    channel.send(request)?;
    let mut rows = Vec::new();
    loop {
        match channel.recv::<Reply>(Some(patience))? {
            Reply::End(count) if count as usize == rows.len() => return Ok(rows),
            Reply::End(count) => {
                let what = format!("the daemon announced {count} rows and sent {}", rows.len());
                return Err(ControlError::Unexpected(what).into());
            }
            Reply::Failed(refused) => return Err(refused.into()),
            row => rows.push(row),
        }
    }
}

/// Connects, asks one thing, and leaves.
pub fn once(global: &Global, request: &Request) -> Result<Vec<Reply>, Failure> {
    ask(&tool(global)?, request, global.timeout)
}

/// Those rows that are of the kind asked for.
pub fn only<T>(rows: Vec<Reply>, pick: impl Fn(Reply) -> Option<T>) -> Vec<T> {
    rows.into_iter().filter_map(pick).collect()
}

/// The one row that must be there.
pub fn one<T>(rows: Vec<T>) -> Result<T, Failure> {
    rows.into_iter().next().ok_or_else(|| {
        Failure::new(
            codes::FAILED,
            "E015",
            "the daemon answered with nothing",
            "one build of coheap on both ends",
        )
    })
}
