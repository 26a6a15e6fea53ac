//! Which crate may use which: the rows of ARCHITECTURE.md against what cargo says.

use std::process::Command;

use serde_json::Value;

use crate::tree::Tree;

/// The rows: a crate may use those of earlier rows, and none of its own row.
const ROWS: &[&[&str]] = &[
    &["posthaste-event", "posthaste-reconnect"],
    &["posthaste-broker"],
    &["posthaste-store"],
    &["posthaste-rules"],
    &["posthaste-provider"],
    &["posthaste-service"],
    &[
        "posthaste-sandbox",
        "posthaste-status",
        "posthaste-ingestion",
        "posthaste-dispatcher",
        "posthaste-retry",
        "posthaste-replay",
    ],
    &["posthaste"],
];

/// Crates that ship nothing: others may use them in tests only.
const FOR_TESTS: &[&str] = &["posthaste-testkit", "posthaste-tests", "xtask"];

/// Dependencies that belong to one crate alone.
const CONFINED: &[(&str, &str)] = &[
    ("rdkafka", "posthaste-broker"),
    ("rdkafka-sys", "posthaste-broker"),
    ("mongodb", "posthaste-store"),
    ("backoff", "posthaste-reconnect"),
];

/// Compares the rows with `cargo metadata`.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&tree.root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    Ok(directions(&metadata))
}

fn directions(metadata: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let row = row_of(name);
        if row.is_none() && !FOR_TESTS.contains(&name) {
            findings.push(format!(
                "xtask/src/crates.rs: crate {name} is in no row; say what it may use"
            ));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"].as_str() == Some("dev");
            if let Some((_, owner)) = CONFINED.iter().find(|(confined, _)| *confined == used)
                && *owner != name
            {
                findings.push(format!(
                    "{name} uses {used}, which belongs to {owner} alone; use {owner}'s contract"
                ));
            }
            if in_tests || FOR_TESTS.contains(&name) {
                continue;
            }
            if FOR_TESTS.contains(&used) {
                findings.push(format!(
                    "{name} uses {used} outside of tests; make it a dev-dependency"
                ));
            }
            if let (Some(own), Some(theirs)) = (row, row_of(used))
                && theirs >= own
            {
                findings.push(format!(
                    "{name} uses {used}, which is not in a row above it (ARCHITECTURE.md)"
                ));
            }
        }
    }
    findings
}

fn row_of(name: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(name: &str, used: &str, kind: Option<&str>) -> Value {
        json!({"packages": [{"name": name, "dependencies": [{"name": used, "kind": kind}]}]})
    }

    #[test]
    fn only_downward_uses_pass() {
        for (name, used, kind, fine) in [
            ("posthaste-retry", "posthaste-rules", None, true),
            ("posthaste-retry", "posthaste-replay", None, false),
            ("posthaste-event", "posthaste-broker", None, false),
            ("posthaste-broker", "posthaste-testkit", Some("dev"), true),
            ("posthaste-broker", "posthaste-testkit", None, false),
            ("posthaste-status", "mongodb", None, false),
            ("posthaste-store", "mongodb", None, true),
            ("posthaste-stray", "serde", None, false),
        ] {
            assert_eq!(
                directions(&metadata(name, used, kind)).is_empty(),
                fine,
                "{name} -> {used}"
            );
        }
    }
}
