//! Lets a request in, or says what it lacks.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use posthaste_event::Millis;

use super::{
    Settings,
    access::{self, Entry, Needs, Role},
    api_key::{Found, Known},
    principal::{Caller, Principal, Tenants},
    rate::{self, Left, Quota},
};
use crate::Problem;

/// Another place for an API key than `Authorization: Bearer`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const SCHEME: &str = "Bearer";

/// Asks every request for credentials.
#[derive(Debug)]
pub struct Guard {
    keys: Known,
    quota: Quota,
    metrics_open: bool,
}

/// What a request may do.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Go on; the answer is given these headers.
    Granted(Option<Granted>),
    /// No path of ours matched: whatever else answers than 404 was not meant to be there.
    Unrouted,
    /// This is the answer.
    Refused(Response),
}

/// What the answer says of the principal's limits.
#[derive(Debug)]
pub(crate) struct Granted {
    quota: Quota,
    left: Left,
}

impl Granted {
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        rate::say(headers, self.quota, self.left);
    }
}

/// Why credentials are not good.
enum Refusal {
    /// There are none.
    Missing,
    /// More than one.
    Several,
    /// They are none of ours, or over.
    Invalid(&'static str),
}

impl Guard {
    /// As the settings say; `None` when nobody is asked for credentials.
    pub fn new(settings: &Settings) -> Option<Arc<Self>> {
        settings.enabled.then(|| {
            Arc::new(Self {
                keys: Known::configured(
                    settings
                        .clients
                        .iter()
                        .map(|(name, client)| (name.as_str(), client)),
                ),
                quota: settings.quota(),
                metrics_open: settings.metrics_open,
            })
        })
    }

    /// Looks at a request and leaves the [`Caller`] with it.
    pub(crate) fn admit(&self, request: &mut Request, now: Millis) -> Admission {
        let Some(path) = request.extensions().get::<MatchedPath>() else {
            return Admission::Unrouted;
        };
        let path = path.as_str();
        let entry = access::entry(request.method(), path);
        let needs = match entry {
            Entry::Needs(Needs::Anyone) => return Admission::Granted(None),
            Entry::Needs(Needs::Everywhere(_)) if self.metrics_open && path == "/metrics" => {
                return Admission::Granted(None);
            }
            Entry::Needs(needs) => Some(needs),
            Entry::NoSuchMethod | Entry::Missing => None,
        };
        let principal = match self.principal(request.headers(), now) {
            Ok(principal) => principal,
            Err(refusal) => return Admission::Refused(refusal.into_response()),
        };
        let left = principal.window.take(self.quota, now);
        let granted = Granted {
            quota: self.quota,
            left,
        };
        let refused = |response| Admission::Refused(with(response, &granted));
        if left.is_over {
            return refused(too_many(&principal, left));
        }
        match needs {
            Some(needs) => {
                if let Some(response) = lacks(&principal, needs) {
                    return refused(response);
                }
            }
            None if entry == Entry::NoSuchMethod => return refused(no_such_method(path)),
            None => return refused(unlisted()),
        }
        request.extensions_mut().insert(Caller::known(principal));
        Admission::Granted(Some(granted))
    }

    fn principal(&self, headers: &HeaderMap, now: Millis) -> Result<Arc<Principal>, Refusal> {
        let key = credentials(headers)?;
        match self.keys.find(key, now) {
            Found::Good(principal) => Ok(Arc::clone(principal)),
            Found::Over => Err(Refusal::Invalid("the API key has expired")),
            Found::Unknown => Err(Refusal::Invalid("the credentials are not known here")),
        }
    }
}

/// The credentials of a request: those of exactly one header.
fn credentials(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut given = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|value| (true, value))
        .chain(headers.get_all(API_KEY).iter().map(|value| (false, value)));
    let (is_authorization, value) = given.next().ok_or(Refusal::Missing)?;
    if given.next().is_some() {
        return Err(Refusal::Several);
    }
    let text = value
        .to_str()
        .map_err(|_| Refusal::Invalid("the credentials are not visible ASCII characters"))?;
    if !is_authorization {
        return Ok(text.trim());
    }
    match text.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => Ok(rest.trim()),
        _ => Err(Refusal::Invalid(
            "the Authorization header is not of the form: Bearer <token or API key>",
        )),
    }
}

impl Refusal {
    fn into_response(self) -> Response {
        let (status, detail, challenge) = match self {
            Self::Missing => (
                StatusCode::UNAUTHORIZED,
                "credentials are missing; accepted: the header Authorization: Bearer <token or API key>, or X-API-Key",
                r#"Bearer realm="posthaste""#.to_owned(),
            ),
            Self::Several => (
                StatusCode::BAD_REQUEST,
                "there are several credentials; accepted: one Authorization header, or one X-API-Key",
                r#"Bearer realm="posthaste", error="invalid_request""#.to_owned(),
            ),
            Self::Invalid(why) => (
                StatusCode::UNAUTHORIZED,
                why,
                format!(r#"Bearer realm="posthaste", error="invalid_token", error_description="{why}""#),
            ),
        };
        challenged(Problem::new(status, detail), &challenge)
    }
}

fn challenged(problem: Problem, challenge: &str) -> Response {
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn with(mut response: Response, granted: &Granted) -> Response {
    granted.say(response.headers_mut());
    response
}

/// The answer to who lacks what is needed.
fn lacks(principal: &Principal, needs: Needs) -> Option<Response> {
    let (role, for_all) = match needs {
        Needs::Anyone => return None,
        Needs::Within(role) => (role, false),
        Needs::Everywhere(role) => (role, true),
    };
    let detail = match (principal.roles.has(role), for_all) {
        (false, false) => format!("the role {role} is missing"),
        (false, true) => format!("the role {role} is missing, for all tenants"),
        (true, true) if principal.tenants != Tenants::All => {
            format!("the role {role} is needed for all tenants; these credentials have it for one")
        }
        (true, _) => return None,
    };
    let challenge = format!(r#"Bearer realm="posthaste", error="insufficient_scope", scope="{role}""#);
    Some(challenged(
        Problem::new(StatusCode::FORBIDDEN, detail),
        &challenge,
    ))
}

fn too_many(principal: &Principal, left: Left) -> Response {
    let detail = format!("{} has asked for too much; come back later", principal.name);
    Problem {
        retry_after_seconds: Some(left.seconds),
        ..Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
    }
    .into_response()
}

fn no_such_method(path: &str) -> Response {
    let detail = "this method is not possible here; see the Allow header";
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
    if let Ok(value) = HeaderValue::try_from(access::methods(path)) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

fn unlisted() -> Response {
    let detail = format!("no role allows this, not even {}", Role::Admin);
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}
