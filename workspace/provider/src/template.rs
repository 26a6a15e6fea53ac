//! Templates of provider files: text with `{{ expressions }}`. The JSON trees made of them are in `node.rs`.
//!
//! A value can never leave its place. In a path each value is one percent-encoded piece; in JSON, forms and headers values are
//! written by serialisers, never pasted into text. There are no statements and no raw output.

use std::sync::LazyLock;

use minijinja::{Environment, Expression, value::Value};

use crate::filters::{self, TextFilter};
pub(crate) use crate::scope::{Found, Scope};

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(filters::environment);

/// What is wrong with a template, or with a value for it. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TemplateError(pub(crate) String);

/// One expression.
#[derive(Debug)]
pub(crate) enum Expr {
    /// Names only, such as `payload.message`: looked up without the template engine.
    Path { text: String, names: Vec<String> },
    /// Anything else.
    Jinja {
        text: String,
        expression: Expression<'static, 'static>,
        /// How it comes out mostly without the engine, for which all values would have to be converted first.
        quick: Option<Quick>,
    },
}

/// What the hottest expressions consist of. It gives no value where anything is unusual; the engine then has the last word.
#[derive(Debug)]
pub(crate) enum Quick {
    /// `a.b or c.d`
    Or(Vec<String>, Vec<String>),
    /// `a.b | filter` or `a.b | filter(c.d)`, on texts.
    Filter(Vec<String>, TextFilter, Option<Vec<String>>),
}

impl Quick {
    fn parse(text: &str) -> Option<Self> {
        if let Some((one, other)) = text.split_once(" or ") {
            return Some(Self::Or(path(one)?, path(other)?));
        }
        let (value, filter) = text.split_once('|')?;
        let (name, argument) = match filter.trim().strip_suffix(')') {
            Some(call) => {
                let (name, argument) = call.split_once('(')?;
                (name, Some(path(argument)?))
            }
            None => (filter.trim(), None),
        };
        let filter = filters::on_text(name, argument.is_some())?;
        Some(Self::Filter(path(value)?, filter, argument))
    }

    fn eval<'a>(&self, scope: &Scope<'a>) -> Option<Found<'a>> {
        match self {
            Self::Or(one, other) => {
                let one = scope.find(one)?;
                // Where zeros and empty lists come in, the engine is asked.
                let is_true = !one.is_none() && !one.as_str()?.is_empty();
                if is_true { Some(one) } else { scope.find(other) }
            }
            Self::Filter(value, filter, argument) => {
                let value = scope.find(value)?;
                let text = match argument {
                    Some(argument) => filter(value.as_str()?, scope.find(argument)?.as_str()?)?,
                    None => filter(value.as_str()?, "")?,
                };
                Some(Found::Computed(Value::from(text)))
            }
        }
    }
}

/// `a.b.c`, of names.
fn path(text: &str) -> Option<Vec<String>> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let names: Vec<String> = text.trim().split('.').map(str::to_owned).collect();
    (names.len() > 1 && names.iter().all(|name| is_name(name))).then_some(names)
}

impl Expr {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.trim().to_owned();
        if let Some(names) = path(&text) {
            check_root(&names[0])?;
            return Ok(Self::Path { text, names });
        }
        let expression = ENVIRONMENT
            .compile_expression_owned(text.clone())
            .map_err(|error| TemplateError(format!("in {{{{ {text} }}}}: {}", describe(&error))))?;
        for root in expression.undeclared_variables(false) {
            check_root(&root)?;
        }
        let quick = Quick::parse(&text);
        Ok(Self::Jinja {
            text,
            expression,
            quick,
        })
    }

    /// Evaluates it. What is not defined is an error, never empty.
    pub(crate) fn eval<'a>(&self, scope: &Scope<'a>) -> Result<Found<'a>, TemplateError> {
        match self {
            Self::Path { text, names } => {
                let found = scope.find(names);
                found.ok_or_else(|| TemplateError(format!("{text} is not defined")))
            }
            Self::Jinja {
                text,
                expression,
                quick,
            } => {
                if let Some(found) = quick.as_ref().and_then(|quick| quick.eval(scope)) {
                    return Ok(found);
                }
                let value = expression
                    .eval(scope.jinja().clone())
                    .map_err(|error| TemplateError(format!("in {{{{ {text} }}}}: {}", describe(&error))))?;
                if value.is_undefined() {
                    return Err(TemplateError(format!("{text} is not defined")));
                }
                Ok(Found::Computed(value))
            }
        }
    }

    /// Whether it looks at the payload.
    pub(crate) fn reads_message(&self) -> bool {
        match self {
            Self::Path { names, .. } => names[0] != "account",
            Self::Jinja { expression, .. } => {
                let names = expression.undeclared_variables(false);
                ["payload", "event"].iter().any(|name| names.contains(*name))
            }
        }
    }
}

impl Expr {
    /// Whether it looks at this field of the payload, or at the payload as a whole.
    pub(crate) fn reads_field(&self, field: &str) -> bool {
        match self {
            Self::Path { names, .. } => names[0] == "payload" && names[1] == field,
            Self::Jinja { expression, .. } => {
                let names = expression.undeclared_variables(true);
                let path = format!("payload.{field}");
                let below = format!("{path}.");
                names
                    .iter()
                    .any(|name| *name == path || name == "payload" || name.starts_with(&below))
            }
        }
    }
}

