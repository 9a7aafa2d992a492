//! Two processes and one map: each counts the words it is given, in one heap that both have mapped.
//!
//! `cargo run -p coheap --example shared_map`

use std::{
    env,
    error::Error,
    fs::OpenOptions,
    os::fd::AsRawFd,
    process::{self, Command},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use coheap::{GcMap, P, Segment, SegmentConfig, Shared};

#[derive(Shared)]
struct Count {
    n: AtomicU64,
}

/// Counts words in the map that the root `words` holds.
fn count(p: &mut P, text: &str) -> coheap::Result<()> {
    p.enter(|cx| {
        let cx = &*cx;
        let root = cx.root::<GcMap<Count>>("words")?;
        // Whoever comes first makes the map; the other's is garbage.
        root.compare_exchange(cx, None, Some(GcMap::new(cx)?));
        let words = root.get(cx).expect("one of us has made it");
        for word in text.split_whitespace() {
            let zero = || {
                cx.alloc(Count {
                    n: AtomicU64::new(0),
                })
            };
            words
                .get_or_insert_with(cx, word, zero)?
                .n
                .fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

fn show(p: &mut P) -> coheap::Result<()> {
    p.enter(|cx| {
        let words = cx
            .root::<GcMap<Count>>("words")?
            .get(cx)
            .expect("made above");
        let mut all: Vec<_> = words
            .iter(cx)
            .map(|(word, count)| (count.n.load(Relaxed), word.to_ref().as_bytes()))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        for (n, word) in all {
            println!("{n:4} {}", String::from_utf8_lossy(word));
        }
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = env::args().nth(1) {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut p = P::lease(Segment::open_fd(file.into())?)?;
        count(
            &mut p,
            "the grey object is pushed and the black object is scanned",
        )?;
        return Ok(());
    }
    let segment = Segment::create(&SegmentConfig::default())?;
    let path = format!("/proc/{}/fd/{}", process::id(), segment.fd().as_raw_fd());
    let mut child = Command::new(env::current_exe()?).arg(path).spawn()?;
    let mut p = P::lease(segment)?;
    count(&mut p, "the white object is swept")?;
    if !child.wait()?.success() {
        return Err("the other process has failed".into());
    }
    show(&mut p)?;
    Ok(())
}
