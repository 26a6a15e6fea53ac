//! How JSON of any shape is held in MongoDB, and read back as it was.
//!
//! Field names of others can have dots, dollars and zeros, be nested deeper than MongoDB goes, or hold numbers that it cannot.
//! What it can hold is stored as it is, for people and queries; the rest as text under [`TEXT`].

use mongodb::bson::Bson;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Number, Value as Json};

use crate::Text;

/// The one field of an object that stands for a value which MongoDB cannot hold: its JSON text.
const TEXT: &str = "%json";

/// Nesting of a value that is stored as it is. MongoDB takes 100 levels in all, some of which are the document's and the
/// command's own.
const DEPTH_MAX: u32 = 60;

/// A value as it is stored.
pub(super) struct Held<'a>(pub &'a Json);

impl Serialize for Held<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if is_plain(self.0, DEPTH_MAX) {
            return self.0.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(TEXT, &self.0.to_string())?;
        map.end()
    }
}

/// The same of its text.
pub(super) struct HeldText<'a>(pub &'a Text);

impl Serialize for HeldText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Held(&self.0.to_json()).serialize(serializer)
    }
}

fn is_plain(json: &Json, depth_left: u32) -> bool {
    match json {
        Json::Null | Json::Bool(_) | Json::String(_) => true,
        Json::Number(number) => !number.is_u64() || number.is_i64(),
        Json::Array(items) => depth_left > 0 && items.iter().all(|item| is_plain(item, depth_left - 1)),
        Json::Object(fields) => {
            depth_left > 0
                && fields
                    .iter()
                    .all(|(name, value)| is_plain_name(name) && is_plain(value, depth_left - 1))
        }
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('$') && !name.contains(['.', '\0']) && name != TEXT
}

/// A note's id as a field name that can stand in a path.
pub(super) fn field_of(id: &str) -> String {
    let mut field = String::with_capacity(id.len());
    for c in id.chars() {
        match c {
            '%' => field.push_str("%25"),
            '.' => field.push_str("%2E"),
            '$' => field.push_str("%24"),
            '\0' => field.push_str("%00"),
            plain => field.push(plain),
        }
    }
    if field.is_empty() {
        field.push('%');
    }
    field
}

/// The note's id that [`field_of`] made this of.
pub(super) fn id_of(field: &str) -> String {
    if field == "%" {
        return String::new();
    }
    field
        .replace("%00", "\0")
        .replace("%24", "$")
        .replace("%2E", ".")
        .replace("%25", "%")
}

/// A stored value as JSON. Types that we never write (somebody may have edited the document) are shown in words.
pub(super) fn json_of(bson: Bson) -> Json {
    match bson {
        Bson::Null | Bson::Undefined => Json::Null,
        Bson::Boolean(value) => Json::Bool(value),
        Bson::Int32(value) => Json::from(value),
        Bson::Int64(value) => Json::from(value),
        Bson::Double(value) => Number::from_f64(value).map_or(Json::Null, Json::Number),
        Bson::String(text) => Json::String(text),
        Bson::DateTime(time) => Json::from(time.timestamp_millis()),
        Bson::Array(items) => Json::Array(items.into_iter().map(json_of).collect()),
        Bson::Document(fields) => {
            if fields.len() == 1
                && let Ok(text) = fields.get_str(TEXT)
                && let Ok(value) = serde_json::from_str(text)
            {
                return value;
            }
            let fields: Map<_, _> = fields
                .into_iter()
                .map(|(name, value)| (name, json_of(value)))
                .collect();
            Json::Object(fields)
        }
        other => Json::String(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn there_and_back(value: &Json) -> Json {
        #[derive(Serialize)]
        struct Holder<'a> {
            value: Held<'a>,
        }
        let stored = mongodb::bson::serialize_to_raw_document_buf(&Holder { value: Held(value) }).unwrap();
        let mut document = mongodb::bson::Document::try_from(stored).unwrap();
        json_of(document.remove("value").unwrap())
    }

    #[test]
    fn what_mongodb_cannot_hold_comes_back_as_it_was() {
        let mut deep = json!(1);
        for _ in 0..120 {
            deep = json!([deep]);
        }
        for value in [
            json!({"a.b": {"$set": 1}, "$sealed": {"kid": "k"}}),
            json!({"\0": "\0", "": ""}),
            json!({"n": u64::MAX, "m": i64::MIN, "f": 1.0, "g": 1e300}),
            json!({"%json": "1"}),
            json!({"$oid": "507f1f77bcf86cd799439011"}),
            json!({"plain": [1, "two", null, {"three": 3}]}),
            deep,
        ] {
            assert_eq!(there_and_back(&value), value);
        }
    }

    proptest! {
        #[test]
        fn every_note_id_is_a_field_name_and_comes_back(id in "[%.$a0\u{0}25E4ü]{0,12}") {
            let field = field_of(&id);
            prop_assert!(is_plain_name(&field), "{field:?}");
            prop_assert_eq!(id_of(&field), id);
        }
    }
}
