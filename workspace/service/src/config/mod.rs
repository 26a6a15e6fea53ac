//! The configuration: a commented default that is compiled in, and what a file, the environment and the command line change.
//!
//! The default is the manual: every key is there with its comment, so a key that is not there does not exist, and its
//! value's type is the type that is accepted. Only open tables take other keys too: those that are empty in the default, and
//! those that the program names, such as `providers`, where the user names accounts.
//! Later sources win: default, file, environment (`POSTHASTE_SECTION__KEY`), command line. Where each value came from is
//! kept, so that an error names the file and line, the variable or the option that is wrong.

mod layers;
mod nearest;
mod secret;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use posthaste_event::FieldError;
use serde::de::DeserializeOwned;
use toml::Value;

use layers::{Layers, Leaf, dotted, path_of};

/// Start of every environment variable that sets a key.
pub const ENVIRONMENT_PREFIX: &str = "POSTHASTE_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The compiled-in default.
    Default,
    /// A line of the user's file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// An option of the command line, such as `--listen`.
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default configuration"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Option(name) => write!(f, "option {name}"),
        }
    }
}

/// What is wrong with a configuration: one line per problem, each naming where it stands and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A key that the command line sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The option as the user wrote it, such as `--listen`.
    pub option: String,
    /// The key, such as `service.listen`.
    pub key: String,
    /// The value as text; read by the type of the key's default.
    pub value: String,
}

impl Override {
    /// The option `option` sets `key` to `value`.
    pub fn new(option: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            option: option.into(),
            key: key.into(),
            value: value.into(),
        }
    }
}

/// One key of the configuration in force, for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, such as `service.listen`.
    pub key: String,
    /// Its value as TOML; secrets are masked.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// What a configuration is put together from.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// The commented default, as TOML text.
    pub defaults: &'a str,
    /// Tables that take keys which the default does not have; whoever reads them checks them.
    pub open: &'a [&'a str],
    /// The user's file.
    pub file: Option<&'a Path>,
    /// Names and values of variables. Those without [`ENVIRONMENT_PREFIX`] or without `__` are not ours.
    pub environment: Vec<(String, String)>,
    /// What the command line sets.
    pub overrides: &'a [Override],
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub struct Configuration {
    leaves: BTreeMap<Vec<String>, Leaf>,
}

impl Configuration {
    /// Puts the sources together.
    ///
    /// # Errors
    /// Every problem of every source at once: a file that cannot be read, a key that does not exist (with the one that was
    /// probably meant), a value of another type than the default's.
    pub fn load(sources: Sources<'_>) -> Result<Self, ConfigError> {
        let mut layers = Layers::new(sources.defaults, sources.open)?;
        if let Some(path) = sources.file {
            match read(path) {
                Ok(text) => layers.file(path, &text),
                Err(error) => layers.problem(format!("{}: {}", path.display(), unreadable(&error))),
            }
        }
        for (name, value) in sources.environment {
            // Without `__` it is no key: Kubernetes sets POSTHASTE_SERVICE_HOST and the like for a service of that name.
            if let Some(key) = name
                .strip_prefix(ENVIRONMENT_PREFIX)
                .filter(|key| key.contains("__"))
            {
                let key = key.to_ascii_lowercase().replace("__", ".");
                layers.text(Origin::Environment(name), &key, &value);
            }
        }
        for Override { option, key, value } in sources.overrides {
            layers.text(Origin::Option(option.clone()), key, value);
        }
        layers.finish().map(|leaves| Self { leaves })
    }

    /// Reads one table, such as `dispatcher` or `broker.kafka`.
    ///
    /// # Errors
    /// A value that the settings do not accept, with the place where it was set.
    pub fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T, ConfigError> {
        let prefix: Vec<&str> = section.split('.').collect();
        // Rendered again so that the span of an error leads to the leaf, and the leaf to the file and line it came from.
        let mut text = String::new();
        let mut ends: Vec<(usize, &Vec<String>, &Leaf)> = Vec::new();
        for (path, leaf) in &self.leaves {
            if path.len() > prefix.len() && path.iter().zip(&prefix).all(|(a, b)| a == b) {
                text.push_str(&format!("{} = {}\n", dotted(&path[prefix.len()..]), leaf.value));
                ends.push((text.len(), path, leaf));
            }
        }
        toml::from_str(&text).map_err(|error| {
            let at = error
                .span()
                .filter(|span| span.len() < text.trim_end().len() || ends.len() == 1)
                .and_then(|span| ends.iter().find(|(end, ..)| span.start < *end));
            ConfigError(vec![match at {
                Some((_, path, leaf)) => {
                    let key = dotted(path);
                    let what = if secret::is_secret(&key) {
                        "the value is not accepted"
                    } else {
                        error.message()
                    };
                    format!("{}: {key}: {what}", leaf.origin)
                }
                None => format!("[{section}]: {}", error.message()),
            }])
        })
    }

    /// The error for a value that was read but cannot work, with the place where it was set.
    pub fn refuse(&self, error: &FieldError) -> ConfigError {
        let path = path_of(&error.field);
        let origin = self
            .leaves
            .get(&path)
            .map_or(Origin::Default, |leaf| leaf.origin.clone());
        ConfigError(vec![format!("{origin}: {error}")])
    }

    /// Every key with its value and where it came from, in order of the keys. Secrets are masked.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.leaves.iter().map(|(path, leaf)| {
            let key = dotted(path);
            Entry {
                value: secret::shown(&key, &leaf.value),
                origin: leaf.origin.clone(),
                key,
            }
        })
    }

    /// The value of one key, and where it came from.
    pub fn value(&self, key: &str) -> Option<(&Value, &Origin)> {
        let path = path_of(key);
        self.leaves.get(&path).map(|leaf| (&leaf.value, &leaf.origin))
    }
}

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let problem = format!("it has more than {FILE_BYTES_MAX} bytes, and is no configuration");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::InvalidData => "not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
