//! Things a daemon is told to do.

use crate::{args::Global, connect, failure::Failure, show};
use coheap_protocol::{Reply, Request, SignalKind, codes};

/// One order, answered with nothing.
pub fn order(global: &Global, request: &Request) -> Result<u8, Failure> {
    connect::once(global, request)?;
    Ok(codes::OK)
}

/// A signal for the process of a P.
pub fn signal(global: &Global, p: u16, signal: SignalKind) -> Result<u8, Failure> {
    order(global, &Request::Signal { p, signal })
}

/// Checks the heap.
pub fn verify(global: &Global, deep: bool) -> Result<u8, Failure> {
    let report = text(connect::once(global, &Request::Verify { deep })?);
    if global.json {
        show::json(&serde_json::json!({ "ok": true, "deep": deep, "report": report }));
    } else {
        show::print(&report);
    }
    Ok(codes::OK)
}

/// The pieces of a text, joined.
pub fn text(rows: Vec<Reply>) -> String {
    let pieces = connect::only(rows, |row| match row {
        Reply::Text(piece) => Some(piece),
        _ => None,
    });
    pieces.concat()
}
