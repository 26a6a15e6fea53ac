//! What a client says of a broadcast, and the request that it makes for each recipient. Pure.

use std::collections::BTreeMap;

use posthaste_broadcast::Settings;
use posthaste_event::{
    FieldError, Millis, Priority,
    fields::{Fields, Text, kind_of},
    number::whole,
};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{messages::CONFIG, request};

/// Longest name of a broadcast.
pub(crate) const NAME_CHARS_MAX: usize = 200;

/// What stands beside the message and not in it, and what is the same thing twice for many.
pub(crate) const NOT_IN_MESSAGE: [(&str, &str); 6] = [
    ("tenant", "tenant beside message"),
    ("priority", "priority beside message"),
    ("urgent", "priority \"critical\" beside message"),
    ("scheduledAt", "scheduledAt beside message"),
    ("eventId", "nothing: each recipient's event gets its own"),
    ("orderingKey", "nothing: a broadcast has no order"),
];

/// The files that go with an email: in the payload, with a template beside it.
const FILES: &str = "attachments";

type Object = BTreeMap<String, Box<RawValue>>;

/// A broadcast, but for its recipients.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) name: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) chunk_size: u32,
    pub(super) chunk_delay_ms: u64,
    pub(super) priority: Option<Priority>,
    pub(super) scheduled_at: Option<Millis>,
    /// The stored list that it goes to.
    pub(super) list: Option<String>,
    pub(super) message: Message,
}

/// What all recipients get, each with its own variables.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Whether a template makes it.
    pub(super) is_templated: bool,
    fields: Object,
    payload: Object,
    metadata: Object,
}

/// What one recipient brings.
#[derive(Debug, Default)]
pub(super) struct Recipient<'a> {
    fields: BTreeMap<&'static str, &'a RawValue>,
    payload: BTreeMap<String, &'a RawValue>,
    metadata: BTreeMap<String, &'a RawValue>,
}

/// Reads a broadcast. Gives its `recipients` too, if `has_recipients` says that they stand there.
///
/// # Errors
/// One per field that cannot be taken; never empty.
pub(super) fn read<'a>(
    json: &'a str,
    has_recipients: bool,
    settings: &Settings,
    intake: &crate::Settings,
    now: Millis,
) -> Result<(Said, Option<&'a RawValue>), Vec<FieldError>> {
    let mut fields = Fields::of("", json).map_err(|error| vec![error])?;
    let name = fields.text("name", Text::line(NAME_CHARS_MAX));
    let tenant = fields.checked("tenant", request::ANY, request::tenant);
    let size_max = u64::from(settings.chunk_size_max);
    let chunk_size = number(&mut fields, "chunkSize", 1, size_max, "recipients");
    let delay_max = settings.chunk_delay_seconds_max.saturating_mul(1_000);
    let chunk_delay = number(&mut fields, "chunkDelay", 0, delay_max, "milliseconds");
    let priority = priority(&mut fields);
    let scheduled_at = request::time(&mut fields, "scheduledAt", intake, now);
    let accepted = "an object, as POST /event or POST /messages/request takes it";
    let message = fields.required("message", accepted);
    let list = has_recipients
        .then(|| fields.text("list", request::ANY))
        .flatten();
    let recipients = match (has_recipients, &list) {
        (true, None) => fields.required(
            "recipients",
            "a list of objects, one for each recipient; or in place of it list, with the code of a stored one",
        ),
        (true, Some(_)) => {
            if fields.take("recipients").is_some() {
                fields.error("list", "cannot be given together with recipients", "one of the two");
            }
            None
        }
        (false, _) => None,
    };
    let files_max = settings.attachments_bytes_max;
    let message = message.and_then(|message| match message_of(message, files_max) {
        Ok(message) => Some(message),
        Err(errors) => {
            errors.into_iter().for_each(|error| fields.push(error));
            None
        }
    });
    let (name, tenant, list) = (name.map(Into::into), tenant.map(Into::into), list.map(Into::into));
    fields.refuse_unknown();
    fields.finish()?;
    let cannot = || vec![FieldError::new("message", "cannot be read", accepted)];
    let chunk_size = chunk_size.and_then(|size| u32::try_from(size).ok());
    let said = Said {
        name,
        tenant,
        chunk_size: chunk_size.unwrap_or(settings.chunk_size_default),
        chunk_delay_ms: chunk_delay.unwrap_or(0),
        priority,
        scheduled_at,
        list,
        message: message.ok_or_else(cannot)?,
    };
    Ok((said, recipients))
}

