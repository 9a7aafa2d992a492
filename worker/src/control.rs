//! The control thread: orders in, words out, and finding the next daemon when this one dies.

use crate::{HELLO_PATIENCE, hello, inbox::Outbox};
use coheap::{
    control::{Channel, ControlError, Received, call},
    segment::Segment,
};
use coheap_protocol::{StopMode, WorkerOrder, WorkerSays, decode};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a worker goes on without a daemon.
pub const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two knocks.
const KNOCK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// What the thread needs to talk to this daemon and the next.
pub struct Link {
    /// Where daemons listen.
    pub socket: PathBuf,
    /// The heap, to hand to the next daemon.
    pub segment: Segment,
    /// The P of this process.
    pub p: u16,
    /// The connection, while there is one.
    pub channel: Option<Channel>,
}

/// Serves until the process ends.
pub fn serve(mut link: Link, outbox: &Outbox) {
    while let Some(channel) = link.channel.take() {
        let why = converse(&link, &channel, outbox);
        drop(channel);
        if outbox.is_gone() {
            break;
        }
        log::warn!("ev=daemon.lost p={} msg={:?}", link.p, why.to_string());
        match knock(&link) {
            Ok(channel) => link.channel = Some(channel),
            Err(error) => {
                log::warn!("ev=proc.orphan p={} msg={:?}", link.p, error.to_string());
                outbox.order(WorkerOrder::Stop {
                    mode: StopMode::Fast,
                });
            }
        }
    }
    outbox.left();
}

/// Carries messages both ways until the connection ends; why it did.
fn converse(link: &Link, channel: &Channel, outbox: &Outbox) -> ControlError {
    loop {
        if let Err(error) = speak(channel, outbox).and_then(|()| listen(link, channel, outbox)) {
            return error;
        }
        let bell = outbox.says.bell();
        let mut fds = [
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return ControlError::io("cannot wait on the control socket")(e.into()),
        }
    }
}

fn speak(channel: &Channel, outbox: &Outbox) -> Result<(), ControlError> {
    while let Some(word) = outbox.next() {
        channel.send(&word)?;
        if word == WorkerSays::Leaving {
            outbox.left();
        }
    }
    Ok(())
}

fn listen(link: &Link, channel: &Channel, outbox: &Outbox) -> Result<(), ControlError> {
    loop {
        match channel.socket().try_recv()? {
            Received::Frame(bytes, _) => {
                outbox.order(decode(&bytes)?);
                coheap::sched::poke(&link.segment, link.p.into());
            }
            Received::Closed => return Err(ControlError::Closed),
            Received::Nothing => return Ok(()),
        }
    }
}

/// Knocks until a daemon answers that takes this heap, or patience is over.
fn knock(link: &Link) -> Result<Channel, ControlError> {
    let mut hello = hello();
    hello.holds = link.segment.incarnation();
    hello.leased = Some(link.p);
    let deadline = Instant::now() + ORPHAN_PATIENCE;
    let mut pause = KNOCK.0;
    loop {
        match call(
            &link.socket,
            &hello,
            Some(link.segment.fd()),
            HELLO_PATIENCE,
        ) {
            Ok(called) => return Ok(called.channel),
            // A daemon that runs and does not want us will not change its mind.
            Err(error @ ControlError::Refused(_)) => return Err(error),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(KNOCK.1);
            }
        }
    }
}
