//! `/suppressions`: to whom nothing is sent any more.
//!
//! | path | what |
//! |---|---|
//! | `PUT /suppressions` | `{channel, recipient, reason, until?, source?, tenant?}`, or a list of up to 1,000 of these: all or none |
//! | `GET /suppressions?channel=&recipient=` | the one of this recipient, if it is suppressed |
//! | `GET /suppressions?channel=&limit=&cursor=` | all of a tenant, or of a channel, page by page |
//! | `DELETE /suppressions?channel=&recipient=` | messages go there again |
//! | `GET`, `DELETE /suppressions/{id}` | the same by the id that the others show |
//!
//! Recipients are shown as little as they are kept: `a***@example.com`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, put},
};
use jiff::Timestamp;
use posthaste_broker::{AppendError, Broker};
use posthaste_definitions::suppressions::{
    Body, Id, RECIPIENT_BYTES_MAX, Reason, Shown, SuppressError, Suppressions, Wanted,
};
use posthaste_event::{
    Channel, FieldError, Millis, clock,
    fields::{Fields, Text, excerpt},
    time,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{JsonBody, PathParams, QueryParams},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{defining::tenant, request};

/// Most of one request.
pub(crate) const ITEMS_MAX: usize = 1_000;
/// How far ahead a suppression may end, in days.
const DAYS_AHEAD_MAX: u32 = 36_500;
/// Longest name of where it was heard, in characters.
pub(crate) const SOURCE_CHARS_MAX: usize = 128;
pub(crate) const LIMIT_DEFAULT: usize = 50;
pub(crate) const LIMIT_MAX: usize = 1_000;
/// When to ask again while something is not known or not possible yet, in seconds.
const RETRY_SECONDS: u32 = 2;

#[derive(Clone)]
struct Api {
    broker: Arc<dyn Broker>,
    suppressions: Arc<Suppressions>,
}

/// The query of `GET` and `DELETE`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    tenant: Option<String>,
    channel: Option<String>,
    recipient: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The query where an id is in the path.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantQuery {
    tenant: Option<String>,
}

/// A suppression, as it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: String,
    channel: Channel,
    recipient: String,
    reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    by: String,
    at: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    suppressions: Vec<Item>,
    /// Where the next page begins; not there on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Done {
    message: &'static str,
    suppressions: Vec<Item>,
}

/// The paths.
pub fn router(broker: Arc<dyn Broker>, suppressions: Arc<Suppressions>) -> Router {
    Router::new()
        .route("/suppressions", put(suppress).get(list).delete(release))
        .route("/suppressions/{id}", get(one).delete(release_one))
        .with_state(Api { broker, suppressions })
}

async fn suppress(
    State(api): State<Api>,
    caller: Caller,
    JsonBody(body): JsonBody<Box<RawValue>>,
) -> Result<Json<Done>, Problem> {
    let now = clock::now();
    let wanted = read(&api.suppressions, &body, caller.tenant_default(), now)
        .map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))?;
    for one in &wanted {
        caller.may_send(&one.tenant, one.channel)?;
    }
    let by = caller.principal().map_or("", |principal| &*principal.name);
    api.suppressions
        .put(&api.broker, &wanted, by, now)
        .await
        .map_err(unavailable)?;
    let suppressions = wanted.iter().map(|one| {
        let in_force = api.suppressions.get(&one.tenant, one.channel, one.id, now);
        // Not heard again yet, or over by now.
        item(in_force.unwrap_or_else(|| as_wanted(one, by, now)))
    });
    Ok(Json(Done {
        message: "Recipients Suppressed",
        suppressions: suppressions.collect(),
    }))
}

async fn list(
    State(api): State<Api>,
    caller: Caller,
    QueryParams(query): QueryParams<Query>,
) -> Result<Json<Listed>, Problem> {
    known(&api)?;
    let tenant = tenant(&caller, query.tenant)?;
    let channel = query.channel.as_deref().map(channel).transpose()?;
    let now = clock::now();
    if let Some(recipient) = &query.recipient {
        if query.limit.is_some() || query.cursor.is_some() {
            return Err(refused(
                "recipient",
                "cannot be given together with limit or cursor",
                "one of them",
            ));
        }
        let channel = channel.ok_or_else(|| refused("channel", "is missing", channels()))?;
        let id = id_of(&api.suppressions, &tenant, channel, recipient)?;
        let found = api.suppressions.get(&tenant, channel, id, now);
        return Ok(Json(Listed {
            suppressions: found.into_iter().map(item).collect(),
            next: None,
        }));
    }
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(refused(
            "limit",
            format!("{limit} is out of range"),
            format!("1 to {LIMIT_MAX}"),
        ));
    }
    let after = match &query.cursor {
        Some(cursor) => Some(read_id(cursor).ok_or_else(|| {
            refused(
                "cursor",
                format!("{:?} is none", excerpt(cursor)),
                "`next` of the page before",
            )
        })?),
        None => None,
    };
    let mut shown = api.suppressions.list(&tenant, channel, after, now, limit + 1);
    let is_more = shown.len() > limit;
    shown.truncate(limit);
    let suppressions: Vec<Item> = shown.into_iter().map(item).collect();
    let next = suppressions
        .last()
        .filter(|_| is_more)
        .map(|last| last.id.clone());
    Ok(Json(Listed { suppressions, next }))
}

