//! Payloads as the templates see them: every field of the channel is there, absent ones as `null`.
//!
//! So an expression that names a field the channel does not have is an error when a file is loaded, not in the night.

use std::{collections::BTreeMap, sync::LazyLock};

use posthaste_event::{
    Channel,
    payload::{Addresses, Attachment, Disposition, Email, InApp, Payload, Push, Slack, Sms, Webhook},
};
use serde_json::{Value as Json, json};

/// The names of all fields, per channel in the order of [`Channel::ALL`].
static NAMES: LazyLock<[Vec<String>; 6]> = LazyLock::new(|| {
    Channel::ALL.map(|channel| match written(&full(channel)) {
        Json::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    })
});

/// The payload as JSON with every field of its channel.
pub(crate) fn json(payload: &Payload) -> Json {
    let mut json = written(payload);
    if let (Json::Object(fields), Some(index)) = (
        &mut json,
        Channel::ALL.iter().position(|other| *other == channel(payload)),
    ) {
        for name in &NAMES[index] {
            if !fields.contains_key(name) {
                fields.insert(name.clone(), Json::Null);
            }
        }
    }
    json
}

/// The channel of a payload.
pub(crate) const fn channel(payload: &Payload) -> Channel {
    match payload {
        Payload::Sms(_) => Channel::Sms,
        Payload::Email(_) => Channel::Email,
        Payload::Push(_) => Channel::Push,
        Payload::Slack(_) => Channel::Slack,
        Payload::Webhook(_) => Channel::Webhook,
        Payload::InApp(_) => Channel::InApp,
    }
}

fn written(payload: &Payload) -> Json {
    match payload {
        Payload::Sms(fields) => serde_json::to_value(fields),
        Payload::Email(fields) => serde_json::to_value(fields),
        Payload::Push(fields) => serde_json::to_value(fields),
        Payload::Slack(fields) => serde_json::to_value(fields),
        Payload::Webhook(fields) => serde_json::to_value(fields),
        Payload::InApp(fields) => serde_json::to_value(fields),
    }
    .unwrap_or_default()
}

/// Payloads with which a provider file is tried when it is loaded: all fields, and only the required ones.
pub(crate) fn samples(channel: Channel) -> [Payload; 2] {
    [full(channel), bare(channel)]
}

fn full(channel: Channel) -> Payload {
    let text = |text: &str| text.to_owned();
    let map = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
    match channel {
        Channel::Sms => Payload::Sms(Sms {
            message: text("text"),
            phone_number: text("+12025550100"),
            from: Some(text("+12025550101")),
        }),
        Channel::Email => Payload::Email(Email {
            subject: text("subject"),
            body: Some(text("text")),
            html: Some(text("<p>text</p>")),
            to: Addresses::Many(vec![text("a@example.com"), text("B <b@example.com>")]),
            from: text("Sender <sender@example.com>"),
            cc: Some(Addresses::One(text("c@example.com"))),
            bcc: Some(Addresses::Many(vec![text("d@example.com")])),
            reply_to: Some(text("e@example.com")),
            headers: map("X-Order"),
            attachments: Disposition::ALL.map(file).to_vec(),
        }),
        Channel::Push => Payload::Push(Push {
            title: text("title"),
            body: text("text"),
            image: Some(text("https://example.com/i.png")),
            link: Some(text("https://example.com/")),
            token: Some(text("token")),
            topic: Some(text("topic")),
            // Whoever sends knows devices only.
            user: None,
            data: map("order"),
        }),
        Channel::Slack => Payload::Slack(Slack {
            channel: text("#general"),
            text: Some(text("text")),
            blocks: Some(vec![json!({"type": "divider"})]),
            thread_ts: Some(text("1700000000.000100")),
        }),
        Channel::Webhook => Payload::Webhook(Webhook {
            url: text("https://example.com/hook"),
            body: json!({"order": 1}),
            headers: map("x-order"),
        }),
        Channel::InApp => Payload::InApp(InApp {
            recipient: text("user"),
            title: text("title"),
            body: text("text"),
            data: Some(json!({"order": 1})),
        }),
    }
}

fn file(disposition: Disposition) -> Attachment {
    Attachment {
        filename: "Rechnung für \"Ann\".txt".to_owned(),
        content_type: "text/plain".to_owned(),
        content: Some("ZmlsZQ==".to_owned()),
        url: None,
        content_id: (disposition == Disposition::Inline).then(|| "logo@1".to_owned()),
        disposition,
    }
}

fn bare(channel: Channel) -> Payload {
    let mut payload = full(channel);
    match &mut payload {
        Payload::Sms(sms) => sms.from = None,
        Payload::Email(email) => {
            email.html = None;
            email.to = Addresses::One("a@example.com".to_owned());
            (email.cc, email.bcc, email.reply_to) = (None, None, None);
            email.headers.clear();
            email.attachments.clear();
        }
        Payload::Push(push) => {
            (push.image, push.link, push.topic) = (None, None, None);
            push.data.clear();
        }
        Payload::Slack(slack) => (slack.blocks, slack.thread_ts) = (None, None),
        Payload::Webhook(webhook) => webhook.headers.clear(),
        Payload::InApp(message) => message.data = None,
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_there_in_every_payload() {
        for kind in Channel::ALL {
            let [full, bare] = samples(kind).map(|payload| json(&payload));
            let names = |json: &Json| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&full), names(&bare), "{kind}");
            assert!(
                full.as_object().unwrap().values().all(|value| !value.is_null()),
                "{kind}"
            );
        }
    }
}
