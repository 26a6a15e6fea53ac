//! The filters that provider files may use, besides those of the template language.
//!
//! Their errors end up in failure logs: they name what is wrong and what would be right, never the value itself.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, value::Value};

/// An environment that knows the filters and refuses undefined values.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("e164", e164);
    environment.add_filter("msisdn", msisdn);
    environment.add_filter("many", many);
    environment.add_filter("mailbox", mailbox);
    environment.add_filter("mailboxes", mailboxes);
    environment.add_filter("pick", pick);
    environment.add_filter("cut", cut);
    environment.add_filter("uuid", uuid);
    environment
}

/// A filter that makes text of text; its argument is empty if it takes none. `None`: the value is refused.
pub(crate) type TextFilter = fn(&str, &str) -> Option<String>;

/// The filters of text that can be had without the template engine.
pub(crate) fn on_text(name: &str, with_argument: bool) -> Option<TextFilter> {
    match (name, with_argument) {
        ("e164", true) => Some(|number, country| e164(number.to_owned(), country.to_owned()).ok()),
        ("msisdn", true) => Some(|number, country| msisdn(number.to_owned(), country.to_owned()).ok()),
        ("uuid", false) => Some(|text, _| Some(uuid(text.to_owned()))),
        _ => None,
    }
}

fn refused(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// A phone number in E.164 form: `+`, country code, number; 15 digits at most (ITU-T E.164, section 6).
///
/// A number without `+` or `00` and with at most 10 digits is a national one and gets `country_code`; a longer one is taken
/// to begin with its country code already.
fn e164(number: String, country_code: String) -> Result<String, Error> {
    let trimmed = number.trim();
    let (international, rest) = match trimmed.strip_prefix('+').or_else(|| trimmed.strip_prefix("00")) {
        Some(rest) => (true, rest),
        None => (false, trimmed),
    };
    if !rest.chars().all(|c| c.is_ascii_digit() || " .-()/".contains(c)) {
        return Err(refused(
            "the phone number has other characters than digits, spaces, dots, dashes and brackets",
        ));
    }
    let digits: String = rest.chars().filter(char::is_ascii_digit).collect();
    let full = if international || digits.len() > 10 {
        digits
    } else {
        format!(
            "{}{}",
            country_code.trim_start_matches('+'),
            digits.trim_start_matches('0')
        )
    };
    if !(7..=15).contains(&full.len()) || full.starts_with('0') {
        return Err(refused(
            "the phone number is not one: 7 to 15 digits with the country code are needed",
        ));
    }
    Ok(format!("+{full}"))
}

/// The same without the `+`.
fn msisdn(number: String, country_code: String) -> Result<String, Error> {
    e164(number, country_code).map(|number| number[1..].to_owned())
}

/// One value or a list of them, as a list; `none` stays `none`.
fn many(value: Value) -> Result<Value, Error> {
    if value.is_none() || value.as_str().is_none() {
        return Ok(value);
    }
    Ok(Value::from(vec![value]))
}

/// `Name <a@example.com>` or `a@example.com`, as `{"email", "name"}`; `none` stays `none`.
fn mailbox(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Ok(value);
    }
    let text = value
        .as_str()
        .ok_or_else(|| refused("an email address is not text"))?
        .trim();
    let Some(open) = text.rfind('<').filter(|_| text.ends_with('>')) else {
        return Ok(Value::from(BTreeMap::from([("email", Value::from(text))])));
    };
    let email = text[open + 1..text.len() - 1].trim();
    let name = text[..open].trim().trim_matches('"').trim();
    let mut parts = BTreeMap::from([("email", Value::from(email))]);
    if !name.is_empty() {
        parts.insert("name", Value::from(name));
    }
    Ok(Value::from(parts))
}

/// One address or a list of them, as a list of mailboxes; `none` stays `none`.
fn mailboxes(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Ok(value);
    }
    let boxes = many(value)?
        .try_iter()?
        .map(mailbox)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Value::from(boxes))
}

/// Of each object of a list a new one: `names` says what its members are called, and which members of the old one they are. What is not
/// there is left out, and an empty list is `none`.
fn pick(value: Value, names: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Ok(value);
    }
    let mut picked = Vec::new();
    for object in value.try_iter()? {
        let mut members = BTreeMap::new();
        for name in names.try_iter()? {
            let member = object.get_item(&names.get_item(&name)?)?;
            if !member.is_none() && !member.is_undefined() {
                members.insert(name.to_string(), member);
            }
        }
        picked.push(Value::from(members));
    }
    Ok(if picked.is_empty() {
        Value::from(())
    } else {
        Value::from(picked)
    })
}

/// At most this many bytes, cut between characters.
fn cut(text: String, bytes_max: usize) -> String {
    posthaste_event::failure::cut(&text, bytes_max).to_owned()
}

/// A UUID that is always the same for the same text, for interfaces that take nothing else as an idempotency key.
/// SHA-256 fills it; it has the form of version 4, which is what they check.
fn uuid(text: String) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_numbers_become_e164() {
        for (written, country, expected) in [
            ("2025555555", "1", Some("+12025555555")),
            ("(202) 555-5555", "+1", Some("+12025555555")),
            ("12025555555", "1", Some("+12025555555")),
            ("+49 30 123456", "1", Some("+4930123456")),
            ("0049 30 123456", "1", Some("+4930123456")),
            ("030 123456", "49", Some("+4930123456")),
            ("+1 202 555 CALL", "1", None),
            ("+1234567890123456", "1", None),
            ("12", "1", None),
            ("", "1", None),
        ] {
            let number = e164(written.to_owned(), country.to_owned()).ok();
            assert_eq!(number.as_deref(), expected, "{written}");
        }
        assert_eq!(
            msisdn("+31 6 12345678".to_owned(), "1".to_owned()).unwrap(),
            "31612345678"
        );
    }

    #[test]
    fn addresses_are_taken_apart() {
        let json = |value: Value| serde_json::to_string(&value).unwrap();
        assert_eq!(
            json(mailboxes(Value::from("Ann B <a@b.example>")).unwrap()),
            r#"[{"email":"a@b.example","name":"Ann B"}]"#
        );
        assert_eq!(
            json(mailboxes(Value::from(vec!["a@b.example", "<c@d.example>"])).unwrap()),
            r#"[{"email":"a@b.example"},{"email":"c@d.example"}]"#
        );
        assert!(mailboxes(Value::from(())).unwrap().is_none());
    }

    #[test]
    fn members_are_picked_by_their_new_names() {
        use minijinja::value::Serde;
        let json = |value: Value| serde_json::to_string(&value).unwrap();
        let list = Value::from(Serde(
            &serde_json::json!([{"a": 1, "b": null}, {"b": "x", "c": 2}]),
        ));
        let names = Value::from(Serde(&serde_json::json!({"first": "a", "second": "b"})));
        assert_eq!(
            json(pick(list, names.clone()).unwrap()),
            r#"[{"first":1},{"second":"x"}]"#
        );
        for nothing in [Value::from(()), Value::from(Vec::<Value>::new())] {
            assert!(pick(nothing, names.clone()).unwrap().is_none());
        }
        assert!(pick(Value::from(7), names).is_err());
    }

    #[test]
    fn the_same_text_gives_the_same_uuid() {
        let one = uuid("e:onesignal:0".to_owned());
        assert_eq!(one, uuid("e:onesignal:0".to_owned()));
        assert_ne!(one, uuid("e:onesignal:1".to_owned()));
        assert_eq!(uuid::Uuid::parse_str(&one).unwrap().get_version_num(), 4);
    }
}
