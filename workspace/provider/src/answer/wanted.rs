//! What of a JSON answer is kept: providers say much that nobody asks for, and each send reads it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value as Json};

/// Places in an answer that may be looked at.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// All that is here.
    whole: bool,
    members: BTreeMap<String, Wanted>,
}

impl Wanted {
    /// This place too; elements of a list are members by their number, or `*`.
    pub(super) fn add(&mut self, path: &[String]) {
        match path.split_first() {
            Some((first, rest)) => self.members.entry(first.clone()).or_default().add(rest),
            None => self.whole = true,
        }
    }

    /// Reads these places. What cannot be looked at is left out, or is `null`; so is all of what is not JSON. What is left out is only
    /// passed over: a number too large or lists too deep there do not spoil the rest.
    pub(super) fn read(&self, text: &str) -> Json {
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = self.deserialize(&mut reader);
        read.and_then(|json| reader.end().map(|()| json))
            .unwrap_or_default()
    }
}

impl<'de> DeserializeSeed<'de> for &Wanted {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Json, D::Error> {
        if self.whole {
            return Json::deserialize(reader);
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Wanted {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut kept = Map::new();
        while let Some(member) = members.next_key_seed(Name(self))? {
            match member {
                Some((name, wanted)) => {
                    let value = members.next_value_seed(wanted)?;
                    kept.insert(name.clone(), value);
                }
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(kept.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut kept = Vec::new();
        // Each may be looked at under its number and under `*`.
        while let Some(element) = elements.next_element::<Json>()? {
            kept.push(element);
        }
        Ok(kept.into())
    }

    // Nothing is in any of these.
    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Json, E> {
        Ok(Json::Null)
    }
}

/// A member's name; read as the member that it names, if that is wanted.
struct Name<'w>(&'w Wanted);

impl<'de, 'w> DeserializeSeed<'de> for Name<'w> {
    type Value = Option<(&'w String, &'w Wanted)>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de, 'w> Visitor<'de> for Name<'w> {
    type Value = Option<(&'w String, &'w Wanted)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.members.get_key_value(name))
    }
}
