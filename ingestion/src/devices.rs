//! `/devices`: where a push to a user goes.
//!
//! | path | what |
//! |---|---|
//! | `PUT /devices` | `{user, token, provider?, expiresAt?, tenant?}`: this user has the device from now on |
//! | `GET /devices?user=` | a user's devices, those registered last first |
//! | `DELETE /devices/{id}` | forgets one |
//!
//! Tokens are shown to those only who may see payloads. A device that its provider called gone is not a user's any more: it is
//! suppressed, and registering it anew ends that.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, put},
};
use jiff::Timestamp;
use posthaste_broker::Broker;
use posthaste_definitions::{Suppressions, suppressions::Reason};
use posthaste_event::{
    Channel, FieldError, Millis, clock,
    fields::{Fields, Text, excerpt},
    payload::push::{TOKEN_CHARS_MAX, USER_CHARS_MAX, check_token},
    time,
};
use posthaste_service::{
    Problem,
    auth::{Caller, Role},
    http::{JsonBody, PathParams, QueryParams},
};
use posthaste_store::{Device, Devices, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ProviderNames, Settings, request};

/// When to ask again while the store does not answer, in seconds.
const RETRY_SECONDS: u32 = 2;
/// Bytes of a token's digest that name it.
const ID_BYTES: usize = 16;

/// What the paths use.
#[derive(Clone)]
struct Api {
    devices: Arc<dyn Devices>,
    suppressions: Arc<Suppressions>,
    broker: Arc<dyn Broker>,
    providers: ProviderNames,
    settings: Settings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    tenant: Option<String>,
    user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantQuery {
    tenant: Option<String>,
}

/// A device, as it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    devices: Vec<Item>,
}

/// The paths. A device that `suppressions` have is gone.
pub fn router(
    devices: Arc<dyn Devices>,
    suppressions: Arc<Suppressions>,
    broker: Arc<dyn Broker>,
    providers: ProviderNames,
    settings: Settings,
) -> Router {
    Router::new()
        .route("/devices", put(register).get(list))
        .route("/devices/{id}", delete(unregister))
        .with_state(Api {
            devices,
            suppressions,
            broker,
            providers,
            settings,
        })
}

async fn register(
    State(api): State<Api>,
    caller: Caller,
    JsonBody(body): JsonBody<Box<RawValue>>,
) -> Result<Json<Item>, Problem> {
    let device = read(&api, &body, caller.tenant_default(), clock::now())
        .map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))?;
    caller.may_send(&device.tenant, Channel::Push)?;
    api.devices
        .register(&device, api.settings.devices_max)
        .await
        .map_err(|error| away(&error))?;
    api.revive(&device).await?;
    Ok(Json(item(device, true)))
}

async fn list(
    State(api): State<Api>,
    caller: Caller,
    QueryParams(query): QueryParams<Query>,
) -> Result<Json<Listed>, Problem> {
    let tenant = tenant(&caller, query.tenant)?;
    let user = query.user.filter(|user| is_user(user)).ok_or_else(|| {
        let accepted = format!("the name of a user, 1 to {USER_CHARS_MAX} characters");
        Problem::fields(
            StatusCode::BAD_REQUEST,
            vec![FieldError::new("user", "is missing, or is no name", accepted)],
        )
    })?;
    let now = clock::now();
    let found = api.devices.devices(&tenant, &user, now, api.settings.devices_max);
    let mut found = found.await.map_err(|error| away(&error))?;
    found.retain(|device| api.gone(device, now).is_none());
    let is_shown = caller.has(Role::ReadPayload);
    Ok(Json(Listed {
        devices: found.into_iter().map(|device| item(device, is_shown)).collect(),
    }))
}

async fn unregister(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<TenantQuery>,
) -> Result<StatusCode, Problem> {
    let tenant = tenant(&caller, query.tenant)?;
    match api.devices.unregister(&tenant, &id).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("there is no device {:?}", excerpt(&id)),
        )),
        Err(error) => Err(away(&error)),
    }
}

