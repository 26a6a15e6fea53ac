//! Who asks, and what of the tenants' belongings is theirs.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Extensions, StatusCode, request::Parts},
};
pub use posthaste_event::own_id::TENANT_DEFAULT;
use posthaste_event::{Channel, FieldError, Millis, own_id};

use super::{
    access::{Role, Roles},
    rate::Window,
};
use crate::Problem;

/// Most codes of configurations that a principal may be held to.
pub const CONFIGS_MAX: usize = 100;
/// Codes that a refusal names; each item of a request with many is refused by itself.
const CONFIGS_NAMED: usize = 10;

/// Whose belongings a principal may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// One tenant's.
    One(Arc<str>),
    /// Everybody's: an operator.
    All,
}

/// Somebody whose credentials were good.
#[derive(Debug)]
pub struct Principal {
    /// Shown in logs: the name of an API key, or the subject of a token.
    pub name: Arc<str>,
    /// Whose belongings it may touch.
    pub tenants: Tenants,
    /// What it may do with them.
    pub roles: Roles,
    /// The channels that it may send on; without, all.
    pub channels: Option<Vec<Channel>>,
    /// The codes of the configurations by which it may send, and by nothing else; without, in every way.
    pub configs: Option<Vec<String>>,
    /// When its credentials are over.
    pub until: Option<Millis>,
    /// How much it asked for lately. Shared by all credentials of one name.
    pub(super) window: Arc<Window>,
}

impl Principal {
    /// Whether it may touch what belongs to this tenant.
    pub fn may_touch(&self, tenant: &str) -> bool {
        match &self.tenants {
            Tenants::One(own) => **own == *tenant,
            Tenants::All => true,
        }
    }
}

/// Whoever asks: a principal, or anyone where nobody is asked for credentials.
///
/// Taken out of a request as an extractor; every path that shows or does something to what belongs to a tenant goes by it.
#[derive(Debug, Clone, Default)]
pub struct Caller(Option<Arc<Principal>>);

impl Caller {
    /// A principal.
    pub const fn known(principal: Arc<Principal>) -> Self {
        Self(Some(principal))
    }

    /// Where credentials are not asked for.
    pub const fn anyone() -> Self {
        Self(None)
    }

