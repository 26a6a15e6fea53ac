//! Lays the sources of a configuration over each other, and finds what is wrong with them.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned, Value,
    de::{DeTable, DeValue},
};

use super::{ConfigError, Origin, nearest::nearest, secret::is_secret};

/// Most problems that are named: whoever gives a file of another program need not read a line for each of its own.
const PROBLEMS_MAX: usize = 64;

/// A value that is not a table (or is an empty one) and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The sources laid over each other so far.
pub(super) struct Layers {
    /// The default's leaves: the keys that exist, and their types.
    known: BTreeMap<Vec<String>, Value>,
    open: Vec<Vec<String>>,
    leaves: BTreeMap<Vec<String>, Leaf>,
    problems: Vec<String>,
}

impl Layers {
    pub(super) fn new(defaults: &str, open: &[&str]) -> Result<Self, ConfigError> {
        let table = DeTable::parse(defaults).map_err(|error| {
            let line = line_of(defaults, error.span().map_or(0, |span| span.start));
            ConfigError(vec![format!(
                "default configuration, line {line}: {}",
                error.message()
            )])
        })?;
        let mut known = BTreeMap::new();
        let mut problems = Vec::new();
        flatten(
            table.get_ref(),
            &mut Vec::new(),
            &mut |path, _, value| match value {
                Ok(value) => {
                    known.insert(path, value);
                }
                Err(problem) => problems.push(format!("default configuration: {}: {problem}", dotted(&path))),
            },
        );
        let leaves = known
            .iter()
            .map(|(path, value)| {
                let leaf = Leaf {
                    value: value.clone(),
                    origin: Origin::Default,
                };
                (path.clone(), leaf)
            })
            .collect();
        let open = open.iter().map(|table| path_of(table)).collect();
        Ok(Self {
            known,
            open,
            leaves,
            problems,
        })
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Lays the user's file on top.
    pub(super) fn file(&mut self, path: &Path, text: &str) {
        let ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
        let origin = |offset| Origin::File {
            path: path.to_owned(),
            line: ends.partition_point(|end| *end < offset) + 1,
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let at = origin(error.span().map_or(0, |span| span.start));
                return self.problem(format!("{at}: {}", error.message().trim_end()));
            }
        };
        let mut found = Vec::new();
        flatten(table.get_ref(), &mut Vec::new(), &mut |path, offset, value| {
            found.push((path, origin(offset), value));
        });
        for (path, origin, value) in found {
            match value {
                Ok(value) => self.set(origin, path, value),
                Err(problem) => self.problem(format!("{origin}: {}: {problem}", dotted(&path))),
            }
        }
    }

    /// Lays one key on top whose value is text, to be read by the type of the default.
    pub(super) fn text(&mut self, origin: Origin, key: &str, text: &str) {
        let path = path_of(key);
        let like = self.like(&path);
        match read_text(text, like) {
            Ok(value) => self.set(origin, path, value),
            Err(accepted) => {
                let found = if is_secret(key) {
                    "the value".to_owned()
                } else {
                    format!("{text:?}")
                };
                self.problem(format!("{origin}: {key}: {found} is not {accepted}"));
            }
        }
    }

    pub(super) fn finish(self) -> Result<BTreeMap<Vec<String>, Leaf>, ConfigError> {
        if self.problems.is_empty() {
            Ok(self.leaves)
        } else {
            Err(ConfigError(self.problems))
        }
    }

