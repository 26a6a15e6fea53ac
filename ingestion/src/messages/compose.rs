//! From a message request to the event that carries it.
//!
//! A request is `{configCode, templateCode, payload?, channel?, tenant?, locale?, from?, threadTs?, attachments?}`, with `priority`,
//! `metadata`, `eventId`, `orderingKey`, `expiresAt`, `ttl` and `policy` as `POST /event` takes them. `channel` is the destination
//! (`#general`); the delivery channel is the configuration's. `attachments` are an email's, as its payload has them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use posthaste_event::{
    Channel, FieldError,
    fields::{Fields, Text},
};
use posthaste_service::{Problem, auth::Caller};
use serde_json::{Map, Value as Json, json, value::RawValue};

use crate::{
    Settings,
    request::is_tenant,
    templates::{Catalog, Config, LOCALE, is_locale},
};

/// Longest destination; a push token may have as many characters.
pub(crate) const PLACE_CHARS_MAX: usize = 4_096;
/// Longest code that is looked up.
pub(crate) const CODE_CHARS_MAX: usize = 128;
/// Longest sender.
pub(crate) const SENDER_CHARS_MAX: usize = 998;

/// Names the configuration that a message goes by.
pub(crate) const CONFIG: &str = "configCode";

/// What goes into the payload as it is, and the one channel that has it.
const ADDED: [(&str, Channel); 2] = [("threadTs", Channel::Slack), ("attachments", Channel::Email)];

/// What goes into the event as it is.
const CARRIED: [&str; 6] = ["priority", "eventId", "orderingKey", "expiresAt", "ttl", "policy"];

/// What says in the metadata of which definitions a message was made.
pub(crate) const REFERENCES: [&str; 5] = [
    "configCode",
    "configVersion",
    "templateCode",
    "templateVersion",
    "locale",
];

/// How a message goes out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner<'a> {
    /// As it says itself.
    Plain,
    /// By the critical lanes.
    Urgent,
    /// At this time.
    At(&'a RawValue),
}

/// An event that was made of a message.
#[derive(Debug)]
pub(super) struct Composed {
    /// As `POST /event` takes it.
    pub(super) event: String,
    /// Stands before the fields of the request.
    prefix: &'static str,
    /// The payload's field with the destination.
    place: &'static str,
}

/// What a request says.
struct Said<'a> {
    tenant: Option<String>,
    place: Option<String>,
    config: String,
    template: String,
    payload: Json,
    locale: Option<String>,
    from: Option<String>,
    metadata: Map<String, Json>,
    /// As in [`ADDED`].
    added: [Option<&'a RawValue>; ADDED.len()],
    carried: BTreeMap<&'static str, &'a RawValue>,
}

impl<'a> Said<'a> {
    /// What it says of [`ADDED`].
    fn added(&self) -> impl Iterator<Item = (&'static str, Channel, &'a RawValue)> {
        let values = ADDED.into_iter().zip(self.added);
        values.filter_map(|((name, of), value)| Some((name, of, value?)))
    }

    /// What of it the channel has not.
    fn misplaced(&self, channel: Channel, prefix: &str) -> impl Iterator<Item = FieldError> {
        let misplaced = self.added().filter(move |(_, of, _)| *of != channel);
        misplaced.map(move |(name, ..)| {
            let problem = format!("has no place on the channel {channel}");
            FieldError::new(format!("{prefix}{name}"), problem, "nothing")
        })
    }

    /// What makes its event large.
    fn brings(&self) -> &'static str {
        match self.added().any(|(_, of, _)| of == Channel::Email) {
            true => "variables and files",
            false => "variables",
        }
    }
}

/// Makes the event of a message.
///
/// # Errors
/// 400 for a request that cannot be read, 403 for another tenant or a configuration that is not the caller's to send by, 422 for what the definitions do not know or take.
pub(super) fn compose(
    catalog: &Catalog,
    settings: &Settings,
    caller: &Caller,
    request: &str,
    manner: Manner<'_>,
) -> Result<Composed, Problem> {
    let prefix = match manner {
        Manner::At(_) => "request.",
        Manner::Plain | Manner::Urgent => "",
    };
    let mut said =
        read(request, prefix).map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))?;
    // Before anything is looked up: whether another tenant has a code is nobody's business.
    let mut tenant = said.tenant.take();
    caller.narrow(&mut tenant, &format!("{prefix}tenant"))?;
    caller.may_send_by(Some(&said.config), &format!("{prefix}{CONFIG}"))?;
    let tenant = tenant.unwrap_or_else(|| caller.tenant_default().to_owned());
    make(catalog, settings, &tenant, prefix, said, manner)
        .map_err(|errors| Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors))
}

