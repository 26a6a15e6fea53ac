//! The part of the template language that may be used: what cannot make much of little.
//!
//! The engine's own limit counts steps, not bytes. So whatever doubles a text in one step (joining, repeating, capturing) is
//! refused here, before the engine sees it; filters are ours and bounded (see [`super::language`]).

use super::language::{FILTERS, TESTS};

/// Statements that may be used.
const STATEMENTS: [&str; 6] = ["for", "endfor", "if", "elif", "else", "endif"];

/// Deepest nesting of statements, and of brackets in an expression.
const NESTING_MAX: usize = 12;

const NAMELESS: &str = "a name is missing after `|` or `is`";

/// Checks a template's text.
///
/// # Errors
/// What has no place in it, in words, with what would be accepted.
pub(super) fn check(source: &str) -> Result<(), String> {
    let mut rest = source;
    let mut open = 0_usize;
    while let Some(at) = rest.find('{') {
        let after = &rest[at + 1..];
        rest = match after.bytes().next() {
            Some(b'{') => {
                let end = tag_end(&after[1..], "}}")?;
                words(&after[1..1 + end])?;
                &after[1 + end + 2..]
            }
            Some(b'%') => {
                let end = tag_end(&after[1..], "%}")?;
                open = statement(&after[1..1 + end], open)?;
                &after[1 + end + 2..]
            }
            Some(b'#') => {
                let end = after.find("#}").ok_or("`{#` without its `#}`")?;
                &after[end + 2..]
            }
            _ => after,
        };
    }
    Ok(())
}

/// Where the tag ends: outside of quotes.
fn tag_end(tag: &str, end: &str) -> Result<usize, String> {
    let bytes = tag.as_bytes();
    let (mut quote, mut at) = (None, 0);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(mark), byte) if byte == mark => quote = None,
            (Some(_), b'\\') => at += 1,
            (Some(_), _) => {}
            (None, mark @ (b'"' | b'\'')) => quote = Some(mark),
            (None, _) if bytes[at..].starts_with(end.as_bytes()) => return Ok(at),
            (None, b'{' | b'}') => return Err("`{` and `}` have no place inside of a tag".to_owned()),
            (None, _) => {}
        }
        at += 1;
    }
    Err(format!("a tag without its `{end}`"))
}

fn statement(tag: &str, open: usize) -> Result<usize, String> {
    let tag = tag.strip_prefix('-').unwrap_or(tag);
    let inside = tag.trim_start();
    let name: &str = inside
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default();
    if !STATEMENTS.contains(&name) {
        return Err(format!(
            "the statement {:?} has no place here; accepted: {}",
            posthaste_event::fields::excerpt(name),
            STATEMENTS.join(", ")
        ));
    }
    words(&inside[name.len()..])?;
    match name {
        "for" | "if" if open >= NESTING_MAX => Err(format!("nested deeper than {NESTING_MAX} levels")),
        "for" | "if" => Ok(open + 1),
        "endfor" | "endif" => Ok(open.saturating_sub(1)),
        _ => Ok(open),
    }
}

/// What stands in a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Anything,
    /// `|`: a filter's name comes.
    Pipe,
    /// `is`, or `is not`: a test's name comes.
    Is,
}

fn words(tag: &str) -> Result<(), String> {
    let bytes = tag.as_bytes();
    let (mut at, mut depth, mut before) = (0, 0_usize, Before::Anything);
    while at < bytes.len() {
        let byte = bytes[at];
        match byte {
            b'"' | b'\'' => at = text_end(bytes, at),
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'0'..=b'9' => {
                let length = bytes[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
                    .count();
                before = word(&tag[at..at + length], before)?;
                at += length;
                continue;
            }
            b'(' | b'[' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return Err(format!("brackets nested deeper than {NESTING_MAX} levels"));
                }
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            b'|' => {
                before = Before::Pipe;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'.' | b',' | b'<' | b'>' | b'=' | b'!' | b'-' | b'/' | b'%' => {}
            _ => return Err(no_place(tag[at..].chars().next())),
        }
        if before != Before::Anything {
            return Err(NAMELESS.to_owned());
        }
        at += 1;
    }
    if before == Before::Anything {
        Ok(())
    } else {
        Err(NAMELESS.to_owned())
    }
}

fn no_place(found: Option<char>) -> String {
    let found = found.unwrap_or_default();
    match found {
        '~' | '+' | '*' => format!(
            "`{found}` has no place here; accepted: {{{{ a }}}}{{{{ b }}}} for texts, the filters plus and times for numbers"
        ),
        _ => format!("{found:?} has no place in a tag"),
    }
}

/// The last byte of a text.
fn text_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != bytes[start] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

fn word(word: &str, before: Before) -> Result<Before, String> {
    let unknown = |what: &str, names: &[&str]| {
        let word = posthaste_event::fields::excerpt(word);
        Err(format!("unknown {what} {word:?}; accepted: {}", names.join(", ")))
    };
    match (before, word) {
        (Before::Pipe, name) if !FILTERS.contains(&name) => unknown("filter", &FILTERS),
        (Before::Is, "not") => Ok(Before::Is),
        (Before::Is, name) if !TESTS.contains(&name) => unknown("test", &TESTS),
        (Before::Anything, "is") => Ok(Before::Is),
        (Before::Anything, "recursive") => Err("`recursive` has no place here".to_owned()),
        _ => Ok(Before::Anything),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_templates_are_made_of_passes() {
        for good in [
            "",
            "plain { text } with 100% # and *stars*",
            "Hello {{ userName }}{{-' '-}}{{ user.name | upper }}",
            "{% for item in items %}{{ loop.index }}. {{ item.name|default('}}') }}{% else %}none{% endfor %}",
            "{%- if a is not defined or b == \"x\" and not (c in [1, 2.5]) -%}x{% elif d %}y{% endif -%}",
            "{# a comment with {{ and * #}x",
            "{{ price | times(quantity) | round(2) }} {{ 'it\\'s' }}",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_makes_much_of_little_is_refused() {
        for bad in [
            "{{ 'x' * 100000000 }}",
            "{{ a ~ a }}",
            "{{ a + a }}",
            "{% set a = b %}",
            "{% set a %}x{% endset %}",
            "{% macro m() %}{% endmacro %}",
            "{% include 'x' %}",
            "{% extends 'x' %}",
            "{% import 'x' as y %}",
            "{% filter upper %}x{% endfilter %}",
            "{% raw %}{{ x }}{% endraw %}",
            "{% autoescape false %}{% endautoescape %}",
            "{% for a in b recursive %}{% endfor %}",
            "{{ a | safe }}",
            "{{ a | indent(1000000) }}",
            "{{ a is divisibleby(3) }}",
            "{{ {'a': 1} }}",
            "{{ a[1:2] }}",
            "{{ \u{fc}ber }}",
            "{{ a",
            "{% if",
            "{{ '}} }}",
            "{#",
            "{{ a | }}",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("{}x", "{% if a %}".repeat(13))).is_err());
        assert!(check(&format!("{{{{ {}a }}}}", "(".repeat(10_000))).is_err());
        assert!(check(&"{".repeat(100_000)).is_err());
    }
}
