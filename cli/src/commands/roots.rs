//! Named roots: which there are, what each keeps alive, and dropping one.
//!
//! Sizes and drops are work of a P, which this process leases for that; if it is killed, it is recovered like any other.

use super::query::rows;
use crate::{args::Global, connect, failure::Failure};
use coheap::{Holder, P};
use coheap_protocol::{codes, human::show_bytes};

#[derive(serde::Serialize)]
struct RootRow {
    name: String,
    r#type: String,
    set: bool,
    updates: u32,
}

/// The named roots, read from the segment: nothing is leased.
pub fn list(global: &Global) -> Result<u8, Failure> {
    let segment = connect::segment(global)?;
    let found: Vec<RootRow> = segment
        .named_roots()
        .into_iter()
        .map(|r| RootRow {
            name: r.name,
            r#type: r.type_name,
            set: r.is_set,
            updates: r.updates,
        })
        .collect();
    Ok(rows(
        global,
        &["NAME", "TYPE", "SET", "UPDATES"],
        &found,
        |r| {
            let set = if r.set { "yes" } else { "nil" };
            vec![
                r.name.clone(),
                r.r#type.clone(),
                set.into(),
                r.updates.to_string(),
            ]
        },
    ))
}

#[derive(serde::Serialize)]
struct SizeRow {
    /// A root's name; null for the two rows that are none.
    root: Option<String>,
    by: &'static str,
    objects: u64,
    bytes: u64,
}

/// What each root alone keeps alive, and what several do.
pub fn sizes(global: &Global) -> Result<u8, Failure> {
    let found: Vec<SizeRow> = P::lease(connect::segment(global)?)?
        .retained()?
        .into_iter()
        .map(|row| {
            let (root, by) = match row.by {
                Holder::Root(name) => (Some(name), "root"),
                Holder::HandlesAndTasks => (None, "handles and tasks"),
                Holder::Several => (None, "several"),
            };
            SizeRow {
                root,
                by,
                objects: row.objects,
                bytes: row.bytes,
            }
        })
        .collect();
    let total: u64 = found.iter().map(|r| r.bytes).sum();
    Ok(rows(
        global,
        &["HELD BY", "OBJECTS", "BYTES", "SHARE"],
        &found,
        |r| {
            let share = 100.0 * r.bytes as f64 / total.max(1) as f64;
            vec![
                r.root.clone().unwrap_or(format!("({})", r.by)),
                r.objects.to_string(),
                show_bytes(r.bytes),
                format!("{share:.1}%"),
            ]
        },
    ))
}

/// Sets a root to nil.
pub fn drop_one(global: &Global, root: &str) -> Result<u8, Failure> {
    if P::lease(connect::segment(global)?)?.drop_root(root) {
        return Ok(codes::OK);
    }
    Err(Failure::new(
        codes::FAILED,
        "E028",
        format!("there is no root `{root}` that refers to something"),
        "coheap roots, which names those there are",
    ))
}
