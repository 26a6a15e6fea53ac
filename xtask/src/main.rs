//! `cargo xtask tidy`: the rules of the house that no compiler checks.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

mod crates;
mod pages;
mod settings;
mod sources;
mod topics;
mod tree;

use tree::Tree;

/// Checks of this repository.
#[derive(Parser)]
enum Command {
    /// Checks crate directions, file and function sizes, opening lines, settings, topics, and the paths named in ARCHITECTURE.md.
    Tidy {
        /// The repository.
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Tidy { root } = Command::parse();
    match tidy(&root) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                eprintln!("{finding}");
            }
            eprintln!("{} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot check: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every finding, as one line each that says where, what is wrong, and how to mend it.
fn tidy(root: &std::path::Path) -> Result<Vec<String>, String> {
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    findings.extend(crates::check(&tree)?);
    findings.extend(sources::check(&tree));
    findings.extend(settings::check(&tree));
    findings.extend(pages::check(&tree));
    findings.extend(topics::check(&tree)?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let findings = tidy(root).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
