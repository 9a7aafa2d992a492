//! `coheap up`: a daemon, N copies of a command, and nothing left afterwards.

use crate::{
    args::{Global, HeapOptions},
    connect,
    failure::Failure,
    interrupt::{Interrupt, Woken},
    private::{self, Private},
};
use coheap_protocol::codes;
use std::{ffi::OsString, os::fd::AsFd};

/// Runs until every copy has ended, or Ctrl-C.
pub fn up(
    global: &Global,
    workers: u16,
    heap: &HeapOptions,
    command: &[String],
) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let name = match &global.name {
        Some(_) => connect::name(global)?,
        None => format!("up-{}", std::process::id()).parse()?,
    };
    let mut flags = private::heap_flags(heap);
    flags.extend(["--workers".into(), OsString::from(workers.to_string())]);
    flags.push("--".into());
    flags.extend(command.iter().map(OsString::from));
    // What happens to the copies is what somebody who types this wants to see.
    let chatty = Global {
        verbose: global.verbose.max(u8::from(!global.quiet)),
        ..global.clone()
    };
    let daemon = Private::start(&name, &chatty, flags, None)?;
    let woken = interrupt.wait(Some(daemon.tie().as_fd()), None);
    daemon.end()?;
    if woken == Woken::Interrupted {
        let advice = "the same command; the heap is gone";
        return Err(Failure::new(
            codes::INTERRUPTED,
            "E029",
            "interrupted",
            advice,
        ));
    }
    Ok(codes::OK)
}
