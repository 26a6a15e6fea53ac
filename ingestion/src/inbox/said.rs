//! What a record of the inbox says: an event as `POST /event` takes it, by itself or as the data of a CloudEvent.

use posthaste_broker::Record;
use posthaste_event::{
    FieldError,
    fields::{Fields, Text, kind_of},
    trace,
};

use crate::{Settings, idempotency::Key, nesting, request::ANY};

/// The version of CloudEvents that is read, in its JSON format
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
const VERSION: &str = "1.0";

/// Before the name of a field of the event, when it is the data of a CloudEvent.
pub(super) const DATA: &str = "data.";

/// What stands on a record.
#[derive(Debug)]
pub(super) struct Said<'a> {
    /// The event.
    pub(super) event: &'a str,
    /// By what the same is recognised when it comes again.
    pub(super) key: Key,
    pub(super) traceparent: Option<String>,
    /// The id of the CloudEvent, if it is one.
    pub(super) cloud_event_id: Option<String>,
}

impl Said<'_> {
    /// Whether the event is the data of a CloudEvent.
    pub(super) const fn is_wrapped(&self) -> bool {
        self.cloud_event_id.is_some()
    }
}

/// Reads a record.
///
/// # Errors
/// One per field that cannot be taken.
pub(super) fn read<'a>(record: &'a Record, settings: &Settings) -> Result<Said<'a>, Vec<FieldError>> {
    let no_event = |problem: &str| {
        vec![FieldError::new(
            "value",
            problem,
            "the JSON of an event, or of a CloudEvent",
        )]
    };
    let value = record.value.as_ref().ok_or_else(|| no_event("is missing"))?;
    let text = std::str::from_utf8(value).map_err(|_| no_event("is not UTF-8"))?;
    // What is no JSON object is refused where events are checked.
    let plain = Said {
        event: text,
        key: Key::Inbox {
            partition: record.partition.number,
            offset: record.offset,
            appended_at: record.appended_at,
        },
        traceparent: None,
        cloud_event_id: None,
    };
    if !text.contains("specversion") || nesting::is_deeper(text, settings.nesting_max) {
        return Ok(plain);
    }
    match Fields::of("", text) {
        Ok(mut fields) => match fields.take("specversion") {
            Some(version) => {
                let version = fields.as_text("specversion", version, ANY);
                cloud_event(fields, version.as_deref(), settings)
            }
            None => Ok(plain),
        },
        Err(_) => Ok(plain),
    }
}

fn cloud_event<'a>(
    mut fields: Fields<'a>,
    version: Option<&str>,
    settings: &Settings,
) -> Result<Said<'a>, Vec<FieldError>> {
    if version.is_some_and(|version| version != VERSION) {
        fields.error("specversion", "is another version", VERSION);
    }
    let attribute = Text::line(settings.event_bytes_max);
    let id = fields.required_text("id", attribute);
    let source = fields.required_text("source", attribute);
    let _type = fields.required_text("type", attribute);
    let content = fields.text("datacontenttype", attribute);
    if content.is_some_and(|content| !is_json(&content)) {
        fields.error("datacontenttype", "is not JSON", "application/json, or nothing");
    }
    if fields.take("data_base64").is_some() {
        fields.error("data_base64", "cannot be read", "the event as JSON in data");
    }
    let data = fields.required("data", "an event as POST /event takes it");
    if let Some(data) = data
        && !data.get().starts_with('{')
    {
        let problem = format!("must be an object, not {}", kind_of(data.get()));
        fields.error("data", problem, "an event as POST /event takes it");
    }
    // The extension for distributed tracing; other attributes are the sender's own.
    let traceparent = fields.text("traceparent", attribute);
    let said = id.zip(source).zip(data).map(|((id, source), data)| Said {
        event: data.get(),
        cloud_event_id: Some(id.clone().into_owned()),
        key: Key::CloudEvent {
            source: source.into_owned(),
            id: id.into_owned(),
        },
        traceparent: traceparent.and_then(|header| trace::sampled(&header).map(str::to_owned)),
    });
    fields.finish()?;
    said.ok_or_else(|| vec![FieldError::new("value", "cannot be read", "a CloudEvent")])
}

/// Whether a media type means JSON: `application/json`, `text/json`, or anything with `+json`.
fn is_json(content: &str) -> bool {
    let essence = content.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use posthaste_broker::Partition;
    use posthaste_event::Topic;
    use serde_json::{Value as Json, json};

    use super::*;

    fn record(value: Option<&str>) -> Record {
        Record {
            partition: Partition {
                topic: Topic::Inbox,
                number: 3,
            },
            offset: 17,
            key: None,
            value: value.map(|value| value.to_owned().into()),
            appended_at: 5,
        }
    }

    fn settings() -> Settings {
        let table: toml::Table = toml::from_str(crate::DEFAULTS).unwrap();
        table["ingestion"].clone().try_into().unwrap()
    }

    fn refused(value: &Json) -> Vec<String> {
        let record = record(Some(&value.to_string()));
        let errors = read(&record, &settings()).unwrap_err();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn an_event_is_known_by_its_place_and_a_cloud_event_by_its_source_and_id() {
        let event = json!({"channel": "sms", "metadata": {"note": "no specversion here"}});
        let plain = record(Some(&event.to_string()));
        let said = read(&plain, &settings()).unwrap();
        assert_eq!(said.event, event.to_string());
        let place = Key::Inbox {
            partition: 3,
            offset: 17,
            appended_at: 5,
        };
        assert_eq!(said.key, place);
        assert!(!said.is_wrapped());

        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let cloud = json!({
            "specversion": "1.0", "type": "com.example.order", "source": "/orders", "id": "A-1", "comexampleown": 7,
            "datacontenttype": "application/JSON; charset=utf-8", "traceparent": trace, "data": event,
        });
        let cloud = record(Some(&cloud.to_string()));
        let said = read(&cloud, &settings()).unwrap();
        assert_eq!(said.event, event.to_string());
        assert_eq!(said.traceparent.as_deref(), Some(trace));
        let (source, id) = ("/orders".to_owned(), "A-1".to_owned());
        assert_eq!(said.key, Key::CloudEvent { source, id });
        assert!(said.is_wrapped());
    }

    #[test]
    fn what_is_no_cloud_event_is_refused_by_field() {
        let good = json!({"specversion": "1.0", "type": "t", "source": "s", "id": "i", "data": {}});
        let with = |name: &str, value: Json| {
            let mut changed = good.clone();
            changed[name] = value;
            refused(&changed)
        };
        for (name, value) in [
            ("specversion", json!("0.3")),
            ("specversion", json!(1.0)),
            ("id", json!("")),
            ("source", json!(3)),
            ("type", Json::Null),
            ("data", json!("text")),
            ("data", Json::Null),
            ("datacontenttype", json!("text/plain")),
            ("data_base64", json!("e30=")),
        ] {
            assert_eq!(with(name, value), [name]);
        }
        assert_eq!(read(&record(None), &settings()).unwrap_err()[0].field, "value");
        let mut bytes = record(Some(""));
        bytes.value = Some(b"\xff".as_slice().into());
        assert_eq!(read(&bytes, &settings()).unwrap_err()[0].field, "value");
    }
}
