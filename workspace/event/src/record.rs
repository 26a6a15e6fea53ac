//! The values of records: exactly one of work, outcome, note, replayed, foreign, answer.

use std::cell::Cell;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, value::RawValue};

use crate::{Answer, Channel, Delivery, EventBytes, Millis, delivery::wire};

/// Longest part of a foreign record's key or value that is kept, in bytes.
pub const FOREIGN_BYTES_MAX: usize = 256 * 1024;

/// Room for a delivery and what is around it, so that writing one rarely grows its buffer.
const DELIVERY_BYTES: usize = 640;

/// Longest value for which a thread keeps a buffer.
const ROOM_KEPT_MAX: usize = 64 * 1024;

/// What is written, in as much memory as it takes and no more: records wait by the ten thousand. So it is written into a buffer
/// that each thread keeps, and copied from there; a large value, of which few wait, is not copied. `len_about` is how long it will be.
fn exactly(
    len_about: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
) -> Result<Bytes, serde_json::Error> {
    thread_local! {
        static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut room = ROOM.take();
    room.clear();
    room.reserve(len_about);
    write(&mut room)?;
    if room.capacity() > ROOM_KEPT_MAX {
        return Ok(room.into());
    }
    let written = Bytes::copy_from_slice(&room);
    ROOM.set(room);
    Ok(written)
}

/// An event and its delivery: what travels on the work topics.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// What changes from hop to hop.
    pub delivery: Delivery,
    /// What never changes.
    pub event: EventBytes,
}

impl Work {
    /// The record value: `{"delivery":{...},"event":{...}}`, the event's bytes as they are.
    ///
    /// # Errors
    /// Never in practice: a delivery has no key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let event = self.event.as_slice();
        exactly(event.len() + DELIVERY_BYTES, |json| {
            json.extend_from_slice(br#"{"delivery":"#);
            wire::write(&self.delivery, json)?;
            json.extend_from_slice(br#","event":"#);
            json.extend_from_slice(event);
            json.push(b'}');
            Ok(())
        })
    }
}

/// What somebody says of an event without holding its work record: receipts, cancel requests, edits, operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The note's own id; saying it twice is saying it once.
    pub id: String,
    /// What kind of note, such as `receipt` or `cancelRequested`.
    pub kind: String,
    /// Which event it is about.
    pub event_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// The event's channel.
    pub channel: Channel,
    /// When the event was accepted, in milliseconds since the Unix epoch.
    pub created_at: Millis,
    /// When the note was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// What it says; the kind decides the shape.
    pub data: Json,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// The mark that a dead letter was re-published; it stands in the letter's own partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Which event.
    pub event_id: String,
    /// The step of the letter that this closes.
    pub step: u32,
    /// The replay job that did it.
    pub replay_id: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// A record that could not be read, kept in the dead-letter topic for people to look at. It can never be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// Full name of the topic it stood on.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Its key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its value, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether key or value was cut to [`FOREIGN_BYTES_MAX`].
    pub truncated: bool,
    /// Why it could not be read.
    pub reason: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Foreign {
    /// Keeps what could not be read.
    pub fn new(
        topic: String,
        partition: u32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        reason: String,
    ) -> Self {
        let cut = |bytes: &[u8]| BASE64.encode(&bytes[..bytes.len().min(FOREIGN_BYTES_MAX)]);
        let too_long = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| bytes.len() > FOREIGN_BYTES_MAX);
        Self {
            topic,
            partition,
            offset,
            key: key.map(cut),
            value: value.map(cut),
            truncated: too_long(key) || too_long(value),
            reason,
            unknown: Map::new(),
        }
    }
}

/// A record's value, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An event on its way.
    Work(Work),
    /// What became of one: a delivery without its event.
    Outcome(Delivery),
    /// What somebody says of one.
    Note(Note),
    /// A dead letter was re-published.
    Replayed(Replayed),
    /// A record that could not be read.
    Foreign(Foreign),
    /// What became of a record of the inbox.
    Answer(Box<Answer>),
}

