//! `index` against grep, tr, awk and sort.

mod common;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use coheap::{Backing, Error, Idle, P, gc};
use coheap_worker::workloads::{self, FNV_START, Report, WorkloadSpec, fnv1a, index};
use common::{run, segment, shm};

/// What other programs say about a directory.
fn oracle(dir: &Path) -> Vec<u8> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scripts/oracle.sh");
    let output = Command::new(script).arg(dir).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn spec(dir: &Path, out: &Path) -> WorkloadSpec {
    WorkloadSpec::Index {
        dir: dir.into(),
        out: Some(out.into()),
    }
}

/// Files that are hard to count.
fn hard_tree(dir: &Path) {
    let mut rng = fastrand::Rng::with_seed(1);
    let write = |name: &[u8], bytes: &[u8]| {
        let path = dir.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write(b"empty", b"");
    write(b"one letter", b"a");
    write(b"no newline at the end", b"tail Tail TAIL");
    write(b"new\nline", b"the name has a newline\n");
    write(b"tab\there", b"the name has a tab\n");
    write(b"latin1-\xe9t\xe9", b"caf\xe9 na\xefve caf\xe9\n");
    write("utf-8-ä".as_bytes(), "Käse straße naïve\n".as_bytes());
    write(b"nul", b"before\0after\0\0be\0fore\n");
    write(b"crlf", b"one\r\ntwo\r\n");
    let binary: Vec<u8> = (0..300_000).map(|_| rng.u8(..)).collect();
    write(b"binary", &binary);
    // Words across every border at which something is read in pieces.
    for (i, at) in [64 << 10, 128 << 10, 4 << 20].into_iter().enumerate() {
        let mut bytes = vec![b' '; at + 100];
        bytes[at - 5..at + 5].copy_from_slice(b"AcrossaGap");
        write(format!("border-{i}").as_bytes(), &bytes);
    }
    write(b"long word", &vec![b'X'; 5 << 20]);
    write(b"long line", "lorem ipsum ".repeat(20_000).as_bytes());
    let mut deep = PathBuf::from("deep");
    for i in 0..60 {
        deep.push(format!("d{i}"));
    }
    write(
        deep.join("file").as_os_str().as_bytes(),
        b"down in the deep\n",
    );
    for i in 0..700 {
        let text = format!("file number {i} has words {}\n", "same ".repeat(i % 7));
        write(format!("many/{}/{i}", i % 9).as_bytes(), text.as_bytes());
    }
    fs::create_dir_all(dir.join("empty dir")).unwrap();
    symlink(dir.join("many"), dir.join("link to a directory")).unwrap();
    symlink("one letter", dir.join("link to a file")).unwrap();
    symlink("nowhere", dir.join("broken link")).unwrap();
    symlink(".", dir.join("loop")).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
}

fn assert_is_oracle(report: &Report, out: &Path, expected: &[u8]) {
    let lines = fs::read(out).unwrap();
    if let Some((a, b)) = lines
        .split(|&b| b == b'\n')
        .zip(expected.split(|&b| b == b'\n'))
        .find(|(a, b)| a != b)
    {
        panic!(
            "{:?} should be {:?}",
            String::from_utf8_lossy(&a[..a.len().min(80)]),
            String::from_utf8_lossy(&b[..b.len().min(80)])
        );
    }
    assert_eq!(lines.len(), expected.len());
    let (mut words, mut distinct) = (0, 0);
    for line in expected.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let total = line.split(|&b| b == b'\t').nth(1).unwrap();
        words += String::from_utf8_lossy(total).parse::<u64>().unwrap();
        distinct += 1;
    }
    assert!(report.ok);
    assert_eq!((report.words, report.distinct), (words, distinct));
    assert_eq!(report.result_hash, fnv1a(FNV_START, expected));
}

#[test]
fn a_hard_tree_is_counted_as_grep_counts_it() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, link, out) = (
        temp.path().join("tree"),
        temp.path().join("link"),
        temp.path().join("out"),
    );
    fs::create_dir(&dir).unwrap();
    hard_tree(&dir);
    symlink(&dir, &link).unwrap();
    let expected = oracle(&dir);
    for (i, (ps, gc_percent, backing)) in [
        (1, 100, Backing::Memfd),
        (2, 10, shm("index")),
        (4, 400, Backing::Memfd),
    ]
    .into_iter()
    .enumerate()
    {
        let segment = segment(64, gc_percent, backing);
        let dir = if i == 1 { &link } else { &dir };
        let report = run(&segment, 1, &spec(dir, &out), ps).unwrap();
        assert_eq!((report.files, report.unreadable), (716, 0), "{report:?}");
        assert_is_oracle(&report, &out, &expected);
        // Nothing but the result is left beside it.
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
        // Again in the same heap: the new index replaces the old one.
        let again = run(&segment, 2, &spec(dir, &out), ps).unwrap();
        assert_eq!(again, report);
        look_up(&segment, dir);
    }
}

