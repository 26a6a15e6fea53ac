//! A configuration: how a message is sent. It names a channel, an account and what a sender may choose; never a secret.

use posthaste_event::{Channel, FieldError, Priority, fields::excerpt, number::whole, payload::Payload};
use serde_json::{Map, Value as Json, json, value::RawValue};

mod form;

use super::code;
use crate::ProviderNames;

/// Most senders or destinations that are allowed.
const NAMES_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 998;
const TTL_SECONDS_MAX: u64 = 366 * 86_400;

const FIELDS: [&str; 11] = [
    "channel",
    "description",
    "provider",
    "from",
    "senders",
    "replyTo",
    "destination",
    "destinations",
    "locale",
    "priority",
    "ttl",
];

/// A configuration that was found good.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) channel: Channel,
    /// The account to send with, by its name in the settings.
    pub(crate) provider: Option<String>,
    /// The sender of a message that names none.
    pub(crate) from: Option<String>,
    /// Who else may be named as the sender.
    senders: Vec<String>,
    pub(crate) reply_to: Option<String>,
    /// Where a message goes that says nothing else.
    pub(crate) destination: Option<String>,
    /// Where messages may go; anywhere without.
    destinations: Option<Vec<String>>,
    pub(crate) locale: Option<String>,
    pub(crate) priority: Option<Priority>,
    /// Seconds.
    pub(crate) ttl: Option<u64>,
}

