//! What a client may ask for, checked field by field. Pure: the time is an argument.

use std::collections::BTreeMap;

use posthaste_event::{
    Channel, EventBytes, EventView, FieldError, Millis, Priority,
    delivery::{Accepted, Policy},
    fields::{Fields, Text, excerpt, kind_of},
    nesting,
    number::whole,
    own_id,
    partition::Place,
    payload::Payload,
    record_key, time,
};
use posthaste_service::auth::TENANT_DEFAULT;
use serde_json::{Value as Json, value::RawValue};

use crate::{Settings, attachments};

pub(crate) const EVENT_ID_CHARS_MAX: usize = 128;
/// What an event's id may hold beside letters and digits.
pub(crate) const EVENT_ID_MARKS: &str = "._:-";
pub(crate) const TENANT_CHARS_MAX: usize = 64;
/// What a tenant's name may hold beside letters and digits.
pub(crate) const TENANT_MARKS: &str = "._-";
pub(crate) const ORDERING_KEY_CHARS_MAX: usize = 256;
/// The member of the metadata, `true`, that asks for the payload to be sealed.
pub(crate) const WANTS_SEALING: &str = "requiresEncryption";
/// Ids drawn to find one for a certain partition, for each partition that there is. Fewer than a thousandth need more.
const PLACE_TRIES: u32 = 8;

/// For texts whose own check says what is accepted better than a length could.
pub(crate) const ANY: Text = Text {
    chars_min: 0,
    chars_max: usize::MAX,
    lines: true,
};

/// The providers that can carry each channel, by name.
pub type ProviderNames = BTreeMap<Channel, Vec<String>>;

/// A request that was found good: what travels, and where it starts.
#[derive(Debug)]
pub struct Checked {
    /// Where it starts.
    pub accepted: Accepted,
    /// What travels.
    pub event: EventBytes,
    /// The record's key.
    pub key: String,
    /// Whether the id is the client's own.
    pub has_own_id: bool,
    /// Whether the event asks for its payload to be sealed.
    pub wants_sealing: bool,
    /// Whether it is.
    pub is_sealed: bool,
}

/// Reads the body of `POST /event`. An event without an ordering key goes to `place`.
///
/// # Errors
/// One per field that cannot be taken; never empty.
pub fn check(
    body: &[u8],
    correlation_id: &str,
    providers: &ProviderNames,
    settings: &Settings,
    now: Millis,
    place: Option<Place>,
) -> Result<Checked, Vec<FieldError>> {
    check_for(
        body,
        correlation_id,
        providers,
        settings,
        now,
        place,
        TENANT_DEFAULT,
    )
}

