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
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_definitions::{Definition, Key, Kind};
use posthaste_event::{
    Channel, FieldError,
    fields::{Fields, Text},
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{PathParams, QueryParams},
};
use serde_json::{Value, json};

use super::{Catalog, checked, code};
use crate::defining::{self, Asked, AskedMany, refused};

type Shared = State<Arc<Catalog>>;

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
) -> Result<Json<Value>, Problem> {
    catalog.defining.list(kind, &caller, asked)
}

async fn one(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
) -> Result<Response, Problem> {
    let (key, definition) = catalog.defining.get(kind, &caller, asked, &code)?;
    Ok(shown(StatusCode::OK, &key, &definition))
}

async fn put(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let defining = &catalog.defining;
    let key = defining.key(kind, &caller, asked, &code)?;
    let (parts, body) = request.into_parts();
    let expected = defining::expected(&parts.headers)?;
    let body = defining.read(&parts, body).await?;
    let said = checked(kind, &body, &catalog.providers).map_err(refused)?;
    let is_new = defining.before(&key).is_none();
    let written = defining.put(&key, said, &expected, &caller).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(shown(status, &key, &written))
}

async fn delete(
    kind: Kind,
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    catalog
        .defining
        .delete(kind, &caller, asked, &code, &headers)
        .await
}

fn shown(status: StatusCode, key: &Key, definition: &Definition) -> Response {
    let said = (key.kind().as_str(), json!(definition.body));
    defining::shown(status, key, definition, [said])
}

/// Renders a template with variables, and sends nothing.
async fn preview(
    State(catalog): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let (key, _) = catalog.defining.get(Kind::Template, &caller, asked, &code)?;
    let (parts, body) = request.into_parts();
    let body = catalog.defining.read(&parts, body).await?;
    let template = catalog
        .template(key.tenant(), &code, "code")
        .map_err(|error| Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, vec![error]))?;
    let (channel, locale, payload) = previewed(&body).map_err(refused)?;
    let rendered = template
        .value
        .render(
            channel,
            &[locale.as_deref()],
            &payload,
            catalog.defining.settings.event_bytes_max,
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
