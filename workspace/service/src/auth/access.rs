//! Which role each path asks for. The one table of it: what is not in it nobody may do.

use std::fmt;

use axum::http::Method;
use serde::{Deserialize, Serialize};

use self::{
    Needs::{Anyone, Everywhere, Within},
    Role::{Admin, Operate, Read, ReadPayload, Send},
};

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Hand in events, and take back what has not gone out.
    Send,
    /// Look up what became of events, without what they carry.
    Read,
    /// See what events carry.
    ReadPayload,
    /// Replay, retry now, define templates and configurations, and look at how the services do.
    Operate,
    /// All of these, and manage keys.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Send, Read, ReadPayload, Operate, Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Send => "send",
            Read => "read",
            ReadPayload => "read-payload",
            Operate => "operate",
            Admin => "admin",
        }
    }

    /// The role with this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some roles. An admin has all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Whether this one is among them.
    pub const fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8 | 1 << Admin as u8) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that were given, in order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| self.0 & (1 << *role as u8) != 0)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |all, role| all | 1 << role as u8))
    }
}

/// What a request must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Anyone,
    /// This role; the path itself keeps to the principal's tenant.
    Within(Role),
    /// This role, for all tenants: what the path shows or does belongs to no tenant.
    Everywhere(Role),
}

/// Stands for every method, in [`TABLE`].
const ANY: &str = "*";

/// Method, path as the router has it, and what it needs. Frequent ones first.
///
/// The sandbox's stand-ins for providers' APIs are called as those are, with the credentials of providers, which nobody checks;
/// what they took is shown by other paths.
const TABLE: &[(&str, &str, Needs)] = &[
    ("POST", "/event", Within(Send)),
    ("POST", "/events", Within(Send)),
    ("GET", "/events/{id}", Within(Read)),
    ("GET", "/events", Within(Read)),
    ("GET", "/events/{id}/timeline", Within(Read)),
    ("POST", "/messages/request", Within(Send)),
    ("POST", "/messages/request/bulk", Within(Send)),
    ("POST", "/messages/schedule", Within(Send)),
    ("POST", "/messages/urgent", Within(Send)),
    ("POST", "/core-slack-worker/messages/request", Within(Send)),
    ("POST", "/core-slack-worker/messages/request/bulk", Within(Send)),
    ("POST", "/core-slack-worker/messages/schedule", Within(Send)),
    ("POST", "/core-slack-worker/messages/urgent", Within(Send)),
    ("GET", "/health", Anyone),
    ("GET", "/ready", Anyone),
    ("GET", "/openapi.json", Anyone),
    ("GET", "/docs", Anyone),
    ("GET", "/metrics", Everywhere(Operate)),
    ("DELETE", "/events/{id}", Within(Send)),
    ("PATCH", "/events/{id}", Within(Send)),
    ("POST", "/events/{id}/retry-now", Within(Operate)),
    ("GET", "/messages/stats", Within(Read)),
    ("GET", "/core-slack-worker/messages/stats", Within(Read)),
    ("GET", "/templates", Within(Read)),
    ("GET", "/templates/{code}", Within(Read)),
    ("PUT", "/templates/{code}", Within(Operate)),
    ("DELETE", "/templates/{code}", Within(Operate)),
    ("POST", "/templates/{code}/preview", Within(Read)),
    ("GET", "/configs", Within(Read)),
    ("GET", "/configs/{code}", Within(Read)),
    ("PUT", "/configs/{code}", Within(Operate)),
    ("DELETE", "/configs/{code}", Within(Operate)),
    ("GET", "/inbox/{recipient}", Within(ReadPayload)),
    ("POST", "/status/rebuild", Everywhere(Admin)),
    ("GET", "/status/rebuild", Everywhere(Admin)),
    ("DELETE", "/status/rebuild", Everywhere(Admin)),
    ("GET", "/encryption/keys", Everywhere(Admin)),
    ("PUT", "/devices", Within(Send)),
    ("GET", "/devices", Within(Read)),
    ("DELETE", "/devices/{id}", Within(Send)),
    ("PUT", "/suppressions", Within(Send)),
    ("GET", "/suppressions", Within(Read)),
    ("DELETE", "/suppressions", Within(Operate)),
    ("GET", "/suppressions/{id}", Within(Read)),
    ("DELETE", "/suppressions/{id}", Within(Operate)),
    ("GET", "/schedules", Within(Read)),
    ("GET", "/schedules/{code}", Within(ReadPayload)),
    ("PUT", "/schedules/{code}", Within(Send)),
    ("DELETE", "/schedules/{code}", Within(Send)),
    ("POST", "/broadcasts", Within(Send)),
    ("GET", "/broadcasts", Within(Read)),
    ("GET", "/broadcasts/{id}", Within(Read)),
    ("POST", "/broadcasts/{id}/{wish}", Within(Send)),
    ("GET", "/lists", Within(Read)),
    ("GET", "/lists/{code}", Within(Read)),
    ("PUT", "/lists/{code}", Within(Send)),
    ("DELETE", "/lists/{code}", Within(Send)),
    ("GET", "/keys", Within(Admin)),
    ("POST", "/keys", Within(Admin)),
    ("GET", "/keys/{id}", Within(Admin)),
    ("DELETE", "/keys/{id}", Within(Admin)),
    ("POST", "/keys/{id}/rotate", Within(Admin)),
    ("POST", "/replay-dead-letter", Within(Operate)),
    ("GET", "/dead-letters", Within(Read)),
    ("GET", "/dead-letters/{id}", Within(Read)),
    ("GET", "/replays", Within(Read)),
    ("GET", "/replays/{id}", Within(Read)),
    ("POST", "/replays/{id}/{wish}", Within(Operate)),
    ("GET", "/sandbox/messages", Everywhere(ReadPayload)),
    ("DELETE", "/sandbox/messages", Everywhere(Operate)),
    ("GET", "/sandbox/counts", Everywhere(Operate)),
    ("GET", "/sandbox/sends", Everywhere(Operate)),
    ("GET", "/sandbox/behaviour", Everywhere(Operate)),
    ("PUT", "/sandbox/behaviour", Everywhere(Operate)),
    ("DELETE", "/sandbox/behaviour", Everywhere(Operate)),
    // While a service starts, everything else is answered with 503.
    (ANY, "/", Anyone),
    (ANY, "/{*path}", Anyone),
];

