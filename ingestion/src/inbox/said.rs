//! What a record of the inbox says: an event as `POST /event` takes it, by itself or as the data of a CloudEvent.
//!
//! A CloudEvent comes in one of two ways (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>):
//! structured, all of it in the value, or binary, its data in the value and its attributes in headers.

use std::borrow::Cow;

use posthaste_broker::{Header, Record};
use posthaste_event::{
    FieldError,
    fields::{Fields, Text, kind_of},
    nesting, trace,
};

use crate::{Settings, idempotency::Key, request::ANY};

/// The version of CloudEvents that is read, in its JSON format
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
const VERSION: &str = "1.0";

/// So begin the names of headers that are attributes of a CloudEvent.
const ATTRIBUTE: &str = "ce_";

/// The header that says what the value is.
const CONTENT_TYPE: &str = "content-type";

/// So begin the types of values that hold a whole CloudEvent, or several.
const CLOUD_EVENTS: &str = "application/cloudevents";

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
    let headers = record.headers.as_ref().map_or(&[][..], |headers| &headers.0);
    let content = essence(headers);
    match content.as_deref() {
        Some(content) if content.starts_with(CLOUD_EVENTS) => {
            structured_type(content).map_err(|error| vec![error])?;
            let mut fields = Fields::of("", text).map_err(|error| vec![error])?;
            let version = fields.required("specversion", VERSION);
            let version = version.and_then(|version| fields.as_text("specversion", version, ANY));
            return cloud_event(fields, version.as_deref(), settings);
        }
        _ if headers.iter().any(|header| header.name.starts_with(ATTRIBUTE)) => {
            return binary(headers, text, settings);
        }
        _ => {}
    }
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

/// The type of what a record holds, without its parameters and in small letters.
fn essence(headers: &[Header]) -> Option<String> {
    let header = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(CONTENT_TYPE))?;
    let text = std::str::from_utf8(header.value.as_deref()?).ok()?;
    Some(
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

/// Whether a structured CloudEvent is one that can be read.
fn structured_type(content: &str) -> Result<(), FieldError> {
    let rest = &content[CLOUD_EVENTS.len()..];
    if ["", "+json"].contains(&rest) {
        return Ok(());
    }
    let problem = match rest.starts_with("-batch") {
        true => "is a batch: each event needs a record, and gets an answer, of its own",
        false => "is a format that is not read",
    };
    Err(FieldError::new(
        CONTENT_TYPE,
        problem,
        "application/cloudevents+json, or application/json with ce_ headers",
    ))
}

/// A CloudEvent whose attributes are headers and whose data is the value.
fn binary<'a>(headers: &[Header], text: &'a str, settings: &Settings) -> Result<Said<'a>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let version = required(headers, "ce_specversion", settings, &mut errors);
    if version.is_some_and(|version| version != VERSION) {
        errors.push(FieldError::new("ce_specversion", "is another version", VERSION));
    }
    let id = required(headers, "ce_id", settings, &mut errors);
    let source = required(headers, "ce_source", settings, &mut errors);
    let _type = required(headers, "ce_type", settings, &mut errors);
    let content = attribute(headers, CONTENT_TYPE, settings, &mut errors);
    if content.is_some_and(|content| !is_json(&content)) {
        errors.push(FieldError::new(
            CONTENT_TYPE,
            "is not JSON",
            "application/json, or nothing",
        ));
    }
    let traceparent = attribute(headers, "ce_traceparent", settings, &mut errors);
    if kind_of(text) != "an object" {
        let problem = format!("must be an object, not {}", kind_of(text));
        errors.push(FieldError::new(
            "data",
            problem,
            "an event as POST /event takes it",
        ));
    }
    match (id, source) {
        (Some(id), Some(source)) if errors.is_empty() => Ok(Said {
            event: text,
            cloud_event_id: Some(id.clone().into_owned()),
            key: Key::CloudEvent {
                source: source.into_owned(),
                id: id.into_owned(),
            },
            traceparent: traceparent.and_then(|header| trace::sampled(&header).map(str::to_owned)),
        }),
        _ => Err(errors),
    }
}

fn required<'h>(
    headers: &'h [Header],
    name: &'static str,
    settings: &Settings,
    errors: &mut Vec<FieldError>,
) -> Option<Cow<'h, str>> {
    let is_given = |header: &Header| header.name.eq_ignore_ascii_case(name) && header.value.is_some();
    if headers.iter().any(is_given) {
        return attribute(headers, name, settings, errors);
    }
    errors.push(FieldError::new(name, "is missing", "a header, one line of text"));
    None
}

/// The text of a header, if it is there.
fn attribute<'h>(
    headers: &'h [Header],
    name: &'static str,
    settings: &Settings,
    errors: &mut Vec<FieldError>,
) -> Option<Cow<'h, str>> {
    let mut same = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = same.next()?.value.as_deref()?;
    let problem = if same.next().is_some() {
        "is given twice"
    } else if value.len() > settings.event_bytes_max {
        "is too long"
    } else {
        match std::str::from_utf8(value) {
            Ok(text) if text.trim().is_empty() => "is empty",
            Ok(text) if text.chars().any(char::is_control) => "holds a control character",
            Ok(text) => return Some(text.into()),
            Err(_) => "is not UTF-8",
        }
    };
    errors.push(FieldError::new(name, problem, "a header, one line of text"));
    None
}