fn number(fields: &mut Fields<'_>, name: &'static str, least: u64, most: u64, of: &str) -> Option<u64> {
    let value = fields.take(name)?;
    let number = whole(value.get());
    let number = number.filter(|number| (least..=most).contains(number));
    if number.is_none() {
        let problem = match kind_of(value.get()) {
            "a number" => "is out of range".to_owned(),
            other => format!("must be a number, not {other}"),
        };
        fields.error(name, problem, format!("whole {of}, from {least} to {most}"));
    }
    number
}

fn priority(fields: &mut Fields<'_>) -> Option<Priority> {
    let value = fields.take("priority")?;
    let text = fields.as_text("priority", value, request::ANY)?;
    text.parse().map_err(|error| fields.push(error)).ok()
}

fn message_of(json: &RawValue, files_bytes_max: usize) -> Result<Message, Vec<FieldError>> {
    let mut fields = object("message", json).map_err(|error| vec![error])?;
    let mut errors: Vec<FieldError> = NOT_IN_MESSAGE
        .iter()
        .filter(|(name, _)| fields.contains_key(*name))
        .map(|(name, accepted)| FieldError::new(format!("message.{name}"), "has no place here", *accepted))
        .collect();
    let mut part = |name: &str| match fields.remove(name) {
        None => Object::new(),
        Some(json) => object(&format!("message.{name}"), &json).unwrap_or_else(|error| {
            errors.push(error);
            Object::new()
        }),
    };
    let (payload, metadata) = (part("payload"), part("metadata"));
    let is_templated = ["templateCode", CONFIG]
        .iter()
        .any(|name| fields.contains_key(*name));
    let (place, files) = if is_templated {
        ("message", &fields)
    } else {
        ("message.payload", &payload)
    };
    let bytes = files.get(FILES).map_or(0, |files| brought_along(files));
    if bytes > files_bytes_max {
        let problem = format!("has {bytes} bytes together, which each recipient's event would hold");
        let accepted =
            format!("up to {files_bytes_max} bytes before base64; for larger files their addresses in url");
        errors.push(FieldError::new(format!("{place}.{FILES}"), problem, accepted));
    }
    if errors.is_empty() {
        Ok(Message {
            is_templated,
            fields,
            payload,
            metadata,
        })
    } else {
        Err(errors)
    }
}

/// How many bytes these files have that are not fetched from elsewhere. Whether they are files is checked with the event that has them.
fn brought_along(files: &RawValue) -> usize {
    #[derive(Deserialize)]
    struct File {
        content: Option<String>,
    }
    let files: Vec<File> = serde_json::from_str(files.get()).unwrap_or_default();
    let contents = files.iter().filter_map(|file| file.content.as_ref());
    contents.map(|content| content.len() / 4 * 3).sum()
}

fn object(name: &str, json: &RawValue) -> Result<Object, FieldError> {
    serde_json::from_str(json.get()).map_err(|_| {
        let problem = format!("must be an object, not {}", kind_of(json.get()));
        FieldError::new(name, problem, "a JSON object")
    })
}

impl Message {
    /// The code of the configuration that it goes by, if it is text; whatever else is refused with the first recipient.
    pub(super) fn config(&self) -> Option<String> {
        serde_json::from_str(self.fields.get(CONFIG)?.get()).ok()
    }

    /// For recipients whose message is not known yet: they may bring all that any may.
    pub(super) fn any() -> Self {
        Self {
            is_templated: true,
            ..Self::default()
        }
    }

