//! A provider file: what it holds, and how it is checked.
//!
//! Everything is checked when it is loaded, down to building a request from sample payloads, so that a mistake stops the start
//! and names the file, the line and what would be right. `providers/README.md` explains the format to those who write one.

use std::{collections::BTreeMap, fs, io, path::Path};

use posthaste_event::{Channel, payload::Disposition};
use serde::Deserialize;

use crate::{
    answer::{AnswerFile, Reading},
    body::{self, Body},
    settings::read_bounded,
    template::{TemplateError, Text},
};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FileError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    channels: Vec<Channel>,
    base_url: Option<String>,
    #[serde(default)]
    settings: BTreeMap<String, Setting>,
    auth: AuthFile,
    request: RequestFile,
    answer: AnswerFile,
    sandbox: Option<SandboxFile>,
}

/// A value that an account of this provider has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// What it is, for error messages.
    pub(crate) about: String,
    /// Never shown, logged, or visible to templates outside of `auth` and `request.url`.
    #[serde(default)]
    pub(crate) secret: bool,
    /// Must be given before this provider's real interface is used.
    #[serde(default)]
    pub(crate) required: bool,
    /// Used when it is not given.
    pub(crate) default: Option<String>,
    /// Used at the sandbox when it is not given.
    pub(crate) sandbox: Option<String>,
}

/// How requests prove who sends them.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum AuthFile {
    None,
    Basic {
        username: String,
        password: String,
    },
    Bearer {
        token: String,
    },
    Header {
        name: String,
        value: String,
    },
    GoogleServiceAccount {
        credentials: String,
        scope: String,
    },
    JwtEs256 {
        key: String,
        key_id: String,
        issuer: String,
        #[serde(default)]
        refused_codes: Vec<String>,
    },
    StandardWebhooks {
        secret: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    #[serde(default = "post")]
    method: String,
    path: Option<String>,
    url: Option<String>,
    #[serde(default)]
    http2: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    form: Option<BTreeMap<String, String>>,
    #[serde(default)]
    files: BTreeMap<String, Disposition>,
    json: Option<toml::Value>,
}

fn post() -> String {
    "POST".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SandboxFile {
    path: String,
}

/// How requests prove who sends them.
#[derive(Debug)]
pub(crate) enum Auth {
    None,
    Basic {
        username: Text,
        password: Text,
    },
    Bearer(Text),
    Header {
        name: String,
        value: Text,
    },
    /// The setting that holds the service account's JSON key, and the scope to ask for.
    GoogleServiceAccount {
        credentials: String,
        scope: String,
    },
    /// The setting that holds the private key, what the tokens say, and the error codes that mean that a token is not taken.
    JwtEs256 {
        key: String,
        key_id: Text,
        issuer: Text,
        refused_codes: Vec<String>,
    },
    /// The setting that holds the secrets.
    StandardWebhooks {
        secret: String,
    },
}

/// Where requests go.
#[derive(Debug)]
pub(crate) enum Target {
    /// To the account's base address and this path.
    Path(Text),
    /// To this address, which comes from the account.
    Url(Text),
    /// To this address, which comes from whoever made the event: only what the guard lets through.
    ForeignUrl(Text),
}

/// A provider, as its file describes it.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) channels: Vec<Channel>,
    pub(crate) base_url: Option<String>,
    pub(crate) settings: BTreeMap<String, Setting>,
    pub(crate) auth: Auth,
    pub(crate) method: reqwest::Method,
    pub(crate) target: Target,
    /// HTTP/2 without asking, as the interface speaks nothing else.
    pub(crate) http2: bool,
    pub(crate) headers: Vec<(String, Text)>,
    pub(crate) body: Body,
    pub(crate) reading: Reading,
    /// Where the sandbox speaks this provider's interface: a base for `Target::Path`, the whole path for the others.
    pub(crate) sandbox_path: Text,
    sandbox_prefix: Option<String>,
}

/// A mistake at a place in the file, by the path of keys that leads there.
pub(crate) type Misplaced = (Vec<String>, TemplateError);

pub(crate) fn at<E: Into<TemplateError>>(path: &[&str]) -> impl Fn(E) -> Misplaced {
    let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
    move |error| (path.clone(), error.into())
}

