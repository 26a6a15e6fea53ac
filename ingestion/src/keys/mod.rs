//! `/keys`: API keys of a tenant, made, listed, rotated and revoked over HTTP by its admins.
//!
//! | path | answer |
//! |---|---|
//! | `GET /keys` | `{tenant, items, next?}`, by id; `?tenant=`, `?after=`, `?limit=` |
//! | `POST /keys` | `{name, roles, channels?, configs?, expiresAt?}` -> 201 with `key`, which is shown this once |
//! | `GET /keys/{id}` | `{id, prefix, name, tenant, roles, channels?, configs?, expiresAt?, createdAt, createdBy, ...}` |
//! | `POST /keys/{id}/rotate` | `{overlapSeconds?}` -> 200 with another `key`; the one before is good until then, too |
//! | `DELETE /keys/{id}` | 204: it is good no more |
//!
//! They are the caller's own tenant's, unless it may touch all and names one; keys for all tenants are given by the configuration
//! alone. Nobody gives more than it has itself. Kept are digests; see `auth/made.rs` of the service for how they are known again.

mod said;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_broker::Broker;
use posthaste_definitions::{Definition, Definitions, Expected, Key, Kind, WriteError};
use posthaste_event::{Channel, FieldError, Millis, clock, fields::excerpt, time};
use posthaste_service::{
    Problem,
    auth::{Caller, PREFIX, Role, made::Kept, mint, mint_again},
    http::{PathParams, QueryParams, read_body, require_json},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tracing::info;

use crate::{
    Settings,
    defining::{self, Asked, AskedMany, Defining, refused},
};
pub(crate) use said::{DAYS_MAX, NAME_CHARS_MAX, OVERLAP_SECONDS, OVERLAP_SECONDS_MAX};

/// Largest body, in bytes.
const BODY_BYTES_MAX: usize = 16 << 10;
/// How often an id is drawn that another key has.
const DRAWS: usize = 4;

struct Api {
    defining: Defining,
    /// One is made at a time, so that a tenant has no more than it may.
    making: Mutex<()>,
}

type Shared = State<Arc<Api>>;

/// A key as it is shown: neither the secret nor its digest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: &'a str,
    /// What the key begins with.
    prefix: String,
    tenant: &'a str,
    name: &'a str,
    roles: &'a [Role],
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<&'a [Channel]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configs: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    created_at: String,
    created_by: &'a str,
    updated_at: String,
    updated_by: &'a str,
    /// Until when secrets that were replaced are good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    former_until: Vec<String>,
    /// The whole key, when it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// The paths of keys. `definitions` hold those that there are; `instance` is who makes them where nobody is asked for credentials.
pub fn router(
    definitions: Arc<Definitions>,
    broker: Arc<dyn Broker>,
    settings: Settings,
    instance: Arc<str>,
) -> Router {
    let defining = Defining {
        definitions,
        broker,
        settings,
        instance,
    };
    Router::new()
        .route("/keys", get(list).post(make))
        .route("/keys/{id}", get(one).delete(revoke))
        .route("/keys/{id}/rotate", post(rotate))
        .with_state(Arc::new(Api {
            defining,
            making: Mutex::default(),
        }))
}

async fn list(
    State(api): Shared,
    caller: Caller,
    QueryParams(asked): QueryParams<AskedMany>,
) -> Result<Json<Value>, Problem> {
    let now = clock::now();
    let page = api.defining.page(Kind::ApiKey, &caller, asked)?;
    let items: Vec<Value> = page
        .items
        .iter()
        .filter_map(|(id, definition)| {
            let kept = Kept::read(definition)?;
            serde_json::to_value(shown(id, &page.tenant, definition, &kept, now, None)).ok()
        })
        .collect();
    let mut answer = json!({"tenant": page.tenant, "items": items});
    if let Some(next) = page.next {
        answer["next"] = json!(next);
    }
    Ok(Json(answer))
}

async fn one(
    State(api): Shared,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
) -> Result<Response, Problem> {
    let (key, definition, kept) = api.find(&caller, asked, &id)?;
    Ok(answer(StatusCode::OK, &key, &definition, &kept, None))
}

async fn make(
    State(api): Shared,
    caller: Caller,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    api.defining.check_known()?;
    let tenant = defining::tenant(&caller, asked.tenant)?;
    let (parts, body) = request.into_parts();
    let body = api.defining.read(&parts, body).await?;
    let now = clock::now();
    let wanted = said::wanted(&body, now).map_err(refused)?;
    may_give(
        &caller,
        &wanted.roles,
        wanted.channels.as_deref(),
        wanted.configs.as_deref(),
    )?;
    let _one_at_a_time = api.making.lock().await;
    let mut draws = 0;
    let minted = loop {
        let minted = mint().map_err(|reason| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
        draws += 1;
        if draws == DRAWS || api.defining.definitions.api_key(&minted.id).is_none() {
            break minted;
        }
    };
    let key = Key::new(Kind::ApiKey, &tenant, &minted.id).map_err(|error| refused(vec![error]))?;
    let kept = Kept {
        name: wanted.name,
        hash: minted.hash,
        roles: wanted.roles,
        channels: wanted.channels,
        configs: wanted.configs,
        expires_at: wanted.expires_at,
        created_at: now,
        created_by: api.by(&caller).to_owned(),
        former: Vec::new(),
    };
    let written = api.write(&key, &kept, &Expected::Absent, &caller).await?;
    info!(tenant, key.id = %minted.id, by = api.by(&caller), "API key {} of {tenant} was made", minted.id);
    Ok(answer(
        StatusCode::CREATED,
        &key,
        &written,
        &kept,
        Some(minted.key),
    ))
}

async fn rotate(
    State(api): Shared,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let (key, before, kept) = api.find(&caller, asked, &id)?;
    let (parts, body) = request.into_parts();
    let overlap = overlap(&parts, body).await?;
    // Whoever gets a secret gets what it is good for.
    may_give(
        &caller,
        &kept.roles,
        kept.channels.as_deref(),
        kept.configs.as_deref(),
    )?;
    let now = clock::now();
    let conflict = |why: &str| Problem::new(StatusCode::CONFLICT, why);
    if kept.is_over(now) {
        return Err(conflict("the key has expired; make another instead"));
    }
    let minted = mint_again(&id).map_err(|reason| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
    let kept = said::rotated(&kept, minted.hash, overlap, now).ok_or_else(|| {
        conflict("too many secrets of this key are good still; wait until one is over, or end them with overlapSeconds 0")
    })?;
    let expected = Expected::Tags(vec![before.tag()]);
    let written = api.write(&key, &kept, &expected, &caller).await?;
    info!(tenant = key.tenant(), key.id = %id, by = api.by(&caller), "API key {id} of {} was rotated", key.tenant());
    Ok(answer(StatusCode::OK, &key, &written, &kept, Some(minted.key)))
}

async fn revoke(
    State(api): Shared,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
) -> Result<StatusCode, Problem> {
    let (key, ..) = api.find(&caller, asked, &id)?;
    let defining = &api.defining;
    let gone = defining
        .definitions
        .delete(&defining.broker, &key, &Expected::Any)
        .await;
    gone.map_err(|error| defining.not_written(error))?
        .ok_or_else(|| not_there(&id))?;
    info!(tenant = key.tenant(), key.id = %id, by = api.by(&caller), "API key {id} of {} was revoked", key.tenant());
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    /// The key with this id, if it is one of the tenant that is meant.
    fn find(&self, caller: &Caller, asked: Asked, id: &str) -> Result<(Key, Arc<Definition>, Kept), Problem> {
        self.defining.check_known()?;
        let tenant = defining::tenant(caller, asked.tenant)?;
        let key = Key::new(Kind::ApiKey, &tenant, id).map_err(|_| not_there(id))?;
        let found = self.defining.before(&key).ok_or_else(|| not_there(id))?;
        let kept = Kept::read(&found).ok_or_else(|| {
            let detail = "the key was made by a later version of Posthaste; it can be revoked there";
            Problem::new(StatusCode::CONFLICT, detail)
        })?;
        Ok((key, found, kept))
    }

    async fn write(
        &self,
        key: &Key,
        kept: &Kept,
        expected: &Expected,
        caller: &Caller,
    ) -> Result<Arc<Definition>, Problem> {
        let body = serde_json::value::to_raw_value(kept)
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        self.defining.check_room(key)?;
        let defining = &self.defining;
        let by = self.by(caller);
        let written = defining
            .definitions
            .put(&defining.broker, key, body, expected, by)
            .await;
        written.map_err(|error| match error {
            WriteError::Unexpected { .. } => Problem::new(
                StatusCode::CONFLICT,
                "the key was changed by somebody else at this moment; look, and try again",
            ),
            error => defining.not_written(error),
        })
    }

    fn by<'a>(&'a self, caller: &'a Caller) -> &'a str {
        caller
            .principal()
            .map_or(&*self.defining.instance, |principal| &principal.name)
    }
}

/// The body of a rotation, which may be left out.
async fn overlap(parts: &axum::http::request::Parts, body: axum::body::Body) -> Result<u32, Problem> {
    let body = read_body(&parts.headers, body, BODY_BYTES_MAX).await?;
    if body.is_empty() {
        return Ok(OVERLAP_SECONDS);
    }
    require_json(&parts.headers)?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| refused(vec![FieldError::new("body", "is not UTF-8", "JSON in UTF-8")]))?;
    said::overlap(text).map_err(refused)
}

/// Checks that nobody gives more than it has.
fn may_give(
    caller: &Caller,
    roles: &[Role],
    channels: Option<&[Channel]>,
    configs: Option<&[String]>,
) -> Result<(), Problem> {
    let Some(own) = caller.principal() else {
        return Ok(());
    };
    let forbidden = |field: &str, problem: String, accepted: String| {
        let error = FieldError::new(field, problem, accepted);
        Err(Problem::fields(StatusCode::FORBIDDEN, vec![error]))
    };
    if let Some(role) = roles.iter().find(|role| !own.roles.has(**role)) {
        let accepted: Vec<&str> = own.roles.iter().map(Role::as_str).collect();
        let problem = format!("these credentials have not the role {role} themselves");
        return forbidden("roles", problem, accepted.join(", "));
    }
    if let Some(allowed) = own.channels.as_deref().filter(|own| is_beyond(channels, own)) {
        let accepted: Vec<&str> = allowed.iter().map(|channel| channel.as_str()).collect();
        let problem = "these credentials are held to some channels, and so is what they give".to_owned();
        return forbidden("channels", problem, accepted.join(", "));
    }
    if let Some(allowed) = own.configs.as_deref().filter(|own| is_beyond(configs, own)) {
        let problem =
            "these credentials are held to some configurations, and so is what they give".to_owned();
        return forbidden("configs", problem, allowed.join(", "));
    }
    Ok(())
}

/// Whether something is given that is not one's own; without a list all is.
fn is_beyond<T: PartialEq>(given: Option<&[T]>, own: &[T]) -> bool {
    given.is_none_or(|given| given.iter().any(|one| !own.contains(one)))
}

fn not_there(id: &str) -> Problem {
    let detail = format!("there is no key {:?} of this tenant", excerpt(id));
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn shown<'a>(
    id: &'a str,
    tenant: &'a str,
    definition: &'a Definition,
    kept: &'a Kept,
    now: Millis,
    key: Option<String>,
) -> Shown<'a> {
    Shown {
        id,
        prefix: format!("{PREFIX}{id}_"),
        tenant,
        name: &kept.name,
        roles: &kept.roles,
        channels: kept.channels.as_deref(),
        configs: kept.configs.as_deref(),
        expires_at: kept.expires_at.map(time::write),
        created_at: time::write(kept.created_at),
        created_by: &kept.created_by,
        updated_at: time::write(definition.at),
        updated_by: &definition.by,
        former_until: kept
            .former_good(now)
            .map(|former| time::write(former.until))
            .collect(),
        key,
    }
}

fn answer(
    status: StatusCode,
    key: &Key,
    definition: &Definition,
    kept: &Kept,
    secret: Option<String>,
) -> Response {
    let shown = shown(key.code(), key.tenant(), definition, kept, clock::now(), secret);
    let mut response = (status, Json(shown)).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
