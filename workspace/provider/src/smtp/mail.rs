//! From an email event to a message on the wire: envelope and MIME text.
//!
//! Whatever could end a line or a command is refused here, not escaped: payloads are checked at intake, and this is the second
//! time, for records that somebody else wrote.

use lettre::{
    Address, Message as Mime,
    address::Envelope,
    message::{
        Mailbox, Mailboxes, MessageBuilder,
        header::{self, HeaderName, HeaderValue},
    },
};
use posthaste_event::{
    Millis,
    payload::{Addresses, Email},
};

use super::parts::{self, Part};
use crate::Message;

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipient {
    /// Where it stands in the event, such as `to[0]`: what failures call it.
    pub(super) field: String,
    /// The address, with its domain in ASCII.
    pub(super) address: String,
}

/// A message ready to be handed to a server.
#[derive(Debug)]
pub(super) struct Mail {
    /// Where bounces go.
    pub(super) sender: String,
    /// Everyone, each once.
    pub(super) recipients: Vec<Recipient>,
    /// Headers and body, lines ending in CRLF, the last one too; dots not yet doubled.
    pub(super) text: Vec<u8>,
    /// An address is not ASCII, so that the server must speak SMTPUTF8 (RFC 6531).
    pub(super) utf8: bool,
}

impl Mail {
    /// Makes the message. `now` becomes its date.
    ///
    /// # Errors
    /// The field that cannot be sent, and why. Never quotes a value.
    pub(super) fn compose(
        email: &Email,
        message: &Message,
        return_path: Option<&str>,
        now: Millis,
    ) -> Result<Self, String> {
        let people = People::read(email)?;
        let recipients = people.recipients();
        let sender = match return_path {
            Some(path) => path.to_owned(),
            None => people.from.email.to_string(),
        };
        let date = HeaderValue::new(HeaderName::new_from_ascii_str("Date"), date(now)?);
        let builder = people.headers(Mime::builder().raw_header(date))?;
        let builder = headers(builder, email, message, people.from.email.domain())?;
        let mime = match parts::whole(email, &message.idempotency_key)? {
            Part::One(part) => builder.singlepart(part),
            Part::Several(part) => builder.multipart(part),
        };
        let mut text = mime
            .map_err(|error| format!("the message cannot be made: {error}"))?
            .formatted();
        if !text.ends_with(b"\r\n") {
            text.extend_from_slice(b"\r\n");
        }
        let utf8 =
            !sender.is_ascii() || !text.is_ascii() || recipients.iter().any(|one| !one.address.is_ascii());
        Ok(Self {
            sender,
            recipients,
            text,
            utf8,
        })
    }
}

/// Everyone whom an event names.
struct People {
    from: Mailbox,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    reply_to: Option<Mailbox>,
}

impl People {
    fn read(email: &Email) -> Result<Self, String> {
        let several = |field: &str, texts: Option<&Addresses>| {
            let texts = texts.map_or(&[][..], Addresses::as_slice).iter().enumerate();
            texts
                .map(|(index, text)| mailbox(&format!("{field}[{index}]"), text))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            from: mailbox("from", &email.from)?,
            to: several("to", Some(&email.to))?,
            cc: several("cc", email.cc.as_ref())?,
            bcc: several("bcc", email.bcc.as_ref())?,
            reply_to: match &email.reply_to {
                Some(text) => Some(mailbox("replyTo", text)?),
                None => None,
            },
        })
    }

    /// Everyone who gets it, each once.
    fn recipients(&self) -> Vec<Recipient> {
        let mut seen = std::collections::HashSet::new();
        let mut recipients = Vec::with_capacity(self.to.len() + self.cc.len() + self.bcc.len());
        for (field, list) in [("to", &self.to), ("cc", &self.cc), ("bcc", &self.bcc)] {
            for (index, mailbox) in list.iter().enumerate() {
                let address = mailbox.email.to_string();
                if seen.insert(address.to_lowercase()) {
                    let field = format!("{field}[{index}]");
                    recipients.push(Recipient { field, address });
                }
            }
        }
        recipients
    }

    fn headers(&self, builder: MessageBuilder) -> Result<MessageBuilder, String> {
        let several = |list: &[Mailbox]| list.iter().cloned().collect::<Mailboxes>();
        let mut builder = builder
            .header(header::From::from(Mailboxes::from(self.from.clone())))
            .header(header::To::from(several(&self.to)));
        if !self.cc.is_empty() {
            builder = builder.header(header::Cc::from(several(&self.cc)));
        }
        if let Some(mailbox) = &self.reply_to {
            builder = builder.header(header::ReplyTo::from(Mailboxes::from(mailbox.clone())));
        }
        // Ours is kept beside the text; this one only keeps the headers from being read again.
        let one = self.from.email.clone();
        Envelope::new(Some(one.clone()), vec![one])
            .map(|envelope| builder.envelope(envelope))
            .map_err(|error| format!("the envelope cannot be made: {error}"))
    }
}