struct Reading<'a> {
    body: &'a Map<String, Json>,
    errors: Vec<FieldError>,
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Each field that cannot be taken.
    pub(crate) fn new(body: &Json, providers: &ProviderNames) -> Result<Self, Vec<FieldError>> {
        let Some(body) = body.as_object() else {
            return Err(vec![FieldError::new(
                "body",
                "is not an object",
                FIELDS.join(", "),
            )]);
        };
        let mut reading = Reading {
            body,
            errors: Vec::new(),
        };
        for name in body.keys() {
            if !FIELDS.contains(&name.as_str()) {
                reading.error(&excerpt(name), "is not a field", FIELDS.join(", "));
            }
        }
        reading.text("description");
        let channel = reading.channel();
        let provider = reading.text("provider");
        if let (Some(channel), Some(provider)) = (channel, &provider) {
            let known = providers.get(&channel).map(Vec::as_slice).unwrap_or_default();
            if !known.contains(provider) {
                let problem = format!("{:?} is no provider of this channel", excerpt(provider));
                reading.error("provider", problem, known.join(", "));
            }
        }
        let config = Self {
            channel: channel.unwrap_or(Channel::Slack),
            provider,
            from: reading.text("from"),
            senders: reading.texts("senders").unwrap_or_default(),
            reply_to: reading.text("replyTo"),
            destination: reading.text("destination"),
            destinations: reading.texts("destinations"),
            locale: reading.locale(),
            priority: reading.priority(),
            ttl: reading.ttl(),
        };
        if channel.is_some() {
            config.check(&mut reading);
        }
        if reading.errors.is_empty() {
            Ok(config)
        } else {
            Err(reading.errors)
        }
    }

    /// What only makes sense together.
    fn check(&self, reading: &mut Reading<'_>) {
        let takes_sender = matches!(self.channel, Channel::Email | Channel::Sms);
        for (field, is_given, is_taken) in [
            ("from", self.from.is_some(), takes_sender),
            ("senders", !self.senders.is_empty(), takes_sender),
            ("replyTo", self.reply_to.is_some(), self.channel == Channel::Email),
        ] {
            if is_given && !is_taken {
                reading.error(
                    field,
                    format!("has no place on the channel {}", self.channel),
                    "nothing",
                );
            }
        }
        if self.channel == Channel::Email && self.from.is_none() && self.senders.is_empty() {
            reading.error(
                "from",
                "is missing, and senders, too",
                "an address such as a@example.com",
            );
        }
        if let (Some(destination), Some(allowed)) = (&self.destination, &self.destinations)
            && !allowed.contains(destination)
        {
            reading.error("destination", "is not among destinations", "one of them");
        }
        if !takes_sender {
            return;
        }
        let each = self.senders.iter().enumerate();
        let senders = each.map(|(index, sender)| (format!("senders[{index}]"), sender));
        let from = self.from.iter().map(|from| ("from".to_owned(), from));
        for (field, sender) in from.chain(senders) {
            if let Some(problem) = self.wrong(sender, "payload.from") {
                reading.error(&field, problem, "a sender that the channel takes");
            }
        }
        let sender = self.from.as_ref().or(self.senders.first());
        if let (Some(sender), Some(_)) = (sender, &self.reply_to)
            && let Some(problem) = self.wrong(sender, "payload.replyTo")
        {
            reading.error("replyTo", problem, "an address such as a@example.com");
        }
    }

    /// What the channel finds wrong with a field of a message from this sender.
    fn wrong(&self, sender: &str, field: &str) -> Option<String> {
        let payload = match self.channel {
            Channel::Email => json!({
                "to": "a@example.com", "subject": "a", "body": "a", "from": sender, "replyTo": self.reply_to
            }),
            _ => json!({"phoneNumber": "2025550100", "message": "a", "from": sender}),
        };
        let raw = RawValue::from_string(payload.to_string()).ok()?;
        let errors = Payload::accept(self.channel, &raw).err()?;
        errors
            .into_iter()
            .find(|error| error.field == field)
            .map(|error| error.problem)
    }

    /// The sender of a message that asks for this one.
    ///
    /// # Errors
    /// What is wrong with it; `field` is where it stands.
    pub(crate) fn sender(&self, asked: Option<&str>, field: &str) -> Result<Option<String>, FieldError> {
        let Some(asked) = asked else {
            if self.from.is_none() && self.channel == Channel::Email {
                return Err(FieldError::new(field, "is missing", self.senders.join(", ")));
            }
            return Ok(self.from.clone());
        };
        let mut allowed = self.senders.iter().chain(&self.from);
        match allowed.find(|allowed| allowed.eq_ignore_ascii_case(asked)) {
            Some(found) => Ok(Some(found.clone())),
            None => {
                let allowed: Vec<&str> = self
                    .senders
                    .iter()
                    .chain(&self.from)
                    .map(String::as_str)
                    .collect();
                let accepted = if allowed.is_empty() {
                    "none: the configuration allows no choice of sender".to_owned()
                } else {
                    allowed.join(", ")
                };
                Err(FieldError::new(
                    field,
                    "is no sender that the configuration allows",
                    accepted,
                ))
            }
        }
    }

    /// Where a message goes that asks for this place.
    ///
    /// # Errors
    /// What is wrong with it; `field` is where it stands.
    pub(crate) fn destination(&self, asked: Option<String>, field: &str) -> Result<String, FieldError> {
        let Some(place) = asked.or_else(|| self.destination.clone()) else {
            let accepted = format!("where to send it: {}", place_of(self.channel));
            return Err(FieldError::new(field, "is missing", accepted));
        };
        match &self.destinations {
            Some(allowed) if !allowed.contains(&place) => {
                let problem = "is no destination that the configuration allows";
                let some: Vec<&str> = allowed.iter().take(20).map(String::as_str).collect();
                Err(FieldError::new(field, problem, some.join(", ")))
            }
            _ => Ok(place),
        }
    }

    /// What it sends with: the payload's field for a place, and the place.
    pub(crate) fn place(&self, place: &str) -> (&'static str, String) {
        let field = match self.channel {
            Channel::Sms => "phoneNumber",
            Channel::Email => "to",
            Channel::Push => match place.strip_prefix("topic:") {
                Some(topic) => return ("topic", topic.to_owned()),
                None => "token",
            },
            Channel::Slack => "channel",
            Channel::Webhook => "url",
            Channel::InApp => "recipient",
        };
        (field, place.to_owned())
    }
}

const fn place_of(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "a phone number",
        Channel::Email => "an address such as a@example.com",
        Channel::Push => "a device's token, or topic:NAME",
        Channel::Slack => "a channel or user, such as #general",
        Channel::Webhook => "an http or https URL",
        Channel::InApp => "a recipient",
    }
}

