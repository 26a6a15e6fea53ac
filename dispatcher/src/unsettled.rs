//! Outcomes that were not recorded although the send is over, in case their record is handed out again.
//!
//! The broker refuses an outcome when the partition went away meanwhile, or when it is too large. If the record then comes
//! back to us, its map shows it open: nobody else finished it, and what we know of it still holds. Recording that is
//! better than sending again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use posthaste_broker::{NewRecord, Partition};
use posthaste_event::{Delivery, Value};

/// Where a record stands.
pub type Place = (Partition, i64);

/// Most outcomes that are kept, and their bytes: as many as sends can be without a record when a partition goes.
const OUTCOMES_MAX: usize = 4_096;
const BYTES_MAX: usize = 16 << 20;

/// Why an outcome was not recorded.
#[derive(Debug)]
pub enum Refused {
    /// The partition was no longer ours.
    Void(NewRecord),
    /// It was larger than the broker takes.
    TooLarge {
        /// What it was.
        output: NewRecord,
        /// How large, in bytes.
        bytes: usize,
    },
}

/// What to do with a record that comes back.
#[derive(Debug)]
pub enum Settled {
    /// Record this.
    Outcome(NewRecord),
    /// Give it up: the delivery after the step that is too large to be recorded.
    GiveUp(Box<Delivery>, usize),
}

/// The outcomes that are kept, oldest first out.
#[derive(Debug, Default)]
pub struct Unsettled {
    outcomes: HashMap<Place, Refused>,
    order: VecDeque<Place>,
    bytes: usize,
}

impl Unsettled {
    /// Keeps an outcome.
    pub fn keep(&mut self, place: Place, refused: Refused) {
        self.bytes += refused.bytes();
        if let Some(old) = self.outcomes.insert(place, refused) {
            self.bytes -= old.bytes();
        } else {
            self.order.push_back(place);
        }
        while self.bytes > BYTES_MAX || self.order.len() > OUTCOMES_MAX {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(old) = self.outcomes.remove(&oldest) {
                self.bytes -= old.bytes();
            }
        }
    }

    /// Whether what is known of the record at `place`, which holds this delivery, came of it when it had its turn among
    /// those with its ordering key.
    pub fn had_turn(&self, place: Place, delivery: &Delivery) -> bool {
        let after = self
            .outcomes
            .get(&place)
            .and_then(|refused| refused.follows(delivery));
        after
            .and_then(|after| after.order)
            .is_some_and(|order| order.after.is_none())
    }

    /// What became of the record at `place`, which holds this delivery. An outcome that does not follow from it (the
    /// topic was made anew) is forgotten.
    pub fn settle(&mut self, place: Place, delivery: &Delivery) -> Option<Settled> {
        let refused = self.outcomes.remove(&place)?;
        self.order.retain(|other| *other != place);
        self.bytes -= refused.bytes();
        let after = refused.follows(delivery)?;
        Some(match refused {
            Refused::Void(output) => Settled::Outcome(doubted(output, delivery)),
            Refused::TooLarge { bytes, .. } => Settled::GiveUp(Box::new(after), bytes),
        })
    }
}

impl Refused {
    /// What became of `delivery`; `None` if this is no outcome of it.
    fn follows(&self, delivery: &Delivery) -> Option<Delivery> {
        let (Self::Void(output) | Self::TooLarge { output, .. }) = self;
        let after = delivery_in(output.value.as_ref()?)?;
        let follows = after.id == delivery.id && after.step == delivery.step.saturating_add(1);
        follows.then_some(after)
    }

