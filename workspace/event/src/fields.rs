//! Reads a JSON object field by field, and says of each field what is wrong with it.
//!
//! A derived reader stops at the first error and cannot say where it is; this one names every field that cannot be taken.
//! It borrows from the text: values are looked at where they stand and copied only when taken.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value as Json, value::RawValue};

use crate::FieldError;

/// Longest part of a value that is repeated in an error, in characters.
const QUOTED_CHARS_MAX: usize = 40;

/// Most fields of one object that are looked at; no object of ours has as many.
const FIELDS_MAX: usize = 256;

/// Whole numbers of up to so many characters always fit into 64 bits.
const WIDE_CHARS_MIN: usize = 18;

/// What a text must be like.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// Fewest characters.
    pub chars_min: usize,
    /// Most characters.
    pub chars_max: usize,
    /// Whether it may have several lines. If not, control characters are refused; NUL always is.
    pub lines: bool,
}

impl Text {
    /// One line, not empty.
    pub const fn line(chars_max: usize) -> Self {
        Self {
            chars_min: 1,
            chars_max,
            lines: false,
        }
    }

    /// Text of any number of lines, not empty.
    pub const fn lines(chars_max: usize) -> Self {
        Self {
            chars_min: 1,
            chars_max,
            lines: true,
        }
    }

    fn accepted(self) -> String {
        let form = if self.lines { "text" } else { "one line of text" };
        if self.chars_max == usize::MAX {
            return form.to_owned();
        }
        format!("{form}, {} to {} characters", self.chars_min, self.chars_max)
    }

    /// What is wrong with `text`, if anything.
    fn problem(self, text: &str) -> Option<String> {
        let is_refused = |c: char| c == '\0' || (!self.lines && c.is_control());
        if let Some(at) = text.chars().position(is_refused) {
            return Some(format!("holds a control character at position {at}"));
        }
        if self.chars_min > 0 && text.trim().is_empty() {
            return Some("is empty".to_owned());
        }
        // Bytes bound characters from above: most texts are never counted.
        let chars = if text.len() <= self.chars_max {
            text.len()
        } else {
            text.chars().count()
        };
        (chars > self.chars_max).then(|| format!("has {chars} characters"))
    }
}

/// The fields of one object, taken one after the other.
#[derive(Debug)]
pub struct Fields<'a> {
    prefix: &'static str,
    entries: Vec<Entry<'a>>,
    asked: Vec<&'static str>,
    errors: Vec<FieldError>,
}

#[derive(Debug)]
struct Entry<'a> {
    name: Cow<'a, str>,
    value: &'a RawValue,
    is_taken: bool,
}

