//! A template: what a message says, per channel and locale, and what its variables must be.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, ErrorKind, value::Value};
use posthaste_event::{Channel, FieldError, fields::excerpt, schema};
use serde_json::{Map, Value as Json, json};

use super::{
    code,
    language::{self, Allowance, Escape},
    schema::{Schema, form},
    syntax,
};

/// Most texts of all channels and locales together.
const TEXTS_MAX: usize = 1_000;
/// Longest text, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// What a template's fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A text.
    Text,
    /// A text that is HTML.
    Html,
    /// Any JSON, in whose texts there may be expressions.
    Json,
}

/// A template that was found good.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    schema: Option<Schema>,
    locale: String,
    channels: BTreeMap<Channel, BTreeMap<String, Content>>,
}

/// What one message says on one channel in one language: fields of the channel's payload.
type Content = Vec<(&'static str, Node)>;

#[derive(Debug)]
enum Node {
    Plain(Json),
    Text { name: String, variables: Vec<String> },
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// A rendered message: fields of the channel's payload, and the language that it is in.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) fields: Map<String, Json>,
    pub(crate) locale: String,
}

struct Building {
    environment: Environment<'static>,
    texts: usize,
    variables: BTreeSet<String>,
    errors: Vec<FieldError>,
}

/// The fields that a template may have on a channel, and those of which one must be there.
const fn fields_of(channel: Channel) -> (&'static [(&'static str, Form)], &'static [&'static str]) {
    match channel {
        Channel::Sms => (&[("message", Form::Text)], &["message"]),
        Channel::Email => (
            &[
                ("subject", Form::Text),
                ("body", Form::Text),
                ("html", Form::Html),
            ],
            &["subject"],
        ),
        Channel::Push => (
            &[
                ("title", Form::Text),
                ("body", Form::Text),
                ("image", Form::Text),
                ("link", Form::Text),
                ("data", Form::Json),
            ],
            &["title"],
        ),
        Channel::Slack => (
            &[("text", Form::Text), ("blocks", Form::Json)],
            &["text", "blocks"],
        ),
        Channel::Webhook => (&[("body", Form::Json)], &["body"]),
        Channel::InApp => (
            &[("title", Form::Text), ("body", Form::Text), ("data", Form::Json)],
            &["title"],
        ),
    }
}

impl Template {
    /// Reads and checks a template.
    ///
    /// # Errors
    /// Each field that cannot be taken.
    pub(crate) fn new(body: &Json) -> Result<Self, Vec<FieldError>> {
        const FORM: &str = "an object with channels, and optionally description, locale and variables";
        let Some(body) = body.as_object() else {
            return Err(vec![FieldError::new("body", "is not an object", FORM)]);
        };
        let mut building = Building {
            environment: language::environment(),
            texts: 0,
            variables: BTreeSet::new(),
            errors: Vec::new(),
        };
        for name in body.keys() {
            if !["description", "locale", "variables", "channels"].contains(&name.as_str()) {
                building.error(excerpt(name), "is not a field", FORM);
            }
        }
        if body.get("description").is_some_and(|text| !text.is_string()) {
            building.error("description", "must be text", "text");
        }
        let locale = match body.get("locale") {
            None => "en".to_owned(),
            Some(locale) => match locale.as_str().filter(|locale| code::is_locale(locale)) {
                Some(locale) => locale.to_owned(),
                None => {
                    building.error("locale", "is no language", code::LOCALE);
                    "en".to_owned()
                }
            },
        };
        let schema = body
            .get("variables")
            .and_then(|schema| match Schema::new("variables", schema) {
                Ok(schema) => Some(schema),
                Err(error) => {
                    building.errors.push(error);
                    None
                }
            });
        let channels = building.channels(body.get("channels"), &locale);
        if let Some(names) = schema.as_ref().and_then(Schema::names) {
            let unknown: Vec<String> = building
                .variables
                .iter()
                .filter(|name| !names.contains(name))
                .cloned()
                .collect();
            for name in unknown {
                building.error(
                    format!("variables.properties.{}", excerpt(&name)),
                    "is missing, though a text of the template uses it",
                    "each variable that is used",
                );
            }
        }
        if !building.errors.is_empty() {
            return Err(building.errors);
        }
        Ok(Self {
            environment: building.environment,
            schema,
            locale,
            channels,
        })
    }

    /// What [`Self::new`] takes.
    pub(crate) fn schema() -> Json {
        let mut channels = Map::new();
        for channel in Channel::ALL {
            let (fields, one_of) = fields_of(channel);
            let fields = fields.iter().map(|(name, form)| {
                let any = json!({"description": "Any JSON; its texts may hold variables."});
                let schema = match form {
                    Form::Json => any,
                    Form::Text | Form::Html => json!({"type": "string", "format": "template"}),
                };
                (*name, false, schema)
            });
            let mut content = schema::exact(fields);
            content["anyOf"] = one_of.iter().map(|name| json!({"required": [name]})).collect();
            let locales = json!({
                "type": "object", "minProperties": 1, "propertyNames": super::locale_schema(),
                "additionalProperties": content,
            });
            channels.insert(channel.as_str().to_owned(), locales);
        }
        let channels = json!({
            "type": "object", "minProperties": 1, "properties": channels, "additionalProperties": false,
            "description": "For each channel what is said in which language; the template's own is among them.",
        });
        let locale = schema::described(
            super::locale_schema(),
            "The language where no other fits; `en` without.",
        );
        schema::exact([
            ("channels", true, channels),
            ("description", false, schema::any_text()),
            ("locale", false, locale),
            ("variables", false, form()),
        ])
    }

