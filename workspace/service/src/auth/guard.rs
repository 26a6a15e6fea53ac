//! Lets a request in, or says what it lacks.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use posthaste_definitions::Definitions;
use posthaste_event::Millis;
use tracing::warn;

use super::{
    AuthSettings,
    access::{self, Entry, Needs, Role},
    address::{Origin, Proxies},
    api_key::{self, Found, PREFIX},
    failures::{Cost, Failures},
    issuer::{self, Issuer, Unreachable},
    made::{self, Made},
    principal::{Caller, Principal, Tenants},
    rate::{self, Left, Quota},
    token::Bad,
};
use crate::{Health, Problem};

/// Another place for an API key than `Authorization: Bearer`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const SCHEME: &str = "Bearer";

/// Asks every request for credentials.
#[derive(Debug)]
pub struct Guard {
    keys: api_key::Known,
    made: Option<Made>,
    issuer: Option<Arc<Issuer>>,
    quota: Quota,
    failures: Failures,
    proxies: Proxies,
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
    Refused(Box<Response>),
    /// The issuer must be asked for its keys first: [`Guard::admit_later`].
    Later,
}

/// What the answer says of the principal's limits.
#[derive(Debug)]
pub(crate) struct Granted {
    quota: Quota,
    left: Left,
}

impl Granted {
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        rate::say(headers, PRINCIPAL, self.quota, self.left);
    }
}

/// Whose limit it is: of who brings good credentials, or of an address that others come from.
const PRINCIPAL: &str = "principal";
const ADDRESS: &str = "address";

/// Why credentials are not good.
enum Refusal {
    /// There are none.
    Missing,
    /// More than one.
    Several,
    /// They are none of ours, or over; and what it cost to know.
    Invalid(&'static str, Cost),
    /// They are not looked at, since too many from there were no good.
    Unseen,
    /// They are good, and for nothing here.
    Forbidden(String),
    /// What they are worth cannot be said now.
    Unknown,
    /// The same, since the keys in force are not known.
    Unread,
    /// Nor until the issuer was asked.
    AskIssuer,
}

/// When to come back while the issuer is away, in seconds.
const ISSUER_SECONDS: u32 = 10;
/// The same, while it is not known which keys are in force.
const UNREAD_SECONDS: u32 = 2;

const EXPIRED: &str = "the API key has expired";

impl Guard {
    /// As the settings say; `None` when nobody is asked for credentials. Keys that were made over HTTP are among `definitions`,
    /// if this process follows them.
    ///
    /// # Errors
    /// When there is no way to ask the issuer for its keys.
    pub fn new(
        settings: &AuthSettings,
        definitions: Option<Arc<Definitions>>,
    ) -> Result<Option<Arc<Self>>, String> {
        if !settings.enabled {
            return Ok(None);
        }
        let issuer = match settings.jwt.jwks_url.is_empty() {
            true => None,
            false => Some(Arc::new(Issuer::new(&settings.jwt)?)),
        };
        let clients = settings
            .clients
            .iter()
            .map(|(name, client)| (name.as_str(), client));
        let trusted = Duration::from_secs(u64::from(settings.keys_trusted_seconds));
        Ok(Some(Arc::new(Self {
            made: definitions.map(|definitions| Made::new(definitions, trusted)),
            keys: api_key::Known::configured(clients),
            issuer,
            quota: settings.quota(),
            failures: Failures::new(settings.failures_quota()),
            proxies: Proxies::read(&settings.proxies)
                .map_err(|text| format!("service.auth.proxies: {text:?} is no network"))?,
            metrics_open: settings.metrics_open,
        })))
    }

    /// Fetches the issuer's keys in advance, and says on `/ready` when that fails.
    pub fn watch(&self, health: &Health) {
        if let Some(issuer) = &self.issuer {
            issuer.watch(health);
        }
    }

    /// Looks at a request and leaves the [`Caller`] with it.
    pub(crate) fn admit(&self, request: &mut Request, now: Millis) -> Admission {
        match self.needs(request) {
            Err(admission) => admission,
            Ok(needs) => match self.principal(request, now) {
                Ok(principal) => self.decide(request, needs, principal, now),
                Err(Refusal::AskIssuer) => Admission::Later,
                Err(refusal) => self.refuse(request, refusal, now),
            },
        }
    }

    /// The same, once the issuer was asked for its keys.
    pub(crate) async fn admit_later(&self, request: &mut Request, now: Millis) -> Admission {
        let needs = match self.needs(request) {
            Err(admission) => return admission,
            Ok(needs) => needs,
        };
        let (Some(issuer), Ok(token)) = (&self.issuer, credentials(request.headers())) else {
            return self.refuse(request, Refusal::Missing, now);
        };
        let known = match issuer.ask(token, now).await {
            Ok(known) => principal_of(known),
            Err(Unreachable) => Err(Refusal::Unknown),
        };
        match known {
            Ok(principal) => self.decide(request, needs, principal, now),
            Err(refusal) => self.refuse(request, refusal, now),
        }
    }