    /// Who asked, as the guard left it with the request.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// The principal; `None` where credentials are not asked for.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.0.as_ref()
    }

    /// The tenant that it is bound to; `None` when it may touch everybody's.
    pub fn bound_to(&self) -> Option<&str> {
        match self.0.as_deref() {
            Some(Principal {
                tenants: Tenants::One(tenant),
                ..
            }) => Some(tenant),
            _ => None,
        }
    }

    /// Whose events are meant when a request names no tenant.
    pub fn tenant_default(&self) -> &str {
        self.bound_to().unwrap_or(TENANT_DEFAULT)
    }

    /// Whether it may touch what belongs to this tenant.
    pub fn may_touch(&self, tenant: &str) -> bool {
        self.bound_to().is_none_or(|own| own == tenant)
    }

    /// How an event's id is shown to it: as its tenant chose it; whole to whoever may see those of all.
    pub fn shown<'a>(&self, id: &'a str) -> &'a str {
        self.bound_to().map_or(id, |tenant| own_id::shown(tenant, id))
    }

    /// The ids that it may mean by this one, the one to be taken first, if there are several.
    pub fn meant(&self, id: &str) -> Vec<String> {
        self.bound_to()
            .map_or_else(|| vec![id.to_owned()], |tenant| own_id::meant(tenant, id))
    }

    /// Whether it has this role; anyone has, where credentials are not asked for.
    pub fn has(&self, role: Role) -> bool {
        self.0.as_ref().is_none_or(|principal| principal.roles.has(role))
    }

    /// When its credentials are over, if they ever are.
    pub fn until(&self) -> Option<Millis> {
        self.0.as_ref()?.until
    }

    /// Narrows a search to what the caller may see: its own tenant, unless it may see all.
    ///
    /// # Errors
    /// 403 when another tenant is `asked` for, 400 when it has no name; `field` says where.
    pub fn narrow(&self, asked: &mut Option<String>, field: &str) -> Result<(), Problem> {
        if asked.as_ref().is_some_and(String::is_empty) {
            let error = FieldError::new(field, "is empty", "the name of a tenant");
            return Err(Problem::fields(StatusCode::BAD_REQUEST, vec![error]));
        }
        let Some(own) = self.bound_to() else { return Ok(()) };
        match asked {
            Some(tenant) if tenant != own => Err(other_tenant(field)),
            _ => {
                *asked = Some(own.to_owned());
                Ok(())
            }
        }
    }

    /// Checks that it may send for this tenant on this channel.
    ///
    /// # Errors
    /// 403 that names the field.
    pub fn may_send(&self, tenant: &str, channel: Channel) -> Result<(), Problem> {
        let Some(principal) = &self.0 else { return Ok(()) };
        if !principal.may_touch(tenant) {
            return Err(other_tenant("tenant"));
        }
        match &principal.channels {
            Some(channels) if !channels.contains(&channel) => {
                let names: Vec<&str> = channels.iter().map(|channel| channel.as_str()).collect();
                let problem = format!("these credentials may not send on {channel}");
                Err(Problem::fields(
                    StatusCode::FORBIDDEN,
                    vec![FieldError::new("channel", problem, names.join(", "))],
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it may send by the configuration with this code, or by none. `field` is where the code stands, or would.
    ///
    /// Whether there is such a configuration is not looked at, so the answer does not tell.
    ///
    /// # Errors
    /// 403 that names the field.
    pub fn may_send_by(&self, config: Option<&str>, field: &str) -> Result<(), Problem> {
        let configs = self.0.as_deref().and_then(|principal| principal.configs.as_ref());
        let Some(configs) = configs else { return Ok(()) };
        if config.is_some_and(|config| configs.iter().any(|code| code == config)) {
            return Ok(());
        }
        let problem = match config {
            Some(_) => "these credentials may not send by this configuration",
            None => "these credentials send only messages of configurations (POST /messages/request)",
        };
        let error = FieldError::new(field, problem, named(configs));
        Err(Problem::fields(StatusCode::FORBIDDEN, vec![error]))
    }
}

fn named(configs: &[String]) -> String {
    let (first, rest) = configs.split_at(configs.len().min(CONFIGS_NAMED));
    match (first.join(", "), rest.len()) {
        (_, 0) if first.is_empty() => "none".to_owned(),
        (names, 0) => names,
        (names, more) => format!("{names} and {more} more"),
    }
}

fn other_tenant(field: &str) -> Problem {
    let error = FieldError::new(
        field,
        "is not the tenant of these credentials",
        "their own tenant, or none to mean it",
    );
    Problem::fields(StatusCode::FORBIDDEN, vec![error])
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenants: Tenants, channels: Option<Vec<Channel>>) -> Caller {
        Caller::known(Arc::new(principal(tenants, channels)))
    }

    fn principal(tenants: Tenants, channels: Option<Vec<Channel>>) -> Principal {
        Principal {
            name: "p".into(),
            tenants,
            roles: [Role::Send].into_iter().collect(),
            channels,
            configs: None,
            until: None,
            window: Arc::default(),
        }
    }

    #[test]
    fn a_search_stays_with_the_tenant_of_who_asks() {
        let narrowed = |caller: &Caller, asked: Option<&str>| {
            let mut asked = asked.map(str::to_owned);
            caller
                .narrow(&mut asked, "tenant")
                .map(|()| asked)
                .map_err(|problem| problem.status.as_u16())
        };
        let bound = caller(Tenants::One("a".into()), None);
        assert_eq!(narrowed(&bound, None), Ok(Some("a".to_owned())));
        assert_eq!(narrowed(&bound, Some("a")), Ok(Some("a".to_owned())));
        for other in ["b", "A", "a ", "*"] {
            assert_eq!(narrowed(&bound, Some(other)), Err(403), "{other}");
        }
        for free in [caller(Tenants::All, None), Caller::anyone()] {
            assert_eq!(narrowed(&free, None), Ok(None));
            assert_eq!(narrowed(&free, Some("b")), Ok(Some("b".to_owned())));
        }
        for anyone in [bound, caller(Tenants::All, None), Caller::anyone()] {
            assert_eq!(narrowed(&anyone, Some("")), Err(400));
        }
    }

    #[test]
    fn who_sends_keeps_to_its_tenant_and_its_channels() {
        let status = |caller: &Caller, tenant: &str, channel| {
            caller
                .may_send(tenant, channel)
                .map_err(|problem| (problem.status.as_u16(), problem.errors[0].field.clone()))
        };
        let bound = caller(Tenants::One("a".into()), Some(vec![Channel::Sms]));
        assert_eq!(bound.tenant_default(), "a");
        assert_eq!(status(&bound, "a", Channel::Sms), Ok(()));
        assert_eq!(status(&bound, "b", Channel::Sms), Err((403, "tenant".into())));
        assert_eq!(status(&bound, "a", Channel::Email), Err((403, "channel".into())));
        assert_eq!(status(&Caller::anyone(), "b", Channel::Email), Ok(()));
        assert!(!bound.has(Role::Read) && Caller::anyone().has(Role::Admin));
    }

    #[test]
    fn who_is_held_to_configurations_sends_by_nothing_else() {
        let held = |configs: &[&str]| {
            let mut principal = principal(Tenants::One("a".into()), None);
            principal.configs = Some(configs.iter().map(|code| (*code).to_owned()).collect());
            Caller::known(Arc::new(principal))
        };
        let refused = |caller: &Caller, config| {
            let problem = caller.may_send_by(config, "configCode").unwrap_err();
            assert_eq!(problem.status, StatusCode::FORBIDDEN);
            assert_eq!(problem.errors[0].field, "configCode");
            problem.errors[0].accepted.clone()
        };
        let two = held(&["shop", "news"]);
        assert!(two.may_send_by(Some("shop"), "configCode").is_ok());
        for other in [Some("Shop"), Some("shop "), Some(""), Some("shop,news"), None] {
            assert_eq!(refused(&two, other), "shop, news", "{other:?}");
        }
        assert_eq!(refused(&held(&[]), Some("")), "none");
        let codes: Vec<String> = (0..CONFIGS_MAX).map(|number| format!("c{number}")).collect();
        let many = held(&codes.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(many.may_send_by(Some("c99"), "configCode").is_ok());
        assert!(refused(&many, None).ends_with("c9 and 90 more"));
        for free in [caller(Tenants::All, None), Caller::anyone()] {
            assert!(free.may_send_by(None, "configCode").is_ok());
            assert!(free.may_send_by(Some("shop"), "configCode").is_ok());
        }
    }
}