    /// How much memory it may take, in bytes; `bytes` is the size of its JSON.
    pub(crate) fn weight(&self, bytes: usize) -> usize {
        const PATTERN_BYTES: usize = 256 << 10;
        const LEAST: usize = 16 << 10;
        LEAST
            + bytes * 16
            + self
                .schema
                .as_ref()
                .map_or(0, |schema| schema.patterns * PATTERN_BYTES)
    }

    /// Checks the variables and renders what is said on a channel, in the language that comes nearest to one of `locales`.
    /// Errors name fields below `field`, or `code` where the template is to blame.
    ///
    /// # Errors
    /// What is missing or does not fit.
    pub(crate) fn render(
        &self,
        channel: Channel,
        locales: &[Option<&str>],
        values: &Json,
        bytes_max: usize,
        field: &str,
        code: &str,
    ) -> Result<Rendered, Vec<FieldError>> {
        let Some(contents) = self.channels.get(&channel) else {
            let known: Vec<&str> = self.channels.keys().map(|channel| channel.as_str()).collect();
            let problem = format!("says nothing on the channel {channel} of the configuration");
            let accepted = format!("a template for it; this one is for {}", known.join(", "));
            return Err(vec![FieldError::new(code, problem, accepted)]);
        };
        if let Some(schema) = &self.schema {
            schema.check(field, values)?;
        }
        let wanted = locales.iter().flatten().copied();
        let locale = code::nearest(contents, wanted.chain([self.locale.as_str()]));
        let Some((locale, content)) = locale.and_then(|locale| contents.get_key_value(locale)) else {
            let problem = "has no text in this language and none in its own";
            return Err(vec![FieldError::new(code, problem, "a language that it has")]);
        };
        let rendering = Rendering {
            environment: &self.environment,
            json: values,
            values: Value::from(minijinja::value::Serde(values)),
            field,
            code,
        };
        let _allowance = Allowance::new(bytes_max);
        let mut fields = Map::new();
        for (name, node) in content {
            fields.insert((*name).to_owned(), rendering.node(name, node)?);
        }
        Ok(Rendered {
            fields,
            locale: locale.clone(),
        })
    }
}

struct Rendering<'a> {
    environment: &'a Environment<'static>,
    json: &'a Json,
    values: Value,
    field: &'a str,
    code: &'a str,
}

impl Rendering<'_> {
    fn node(&self, at: &str, node: &Node) -> Result<Json, Vec<FieldError>> {
        Ok(match node {
            Node::Plain(json) => json.clone(),
            Node::Text { name, variables } => Json::String(self.text(at, name, variables)?),
            Node::List(nodes) => {
                let nodes = nodes.iter().map(|node| self.node(at, node));
                Json::Array(nodes.collect::<Result<_, _>>()?)
            }
            Node::Object(nodes) => {
                let nodes = nodes
                    .iter()
                    .map(|(key, node)| Ok((key.clone(), self.node(at, node)?)));
                Json::Object(nodes.collect::<Result<_, Vec<FieldError>>>()?)
            }
        })
    }

    fn text(&self, at: &str, name: &str, variables: &[String]) -> Result<String, Vec<FieldError>> {
        let error = match language::render(self.environment, name, &self.values) {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::UndefinedError {
            let missing: Vec<FieldError> = variables
                .iter()
                .filter(|path| is_missing(self.json, path))
                .map(|path| {
                    let field = format!("{}.{}", self.field, excerpt(path));
                    FieldError::new(field, "is missing", "a value: the template's text needs it")
                })
                .collect();
            if !missing.is_empty() {
                return Err(missing);
            }
            let problem = format!("lacks something that the template's {at} needs");
            return Err(vec![FieldError::new(
                self.field,
                problem,
                "all that the template needs",
            )]);
        }
        let problem = format!("cannot render its {at}: {}", describe(&error));
        Err(vec![FieldError::new(
            self.code,
            problem,
            "a template that renders with these variables",
        )])
    }
}

/// The engine's error without the template's text or the values in it.
fn describe(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps".to_owned(),
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, Some(detail)) => excerpt_of(detail),
        (kind, _) => kind.to_string(),
    }
}

