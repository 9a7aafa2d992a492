//! `coheap step`: the scripts that come with it, the old orders of two rules, its refusals and exit codes.
//!
//! Without the feature `failpoints` the command has no points to hold, and says so; scripts are checked all the same.

use coheap_tests::sandbox::program;
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs `coheap step` with lines on its standard input.
fn step(args: &[&str], lines: &str) -> (i32, String, String) {
    let mut child = Command::new(program("coheap"))
        .arg("step")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("coheap runs");
    let mut input = child.stdin.take().expect("a pipe");
    // It may have ended at the first line.
    let _ = input.write_all(lines.as_bytes());
    drop(input);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        status.code().expect("ends by itself"),
        text(stdout),
        text(stderr),
    )
}

const SHIPPED: [&str; 4] = [
    "attach-before-park-old",
    "attach-before-park-new",
    "two-for-one-slot",
    "death-in-the-barrier",
];

#[test]
fn scripts_are_listed_and_printed() {
    let (code, out, _) = step(&["--list"], "");
    assert_eq!(code, 0);
    for name in SHIPPED {
        assert!(out.contains(name), "{name} is not in {out}");
        let (code, text, _) = step(&[name, "--print"], "");
        assert!(code == 0 && text.starts_with("# "), "{name}: {text}");
    }
}

#[test]
fn a_bad_line_is_refused_with_its_number() {
    let (code, _, err) = step(&[], "# fine\nactors 2\nP0 dance\n");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("line 3: \"dance\" is no operation"), "{err}");
    let (code, _, err) = step(&["no-such-script"], "");
    assert_eq!(code, 2, "{err}");
}

#[cfg(not(feature = "failpoints"))]
#[test]
fn a_build_without_points_says_how_to_get_them() {
    for (args, lines) in [(&["two-for-one-slot"][..], ""), (&[], "actors 2\n")] {
        let (code, out, err) = step(args, lines);
        assert!(code == 1 && out.is_empty(), "{code}: {out}");
        assert!(err.contains("--features failpoints"), "{err}");
    }
}

#[cfg(feature = "failpoints")]
mod with_points {
    use super::*;

    #[test]
    fn the_shipped_scripts_show_what_they_say() {
        for name in SHIPPED {
            let (code, out, err) = step(&[name], "");
            let wanted = if name.ends_with("old") { 5 } else { 0 };
            assert_eq!(code, wanted, "{name}: {out}{err}");
        }
    }

    #[test]
    fn attach_before_park_is_published_while_it_runs_and_then_loses_a_worker() {
        let (code, out, err) = step(&["attach-before-park-old", "--go-on"], "");
        assert_eq!(code, 5, "{out}{err}");
        let published = "violation: w1 stands in the slot of P1 and still runs in P0";
        let lost = "violation: w0 is parked, stands in no slot";
        let at = |text: &str| {
            out.find(text)
                .unwrap_or_else(|| panic!("no {text:?} in {out}"))
        };
        assert!(at(published) < at(lost), "{out}");
    }

    #[test]
    fn the_same_script_with_a_rule_taken_away_fails() {
        let (_, text, _) = step(&["two-for-one-slot", "--print"], "");
        let broken = text.replace("# rule", "rule");
        assert_ne!(text, broken);
        let (code, out, err) = step(&[], &broken);
        assert_eq!(code, 5, "{out}{err}");
        assert!(err.contains("w0 is parked, stands in no slot"), "{err}");
    }

    #[test]
    fn a_point_that_is_never_reached_ends_with_124() {
        let (code, _, err) = step(&[], "hold P0 no.such.point\nP0 start-worker P1\n");
        assert_eq!(code, 124, "{err}");
        assert!(
            err.contains("line 1: P0 never reached no.such.point"),
            "{err}"
        );
        let (code, _, err) = step(&[], "P0 start-worker P1 &\nreach P0 worker.detached\n");
        assert_eq!(code, 124, "{err}");
        assert!(err.contains("worker.attached"), "what was passed: {err}");
    }

    #[test]
    fn an_operation_that_waits_for_a_held_one_ends_with_124_unless_it_is_let_go() {
        let lines = "P1 enter\nP0 collect &\nwait P0\n";
        let (code, _, err) = step(&["--patience", "300ms"], lines);
        assert_eq!(code, 124, "{err}");
        let lines = "P1 enter\nP0 collect &\nP1 leave\nwait P0\nexpect has collected\n";
        let (code, out, err) = step(&[], lines);
        assert_eq!(code, 0, "{out}{err}");
    }

    #[test]
    fn an_expectation_that_is_not_met_ends_with_1() {
        let (code, _, err) = step(&[], "P0 start-worker P1\nexpect P1 slot empty\n");
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("line 2: expected \"P1 slot empty\""), "{err}");
    }

    #[test]
    fn what_the_script_may_not_ask_is_refused() {
        for (lines, says) in [
            ("actors 1\nkill P1\n", "there is no P1"),
            ("release P0\n", "stands at no point"),
            ("actors 1\nrule x\n", "before there are actors"),
            (
                "hold P0 worker.parked\nP0 start-worker P1\nP0 edge\n",
                "stands at worker.parked",
            ),
            ("kill P0\nP0 edge\n", "P0 is dead"),
            ("kill P0\nstart P0\n", "has not been recovered"),
        ] {
            let (code, _, err) = step(&[], lines);
            assert!(code == 2 && err.contains(says), "{lines}: {code}: {err}");
        }
    }

    #[test]
    fn json_has_an_object_a_line() {
        let (code, out, _) = step(&["--json"], "P0 start-worker P1\nnext P0\n");
        assert_eq!(code, 2);
        let (_, out2, _) = step(
            &["--json"],
            "hold P0 worker.saved\nP0 start-worker P1\nnext P0\nrelease P0\n",
        );
        assert_eq!(out.lines().count(), 1);
        let rows: Vec<serde_json::Value> = out2
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[2]["did"], "goes on: stands at worker.parked");
    }
}