/// Below this are the stand-ins for providers' APIs, and what [`TABLE`] names.
const SANDBOX: &str = "/sandbox/";

/// What the table says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// What the request needs.
    Needs(Needs),
    /// The path is known; this method is not possible on it.
    NoSuchMethod,
    /// Nobody wrote down who may do this.
    Missing,
}

/// Looks a route up. `path` is the pattern that the router matched.
pub(super) fn entry(method: &Method, path: &str) -> Entry {
    let method = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    let mut is_known = false;
    for (at, of, needs) in TABLE {
        if *of == path {
            if *at == method || *at == ANY {
                return Entry::Needs(*needs);
            }
            is_known = true;
        }
    }
    match (is_known, path.starts_with(SANDBOX)) {
        (true, _) => Entry::NoSuchMethod,
        (false, true) => Entry::Needs(Anyone),
        (false, false) => Entry::Missing,
    }
}

/// What a method on a path needs, if the table has it.
pub(crate) fn needs(method: &Method, path: &str) -> Option<Needs> {
    match entry(method, path) {
        Entry::Needs(needs) => Some(needs),
        Entry::NoSuchMethod | Entry::Missing => None,
    }
}

/// What is possible on a path, for the `Allow` header.
pub(super) fn methods(path: &str) -> String {
    let on_path = TABLE.iter().filter(|(_, of, _)| *of == path);
    let methods: Vec<&str> = on_path.map(|(method, ..)| *method).collect();
    methods.join(",")
}

/// Whether a line of the table is about this path. For tests that walk over every route.
pub fn is_listed(path: &str) -> bool {
    TABLE.iter().any(|(_, of, _)| *of == path)
}

/// Every line of the table: method (`*` for any), path, and what it needs. For tests that walk over every path.
pub fn table() -> impl Iterator<Item = (&'static str, &'static str, Needs)> {
    TABLE.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_has_every_role_and_others_what_they_were_given() {
        let admin: Roles = [Admin].into_iter().collect();
        let reader: Roles = [Read].into_iter().collect();
        for role in Role::ALL {
            assert!(admin.has(role), "{role}");
            assert_eq!(reader.has(role), role == Read, "{role}");
            assert_eq!(Role::of(role.as_str()), Some(role));
        }
        assert!(!Roles::default().has(Send) && Roles::default().is_empty());
        assert_eq!(admin.iter().collect::<Vec<_>>(), [Admin]);
    }

    #[test]
    fn what_is_not_in_the_table_nobody_may_do() {
        let of = |method: &str, path| entry(&method.parse().unwrap(), path);
        assert_eq!(of("POST", "/event"), Entry::Needs(Within(Send)));
        assert_eq!(of("HEAD", "/events"), Entry::Needs(Within(Read)));
        assert_eq!(of("PATCH", "/events"), Entry::NoSuchMethod);
        assert_eq!(of("GET", "/secrets"), Entry::Missing);
        assert_eq!(
            of("GET", "/sandbox/messages"),
            Entry::Needs(Everywhere(ReadPayload))
        );
        assert_eq!(of("PUT", "/sandbox/messages"), Entry::NoSuchMethod);
        assert_eq!(
            of(
                "POST",
                "/sandbox/twilio/2010-04-01/Accounts/{account}/Messages.json"
            ),
            Entry::Needs(Anyone)
        );
        assert_eq!(methods("/events"), "POST,GET");
    }

    #[test]
    fn no_line_of_the_table_hides_another() {
        for (index, (method, path, _)) in TABLE.iter().enumerate() {
            let first = TABLE.iter().position(|(at, of, _)| at == method && of == path);
            assert_eq!(first, Some(index), "{method} {path}");
        }
    }
}
