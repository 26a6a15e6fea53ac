//! Files that go with an email: their bytes in base64, or where they are fetched from when the email is sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json, value::RawValue};

use super::address;
use crate::{
    fields::{Fields, Text, excerpt, kind_of},
    schema,
};

/// Most attachments of one email that any configuration may allow.
pub const ATTACHMENTS_MAX: usize = 100;

/// Longest file name, in characters.
const FILENAME_CHARS_MAX: usize = 200;

/// Longest address, in characters.
const URL_CHARS_MAX: usize = 2_048;

/// Longest part of a media type (RFC 6838, section 4.2), in characters.
const TYPE_CHARS_MAX: usize = 127;

/// Longest Content-ID, in characters.
const CONTENT_ID_CHARS_MAX: usize = 128;

/// What a file is taken for whose type nobody said.
const TYPE_UNKNOWN: &str = "application/octet-stream";

/// Media types of what holds further messages: they may not be in base64 (RFC 2045, section 6.4).
const TYPES_REFUSED: [&str; 2] = ["multipart/", "message/"];

const FILENAME_ACCEPTED: &str =
    "one line of 1 to 200 characters without slashes and marks that turn its direction, such as invoice.pdf";
const TYPE_ACCEPTED: &str =
    "a media type without parameters such as application/pdf, neither multipart nor message";
const BASE64_ACCEPTED: &str = "base64 (RFC 4648, section 4) with its padding, without line breaks";
const CONTENT_ID_ACCEPTED: &str = "1 to 128 letters, digits and ._+@-";

/// What a mail program is to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    /// Offer it.
    Attachment,
    /// Show it within the text.
    Inline,
}

impl Disposition {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Attachment, Self::Inline];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attachment => "attachment",
            Self::Inline => "inline",
        }
    }
}

/// A file that goes with an email. It has `content` or `url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// What it is called.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Where it is fetched from when the email is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What HTML calls it: `<img src="cid:...">`. Only with [`Disposition::Inline`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
    /// What is done with it.
    pub disposition: Disposition,
}

impl Attachment {
    /// How many bytes it has, if they are here.
    pub fn bytes_len(&self) -> Option<usize> {
        self.content.as_deref().map(decoded_len)
    }

