//! What a template's variables must be: a JSON Schema (2020-12), of which only what is bounded is taken.
//!
//! Without references a schema is applied to a value once, so its size and the value's bound the work. Patterns run on an
//! engine without backtracking. A keyword that is not known is refused: a misspelt one would check nothing.

use jsonschema::{Draft, PatternOptions, Validator, error::ValidationErrorKind};
use posthaste_event::{FieldError, fields::excerpt};
use serde_json::{Value as Json, json};

/// Largest schema, in bytes of its JSON.
const BYTES_MAX: usize = 16 << 10;
const NESTING_MAX: usize = 16;
const PATTERNS_MAX: usize = 16;
/// Largest program of a pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 64 << 10;
/// Parts of the schema times parts of the value: what checking costs at most.
const CHECKS_MAX: usize = 2_000_000;
/// Most errors that are told of one payload.
const ERRORS_MAX: usize = 16;

/// Keywords whose value is a schema, a list of schemas, or an object of schemas; and all others that may be used.
const ONE: [&str; 8] = [
    "additionalProperties",
    "propertyNames",
    "items",
    "contains",
    "not",
    "if",
    "then",
    "else",
];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const OBJECT: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
const OTHER: [&str; 29] = [
    "type",
    "enum",
    "const",
    "required",
    "minProperties",
    "maxProperties",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minContains",
    "maxContains",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "dependentRequired",
    "format",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "$comment",
    "$schema",
];

/// What [`Schema::new`] takes, as far as a schema of schemas without references can tell.
pub(super) fn form() -> Json {
    let keywords: Vec<&str> = ONE.into_iter().chain(LIST).chain(OBJECT).chain(OTHER).collect();
    json!({
        "type": ["object", "boolean"], "format": "json-schema", "propertyNames": {"enum": keywords},
        "description": format!("A JSON Schema (2020-12) without references, of up to {BYTES_MAX} bytes: what the variables must be."),
    })
}

/// A schema that was found good.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    /// How many parts it has.
    parts: usize,
    /// How many patterns.
    pub(super) patterns: usize,
    /// The names that it knows; `None` when others are allowed, too.
    names: Option<Vec<String>>,
}

struct Walk {
    patterns: usize,
}

impl Schema {
    /// Checks a schema and makes it ready. `field` is where it stands.
    ///
    /// # Errors
    /// What of it cannot be taken.
    pub(super) fn new(field: &str, schema: &Json) -> Result<Self, FieldError> {
        let bytes = schema.to_string().len();
        if bytes > BYTES_MAX {
            let problem = format!("has {bytes} bytes");
            return Err(FieldError::new(
                field,
                problem,
                format!("up to {BYTES_MAX} bytes"),
            ));
        }
        let mut walk = Walk { patterns: 0 };
        walk.schema(field, schema, 0)?;
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(patterns)
            .build(schema)
            .map_err(|error| {
                let problem = format!("is no schema at {:?}", excerpt(error.instance_path().as_str()));
                FieldError::new(
                    field,
                    problem,
                    "a JSON Schema (2020-12), patterns without look-around and of moderate size",
                )
            })?;
        let others = [
            "patternProperties",
            "propertyNames",
            "allOf",
            "anyOf",
            "oneOf",
            "if",
        ];
        let is_open = others.iter().any(|keyword| schema.get(keyword).is_some())
            || schema
                .get("additionalProperties")
                .is_some_and(|value| *value != Json::Bool(false));
        let names = schema
            .get("properties")
            .and_then(Json::as_object)
            .filter(|_| !is_open)
            .map(|properties| properties.keys().cloned().collect());
        Ok(Self {
            validator,
            parts: parts(schema),
            patterns: walk.patterns,
            names,
        })
    }

