//! The lab's stories: the old rule must fail, or the story shows nothing; the new rule must hold over as many interleavings.

use coheap_tests::sandbox::program;
use std::process::Command;

const STORIES: [&str; 7] = [
    "attach-before-park",
    "store-instead-of-cas",
    "lost-slot-exits",
    "idle-with-gc-work",
    "counter-leak",
    "weak-to-strong",
    "resize-during-detach",
];

fn lab(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(program("coheap"))
        .arg("lab")
        .args(args)
        .output()
        .expect("coheap runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn every_story_is_listed() {
    let (code, out, _) = lab(&["list"]);
    assert_eq!(code, Some(0));
    for story in STORIES {
        assert!(out.contains(story), "{story} is not in {out}");
    }
}

#[test]
fn the_old_rule_is_caught_and_replays_from_its_seed() {
    for story in STORIES {
        let (code, out, err) = lab(&[story, "--rule", "old", "--runs", "50"]);
        assert_eq!(code, Some(5), "{story}: {out}{err}");
        let seed = out
            .lines()
            .find_map(|l| l.strip_prefix("seed ")?.split(',').next())
            .expect("the seed is printed");
        let (again, same, _) = lab(&[story, "--rule", "old", "--runs", "1", "--seed", seed]);
        assert_eq!((again, &same), (Some(5), &out), "{story} does not replay");
    }
}

#[test]
fn the_new_rule_holds() {
    for story in STORIES {
        let (code, out, err) = lab(&[story, "--rule", "new", "--runs", "40", "--seed", "1000"]);
        assert_eq!(code, Some(0), "{story}: {out}{err}");
    }
}

#[test]
fn an_unknown_story_is_a_usage_error() {
    let (code, _, err) = lab(&["moon"]);
    assert_eq!(code, Some(2));
    assert!(
        err.starts_with("coheap: error[E020]: there is no story"),
        "{err}"
    );
}
