//! What a member has in its hands: records, and the places of those that have long to wait.
//!
//! A record that waits for half a minute would be kept for half a minute, and a thousand bytes each are most of what the wheel
//! takes. Where the broker gives a record again within a moment, all that is kept is its ticket, its time and its names;
//! shortly before its time the ticket is dropped, and the record comes again.

use posthaste_broker::{Consumed, Partition, Ticket};
use posthaste_event::Millis;
use posthaste_service::Names;

use crate::waiting::Waiting;

/// A record is asked for so long before its time, in milliseconds: far longer than reading it takes.
const AHEAD_MS: Millis = 2_000;
/// They are asked for together, at multiples of this, in milliseconds: many are read as fast as one.
const TOGETHER_MS: Millis = 500;
/// One that waits for less than this, in milliseconds, stays whole.
const LONG_MS: Millis = 2 * (AHEAD_MS + TOGETHER_MS);

/// Something in a member's hands.
#[derive(Debug)]
pub(crate) enum Held {
    /// A record.
    Whole {
        /// It, in a box, since most are not whole.
        consumed: Box<Consumed>,
        /// Whether it was chosen to make room, and goes to another place than the one that its time would give it.
        makes_room: bool,
    },
    /// Its place.
    Place {
        /// Dropped to get the record again.
        ticket: Ticket,
        /// By which something may be asked of it.
        names: Names,
    },
}

impl Held {
    /// A record to be looked at as soon as its time has come.
    pub(crate) fn whole(consumed: Consumed) -> Self {
        Self::Whole {
            consumed: Box::new(consumed),
            makes_room: false,
        }
    }
}

/// Holds a record that wakes at `wakes_at`, or only its place until shortly before.
pub(crate) fn hold_or_let_go(
    waiting: &mut Waiting<Held>,
    consumed: Consumed,
    bytes: usize,
    wakes_at: Millis,
    now: Millis,
) {
    let (partition, offset) = place(&consumed);
    let names = (wakes_at.saturating_sub(now) > LONG_MS)
        .then(|| Names::of(&consumed.record))
        .flatten();
    let (wakes_at, held) = match names {
        Some(names) => {
            let ahead = wakes_at.saturating_sub(AHEAD_MS);
            let ticket = consumed.ticket;
            (
                ahead - ahead.rem_euclid(TOGETHER_MS),
                Held::Place { ticket, names },
            )
        }
        None => (wakes_at, Held::whole(consumed)),
    };
    waiting.hold(partition, offset, wakes_at, bytes, held);
}

/// Where a record stands.
pub(crate) fn place(consumed: &Consumed) -> (Partition, i64) {
    (consumed.record.partition, consumed.record.offset)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use posthaste_broker::{Record, ticket::TicketReturn};
    use posthaste_event::Topic;

    use super::*;

    const NEAR: Partition = Partition {
        topic: Topic::DelayNear,
        number: 3,
    };
    const NOW: Millis = 1_790_000_000_123;

    /// The offsets that were given back.
    #[derive(Default)]
    struct Returned(Mutex<Vec<i64>>);

    impl TicketReturn for Returned {
        fn returned(&self, _: Partition, offset: i64, _: u64) {
            self.0.lock().unwrap().push(offset);
        }
    }

    fn consumed(offset: i64, more: &str, returned: &Arc<Returned>) -> Consumed {
        let value = format!(r#"{{"delivery":{{"id":"e{offset}","correlationId":"c"{more}}},"event":{{}}}}"#);
        let record = Record {
            partition: NEAR,
            offset,
            key: Some(Bytes::from(format!("e{offset}"))),
            value: Some(value.into()),
            appended_at: NOW,
            headers: None,
        };
        let returns = Arc::clone(returned) as Arc<dyn TicketReturn>;
        let ticket = Ticket::issue(NEAR, offset, 1, false, returns);
        Consumed { record, ticket }
    }

    #[test]
    fn what_has_long_to_wait_is_given_back_shortly_before_its_time_and_the_rest_stays_whole() {
        let returned = Arc::new(Returned::default());
        let mut waiting = Waiting::new(None);
        let firing = r#","firing":{"schedule":"s"}"#;
        for (offset, more, wait_ms) in [(1, "", 20_000), (2, "", LONG_MS), (3, firing, 20_000)] {
            hold_or_let_go(
                &mut waiting,
                consumed(offset, more, &returned),
                10,
                NOW + wait_ms,
                NOW,
            );
        }
        let kinds = |waiting: &mut Waiting<Held>, at| {
            let taken = waiting.take_due(at, 10).into_iter();
            taken
                .map(|taken| matches!(taken.item, Held::Place { .. }))
                .collect::<Vec<_>>()
        };
        assert!(
            kinds(&mut waiting, NOW + LONG_MS - 1).is_empty(),
            "nothing goes early"
        );
        assert_eq!(kinds(&mut waiting, NOW + LONG_MS), [false]);
        // Together with others, and in time.
        let asked_for = waiting.next_wake().unwrap();
        assert_eq!(asked_for % TOGETHER_MS, 0);
        let ahead = NOW + 20_000 - asked_for;
        assert!((AHEAD_MS..AHEAD_MS + TOGETHER_MS).contains(&ahead), "{ahead}");
        returned.0.lock().unwrap().clear();
        assert_eq!(kinds(&mut waiting, asked_for), [true]);
        assert_eq!(*returned.0.lock().unwrap(), [1], "its record is asked for");
        // Once it is there again, it stays.
        hold_or_let_go(
            &mut waiting,
            consumed(1, "", &returned),
            10,
            NOW + 20_000,
            asked_for,
        );
        assert_eq!(kinds(&mut waiting, NOW + 20_000), [false, false]);
        assert_eq!(waiting.next_wake(), None);
    }
}
