//! JSON Schemas (2020-12) of what clients write and read: each stands beside the check that it describes and goes by the same
//! limits, so that neither can drift.
//!
//! Where a field may be left out, it may be `null` as well: the checks take both for the same ([`optional`]).

use serde_json::{Map, Value as Json, json};

use crate::{Channel, Priority, Status, delivery::Policy, fields::Text};

/// One line of text that is not empty.
const LINE: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// Any text without NUL that is not empty.
const LINES: &str = r"^[^\u0000]*[^\s\u0000][^\u0000]*$";
/// Any text without NUL.
const ANY: &str = r"^[^\u0000]*$";

/// Text that is like this.
pub fn text(rule: Text) -> Json {
    let pattern = match (rule.lines, rule.chars_min) {
        (false, _) => LINE,
        (true, 0) => ANY,
        (true, _) => LINES,
    };
    let mut schema = json!({"type": "string", "pattern": pattern});
    if rule.chars_min > 0 {
        schema["minLength"] = json!(rule.chars_min);
    }
    if rule.chars_max < usize::MAX {
        schema["maxLength"] = json!(rule.chars_max);
    }
    schema
}

/// Letters, digits and `marks`, so many of them at most.
pub fn name(marks: &str, chars_max: usize) -> Json {
    let marks = marks.replace('-', r"\-");
    json!({"type": "string", "pattern": format!("^[A-Za-z0-9{marks}]+$"), "minLength": 1, "maxLength": chars_max})
}

/// One of these names.
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Json {
    let names: Vec<&str> = names.into_iter().collect();
    json!({"type": "string", "enum": names})
}

/// A time with its offset, as clients write it.
pub fn time() -> Json {
    json!({"type": "string", "format": "date-time"})
}

/// A time with its offset, or milliseconds since the Unix epoch.
pub fn moment() -> Json {
    json!({
        "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}],
        "description": "RFC 3339, or milliseconds since the Unix epoch.",
    })
}

/// A time as answers have it: UTC, with milliseconds.
pub fn written_time() -> Json {
    json!({"type": "string", "format": "date-time", "examples": ["2030-01-31T09:00:00.000Z"]})
}

/// A component of the document.
pub fn component(name: &str) -> Json {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The same, said in words.
#[must_use]
pub fn described(mut schema: Json, description: &str) -> Json {
    schema["description"] = json!(description);
    schema
}

/// The same, or `null`, which means that it is left out.
#[must_use]
pub fn optional(mut schema: Json) -> Json {
    let Some(fields) = schema.as_object_mut() else {
        return schema;
    };
    match fields.get("type") {
        Some(Json::String(kind)) => {
            let kinds = json!([kind, "null"]);
            fields.insert("type".to_owned(), kinds);
            if let Some(Json::Array(names)) = fields.get_mut("enum") {
                names.push(Json::Null);
            }
            schema
        }
        // What may be anything may be null already.
        None if !fields.contains_key("$ref")
            && !fields.contains_key("oneOf")
            && !fields.contains_key("anyOf") =>
        {
            schema
        }
        _ => {
            let description = fields.remove("description");
            let mut either = json!({"anyOf": [schema, {"type": "null"}]});
            if let Some(description) = description {
                either["description"] = description;
            }
            either
        }
    }
}

/// An object of these fields and no others. A field is its name, whether it must be there, and its schema, to which
/// [`optional`] is applied if it need not.
pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, bool, Json)>) -> Json {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, is_required, schema) in fields {
        if is_required {
            required.push(name);
        }
        let schema = if is_required { schema } else { optional(schema) };
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The same of fields none of which may be `null`.
pub fn exact<'a>(fields: impl IntoIterator<Item = (&'a str, bool, Json)>) -> Json {
    let mut schema = answer(fields);
    schema["additionalProperties"] = json!(false);
    schema
}

/// An object of an answer: readers should expect more fields to come. A field is its name, whether it is always there, and its
/// schema; absent is never `null`.
pub fn answer<'a>(fields: impl IntoIterator<Item = (&'a str, bool, Json)>) -> Json {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, is_required, schema) in fields {
        if is_required {
            required.push(name);
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// A list of so many.
pub fn list(items: Json, least: usize, most: usize) -> Json {
    json!({"type": "array", "items": items, "minItems": least, "maxItems": most})
}

/// Any text.
pub fn any_text() -> Json {
    json!({"type": "string"})
}

/// A whole number that is not negative.
pub fn count() -> Json {
    json!({"type": "integer", "minimum": 0})
}

/// `true` or `false`.
pub fn boolean() -> Json {
    json!({"type": "boolean"})
}

/// The channels.
pub fn channel() -> Json {
    described(
        one_of(Channel::ALL.map(Channel::as_str)),
        "The way by which a message goes.",
    )
}

/// The statuses.
pub fn status() -> Json {
    described(one_of(Status::ALL.map(Status::as_str)), "Where an event stands.")
}

/// The priorities, as answers have them.
pub fn priority() -> Json {
    let all = [
        Priority::Low,
        Priority::Normal,
        Priority::High,
        Priority::Critical,
    ];
    described(
        one_of(all.map(Priority::as_str)),
        "How urgent an event is. Critical events never wait behind others.",
    )
}

/// What to do when a send is in doubt.
pub fn policy() -> Json {
    described(
        one_of(Policy::ALL.map(Policy::as_str)),
        "What to do when a send is in doubt: send again, or never twice.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_may_be_null() {
        assert_eq!(optional(any_text()), json!({"type": ["string", "null"]}));
        assert_eq!(
            optional(one_of(["a"])),
            json!({"type": ["string", "null"], "enum": ["a", null]})
        );
        assert_eq!(
            optional(described(component("X"), "x")),
            json!({"description": "x", "anyOf": [{"$ref": "#/components/schemas/X"}, {"type": "null"}]})
        );
        assert_eq!(optional(json!({})), json!({}));
    }

    #[test]
    fn an_object_has_no_fields_but_its_own() {
        let schema = object([("a", true, any_text()), ("b", false, count())]);
        assert_eq!(schema["required"], json!(["a"]));
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["b"]["type"], json!(["integer", "null"]));
    }
}
