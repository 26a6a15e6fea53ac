//! `/templates` and `/configs`: a tenant's definitions, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `GET /templates`, `GET /configs` | `{tenant, items: [{code, version, updatedAt, updatedBy}], next?}`, by code; `?tenant=`, `?after=`, `?limit=` |
//! | `GET /templates/{code}`, `GET /configs/{code}` | `{code, tenant, version, updatedAt, updatedBy, template}` (or `config`), with an `ETag` |
//! | `PUT` | 201 when it is new, 200 when it replaces another; `If-Match` and `If-None-Match: *` are honoured |
//! | `DELETE` | 204; 404 when there was none |
//! | `POST /templates/{code}/preview` | `{payload, channel, locale?}` -> `{channel, locale, content}` |
//!
//! They are the caller's own tenant's, unless it may touch all and names one.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_broker::AppendError;
use posthaste_definitions::{Definition, Expected, Key, Kind, WriteError};
use posthaste_event::{
    Channel, FieldError,
    fields::{Fields, Text, excerpt},
    time,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{PathParams, QueryParams, read_body, require_json},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Catalog, checked, code, is_code, no_code};
use crate::{nesting, request::is_tenant};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Most tags of an `If-Match`.
const TAGS_MAX: usize = 16;

type Shared = State<Arc<Catalog>>;

/// The query of every path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    tenant: Option<String>,
}

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedMany {
    tenant: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// What a list shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    code: String,
    version: u64,
    updated_at: String,
    updated_by: String,
}

/// The paths of templates and configurations.
pub fn router(catalog: Arc<Catalog>) -> Router {
    let template = get(|state, caller, path, query| one(Kind::Template, state, caller, path, query))
        .put(|state, caller, path, query, request| put(Kind::Template, state, caller, path, query, request))
        .delete(|state, caller, path, query, headers| {
            delete(Kind::Template, state, caller, path, query, headers)
        });
    let config = get(|state, caller, path, query| one(Kind::Config, state, caller, path, query))
        .put(|state, caller, path, query, request| put(Kind::Config, state, caller, path, query, request))
        .delete(|state, caller, path, query, headers| {
            delete(Kind::Config, state, caller, path, query, headers)
        });
    Router::new()
        .route(
            "/templates",
            get(|state, caller, query| list(Kind::Template, state, caller, query)),
        )
        .route("/templates/{code}", template)
        .route("/templates/{code}/preview", post(preview))
        .route(
            "/configs",
            get(|state, caller, query| list(Kind::Config, state, caller, query)),
        )
        .route("/configs/{code}", config)
        .with_state(catalog)
}

async fn list(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    QueryParams(asked): QueryParams<AskedMany>,
) -> Result<Response, Problem> {
    catalog.check_known()?;
    let tenant = tenant(&caller, asked.tenant)?;
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let error = FieldError::new("limit", "is out of range", format!("1 to {PAGE_MAX}"));
        return Err(refused(vec![error]));
    }
    let mut found = catalog
        .definitions
        .list(kind, &tenant, asked.after.as_deref(), limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = has_more
        .then(|| found.last().map(|(code, _)| code.clone()))
        .flatten();
    let items: Vec<Item> = found
        .into_iter()
        .map(|(code, definition)| Item {
            code,
            version: definition.version,
            updated_at: time::write(definition.at),
            updated_by: definition.by.clone(),
        })
        .collect();
    let mut answer = json!({"tenant": tenant, "items": items});
    if let Some(next) = next {
        answer["next"] = json!(next);
    }
    Ok(Json(answer).into_response())
}

async fn one(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
) -> Result<Response, Problem> {
    catalog.check_known()?;
    let tenant = tenant(&caller, asked.tenant)?;
    let found = is_code(&code)
        .then(|| catalog.definitions.get(kind, &tenant, &code))
        .flatten();
    let definition = found.ok_or_else(|| not_there(kind, &code))?;
    Ok(shown(StatusCode::OK, kind, &tenant, &code, &definition))
}

