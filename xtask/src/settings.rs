//! Settings: every key of a `settings.toml` has its comment.

use crate::tree::Tree;

/// Checks every settings fragment.
pub fn check(tree: &Tree) -> Vec<String> {
    tree.files
        .iter()
        .filter(|(path, _)| path.ends_with("/settings.toml"))
        .flat_map(|(path, text)| check_fragment(path, text))
        .collect()
}

/// Each key has a comment on the line above it, or shares the one of the key above it without a blank line between.
fn check_fragment(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if let Err(error) = toml::from_str::<toml::Table>(text) {
        findings.push(format!("{path}: {error}"));
    }
    let mut explained = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            explained = true;
        } else if line.is_empty() || line.starts_with('[') {
            explained = false;
        } else if line.contains('=') && !explained {
            findings.push(format!(
                "{path}:{}: say in a comment above it what the key is for",
                number + 1
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_a_comment_is_found() {
        assert!(check_fragment("x", "# The table.\n[x]\n# Why.\na = 1\nb = 2\n").is_empty());
        assert_eq!(check_fragment("x", "[x]\na = 1\n").len(), 1);
        assert_eq!(check_fragment("x", "[x]\n# Why.\na = 1\n\nb = 2\n").len(), 1);
        assert!(!check_fragment("x", "[x\n").is_empty());
    }
}