impl<'a> Fields<'a> {
    /// Looks at the object `json`. `prefix` stands before each name in errors: `""`, or `"payload."`.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn of(prefix: &'static str, json: &'a str) -> Result<Self, FieldError> {
        let object: Object<'a> = serde_json::from_str(json).map_err(|error| {
            let name = prefix.trim_end_matches('.');
            let name = if name.is_empty() { "body" } else { name };
            let problem = if error.is_data() {
                format!("must be an object, not {}", kind_of(json))
            } else {
                format!(
                    "is not valid JSON at line {}, column {}",
                    error.line(),
                    error.column()
                )
            };
            FieldError::new(name, problem, "a JSON object")
        })?;
        let mut fields = Self {
            prefix,
            entries: object.0,
            asked: Vec::with_capacity(16),
            errors: Vec::new(),
        };
        fields.refuse_duplicates();
        Ok(fields)
    }

    /// The value of a field; absent and `null` are the same.
    pub fn take(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.take_any(name).filter(|value| value.get() != "null")
    }

    /// The value of a field that may also be `null`.
    pub fn take_any(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.asked.push(name);
        let entry = self.entries.iter_mut().find(|entry| entry.name == name)?;
        entry.is_taken = true;
        Some(entry.value)
    }

    /// The value of a field that must be there.
    pub fn required(&mut self, name: &'static str, accepted: &str) -> Option<&'a RawValue> {
        let value = self.take(name);
        if value.is_none() {
            self.error(name, "is missing", accepted);
        }
        value
    }

    /// A text that may be absent; `None` also after an error.
    pub fn text(&mut self, name: &'static str, rule: Text) -> Option<Cow<'a, str>> {
        let value = self.take(name)?;
        self.as_text(name, value, rule)
    }

    /// A text that must be there.
    pub fn required_text(&mut self, name: &'static str, rule: Text) -> Option<Cow<'a, str>> {
        match self.take(name) {
            Some(value) => self.as_text(name, value, rule),
            None => {
                self.error(name, "is missing", rule.accepted());
                None
            }
        }
    }

    /// A text that `check` must find good; its error is what is wrong and what is accepted.
    pub fn checked(
        &mut self,
        name: &'static str,
        rule: Text,
        check: impl FnOnce(&str) -> Result<(), (String, &'static str)>,
    ) -> Option<Cow<'a, str>> {
        let text = self.text(name, rule)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err((problem, accepted)) => {
                self.error(name, problem, accepted);
                None
            }
        }
    }

    /// Reads `value` as text and checks it; `name` may go deeper, such as `to[2]`.
    pub fn as_text(&mut self, name: &str, value: &'a RawValue, rule: Text) -> Option<Cow<'a, str>> {
        let text = match serde_json::from_str::<Borrowed<'a>>(value.get()) {
            Ok(Borrowed(text)) => text,
            Err(_) if value.get().starts_with('"') => {
                self.error(name, "holds an escape that is no character", rule.accepted());
                return None;
            }
            Err(_) => {
                self.error(
                    name,
                    format!("must be text, not {}", kind_of(value.get())),
                    rule.accepted(),
                );
                return None;
            }
        };
        if let Some(problem) = rule.problem(&text) {
            self.error(name, problem, rule.accepted());
            return None;
        }
        Some(text)
    }

    /// Any JSON value that can be read.
    pub fn as_json(&mut self, name: &str, value: &RawValue) -> Option<Json> {
        let json = serde_json::from_str(value.get());
        match json {
            Ok(json) if !holds_wide_integer(value.get()) => Some(json),
            _ => {
                self.error(
                    name,
                    "holds a number or an escape that cannot be read",
                    "JSON with numbers of 64 bits and escapes that are characters",
                );
                None
            }
        }
    }

    /// An object whose values are texts, such as headers. Absent is empty.
    pub fn texts(&mut self, name: &'static str, entries_max: usize, rule: Text) -> BTreeMap<String, String> {
        const FORM: &str = "an object of texts";
        let mut texts = BTreeMap::new();
        let Some(value) = self.take(name) else {
            return texts;
        };
        let Ok(Object(entries)) = serde_json::from_str::<Object<'a>>(value.get()) else {
            self.error(
                name,
                format!("must be an object, not {}", kind_of(value.get())),
                FORM,
            );
            return texts;
        };
        if entries.len() > entries_max {
            self.error(
                name,
                format!("has more than {entries_max} entries"),
                format!("{FORM}, up to {entries_max}"),
            );
            return texts;
        }
        for entry in entries {
            let deeper = format!("{name}.{}", excerpt(&entry.name));
            if let Some(text) = self.as_text(&deeper, entry.value, rule)
                && texts.insert(entry.name.into_owned(), text.into_owned()).is_some()
            {
                self.error(&deeper, "is given twice", "each name once");
            }
        }
        texts
    }

    /// Records that a field cannot be taken.
    pub fn error(&mut self, name: &str, problem: impl Into<String>, accepted: impl Into<String>) {
        self.errors.push(FieldError::new(
            format!("{}{name}", self.prefix),
            problem,
            accepted,
        ));
    }

    /// Records an error that somebody else found; its field is taken as it is.
    pub fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    /// Refuses what was not asked for: a misspelt field would be lost without a word.
    pub fn refuse_unknown(&mut self) {
        let unknown: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !entry.is_taken)
            .map(|entry| excerpt(&entry.name))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let accepted = self.asked.join(", ");
        for name in unknown {
            self.error(&name, "is not a field", accepted.clone());
        }
    }

    /// The errors, if there are any.
    ///
    /// # Errors
    /// One per field that cannot be taken.
    pub fn finish(self) -> Result<(), Vec<FieldError>> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(self.errors)
        }
    }

    fn refuse_duplicates(&mut self) {
        if self.entries.len() > FIELDS_MAX {
            self.entries.truncate(FIELDS_MAX);
            let name = self.prefix.trim_end_matches('.');
            let name = if name.is_empty() { "body" } else { name };
            self.errors.push(FieldError::new(
                name,
                format!("has more than {FIELDS_MAX} fields"),
                "the documented fields",
            ));
            return;
        }
        for index in 1..self.entries.len() {
            let name = &self.entries[index].name;
            if self.entries[..index].iter().any(|entry| entry.name == *name) {
                let field = format!("{}{}", self.prefix, excerpt(name));
                self.errors
                    .push(FieldError::new(field, "is given twice", "each field once"));
                self.entries[index].is_taken = true;
            }
        }
    }
}

