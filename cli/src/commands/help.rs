//! Versions, completions, manual pages.

use crate::{
    args::{Args, Global},
    failure::Failure,
    show,
};
use clap::CommandFactory;
use coheap::segment::Segment;
use coheap_protocol::PROTOCOL_VERSION;
use std::path::Path;

#[derive(serde::Serialize)]
struct Version {
    version: &'static str,
    protocol: u32,
    layout_version: u32,
    layout_hash: String,
}

/// Shows what must be equal for two programs to share a heap.
pub fn version(global: &Global) -> Result<u8, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
        layout_version: Segment::layout_version(),
        layout_hash: format!("{:#018x}", Segment::layout_hash()),
    };
    if global.json {
        show::json(&version);
    } else {
        let Version {
            version,
            protocol,
            layout_version,
            layout_hash,
        } = version;
        show::print(&format!(
            "coheap {version}, protocol {protocol}, layout {layout_version} ({layout_hash})\n"
        ));
    }
    Ok(0)
}

/// Writes a completion script to standard output.
pub fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "coheap", &mut script);
    show::print(&String::from_utf8_lossy(&script));
    Ok(0)
}

/// Writes one manual page per command.
pub fn man(dir: &Path) -> Result<u8, Failure> {
    let write = || {
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Args::command(), dir))
    };
    write().map_err(Failure::io(format!(
        "cannot write manual pages into {}",
        dir.display()
    )))?;
    Ok(0)
}