/// The same; an event that names no tenant is `tenant_default`'s.
///
/// # Errors
/// One per field that cannot be taken; never empty.
pub fn check_for(
    body: &[u8],
    correlation_id: &str,
    providers: &ProviderNames,
    settings: &Settings,
    now: Millis,
    place: Option<Place>,
    tenant_default: &str,
) -> Result<Checked, Vec<FieldError>> {
    let text = std::str::from_utf8(body).map_err(|error| {
        vec![FieldError::new(
            "body",
            format!("is not UTF-8 from byte {} on", error.valid_up_to()),
            "JSON in UTF-8",
        )]
    })?;
    if nesting::is_deeper(text, settings.nesting_max) {
        return Err(vec![FieldError::new(
            "body",
            format!("is nested deeper than {} levels", settings.nesting_max),
            format!("objects and lists nested up to {} levels", settings.nesting_max),
        )]);
    }
    let mut fields = Fields::of("", text).map_err(|error| vec![error])?;
    let read = read(&mut fields, providers, settings, now, place, tenant_default);
    fields.refuse_unknown();
    fields.finish()?;
    let cannot = || FieldError::new("body", "cannot be read", "an event");
    let read = read.ok_or_else(|| vec![cannot()])?;
    let view = read.view;
    let key = match place {
        Some(place) if read.has_own_id && view.ordering_key.is_none() => {
            record_key::placed(&view.event_id, place)
        }
        _ => view.key(),
    };
    let event = view.to_bytes().map_err(|_| vec![cannot()])?;
    Ok(Checked {
        accepted: Accepted {
            id: view.event_id,
            correlation_id: correlation_id.to_owned(),
            tenant: view.tenant,
            channel: view.channel,
            priority: view.priority,
            provider: view.provider,
            scheduled_at: view.scheduled_at,
            expires_at: view.expires_at,
            policy: read.policy,
        },
        event,
        key,
        has_own_id: read.has_own_id,
        wants_sealing: read.wants_sealing,
        is_sealed: false,
    })
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// An id that nobody else has. Its last bits are random anyway, so they may as well be such that the record goes to `place`.
fn fresh_id(place: Option<Place>) -> String {
    let drawn = uuid::Uuid::now_v7();
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let tries = place.map_or(0, |place| place.partitions.saturating_mul(PLACE_TRIES));
    for change in 0..u128::from(tries) {
        let id = uuid::Uuid::from_u128(drawn.as_u128() ^ change);
        let low = id.as_bytes()[15];
        // Only the last byte differs from the id before, as a rule.
        if change & 0xff == 0 {
            id.hyphenated().encode_lower(&mut buffer);
        }
        let [.., high_digit, low_digit] = &mut buffer;
        (*high_digit, *low_digit) = (DIGITS[usize::from(low >> 4)], DIGITS[usize::from(low & 15)]);
        if place.is_some_and(|place| place.takes(&buffer)) {
            return id.hyphenated().encode_lower(&mut buffer).to_owned();
        }
    }
    drawn.to_string()
}

/// What a request says.
struct Read<'a> {
    view: EventView<'a>,
    policy: Policy,
    has_own_id: bool,
    wants_sealing: bool,
}

/// What the metadata say that is interpreted here.
#[derive(Default)]
struct Remarks {
    provider: Option<String>,
    wants_sealing: bool,
}

/// `None` only after an error was recorded.
fn read<'a>(
    fields: &mut Fields<'a>,
    providers: &ProviderNames,
    settings: &Settings,
    now: Millis,
    place: Option<Place>,
    tenant_default: &str,
) -> Option<Read<'a>> {
    let channel = channel(fields);
    let (payload, is_for_user) = payload(fields, channel, settings);
    let metadata = fields.take("metadata");
    let urgent = urgent(fields);
    let priority = priority(fields, urgent);
    let remarks = metadata.and_then(|metadata| remarks(fields, metadata));
    let remarks = remarks.unwrap_or_default();
    let provider = provider(fields, remarks.provider, channel, providers);
    let event_id = fields.checked("eventId", ANY, |id| {
        name(
            id,
            EVENT_ID_CHARS_MAX,
            EVENT_ID_MARKS,
            "1 to 128 letters, digits and ._:-",
        )
    });
    let tenant = fields.checked("tenant", ANY, tenant);
    let ordering_key = fields.text("orderingKey", Text::line(ORDERING_KEY_CHARS_MAX));
    let policy = policy(fields);
    let scheduled_at = time(fields, "scheduledAt", settings, now);
    let first_at = scheduled_at.unwrap_or(now).max(now);
    let ttl = ttl(fields, settings).map(|ttl_ms| first_at.saturating_add(ttl_ms));
    let expires_at = time(fields, "expiresAt", settings, now);
    if ttl.is_some() && expires_at.is_some() {
        fields.error("ttl", "cannot be given together with expiresAt", "one of the two");
    }
    if ordering_key.is_some() && is_for_user {
        fields.error(
            "orderingKey",
            "cannot be given for a push to a user, whose devices get events of their own",
            "a token in payload.token, or no orderingKey",
        );
    }
    if ordering_key.is_some() && scheduled_at.is_some() {
        fields.error(
            "scheduledAt",
            "cannot be given together with orderingKey: those behind it would have to wait for its time",
            "one of the two",
        );
    }
    if expires_at.is_some_and(|expires| expires <= first_at) {
        fields.error(
            "expiresAt",
            "is over before the event may go out",
            "a time in the future, after scheduledAt",
        );
    }
    let has_own_id = event_id.is_some();
    let tenant = tenant.map_or_else(|| tenant_default.to_owned(), Into::into);
    let view = EventView {
        event_id: event_id.map_or_else(|| fresh_id(place), |own| own_id::kept(&tenant, &own)),
        tenant,
        channel: channel?,
        priority,
        payload: payload?,
        metadata,
        provider,
        ordering_key: ordering_key.map(Into::into),
        scheduled_at,
        expires_at: expires_at.or(ttl),
    };
    Some(Read {
        view,
        policy,
        has_own_id,
        wants_sealing: remarks.wants_sealing,
    })
}

