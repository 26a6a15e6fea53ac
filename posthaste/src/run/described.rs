//! What the services of a process say of their HTTP interfaces, in one document.

use posthaste_event::clock;
use posthaste_ingestion::ProviderNames;
use posthaste_service::api::{self, Api};
use serde_json::Value as Json;

use super::Role;
use crate::{
    cli::{Common, Place},
    command,
    configuration::{self, Settings},
    failure::Failure,
};

/// The operations of these services.
pub fn operations(roles: &[Role], settings: &Settings, names: &ProviderNames) -> Api {
    let of_roles = roles.iter().map(|role| match role {
        Role::Ingestion => {
            let has_keys = settings.encryption.source().is_some();
            let (intake, broadcast) = (&settings.ingestion, &settings.broadcast);
            posthaste_ingestion::api(intake, broadcast, names, has_keys, clock::now())
        }
        Role::Status => posthaste_status::api(clock::now()),
        Role::Replay => posthaste_replay::api(&settings.replay),
        Role::Sandbox => posthaste_sandbox::api(),
        Role::Dispatcher(_) | Role::Retry => Api::new(),
    });
    of_roles.chain([api::own()]).fold(Api::new(), Api::and)
}

/// The document of these services.
pub fn document(roles: &[Role], settings: &Settings, names: &ProviderNames) -> Json {
    let is_guarded = settings.service.auth.enabled;
    api::document(&operations(roles, settings, names), is_guarded)
}

/// `posthaste openapi`: the document of all services, as this configuration makes it.
pub fn print(common: &Common) -> Result<(), Failure> {
    let configuration = configuration::load(common, &Place::default())?;
    let settings = configuration::settings(&configuration)?;
    let names = configuration::provider_names(&configuration, &settings)?;
    command::print_json(&document(&Role::all(), &settings, &names))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use posthaste_service::auth::access;
    use serde_json::json;

    use super::*;

    fn all() -> Api {
        let configuration = configuration::load(&Common::default(), &Place::default()).unwrap();
        let settings = configuration::settings(&configuration).unwrap();
        let names = configuration::provider_names(&configuration, &settings).unwrap();
        operations(&Role::all(), &settings, &names)
    }

    #[test]
    fn every_route_is_described_and_every_description_is_of_a_route() {
        let described: BTreeSet<(String, String)> = all()
            .operations()
            .iter()
            .map(|operation| {
                let (method, path) = operation.route();
                (method.to_string(), path.to_owned())
            })
            .collect();
        let routes: BTreeSet<(String, String)> = access::table()
            .filter(|(method, ..)| *method != "*")
            .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
            .collect();
        let undescribed: Vec<_> = routes.difference(&described).collect();
        assert!(
            undescribed.is_empty(),
            "these routes have no description: add an `Operation` to the `api` of the service that owns them: {undescribed:?}"
        );
        let unrouted: Vec<_> = described.difference(&routes).collect();
        assert!(
            unrouted.is_empty(),
            "these descriptions are of no route: {unrouted:?}"
        );
    }

    /// Every media type of an answer or a body below `value`.
    fn media<'a>(value: &'a Json, found: &mut Vec<&'a Json>) {
        match value {
            Json::Object(fields) if fields.contains_key("schema") && fields.contains_key("examples") => {
                found.push(value);
            }
            Json::Object(fields) => fields.values().for_each(|field| media(field, found)),
            Json::Array(items) => items.iter().for_each(|item| media(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_example_fits_its_schema() {
        let document = api::document(&all(), true);
        let mut found = Vec::new();
        media(&document["paths"], &mut found);
        media(&document["components"]["responses"], &mut found);
        let mut examples = 0;
        for media in found {
            let schema = json!({"allOf": [media["schema"]], "components": document["components"]});
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            for example in media["examples"].as_object().unwrap().values() {
                let wrong: Vec<String> = validator
                    .iter_errors(&example["value"])
                    .map(|error| error.to_string())
                    .collect();
                assert!(wrong.is_empty(), "{}: {wrong:?}", example["value"]);
                examples += 1;
            }
        }
        assert!(examples > 200, "{examples}");
    }

    #[test]
    fn names_are_given_once_and_references_lead_somewhere() {
        let document = api::document(&all(), true);
        let mut ids = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{id} names two operations");
            }
        }
        let text = document.to_string();
        for reference in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is nowhere");
        }
    }
}