/// The beginning of a text that somebody gave us, fit for an error: short, printable.
pub fn excerpt(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// What kind of JSON value a text begins.
pub fn kind_of(json: &str) -> &'static str {
    match json.trim_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "nothing",
    }
}

/// Whether a whole number in `json` has more than 64 bits. The parser would take it for the nearest float, and whoever it was
/// meant for would get another number without a word.
fn holds_wide_integer(json: &str) -> bool {
    let is_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let is_wide = |word: &str| {
        word.len() > WIDE_CHARS_MIN
            && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
            && word.parse::<u64>().is_err()
            && word.parse::<i64>().is_err()
    };
    let mut in_text = false;
    json.split('"').any(|piece| {
        let outside = !in_text;
        let escapes = piece.bytes().rev().take_while(|byte| *byte == b'\\').count();
        in_text = outside || escapes % 2 == 1;
        outside && piece.split(|c| !is_number(c)).any(is_wide)
    })
}

/// Text that is copied only if it holds escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object in its own order, duplicates and all.
struct Object<'a>(Vec<Entry<'a>>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries = Vec::with_capacity(12);
                while let Some((Borrowed(name), value)) = map.next_entry()? {
                    // One more than is looked at, so that too many can be told from just enough.
                    if entries.len() <= FIELDS_MAX {
                        entries.push(Entry {
                            name,
                            value,
                            is_taken: false,
                        });
                    }
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_cannot_be_taken_is_named() {
        let json = r#"{"a":1,"b":"","c":"x\ny","d":"ok","e":null,"z":1,"d":"again"}"#;
        let mut fields = Fields::of("payload.", json).unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(fields.required_text(name, Text::line(10)), None);
        }
        assert_eq!(fields.required_text("d", Text::line(10)).as_deref(), Some("ok"));
        assert_eq!(fields.required_text("e", Text::line(10)), None);
        fields.refuse_unknown();
        let errors = fields.finish().unwrap_err();
        let said: Vec<_> = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.problem))
            .collect();
        assert_eq!(
            said,
            [
                "payload.d is given twice",
                "payload.a must be text, not a number",
                "payload.b is empty",
                "payload.c holds a control character at position 1",
                "payload.e is missing",
                "payload.z is not a field",
            ]
        );
        assert_eq!(errors[5].accepted, "a, b, c, d, e");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(
            Fields::of("payload.", "[1]").unwrap_err().problem,
            "must be an object, not a list"
        );
        assert_eq!(Fields::of("", "3").unwrap_err().field, "body");
        assert!(
            Fields::of("", "{\"a\":")
                .unwrap_err()
                .problem
                .starts_with("is not valid JSON at line 1")
        );
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("a\nb\u{7}"), "a\\nb\\u{7}");
        assert_eq!(excerpt(&"ä".repeat(50)), format!("{}…", "ä".repeat(40)));
    }

    #[test]
    fn a_whole_number_beyond_64_bits_is_refused_and_a_text_of_digits_is_not() {
        for (json, is_taken) in [
            ("18446744073709551615", true),
            ("-9223372036854775808", true),
            ("18446744073709551616", false),
            ("[1,{\"a\":-9223372036854775809}]", false),
            ("{\"99999999999999999999\":\"99999999999999999999\"}", true),
            (r#"{"a\"":"\\","b":99999999999999999999}"#, false),
            (r#"{"a":"\\\"99999999999999999999"}"#, true),
            ("99999999999999999999.5", true),
            ("1e25", true),
        ] {
            let object = format!("{{\"a\":{json}}}");
            let mut fields = Fields::of("", &object).unwrap();
            let value = fields.take("a").unwrap();
            assert_eq!(fields.as_json("a", value).is_some(), is_taken, "{json}");
        }
    }

    #[test]
    fn a_lone_surrogate_is_no_text() {
        let mut fields = Fields::of("", r#"{"a":"\ud800"}"#).unwrap();
        assert_eq!(fields.text("a", Text::line(10)), None);
        assert_eq!(
            fields.finish().unwrap_err()[0].problem,
            "holds an escape that is no character"
        );
    }
}
