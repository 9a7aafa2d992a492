//! Deaths at named points of the protocols, in real workers of a real run: `cargo test -p coheap-tests --features failpoints`.

use coheap_tests::sandbox::{Sandbox, stderr};

/// The answer of a small `trees` run whose workers die as `points` says; and how many died.
fn trees(points: &str) -> (serde_json::Value, u64) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(
        "coheap",
        &["--json", "run", "trees", "--depth", "12", "-n", "3"],
    );
    command.env("COHEAP_FAILPOINTS", points);
    let output = command.output().expect("coheap runs");
    assert!(
        output.status.success(),
        "{points}: {}: {}",
        output.status,
        stderr(&output)
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let deaths = json["deaths"].as_u64().expect("a count");
    (json["checks"].clone(), deaths)
}

#[test]
fn workers_that_die_at_a_named_point_change_no_result() {
    let (undisturbed, none) = trees("");
    assert!(none == 0 && undisturbed.is_string());
    for point in ["commit.committed", "commit.effect", "task.running"] {
        let (result, deaths) = trees(&format!("{point}=6*off->kill"));
        assert!(deaths > 0, "nobody died at {point}");
        assert_eq!(result, undisturbed, "{point}");
    }
}
