//! Pages: what ARCHITECTURE.md and README.md name is there.

use crate::tree::Tree;

/// Every path in back quotes with a slash or a known ending must exist.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for page in ["ARCHITECTURE.md", "README.md"] {
        match tree.files.get(page) {
            Some(text) => findings.extend(check_page(page, text, |path| tree.root.join(path).exists())),
            None => findings.push(format!("{page} is missing")),
        }
    }
    if let (Some(page), Some(manifest)) = (tree.files.get("ARCHITECTURE.md"), tree.files.get("Cargo.toml")) {
        findings.extend(check_members(page, manifest));
    }
    Ok(findings)
}

fn check_page(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let looks_like_a_path = [
                "workspace/",
                "tests/",
                "xtask/",
                "ingestion/",
                "dispatcher/",
                "retry/",
                "replay/",
                "posthaste/",
                "bench/",
            ]
            .iter()
            .any(|top| quoted.starts_with(top));
            // `a/*.toml` names a folder by its content.
            let path = quoted.split('*').next().unwrap_or_default();
            if looks_like_a_path && !quoted.contains(' ') && !exists(path) {
                findings.push(format!("{page}:{}: {quoted} does not exist", number + 1));
            }
        }
    }
    findings
}

fn check_members(page: &str, manifest: &str) -> Vec<String> {
    let members = toml::from_str::<toml::Table>(manifest).ok();
    let members = members
        .as_ref()
        .and_then(|table| table.get("workspace")?.get("members")?.as_array());
    let mut findings = Vec::new();
    for member in members.into_iter().flatten().filter_map(toml::Value::as_str) {
        if !page.contains(&format!("`{member}`")) && !page.contains(&format!("`{member}/`")) {
            findings.push(format!("ARCHITECTURE.md: the house has no row for {member}"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_found() {
        let exists = |path: &str| path == "workspace/event" || path == "workspace/provider/providers/";
        assert!(
            check_page(
                "p",
                "in `workspace/event` and `workspace/provider/providers/*.toml`",
                exists
            )
            .is_empty()
        );
        assert_eq!(check_page("p", "in `workspace/gone.rs`", exists).len(), 1);
    }

    #[test]
    fn a_member_without_a_row_is_found() {
        let manifest = "[workspace]\nmembers = [\"a/b\", \"c\"]\n";
        assert_eq!(check_members("| `a/b` | x |\n| `d/` | y |", manifest).len(), 1);
        assert!(check_members("| `a/b` | x |\n| `c/` | y |", manifest).is_empty());
    }
}
