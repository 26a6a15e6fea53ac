//! Puts the document together: what the services say, and what is the same for all.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::{Answer, Api, Operation, components};
use crate::{
    Problem,
    auth::{Needs, Role, access},
};

/// The version of OpenAPI.
pub(super) const VERSION: &str = "3.1.0";

/// An answer that so many operations give stands in the document once.
const SHARED_BY_MIN: usize = 3;

/// The document of these operations. With `is_guarded` credentials are asked for.
pub fn document(api: &Api, is_guarded: bool) -> Json {
    let mut paths = Map::new();
    let mut tags: Vec<Json> = Vec::new();
    for operation in &api.operations {
        let needs = access::needs(&operation.method, &operation.path);
        let mut written = completed(operation, needs).written();
        if let Some(tag) = written.get("tags").and_then(|tags| tags.get(0)) {
            let tag = json!({"name": tag});
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        say_needs(&mut written, needs, is_guarded);
        let path = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = Json::Object(written);
    }
    let mut all = components::components();
    for (name, schema) in &api.schemas {
        all["schemas"][name] = schema.clone();
    }
    all["responses"] = Json::Object(share(&mut paths));
    for (name, parameter) in &api.parameters {
        all["parameters"][name] = parameter.clone();
    }
    if !is_guarded && let Some(all) = all.as_object_mut() {
        all.remove("securitySchemes");
    }
    json!({
        "openapi": VERSION,
        "info": {
            "title": "Posthaste",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": description(is_guarded),
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": all,
    })
}

/// Moves what several operations answer alike into components.
fn share(paths: &mut Map<String, Json>) -> Map<String, Json> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    each_response(paths, |_, response| {
        *seen.entry(response.to_string()).or_default() += 1
    });
    let mut shared = Map::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    each_response(paths, |status, response| {
        let text = response.to_string();
        if seen.get(&text).is_none_or(|times| *times < SHARED_BY_MIN) {
            return;
        }
        let next = names.len() + 1;
        let name = names
            .entry(text)
            .or_insert_with(|| format!("Answer{status}-{next}"));
        let reference = json!({"$ref": format!("#/components/responses/{name}")});
        shared.insert(name.clone(), std::mem::replace(response, reference));
    });
    shared
}

fn each_response(paths: &mut Map<String, Json>, mut look: impl FnMut(&str, &mut Json)) {
    let operations = paths
        .values_mut()
        .filter_map(Json::as_object_mut)
        .flat_map(|item| item.values_mut());
    for operation in operations {
        if let Some(responses) = operation.get_mut("responses").and_then(Json::as_object_mut) {
            for (status, response) in responses {
                look(status, response);
            }
        }
    }
}

fn description(is_guarded: bool) -> String {
    let credentials = if is_guarded {
        "Requests bring a bearer token or an API key; each operation names the role that it needs."
    } else {
        "This process asks nobody for credentials (`service.auth.enabled`), so none of the answers 401, 403 and 429 \
         that credentials are refused with is given."
    };
    format!(
        "Takes events over HTTP and gets each one out through a provider.\n\n\
         A 2xx answer to an event means that it is durable. Every error is a problem document (RFC 9457) that names the field and \
         what would be accepted. Fields that may be left out may be `null`; fields that are not known are refused. Answers may \
         get more fields in time. {credentials}\n\n\
         Only the paths of the services in this process are here. The stand-ins for providers' APIs below `/sandbox` are left out: \
         they look like those, as far as sending needs it."
    )
}

/// With what every operation may answer.
fn completed(operation: &Operation, needs: Option<Needs>) -> Operation {
    let mut all = operation.clone();
    let bad_id = "X-Correlation-ID cannot be taken; accepted: 1 to 128 visible ASCII characters";
    all = all.problem(StatusCode::BAD_REQUEST, bad_id);
    if operation.has_body() {
        all = all
            .problem(StatusCode::BAD_REQUEST, "the body broke off")
            .problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
            .problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large; accepted: up to 1048576 bytes",
            )
            .problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the Content-Type header is missing; accepted: application/json",
            );
    }
    all = all.problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the request failed inside the service; its log has the reason",
    );
    match needs {
        None | Some(Needs::Anyone) => all,
        Some(Needs::Within(role) | Needs::Everywhere(role)) => guarded(all, role),
    }
}

fn guarded(operation: Operation, role: Role) -> Operation {
    let challenged = |status: StatusCode, detail: &str| {
        Answer::problem(&Problem::new(status, detail)).with(components::CHALLENGE)
    };
    let is_over = Problem {
        retry_after_seconds: Some(30),
        ..Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "shop has asked for too much; come back later",
        )
    };
    let missing = "credentials are missing; accepted: the header Authorization: Bearer <token or API key>, or X-API-Key";
    operation
        .answer(
            StatusCode::UNAUTHORIZED,
            challenged(StatusCode::UNAUTHORIZED, missing),
        )
        .answer(
            StatusCode::FORBIDDEN,
            challenged(StatusCode::FORBIDDEN, &format!("the role {role} is missing")),
        )
        .answer(StatusCode::TOO_MANY_REQUESTS, Answer::problem(&is_over))
        .unavailable("the service is starting; /ready says what it waits for")
}

/// Which role it needs, and how to show it.
fn say_needs(operation: &mut Map<String, Json>, needs: Option<Needs>, is_guarded: bool) {
    let (role, words) = match needs {
        None | Some(Needs::Anyone) => {
            operation.insert("security".to_owned(), json!([]));
            return;
        }
        Some(Needs::Within(role)) => (role, format!("Role: `{role}`.")),
        Some(Needs::Everywhere(role)) => (role, format!("Role: `{role}`, for all tenants.")),
    };
    let security = if is_guarded {
        json!([{"bearer": [role.as_str()]}, {"apiKey": [role.as_str()]}])
    } else {
        json!([])
    };
    operation.insert("security".to_owned(), security);
    let said = operation.get("description").and_then(Json::as_str);
    let said = said.map_or_else(|| words.clone(), |said| format!("{said}\n\n{words}"));
    operation.insert("description".to_owned(), json!(said));
}