    /// Its bytes, if they are here.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.content.as_deref()?).ok()
    }

    /// The same with these bytes, instead of an address.
    #[must_use]
    pub fn with_bytes(&self, bytes: &[u8]) -> Self {
        Self {
            content: Some(STANDARD.encode(bytes)),
            url: None,
            filename: self.filename.clone(),
            content_type: self.content_type.clone(),
            content_id: self.content_id.clone(),
            disposition: self.disposition,
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let filename = fields
            .required("filename", FILENAME_ACCEPTED)
            .and_then(|value| fields.as_text("filename", value, Text::line(FILENAME_CHARS_MAX)))
            .filter(|name| {
                let problem = filename_problem(name);
                if let Some(problem) = &problem {
                    fields.error("filename", problem.as_str(), FILENAME_ACCEPTED);
                }
                problem.is_none()
            });
        let line = Text::line(2 * TYPE_CHARS_MAX + 1);
        let content_type = fields.checked("contentType", line, |text| match is_media_type(text) {
            true => Ok(()),
            false => Err((
                format!("{:?} is no media type of a file", excerpt(text)),
                TYPE_ACCEPTED,
            )),
        });
        let content_value = fields.take("content");
        let content = content_value.and_then(|value| content_of(fields, value));
        let url_value = fields.take("url");
        let url = url_value
            .and_then(|value| fields.as_text("url", value, Text::line(URL_CHARS_MAX)))
            .filter(|text| match address::web_url(text) {
                Ok(()) => true,
                Err((problem, accepted)) => {
                    fields.error("url", problem, accepted);
                    false
                }
            });
        match (content_value, url_value) {
            (None, None) => fields.error(
                "content",
                "is missing",
                "the file in base64; or its address in url",
            ),
            (Some(_), Some(_)) => {
                fields.error("url", "cannot be given together with content", "one of the two")
            }
            _ => {}
        }
        let line = Text::line(CONTENT_ID_CHARS_MAX);
        let content_id = fields.checked("contentId", line, |text| match is_content_id(text) {
            true => Ok(()),
            false => Err(("holds other characters".to_owned(), CONTENT_ID_ACCEPTED)),
        });
        let disposition = disposition(fields, content_id.is_some());
        Some(Self {
            filename: filename?.into_owned(),
            content_type: content_type.map_or_else(|| TYPE_UNKNOWN.to_owned(), Into::into),
            content,
            url: url.map(Into::into),
            content_id: content_id.map(Into::into),
            disposition: disposition?,
        })
    }

    fn schema() -> Json {
        let refused: Vec<&str> = TYPES_REFUSED.map(|kind| kind.trim_end_matches('/')).to_vec();
        let part = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+\-]{0,126}";
        let any_case = refused.iter().map(|kind| {
            let each = kind.chars().map(|c| format!("[{}{c}]", c.to_ascii_uppercase()));
            each.collect::<String>()
        });
        let any_case = any_case.collect::<Vec<_>>().join("|");
        let mut file = schema::object([
            ("filename", true, filename_schema()),
            (
                "contentType",
                false,
                schema::described(
                    json!({
                        "type": "string",
                        "pattern": format!("^{part}/{part}$"),
                        "not": {"type": "string", "pattern": format!("^({any_case})/")},
                    }),
                    "Its media type, without parameters; `application/octet-stream` unless given.",
                ),
            ),
            (
                "content",
                false,
                schema::described(
                    json!({
                        "type": "string",
                        "contentEncoding": "base64",
                        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)$",
                        "minLength": 4,
                    }),
                    "The file, in base64 with its padding, without line breaks.",
                ),
            ),
            (
                "url",
                false,
                schema::described(
                    address::web_url_schema(URL_CHARS_MAX),
                    "Instead of `content`: where the file is fetched from when the email is sent. Only public addresses; redirects are not followed.",
                ),
            ),
            (
                "contentId",
                false,
                schema::described(
                    schema::name("._+@-", CONTENT_ID_CHARS_MAX),
                    "What the HTML calls it, as in `<img src=\"cid:logo\">`; each once.",
                ),
            ),
            (
                "disposition",
                false,
                schema::described(
                    schema::one_of(Disposition::ALL.map(Disposition::as_str)),
                    "Whether it is offered or shown within the text; `inline` if it has a `contentId`, else `attachment`.",
                ),
            ),
        ]);
        file["oneOf"] = super::some_of(["content", "url"]);
        file["not"] = json!({
            "properties": {"contentId": {"type": "string"}, "disposition": {"const": "attachment"}},
            "required": ["contentId", "disposition"],
        });
        file
    }
}

/// The attachments as [`read`] takes them.
pub(super) fn schema() -> Json {
    schema::described(
        schema::list(Attachment::schema(), 0, ATTACHMENTS_MAX),
        "Files that go with it.",
    )
}

/// Reads the attachments of an email. What this version does not know is refused only `strictly`.
pub(super) fn read(fields: &mut Fields<'_>, strictly: bool) -> Vec<Attachment> {
    const NAME: &str = "attachments";
    let Some(value) = fields.take(NAME) else {
        return Vec::new();
    };
    let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
        let problem = format!("must be a list, not {}", kind_of(value.get()));
        fields.error(NAME, problem, "a list of files, each an object");
        return Vec::new();
    };
    if values.len() > ATTACHMENTS_MAX {
        let problem = format!("has {} files", values.len());
        fields.error(NAME, problem, format!("up to {ATTACHMENTS_MAX} files"));
        return Vec::new();
    }
    let mut files: Vec<Attachment> = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let Some(file) = one(fields, index, value, strictly) else {
            continue;
        };
        let same = |other: &&Attachment| file.content_id.is_some() && other.content_id == file.content_id;
        if files.iter().find(same).is_some() {
            fields.error(
                &format!("{NAME}[{index}].contentId"),
                "is another attachment's, too",
                "each once",
            );
        }
        files.push(file);
    }
    files
}

