//! What all definitions have in common over HTTP: whose they are, lists, tags, and what writing them can end in.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use posthaste_broker::{AppendError, Broker};
use posthaste_definitions::{Definition, Definitions, Expected, Key, Kind, WriteError};
use posthaste_event::{FieldError, fields::excerpt, nesting, time};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{read_body, require_json},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    Settings,
    request::is_tenant,
    templates::{is_code, no_code},
};

/// Entries of a page that asks for no number.
pub(crate) const PAGE_DEFAULT: usize = 100;
/// Most entries of a page.
pub(crate) const PAGE_MAX: usize = 1_000;
/// Most tags of an `If-Match`.
const TAGS_MAX: usize = 16;

/// The query of every path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) tenant: Option<String>,
}

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedMany {
    pub(crate) tenant: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// What a list shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    code: String,
    version: u64,
    updated_at: String,
    updated_by: String,
}

/// A page of a list.
pub(crate) struct Page {
    pub(crate) tenant: String,
    pub(crate) items: Vec<(String, Arc<Definition>)>,
    /// For the next page, if there is one: its `after`.
    pub(crate) next: Option<String>,
}

/// Definitions as clients come to them.
pub(crate) struct Defining {
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) settings: Settings,
    pub(crate) instance: Arc<str>,
}

impl Defining {
    /// Whether all that was defined is known.
    ///
    /// # Errors
    /// 503 as long as it is not.
    pub(crate) fn check_known(&self) -> Result<(), Problem> {
        if self.definitions.is_known() {
            return Ok(());
        }
        Err(Problem::unavailable(
            "what is defined is not read yet",
            self.settings.retry_after_seconds.max(1),
        ))
    }

    pub(crate) fn list(&self, kind: Kind, caller: &Caller, asked: AskedMany) -> Result<Json<Value>, Problem> {
        let Page { tenant, items, next } = self.page(kind, caller, asked)?;
        let items: Vec<Item> = items
            .into_iter()
            .map(|(code, definition)| Item {
                code,
                version: definition.version,
                updated_at: time::write(definition.at),
                updated_by: definition.by.clone(),
            })
            .collect();
        let mut answer = json!({"tenant": tenant, "items": items});
        if let Some(next) = next {
            answer["next"] = json!(next);
        }
        Ok(Json(answer))
    }

    pub(crate) fn page(&self, kind: Kind, caller: &Caller, asked: AskedMany) -> Result<Page, Problem> {
        self.check_known()?;
        let tenant = tenant(caller, asked.tenant)?;
        let limit = asked.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            let error = FieldError::new("limit", "is out of range", format!("1 to {PAGE_MAX}"));
            return Err(refused(vec![error]));
        }
        let mut items = self
            .definitions
            .list(kind, &tenant, asked.after.as_deref(), limit + 1);
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = has_more
            .then(|| items.last().map(|(code, _)| code.clone()))
            .flatten();
        Ok(Page { tenant, items, next })
    }

    /// The definition with this code, and its name.
    pub(crate) fn get(
        &self,
        kind: Kind,
        caller: &Caller,
        asked: Asked,
        code: &str,
    ) -> Result<(Key, Arc<Definition>), Problem> {
        self.check_known()?;
        let tenant = tenant(caller, asked.tenant)?;
        if !is_code(code) {
            return Err(not_there(kind, code));
        }
        let key = Key::new(kind, &tenant, code).map_err(|error| refused(vec![error]))?;
        let found = self.definitions.get(kind, &tenant, code);
        found
            .map(|found| (key, found))
            .ok_or_else(|| not_there(kind, code))
    }

    /// The name of a definition that may be written.
    pub(crate) fn key(&self, kind: Kind, caller: &Caller, asked: Asked, code: &str) -> Result<Key, Problem> {
        self.check_known()?;
        let tenant = tenant(caller, asked.tenant)?;
        if !is_code(code) {
            return Err(refused(vec![no_code("code", code)]));
        }
        Key::new(kind, &tenant, code).map_err(|error| refused(vec![error]))
    }

    /// What is in force under this name.
    pub(crate) fn before(&self, key: &Key) -> Option<Arc<Definition>> {
        self.definitions.get(key.kind(), key.tenant(), key.code())
    }

    /// The same, if it is what the client expects.
    pub(crate) fn as_expected(
        &self,
        key: &Key,
        expected: &Expected,
    ) -> Result<Option<Arc<Definition>>, Problem> {
        let found = self.definitions.expected(key, expected);
        found.map_err(|error| self.not_written(error))
    }

    /// Writes a definition, if the tenant may have another.
    pub(crate) async fn put(
        &self,
        key: &Key,
        body: Box<RawValue>,
        expected: &Expected,
        caller: &Caller,
    ) -> Result<Arc<Definition>, Problem> {
        self.check_room(key)?;
        let by = caller
            .principal()
            .map_or(&*self.instance, |principal| &principal.name);
        let written = self.definitions.put(&self.broker, key, body, expected, by).await;
        written.map_err(|error| self.not_written(error))
    }

    /// Whether the tenant may have this one.
    pub(crate) fn check_room(&self, key: &Key) -> Result<(), Problem> {
        let kind = key.kind();
        let (most, setting) = match kind {
            Kind::ApiKey => (self.settings.api_keys_max, "api_keys_max"),
            Kind::Template | Kind::Config | Kind::Schedule => {
                (self.settings.definitions_max, "definitions_max")
            }
        };
        if self.before(key).is_some() || self.definitions.count(kind, key.tenant()) < most {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "the tenant has {most} {}s, which is all that ingestion.{setting} allows",
                kind.as_str()
            ),
        ))
    }

    /// Withdraws a definition.
    pub(crate) async fn delete(
        &self,
        kind: Kind,
        caller: &Caller,
        asked: Asked,
        code: &str,
        headers: &HeaderMap,
    ) -> Result<StatusCode, Problem> {
        let expected = expected(headers)?;
        let (key, _) = self.get(kind, caller, asked, code)?;
        let gone = self.definitions.delete(&self.broker, &key, &expected).await;
        let gone = gone.map_err(|error| self.not_written(error))?;
        gone.map(|_| StatusCode::NO_CONTENT)
            .ok_or_else(|| not_there(kind, code))
    }

    /// The body of a request, as text.
    pub(crate) async fn read(&self, parts: &Parts, body: Body) -> Result<String, Problem> {
        require_json(&parts.headers)?;
        let body = read_body(&parts.headers, body, self.settings.definition_bytes_max).await?;
        let text = std::str::from_utf8(&body)
            .map_err(|_| refused(vec![FieldError::new("body", "is not UTF-8", "JSON in UTF-8")]))?;
        let depth_max = self.settings.nesting_max;
        if nesting::is_deeper(text, depth_max) {
            let problem = format!("is nested deeper than {depth_max} levels");
            return Err(refused(vec![FieldError::new("body", problem, "less nesting")]));
        }
        Ok(text.to_owned())
    }

    pub(crate) fn not_written(&self, error: WriteError) -> Problem {
        let retry = self.settings.retry_after_seconds.max(1);
        match error {
            WriteError::Unknown => Problem::unavailable("what is defined is not read yet", retry),
            WriteError::Unexpected { found } => {
                let found = found.map_or("none is in force".to_owned(), |found| {
                    format!(
                        "version {} is in force, with the ETag \"{}\"",
                        found.version,
                        found.tag()
                    )
                });
                Problem::new(
                    StatusCode::PRECONDITION_FAILED,
                    format!("nothing was written: {found}"),
                )
            }
            WriteError::NoRoom { bytes_max } => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!(
                    "nothing was written: definitions may take {bytes_max} bytes (definitions.bytes_max)"
                ),
            ),
            WriteError::Append(AppendError::TooLarge { bytes }) => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("nothing was written: the broker does not take {bytes} bytes"),
            ),
            WriteError::Append(AppendError::Full) => {
                Problem::unavailable("too much is being written at the moment; nothing was", retry)
            }
            WriteError::Append(AppendError::Unconfirmed { .. }) => Problem::unavailable(
                "it was not confirmed in time and may still be written; look before putting it again",
                retry,
            ),
            WriteError::Unheard => Problem::unavailable(
                "it is written, and not in force here yet; look before putting it again",
                retry,
            ),
        }
    }
}