async fn one(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<TenantQuery>,
) -> Result<Json<Item>, Problem> {
    known(&api)?;
    let tenant = tenant(&caller, query.tenant)?;
    let found =
        read_id(&id).and_then(|(channel, id)| api.suppressions.get(&tenant, channel, id, clock::now()));
    found.map(|found| Json(item(found))).ok_or_else(nobody)
}

async fn release(
    State(api): State<Api>,
    caller: Caller,
    QueryParams(query): QueryParams<Query>,
) -> Result<Json<Done>, Problem> {
    let tenant = tenant(&caller, query.tenant)?;
    if query.limit.is_some() || query.cursor.is_some() {
        return Err(refused("limit", "is for lists", "channel and recipient"));
    }
    let channel = channel(query.channel.as_deref().unwrap_or_default())?;
    let id = id_of(
        &api.suppressions,
        &tenant,
        channel,
        &query.recipient.unwrap_or_default(),
    )?;
    remove(&api, &tenant, channel, id).await
}

async fn release_one(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<TenantQuery>,
) -> Result<Json<Done>, Problem> {
    let tenant = tenant(&caller, query.tenant)?;
    let (channel, id) = read_id(&id).ok_or_else(nobody)?;
    remove(&api, &tenant, channel, id).await
}

async fn remove(api: &Api, tenant: &str, channel: Channel, id: Id) -> Result<Json<Done>, Problem> {
    known(api)?;
    let found = api.suppressions.get(tenant, channel, id, clock::now());
    let found = found.ok_or_else(nobody)?;
    api.suppressions
        .remove(&api.broker, tenant, channel, id)
        .await
        .map_err(unavailable)?;
    Ok(Json(Done {
        message: "Recipient Released",
        suppressions: vec![item(found)],
    }))
}

fn channel(name: &str) -> Result<Channel, Problem> {
    name.parse()
        .map_err(|error| Problem::fields(StatusCode::BAD_REQUEST, vec![error]))
}

fn channels() -> String {
    Channel::ALL.map(Channel::as_str).join(", ")
}

fn id_of(
    suppressions: &Suppressions,
    tenant: &str,
    channel: Channel,
    recipient: &str,
) -> Result<Id, Problem> {
    suppressions
        .id(tenant, channel, recipient)
        .map(|(id, _)| id)
        .ok_or_else(|| {
            refused(
                "recipient",
                "can be no recipient of this channel",
                accepted(channel),
            )
        })
}

const fn accepted(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "a phone number such as +12025555555",
        Channel::Email => "an address such as a@example.com",
        Channel::Push => "a device's token",
        Channel::Slack => "a channel or a user, such as #general",
        Channel::Webhook => "an address such as https://example.com/hook",
        Channel::InApp => "a recipient's name",
    }
}

fn refused(field: &str, problem: impl Into<String>, accepted: impl Into<String>) -> Problem {
    Problem::fields(
        StatusCode::BAD_REQUEST,
        vec![FieldError::new(field, problem, accepted)],
    )
}

fn nobody() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "nobody is suppressed by this name")
}

fn known(api: &Api) -> Result<(), Problem> {
    if api.suppressions.is_known() {
        return Ok(());
    }
    Err(unavailable(SuppressError::Unknown))
}

fn unavailable(error: SuppressError) -> Problem {
    match error {
        SuppressError::NoRoom(_) => Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("{error}; nothing was written. definitions.suppressions_max says how many may be"),
        ),
        SuppressError::Append(AppendError::Unconfirmed { .. }) => {
            Problem::unavailable(format!("{error}; asking again is safe"), RETRY_SECONDS)
        }
        SuppressError::Unknown | SuppressError::Append(_) => {
            Problem::unavailable(format!("{error}; nothing was written"), RETRY_SECONDS)
        }
    }
}

/// What a page shows, and a cursor is, too.
pub(crate) fn shown_id(channel: Channel, id: Id) -> String {
    format!("{channel}-{id}")
}

