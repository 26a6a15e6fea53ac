//! Right before a send: whether its recipients may get it at all.
//!
//! Here, and not at intake, so that whoever was suppressed since then gets nothing; and after everything else that may take a while.

use std::collections::BTreeMap;

use posthaste_broker::NewRecord;
use posthaste_definitions::suppressions::Reason;
use posthaste_event::{
    Channel, Delivery, Failure, Millis, Topic, Value,
    failure::Reported,
    payload::{Addresses, Email, Payload},
    record::Note,
};
use posthaste_provider::Message;
use serde_json::{Value as Json, json, value::RawValue};
use tracing::debug;

use crate::{
    pending::{Outcome, Pending},
    send::Recorder,
};

/// How many of an event's recipients are left.
pub enum Kept {
    /// All.
    All(Box<Pending>),
    /// Some of an email's; the note says who was left out.
    Some(Box<Pending>, Box<NewRecord>),
    /// None: it is skipped.
    None(Box<Outcome>),
}

/// The member of an event's metadata, `true`, that lets it go to those who unsubscribed, too: a receipt, an alert, a password. It
/// never goes to those who bounced or complained.
const WISH: &str = "ignoreUnsubscribe";

impl Recorder {
    /// Takes recipients out of `message` who must get nothing. Called when anybody is suppressed.
    pub fn without_suppressed(&self, pending: Box<Pending>, message: &mut Message, now: Millis) -> Kept {
        let delivery = &pending.work.delivery;
        let (tenant, channel) = (&*delivery.tenant, delivery.channel);
        if !self.suppressions.has(tenant, channel) {
            return Kept::All(pending);
        }
        // Read when somebody unsubscribed, and then once.
        let mut ignores = None;
        let mut why = |recipient: &str| {
            let reason = self.suppressions.reason(tenant, channel, recipient, now)?;
            let is_ignored = reason == Reason::Unsubscribed
                && *ignores.get_or_insert_with(|| ignores_unsubscribe(&pending));
            (!is_ignored).then_some(reason)
        };
        let mut left_out = Vec::new();
        let is_any_left = match &mut message.payload {
            Payload::Email(email) => keep_of_email(email, &mut |recipient| {
                let reason = why(recipient);
                left_out.extend(reason.map(|reason| (recipient.to_owned(), reason)));
                reason.is_none()
            }),
            payload => match recipient_of(payload).and_then(|one| Some((one, why(one)?))) {
                Some((one, reason)) => {
                    left_out.push((one.to_owned(), reason));
                    false
                }
                None => true,
            },
        };
        let Some((first, reason)) = left_out.first() else {
            return Kept::All(pending);
        };
        if is_any_left {
            let note = self.note_of(delivery, message.sealed.is_some(), &left_out, now);
            return Kept::Some(pending, Box::new(note));
        }
        self.metrics.skipped(channel).one();
        debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), reason = reason.as_str(), "event is skipped");
        let shown = if message.sealed.is_some() {
            String::new()
        } else {
            format!(" {}", self.shown(tenant, channel, first))
        };
        let why = format!("the recipient{shown} is suppressed: {}", reason.as_str());
        Kept::None(Box::new(pending.skipped(
            reason.code(),
            &why,
            &self.instance,
            now,
        )))
    }

    /// What is written of a recipient of whom the provider says that nothing will ever reach them, or that they want nothing more.
    /// An email must have one recipient, since nobody says of which of several it is true.
    pub fn suppresses(
        &self,
        delivery: &Delivery,
        message: &Message,
        provider: &str,
        failure: &Failure,
        now: Millis,
    ) -> Option<NewRecord> {
        let reason = match failure.reported.filter(|_| self.suppresses_reported)? {
            Reported::Bounced => Reason::Bounced,
            Reported::Unsubscribed => Reason::Unsubscribed,
        };
        let recipient = match &message.payload {
            Payload::Email(email) => only_one(email),
            payload => recipient_of(payload),
        }?;
        let (tenant, channel) = (&delivery.tenant, delivery.channel);
        self.suppressions
            .reported(tenant, channel, recipient, reason, provider, &self.instance, now)
    }

    fn shown(&self, tenant: &str, channel: Channel, recipient: &str) -> String {
        let named = self.suppressions.id(tenant, channel, recipient);
        named.map_or_else(String::new, |(_, shown)| shown)
    }

    /// Of a sealed event not even the ends of a number or address are said.
    fn note_of(
        &self,
        delivery: &Delivery,
        is_sealed: bool,
        left_out: &[(String, Reason)],
        now: Millis,
    ) -> NewRecord {
        let recipients: Vec<_> = left_out
            .iter()
            .map(|(recipient, reason)| {
                let shown = (!is_sealed).then(|| self.shown(&delivery.tenant, delivery.channel, recipient));
                json!({"recipient": shown.as_deref().unwrap_or("***"), "reason": reason.as_str()})
            })
            .collect();
        let note = Value::Note(Note {
            id: uuid::Uuid::now_v7().to_string(),
            kind: "recipientsSuppressed".to_owned(),
            event_id: delivery.id.clone(),
            tenant: delivery.tenant.clone(),
            channel: delivery.channel,
            created_at: delivery.created_at,
            at: now,
            data: json!({"recipients": recipients}),
            unknown: Default::default(),
        });
        // Texts only: there is nothing in it that JSON could refuse.
        NewRecord::new(
            Topic::Status,
            delivery.id.clone(),
            note.encode().unwrap_or_default(),
        )
    }
}

/// Metadata that says something else by that name says nothing.
fn ignores_unsubscribe(pending: &Pending) -> bool {
    let members = |metadata: &RawValue| serde_json::from_str::<BTreeMap<String, Json>>(metadata.get()).ok();
    let view = pending.work.event.view().ok();
    view.and_then(|view| members(view.metadata?)?.remove(WISH))
        .is_some_and(|wish| wish == Json::Bool(true))
}

/// Who gets it; `None` for an email, which may have several, and for a push to a topic, which is nobody in particular.
fn recipient_of(payload: &Payload) -> Option<&str> {
    match payload {
        Payload::Sms(sms) => Some(&sms.phone_number),
        Payload::Push(push) => push.token.as_deref(),
        Payload::Slack(slack) => Some(&slack.channel),
        Payload::Webhook(webhook) => Some(&webhook.url),
        Payload::InApp(in_app) => Some(&in_app.recipient),
        Payload::Email(_) => None,
    }
}

fn only_one(email: &Email) -> Option<&str> {
    match email.to.as_slice() {
        [one] if email.cc.is_none() && email.bcc.is_none() => Some(one),
        _ => None,
    }
}

/// Whether anybody is left in `to`, without whom no email is sent.
fn keep_of_email(email: &mut Email, may_get_it: &mut impl FnMut(&str) -> bool) -> bool {
    let is_any_left = keep(&mut email.to, may_get_it);
    for copies in [&mut email.cc, &mut email.bcc] {
        if copies.as_mut().is_some_and(|copies| !keep(copies, may_get_it)) {
            *copies = None;
        }
    }
    is_any_left
}

/// Whether anybody is left.
fn keep(addresses: &mut Addresses, may_get_it: &mut impl FnMut(&str) -> bool) -> bool {
    match addresses {
        Addresses::One(address) => may_get_it(address),
        Addresses::Many(addresses) => {
            addresses.retain(|address| may_get_it(address));
            !addresses.is_empty()
        }
    }
}
