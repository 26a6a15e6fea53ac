//! The records of the definitions topic: what users have defined, such as templates and configurations.
//!
//! The topic is compacted: a key names what is defined, the latest value is in force, a tombstone withdraws it. Everybody who
//! goes by definitions reads all of them before the first request or dispatch.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{FieldError, Millis, fields::excerpt};

/// Longest name of a tenant, in characters.
const TENANT_CHARS_MAX: usize = 64;
/// Longest code, in bytes.
const CODE_BYTES_MAX: usize = 512;

/// Longest code that users choose, in characters.
pub const CODE_CHARS_MAX: usize = 128;
/// What a code is that users choose; see [`is_code`].
pub const CODE: &str = "1 to 128 letters, digits and ._-, the first a letter or digit";

/// Whether this may be the code of a template or of a configuration: a name that can stand in a path, a file's name and a key.
pub fn is_code(text: &str) -> bool {
    text.len() <= CODE_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// What is defined. A reader passes over kinds that it does not know. Suppressions (`suppression/<tenant>/<channel>/<id>`) are on the
/// topic, too; they are held by a reader of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What a message says.
    Template,
    /// How a message is sent.
    Config,
    /// What is sent again and again.
    Schedule,
    /// A key to the HTTP interface, by its id: who holds it may do what. Only its digest is kept.
    ApiKey,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Template, Self::Config, Self::Schedule, Self::ApiKey];

    /// The name on the wire: letters, digits and dashes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Config => "config",
            Self::Schedule => "schedule",
            Self::ApiKey => "api-key",
        }
    }

    /// The kind with this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Names a definition: `kind/tenant/code` on the topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    kind: Kind,
    tenant: Box<str>,
    code: Box<str>,
}

/// Why a record's key names no definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoKey {
    /// It is of a kind that a later version knows.
    UnknownKind,
    /// It is no key at all.
    Malformed,
}

impl Key {
    /// Names a definition. A tenant is 1 to 64 letters, digits and `._-`; a code 1 to 512 bytes without control characters.
    ///
    /// # Errors
    /// Which of the two cannot be one, with what would be accepted.
    pub fn new(kind: Kind, tenant: &str, code: &str) -> Result<Self, FieldError> {
        let is_mark = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if tenant.is_empty() || tenant.len() > TENANT_CHARS_MAX || !tenant.chars().all(is_mark) {
            let problem = format!("{:?} is no tenant", excerpt(tenant));
            return Err(FieldError::new(
                "tenant",
                problem,
                "1 to 64 letters, digits and ._-",
            ));
        }
        if code.is_empty() || code.len() > CODE_BYTES_MAX || code.chars().any(char::is_control) {
            let problem = format!("{:?} is no code", excerpt(code));
            let accepted = format!("1 to {CODE_BYTES_MAX} bytes without control characters");
            return Err(FieldError::new("code", problem, accepted));
        }
        Ok(Self {
            kind,
            tenant: tenant.into(),
            code: code.into(),
        })
    }

    /// What is defined.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Its name among the tenant's definitions of this kind.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The key of its records.
    pub fn encode(&self) -> String {
        format!("{}/{}/{}", self.kind.as_str(), self.tenant, self.code)
    }

    /// Reads a record's key.
    ///
    /// # Errors
    /// See [`NoKey`].
    pub fn read(key: &[u8]) -> Result<Self, NoKey> {
        let parts = std::str::from_utf8(key).ok().and_then(|key| {
            let (kind, rest) = key.split_once('/')?;
            // A code may hold a slash, a tenant cannot.
            let (tenant, code) = rest.split_once('/')?;
            Some((kind, tenant, code))
        });
        let (kind, tenant, code) = parts.ok_or(NoKey::Malformed)?;
        let kind = Kind::of(kind).ok_or(NoKey::UnknownKind)?;
        Self::new(kind, tenant, code).map_err(|_| NoKey::Malformed)
    }
}

/// What was defined.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// 1 for the first, and one more for each that replaces it. Begins anew after a withdrawal.
    pub version: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Who wrote it.
    pub by: String,
    /// Names this very act of writing.
    pub write: String,
    /// What it says: JSON, as its kind has it.
    pub body: Box<RawValue>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<D> {
    definition: D,
}

impl Definition {
    /// The value as JSON.
    ///
    /// # Errors
    /// Never in practice: it has no key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(&Envelope { definition: self }).map(Bytes::from)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is not JSON, or of a later version.
    pub fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(value).map(|Envelope { definition }| definition)
    }

    /// Differs between any two that were written, for `ETag` and `If-Match`: without its quotes.
    pub fn tag(&self) -> String {
        let act: String = self.write.chars().take(12).collect();
        format!("{}-{act}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for (tenant, code) in [("acme", "welcome"), ("a.b-c_d", "email/a@b.example"), ("x", "ü")] {
            for kind in Kind::ALL {
                let key = Key::new(kind, tenant, code).unwrap();
                assert_eq!(Key::read(key.encode().as_bytes()), Ok(key));
            }
        }
        for malformed in [
            &b"template/acme"[..],
            b"template//x",
            b"template/acme/",
            b"",
            b"\xff/a/b",
        ] {
            assert_eq!(Key::read(malformed), Err(NoKey::Malformed), "{malformed:?}");
        }
        assert_eq!(Key::read(b"later/acme/x"), Err(NoKey::UnknownKind));
    }

    #[test]
    fn a_tenant_and_a_code_are_checked() {
        for (tenant, code, field) in [
            ("", "x", "tenant"),
            ("a/b", "x", "tenant"),
            ("a", "", "code"),
            ("a", "x\n", "code"),
            ("a", &"x".repeat(513), "code"),
            (&"a".repeat(65), "x", "tenant"),
        ] {
            assert_eq!(Key::new(Kind::Template, tenant, code).unwrap_err().field, field);
        }
    }
}