fn read<'a>(request: &'a str, prefix: &'static str) -> Result<Said<'a>, Vec<FieldError>> {
    let mut fields = Fields::of(prefix, request).map_err(|error| vec![error])?;
    let any = Text {
        chars_min: 0,
        chars_max: usize::MAX,
        lines: true,
    };
    let tenant = fields.checked("tenant", any, |tenant| {
        is_tenant(tenant)
            .then_some(())
            .ok_or_else(|| ("is no tenant".to_owned(), "1 to 64 letters, digits and ._-"))
    });
    let place = fields.text("channel", Text::line(PLACE_CHARS_MAX));
    let config = fields.required_text(CONFIG, Text::line(CODE_CHARS_MAX));
    let template = fields.required_text("templateCode", Text::line(CODE_CHARS_MAX));
    let payload = object(&mut fields, "payload");
    let metadata = object(&mut fields, "metadata");
    for name in REFERENCES {
        if metadata
            .as_ref()
            .is_some_and(|metadata| metadata.contains_key(name))
        {
            fields.error(
                &format!("metadata.{name}"),
                "is set by the service itself",
                "another name",
            );
        }
    }
    let locale = fields.checked("locale", any, |locale| {
        is_locale(locale)
            .then_some(())
            .ok_or_else(|| ("is no language".to_owned(), LOCALE))
    });
    let from = fields.text("from", Text::line(SENDER_CHARS_MAX));
    let added = ADDED.map(|(name, _)| fields.take(name));
    let mut carried = BTreeMap::new();
    for name in CARRIED {
        if let Some(value) = fields.take(name) {
            carried.insert(name, value);
        }
    }
    fields.refuse_unknown();
    fields.finish()?;
    let cannot = || vec![FieldError::new("body", "cannot be read", "a message request")];
    Ok(Said {
        tenant: tenant.map(Into::into),
        place: place.map(Into::into),
        config: config.ok_or_else(cannot)?.into_owned(),
        template: template.ok_or_else(cannot)?.into_owned(),
        payload: Json::Object(payload.ok_or_else(cannot)?),
        locale: locale.map(Into::into),
        from: from.map(Into::into),
        metadata: metadata.ok_or_else(cannot)?,
        added,
        carried,
    })
}

/// An object; absent is empty. `None` only after an error was recorded.
fn object(fields: &mut Fields<'_>, name: &'static str) -> Option<Map<String, Json>> {
    let Some(value) = fields.take(name) else {
        return Some(Map::new());
    };
    match fields.as_json(name, value)? {
        Json::Object(object) => Some(object),
        _ => {
            fields.error(name, "must be an object", "a JSON object");
            None
        }
    }
}

