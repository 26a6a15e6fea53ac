//! Takes out of a text what it repeats of a payload: providers' errors quote numbers, addresses, whole messages.

use std::borrow::Cow;

use serde_json::{Value as Json, value::RawValue};

/// Stands for what was taken out.
const MASKED: &str = "***";
/// Shorter words say nothing of anybody, in characters.
const WORD_CHARS_MIN: usize = 3;
/// A word of a payload of this length gives a longer word away that holds it, in characters.
const PART_CHARS_MIN: usize = 4;
/// A payload with more than this is not looked through, in bytes: then no word of the text stays.
const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// The words of one payload.
#[derive(Debug)]
pub struct Mask {
    /// All its texts and numbers in small letters; and of each once more just its digits, since numbers are written in many ways. `None`: too
    /// long to be looked through.
    texts: Option<String>,
}

impl Mask {
    /// That of a payload in clear.
    pub fn of(payload: &RawValue) -> Self {
        let is_short = payload.get().len() <= PAYLOAD_BYTES_MAX;
        let read = is_short
            .then(|| serde_json::from_str::<Json>(payload.get()).ok())
            .flatten();
        Self {
            texts: read.map(|payload| {
                let mut texts = String::new();
                gather(&payload, &mut texts);
                texts
            }),
        }
    }

    /// The text, without the words that are part of the payload or hold a part of it.
    pub fn text(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            masked.push_str(if self.holds(word) { MASKED } else { word });
            let next = after.find(char::is_alphanumeric).unwrap_or(after.len());
            let (between, next) = after.split_at(next);
            masked.push_str(between);
            rest = next;
        }
        masked
    }

    fn holds(&self, word: &str) -> bool {
        if word.chars().count() < WORD_CHARS_MIN {
            return false;
        }
        let Some(texts) = &self.texts else {
            return true;
        };
        let word = word.to_lowercase();
        if texts.contains(&word) {
            return true;
        }
        let mut parts = texts.split(|c: char| !c.is_alphanumeric());
        parts.any(|part| part.chars().count() >= PART_CHARS_MIN && word.contains(part))
    }
}

fn gather(value: &Json, texts: &mut String) {
    let said: Cow<'_, str> = match value {
        Json::Null | Json::Bool(_) => return,
        Json::Number(number) => number.to_string().into(),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => return items.iter().for_each(|item| gather(item, texts)),
        Json::Object(members) => return members.values().for_each(|member| gather(member, texts)),
    };
    let digits: String = said.chars().filter(char::is_ascii_digit).collect();
    texts.push_str(&said.to_lowercase());
    texts.push('\n');
    texts.push_str(&digits);
    texts.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(payload: &Json, text: &str) -> String {
        Mask::of(&serde_json::value::to_raw_value(payload).unwrap()).text(text)
    }

    #[test]
    fn what_a_provider_quotes_is_taken_out_and_the_rest_stays() {
        let sms = json!({"message": "Your code is 4711", "phoneNumber": "(202) 555-5555"});
        for (text, expected) in [
            (
                "The number +12025555555 is not valid",
                "The number +*** is not valid",
            ),
            (
                "The number 202-555-5555 is not valid",
                "The number ***-***-*** is not valid",
            ),
            ("blocked: \"YOUR CODE IS 4711\"", "blocked: \"*** *** IS ***\""),
            ("cut off: your co", "cut off: *** co"),
            ("unauthorized", "unauthorized"),
            ("", ""),
        ] {
            assert_eq!(masked(&sms, text), expected);
        }
        let email = json!({"to": ["Änn@Example.com"], "subject": "x", "n": 123_456});
        for (text, expected) in [
            ("no such user: änn@example.com.", "no such user: ***@***.***."),
            (
                "550 5.1.1 <ÄNN@EXAMPLE.COM> unknown",
                "550 5.1.1 <***@***.***> unknown",
            ),
            ("bad value 123456", "bad value ***"),
        ] {
            assert_eq!(masked(&email, text), expected);
        }
    }

    #[test]
    fn of_a_long_payload_no_word_is_trusted() {
        let long = json!({"body": "x".repeat(PAYLOAD_BYTES_MAX)});
        assert_eq!(masked(&long, "HTTP 400: no such user"), "*** ***: no *** ***");
    }
}