impl Description {
    /// Reads and checks a file, and tries it with samples.
    pub(crate) fn load(file: &str, text: &str) -> Result<Self, FileError> {
        let description = Self::parse(file, text)?;
        description.try_samples(file, text)?;
        Ok(description)
    }

    /// Where the sandbox speaks the interface that `request.path` is added to, if it does.
    pub(crate) fn sandbox_prefix(&self) -> Option<&str> {
        self.sandbox_prefix.as_deref()
    }

    fn parse(file: &str, text: &str) -> Result<Self, FileError> {
        let problem = |line, problem: String| FileError {
            file: file.to_owned(),
            line,
            problem,
        };
        let parsed: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            problem(line, error.message().to_owned())
        })?;
        Self::check(parsed)
            .map_err(|(path, error)| problem(line_of(text, &path), format!("{}: {error}", path.join("."))))
    }

    /// Reads every `*.toml` of a folder, in the order of their names.
    pub(crate) fn load_folder(folder: &Path) -> Result<Vec<Self>, FileError> {
        let unreadable = |path: &Path, error: &io::Error| FileError {
            file: path.display().to_string(),
            line: 1,
            problem: format!("cannot be read: {error}"),
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
            let path = entry.map_err(|error| unreadable(folder, &error))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths
            .iter()
            .map(|path| {
                let text = read_bounded(path).map_err(|error| unreadable(path, &error))?;
                Self::load(&path.display().to_string(), &text)
            })
            .collect()
    }

    fn check(file: File) -> Result<Self, Misplaced> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !is_name(&file.name) {
            return Err(at(&["name"])(TemplateError(
                "is no name; accepted: small letters, digits and _".to_owned(),
            )));
        }
        if file.channels.is_empty() {
            return Err(at(&["channels"])(TemplateError(format!(
                "is empty; accepted: some of {}",
                Channel::ALL.map(Channel::as_str).join(", ")
            ))));
        }
        for name in file.settings.keys() {
            if !is_name(name) || name.ends_with("_file") || RESERVED.contains(&name.as_str()) {
                return Err(at(&["settings", name])(TemplateError(format!(
                    "cannot be a setting's name; accepted: small letters, digits and _, not ending in _file, none of {}",
                    RESERVED.join(", ")
                ))));
            }
        }
        let method = reqwest::Method::from_bytes(file.request.method.as_bytes())
            .ok()
            .filter(|method| ["POST", "PUT", "PATCH"].contains(&method.as_str()))
            .ok_or_else(|| TemplateError("is no method; accepted: POST, PUT, PATCH".to_owned()))
            .map_err(at(&["request", "method"]))?;
        let target = checked_target(&file)?;
        let headers = headers(&file.request.headers)?;
        let sandbox_prefix = file.sandbox.map(|sandbox| sandbox.path);
        Ok(Self {
            auth: auth(file.auth, &file.settings)?,
            method,
            target,
            http2: file.request.http2,
            headers,
            body: body::body(file.request.form, file.request.files, file.request.json)?,
            reading: Reading::parse(file.answer).map_err(|(mut path, error)| {
                path.insert(0, "answer".to_owned());
                (path, error)
            })?,
            sandbox_path: Text::parse(sandbox_prefix.as_deref().unwrap_or_default())
                .map_err(at(&["sandbox", "path"]))?,
            sandbox_prefix,
            name: file.name,
            channels: file.channels,
            base_url: file.base_url,
            settings: file.settings,
        })
    }
}

/// Keys that every account has.
pub(crate) const RESERVED: [&str; 4] = ["kind", "base_url", "concurrency_max", "timeout_ms"];

/// Where requests go, with all that must be there for it.
fn checked_target(file: &File) -> Result<Target, Misplaced> {
    let target = target(file.request.path.as_deref(), file.request.url.as_deref())?;
    if matches!(target, Target::Path(_)) {
        let base = file
            .base_url
            .as_deref()
            .ok_or_else(|| TemplateError("is missing; `request.path` is added to it".to_owned()))
            .map_err(at(&["base_url"]))?;
        check_base_url(base).map_err(at(&["base_url"]))?;
    } else if file.request.http2 {
        return Err(at(&["request", "http2"])(TemplateError(
            "goes with `path` only".to_owned(),
        )));
    }
    Ok(target)
}