impl Api {
    /// Why nothing goes to the device any more, if so.
    fn gone(&self, device: &Device, now: Millis) -> Option<Reason> {
        self.suppressions
            .reason(&device.tenant, Channel::Push, &device.token, now)
    }

    /// An app that says its token is there again: what its provider said before is over. Decisions of people stay.
    async fn revive(&self, device: &Device) -> Result<(), Problem> {
        if self.gone(device, clock::now()) != Some(Reason::Bounced) {
            return Ok(());
        }
        let (tenant, token) = (&device.tenant, &device.token);
        let Some((id, _)) = self.suppressions.id(tenant, Channel::Push, token) else {
            return Ok(());
        };
        self.suppressions
            .remove(&self.broker, tenant, Channel::Push, id)
            .await
            .map_err(|error| Problem::unavailable(format!("{error}; asking again is safe"), RETRY_SECONDS))
    }
}

/// Reads a registration.
fn read(api: &Api, body: &RawValue, tenant_default: &str, now: Millis) -> Result<Device, Vec<FieldError>> {
    let mut fields = Fields::of("", body.get()).map_err(|error| vec![error])?;
    let user = fields.required_text("user", Text::line(USER_CHARS_MAX));
    let token = fields.required_text("token", Text::line(TOKEN_CHARS_MAX));
    if let Some((problem, accepted)) = token.as_deref().and_then(|token| check_token(token).err()) {
        fields.error("token", problem, accepted);
    }
    let provider = fields.text("provider", Text::line(USER_CHARS_MAX));
    let known = api
        .providers
        .get(&Channel::Push)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if let Some(provider) = &provider
        && !known.iter().any(|name| name == provider)
    {
        let problem = format!("{:?} is no provider of this channel", excerpt(provider));
        fields.error("provider", problem, known.join(", "));
    }
    let expires_at = fields.text("expiresAt", request::ANY).and_then(|text| {
        let days = api.settings.ahead_days_max;
        time::read("expiresAt", &text, days, now)
            .map_err(|error| fields.push(error))
            .ok()
    });
    if expires_at.is_some_and(|at| at <= now) {
        fields.error("expiresAt", "is over", "a time in the future");
    }
    let tenant = fields.checked("tenant", request::ANY, request::tenant);
    fields.refuse_unknown();
    let tenant = tenant.map_or_else(|| tenant_default.to_owned(), Into::into);
    let device = user.zip(token).map(|(user, token)| Device {
        id: id_of(&tenant, &token),
        tenant,
        user: user.into_owned(),
        token: token.into_owned(),
        provider: provider.map(Into::into),
        at: now,
        expires_at,
    });
    fields.finish()?;
    device.ok_or_else(|| vec![FieldError::new("body", "cannot be read", "a device")])
}

/// Names a token without saying it.
pub(crate) fn id_of(tenant: &str, token: &str) -> String {
    // No tenant has a line end in its name.
    let hash = digest(&SHA256, format!("{tenant}\n{token}").as_bytes());
    hash.as_ref()[..ID_BYTES]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn is_user(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= USER_CHARS_MAX && !name.chars().any(char::is_control)
}

/// Whose devices are meant.
fn tenant(caller: &Caller, mut asked: Option<String>) -> Result<String, Problem> {
    caller.narrow(&mut asked, "tenant")?;
    Ok(asked.unwrap_or_else(|| caller.tenant_default().to_owned()))
}

fn item(device: Device, is_shown: bool) -> Item {
    let text =
        |at: Millis| Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string());
    Item {
        id: device.id,
        user: device.user,
        token: is_shown.then_some(device.token),
        provider: device.provider,
        at: text(device.at),
        expires_at: device.expires_at.map(text),
    }
}

fn away(error: &StoreError) -> Problem {
    Problem::unavailable(
        format!("devices cannot be looked up or kept at the moment: {error}"),
        RETRY_SECONDS,
    )
}