fn excerpt_of(detail: &str) -> String {
    detail.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Whether a value like `user.name` is not there, or `null`.
fn is_missing(values: &Json, path: &str) -> bool {
    let found = path.split('.').try_fold(values, |value, step| value.get(step));
    found.is_none_or(Json::is_null)
}

impl Building {
    fn error(&mut self, field: impl Into<String>, problem: impl Into<String>, accepted: impl Into<String>) {
        self.errors.push(FieldError::new(field, problem, accepted));
    }

    fn channels(
        &mut self,
        channels: Option<&Json>,
        default: &str,
    ) -> BTreeMap<Channel, BTreeMap<String, Content>> {
        let accepted = format!(
            "an object with one or more of {}",
            Channel::ALL.map(Channel::as_str).join(", ")
        );
        let mut built = BTreeMap::new();
        let Some(channels) = channels.and_then(Json::as_object).filter(|map| !map.is_empty()) else {
            self.error("channels", "is missing, empty or no object", accepted);
            return built;
        };
        for (name, locales) in channels {
            let at = format!("channels.{}", excerpt(name));
            let Ok(channel) = name.parse::<Channel>() else {
                self.error(at, "is no channel", accepted.clone());
                continue;
            };
            let Some(locales) = locales.as_object().filter(|map| !map.is_empty()) else {
                self.error(
                    at,
                    "is empty or no object",
                    "an object of languages, such as {\"en\": {…}}",
                );
                continue;
            };
            if !locales.contains_key(default) {
                let problem = format!("has no text in the template's own language {default:?}");
                self.error(&at, problem, "a text for it, or another locale at the top");
            }
            let mut contents = BTreeMap::new();
            for (locale, content) in locales {
                let at = format!("{at}.{}", excerpt(locale));
                if !code::is_locale(locale) {
                    self.error(at, "is no language", code::LOCALE);
                    continue;
                }
                contents.insert(locale.clone(), self.content(&at, channel, content));
            }
            built.insert(channel, contents);
        }
        built
    }

    fn content(&mut self, at: &str, channel: Channel, content: &Json) -> Content {
        let (fields, one_of) = fields_of(channel);
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let Some(content) = content.as_object() else {
            self.error(at, "is no object", names.join(", "));
            return Vec::new();
        };
        for name in content.keys() {
            if !names.contains(&name.as_str()) {
                self.error(
                    format!("{at}.{}", excerpt(name)),
                    "is not a field",
                    names.join(", "),
                );
            }
        }
        if !one_of.iter().any(|name| content.contains_key(*name)) {
            self.error(format!("{at}.{}", one_of[0]), "is missing", one_of.join(" or "));
        }
        let mut built = Vec::new();
        for (name, form) in fields {
            let Some(value) = content.get(*name) else { continue };
            let at = format!("{at}.{name}");
            if *form != Form::Json && !value.is_string() {
                self.error(at, "must be text", "text, in which {{ variables }} may stand");
                continue;
            }
            let escape = match (form, channel) {
                (Form::Html, _) => Escape::Html,
                (_, Channel::Slack) => Escape::Slack,
                _ => Escape::Plain,
            };
            built.push((*name, self.node(&at, value, escape)));
        }
        built
    }

    fn node(&mut self, at: &str, value: &Json, escape: Escape) -> Node {
        match value {
            Json::String(text) => self.text(at, text, escape),
            Json::Array(values) => {
                let nodes = values
                    .iter()
                    .enumerate()
                    .map(|(index, value)| self.node(&format!("{at}[{index}]"), value, escape));
                Node::List(nodes.collect())
            }
            Json::Object(values) => {
                let nodes = values.iter().map(|(key, value)| {
                    let node = self.node(&format!("{at}.{}", excerpt(key)), value, escape);
                    (key.clone(), node)
                });
                Node::Object(nodes.collect())
            }
            other => Node::Plain(other.clone()),
        }
    }

    fn text(&mut self, at: &str, text: &str, escape: Escape) -> Node {
        let plain = Node::Plain(json!(text));
        if !["{{", "{%", "{#"].iter().any(|open| text.contains(open)) {
            return plain;
        }
        self.texts += 1;
        if self.texts > TEXTS_MAX || text.len() > TEXT_BYTES_MAX {
            let problem = format!("is text number {} with {} bytes", self.texts, text.len());
            self.error(
                at,
                problem,
                format!("up to {TEXTS_MAX} texts of up to {TEXT_BYTES_MAX} bytes"),
            );
            return plain;
        }
        if let Err(problem) = syntax::check(text) {
            self.error(at, problem, "text with {{ variables }}, {% if %} and {% for %}");
            return plain;
        }
        let name = escape.name(self.texts);
        if let Err(error) = self.environment.add_template_owned(name.clone(), text.to_owned()) {
            let problem = format!("is no template: {}", describe(&error));
            self.error(at, problem, "text with {{ variables }}, {% if %} and {% for %}");
            return plain;
        }
        let Ok(template) = self.environment.get_template(&name) else {
            return plain;
        };
        let roots = template.undeclared_variables(false);
        let mut variables: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        variables.sort_unstable();
        self.variables.extend(roots);
        Node::Text { name, variables }
    }
}

#[cfg(test)]
mod tests;