    fn set(&mut self, origin: Origin, path: Vec<String>, value: Value) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        let is_empty_table = value.as_table().is_some_and(toml::Table::is_empty);
        let has_children = self
            .leaves
            .keys()
            .any(|other| other.len() > path.len() && other.starts_with(&path));
        if let Err(problem) = self.check(&path, &value, has_children) {
            return self.problem(format!("{origin}: {problem}"));
        }
        if is_empty_table && has_children {
            return;
        }
        // An empty table on the way was a leaf so far.
        self.leaves
            .retain(|other, _| other.len() >= path.len() || !path.starts_with(other));
        self.leaves.insert(path, Leaf { value, origin });
    }

    fn check(&self, path: &[String], value: &Value, has_children: bool) -> Result<(), String> {
        if let Some(like) = self.known.get(path) {
            let is_float_as_integer = like.is_float() && value.is_integer();
            if !like.same_type(value) && !is_float_as_integer {
                return Err(format!(
                    "{} must be {}, such as {like}, not {}",
                    dotted(path),
                    article(like),
                    article(value)
                ));
            }
            return Ok(());
        }
        if self.is_open(path) {
            return Ok(());
        }
        if has_children {
            return if value.is_table() {
                Ok(())
            } else {
                Err(format!("{} is a table, not {}", dotted(path), article(value)))
            };
        }
        Err(self.unknown(path))
    }

    /// Whether the path is inside a table that takes the user's own keys.
    fn is_open(&self, path: &[String]) -> bool {
        (1..path.len()).any(|length| self.known.get(&path[..length]).is_some_and(Value::is_table))
            || self
                .open
                .iter()
                .any(|open| path.len() > open.len() && path.starts_with(open))
    }

    /// A value that shows the type of the one at `path`: the default, what the file says, or, in an open table, the same key
    /// of another entry: `providers.mine.auth_token` is text because `providers.twilio.auth_token` is.
    fn like(&self, path: &[String]) -> Option<&Value> {
        let is_alike = |other: &[String]| {
            self.open.iter().any(|open| {
                other.len() == path.len()
                    && path.len() > open.len() + 1
                    && path.starts_with(open)
                    && other.starts_with(open)
                    && other[open.len() + 1..] == path[open.len() + 1..]
            })
        };
        self.known
            .get(path)
            .or_else(|| self.leaves.get(path).map(|leaf| &leaf.value))
            .or_else(|| {
                self.known
                    .iter()
                    .find(|(other, _)| is_alike(other))
                    .map(|(_, value)| value)
            })
    }

    fn unknown(&self, path: &[String]) -> String {
        let key = dotted(path);
        let mut known: Vec<String> = self.known.keys().map(|path| dotted(path)).collect();
        // Tables can be misspelt too, when the user's is empty.
        known.extend(
            self.known
                .keys()
                .flat_map(|path| (1..path.len()).map(|length| dotted(&path[..length]))),
        );
        match nearest(&key, known.iter().map(String::as_str)) {
            Some(near) => format!("unknown key {key}; did you mean {near}?"),
            None => {
                let table = path.split_last().map_or(&[][..], |(_, table)| table);
                known.sort_unstable();
                known.dedup();
                let siblings: Vec<_> = known
                    .iter()
                    .filter_map(|known| known.strip_prefix(&format!("{}.", dotted(table))))
                    .filter(|rest| !rest.contains('.'))
                    .collect();
                if siblings.is_empty() {
                    format!("unknown key {key}; `posthaste config default` shows every key")
                } else {
                    format!("unknown key {key}; accepted there: {}", siblings.join(", "))
                }
            }
        }
    }
}

pub(super) fn path_of(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

/// The path as TOML writes it.
pub(super) fn dotted(path: &[String]) -> String {
    let bare = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    path.iter()
        .map(|part| {
            if bare(part) {
                part.clone()
            } else {
                Value::String(part.clone()).to_string()
            }
        })
        .collect::<Vec<_>>()
        .join(".")
}

type Found<'f> = &'f mut dyn FnMut(Vec<String>, usize, Result<Value, String>);

/// Says every leaf with its path and its place in the text.
fn flatten(table: &DeTable<'_>, path: &mut Vec<String>, found: Found<'_>) {
    for (key, value) in table {
        path.push(key.get_ref().clone().into_owned());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => flatten(inner, path, found),
            _ => found(path.clone(), key.span().start, plain(value)),
        }
        path.pop();
    }
}

fn plain(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(integer) => Value::Integer(
            i64::from_str_radix(integer.as_str(), integer.radix())
                .map_err(|_| "an integer beyond 64 bits".to_owned())?,
        ),
        DeValue::Float(float) => Value::Float(
            float
                .as_str()
                .parse()
                .map_err(|_| "a number that cannot be read".to_owned())?,
        ),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(datetime) => Value::Datetime(*datetime),
        DeValue::Array(array) => Value::Array(array.iter().map(plain).collect::<Result<_, _>>()?),
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(key, value)| Ok((key.get_ref().clone().into_owned(), plain(value)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// Reads text as a value of the same type as `like`; the error says what would be accepted.
fn read_text(text: &str, like: Option<&Value>) -> Result<Value, String> {
    let toml_value = || {
        toml::from_str::<toml::Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
    };
    let typed = |is: fn(&Value) -> bool| toml_value().filter(is);
    match like {
        Some(Value::String(_)) => Ok(Value::String(text.to_owned())),
        Some(Value::Integer(_)) => typed(Value::is_integer).ok_or_else(|| "an integer".to_owned()),
        Some(Value::Boolean(_)) => typed(Value::is_bool).ok_or_else(|| "true or false".to_owned()),
        Some(Value::Float(_)) => {
            typed(|value| value.is_float() || value.is_integer()).ok_or_else(|| "a number".to_owned())
        }
        Some(Value::Datetime(_)) => typed(Value::is_datetime).ok_or_else(|| "a date".to_owned()),
        // A plain list of words is what one writes into a variable.
        Some(Value::Array(_)) if !text.trim_start().starts_with('[') => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(|word| Value::String(word.to_owned()))
                .collect(),
        )),
        Some(Value::Array(_)) => {
            typed(Value::is_array).ok_or_else(|| "a list, such as a,b or [\"a\", \"b\"]".to_owned())
        }
        Some(Value::Table(_)) => Err("possible here: this is a table, set its keys".to_owned()),
        None => Ok(toml_value().unwrap_or_else(|| Value::String(text.to_owned()))),
    }
}

fn article(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
