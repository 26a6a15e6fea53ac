//! Rust sources: opening lines, sizes, names of folders, and the one place where the clock is read.

use proc_macro2::Span;
use syn::{
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::tree::Tree;

/// Longest file, in lines.
const FILE_LINES_MAX: usize = 500;

/// Longest function, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "core", "shared",
];

/// Where the clock may be read.
const CLOCK: &str = "workspace/event/src/clock.rs";

/// Every way to the wall clock, by whatever library. The first two under any name: who imports them reads it.
const CLOCK_WORDS: &[&str] = &[
    "SystemTime",
    "UNIX_EPOCH",
    "Timestamp::now",
    "Zoned::now",
    "Utc::now",
    "Local::now",
    "now_utc(",
    "now_local(",
];

/// Checks every Rust source, and the names of all files and folders.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    let mut findings: Vec<String> = tree.files.keys().filter_map(|path| check_name(path)).collect();
    findings.extend(tree.rust().flat_map(|(path, text)| check_file(path, text)));
    Ok(findings)
}

fn check_name(path: &str) -> Option<String> {
    let name = path.split('/').find(|part| {
        let name = part.split_once('.').map_or(*part, |(name, _)| name);
        EMPTY_NAMES.contains(&name)
    })?;
    Some(format!(
        "{path}: {name:?} says nothing; name it after what it is about"
    ))
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{path}:1: open with `//!` and what the file is for"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!(
            "{path}: {lines} lines, at most {FILE_LINES_MAX}; split it by what it is about"
        ));
    }
    // This very check, and what breaks it on purpose, name what they look for.
    if path != CLOCK && !path.starts_with("xtask/src/") {
        for (number, line) in text.lines().enumerate() {
            if CLOCK_WORDS.iter().any(|word| line.contains(word)) {
                findings.push(format!(
                    "{path}:{}: the clock is read in {CLOCK} alone",
                    number + 1
                ));
            }
        }
    }
    match syn::parse_file(text) {
        Ok(file) => {
            let mut functions = Functions {
                path,
                findings: &mut findings,
            };
            functions.visit_file(&file);
        }
        Err(error) => findings.push(format!("{path}: not Rust: {error}")),
    }
    findings
}

struct Functions<'a> {
    path: &'a str,
    findings: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, body: Span) {
        let lines = body.end().line.saturating_sub(body.start().line) + 1;
        if lines > FUNCTION_LINES_MAX {
            self.findings.push(format!(
                "{}:{}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}; give its parts names",
                self.path,
                body.start().line
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        // A test may be a long table of cases.
        let is_test = |attribute: &syn::Attribute| {
            attribute
                .path()
                .segments
                .last()
                .is_some_and(|segment| segment.ident == "test")
        };
        if function.attrs.iter().any(is_test) {
            return;
        }
        self.measure(&function.sig.ident, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig.ident, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_offence() {
        assert!(check_file("a/src/lib.rs", "//! Fine.\nfn a() {}\n").is_empty());
        let long = format!("//! Long.\nfn a() {{\n{}}}\n", "    let _ = 1;\n".repeat(70));
        let many = format!("//! Many.\n{}", "// x\n".repeat(500));
        for (path, text) in [
            ("a/src/lib.rs", "fn a() {}\n"),
            ("a/src/x.rs", "//! x\nfn a() { std::time::SystemTime::now(); }\n"),
            ("a/src/x.rs", "//! x\nuse std::time::SystemTime as Clock;\n"),
            ("a/src/x.rs", "//! x\nfn a() { jiff::Zoned::now(); }\n"),
            ("a/src/x.rs", long.as_str()),
            ("a/src/x.rs", many.as_str()),
            ("a/src/x.rs", "//! x\nfn {"),
        ] {
            assert_eq!(
                check_file(path, text).len(),
                1,
                "{path}: {:?}",
                check_file(path, text)
            );
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_found_anywhere() {
        for path in [
            "a/src/util.rs",
            "a/src/common/x.rs",
            "deploy/shared/x.yml",
            "helpers.tar.gz",
        ] {
            assert!(check_name(path).is_some(), "{path}");
        }
        for path in ["a/src/utility.rs", "commons/x.rs", "src/score.rs"] {
            assert!(check_name(path).is_none(), "{path}");
        }
    }
}
