//! What is wrong with a rule file, where, and what would be right.

use std::{fmt, ops::Range};

/// One fault of a rule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesError {
    /// Where the text came from: a file's name, or `shipped rules`.
    pub origin: String,
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// The key that it is about, empty when there is none.
    pub key: String,
    /// What is wrong, lowercase and without a full stop.
    pub problem: String,
    /// What would be accepted; empty when the problem says it.
    pub accepted: String,
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.accepted.is_empty() {
            write!(f, "; accepted: {}", self.accepted)?;
        }
        Ok(())
    }
}

impl std::error::Error for RulesError {}

/// Turns places in a text into errors.
pub(crate) struct Source<'a> {
    pub(crate) origin: &'a str,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    pub(crate) fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// An error about the value of `key` at `at`.
    pub(crate) fn error(
        &self,
        at: Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        accepted: impl Into<String>,
    ) -> RulesError {
        RulesError {
            origin: self.origin.to_owned(),
            line: self.line(at.start),
            key: key.into(),
            problem: problem.into(),
            accepted: accepted.into(),
        }
    }

    /// An error of the TOML reader: syntax, an unknown key, a missing key, a wrong type.
    pub(crate) fn toml(&self, error: &toml::de::Error) -> RulesError {
        let (line, key) = error.span().map_or((0, String::new()), |span| {
            (self.line(span.start), self.key_at(span))
        });
        RulesError {
            origin: self.origin.to_owned(),
            line,
            key,
            problem: plainly(error.message()),
            accepted: String::new(),
        }
    }

    /// The key that stands at a place, or that the value standing there belongs to.
    fn key_at(&self, span: Range<usize>) -> String {
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let here = self.text.get(span.clone()).unwrap_or("");
        let after = self
            .text
            .get(span.end..)
            .unwrap_or("")
            .trim_start_matches([' ', '\t']);
        if !here.is_empty() && here.chars().all(is_key) && after.starts_with('=') {
            return here.to_owned();
        }
        let before = self.text.get(..span.start).unwrap_or("");
        let line = &before[before.rfind('\n').map_or(0, |newline| newline + 1)..];
        let (left, _) = line.rsplit_once('=').unwrap_or_default();
        left.trim_end()
            .rsplit(|c| !is_key(c))
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}

/// The reader speaks of Rust's types; the author of a rule file need not know them.
fn plainly(message: &str) -> String {
    let message = message.trim_end_matches('.').replace('\n', "; ");
    for (theirs, ours) in [
        ("recursion limit", "nested too deeply"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list, such as [\"sms\"]"),
        ("expected a string", "expected a text in quotes"),
    ] {
        if let Some(start) = message.strip_suffix(theirs) {
            return format!("{start}{ours}");
        }
    }
    message
}