fn headers(file: &BTreeMap<String, String>) -> Result<Vec<(String, Text)>, Misplaced> {
    let mut headers = Vec::new();
    for (name, value) in file {
        let path = ["request", "headers", name];
        if name != "*" && reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(at(&path)(TemplateError("is no header name".to_owned())));
        }
        headers.push((name.clone(), Text::parse(value).map_err(at(&path))?));
    }
    Ok(headers)
}

fn target(path: Option<&str>, url: Option<&str>) -> Result<Target, Misplaced> {
    match (path, url) {
        (Some(path), None) => {
            let text = Text::parse(path).map_err(at(&["request", "path"]))?;
            if !path.starts_with('/') {
                return Err(at(&["request", "path"])(TemplateError(
                    "must begin with /".to_owned(),
                )));
            }
            Ok(Target::Path(text))
        }
        (None, Some(url)) => {
            let text = Text::parse(url).map_err(at(&["request", "url"]))?;
            Ok(if text.reads_message() {
                Target::ForeignUrl(text)
            } else {
                Target::Url(text)
            })
        }
        _ => Err(at(&["request"])(TemplateError(
            "needs either `path` or `url`".to_owned(),
        ))),
    }
}

/// A base address: `http` or `https`, a host, no query or fragment that a path could not be added to.
pub(crate) fn check_base_url(text: &str) -> Result<(), TemplateError> {
    let accepted = "accepted: an address such as https://api.example.com, without query, fragment and user";
    let url = url::Url::parse(text)
        .map_err(|error| TemplateError(format!("is no address ({error}); {accepted}")))?;
    let plain = ["http", "https"].contains(&url.scheme())
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain {
        Ok(())
    } else {
        Err(TemplateError(format!("cannot be a base address; {accepted}")))
    }
}

fn auth(file: AuthFile, settings: &BTreeMap<String, Setting>) -> Result<Auth, Misplaced> {
    let text = |key: &str, source: &str| Text::parse(source).map_err(at(&["auth", key]));
    let setting = |key: &str, name: String| {
        if settings.get(&name).is_some_and(|setting| setting.secret) {
            return Ok(name);
        }
        Err(at(&["auth", key])(TemplateError(
            "must be the name of a secret setting".to_owned(),
        )))
    };
    Ok(match file {
        AuthFile::None => Auth::None,
        AuthFile::Basic { username, password } => Auth::Basic {
            username: text("username", &username)?,
            password: text("password", &password)?,
        },
        AuthFile::Bearer { token } => Auth::Bearer(text("token", &token)?),
        AuthFile::Header { name, value } => {
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(at(&["auth", "name"])(TemplateError(
                    "is no header name".to_owned(),
                )));
            }
            Auth::Header {
                name,
                value: text("value", &value)?,
            }
        }
        AuthFile::GoogleServiceAccount { credentials, scope } => Auth::GoogleServiceAccount {
            credentials: setting("credentials", credentials)?,
            scope,
        },
        AuthFile::JwtEs256 {
            key,
            key_id,
            issuer,
            refused_codes,
        } => Auth::JwtEs256 {
            key: setting("key", key)?,
            key_id: text("key_id", &key_id)?,
            issuer: text("issuer", &issuer)?,
            refused_codes,
        },
        AuthFile::StandardWebhooks { secret } => Auth::StandardWebhooks {
            secret: setting("secret", secret)?,
        },
    })
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// The line of the deepest key of `path` that the file has.
pub(crate) fn line_of(text: &str, path: &[String]) -> usize {
    use toml::de::{DeTable, DeValue};
    let Ok(table) = DeTable::parse(text) else {
        return 1;
    };
    let mut offset = 0;
    let mut place = DeValue::Table(table.into_inner());
    for key in path {
        let next = match &place {
            DeValue::Table(table) => table
                .iter()
                .find(|(name, _)| name.as_ref() == key)
                .map(|(name, value)| (name.span().start, value.as_ref().clone())),
            DeValue::Array(items) => key
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get(index))
                .map(|value| (value.span().start, value.as_ref().clone())),
            _ => None,
        };
        match next {
            Some((start, value)) => (offset, place) = (start, value),
            None => break,
        }
    }
    line_at(text, offset)
}
