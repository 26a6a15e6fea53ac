//! Codes of templates and configurations, and languages: names that can stand in a path, a file's name and a key.

use std::collections::BTreeMap;

pub(crate) use posthaste_event::definition::{CODE, CODE_CHARS_MAX, is_code};
use posthaste_event::{FieldError, fields::excerpt};
use serde_json::{Value as Json, json};

const LOCALE_CHARS_MAX: usize = 35;

/// What a language is.
pub(crate) const LOCALE: &str = "a language tag such as en or pt-BR";

/// What [`is_code`] takes.
pub(crate) fn code_schema() -> Json {
    json!({"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._\-]*$", "maxLength": CODE_CHARS_MAX})
}

/// What [`is_locale`] takes.
pub(crate) fn locale_schema() -> Json {
    json!({
        "type": "string", "pattern": "^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$", "maxLength": LOCALE_CHARS_MAX,
        "description": "A language, such as en or pt-BR.",
    })
}

/// The error for what is no code.
pub(crate) fn no_code(field: &str, text: &str) -> FieldError {
    FieldError::new(field, format!("{:?} is no code", excerpt(text)), CODE)
}

/// Whether this names a language (BCP 47, as far as it decides which text is taken).
pub(crate) fn is_locale(text: &str) -> bool {
    text.len() <= LOCALE_CHARS_MAX
        && text.split('-').all(|part| {
            (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// The key of `texts` that comes nearest to the first of `wanted` for which there is one: `de-AT`, then `de`.
pub(super) fn nearest<'a, T>(
    texts: &'a BTreeMap<String, T>,
    wanted: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    for wanted in wanted {
        let mut tag = wanted;
        loop {
            if let Some(found) = texts.keys().find(|known| known.eq_ignore_ascii_case(tag)) {
                return Some(found);
            }
            match tag.rsplit_once('-') {
                Some((shorter, _)) => tag = shorter,
                None => break,
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_goes_nowhere_else() {
        for good in ["a", "welcome-message", "0.1_x", &"x".repeat(128)] {
            assert!(is_code(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "-a",
            "a b",
            "a%2fb",
            "\u{fc}",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(!is_code(bad), "{bad}");
        }
    }

    #[test]
    fn the_nearest_language_is_taken() {
        let texts: BTreeMap<String, ()> = ["en", "pt-BR", "de"].map(|tag| (tag.to_owned(), ())).into();
        for (wanted, found) in [
            (&["pt-br"][..], Some("pt-BR")),
            (&["de-AT-1996"], Some("de")),
            (&["pt", "en"], Some("en")),
            (&["fr"], None),
        ] {
            assert_eq!(nearest(&texts, wanted.iter().copied()), found, "{wanted:?}");
        }
        for bad in ["", "en_US", "-", "en-", "../en", "toolongapart"] {
            assert!(!is_locale(bad), "{bad}");
        }
    }
}