/// Adds subject, Message-ID and the event's own headers.
fn headers(
    mut builder: MessageBuilder,
    email: &Email,
    message: &Message,
    domain: &str,
) -> Result<MessageBuilder, String> {
    let mut names = email.headers.keys();
    if !names.any(|name| name.eq_ignore_ascii_case("message-id")) {
        builder = builder.message_id(Some(message_id(&message.idempotency_key, domain)));
    }
    builder = builder.subject(one_line("subject", &email.subject)?);
    for (name, value) in &email.headers {
        // RFC 5322, section 3.6.8. The library would let the end of a line pass.
        let is_name = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        let header = HeaderName::new_from_ascii(name.clone());
        let header = header
            .ok()
            .filter(|_| is_name)
            .ok_or_else(|| "headers holds a name that no header has".to_owned())?;
        let value = one_line(&format!("headers.{name}"), value)?.to_owned();
        builder = builder.raw_header(HeaderValue::new(header, value));
    }
    Ok(builder)
}

/// A date as mails write it (RFC 5322, section 3.3).
fn date(at: Millis) -> Result<String, String> {
    let text = jiff::Timestamp::from_millisecond(at)
        .and_then(|at| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at));
    text.map(|text| text.replace("GMT", "+0000"))
        .map_err(|error| format!("the date cannot be written: {error}"))
}

/// `Name <a@example.com>` or `a@example.com`.
fn mailbox(field: &str, text: &str) -> Result<Mailbox, String> {
    let text = one_line(field, text)?.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (name.trim().trim_matches('"').trim(), address),
        None => ("", text),
    };
    let name = Some(name.to_owned()).filter(|name| !name.is_empty());
    parse_address(address)
        .map(|address| Mailbox::new(name, address))
        .ok_or_else(|| format!("{field} is no address that SMTP can carry"))
}

/// An address, its domain turned into ASCII, so that only a name before the @ that is not ASCII needs SMTPUTF8.
pub(super) fn parse_address(text: &str) -> Option<Address> {
    let (local, domain) = text.trim().rsplit_once('@')?;
    if local.contains(['<', '>']) || local.chars().any(char::is_control) {
        return None;
    }
    if domain.is_ascii() {
        return Address::new(local, domain).ok();
    }
    match url::Host::parse(domain).ok()? {
        url::Host::Domain(ascii) => Address::new(local, ascii).ok(),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    }
}

/// The text with every end of a line as CRLF: one alone would be read as an end by some servers and not by others, and so could
/// smuggle in a message. (Also, lettre takes quadratic time over lines that do not end so.)
pub(super) fn crlf(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' | '\n' => {
                if c == '\r' {
                    chars.next_if_eq(&'\n');
                }
                lines.push_str("\r\n");
            }
            c => lines.push(c),
        }
    }
    lines
}

fn one_line<'t>(field: &str, text: &'t str) -> Result<&'t str, String> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!(
            "{field} holds a line break or another control character, which a header cannot"
        ));
    }
    Ok(text)
}

/// The Message-ID of a send: its idempotency key, which a repetition shares, so that receivers that look can tell. The parts of
/// the key are joined by dots, and what a dot-atom (RFC 5322, section 3.2.3) cannot hold is `=` and its hexadecimal digits.
pub(super) fn message_id(key: &str, domain: &str) -> String {
    let mut id = String::with_capacity(key.len() + domain.len() + 8);
    id.push('<');
    // From behind: an account has no colon, an event's id may.
    let mut parts: Vec<&str> = key.rsplitn(3, ':').collect();
    parts.reverse();
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            id.push('.');
        }
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
                id.push(char::from(byte));
            } else {
                id.push_str(&format!("={byte:02X}"));
            }
        }
    }
    id.push('@');
    id.push_str(domain);
    id.push('>');
    id
}
