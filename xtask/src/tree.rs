//! The files that git tracks, read once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// The tracked text files of a repository, by path from its root.
pub struct Tree {
    /// Where it is.
    pub root: PathBuf,
    /// Each file's text. Files that are not UTF-8 are left out.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads what git tracks, and what it would track (untracked but not ignored).
    pub fn read(root: &Path) -> Result<Self, String> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .map_err(|error| format!("git: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "git ls-files: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        let files = listing
            .split('\0')
            .filter(|path| !path.is_empty())
            .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(root.join(path)).ok()?)))
            .collect();
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    /// The Rust sources, tests included.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}
