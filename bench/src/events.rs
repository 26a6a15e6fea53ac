//! The events that are sent: about 300 bytes of JSON each, as in the baselines that Posthaste is compared with.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use posthaste_event::{
    Channel, Delivery, EventView, Millis, Priority, Work,
    delivery::{Accepted, Policy},
};
use serde_json::value::RawValue;

use crate::{
    load::Line,
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
        self.body_with(priority, "")
    }

    /// The same with further fields, such as `"eventId":"x",`.
    pub fn body_with(self, priority: &str, fields: &str) -> String {
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
            r#"{{{fields}"channel":"{channel}","payload":{payload},"metadata":{{"source":"bench"}},"priority":"{priority}"}}"#
        );
        let text = "It is on its way. ".repeat(20);
        // Further fields come on top.
        let room = (BYTES + 1 + fields.len()).saturating_sub(body.len());
        body.replace('~', &text[..room.min(text.len())])
    }

    /// The request.
    pub fn request(self, intake: SocketAddr, priority: &str) -> Template {
        Template::post(intake, "/event", "application/json", &self.body(priority))
    }
}

/// An id that says the event's number, for a body.
pub fn id_field() -> String {
    format!(r#""eventId":"bench-{NUMBER}","#)
}

/// The id that this becomes.
pub fn id(number: u64) -> String {
    format!("bench-{number:010}")
}

/// Stands in a body for a time.
const TIME: &str = "0000-00-00T00:00:00.000Z";

/// A time to be sent at, for a body of [`scheduled_lines`].
pub fn scheduled_field() -> String {
    format!(r#""scheduledAt":"{TIME}","#)
}

/// Lines of this body for `POST /events`.
pub fn lines(body: &str) -> Line {
    let template = Template::lines(body);
    Arc::new(move |number, out| template.append(number, out))
}

/// The same, each to be sent at its time.
///
/// # Errors
/// When the body has no place for it.
pub fn scheduled_lines(
    body: &str,
    due: impl Fn(u64) -> Millis + Send + Sync + 'static,
) -> Result<Line, Trouble> {
    let template = Template::lines(body);
    let place = body
        .find(TIME)
        .ok_or_else(|| Trouble::said("the body has no time"))?;
    Ok(Arc::new(move |number, out: &mut Vec<u8>| {
        let at = out.len() + place;
        template.append(number, out);
        let due = Timestamp::from_millisecond(due(number)).unwrap_or_default();
        let text = due.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        out[at..at + TIME.len()].copy_from_slice(text.as_bytes());
    }))
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

    #[test]
    fn a_line_has_its_number_its_id_and_its_time() {
        let sink = "127.0.0.1:15000".parse().unwrap();
        let fields = id_field() + &scheduled_field();
        let body = Kind::Webhook(sink).body_with("default", &fields);
        let line = scheduled_lines(&body, |number| 1_000 * number.cast_signed()).unwrap();
        let mut out = b"before\n".to_vec();
        line(7, &mut out);
        let text = String::from_utf8(out).unwrap();
        let event: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(event["eventId"], id(7).as_str());
        assert_eq!(event["scheduledAt"], "1970-01-01T00:00:07.000Z");
        assert!(text.ends_with("}\n"));
    }
}
