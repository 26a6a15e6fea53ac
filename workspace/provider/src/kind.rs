//! Which provider an account is of: one that a file describes, or one of the few that need code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use posthaste_event::{Channel, FieldError};

use crate::{
    Settings,
    file::{Description, Setting},
    in_app,
    settings::given,
    smtp,
};

/// A provider, without the values of an account.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Described by a file.
    File(Arc<Description>),
    /// A mail server.
    Smtp,
    /// The store's inboxes.
    InApp,
}

/// Those that need code, by name. A provider file of the same name replaces one.
const CODED: [(&str, Kind); 2] = [(in_app::NAME, Kind::InApp), (smtp::NAME, Kind::Smtp)];

impl Kind {
    pub(crate) fn channels(&self) -> &[Channel] {
        match self {
            Self::File(description) => &description.channels,
            Self::Smtp => &[Channel::Email],
            Self::InApp => &[Channel::InApp],
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File(description) => &description.name,
            Self::Smtp => smtp::NAME,
            Self::InApp => in_app::NAME,
        }
    }

    /// The keys that its accounts have, besides those that all have.
    pub(crate) fn keys(&self) -> BTreeMap<String, Setting> {
        match self {
            Self::File(description) => description.settings.clone(),
            Self::Smtp => smtp::keys(),
            Self::InApp => BTreeMap::new(),
        }
    }
}

/// Every account with its table and kind, by name. Each provider has an account of its own name, whether the configuration
/// mentions it or not.
///
/// # Errors
/// An account whose name or `kind` is wrong.
pub(crate) fn kinds<'a>(
    settings: &'a Settings,
    descriptions: &'a BTreeMap<String, Arc<Description>>,
) -> Result<Vec<(&'a str, &'a toml::Table, Kind)>, FieldError> {
    static NOTHING: LazyLock<toml::Table> = LazyLock::new(toml::Table::new);
    let names: BTreeSet<&str> = known(descriptions)
        .chain(settings.providers.keys().map(String::as_str))
        .collect();
    names
        .into_iter()
        .map(|name| {
            let table = settings.providers.get(name).unwrap_or(&NOTHING);
            Ok((name, table, kind(name, table, descriptions)?))
        })
        .collect()
}

fn known(descriptions: &BTreeMap<String, Arc<Description>>) -> impl Iterator<Item = &str> {
    descriptions
        .keys()
        .map(String::as_str)
        .chain(CODED.iter().map(|(name, _)| *name))
}

/// The provider of an account: `kind`, or its own name.
fn kind(
    name: &str,
    table: &toml::Table,
    descriptions: &BTreeMap<String, Arc<Description>>,
) -> Result<Kind, FieldError> {
    // The name becomes part of idempotency keys, metrics and environment variables.
    if name.is_empty()
        || name.len() > 32
        || !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    {
        return Err(FieldError::new(
            format!("providers.{name}"),
            "cannot be an account's name",
            "1 to 32 small letters, digits, _ and -",
        ));
    }
    let kind = match table.get("kind") {
        None => name,
        Some(toml::Value::String(kind)) => given(kind).unwrap_or(name),
        Some(_) => "",
    };
    if let Some(description) = descriptions.get(kind) {
        return Ok(Kind::File(Arc::clone(description)));
    }
    if let Some((_, coded)) = CODED.iter().find(|(name, _)| *name == kind) {
        return Ok(coded.clone());
    }
    Err(FieldError::new(
        format!("providers.{name}.kind"),
        format!("{kind:?} is no provider"),
        known(descriptions).collect::<Vec<_>>().join(", "),
    ))
}
