//! The events that are sent: about 300 bytes of JSON each, as in the baselines that Posthaste is compared with.

use std::net::SocketAddr;

use posthaste_event::{
    Channel, Delivery, EventView, Priority, Work,
    delivery::{Accepted, Policy},
};
use serde_json::value::RawValue;

use crate::{
    trouble::Trouble,
    wire::{NUMBER, Template},
};

/// Bytes of an event's JSON.
const BYTES: usize = 300;

/// What the events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A webhook that calls this address.
    Webhook(SocketAddr),
    /// An SMS, carried by the sandbox.
    Sms,
}

impl Kind {
    /// The body of `POST /event`, with [`NUMBER`] where the event's number goes.
    pub fn body(self, priority: &str) -> String {
        let payload = match self {
            Self::Webhook(sink) => {
                format!(r#"{{"url":"http://{sink}/","body":{{"n":"{NUMBER}","text":"~"}}}}"#)
            }
            Self::Sms => format!(r#"{{"message":"{NUMBER} ~","phoneNumber":"+{NUMBER}"}}"#)
                .replace(&format!("+{NUMBER}"), "+4915155555555"),
        };
        let channel = match self {
            Self::Webhook(_) => "webhook",
            Self::Sms => "sms",
        };
        let body = format!(
            r#"{{"channel":"{channel}","payload":{payload},"metadata":{{"source":"bench"}},"priority":"{priority}"}}"#
        );
        let text = "It is on its way. ".repeat(20);
        let room = (BYTES + 1).saturating_sub(body.len());
        body.replace('~', &text[..room.min(text.len())])
    }

    /// The request.
    pub fn request(self, intake: SocketAddr, priority: &str) -> Template {
        Template::post(intake, "/event", "application/json", &self.body(priority))
    }
}

/// The value of the record that such an event becomes.
///
/// # Errors
/// Never: the event is a good one.
pub fn record(kind: Kind) -> Result<Vec<u8>, Trouble> {
    #[derive(serde::Deserialize)]
    struct Posted {
        payload: Box<RawValue>,
        metadata: Box<RawValue>,
    }
    let body = kind.body("default").replace(NUMBER, "0000000001");
    let posted: Posted = serde_json::from_str(&body).map_err(Trouble::doing("read an event"))?;
    let channel = match kind {
        Kind::Webhook(_) => Channel::Webhook,
        Kind::Sms => Channel::Sms,
    };
    let id = "019aa2f0-0000-7000-8000-000000000000";
    let view = EventView {
        event_id: id.to_owned(),
        tenant: "default".to_owned(),
        channel,
        priority: Priority::Normal,
        provider: None,
        payload: &posted.payload,
        metadata: Some(&posted.metadata),
        ordering_key: None,
        scheduled_at: None,
        expires_at: None,
    };
    let accepted = Accepted {
        id: id.to_owned(),
        correlation_id: id.to_owned(),
        tenant: "default".to_owned(),
        channel,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    let work = Work {
        delivery: Delivery::accepted(accepted, "bench", posthaste_event::clock::now()).0,
        event: view.to_bytes().map_err(Trouble::doing("write an event"))?,
    };
    let value = work.encode().map_err(Trouble::doing("write a record"))?;
    Ok(value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_size_and_their_number() {
        let sink = "127.0.0.1:15000".parse().unwrap();
        for kind in [Kind::Webhook(sink), Kind::Sms] {
            let body = kind.body("default");
            assert_eq!(body.len(), BYTES, "{body}");
            assert_eq!(body.matches(NUMBER).count(), 1, "{body}");
            assert!(record(kind).unwrap().len() > BYTES);
        }
    }
}