fn read_id(text: &str) -> Option<(Channel, Id)> {
    let (channel, id) = text.rsplit_once('-')?;
    Some((channel.parse().ok()?, Id::read(id)?))
}

fn item(shown: Shown) -> Item {
    Item {
        id: shown_id(shown.channel, shown.id),
        channel: shown.channel,
        recipient: shown.recipient,
        reason: shown.reason,
        source: shown.source,
        until: shown.until.map(written),
        by: shown.by,
        at: written(shown.at),
    }
}

fn written(at: Millis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| format!("{at:.3}"))
}

fn as_wanted(wanted: &Wanted, by: &str, now: Millis) -> Shown {
    let body = wanted.body.clone();
    Shown {
        channel: wanted.channel,
        id: wanted.id,
        recipient: body.recipient,
        reason: body.reason,
        source: body.source,
        until: body.until,
        by: by.to_owned(),
        at: now,
    }
}

/// Reads one, or a list of them. Of two that mean the same recipient the last one counts.
fn read(
    suppressions: &Suppressions,
    body: &RawValue,
    tenant_default: &str,
    now: Millis,
) -> Result<Vec<Wanted>, Vec<FieldError>> {
    let text = body.get();
    if !text.trim_start().starts_with('[') {
        return read_one(suppressions, text, tenant_default, now).map(|one| vec![one]);
    }
    let items: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|_| vec![FieldError::new("body", "cannot be read", "a list of objects")])?;
    if items.is_empty() || items.len() > ITEMS_MAX {
        let problem = format!("has {} items", items.len());
        return Err(vec![FieldError::new(
            "body",
            problem,
            format!("1 to {ITEMS_MAX}"),
        )]);
    }
    let (mut wanted, mut errors) = (BTreeMap::new(), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match read_one(suppressions, item.get(), tenant_default, now) {
            Ok(one) => {
                wanted.insert((one.tenant.clone(), one.channel.as_str(), one.id), one);
            }
            Err(found) => errors.extend(found.into_iter().map(|error| FieldError {
                field: format!("[{index}].{}", error.field),
                ..error
            })),
        }
    }
    if errors.is_empty() {
        Ok(wanted.into_values().collect())
    } else {
        Err(errors)
    }
}

fn read_one(
    suppressions: &Suppressions,
    text: &str,
    tenant_default: &str,
    now: Millis,
) -> Result<Wanted, Vec<FieldError>> {
    let mut fields = Fields::of("", text).map_err(|error| vec![error])?;
    let tenant = fields.checked("tenant", request::ANY, request::tenant);
    let tenant = tenant.map_or_else(|| tenant_default.to_owned(), Into::into);
    let line = Text::line(RECIPIENT_BYTES_MAX);
    let channel = fields
        .required_text("channel", line)
        .and_then(|name| name.parse::<Channel>().map_err(|error| fields.push(error)).ok());
    let recipient = fields.required_text("recipient", line).and_then(|recipient| {
        let channel = channel?;
        let named = suppressions.id(&tenant, channel, &recipient);
        if named.is_none() {
            fields.error(
                "recipient",
                "can be no recipient of this channel",
                accepted(channel),
            );
        }
        named
    });
    let reason = fields.required_text("reason", line).and_then(|name| {
        let reason = Reason::of(&name);
        if reason.is_none() {
            let known = Reason::ALL.map(Reason::as_str).join(", ");
            fields.error("reason", format!("{:?} is no reason", excerpt(&name)), known);
        }
        reason
    });
    let until = until(&mut fields, now);
    let source = fields
        .text("source", Text::line(SOURCE_CHARS_MAX))
        .map(Into::into);
    fields.refuse_unknown();
    fields.finish()?;
    // Whatever is not there has said why.
    let cannot = || vec![FieldError::new("body", "cannot be read", "a suppression")];
    let (id, recipient) = recipient.ok_or_else(cannot)?;
    Ok(Wanted {
        tenant,
        channel: channel.ok_or_else(cannot)?,
        id,
        body: Body {
            reason: reason.ok_or_else(cannot)?,
            recipient,
            source,
            until,
        },
    })
}

fn until(fields: &mut Fields<'_>, now: Millis) -> Option<Millis> {
    let text = fields.text("until", request::ANY)?;
    match time::read("until", &text, DAYS_AHEAD_MAX, now) {
        Ok(until) if until > now => Some(until),
        Ok(_) => {
            fields.error("until", "is over", "a time to come");
            None
        }
        Err(error) => {
            fields.push(error);
            None
        }
    }
}