    fn bytes(&self) -> usize {
        let (Self::Void(output) | Self::TooLarge { output, .. }) = self;
        output.key.len() + output.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Whoever had the record meanwhile may have sent it, as it was `before`, without a record of that: a refusal that we know of is
/// older, and must not lead to another idempotency key.
fn doubted(output: NewRecord, before: &Delivery) -> NewRecord {
    let Some(Ok(Value::Work(mut work))) = output.value.as_ref().map(Value::decode) else {
        return output;
    };
    work.delivery.doubt_since(before);
    match work.encode() {
        Ok(value) => NewRecord {
            value: Some(value),
            ..output
        },
        // What was read can be written; if not, the outcome as it was says more than none.
        Err(_) => output,
    }
}

fn delivery_in(value: &Bytes) -> Option<Delivery> {
    match Value::decode(value) {
        Ok(Value::Work(work)) => Some(work.delivery),
        Ok(Value::Outcome(delivery)) => Some(delivery),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::{
        Channel, ErrorKind, EventBytes, EventView, Failure, Priority, Topic, Work,
        delivery::{Accepted, Policy},
    };

    use super::*;

    fn delivery(id: &str) -> Delivery {
        let accepted = Accepted {
            id: id.into(),
            correlation_id: "c".into(),
            tenant: "t".into(),
            channel: Channel::Sms,
            priority: Priority::Normal,
            provider: None,
            scheduled_at: None,
            expires_at: None,
            policy: Policy::NoLoss,
        };
        Delivery::accepted(accepted, "i", 0).0
    }

    fn event() -> EventBytes {
        let payload = serde_json::value::to_raw_value(&serde_json::json!({})).unwrap();
        let view = EventView {
            event_id: "a".into(),
            tenant: "t".into(),
            channel: Channel::Sms,
            priority: Priority::Normal,
            payload: &payload,
            metadata: None,
            provider: None,
            ordering_key: None,
            scheduled_at: None,
            expires_at: None,
        };
        view.to_bytes().unwrap()
    }

    fn place(offset: i64) -> Place {
        let partition = Partition {
            topic: Topic::Default,
            number: 0,
        };
        (partition, offset)
    }

    fn sent(id: &str) -> Refused {
        let value = Value::Outcome(delivery(id).sent("p", "a", None, "i", 1));
        Refused::Void(NewRecord::new(
            Topic::Status,
            id.to_owned(),
            value.encode().unwrap(),
        ))
    }

    #[test]
    fn an_outcome_is_found_once_and_only_for_its_own_record() {
        let mut unsettled = Unsettled::default();
        unsettled.keep(place(1), sent("a"));
        unsettled.keep(place(2), sent("b"));
        assert!(matches!(
            unsettled.settle(place(1), &delivery("a")),
            Some(Settled::Outcome(_))
        ));
        assert!(unsettled.settle(place(1), &delivery("a")).is_none());
        assert!(unsettled.settle(place(2), &delivery("a")).is_none());
        assert_eq!((unsettled.bytes, unsettled.order.len()), (0, 0));
    }

    #[test]
    fn a_refusal_from_before_somebody_else_had_the_record_leaves_the_idempotency_key() {
        let before = delivery("a");
        let refusal = Failure::new(ErrorKind::Rejected, "p", None, "busy");
        let work = Work {
            delivery: before.clone().failed("p", "acc", refusal, "i", 1),
            event: event(),
        };
        assert_eq!(work.delivery.idempotency_key("acc"), "a:acc:1");
        let output = NewRecord::new(Topic::Failed, "a".to_owned(), work.encode().unwrap());
        let mut unsettled = Unsettled::default();
        unsettled.keep(place(1), Refused::Void(output));
        let Some(Settled::Outcome(output)) = unsettled.settle(place(1), &before) else {
            panic!("it is known what became of it")
        };
        let Ok(Value::Work(work)) = Value::decode(&output.value.unwrap()) else {
            panic!("still the event")
        };
        let delivery = work.delivery;
        assert_eq!(
            (delivery.idempotency_key("acc").as_str(), delivery.attempt),
            ("a:acc:0", 1)
        );
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut unsettled = Unsettled::default();
        for offset in 0..OUTCOMES_MAX as i64 + 1 {
            unsettled.keep(place(offset), sent("a"));
        }
        assert!(unsettled.settle(place(0), &delivery("a")).is_none());
        assert!(unsettled.settle(place(1), &delivery("a")).is_some());
    }
}