fn check_root(name: &str) -> Result<(), TemplateError> {
    // `dict` is the template language's own way to add to an object.
    if ["payload", "account", "event", "dict"].contains(&name) {
        return Ok(());
    }
    Err(TemplateError(format!(
        "unknown name {name:?}; accepted: payload, account, event"
    )))
}

/// The engine's error without the template's source or the values in it.
fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Value(Expr),
}

/// Text with expressions in it.
#[derive(Debug)]
pub(crate) struct Text {
    parts: Vec<Part>,
}

impl Text {
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find("{{") {
            let after = &rest[open + 2..];
            let close = after
                .find("}}")
                .ok_or_else(|| TemplateError("`{{` without its `}}`".to_owned()))?;
            // A dictionary at the end of an expression closes with its own brace first: `{{ {"a": {"b": 1}} }}`.
            let close = close + after[close..].bytes().take_while(|b| *b == b'}').count() - 2;
            let close = balanced(after, close);
            if open > 0 {
                parts.push(Part::Literal(rest[..open].to_owned()));
            }
            parts.push(Part::Value(Expr::parse(&after[..close])?));
            rest = &after[close + 2..];
        }
        for token in ["{%", "{#", "}}"] {
            if rest.contains(token) {
                return Err(TemplateError(format!(
                    "`{token}` has no place here; accepted: text and {{{{ expressions }}}}"
                )));
            }
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The expression that this text consists of, if it is nothing else.
    pub(crate) fn into_single(mut self) -> Result<Expr, Self> {
        match self.parts.pop() {
            Some(Part::Value(expr)) if self.parts.is_empty() => Ok(expr),
            Some(other) => {
                self.parts.push(other);
                Err(self)
            }
            None => Err(self),
        }
    }

    /// The single value that this text consists of, or the text as a value; `none` where the expression is `none`.
    pub(crate) fn eval<'a>(&self, scope: &Scope<'a>) -> Result<Found<'a>, TemplateError> {
        match self.parts.as_slice() {
            [Part::Value(expr)] => expr.eval(scope),
            _ => self.render(scope).map(|text| Found::Computed(Value::from(text))),
        }
    }

    /// The text with its values.
    pub(crate) fn render(&self, scope: &Scope<'_>) -> Result<String, TemplateError> {
        self.join(scope, |out, value| {
            out.push_str(value);
            Ok(())
        })
    }

    /// The text with each value percent-encoded, so that it stays one piece of a path.
    pub(crate) fn render_path(&self, scope: &Scope<'_>) -> Result<String, TemplateError> {
        self.join(scope, |out, value| {
            // Dots alone are steps, even percent-encoded (WHATWG URL, "single-dot URL path segment").
            if value.bytes().all(|byte| byte == b'.') {
                return Err(TemplateError(
                    "a value for the path is empty or only dots".to_owned(),
                ));
            }
            for byte in value.bytes() {
                // RFC 3986 section 2.3.
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            Ok(())
        })
    }

    fn join(
        &self,
        scope: &Scope<'_>,
        mut push: impl FnMut(&mut String, &str) -> Result<(), TemplateError>,
    ) -> Result<String, TemplateError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Value(expr) => push(&mut out, &expr.eval(scope)?.text()?)?,
            }
        }
        Ok(out)
    }

    /// Whether it looks at this field of the payload.
    pub(crate) fn reads_field(&self, field: &str) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Value(expr) if expr.reads_field(field)))
    }

    /// Whether it looks at the payload.
    pub(crate) fn reads_message(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Value(expr) if expr.reads_message()))
    }
}

/// Where an expression that may contain braces really ends: the first `}}` after which no brace is open.
fn balanced(text: &str, fallback: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut open, mut quote, mut at) = (0_usize, None, 0);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(mark), byte) if byte == mark => quote = None,
            (Some(_), b'\\') => at += 1,
            (Some(_), _) => {}
            (None, mark @ (b'"' | b'\'')) => quote = Some(mark),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return at,
            (None, _) => {}
        }
        at += 1;
    }
    fallback
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_without_the_engine_comes_out_as_with_it() {
        let values = [
            json!(null),
            json!(""),
            json!(0),
            json!([]),
            json!("text"),
            json!("2025550100"),
            json!("12"),
        ];
        let account = json!({"a": "1", "b": null, "n": 7});
        for source in [
            "payload.v or account.a",
            "payload.v or account.b",
            "payload.v or account.none",
            "payload.v | e164(account.a)",
            "payload.v|msisdn( account.a )",
            "payload.v | e164(account.n)",
            "payload.v | uuid",
            "payload.none | uuid",
        ] {
            for value in &values {
                let payload = json!({ "v": value });
                let scope = Scope::new(&payload, &account, &account);
                let outcome = |expr: &Expr| {
                    expr.eval(&scope)
                        .and_then(|found| found.to_json().map(Cow::into_owned))
                };
                let Ok(Expr::Jinja {
                    text,
                    expression,
                    quick: quick @ Some(_),
                }) = Expr::parse(source)
                else {
                    panic!("{source} takes the long way");
                };
                let quickly = Expr::Jinja {
                    text,
                    expression,
                    quick,
                };
                let outcome_quickly = outcome(&quickly);
                let Expr::Jinja { text, expression, .. } = quickly else {
                    unreachable!()
                };
                let slowly = Expr::Jinja {
                    text,
                    expression,
                    quick: None,
                };
                assert_eq!(outcome_quickly, outcome(&slowly), "{source} of {value}");
            }
        }
    }
}
