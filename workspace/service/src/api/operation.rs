//! One operation: a method on a path, what it takes, and all that it may answer.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use posthaste_event::{FieldError, schema};
use serde_json::{Map, Value as Json, json};

use super::components::{self, PROBLEM_TYPE};
use crate::Problem;

/// The media type of nearly all.
const JSON_TYPE: &str = "application/json";

/// A method on a path.
#[derive(Debug, Clone)]
pub struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: String,
    parameters: Vec<Json>,
    body: Option<Json>,
    pub(super) answers: BTreeMap<u16, Vec<Answer>>,
}

/// Something that may be answered with a status.
#[derive(Debug, Clone)]
pub struct Answer {
    description: String,
    media_type: Option<&'static str>,
    schema: Json,
    example: Json,
    headers: Vec<&'static str>,
}

impl Answer {
    /// JSON that looks like this.
    pub fn json(description: &str, schema: Json, example: Json) -> Self {
        Self {
            description: description.to_owned(),
            media_type: Some(JSON_TYPE),
            schema,
            example,
            headers: Vec::new(),
        }
    }

    /// Another media type.
    #[must_use]
    pub const fn of_type(mut self, media_type: &'static str) -> Self {
        self.media_type = Some(media_type);
        self
    }

    /// Without a body.
    pub fn empty(description: &str) -> Self {
        Self {
            media_type: None,
            ..Self::json(description, Json::Null, Json::Null)
        }
    }

    /// With this header, one of `#/components/headers`.
    #[must_use]
    pub fn with(mut self, header: &'static str) -> Self {
        self.headers.push(header);
        self
    }

    /// A problem document.
    pub(super) fn problem(problem: &Problem) -> Self {
        let example = serde_json::to_value(problem).unwrap_or_default();
        let mut answer = Self::json(&problem.detail, schema::component(components::PROBLEM), example);
        if problem.retry_after_seconds.is_some() {
            answer = answer.with(components::RETRY_AFTER);
        }
        answer.of_type(PROBLEM_TYPE)
    }
}