async fn put(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    catalog.check_known()?;
    let tenant = tenant(&caller, asked.tenant)?;
    let key = key(kind, &tenant, &code)?;
    let (parts, body) = request.into_parts();
    let expected = expected(&parts.headers)?;
    let body = catalog.read(&parts, body).await?;
    let said = checked(kind, &body, &catalog.providers).map_err(refused)?;
    let before = catalog.definitions.get(kind, &tenant, &code);
    if before.is_none() && catalog.definitions.count(kind, &tenant) >= catalog.settings.definitions_max {
        return Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "the tenant has {} {}s, which is all that ingestion.definitions_max allows",
                catalog.settings.definitions_max,
                kind.as_str()
            ),
        ));
    }
    let by = caller
        .principal()
        .map_or(&*catalog.instance, |principal| &principal.name);
    let written = catalog
        .definitions
        .put(&catalog.broker, &key, said, &expected, by)
        .await
        .map_err(|error| catalog.not_written(error))?;
    let status = if before.is_none() {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(shown(status, kind, &tenant, &code, &written))
}

async fn delete(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    catalog.check_known()?;
    let tenant = tenant(&caller, asked.tenant)?;
    let expected = expected(&headers)?;
    if !is_code(&code) {
        return Err(not_there(kind, &code));
    }
    let key = key(kind, &tenant, &code)?;
    let gone = catalog
        .definitions
        .delete(&catalog.broker, &key, &expected)
        .await
        .map_err(|error| catalog.not_written(error))?;
    gone.map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| not_there(kind, &code))
}

/// Renders a template with variables, and sends nothing.
async fn preview(
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    catalog.check_known()?;
    let tenant = tenant(&caller, asked.tenant)?;
    let (parts, body) = request.into_parts();
    let body = catalog.read(&parts, body).await?;
    let found = is_code(&code)
        .then(|| catalog.definitions.get(Kind::Template, &tenant, &code))
        .flatten();
    if found.is_none() {
        return Err(not_there(Kind::Template, &code));
    }
    let template = catalog
        .template(&tenant, &code, "code")
        .map_err(|error| Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, vec![error]))?;
    let (channel, locale, payload) = previewed(&body).map_err(refused)?;
    let rendered = template
        .value
        .render(
            channel,
            &[locale.as_deref()],
            &payload,
            catalog.settings.event_bytes_max,
            "payload",
            "code",
        )
        .map_err(|errors| Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors))?;
    let answer = json!({
        "code": code,
        "version": template.version,
        "channel": channel,
        "locale": rendered.locale,
        "content": rendered.fields,
    });
    Ok(Json(answer).into_response())
}

fn previewed(body: &str) -> Result<(Channel, Option<String>, Value), Vec<FieldError>> {
    let mut fields = Fields::of("", body).map_err(|error| vec![error])?;
    let accepted = Channel::ALL.map(Channel::as_str).join(", ");
    let channel = fields.required_text("channel", Text::line(64)).and_then(|name| {
        let channel = name.parse::<Channel>().ok();
        if channel.is_none() {
            fields.error("channel", "is no channel", accepted);
        }
        channel
    });
    let locale = fields.checked("locale", Text::line(64), |tag| {
        code::is_locale(tag)
            .then_some(())
            .ok_or_else(|| ("is no language".to_owned(), code::LOCALE))
    });
    let locale = locale.map(Into::into);
    let payload = match fields.take("payload") {
        Some(payload) => fields.as_json("payload", payload),
        None => Some(json!({})),
    };
    if payload.as_ref().is_some_and(|payload| !payload.is_object()) {
        fields.error("payload", "must be an object", "the template's variables");
    }
    fields.refuse_unknown();
    fields.finish()?;
    channel
        .zip(payload)
        .map(|(channel, payload)| (channel, locale, payload))
        .ok_or_else(|| vec![FieldError::new("body", "cannot be read", "a preview")])
}

impl Catalog {
    fn check_known(&self) -> Result<(), Problem> {
        if self.is_known() {
            return Ok(());
        }
        Err(Problem::unavailable(
            "templates and configurations are not read yet",
            self.settings.retry_after_seconds.max(1),
        ))
    }

    async fn read(&self, parts: &Parts, body: Body) -> Result<String, Problem> {
        require_json(&parts.headers)?;
        let body = read_body(&parts.headers, body, self.settings.definition_bytes_max).await?;
        let text = std::str::from_utf8(&body)
            .map_err(|_| refused(vec![FieldError::new("body", "is not UTF-8", "JSON in UTF-8")]))?;
        let depth_max = self.settings.nesting_max;
        if nesting::is_deeper(text, depth_max) {
            let problem = format!("is nested deeper than {depth_max} levels");
            return Err(refused(vec![FieldError::new("body", problem, "less nesting")]));
        }
        Ok(text.to_owned())
    }

