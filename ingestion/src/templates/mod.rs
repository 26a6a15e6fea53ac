//! Templates and configurations: what tenants define, and how messages are made of it.
//!
//! Definitions are held in memory ([`posthaste_definitions`]), so nothing is asked of a store. What a definition says is
//! checked when it is put; read from the topic it is checked again, since another version may have written it.

mod code;
mod config;
mod folder;
mod http;
mod language;
mod schema;
mod syntax;
mod template;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use posthaste_broker::Broker;
use posthaste_definitions::{Definition, Definitions, Kind};
use posthaste_event::{FieldError, fields::Fields};
use serde_json::{Value as Json, value::RawValue};

use crate::{ProviderNames, Settings, defining::Defining};

pub(crate) use self::{
    code::LOCALE, code::code_schema, code::is_code, code::is_locale, code::locale_schema, code::no_code,
    config::Config, template::Template,
};
pub use self::{folder::Folder, http::router};

/// Memory for templates that were made ready, in bytes, roughly.
const READY_BYTES_MAX: usize = 64 << 20;
/// What a configuration takes beyond its JSON.
const CONFIG_BYTES: usize = 4 << 10;

/// The templates and configurations of all tenants.
pub struct Catalog {
    defining: Defining,
    providers: ProviderNames,
    templates: Ready<Template>,
    configs: Ready<Config>,
}

/// What was made ready, by tenant and code. Emptied when it takes too much memory: each comes back with its next message.
struct Ready<T>(Mutex<Held<T>>);

struct Held<T> {
    by_code: HashMap<(String, String), (Arc<Definition>, Arc<T>)>,
    weight: usize,
}

/// A definition that is in force, made ready.
pub(crate) struct InForce<T> {
    pub(crate) value: Arc<T>,
    pub(crate) version: u64,
}

impl Catalog {
    /// Goes by these definitions.
    pub fn new(
        definitions: Arc<Definitions>,
        broker: Arc<dyn Broker>,
        providers: ProviderNames,
        settings: Settings,
        instance: Arc<str>,
    ) -> Self {
        Self {
            defining: Defining {
                definitions,
                broker,
                settings,
                instance,
            },
            providers,
            templates: Ready::default(),
            configs: Ready::default(),
        }
    }

    /// Its definitions, as clients come to them.
    pub(crate) const fn defining(&self) -> &Defining {
        &self.defining
    }

    /// Whether all that was defined is known.
    pub(crate) fn is_known(&self) -> bool {
        self.defining.definitions.is_known()
    }

    /// A tenant's configuration; `field` is where its code stands.
    ///
    /// # Errors
    /// When there is none with this code.
    pub(crate) fn config(
        &self,
        tenant: &str,
        code: &str,
        field: &str,
    ) -> Result<InForce<Config>, FieldError> {
        let definition = self.definition(Kind::Config, tenant, code, field)?;
        self.configs.ready(tenant, code, definition, |body| {
            let config = Config::new(body, &self.providers).map_err(|errors| out_of_use(field, &errors))?;
            Ok((config, CONFIG_BYTES))
        })
    }

    /// A tenant's template; `field` is where its code stands.
    ///
    /// # Errors
    /// When there is none with this code.
    pub(crate) fn template(
        &self,
        tenant: &str,
        code: &str,
        field: &str,
    ) -> Result<InForce<Template>, FieldError> {
        let definition = self.definition(Kind::Template, tenant, code, field)?;
        let bytes = definition.body.get().len();
        self.templates.ready(tenant, code, definition, |body| {
            let template = Template::new(body).map_err(|errors| out_of_use(field, &errors))?;
            let weight = template.weight(bytes);
            Ok((template, weight))
        })
    }

    fn definition(
        &self,
        kind: Kind,
        tenant: &str,
        code: &str,
        field: &str,
    ) -> Result<Arc<Definition>, FieldError> {
        if !is_code(code) {
            return Err(no_code(field, code));
        }
        self.defining.definitions.get(kind, tenant, code).ok_or_else(|| {
            let what = match kind {
                Kind::Template => "templates",
                _ => "configs",
            };
            let problem = format!("{code:?} is not defined");
            FieldError::new(field, problem, format!("a code that GET /{what} lists"))
        })
    }
}

impl<T> Default for Ready<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self {
            by_code: HashMap::new(),
            weight: 0,
        }
    }
}

impl<T> Ready<T> {
    fn ready(
        &self,
        tenant: &str,
        code: &str,
        definition: Arc<Definition>,
        make: impl FnOnce(&Json) -> Result<(T, usize), FieldError>,
    ) -> Result<InForce<T>, FieldError> {
        let key = (tenant.to_owned(), code.to_owned());
        let version = definition.version;
        if let Some((of, value)) = self.lock().by_code.get(&key)
            && Arc::ptr_eq(of, &definition)
        {
            let value = Arc::clone(value);
            return Ok(InForce { value, version });
        }
        let (made, weight) = make(&body_of(&definition))?;
        let weight = weight + definition.body.get().len();
        let value = Arc::new(made);
        let mut held = self.lock();
        if held.weight + weight > READY_BYTES_MAX {
            *held = Held::default();
        }
        // One that was replaced is counted until all go.
        held.weight += weight;
        held.by_code.insert(key, (definition, Arc::clone(&value)));
        drop(held);
        Ok(InForce { value, version })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a definition says. It was JSON when it was read.
fn body_of(definition: &Definition) -> Json {
    serde_json::from_str(definition.body.get()).unwrap_or_default()
}

fn out_of_use(field: &str, errors: &[FieldError]) -> FieldError {
    let first = errors.first().map(ToString::to_string).unwrap_or_default();
    let problem = format!("names a definition that cannot be used here: {first}");
    FieldError::new(field, problem, "a definition that can")
}

/// What a definition says, found good, in one form for all that say the same.
fn checked(kind: Kind, text: &str, providers: &ProviderNames) -> Result<Box<RawValue>, Vec<FieldError>> {
    // What stands twice would be lost without a word.
    let first = |mut errors: Vec<FieldError>| errors.remove(0);
    Fields::of("", text)
        .and_then(|fields| fields.finish().map_err(first))
        .map_err(|error| vec![error])?;
    let wrong = || vec![FieldError::new("body", "cannot be read", "a JSON object")];
    let body: Json = serde_json::from_str(text).map_err(|_| wrong())?;
    match kind {
        Kind::Config => Config::new(&body, providers).map(|_| ())?,
        _ => Template::new(&body).map(|_| ())?,
    }
    RawValue::from_string(body.to_string()).map_err(|_| wrong())
}