impl Operation {
    /// `id` is its name in clients that are made of the document; `path` is as the router and the table of roles have it.
    pub fn new(
        method: Method,
        path: impl Into<String>,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            id,
            tag,
            summary,
            description: String::new(),
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
        }
    }

    /// Its method and its path.
    pub fn route(&self) -> (&Method, &str) {
        (&self.method, &self.path)
    }

    /// The same on another path, under another id: for those who come from a system that had it there.
    #[must_use]
    pub fn also(&self, path: impl Into<String>, id: &'static str) -> Self {
        let mut other = self.clone();
        (other.path, other.id) = (path.into(), id);
        other
    }

    /// More than the summary says.
    #[must_use]
    pub fn says(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// A part of the path.
    #[must_use]
    pub fn part(self, name: &str, description: &str, schema: Json, example: Json) -> Self {
        self.parameter(json!({
            "name": name, "in": "path", "required": true, "description": description, "schema": schema,
            "example": example,
        }))
    }

    /// A parameter of the query.
    #[must_use]
    pub fn query(self, name: &str, description: &str, schema: Json) -> Self {
        self.parameter(parameter(name, "query", description, schema))
    }

    /// A parameter, as OpenAPI has it.
    #[must_use]
    pub fn given(self, parameter: Json) -> Self {
        self.parameter(parameter)
    }

    /// One of `#/components/parameters`.
    #[must_use]
    pub fn shared(self, parameter: &str) -> Self {
        self.parameter(json!({"$ref": format!("#/components/parameters/{parameter}")}))
    }

    fn parameter(mut self, parameter: Json) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// A JSON body that must be there.
    #[must_use]
    pub fn body(self, schema: Json, example: Json) -> Self {
        self.takes(JSON_TYPE, true, schema, json!({"example": {"value": example}}))
    }

    /// A JSON body with several examples, by name.
    #[must_use]
    pub fn body_examples<'a>(
        self,
        schema: Json,
        examples: impl IntoIterator<Item = (&'a str, Json)>,
    ) -> Self {
        let examples: Map<String, Json> = examples
            .into_iter()
            .map(|(name, example)| (name.to_owned(), json!({"value": example})))
            .collect();
        self.takes(JSON_TYPE, true, schema, Json::Object(examples))
    }

    /// A JSON body that may be left out.
    #[must_use]
    pub fn optional_body(self, schema: Json, example: Json) -> Self {
        self.takes(JSON_TYPE, false, schema, json!({"example": {"value": example}}))
    }

    /// A body of this media type; `examples` as OpenAPI has them.
    #[must_use]
    pub fn takes(mut self, media_type: &str, is_required: bool, schema: Json, examples: Json) -> Self {
        let body = self
            .body
            .get_or_insert_with(|| json!({"required": is_required, "content": {}}));
        body["content"][media_type] = json!({"schema": schema, "examples": examples});
        self
    }

    /// One of the answers with this status.
    #[must_use]
    pub fn answer(mut self, status: StatusCode, answer: Answer) -> Self {
        self.answers.entry(status.as_u16()).or_default().push(answer);
        self
    }

    /// A problem that it may answer with.
    #[must_use]
    pub fn problem(self, status: StatusCode, detail: &str) -> Self {
        self.answer(status, Answer::problem(&Problem::new(status, detail)))
    }

    /// The same, about one field.
    #[must_use]
    pub fn refuses(self, status: StatusCode, field: &str, problem: &str, accepted: &str) -> Self {
        let errors = vec![FieldError::new(field, problem, accepted)];
        self.answer(status, Answer::problem(&Problem::fields(status, errors)))
    }

    /// 503, which says when to come back.
    #[must_use]
    pub fn unavailable(self, detail: &str) -> Self {
        self.answer(
            StatusCode::SERVICE_UNAVAILABLE,
            Answer::problem(&Problem::unavailable(detail, 2)),
        )
    }

    /// Whether it takes a body.
    pub(super) const fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// As OpenAPI has it.
    pub(super) fn written(&self) -> Map<String, Json> {
        let mut parameters = self.parameters.clone();
        parameters.push(json!({"$ref": format!("#/components/parameters/{}", components::CORRELATION)}));
        let answers: Map<String, Json> = self
            .answers
            .iter()
            .map(|(status, answers)| (status.to_string(), written(answers)))
            .collect();
        let fields = [
            ("operationId", json!(self.id)),
            ("tags", json!([self.tag])),
            ("summary", json!(self.summary)),
            ("parameters", json!(parameters)),
            ("responses", Json::Object(answers)),
        ];
        let mut operation: Map<String, Json> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if !self.description.is_empty() {
            operation.insert("description".to_owned(), json!(self.description));
        }
        if let Some(body) = &self.body {
            operation.insert("requestBody".to_owned(), body.clone());
        }
        operation
    }
}

/// A parameter that may be left out.
pub(super) fn parameter(name: &str, place: &str, description: &str, schema: Json) -> Json {
    json!({"name": name, "in": place, "required": false, "description": description, "schema": schema})
}

/// All that may be answered with one status.
fn written(answers: &[Answer]) -> Json {
    let mut content: BTreeMap<&str, (Vec<&Json>, Map<String, Json>)> = BTreeMap::new();
    let mut headers = Map::new();
    for header in components::EVERYWHERE
        .iter()
        .chain(answers.iter().flat_map(|answer| &answer.headers))
    {
        headers.insert(
            (*header).to_owned(),
            json!({"$ref": format!("#/components/headers/{header}")}),
        );
    }
    for answer in answers {
        let Some(media_type) = answer.media_type else {
            continue;
        };
        let (schemas, examples) = content.entry(media_type).or_default();
        if !schemas.contains(&&answer.schema) {
            schemas.push(&answer.schema);
        }
        let name = format!("example{}", examples.len() + 1);
        let example = json!({"summary": answer.description, "value": answer.example});
        examples.insert(name, example);
    }
    let descriptions: Vec<&str> = answers.iter().map(|answer| &*answer.description).collect();
    let mut response = json!({"description": descriptions.join("\n\n"), "headers": headers});
    for (media_type, (schemas, examples)) in content {
        let schema = match schemas.as_slice() {
            [one] => (*one).clone(),
            several => json!({"anyOf": several}),
        };
        response["content"][media_type] = json!({"schema": schema, "examples": examples});
    }
    response
}