/// Whether a media type means JSON: `application/json`, `text/json`, or anything with `+json`.
fn is_json(content: &str) -> bool {
    let essence = content.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use posthaste_broker::{Headers, Partition};
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
            headers: None,
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

    fn with_headers(value: &str, headers: &[(&str, &[u8])]) -> Record {
        let header = |(name, value): &(&str, &[u8])| Header {
            name: (*name).to_owned(),
            value: Some(value.to_vec()),
        };
        let mut record = record(Some(value));
        record.headers = Some(Box::new(Headers(headers.iter().map(header).collect())));
        record
    }

    const GOOD: [(&str, &[u8]); 5] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", "Ä-1".as_bytes()),
        ("ce_source", b"/orders"),
        ("ce_type", b"com.example.order"),
        ("content-type", b"application/json; charset=utf-8"),
    ];

    #[test]
    fn a_cloud_event_in_headers_is_the_same_as_one_in_the_value() {
        let event = r#" {"channel": "sms"}"#;
        let trace: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let more: [(&str, &[u8]); 3] = [
            ("ce_traceparent", trace),
            ("ce_time", b"2030-01-31T09:00:00Z"),
            ("other", b"\xff"),
        ];
        let record = with_headers(event, &[&GOOD[..], &more].concat());
        let said = read(&record, &settings()).unwrap();
        assert_eq!(said.event, event);
        let (source, id) = ("/orders".to_owned(), "Ä-1".to_owned());
        assert_eq!(said.key, Key::CloudEvent { source, id });
        assert_eq!(said.cloud_event_id.as_deref(), Some("Ä-1"));
        assert_eq!(said.traceparent.as_deref().map(str::as_bytes), Some(trace));
        // Headers of somebody's own make no CloudEvent.
        let plain = with_headers(event, &[("content-type", b"text/plain"), ("trace", b"1")]);
        assert!(!read(&plain, &settings()).unwrap().is_wrapped());
        // One that is whole in its value may say so.
        let whole =
            json!({"specversion": "1.0", "type": "t", "source": "s", "id": "i", "data": {}}).to_string();
        for content in [
            "application/cloudevents+json; charset=UTF-8",
            "application/cloudevents",
        ] {
            let record = with_headers(
                &whole,
                &[("content-type", content.as_bytes()), ("ce_id", b"another")],
            );
            let said = read(&record, &settings()).unwrap();
            assert_eq!(said.cloud_event_id.as_deref(), Some("i"), "{content}");
        }
    }

    #[test]
    fn headers_that_make_no_cloud_event_are_refused_by_name() {
        let refused = |value: &str, headers: &[(&str, &[u8])]| {
            let errors = read(&with_headers(value, headers), &settings()).unwrap_err();
            errors
                .into_iter()
                .map(|error| error.field)
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (index, (name, _)) in GOOD.iter().enumerate().take(4) {
            let mut headers = GOOD.to_vec();
            headers.remove(index);
            assert_eq!(refused("{}", &headers), *name);
            for wrong in [&b""[..], b" ", b"a\nb", b"\xff", &vec![b'x'; 300_000]] {
                headers.truncate(4);
                headers.push((name, wrong));
                assert_eq!(refused("{}", &headers), *name);
                headers.pop();
            }
            let twice = [&GOOD[..], &GOOD[index..=index]].concat();
            assert_eq!(refused("{}", &twice), *name);
        }
        let with = |name: &'static str, value: &'static [u8]| {
            let mut headers = GOOD.to_vec();
            headers.retain(|(known, _)| *known != name);
            headers.push((name, value));
            headers
        };
        assert_eq!(refused("{}", &with("ce_specversion", b"0.3")), "ce_specversion");
        assert_eq!(
            refused("{}", &with("content-type", b"application/xml")),
            "content-type"
        );
        for value in ["[]", "7", "", "\"text\""] {
            assert_eq!(refused(value, &GOOD), "data", "{value}");
        }
        for (content, value) in [
            ("application/cloudevents-batch+json", "[]"),
            ("application/cloudevents-batch", "[{}]"),
            ("Application/CloudEvents+avro", "{}"),
        ] {
            assert_eq!(
                refused(value, &with("content-type", content.as_bytes())),
                "content-type",
                "{content}"
            );
        }
        let declared = [("content-type", &b"application/cloudevents+json"[..])];
        assert_eq!(refused("{}", &declared), "specversion id source type data");
        let nothing = Record {
            value: None,
            ..with_headers("", &GOOD)
        };
        assert_eq!(read(&nothing, &settings()).unwrap_err()[0].field, "value");
    }
}