    fn not_written(&self, error: WriteError) -> Problem {
        let retry = self.settings.retry_after_seconds.max(1);
        match error {
            WriteError::Unknown => Problem::unavailable("what is defined is not read yet", retry),
            WriteError::Unexpected { found } => {
                let found = found.map_or("none is in force".to_owned(), |found| {
                    format!(
                        "version {} is in force, with the ETag \"{}\"",
                        found.version,
                        found.tag()
                    )
                });
                Problem::new(
                    StatusCode::PRECONDITION_FAILED,
                    format!("nothing was written: {found}"),
                )
            }
            WriteError::NoRoom { bytes_max } => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!(
                    "nothing was written: definitions may take {bytes_max} bytes (definitions.bytes_max)"
                ),
            ),
            WriteError::Append(AppendError::TooLarge { bytes }) => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("nothing was written: the broker does not take {bytes} bytes"),
            ),
            WriteError::Append(AppendError::Full) => {
                Problem::unavailable("too much is being written at the moment; nothing was", retry)
            }
            WriteError::Append(AppendError::Unconfirmed { .. }) => Problem::unavailable(
                "it was not confirmed in time and may still be written; look before putting it again",
                retry,
            ),
            WriteError::Unheard => Problem::unavailable(
                "it is written, and not in force here yet; look before putting it again",
                retry,
            ),
        }
    }
}

/// Whose definitions are meant.
fn tenant(caller: &Caller, mut asked: Option<String>) -> Result<String, Problem> {
    caller.narrow(&mut asked, "tenant")?;
    let tenant = asked.unwrap_or_else(|| caller.tenant_default().to_owned());
    if is_tenant(&tenant) {
        return Ok(tenant);
    }
    let problem = format!("{:?} is no tenant", excerpt(&tenant));
    Err(refused(vec![FieldError::new(
        "tenant",
        problem,
        "1 to 64 letters, digits and ._-",
    )]))
}

fn key(kind: Kind, tenant: &str, code: &str) -> Result<Key, Problem> {
    if !is_code(code) {
        return Err(refused(vec![no_code("code", code)]));
    }
    Key::new(kind, tenant, code).map_err(|error| refused(vec![error]))
}

/// What `If-Match` and `If-None-Match` ask for.
fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let of = |name: HeaderName| {
        let mut values = headers.get_all(&name).iter();
        let first = values
            .next()
            .map(|value| value.to_str().unwrap_or_default().trim().to_owned());
        if values.next().is_some() {
            return Err(wrong_header(&name));
        }
        Ok(first)
    };
    match (of(header::IF_MATCH)?, of(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Expected::Any),
        (None, Some(any)) if any == "*" => Ok(Expected::Absent),
        (Some(any), None) if any == "*" => Ok(Expected::Present),
        (Some(tags), None) => {
            let tags: Option<Vec<String>> = tags
                .split(',')
                .map(|tag| {
                    let tag = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
                    Some(tag.to_owned())
                })
                .collect();
            tags.filter(|tags| tags.len() <= TAGS_MAX)
                .map(Expected::Tags)
                .ok_or_else(|| wrong_header(&header::IF_MATCH))
        }
        _ => Err(wrong_header(&header::IF_NONE_MATCH)),
    }
}

fn wrong_header(name: &HeaderName) -> Problem {
    let accepted = "If-Match with the ETags of a GET, in quotes, or *; or If-None-Match: *";
    refused(vec![FieldError::new(
        name.as_str(),
        "cannot be gone by",
        accepted,
    )])
}

fn refused(errors: Vec<FieldError>) -> Problem {
    Problem::fields(StatusCode::BAD_REQUEST, errors)
}

fn not_there(kind: Kind, code: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no {} {:?} of this tenant", kind.as_str(), excerpt(code)),
    )
}

fn shown(status: StatusCode, kind: Kind, tenant: &str, code: &str, definition: &Definition) -> Response {
    let answer = json!({
        "code": code,
        "tenant": tenant,
        "version": definition.version,
        "updatedAt": time::write(definition.at),
        "updatedBy": definition.by,
        (kind.as_str()): definition.body,
    });
    let mut response = (status, Json(answer)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", definition.tag())) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
