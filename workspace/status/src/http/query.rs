//! The query parameters of `GET /events` and `GET /inbox/{recipient}`.
//!
//! `GET /events`: `status`, `channel`, `tenant`, `provider`, `correlationId`, `from` (accepted at or after), `until` (accepted
//! before; both RFC 3339 or milliseconds since the Unix epoch), `limit` (1 to 1000, default 50), `cursor` (`next` of the page
//! before, with the same filters). With `follow=true` what happens from now on is streamed instead of listed: `status`,
//! `channel`, `tenant`, `provider` (each of the step) and `correlationId` filter. `GET /inbox/{recipient}`: `tenant` (default: the caller's, or `default`), `limit`.

use std::fmt::Display;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use posthaste_event::{FieldError, Millis, failure::cut};
use posthaste_store::{PAGE_DOCUMENTS_MAX, Query};

/// Entries of a page that asks for no number.
pub(super) const LIMIT_DEFAULT: u32 = 50;

/// Longest piece of a name or value that is repeated in an error, in bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Most errors of one answer: a query can hold more mistakes than anybody wants to read.
const ERRORS_MAX: usize = 64;

/// First byte of a cursor, so that another form can be told from this one later.
const CURSOR_VERSION: u8 = 1;

/// The parameters of a request, taken out one by one; what is left is unknown.
pub struct Parameters {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Parameters {
    /// What a request gave.
    pub const fn new(given: Vec<(String, String)>) -> Self {
        Self {
            given,
            known: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Checks that there are none.
    ///
    /// # Errors
    /// One for each that is there.
    pub fn none(self) -> Result<(), Vec<FieldError>> {
        self.finish(())
    }

    /// Takes one out and reads it. `None` when it is not there, or cannot be read, which is noted.
    fn take<T>(
        &mut self,
        name: &'static str,
        accepted: impl Display,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        let place = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(place);
        let value_read = read(&value);
        if value_read.is_none() {
            self.refuse(name, &format!("{:?} cannot be used", shown(&value)), accepted);
        }
        value_read
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.take(name, "a text that is not empty", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        })
    }

    fn limit(&mut self) -> u32 {
        let accepted = format!("1 to {PAGE_DOCUMENTS_MAX}");
        self.take("limit", accepted, |text| {
            text.parse()
                .ok()
                .filter(|limit| (1..=PAGE_DOCUMENTS_MAX).contains(limit))
        })
        .unwrap_or(LIMIT_DEFAULT)
    }

    fn time(&mut self, name: &'static str) -> Option<Millis> {
        let accepted = "RFC 3339, such as 2026-11-20T12:00:00Z, or milliseconds since the Unix epoch";
        self.take(name, accepted, |text| {
            let millis = text.parse().ok();
            millis.or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()))
        })
    }

    fn refuse(&mut self, name: &str, problem: &str, accepted: impl Display) {
        if self.errors.len() == ERRORS_MAX {
            return;
        }
        self.errors
            .push(FieldError::new(name, problem, accepted.to_string()));
    }

    fn finish<T>(mut self, read: T) -> Result<T, Vec<FieldError>> {
        let accepted = if self.known.is_empty() {
            "no parameters".to_owned()
        } else {
            self.known.join(", ")
        };
        for (name, _) in std::mem::take(&mut self.given) {
            let problem = if self.known.contains(&name.as_str()) {
                "is given more than once"
            } else {
                "is not a parameter of this path"
            };
            self.refuse(&shown(&name), problem, &accepted);
        }
        if self.errors.is_empty() {
            Ok(read)
        } else {
            Err(self.errors)
        }
    }
}

/// What `GET /events` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Search {
    /// A page of events.
    Page(Query),
    /// What happens from now on.
    Follow(Query),
}

/// Reads the parameters of `GET /events`.
///
/// # Errors
/// One for each parameter that cannot be used.
pub fn search(mut given: Parameters) -> Result<Search, Vec<FieldError>> {
    let statuses = posthaste_event::Status::ALL
        .map(posthaste_event::Status::as_str)
        .join(", ");
    let channels = posthaste_event::Channel::ALL
        .map(posthaste_event::Channel::as_str)
        .join(", ");
    let mut query = Query {
        status: given.take("status", statuses, |text| text.parse().ok()),
        channel: given.take("channel", channels, |text| text.parse().ok()),
        tenant: given.text("tenant"),
        provider: given.text("provider"),
        correlation_id: given.text("correlationId"),
        ..Query::default()
    };
    let follow = given.take("follow", "true, false", |text| text.parse().ok());
    if follow == Some(true) {
        return given.finish(Search::Follow(query));
    }
    query.created_from = given.time("from");
    query.created_until = given.time("until");
    query.limit = given.limit();
    query.after = given.take("cursor", "`next` of the page before", read_cursor);
    given.finish(Search::Page(query))
}

/// Reads the parameters of `GET /inbox/{recipient}`: whose tenant, and how many.
///
/// # Errors
/// One for each parameter that cannot be used.
pub fn inbox(mut given: Parameters) -> Result<(Option<String>, u32), Vec<FieldError>> {
    let tenant = given.text("tenant");
    let limit = given.limit();
    given.finish((tenant, limit))
}

/// The place after which the next page begins, as text that nobody needs to understand.
pub fn cursor((at, id): &(Millis, String)) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(&at.to_be_bytes());
    bytes.extend_from_slice(id.as_bytes());
    BASE64.encode(bytes)
}

fn read_cursor(text: &str) -> Option<(Millis, String)> {
    let bytes = BASE64.decode(text).ok()?;
    let (version, rest) = bytes.split_first()?;
    let (at, id) = rest.split_first_chunk()?;
    let id = std::str::from_utf8(id).ok()?;
    (*version == CURSOR_VERSION).then(|| (i64::from_be_bytes(*at), id.to_owned()))
}

fn shown(text: &str) -> String {
    cut(text, SHOWN_BYTES_MAX)
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