/// The published index names the files of a word.
fn look_up(segment: &coheap::Segment, dir: &Path) {
    let mut p = P::lease(segment.clone()).unwrap();
    p.enter(|cx| {
        let deep = index::lookup(cx, b"deep").unwrap().unwrap();
        assert_eq!(deep.len(), 1);
        assert!(deep[0].0.starts_with(dir.join("deep")));
        let same: BTreeMap<_, _> = index::lookup(cx, b"same")
            .unwrap()
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!(same.len(), 600);
        assert_eq!(same[&dir.join("many/6/6")], 6);
        assert!(index::lookup(cx, b"nosuchword").unwrap().is_none());
        assert!(index::lookup(cx, b"").unwrap().is_none());
    });
    assert!(p.collect());
    gc::verify::verify_clean(&mut p, true).unwrap();
}

#[test]
fn an_empty_directory_has_an_empty_index() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let dir = temp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(&out, "old").unwrap();
    let report = run(&segment(16, 100, Backing::Memfd), 1, &spec(&dir, &out), 2).unwrap();
    assert_eq!(
        (report.ok, report.words, report.result_hash),
        (true, 0, FNV_START)
    );
    assert_eq!(fs::read(&out).unwrap(), b"");
}

#[test]
fn files_that_vanish_are_reported_and_the_rest_is_counted() {
    let temp = tempfile::tempdir().unwrap();
    let names = ["a stays", "b goes", "c becomes a pipe", "d stays"];
    for name in names {
        fs::write(temp.path().join(name), name).unwrap();
    }
    let mut p = P::lease(segment(16, 100, Backing::Memfd)).unwrap();
    let spec = WorkloadSpec::Index {
        dir: temp.path().into(),
        out: None,
    };
    let running = workloads::submit(&mut p, 1, &spec).unwrap();
    let mut changed = false;
    p.run(&workloads::kinds(), |p, idle| {
        if p.segment().status().progress[workloads::progress::TOTAL] == 4 && !changed {
            changed = true;
            fs::remove_file(temp.path().join(names[1])).unwrap();
            fs::remove_file(temp.path().join(names[2])).unwrap();
            let pipe = temp.path().join(names[2]);
            nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        }
        if idle && running.poll(p).is_some() {
            Idle::Return
        } else {
            Idle::Continue
        }
    })
    .unwrap();
    let report = running.poll(&mut p).unwrap().unwrap();
    assert_eq!((report.files, report.unreadable, report.words), (2, 2, 4));
    assert!(
        report.problems[0].contains("b goes\": No such file"),
        "{report:?}"
    );
    assert!(
        report.problems[1].contains("not a regular file any more"),
        "{report:?}"
    );
}

#[test]
fn a_file_that_grows_is_counted_as_far_as_it_was_read() {
    const WORDS: u64 = 400_000;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("log");
    fs::write(&path, "line ".repeat(WORDS as usize)).unwrap();
    let mut p = P::lease(segment(64, 100, Backing::Memfd)).unwrap();
    let spec = WorkloadSpec::Index {
        dir: temp.path().into(),
        out: None,
    };
    let running = workloads::submit(&mut p, 1, &spec).unwrap();
    let mut more = 0;
    p.run(&workloads::kinds(), |p, idle| {
        // After each step, so also between two pieces of the file.
        if more < 1000 {
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut file, b"more ").unwrap();
            more += 1;
        }
        if idle && running.poll(p).is_some() {
            Idle::Return
        } else {
            Idle::Continue
        }
    })
    .unwrap();
    let report = running.poll(&mut p).unwrap().unwrap();
    assert_eq!((report.files, report.unreadable), (1, 0), "{report:?}");
    assert!(
        (WORDS..=WORDS + more).contains(&report.words) && more > 3,
        "{more} added: {report:?}"
    );
}

#[test]
fn arguments_are_checked() {
    let temp = tempfile::tempdir().unwrap();
    let mut p = P::lease(segment(16, 100, Backing::Memfd)).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "x").unwrap();
    for (dir, out, says) in [
        ("gone", "out", "No such file"),
        ("file", "out", "is not a directory"),
        (".", "gone/out", "is not a directory"),
        (".", ".", "is a directory"),
    ] {
        let spec = spec(&temp.path().join(dir), &temp.path().join(out));
        let error = workloads::submit(&mut p, 1, &spec).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_full_heap_is_an_error_and_leaves_no_file() {
    let temp = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(2);
    let letters: Vec<u8> = (0..12 << 20)
        .map(|i| {
            if i % 9 == 0 {
                b' '
            } else {
                rng.lowercase() as u8
            }
        })
        .collect();
    let dir = temp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), letters).unwrap();
    let out = temp.path().join("out");
    let segment = segment(16, 100, Backing::Memfd);
    let error = run(&segment, 1, &spec(&dir, &out), 2).unwrap_err();
    assert!(matches!(error, Error::HeapFull { .. }), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn an_unwritable_result_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "some words").unwrap();
    let segment = segment(16, 100, Backing::Memfd);
    // Nobody, root included, may create files there.
    let error = run(
        &segment,
        1,
        &spec(temp.path(), Path::new("/proc/self/fdinfo/out")),
        1,
    )
    .unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(
        error.to_string().contains("writing /proc/self/fdinfo/out"),
        "{error}"
    );
}