fn one(fields: &mut Fields<'_>, index: usize, value: &RawValue, strictly: bool) -> Option<Attachment> {
    let place = format!("attachments[{index}]");
    if kind_of(value.get()) != "an object" {
        let problem = format!("must be an object, not {}", kind_of(value.get()));
        fields.error(&place, problem, "an object with filename, and content or url");
        return None;
    }
    let (file, errors) = match Fields::of("", value.get()) {
        Ok(mut own) => {
            let file = Attachment::read(&mut own);
            if strictly {
                own.refuse_unknown();
            }
            (file, own.finish().err().unwrap_or_default())
        }
        Err(error) => (None, vec![error]),
    };
    let is_whole = errors.is_empty();
    for error in errors {
        fields.error(&format!("{place}.{}", error.field), error.problem, error.accepted);
    }
    file.filter(|_| is_whole)
}

fn content_of(fields: &mut Fields<'_>, value: &RawValue) -> Option<String> {
    let Ok(text) = serde_json::from_str::<String>(value.get()) else {
        let problem = format!("must be text, not {}", kind_of(value.get()));
        fields.error("content", problem, BASE64_ACCEPTED);
        return None;
    };
    let problem = if text.is_empty() {
        "is empty"
    } else if STANDARD.decode(&text).is_err() {
        "is not base64"
    } else {
        return Some(text);
    };
    fields.error("content", problem, BASE64_ACCEPTED);
    None
}

fn disposition(fields: &mut Fields<'_>, has_id: bool) -> Option<Disposition> {
    let Some(value) = fields.take("disposition") else {
        return Some(if has_id {
            Disposition::Inline
        } else {
            Disposition::Attachment
        });
    };
    let text = fields.as_text("disposition", value, Text::line(32))?;
    let Some(found) = Disposition::ALL.into_iter().find(|known| known.as_str() == text) else {
        let problem = format!("{:?} is unknown", excerpt(&text));
        fields.error(
            "disposition",
            problem,
            Disposition::ALL.map(Disposition::as_str).join(", "),
        );
        return None;
    };
    if has_id && found == Disposition::Attachment {
        fields.error(
            "contentId",
            "is given for what is not shown inline",
            "disposition inline, or no contentId",
        );
    }
    Some(found)
}

/// Marks that make a text run the other way, so that `exe.pdf` can be the end of what a program is called; and ends of lines.
fn misleads(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn filename_problem(name: &str) -> Option<String> {
    if let Some(wrong) = name.chars().find(|c| matches!(c, '/' | '\\')) {
        return Some(format!("holds {wrong:?}: it would be a path"));
    }
    if name.chars().any(misleads) {
        return Some("holds a mark that turns the direction of the text or ends a line".to_owned());
    }
    name.chars()
        .all(|c| c == '.' || c.is_whitespace())
        .then(|| "is a folder's name".to_owned())
}

fn filename_schema() -> Json {
    let refused = r"\u0000-\u001f\u007f-\u009f/\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069";
    schema::described(
        json!({
            "type": "string",
            "pattern": format!(r"^[^{refused}]*[^\s.{refused}][^{refused}]*$"),
            "minLength": 1,
            "maxLength": FILENAME_CHARS_MAX,
        }),
        "What it is called, without folders.",
    )
}

fn is_media_type(text: &str) -> bool {
    let is_part = |part: &str| {
        (1..=TYPE_CHARS_MAX).contains(&part.len())
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let lower = text.to_ascii_lowercase();
    text.split_once('/')
        .is_some_and(|(kind, sub)| is_part(kind) && is_part(sub))
        && !TYPES_REFUSED.iter().any(|refused| lower.starts_with(refused))
}

fn is_content_id(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._+@-".contains(&byte))
}

/// How many bytes a text in base64 stands for.
fn decoded_len(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|byte| *byte == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

/// Takes the contents of attachments out of an email's payload that is only to be looked at: `contentBytes` says how many there were.
pub fn leave_contents_out(payload: &mut Json) {
    let files = payload.get_mut("attachments").and_then(Json::as_array_mut);
    for file in files.into_iter().flatten() {
        let Some(members) = file.as_object_mut() else {
            continue;
        };
        if let Some(Json::String(content)) = members.get("content") {
            let bytes = decoded_len(content);
            members.remove("content");
            members.insert("contentBytes".to_owned(), json!(bytes));
        }
    }
}

#[cfg(test)]
mod tests;