impl Reading<'_> {
    fn error(&mut self, field: &str, problem: impl Into<String>, accepted: impl Into<String>) {
        self.errors.push(FieldError::new(field, problem, accepted));
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.body.get(name).filter(|value| !value.is_null())?;
        match value.as_str() {
            Some(text) if is_name(text) => Some(text.to_owned()),
            _ => {
                self.error(
                    name,
                    "must be one line of text",
                    format!("1 to {NAME_CHARS_MAX} characters"),
                );
                None
            }
        }
    }

    fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let value = self.body.get(name).filter(|value| !value.is_null())?;
        let texts = value.as_array().and_then(|values| {
            let texts = values
                .iter()
                .map(|value| value.as_str().filter(|text| is_name(text)));
            texts
                .map(|text| text.map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        match texts {
            Some(texts) if (1..=NAMES_MAX).contains(&texts.len()) => Some(texts),
            _ => {
                self.error(
                    name,
                    "must be a list of texts",
                    format!("1 to {NAMES_MAX} of them"),
                );
                None
            }
        }
    }

    fn channel(&mut self) -> Option<Channel> {
        let channel = self.body.get("channel").and_then(Json::as_str);
        let channel = channel.and_then(|name| name.parse().ok());
        if channel.is_none() {
            let accepted = Channel::ALL.map(Channel::as_str).join(", ");
            self.error("channel", "is missing or no channel", accepted);
        }
        channel
    }

    fn locale(&mut self) -> Option<String> {
        let locale = self.text("locale")?;
        if !code::is_locale(&locale) {
            self.error("locale", "is no language", code::LOCALE);
        }
        Some(locale)
    }

    fn priority(&mut self) -> Option<Priority> {
        let text = self.text("priority")?;
        match text.parse() {
            Ok(priority) => Some(priority),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    fn ttl(&mut self) -> Option<u64> {
        let value = self.body.get("ttl").filter(|value| !value.is_null())?;
        let seconds = value.is_number().then(|| whole(&value.to_string())).flatten();
        let seconds = seconds.filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds));
        if seconds.is_none() {
            let accepted = format!("whole seconds, from 1 to {TTL_SECONDS_MAX}");
            self.error("ttl", "is not a number of seconds, or out of range", accepted);
        }
        seconds
    }
}

fn is_name(text: &str) -> bool {
    let is_short = text.chars().count() <= NAME_CHARS_MAX;
    is_short && !text.trim().is_empty() && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Json) -> Result<Config, Vec<String>> {
        let providers: ProviderNames = [(Channel::Email, vec!["mailgun-eu".to_owned()])].into();
        Config::new(&body, &providers).map_err(|errors| errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn a_sender_and_a_destination_are_chosen_from_what_is_allowed() {
        let config = read(json!({
            "channel": "email", "provider": "mailgun-eu", "from": "Support <help@acme.example>",
            "senders": ["news@acme.example"], "replyTo": "help@acme.example", "locale": "de-AT",
            "priority": "high", "ttl": 3600, "destinations": ["a@b.example"]
        }))
        .unwrap();
        assert_eq!(
            config.sender(None, "from").unwrap().as_deref(),
            Some("Support <help@acme.example>")
        );
        assert_eq!(
            config
                .sender(Some("NEWS@acme.example"), "from")
                .unwrap()
                .as_deref(),
            Some("news@acme.example")
        );
        assert_eq!(
            config
                .sender(Some("boss@acme.example"), "from")
                .unwrap_err()
                .field,
            "from"
        );
        assert_eq!(
            config.destination(Some("a@b.example".into()), "channel").unwrap(),
            "a@b.example"
        );
        for place in [None, Some("c@d.example".to_owned())] {
            assert_eq!(config.destination(place, "channel").unwrap_err().field, "channel");
        }
        let slack = read(json!({"channel": "slack", "destination": "#general"})).unwrap();
        assert_eq!(slack.destination(None, "channel").unwrap(), "#general");
        assert!(slack.sender(Some("me"), "from").is_err());
        assert_eq!(slack.place("#x"), ("channel", "#x".to_owned()));
    }

    #[test]
    fn what_is_no_configuration_is_told_by_field() {
        for (body, field) in [
            (json!([]), "body"),
            (json!({}), "channel"),
            (json!({"channel": "fax"}), "channel"),
            (json!({"channel": "slack", "token": "xoxb-1"}), "token"),
            (json!({"channel": "slack", "provider": "twilio"}), "provider"),
            (json!({"channel": "slack", "from": "me"}), "from"),
            (json!({"channel": "email"}), "from"),
            (json!({"channel": "email", "from": "nobody"}), "from"),
            (
                json!({"channel": "email", "from": "a@b.example", "replyTo": "x"}),
                "replyTo",
            ),
            (
                json!({"channel": "email", "senders": ["a@b.example", "x"]}),
                "senders[1]",
            ),
            (json!({"channel": "sms", "senders": []}), "senders"),
            (json!({"channel": "slack", "priority": "soon"}), "priority"),
            (json!({"channel": "slack", "ttl": 0}), "ttl"),
            (json!({"channel": "slack", "locale": "../x"}), "locale"),
            (
                json!({"channel": "slack", "destination": "#a", "destinations": ["#b"]}),
                "destination",
            ),
            (json!({"channel": "slack", "description": "a\nb"}), "description"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err(), [field], "{body}");
        }
    }
}
