//! Things a daemon is told to do.

use crate::{args::Global, connect, failure::Failure, show};
use coheap::P;
use coheap_protocol::{Reply, Request, SignalKind, codes, human::show_bytes};

/// One order, answered with nothing.
pub fn order(global: &Global, request: &Request) -> Result<u8, Failure> {
    connect::once(global, request)?;
    Ok(codes::OK)
}

/// A signal for the process of a P.
pub fn signal(global: &Global, p: u16, signal: SignalKind) -> Result<u8, Failure> {
    order(global, &Request::Signal { p, signal })
}

/// Checks the heap, in this process: it leases a P of its own for that, because only a P can stop the world.
pub fn verify(global: &Global, deep: bool) -> Result<u8, Failure> {
    let mut p = P::lease(connect::segment(global)?)?;
    let report = coheap::gc::verify::verify(&mut p, deep)?;
    drop(p);
    let ok = report.findings.is_empty();
    if global.json {
        show::json(&serde_json::json!({
            "ok": ok, "deep": deep, "objects": report.objects, "bytes": report.bytes, "spans": report.spans,
            "span_pages": report.span_pages, "floating_bytes": report.floating_bytes,
            "free_slot_bytes": report.free_slot_bytes, "free_pages": report.free_pages, "pages": report.pages,
            "findings": report.findings,
        }));
    } else {
        report
            .findings
            .iter()
            .for_each(|finding| show::print(&format!("{finding}\n")));
        let verdict = if ok { "clean" } else { "violated" };
        let (bytes, how) = (
            show_bytes(report.bytes),
            if deep { "deep" } else { "reachable objects" },
        );
        show::print(&format!(
            "verify ({how}): {verdict}, {} objects, {bytes}, {} spans on {} pages, {} pages free\n",
            report.objects, report.spans, report.span_pages, report.free_pages
        ));
        if deep {
            let page = coheap::PAGE_BYTES as u64;
            show::print(&format!(
                "every byte: {} in all = {} reachable + {} taken and not reached + {} free in spans + {} in free pages + {} reserved\n",
                report.pages * page,
                report.bytes,
                report.floating_bytes,
                report.free_slot_bytes,
                report.free_pages * page,
                page
            ));
        }
    }
    if ok {
        return Ok(codes::OK);
    }
    let what = format!(
        "the heap violates its invariants in {} place(s)",
        report.findings.len()
    );
    Err(Failure::new(
        codes::VIOLATION,
        "E050",
        what,
        "keep the heap and report the findings above",
    ))
}

/// Has the daemon read its configuration again, and says what changed.
pub fn reload(global: &Global) -> Result<u8, Failure> {
    show::print(&text(connect::once(global, &Request::Reload)?));
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
