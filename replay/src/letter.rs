//! What stands in the dead-letter topic, as the index sees it.

use bytes::Bytes;
use posthaste_broker::Record;
pub use posthaste_event::control::LetterFilter as Filter;
use posthaste_event::{
    Delivery, ErrorKind, Failure, Millis, Topic, Value, delivery::Policy, record::Foreign,
};

/// Where a letter stands: partition and offset.
pub type Place = (u32, i64);

/// What a record of the dead-letter topic says.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every record is a letter, and lives only until it is indexed"
)]
pub enum Entry {
    /// An event that was given up.
    Letter(Letter),
    /// A letter of this event, up to this step, went out again.
    Replayed {
        /// Which event.
        event_id: String,
        /// The step of the letter that this closes.
        step: u32,
        /// Which replay.
        replay_id: String,
    },
}

/// One dead letter.
#[derive(Debug)]
pub struct Letter {
    /// Where it stands.
    pub place: Place,
    /// When it was given up; of a foreign record, when it was appended.
    pub at: Millis,
    /// The record's key.
    pub key: Option<Bytes>,
    /// Why it is here, and whose it is.
    pub about: About,
    /// The record's value.
    pub value: Bytes,
}

/// What filters look at.
#[derive(Debug, Default)]
pub struct About {
    /// The event, of a letter that can be replayed. A foreign record has none.
    pub event_id: Option<String>,
    /// The letter's step.
    pub step: u32,
    /// Whose event it is.
    pub tenant: Option<String>,
    /// The event's channel.
    pub channel: Option<&'static str>,
    /// The provider asked last.
    pub provider: Option<String>,
    /// The account asked last.
    pub account: Option<String>,
    /// What kind of error.
    pub kind: &'static str,
    /// The provider's own code.
    pub code: Option<String>,
    /// What equal errors share.
    pub fingerprint: Option<String>,
    /// What the error says.
    pub message: String,
    /// Whether it goes out on the lane of critical events.
    pub critical: bool,
    /// The provider that the client insists on.
    pub pinned: Option<String>,
    /// The replay that sent it out before it died again.
    pub replay_id: Option<String>,
    /// It must not go out twice, and may have gone out already.
    pub in_doubt: bool,
}

impl Entry {
    /// Reads a record of the dead-letter topic. What is not ours is a letter too, one that can only be looked at.
    pub fn read(record: Record, prefix: &str) -> Self {
        let foreign = match record.decode(prefix) {
            Ok(Value::Work(work)) => {
                let about = about(work.delivery);
                return Self::Letter(Letter {
                    place: (record.partition.number, record.offset),
                    at: about.1,
                    key: record.key,
                    about: about.0,
                    value: record.value.unwrap_or_default(),
                });
            }
            Ok(Value::Replayed(mark)) => {
                return Self::Replayed {
                    event_id: mark.event_id,
                    step: mark.step,
                    replay_id: mark.replay_id,
                };
            }
            Ok(Value::Foreign(foreign)) => foreign,
            Ok(Value::Outcome(_) | Value::Note(_) | Value::Answer(_)) => Foreign::new(
                Topic::DeadLetter.name(prefix),
                record.partition.number,
                record.offset,
                record.key.as_deref(),
                record.value.as_deref(),
                "not a dead letter: {delivery, event} is expected here".to_owned(),
            ),
            Err(foreign) => *foreign,
        };
        Self::Letter(Letter {
            place: (record.partition.number, record.offset),
            at: record.appended_at,
            key: record.key,
            about: About {
                kind: "unreadable",
                message: foreign.reason.clone(),
                ..About::default()
            },
            // Only forms of ours are encoded here, and all of those can be.
            value: Value::Foreign(foreign).encode().unwrap_or_default(),
        })
    }
}

fn about(delivery: Delivery) -> (About, Millis) {
    let is_ambiguous = |error: &Failure| error.kind == ErrorKind::Ambiguous;
    let in_doubt =
        delivery.policy == Policy::NoDuplicate && delivery.error.as_ref().is_some_and(is_ambiguous);
    let (kind, code, fingerprint, message) = match delivery.error {
        Some(error) => (
            error.kind.as_str(),
            error.code,
            Some(error.fingerprint),
            error.message,
        ),
        None => ("rules", None, None, String::new()),
    };
    let about = About {
        event_id: Some(delivery.id),
        step: delivery.step,
        tenant: Some(delivery.tenant),
        channel: Some(delivery.channel.as_str()),
        critical: delivery.priority.is_critical(),
        pinned: delivery.provider.clone().filter(|_| delivery.pinned),
        replay_id: delivery.replay.map(|replay| replay.id),
        provider: delivery.provider,
        account: delivery.account,
        kind,
        code,
        fingerprint,
        message,
        in_doubt,
    };
    (about, delivery.at)
}