/// Why a record's value is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or a field has the wrong type.
    #[error("not a record of ours: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but not exactly one of the forms.
    #[error(
        "not exactly one of {{delivery, event}}, {{delivery}}, {{note}}, {{replayed}}, {{foreign}}, {{answer}}"
    )]
    Form,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    delivery: Option<Delivery>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    note: Option<Note>,
    replayed: Option<Replayed>,
    foreign: Option<Foreign>,
    answer: Option<Box<Answer>>,
}

impl Value {
    /// Reads a record's value; the event inside shares the memory of `bytes` and is not looked into.
    ///
    /// # Errors
    /// When it is not JSON, or not exactly one of the forms.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        match Self::as_written(bytes) {
            Some(value) => Ok(value),
            None => Self::parse(bytes),
        }
    }

    /// Reads a record that looks just like [`Value::encode`] writes one of an event that goes well, as most do.
    fn as_written(bytes: &Bytes) -> Option<Self> {
        let mut reader = wire::Reader(bytes);
        reader.pass(br#"{"delivery":"#)?;
        let delivery = reader.delivery()?;
        if reader.0 == b"}" {
            return Some(Self::Outcome(delivery));
        }
        reader.pass(br#","event":"#)?;
        let event: &RawValue = serde_json::from_slice(reader.0.strip_suffix(b"}")?).ok()?;
        let event = EventBytes::from_json(bytes.slice_ref(event.get().as_bytes()));
        Some(Self::Work(Work { delivery, event }))
    }

    /// Reads any record.
    fn parse(bytes: &Bytes) -> Result<Self, DecodeError> {
        let envelope: Envelope<'_> = serde_json::from_slice(bytes)?;
        let Envelope {
            delivery,
            event,
            note,
            replayed,
            foreign,
            answer,
        } = envelope;
        match (delivery, event, note, replayed, foreign, answer) {
            (Some(delivery), None, None, None, None, None) => Ok(Self::Outcome(delivery)),
            (Some(delivery), Some(event), None, None, None, None) => {
                let event = EventBytes::from_json(bytes.slice_ref(event.get().as_bytes()));
                Ok(Self::Work(Work { delivery, event }))
            }
            (None, None, Some(note), None, None, None) => Ok(Self::Note(note)),
            (None, None, None, Some(replayed), None, None) => Ok(Self::Replayed(replayed)),
            (None, None, None, None, Some(foreign), None) => Ok(Self::Foreign(foreign)),
            (None, None, None, None, None, Some(answer)) => Ok(Self::Answer(answer)),
            _ => Err(DecodeError::Form),
        }
    }

    /// The record value as JSON.
    ///
    /// # Errors
    /// Never in practice: no form has a key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        enum Wrapped<'a> {
            Note(&'a Note),
            Replayed(&'a Replayed),
            Foreign(&'a Foreign),
            Answer(&'a Answer),
        }
        let wrapped = match self {
            Self::Work(work) => return work.encode(),
            Self::Outcome(delivery) => {
                return exactly(DELIVERY_BYTES, |json| {
                    json.extend_from_slice(br#"{"delivery":"#);
                    wire::write(delivery, json)?;
                    json.push(b'}');
                    Ok(())
                });
            }
            Self::Note(note) => Wrapped::Note(note),
            Self::Replayed(replayed) => Wrapped::Replayed(replayed),
            Self::Foreign(foreign) => Wrapped::Foreign(foreign),
            Self::Answer(answer) => Wrapped::Answer(answer),
        };
        serde_json::to_vec(&wrapped).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ErrorKind, Failure, Priority, Status,
        delivery::{Accepted, Lane, Order, Policy, ReplayRef, RuleRef, WaitReason, Wheel},
    };

    const NOW: Millis = 1_790_000_000_000;

    fn accepted(expires_at: Option<Millis>) -> Delivery {
        let accepted = Accepted {
            id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
            correlation_id: "a \"quoted\" \\ line\nGrüße\u{7f}\u{1}".to_owned(),
            tenant: "acme".to_owned(),
            channel: Channel::InApp,
            priority: Priority::Normal,
            provider: None,
            scheduled_at: None,
            expires_at,
            policy: Policy::NoDuplicate,
        };
        Delivery::accepted(accepted, "ingestion-1", NOW).0
    }

    fn plain() -> Delivery {
        let mut delivery = accepted(Some(NOW + 5));
        delivery.correlation_id = "Grüße".to_owned();
        delivery
    }

    /// One that took every turn.
    fn eventful() -> Delivery {
        let refused = |kind, code: Option<&str>, message: &str| {
            Failure::new(kind, "twilio", code.map(str::to_owned), message)
        };
        let quoting = "{\"error\": \"a \\ b\"}\n Grüße \u{1}";
        let mut delivery = plain()
            .failed(
                "twilio",
                "twilio",
                refused(ErrorKind::Rejected, None, "no"),
                "d",
                NOW,
            )
            .failed(
                "twilio",
                "twilio \"2\"",
                refused(ErrorKind::RateLimited, Some("4\"29"), quoting).retry_after(Some(1_500)),
                "d",
                NOW,
            );
        delivery.wheel = Some(wheel(WaitReason::Retry, Some(NOW + 8)));
        delivery.due_at = Some(NOW + 7);
        delivery.order = Some(order(Some(16)));
        delivery.rule = Some(RuleRef {
            id: "sms".to_owned(),
            version: "9f8e".to_owned(),
            unknown: Map::new(),
        });
        delivery.replay = Some(ReplayRef {
            id: "r1".to_owned(),
            from_step: 3,
            at: NOW,
            unknown: Map::new(),
        });
        delivery.replay_of = Some("other".to_owned());
        delivery.traceparent = Some("00-1-2-01".to_owned());
        delivery
    }

    fn wheel(reason: WaitReason, reserved_at: Option<Millis>) -> Wheel {
        Wheel {
            reason,
            tier: "near".to_owned(),
            moves: 2,
            reserved_at,
            unknown: Map::new(),
        }
    }

    fn order(after: Option<u64>) -> Order {
        Order {
            key: "acme/Grüße \"17\"".to_owned(),
            seq: 17,
            after,
            nth: 1,
            unknown: Map::new(),
        }
    }

    /// Each with a field of another version somewhere.
    fn from_another_version() -> Vec<Delivery> {
        let unknown = || Map::from_iter([("new \" field".to_owned(), json!([1, null]))]);
        let mut all = vec![eventful(); 7];
        for (place, delivery) in all.iter_mut().enumerate() {
            match place {
                0 => delivery.unknown = unknown(),
                1 => delivery.wheel.as_mut().unwrap().unknown = unknown(),
                2 => delivery.order.as_mut().unwrap().unknown = unknown(),
                3 => delivery.rule.as_mut().unwrap().unknown = unknown(),
                4 => delivery.error.as_mut().unwrap().unknown = unknown(),
                5 => delivery.failures[1].unknown = unknown(),
                _ => delivery.replay.as_mut().unwrap().unknown = unknown(),
            }
        }
        all
    }

    /// Deliveries that are read by hand, with everything that one can have.
    fn usual() -> Vec<Delivery> {
        let mut all = vec![accepted(None), plain(), eventful()];
        all.push(Delivery {
            order: Some(order(None)),
            ..plain()
        });
        let reasons = [
            WaitReason::Scheduled,
            WaitReason::Retry,
            WaitReason::Rate,
            WaitReason::Circuit,
            WaitReason::Order,
            WaitReason::Paused,
            WaitReason::Key,
        ];
        all.extend(reasons.map(|reason| Delivery {
            wheel: Some(wheel(reason, None)),
            ..plain()
        }));
        all.extend(ErrorKind::ALL.map(|kind| {
            let failure = Failure::new(kind, "twilio", Some("503".to_owned()), "unavailable");
            plain().failed("twilio", "twilio", failure, "d", NOW + 1)
        }));
        all.push(plain().sent("twilio", "twilio-2", Some("SM1".to_owned()), "d", NOW + 1));
        let failure = Failure::new(ErrorKind::Ambiguous, "twilio", None, "no answer");
        all.push(plain().failed("twilio", "twilio", failure, "d", NOW + 1));
        let mut parked = plain();
        parked.park(WaitReason::Rate, NOW + 9, "d", NOW + 2);
        all.push(parked);
        all.push(plain().replayed("r1", "d", NOW + 3));
        for status in Status::ALL {
            let lanes = [Lane::Critical, Lane::Default, Lane::Retry, Lane::RetryCritical];
            let priorities = [
                Priority::Low,
                Priority::Normal,
                Priority::High,
                Priority::Critical,
            ];
            for (lane, priority) in lanes.into_iter().zip(priorities) {
                for channel in Channel::ALL {
                    all.push(Delivery {
                        status,
                        lane,
                        priority,
                        channel,
                        ..plain()
                    });
                }
            }
        }
        all
    }

    /// All that is written.
    fn deliveries() -> Vec<Delivery> {
        let mut all = usual();
        all.extend(from_another_version());
        let mut odd = eventful();
        (odd.at, odd.since, odd.step) = (i64::MIN, -7, u32::MAX);
        odd.order.as_mut().unwrap().seq = u64::MAX;
        all.push(odd);
        all
    }

    #[test]
    fn a_delivery_is_written_as_serde_writes_it() {
        for delivery in deliveries() {
            let mut written = Vec::new();
            wire::write(&delivery, &mut written).unwrap();
            let derived = serde_json::to_string(&delivery).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), derived);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for delivery in deliveries() {
            let outcome = Value::Outcome(delivery.clone());
            assert_eq!(Value::decode(&outcome.encode().unwrap()).unwrap(), outcome);
            let event = EventBytes::from_json(Bytes::from_static(br#"{"a":[1,{"b":"}"}]}"#));
            let work = Value::Work(Work { delivery, event });
            assert_eq!(Value::decode(&work.encode().unwrap()).unwrap(), work);
        }
    }

    #[test]
    fn a_value_is_whole_whatever_was_written_before_it() {
        let lengths = [10, ROOM_KEPT_MAX * 3, 10, ROOM_KEPT_MAX, 0, 1];
        for (place, length) in lengths.into_iter().enumerate() {
            let letter = b'a' + place as u8;
            let written = exactly(0, |json| {
                json.resize(length, letter);
                Ok(())
            });
            assert_eq!(written.unwrap(), vec![letter; length]);
            let refused = exactly(0, |json| {
                json.push(b'x');
                serde_json::from_str(" ")
            });
            assert!(refused.is_err());
        }
    }

    #[test]
    fn most_records_are_read_by_hand() {
        for delivery in usual() {
            let outcome = Value::Outcome(delivery).encode().unwrap();
            let text = String::from_utf8_lossy(&outcome);
            assert!(Value::as_written(&outcome).is_some(), "{text}");
        }
    }

    /// Whatever is changed in a record: what is read by hand is what serde reads.
    #[test]
    fn by_hand_nothing_is_read_that_serde_reads_otherwise() {
        let event = EventBytes::from_json(Bytes::from_static(br#"{"a":1}"#));
        let sent = plain().sent("twilio", "twilio", Some("SM1".to_owned()), "d", NOW + 1);
        let mut read_by_hand = 0;
        for delivery in [sent, eventful()] {
            let event = event.clone();
            let written = Value::Work(Work { delivery, event }).encode().unwrap();
            read_by_hand += changed_everywhere(&written);
        }
        assert!(read_by_hand > 2_000, "{read_by_hand}");
    }

    /// Puts each piece at each place; answers how many of what came of it were read by hand.
    fn changed_everywhere(written: &[u8]) -> usize {
        let mut read_by_hand = 0;
        let pieces: [&[u8]; 16] = [
            b"",
            b"\"",
            b"\\",
            b"0",
            b"1",
            b"-",
            b".",
            b"}",
            b"{",
            b",",
            b" ",
            b"e",
            b"null",
            b"\x01",
            b"\xff",
            b"99999999999999999999",
        ];
        for index in 0..=written.len() {
            for piece in pieces {
                for skipped in 0..=1.min(written.len() - index) {
                    let changed =
                        Bytes::from([&written[..index], piece, &written[index + skipped..]].concat());
                    if let Some(value) = Value::as_written(&changed) {
                        let parsed = Value::parse(&changed);
                        let text = String::from_utf8_lossy(&changed);
                        assert_eq!(
                            value,
                            parsed.unwrap_or_else(|error| panic!("{error}: {text}")),
                            "{text}"
                        );
                        read_by_hand += 1;
                    }
                }
            }
        }
        read_by_hand
    }
}
