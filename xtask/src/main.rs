//! `cargo xtask tidy`: the rules of the house that no compiler checks.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

#[cfg(test)]
mod broken;
mod crates;
mod diagram;
mod pages;
mod settings;
mod sources;
mod topics;
mod tree;

use tree::Tree;

/// Checks of this repository.
#[derive(Parser)]
enum Command {
    /// Checks crate directions, file and function sizes, opening lines, settings, topics, the status diagram, and the paths
    /// named in ARCHITECTURE.md.
    Tidy {
        /// The repository.
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
    /// Makes the status diagram of ARCHITECTURE.md anew from the transition table.
    Diagram {
        /// The repository.
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
}

/// A part of `tidy`: its name, and what finds what is wrong.
type Check = (&'static str, fn(&Tree) -> Result<Vec<String>, String>);

const CHECKS: &[Check] = &[
    ("crates", crates::check),
    ("sources", sources::check),
    ("settings", settings::check),
    ("pages", pages::check),
    ("topics", topics::check),
    ("diagram", diagram::check),
];

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Tidy { root } => tidy(&root),
        Command::Diagram { root } => draw(&root),
    };
    match result {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                eprintln!("{finding}");
            }
            eprintln!("{} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every finding, as one line each that says where, what is wrong, and how to mend it.
fn tidy(root: &Path) -> Result<Vec<String>, String> {
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    for (_, check) in CHECKS {
        findings.extend(check(&tree)?);
    }
    Ok(findings)
}

fn draw(root: &Path) -> Result<Vec<String>, String> {
    let path = root.join("ARCHITECTURE.md");
    let told = |error| format!("{}: {error}", path.display());
    let page = std::fs::read_to_string(&path).map_err(told)?;
    std::fs::write(&path, diagram::renewed(&page)?).map_err(told)?;
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let findings = tidy(root).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
