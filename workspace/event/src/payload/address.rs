//! Addresses that can be one: phone numbers, email addresses, URLs, header lines.

use serde_json::{Value as Json, json};
use url::Url;

use crate::fields::excerpt;

/// What is wrong, and what would be accepted.
pub(super) type Wrong = (String, &'static str);

/// Fewest and most digits of a phone number; E.164 allows 15, short national numbers have 7.
const DIGITS_MIN: usize = 7;
const DIGITS_MAX: usize = 15;

/// Longest part before the `@`, and longest domain, in bytes (RFC 5321, section 4.5.3.1).
/// Longest phone number, with all that stands between its digits.
pub(super) const PHONE_CHARS_MAX: usize = 64;

const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

pub(super) fn phone_number(text: &str) -> Result<(), Wrong> {
    const ACCEPTED: &str =
        "7 to 15 digits with an optional + before and spaces, dots, dashes, slashes or brackets between";
    let rest = text.trim().strip_prefix('+').unwrap_or(text.trim());
    if let Some(wrong) = rest
        .chars()
        .find(|c| !c.is_ascii_digit() && !" .-/()".contains(*c))
    {
        return Err((format!("holds {:?}, which no phone number has", wrong), ACCEPTED));
    }
    let digits = rest.bytes().filter(u8::is_ascii_digit).count();
    if (DIGITS_MIN..=DIGITS_MAX).contains(&digits) {
        Ok(())
    } else {
        Err((format!("has {digits} digits"), ACCEPTED))
    }
}

/// `a@example.com` or `Name <a@example.com>`.
pub(super) fn email(text: &str) -> Result<(), Wrong> {
    const ACCEPTED: &str = "an address such as a@example.com or Name <a@example.com>";
    let text = text.trim();
    let address = match text.strip_suffix('>') {
        Some(named) => {
            let (name, address) = named
                .rsplit_once('<')
                .ok_or_else(|| (format!("{:?} has a > without a <", excerpt(text)), ACCEPTED))?;
            if !is_display_name(name.trim()) {
                return Err((
                    "has a name with characters that must stand in quotes".to_owned(),
                    ACCEPTED,
                ));
            }
            address
        }
        None => text,
    };
    let problem = |what: &str| (format!("{:?} {what}", excerpt(address)), ACCEPTED);
    let (local, domain) = address.rsplit_once('@').ok_or_else(|| problem("has no @"))?;
    if local.len() > LOCAL_BYTES_MAX || !is_local_part(local) {
        return Err(problem("has no usable name before the @"));
    }
    if !is_domain(domain) {
        return Err(problem("has no domain after the @"));
    }
    Ok(())
}

fn is_display_name(name: &str) -> bool {
    if let Some(quoted) = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        return !quoted.contains('"') && !quoted.ends_with('\\');
    }
    !name.contains(['"', '<', '>', ',', ';', '@', ':', '\\', '[', ']'])
}

fn is_local_part(local: &str) -> bool {
    if let Some(quoted) = local.strip_prefix('"').and_then(|local| local.strip_suffix('"')) {
        return !quoted.is_empty() && !quoted.contains(['"', '\\', '<', '>']);
    }
    let is_atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    local
        .split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atom))
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let last_is_a_number = domain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    domain.len() <= DOMAIN_BYTES_MAX && domain.split('.').all(is_label) && !last_is_a_number
}

/// An address that is fetched or called: `http` or `https`, with a host, without credentials.
pub(super) fn web_url(text: &str) -> Result<(), Wrong> {
    const ACCEPTED: &str = "an http or https URL with a host and without user and password";
    let url = crate::web::url(text).map_err(|error| (format!("is not a URL: {error}"), ACCEPTED))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err((format!("has the scheme {:?}", excerpt(url.scheme())), ACCEPTED));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(("has no host".to_owned(), ACCEPTED));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("holds credentials".to_owned(), ACCEPTED));
    }
    if url.port() == Some(0) {
        return Err(("has port 0".to_owned(), ACCEPTED));
    }
    Ok(())
}

/// What opens on a tap: a web page, or a screen of an app by a scheme of its own.
pub(super) fn link(text: &str) -> Result<(), Wrong> {
    const ACCEPTED: &str = "an absolute URL; not javascript:, data:, file: or blob:";
    let url = Url::parse(text).map_err(|error| (format!("is not a URL: {error}"), ACCEPTED))?;
    if matches!(url.scheme(), "javascript" | "data" | "file" | "blob" | "vbscript") {
        return Err((format!("has the scheme {:?}", url.scheme()), ACCEPTED));
    }
    Ok(())
}

/// The name of a header line (RFC 9110, section 5.6.2; RFC 5322 allows more, no mail needs it).
pub(super) fn is_header_name(name: &str) -> bool {
    (1..=126).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What [`phone_number`] takes.
pub(super) fn phone_number_schema() -> Json {
    let most = DIGITS_MAX - 1;
    let least = DIGITS_MIN - 1;
    json!({
        "type": "string",
        "pattern": format!(r"^ *\+?[ ./()\-]*[0-9]([ ./()\-]*[0-9]){{{least},{most}}}[ ./()\-]*$"),
        "maxLength": PHONE_CHARS_MAX,
        "description": "7 to 15 digits, with an optional + before and spaces, dots, dashes, slashes or brackets between.",
    })
}

/// What [`email`] takes, as far as a schema can tell: no pattern knows all that the check does.
pub(super) fn email_schema(chars_max: usize) -> Json {
    json!({
        "type": "string",
        "format": "email-or-named",
        "maxLength": chars_max,
        "description": "An address, alone or with a name: `a@example.com` or `Name <a@example.com>`.",
    })
}

/// What [`web_url`] takes, as far as a schema can tell.
pub(super) fn web_url_schema(chars_max: usize) -> Json {
    json!({
        "type": "string",
        "format": "web-url",
        "maxLength": chars_max,
        "description": "An http or https URL with a host and without user and password.",
    })
}

/// What [`link`] takes, as far as a schema can tell.
pub(super) fn link_schema(chars_max: usize) -> Json {
    json!({
        "type": "string",
        "format": "link",
        "maxLength": chars_max,
        "description": "An absolute URL, of an app's own scheme too; not javascript:, data:, file:, blob: or vbscript:.",
    })
}