    /// The variables that there are, if the schema says so.
    pub(super) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// Checks the variables of a message.
    ///
    /// # Errors
    /// What does not fit, by field below `field`; the first few.
    pub(super) fn check(&self, field: &str, values: &Json) -> Result<(), Vec<FieldError>> {
        let parts = parts(values);
        if parts.saturating_mul(self.parts) > CHECKS_MAX {
            let problem = format!("has {parts} values, too many to be checked against the template's schema");
            let accepted = format!("up to {} values", CHECKS_MAX / self.parts.max(1));
            return Err(vec![FieldError::new(field, problem, accepted)]);
        }
        if self.validator.is_valid(values) {
            return Ok(());
        }
        let errors = self.validator.iter_errors(values).take(ERRORS_MAX);
        Err(errors.map(|error| told(field, &error)).collect())
    }
}

/// The error as one of ours. The value itself is not repeated.
fn told(field: &str, error: &jsonschema::ValidationError<'_>) -> FieldError {
    let mut path = field.to_owned();
    for step in error.instance_path().as_str().split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        if step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty() {
            path.push_str(&format!("[{step}]"));
        } else {
            path.push_str(&format!(".{}", excerpt(&step)));
        }
    }
    let keyword = error.kind().keyword();
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let field = format!("{path}.{}", excerpt(name));
            FieldError::new(field, "is missing", "what the template's schema asks for")
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let name = unexpected.first().map(String::as_str).unwrap_or_default();
            let field = format!("{path}.{}", excerpt(name));
            FieldError::new(
                field,
                "is no variable of the template",
                "the variables of its schema",
            )
        }
        _ => {
            let accepted: String = error.schema_path().as_str().chars().take(120).collect();
            FieldError::new(
                path,
                format!("does not fit {keyword:?} of the template's schema"),
                format!("what its schema has at {accepted}"),
            )
        }
    }
}

/// How many values there are in it, keys included.
fn parts(value: &Json) -> usize {
    match value {
        Json::Array(values) => 1 + values.iter().map(parts).sum::<usize>(),
        Json::Object(values) => 1 + values.values().map(|value| 1 + parts(value)).sum::<usize>(),
        _ => 1,
    }
}

impl Walk {
    fn schema(&mut self, field: &str, schema: &Json, depth: usize) -> Result<(), FieldError> {
        if depth > NESTING_MAX {
            let problem = format!("is nested deeper than {NESTING_MAX} levels");
            return Err(FieldError::new(field, problem, "a flatter schema"));
        }
        let entries = match schema {
            Json::Bool(_) if depth > 0 => return Ok(()),
            Json::Object(entries) => entries,
            _ => return Err(FieldError::new(field, "is no schema", "an object")),
        };
        for (keyword, value) in entries {
            let at = format!("{field}.{}", excerpt(keyword));
            let name = keyword.as_str();
            if ONE.contains(&name) {
                self.schema(&at, value, depth + 1)?;
            } else if LIST.contains(&name) {
                let list = value
                    .as_array()
                    .ok_or_else(|| FieldError::new(&at, "is no list", "a list of schemas"))?;
                for (index, one) in list.iter().enumerate() {
                    self.schema(&format!("{at}[{index}]"), one, depth + 1)?;
                }
            } else if OBJECT.contains(&name) {
                let object = value
                    .as_object()
                    .ok_or_else(|| FieldError::new(&at, "is no object", "an object of schemas"))?;
                for (key, one) in object {
                    if name == "patternProperties" {
                        self.pattern(&at)?;
                    }
                    self.schema(&format!("{at}.{}", excerpt(key)), one, depth + 1)?;
                }
            } else if name == "pattern" {
                self.pattern(&at)?;
            } else if !OTHER.contains(&name) {
                let mut accepted: Vec<&str> = [&ONE[..], &LIST, &OBJECT, &OTHER].concat();
                accepted.sort_unstable();
                return Err(FieldError::new(
                    at,
                    "is not a keyword that is taken here",
                    accepted.join(", "),
                ));
            }
        }
        Ok(())
    }