fn channel(fields: &mut Fields<'_>) -> Option<Channel> {
    let accepted = Channel::ALL.map(Channel::as_str).join(", ");
    let value = fields.required("channel", &accepted)?;
    let text = fields.as_text("channel", value, ANY)?;
    text.parse().map_err(|error| fields.push(error)).ok()
}

/// The payload, and whether it is for a user who has devices.
fn payload<'a>(
    fields: &mut Fields<'a>,
    channel: Option<Channel>,
    settings: &Settings,
) -> (Option<&'a RawValue>, bool) {
    let payload = fields.required("payload", "an object with what the channel needs");
    // What a payload may hold depends on the channel; without one there is nothing to say of it.
    let Some((channel, payload)) = channel.zip(payload) else {
        return (None, false);
    };
    match Payload::accept(channel, payload) {
        Ok(accepted) => {
            attachments::check(fields, &accepted, settings);
            (Some(payload), accepted.is_for_user())
        }
        Err(errors) => {
            errors.into_iter().for_each(|error| fields.push(error));
            (None, false)
        }
    }
}

/// Whether it goes by the critical lanes, as with the priority of that name.
fn urgent(fields: &mut Fields<'_>) -> bool {
    let Some(value) = fields.take("urgent") else {
        return false;
    };
    if !matches!(value.get(), "true" | "false") {
        let problem = format!("must be true or false, not {}", kind_of(value.get()));
        fields.error("urgent", problem, "true or false");
    }
    value.get() == "true"
}

fn priority(fields: &mut Fields<'_>, urgent: bool) -> Priority {
    let usual = if urgent {
        Priority::Critical
    } else {
        Priority::default()
    };
    let Some(value) = fields.take("priority") else {
        return usual;
    };
    match fields.as_text("priority", value, ANY).map(|text| text.parse()) {
        Some(Ok(priority)) if urgent && priority != Priority::Critical => {
            fields.error(
                "urgent",
                format!("cannot be given together with the priority {priority}"),
                "one of the two, or the priority critical",
            );
            usual
        }
        Some(Ok(priority)) => priority,
        Some(Err(error)) => {
            fields.push(error);
            usual
        }
        None => usual,
    }
}

/// The longest `ttl`, in seconds.
pub(crate) fn ttl_seconds_max(settings: &Settings) -> u64 {
    const DAY_SECONDS: u64 = 86_400;
    u64::from(settings.ahead_days_max) * DAY_SECONDS
}

/// For how long it may be sent, in milliseconds.
fn ttl(fields: &mut Fields<'_>, settings: &Settings) -> Option<Millis> {
    let value = fields.take("ttl")?;
    let seconds_max = ttl_seconds_max(settings);
    match whole(value.get()).filter(|seconds| (1..=seconds_max).contains(seconds)) {
        Some(seconds) => Millis::try_from(seconds * 1_000).ok(),
        None => {
            let problem = match kind_of(value.get()) {
                "a number" => "is out of range".to_owned(),
                other => format!("must be a number of seconds, not {other}"),
            };
            fields.error("ttl", problem, format!("whole seconds, from 1 to {seconds_max}"));
            None
        }
    }
}

