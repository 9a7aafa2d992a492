//! A worker without a heap: it speaks the control protocol and keeps its "heap" in a directory.
//!
//! With it the daemon's and the command's side of a run are tested alone: what a run survives must not depend on what the
//! workload happens to do. A run is a file named after its id, created by whoever is told to submit first; it is finished
//! `COHEAP_FAKE_MS` milliseconds after that, and its result is one more line in the file for every collection.

use coheap::{
    control::{Channel, ControlError, call},
    segment::Segment,
};
use coheap_protocol::{Hello, Outcome, Role, RunId, WorkerOrder, WorkerSays};
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::fd::AsFd,
    path::PathBuf,
    time::Duration,
};

struct Fake {
    dir: PathBuf,
    takes: Duration,
    watched: Option<RunId>,
}

fn main() {
    let env = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let mut fake = Fake {
        dir: env("COHEAP_FAKE_DIR").into(),
        takes: Duration::from_millis(env("COHEAP_FAKE_MS").parse().expect("a number")),
        watched: None,
    };
    let socket = PathBuf::from(env("COHEAP_SOCKET"));
    let p: u16 = env("COHEAP_P_HINT").parse().expect("a number");
    let mut hello = Hello::new(
        Role::Worker,
        Segment::layout_version(),
        Segment::layout_hash(),
        "fake-worker",
    );
    hello.supervised = true;
    let called = call(&socket, &hello, None, Duration::from_secs(5)).expect("welcome");
    let segment = called.segment.expect("a descriptor");
    called
        .channel
        .send(&WorkerSays::Leased { p })
        .expect("sends");
    hello.holds = called.welcome.incarnation;
    hello.leased = Some(p);
    let mut channel = called.channel;
    loop {
        let Err(ControlError::Closed) = fake.serve(&channel) else {
            return;
        };
        channel = (0..200)
            .find_map(|_| {
                std::thread::sleep(Duration::from_millis(20));
                call(
                    &socket,
                    &hello,
                    Some(segment.as_fd()),
                    Duration::from_secs(5),
                )
                .ok()
            })
            .expect("another daemon")
            .channel;
    }
}

impl Fake {
    /// Until it is told to stop (`Ok`) or the connection ends.
    fn serve(&mut self, channel: &Channel) -> Result<(), ControlError> {
        loop {
            match channel.recv::<WorkerOrder>(Some(Duration::from_millis(20))) {
                Ok(WorkerOrder::Stop { .. }) => return channel.send(&WorkerSays::Leaving),
                Ok(WorkerOrder::Submit { run, .. }) => {
                    self.submit(run);
                    channel.send(&WorkerSays::Submitted { run })?;
                }
                Ok(WorkerOrder::Collect { run, .. }) => channel.send(&self.collect(run))?,
                Ok(WorkerOrder::Procs { .. }) => {}
                Err(ControlError::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
            if let Some(run) = self.watched.filter(|&run| self.is_finished(run)) {
                channel.send(&WorkerSays::Finished { run })?;
            }
        }
    }

    fn file(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("run-{:x}", run.0))
    }

    fn submit(&mut self, run: RunId) {
        self.watched = Some(run);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.file(run))
        {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => panic!("{e}"),
            _ => {}
        }
    }

    fn is_finished(&self, run: RunId) -> bool {
        let made = fs::metadata(self.file(run)).and_then(|m| m.created());
        made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= self.takes))
    }

    fn collect(&mut self, run: RunId) -> WorkerSays {
        self.watched = Some(run);
        if !self.is_finished(run) {
            return WorkerSays::NotYet { run };
        }
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.file(run))
            .expect("the run");
        writeln!(file, "collected").expect("writes");
        WorkerSays::Result(Outcome {
            run,
            ok: true,
            json: r#"{"answer":42}"#.into(),
        })
    }
}