fn make(
    catalog: &Catalog,
    settings: &Settings,
    tenant: &str,
    prefix: &'static str,
    mut said: Said<'_>,
    manner: Manner<'_>,
) -> Result<Composed, Vec<FieldError>> {
    let at = |name: &str| format!("{prefix}{name}");
    let config = catalog.config(tenant, &said.config, &at("configCode"));
    let template = catalog.template(tenant, &said.template, &at("templateCode"));
    let (config, template) = match (config, template) {
        (Ok(config), Ok(template)) => (config, template),
        (config, template) => {
            return Err(config.err().into_iter().chain(template.err()).collect());
        }
    };
    let (config_version, config) = (config.version, config.value);
    let place = config.destination(said.place.clone(), &at("channel"));
    let from = config.sender(said.from.as_deref(), &at("from"));
    let mut errors: Vec<FieldError> = [place.as_ref().err(), from.as_ref().err()]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    errors.extend(said.misplaced(config.channel, prefix));
    let rendered = template.value.render(
        config.channel,
        &[said.locale.as_deref(), config.locale.as_deref()],
        &said.payload,
        settings.event_bytes_max,
        &at("payload"),
        &at("templateCode"),
    );
    let (place, from, rendered) = match (place, from, rendered) {
        (Ok(place), Ok(from), Ok(rendered)) if errors.is_empty() => (place, from, rendered),
        (_, _, rendered) => {
            errors.extend(rendered.err().into_iter().flatten());
            return Err(errors);
        }
    };
    let (place_field, place) = config.place(&place);
    let mut payload = rendered.fields;
    payload.insert(place_field.to_owned(), json!(place));
    for (name, value) in [("from", from), ("replyTo", config.reply_to.clone())] {
        if let Some(value) = value {
            payload.insert(name.to_owned(), json!(value));
        }
    }
    for (name, _, value) in said.added() {
        payload.insert(name.to_owned(), json!(value));
    }
    let mut metadata = std::mem::take(&mut said.metadata);
    metadata.insert("configCode".to_owned(), json!(said.config));
    metadata.insert("configVersion".to_owned(), json!(config_version));
    metadata.insert("templateCode".to_owned(), json!(said.template));
    metadata.insert("templateVersion".to_owned(), json!(template.version));
    metadata.insert("locale".to_owned(), json!(rendered.locale));
    let event = event_of(&config, tenant, payload, metadata, &said.carried, manner);
    if event.len() > settings.event_bytes_max {
        let problem = format!(
            "makes an event of {} bytes with these {}",
            event.len(),
            said.brings()
        );
        let accepted = format!("up to {} bytes", settings.event_bytes_max);
        return Err(vec![FieldError::new(at("templateCode"), problem, accepted)]);
    }
    Ok(Composed {
        event,
        prefix,
        place: place_field,
    })
}

fn event_of(
    config: &Config,
    tenant: &str,
    payload: Map<String, Json>,
    metadata: Map<String, Json>,
    carried: &BTreeMap<&'static str, &RawValue>,
    manner: Manner<'_>,
) -> String {
    let mut event = Map::new();
    event.insert("channel".to_owned(), json!(config.channel));
    event.insert("tenant".to_owned(), json!(tenant));
    event.insert("payload".to_owned(), Json::Object(payload));
    event.insert("metadata".to_owned(), Json::Object(metadata));
    if let Some(provider) = &config.provider {
        event.insert("provider".to_owned(), json!(provider));
    }
    match (config.priority, manner) {
        (_, Manner::Urgent) => {
            event.insert("urgent".to_owned(), json!(true));
        }
        (Some(priority), Manner::Plain | Manner::At(_)) => {
            event.insert("priority".to_owned(), json!(priority.as_str()));
        }
        (None, Manner::Plain | Manner::At(_)) => {}
    }
    if let Some(ttl) = config.ttl.filter(|_| !carried.contains_key("expiresAt")) {
        event.insert("ttl".to_owned(), json!(ttl));
    }
    if let Manner::At(time) = manner {
        event.insert("scheduledAt".to_owned(), json!(time));
    }
    for (name, value) in carried {
        event.insert((*name).to_owned(), json!(value));
    }
    Json::Object(event).to_string()
}

impl Composed {
    /// What is wrong with the event, in the words of the request that it was made of.
    pub(super) fn explain(&self, mut problem: Problem) -> Problem {
        if problem.status != StatusCode::BAD_REQUEST {
            return problem;
        }
        let errors = std::mem::take(&mut problem.errors);
        let errors = errors.into_iter().map(|error| self.told(error)).collect();
        Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors)
    }

    fn told(&self, error: FieldError) -> FieldError {
        let prefix = self.prefix;
        let is_added = |field: &str| {
            let name = field.split(['.', '[']).next().unwrap_or_default();
            ADDED.iter().any(|(added, _)| *added == name)
        };
        let field = match error.field.strip_prefix("payload.") {
            Some(field) if field == self.place => format!("{prefix}channel"),
            Some(field) if field == "from" || is_added(field) => format!("{prefix}{field}"),
            Some(field) => {
                return FieldError::new(
                    format!("{prefix}templateCode"),
                    format!("renders a message whose {field} {}", error.problem),
                    error.accepted,
                );
            }
            None if error.field == "provider" || error.field == "channel" => format!("{prefix}configCode"),
            // It stands beside the request.
            None if error.field == "scheduledAt" => error.field,
            None => format!("{prefix}{}", error.field),
        };
        FieldError::new(field, error.problem, error.accepted)
    }
}