/// Whose definitions are meant.
pub(crate) fn tenant(caller: &Caller, mut asked: Option<String>) -> Result<String, Problem> {
    caller.narrow(&mut asked, "tenant")?;
    let tenant = asked.unwrap_or_else(|| caller.tenant_default().to_owned());
    if is_tenant(&tenant) {
        return Ok(tenant);
    }
    let problem = format!("{:?} is no tenant", excerpt(&tenant));
    Err(refused(vec![FieldError::new(
        "tenant",
        problem,
        "1 to 64 letters, digits and ._-",
    )]))
}

/// What `If-Match` and `If-None-Match` ask for.
pub(crate) fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let of = |name: HeaderName| {
        let mut values = headers.get_all(&name).iter();
        let first = values
            .next()
            .map(|value| value.to_str().unwrap_or_default().trim().to_owned());
        if values.next().is_some() {
            return Err(wrong_header(&name));
        }
        Ok(first)
    };
    match (of(header::IF_MATCH)?, of(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Expected::Any),
        (None, Some(any)) if any == "*" => Ok(Expected::Absent),
        (Some(any), None) if any == "*" => Ok(Expected::Present),
        (Some(tags), None) => {
            let tags: Option<Vec<String>> = tags
                .split(',')
                .map(|tag| {
                    let tag = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
                    Some(tag.to_owned())
                })
                .collect();
            tags.filter(|tags| tags.len() <= TAGS_MAX)
                .map(Expected::Tags)
                .ok_or_else(|| wrong_header(&header::IF_MATCH))
        }
        _ => Err(wrong_header(&header::IF_NONE_MATCH)),
    }
}

fn wrong_header(name: &HeaderName) -> Problem {
    let accepted = "If-Match with the ETags of a GET, in quotes, or *; or If-None-Match: *";
    refused(vec![FieldError::new(
        name.as_str(),
        "cannot be gone by",
        accepted,
    )])
}

pub(crate) fn refused(errors: Vec<FieldError>) -> Problem {
    Problem::fields(StatusCode::BAD_REQUEST, errors)
}

pub(crate) fn not_there(kind: Kind, code: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no {} {:?} of this tenant", kind.as_str(), excerpt(code)),
    )
}

/// A definition as a client sees it: with these fields of its own.
pub(crate) fn shown<const N: usize>(
    status: StatusCode,
    key: &Key,
    definition: &Definition,
    own: [(&str, Value); N],
) -> Response {
    let mut answer = json!({
        "code": key.code(),
        "tenant": key.tenant(),
        "version": definition.version,
        "updatedAt": time::write(definition.at),
        "updatedBy": definition.by,
    });
    for (name, value) in own {
        answer[name] = value;
    }
    let mut response = (status, Json(answer)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", definition.tag())) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