    fn pattern(&mut self, field: &str) -> Result<(), FieldError> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(FieldError::new(
                field,
                "is one pattern too many",
                format!("up to {PATTERNS_MAX} patterns"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(schema: Json) -> Result<Schema, FieldError> {
        Schema::new("variables", &schema)
    }

    fn fields(schema: &Schema, values: &Json) -> Vec<String> {
        schema.check("payload", values).map_or_else(
            |errors| errors.into_iter().map(|error| error.field).collect(),
            |()| vec![],
        )
    }

    #[test]
    fn what_does_not_fit_is_named_and_not_repeated() {
        let schema = schema(json!({
            "type": "object",
            "required": ["userName"],
            "properties": {
                "userName": {"type": "string", "minLength": 1},
                "items": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                "code": {"pattern": "^[A-Z]{2}$"}
            },
            "additionalProperties": false
        }))
        .unwrap();
        assert_eq!(schema.names().unwrap(), ["code", "items", "userName"]);
        assert_eq!(
            fields(&schema, &json!({"userName": "Ann", "code": "DE"})),
            [""; 0]
        );
        assert_eq!(fields(&schema, &json!({})), ["payload.userName"]);
        assert_eq!(fields(&schema, &json!({"userName": 7})), ["payload.userName"]);
        assert_eq!(fields(&schema, &json!({"userName": "A", "x": 1})), ["payload.x"]);
        assert_eq!(
            fields(&schema, &json!({"userName": "A", "items": [{"name": 1}, {}]})),
            ["payload.items[1].name"]
        );
        let errors = schema
            .check("payload", &json!({"userName": "A", "code": "secret"}))
            .unwrap_err();
        assert_eq!(errors[0].field, "payload.code");
        assert!(!format!("{errors:?}").contains("secret"), "{errors:?}");
    }

    #[test]
    fn bombs_are_no_schemas() {
        let mut deep = json!({});
        for _ in 0..20 {
            deep = json!({"not": deep});
        }
        let patterns: Vec<Json> = (0..17).map(|_| json!({"pattern": "a"})).collect();
        for (bomb, field) in [
            (json!({"$ref": "#"}), "variables.$ref"),
            (json!({"$ref": "http://127.0.0.1/x"}), "variables.$ref"),
            (json!({"$dynamicRef": "#a"}), "variables.$dynamicRef"),
            (json!({"$defs": {"a": {}}}), "variables.$defs"),
            (
                json!({"properties": {"a": {"$id": "x"}}}),
                "variables.properties.a.$id",
            ),
            (
                json!({"properties": {"a": {"typ": "string"}}}),
                "variables.properties.a.typ",
            ),
            (json!({"pattern": "((a{100}){100}){100}"}), "variables"),
            (json!({"pattern": "(?=a)b"}), "variables"),
            (json!({"pattern": "("}), "variables"),
            (json!({"type": "strin"}), "variables"),
            (json!({"allOf": patterns}), "variables.allOf[16].pattern"),
            (json!([]), "variables"),
            (json!(true), "variables"),
            (json!({"description": "x".repeat(20_000)}), "variables"),
        ] {
            let error = schema(bomb.clone()).map(|_| ()).unwrap_err();
            assert_eq!(error.field, field, "{bomb}");
        }
        assert!(schema(deep).is_err());
    }

    #[test]
    fn checking_is_bounded_and_patterns_do_not_run_away() {
        let schema = schema(json!({
            "properties": {"a": {"pattern": "^(a+)+$"}, "b": {"items": {"anyOf": [{"type": "string"}, {"type": "number"}]}}}
        }))
        .unwrap();
        let evil = format!("{}b", "a".repeat(50_000));
        assert_eq!(fields(&schema, &json!({"a": evil})), ["payload.a"]);
        let many = json!({"b": vec![1; 1_000_000]});
        assert_eq!(fields(&schema, &many), ["payload"]);
    }
}
