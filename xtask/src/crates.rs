//! Which crate may use which: the rows of ARCHITECTURE.md against what cargo says.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::tree::Tree;

/// The rows: a crate may use those of earlier rows, and none of its own row.
const ROWS: &[&[&str]] = &[
    &["posthaste-event", "posthaste-reconnect", "posthaste-killpoint"],
    &["posthaste-sealing"],
    &["posthaste-broker"],
    &["posthaste-store"],
    &["posthaste-rules"],
    &["posthaste-provider"],
    &["posthaste-definitions"],
    &["posthaste-service"],
    &["posthaste-broadcast"],
    &[
        "posthaste-sandbox",
        "posthaste-status",
        "posthaste-verify",
        "posthaste-ingestion",
        "posthaste-dispatcher",
        "posthaste-retry",
        "posthaste-replay",
    ],
    &["posthaste"],
];

/// Crates that ship nothing: others may use them in tests only.
const FOR_TESTS: &[&str] = &["posthaste-testkit", "posthaste-tests", "posthaste-bench", "xtask"];

/// Dependencies that belong to one crate alone.
const CONFINED: &[(&str, &str)] = &[
    ("rdkafka", "posthaste-broker"),
    ("rdkafka-sys", "posthaste-broker"),
    ("mongodb", "posthaste-store"),
    ("backoff", "posthaste-reconnect"),
];

/// Who measures such a dependency bare, as the limit of what its owner makes of it.
const BARE: &[(&str, &str)] = &[("posthaste-bench", "rdkafka")];

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
    let mut findings = directions(&metadata);
    let page = tree.files.get("ARCHITECTURE.md").map_or("", String::as_str);
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let places: Vec<(&str, String)> = packages
        .filter_map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            let folder = manifest
                .parent()?
                .strip_prefix(metadata["workspace_root"].as_str()?)
                .ok()?;
            Some((package["name"].as_str()?, folder.to_str()?.to_owned()))
        })
        .collect();
    findings.extend(order(page, &places));
    Ok(findings)
}

/// The table of ARCHITECTURE.md says "a row uses only rows above it": its order must be the one that is checked.
fn order(page: &str, places: &[(&str, String)]) -> Vec<String> {
    let line_of = |folder: &str| {
        page.lines().position(|line| {
            line.starts_with(&format!("| `{folder}`")) || line.starts_with(&format!("| `{folder}/`"))
        })
    };
    let mut shown: Vec<(usize, usize, &str)> = places
        .iter()
        .filter_map(|(name, folder)| Some((line_of(folder)?, row_of(name)?, *name)))
        .collect();
    shown.sort_unstable();
    shown
        .windows(2)
        .filter(|pair| pair[0].1 > pair[1].1)
        .map(|pair| {
            format!(
                "ARCHITECTURE.md:{}: {} may use {}, so its row belongs below; the order is in xtask/src/crates.rs",
                pair[0].0 + 1,
                pair[0].2,
                pair[1].2
            )
        })
        .collect()
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
                && !BARE.contains(&(name, used))
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
    fn the_page_shows_the_rows_in_their_order() {
        let places = [
            ("posthaste-event", "workspace/event".to_owned()),
            ("posthaste-retry", "retry".to_owned()),
            ("posthaste-replay", "replay".to_owned()),
        ];
        let good = "| place |\n|---|\n| `workspace/event` | x |\n| `replay/` | x |\n| `retry/` | x |\n";
        assert_eq!(order(good, &places), Vec::<String>::new());
        let wrong = "| `retry/` | x |\n| `workspace/event` | x |\n";
        assert_eq!(order(wrong, &places).len(), 1);
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