fn policy(fields: &mut Fields<'_>) -> Policy {
    let Some(value) = fields.take("policy") else {
        return Policy::default();
    };
    let text = fields.as_text("policy", value, ANY);
    text.and_then(|text| text.parse().map_err(|error| fields.push(error)).ok())
        .unwrap_or_default()
}

/// The provider that the client insists on: at the top, or in the metadata, where older clients put it.
fn provider<'a>(
    fields: &mut Fields<'a>,
    in_metadata: Option<String>,
    channel: Option<Channel>,
    providers: &ProviderNames,
) -> Option<String> {
    let top = fields.text("provider", ANY);
    let (field, name) = match (top, in_metadata) {
        (Some(top), Some(inner)) if top != inner => {
            fields.error(
                "metadata.provider",
                "names another provider than provider does",
                "the same name, or one of the two",
            );
            return None;
        }
        (Some(top), _) => ("provider", top.into_owned()),
        (None, Some(inner)) => ("metadata.provider", inner),
        (None, None) => return None,
    };
    let known = providers.get(&channel?).map(Vec::as_slice).unwrap_or_default();
    if known.contains(&name) {
        return Some(name);
    }
    fields.error(
        field,
        format!("{:?} is no provider of this channel", excerpt(&name)),
        known.join(", "),
    );
    None
}

fn remarks(fields: &mut Fields<'_>, metadata: &RawValue) -> Option<Remarks> {
    if metadata.get() == "{}" {
        return None;
    }
    // Read whole, once: whoever reads the status later must be able to.
    let value = fields.as_json("metadata", metadata)?;
    let Some(object) = value.as_object() else {
        fields.error(
            "metadata",
            format!("must be an object, not {}", kind_of(metadata.get())),
            "a JSON object",
        );
        return None;
    };
    let provider = match object.get("provider") {
        None | Some(Json::Null) => None,
        Some(Json::String(name)) => Some(name.clone()),
        Some(_) => {
            fields.error("metadata.provider", "must be text", "the name of a provider");
            None
        }
    };
    let wants_sealing = match object.get(WANTS_SEALING) {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::Bool(true)) => true,
        // Whoever asks for it in other words must not go without.
        Some(_) => {
            let field = format!("metadata.{WANTS_SEALING}");
            fields.error(&field, "must be true or false", "true or false");
            false
        }
    };
    Some(Remarks {
        provider,
        wants_sealing,
    })
}

/// Whether this names a tenant.
pub(crate) fn is_tenant(text: &str) -> bool {
    name(text, TENANT_CHARS_MAX, TENANT_MARKS, "").is_ok()
}

pub(crate) fn tenant(text: &str) -> Result<(), (String, &'static str)> {
    name(
        text,
        TENANT_CHARS_MAX,
        TENANT_MARKS,
        "1 to 64 letters, digits and ._-",
    )
}

fn name(
    text: &str,
    chars_max: usize,
    marks: &str,
    accepted: &'static str,
) -> Result<(), (String, &'static str)> {
    if text.is_empty() {
        return Err(("is empty".to_owned(), accepted));
    }
    if let Some(wrong) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c))
    {
        return Err((format!("holds {wrong:?}"), accepted));
    }
    if text.len() > chars_max {
        return Err((format!("has {} characters", text.len()), accepted));
    }
    Ok(())
}

/// A time with its offset, not too far ahead; `None` also after an error.
pub(crate) fn time(
    fields: &mut Fields<'_>,
    name: &'static str,
    settings: &Settings,
    now: Millis,
) -> Option<Millis> {
    let value = fields.take(name)?;
    let text = fields.as_text(name, value, ANY)?;
    time::read(name, &text, settings.ahead_days_max, now)
        .map_err(|error| fields.push(error))
        .ok()
}

#[cfg(test)]
mod tests;