    /// Answers credentials that are not good, and counts them against the address they come from.
    ///
    /// Those that are good are not asked where they come from: behind one address may be many, and one of them wrong. API keys
    /// and tokens that were found good before cost little to know, so they always go on; a token that was never seen waits
    /// until the window is over once signatures were checked in vain too often.
    fn refuse(&self, request: &Request, refusal: Refusal, now: Millis) -> Admission {
        let cost = match &refusal {
            Refusal::Invalid(_, cost) => Some(*cost),
            Refusal::Forbidden(_) => Some(Cost::Much),
            Refusal::Unseen => None,
            Refusal::Missing | Refusal::Several | Refusal::Unknown | Refusal::Unread | Refusal::AskIssuer => {
                return Admission::Refused(Box::new(refusal.into_response()));
            }
        };
        let origin = self.origin(request);
        let left = match cost {
            Some(cost) => self.failures.count(origin, cost, now),
            None => self.failures.left(origin, now),
        };
        let mut response = if left.is_over {
            if self.failures.is_news(now) {
                warn!(
                    %origin,
                    "{origin} presents credentials again and again that are no good; it is answered 429 (others may be, too)"
                );
            }
            too_many_failures(left)
        } else {
            refusal.into_response()
        };
        rate::say(response.headers_mut(), ADDRESS, self.failures.quota(), left);
        Admission::Refused(Box::new(response))
    }

    fn origin(&self, request: &Request) -> Origin {
        self.proxies.origin(request.extensions(), request.headers())
    }

    /// What the table says of this request's path; what is decided by that alone is the error.
    fn needs(&self, request: &Request) -> Result<Entry, Admission> {
        let Some(path) = request.extensions().get::<MatchedPath>() else {
            return Err(Admission::Unrouted);
        };
        let path = path.as_str();
        match access::entry(request.method(), path) {
            Entry::Needs(Needs::Anyone) => Err(Admission::Granted(None)),
            Entry::Needs(_) if self.metrics_open && path == "/metrics" => Err(Admission::Granted(None)),
            entry => Ok(entry),
        }
    }

    fn decide(
        &self,
        request: &mut Request,
        entry: Entry,
        principal: Arc<Principal>,
        now: Millis,
    ) -> Admission {
        let left = principal.window.take(self.quota, now);
        let granted = Granted {
            quota: self.quota,
            left,
        };
        let refusal = match entry {
            _ if left.is_over => Some(too_many(&principal, left)),
            Entry::Needs(needs) => lacks(&principal, needs),
            Entry::NoSuchMethod => {
                let path = request.extensions().get::<MatchedPath>();
                Some(no_such_method(path.map_or("", MatchedPath::as_str)))
            }
            Entry::Missing => Some(unlisted()),
        };
        if let Some(mut response) = refusal {
            granted.say(response.headers_mut());
            return Admission::Refused(Box::new(response));
        }
        request.extensions_mut().insert(Caller::known(principal));
        Admission::Granted(Some(granted))
    }

    fn principal(&self, request: &Request, now: Millis) -> Result<Arc<Principal>, Refusal> {
        let credentials = credentials(request.headers())?;
        if let Some(issuer) = self.issuer.as_ref().filter(|_| !credentials.starts_with(PREFIX)) {
            let may_be_new = || !self.failures.is_shut(self.origin(request), now);
            return principal_of(issuer.know(credentials, now, may_be_new));
        }
        match self.keys.find(credentials, now) {
            Found::Good(principal) => return Ok(Arc::clone(principal)),
            Found::Over => return Err(invalid(EXPIRED)),
            Found::Unknown => {}
        }
        let made = self.made.as_ref().map(|made| made.find(credentials, now));
        match made.unwrap_or(made::Found::Unknown) {
            made::Found::Good(principal) => Ok(principal),
            made::Found::Over => Err(invalid(EXPIRED)),
            made::Found::Unknown => Err(invalid("the credentials are not known here")),
            made::Found::Unread => Err(Refusal::Unread),
        }
    }
}

fn principal_of(known: issuer::Known) -> Result<Arc<Principal>, Refusal> {
    match known {
        issuer::Known::Good(principal) => Ok(principal),
        issuer::Known::Bad(Bad::Token(why)) => Err(invalid(why)),
        issuer::Known::Bad(Bad::Forged) => {
            Err(Refusal::Invalid("the token's signature is not good", Cost::Much))
        }
        issuer::Known::Bad(Bad::Key) => Err(Refusal::Invalid(
            "the token is signed with a key that is not known",
            Cost::Much,
        )),
        issuer::Known::Bad(Bad::Forbidden(why)) => Err(Refusal::Forbidden(why)),
        issuer::Known::AskIssuer => Err(Refusal::AskIssuer),
        issuer::Known::Unseen => Err(Refusal::Unseen),
    }
}

const fn invalid(why: &'static str) -> Refusal {
    Refusal::Invalid(why, Cost::Little)
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
        .map_err(|_| invalid("the credentials are not visible ASCII characters"))?;
    if !is_authorization {
        return Ok(text.trim());
    }
    match text.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => Ok(rest.trim()),
        _ => Err(invalid(
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
            Self::Forbidden(why) => return Problem::new(StatusCode::FORBIDDEN, why).into_response(),
            Self::Unknown | Self::AskIssuer => {
                let detail =
                    "the token cannot be checked, since its issuer does not give its keys at the moment";
                return Problem::unavailable(detail, ISSUER_SECONDS).into_response();
            }
            Self::Unread => {
                let detail =
                    "the key cannot be checked, since it is not known at the moment which keys are in force";
                return Problem::unavailable(detail, UNREAD_SECONDS).into_response();
            }
            Self::Unseen => {
                let why = "the token was not looked at";
                return Problem::new(StatusCode::TOO_MANY_REQUESTS, why).into_response();
            }
            Self::Invalid(why, _) => (
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

/// The same, whatever was wrong with them.
fn too_many_failures(left: Left) -> Response {
    let detail =
        "too many credentials from this address were no good; come back later, or with a key that is good";
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
