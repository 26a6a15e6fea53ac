//! Recipients: the form in which two spellings of one are the same, what names them, and what may be shown of them.

use std::{borrow::Cow, fmt};

use aws_lc_rs::digest::{Context, SHA256};
use posthaste_event::Channel;

/// Longest recipient that is looked at, in bytes: that of a webhook's address.
pub const RECIPIENT_BYTES_MAX: usize = 2_048;

/// So many digits at most has a number without its country code, as providers' files take it.
const NATIONAL_DIGITS_MAX: usize = 10;
/// Fewest and most digits of a number with its country code (ITU-T E.164).
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Names a suppressed recipient: a part of the SHA-256 of tenant, channel and recipient. It keeps the recipient from being read, not
/// from being guessed: there are few phone numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 16]);

impl Id {
    /// Of a recipient in its [`normal`] form.
    pub fn of(tenant: &str, channel: Channel, recipient: &str) -> Self {
        let mut context = Context::new(&SHA256);
        // None of the first three can hold a zero.
        for part in ["posthaste.suppression", tenant, channel.as_str(), recipient] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }

    /// Reads what [`fmt::Display`] wrote: 32 hexadecimal digits.
    pub fn read(text: &str) -> Option<Self> {
        let is_plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_plain)?;
        Some(Self(bits.to_be_bytes()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The form in which all spellings of a recipient are the same; `None` when it can be none of this channel. Phone numbers
/// without their country code get `country_code`, as in providers' files.
pub fn normal<'a>(channel: Channel, recipient: &'a str, country_code: &str) -> Option<Cow<'a, str>> {
    let text = recipient.trim();
    if text.is_empty() || text.len() > RECIPIENT_BYTES_MAX || text.chars().any(char::is_control) {
        return None;
    }
    match channel {
        Channel::Sms => phone_number(text, country_code).map(Cow::Owned),
        Channel::Email => email(text).map(Cow::Owned),
        Channel::Webhook => posthaste_event::web::url(text).ok().map(|mut url| {
            url.set_fragment(None);
            Cow::Owned(url.into())
        }),
        // Names of channels are lower case anyway; ids of users and channels differ in more than case.
        Channel::Slack => Some(Cow::Owned(text.to_ascii_lowercase())),
        Channel::Push | Channel::InApp => Some(Cow::Borrowed(text)),
    }
}

fn phone_number(text: &str, country_code: &str) -> Option<String> {
    let (is_international, rest) = match text.strip_prefix('+').or_else(|| text.strip_prefix("00")) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !rest.chars().all(|c| c.is_ascii_digit() || " .-()/".contains(c)) {
        return None;
    }
    let digits: String = rest.chars().filter(char::is_ascii_digit).collect();
    let full = if is_international || digits.len() > NATIONAL_DIGITS_MAX {
        digits
    } else {
        format!("{country_code}{}", digits.trim_start_matches('0'))
    };
    DIGITS.contains(&full.len()).then_some(full)
}

/// Without a name, in lower case, the domain as DNS has it. What stands before the `@` may differ in case by the book; nobody's does.
fn email(text: &str) -> Option<String> {
    let address = match text.strip_suffix('>') {
        Some(named) => named.rsplit_once('<')?.1.trim(),
        None => text,
    };
    let (local, domain) = address.rsplit_once('@')?;
    if local.is_empty() || domain.is_empty() || local.contains(char::is_whitespace) {
        return None;
    }
    let domain = match url::Host::parse(domain) {
        Ok(url::Host::Domain(domain)) => domain,
        _ => return None,
    };
    Some(format!("{}@{domain}", local.to_lowercase()))
}

/// What may be shown of a recipient in its normal form.
pub fn masked(channel: Channel, recipient: &str) -> String {
    let first = |many: usize| recipient.chars().take(many).collect::<String>();
    match channel {
        Channel::Sms => {
            let last = recipient
                .get(recipient.len().saturating_sub(2)..)
                .unwrap_or_default();
            format!("+{}***{last}", first(2))
        }
        Channel::Email => {
            let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
            format!("{}***@{domain}", first(1))
        }
        Channel::Webhook => {
            let host = recipient.split('/').nth(2).unwrap_or_default();
            format!("{host}/***")
        }
        Channel::Push | Channel::Slack | Channel::InApp => format!("{}***", first(2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_recipient_are_the_same() {
        for (channel, spellings, expected) in [
            (
                Channel::Sms,
                &[
                    "+1 (202) 555-5555",
                    "2025555555",
                    "0012025555555",
                    "12025555555",
                    " 202.555.5555 ",
                ][..],
                "12025555555",
            ),
            (
                Channel::Sms,
                &["+4915155555555", "004915155555555", "4915155555555"],
                "4915155555555",
            ),
            (
                Channel::Email,
                &[
                    "ann@example.com",
                    "Ann <Ann@Example.COM>",
                    "\"A, B\" <ann@example.com>",
                ],
                "ann@example.com",
            ),
            (
                Channel::Email,
                &["ann@bücher.example", "ANN@xn--bcher-kva.example"],
                "ann@xn--bcher-kva.example",
            ),
            (Channel::Slack, &["#General", " #general"], "#general"),
            (
                Channel::Webhook,
                &["https://Example.com", "https://example.com:443/#x"],
                "https://example.com/",
            ),
            (Channel::Push, &["aB:c", " aB:c "], "aB:c"),
        ] {
            for spelling in spellings {
                assert_eq!(
                    normal(channel, spelling, "1").as_deref(),
                    Some(expected),
                    "{spelling}"
                );
            }
        }
    }

    #[test]
    fn what_can_be_no_recipient_is_none() {
        let long = "x".repeat(RECIPIENT_BYTES_MAX + 1);
        for (channel, text) in [
            (Channel::Sms, ""),
            (Channel::Sms, "123"),
            (Channel::Sms, "+1234567890123456"),
            (Channel::Sms, "call me"),
            (Channel::Email, "ann"),
            (Channel::Email, "@example.com"),
            (Channel::Email, "a b@example.com"),
            (Channel::Email, "ann@"),
            (Channel::Email, "ann@1.2.3.4"),
            (Channel::Email, "ann@example.com>"),
            (Channel::Webhook, "example.com"),
            (Channel::Push, "  "),
            (Channel::InApp, "a\u{0}b"),
            (Channel::InApp, &long),
        ] {
            assert_eq!(normal(channel, text, "1"), None, "{text}");
        }
    }

    #[test]
    fn an_id_depends_on_tenant_channel_and_recipient_and_is_read_again() {
        let ids = [
            Id::of("a", Channel::Email, "x"),
            Id::of("b", Channel::Email, "x"),
            Id::of("a", Channel::Slack, "x"),
            Id::of("a", Channel::Email, "y"),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(Id::read(&id.to_string()), Some(*id));
            assert!(!ids[index + 1..].contains(id));
        }
        for text in [
            "",
            "x",
            &"g".repeat(32),
            &"A".repeat(32),
            &"+".repeat(32),
            &"0".repeat(33),
        ] {
            assert_eq!(Id::read(text), None, "{text}");
        }
        // Changing this forgets every suppression there is.
        assert_eq!(
            Id::of("default", Channel::Email, "ann@example.com").to_string(),
            "7833598c89dcd702554d694bc2f7a48f"
        );
    }

    #[test]
    fn what_is_shown_does_not_tell_who_it_is() {
        for (channel, recipient, shown) in [
            (Channel::Sms, "12025555555", "+12***55"),
            (Channel::Email, "ann@example.com", "a***@example.com"),
            (
                Channel::Webhook,
                "https://example.com/secret?token=x",
                "example.com/***",
            ),
            (Channel::Slack, "#general", "#g***"),
            (Channel::Push, "abcdef", "ab***"),
        ] {
            assert_eq!(masked(channel, recipient), shown);
        }
    }
}