    /// Reads a recipient.
    ///
    /// # Errors
    /// One per field that cannot be taken, named as in the recipient; never empty.
    pub(super) fn recipient<'a>(&self, json: &'a str) -> Result<Recipient<'a>, Vec<FieldError>> {
        let mut fields = Fields::of("", json).map_err(|error| vec![error])?;
        let mut recipient = Recipient::default();
        // Where a template makes the message, the destination, the language and the files may be the recipient's.
        let own: &[&'static str] = if self.is_templated {
            &["channel", "locale", FILES]
        } else {
            &[]
        };
        for name in own {
            if let Some(value) = fields.take(name) {
                recipient.fields.insert(name, value);
            }
        }
        for name in ["payload", "metadata"] {
            let Some(value) = fields.take(name) else { continue };
            match serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get()) {
                Ok(object) if name == "payload" => recipient.payload = object,
                Ok(object) => recipient.metadata = object,
                Err(_) => {
                    let problem = format!("must be an object, not {}", kind_of(value.get()));
                    fields.error(name, problem, "a JSON object");
                }
            }
        }
        fields.refuse_unknown();
        fields.finish()?;
        Ok(recipient)
    }

    /// The request that one recipient would be sent by alone: what it brings stands over what all have, in payload and
    /// metadata field by field.
    pub(super) fn request(
        &self,
        recipient: &Recipient<'_>,
        tenant: &str,
        priority: Option<Priority>,
    ) -> serde_json::Result<String> {
        let mut request: BTreeMap<&str, &RawValue> = BTreeMap::new();
        for (name, value) in &self.fields {
            request.insert(name, value);
        }
        for (name, value) in &recipient.fields {
            request.insert(name, value);
        }
        let payload = to_raw_value(&over(&self.payload, &recipient.payload))?;
        request.insert("payload", &payload);
        let metadata = to_raw_value(&over(&self.metadata, &recipient.metadata))?;
        if metadata.get() != "{}" {
            request.insert("metadata", &metadata);
        }
        let tenant = to_raw_value(tenant)?;
        request.insert("tenant", &tenant);
        let priority = priority
            .map(|priority| to_raw_value(priority.as_str()))
            .transpose()?;
        if let Some(priority) = &priority {
            request.insert("priority", priority);
        }
        serde_json::to_string(&request)
    }

    /// Where what the request's error is about was said, if it was in the message.
    pub(super) fn told(&self, recipient: &Recipient<'_>, index: u64, error: FieldError) -> FieldError {
        let (root, rest) = error.field.split_once('.').unwrap_or((&error.field, ""));
        let first = |of: &str| of.split(['.', '[']).next().unwrap_or_default().to_owned();
        let (root, part) = (&*first(root), &*first(rest));
        let is_theirs = match root {
            "payload" => recipient.payload.contains_key(part) || !self.payload.contains_key(part),
            "metadata" => recipient.metadata.contains_key(part) || !self.metadata.contains_key(part),
            "body" => true,
            "priority" | "tenant" => return error,
            root => recipient.fields.contains_key(root) || (root == "channel" && self.is_missing(root)),
        };
        let field = match (is_theirs, root) {
            (true, "body") => format!("recipients[{index}]"),
            (true, _) => format!("recipients[{index}].{}", error.field),
            (false, _) => format!("message.{}", error.field),
        };
        FieldError::new(field, error.problem, error.accepted)
    }

    fn is_missing(&self, name: &str) -> bool {
        self.is_templated && !self.fields.contains_key(name)
    }
}

fn over<'a>(all: &'a Object, own: &'a BTreeMap<String, &'a RawValue>) -> BTreeMap<&'a str, &'a RawValue> {
    let mut merged: BTreeMap<&str, &RawValue> = BTreeMap::new();
    for (name, value) in all {
        merged.insert(name, value);
    }
    for (name, value) in own {
        merged.insert(name, value);
    }
    merged
}
