//! Keys of the records of an event, which decide on their partitions.
//!
//! With an ordering key it is `tenant/orderingKey`; else the event's id, or that, a mark and a number: an id that its client chose
//! can be on any partition by that. Whatever becomes of an event keeps its key, so all of it stays in order.

use crate::partition::Place;

/// Stands between an id and a number. No id and no tenant has it.
const MARK: char = '+';

/// Numbers that are tried, for each partition that there is. One in three thousand ids finds none.
const TRIES: u32 = 8;

/// A key for the event with this id by which its records go to `place`; the id alone if none of some is found.
pub fn placed(id: &str, place: Place) -> String {
    use std::fmt::Write as _;

    let mut key = String::with_capacity(id.len() + 4);
    key.push_str(id);
    for number in 0..place.partitions.saturating_mul(TRIES) {
        if place.takes(key.as_bytes()) {
            return key;
        }
        key.truncate(id.len());
        key.push(MARK);
        // A string takes everything.
        let _ = write!(key, "{number}");
    }
    id.to_owned()
}

/// The event that alone has this key; `None` when it is an ordering key, which many may have.
pub fn event_id(key: &[u8]) -> Option<&str> {
    let key = std::str::from_utf8(key).ok().filter(|key| !key.contains('/'))?;
    Some(key.split_once(MARK).map_or(key, |(id, _)| id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_where_it_should_and_says_whose_it_is() {
        for (number, partitions) in [(0, 1), (0, 12), (7, 12), (40, 64)] {
            let place = Place { number, partitions };
            let ids: Vec<String> = (0..500).map(|id| format!("acme~order:{id}")).collect();
            let keys: Vec<String> = ids.iter().map(|id| placed(id, place)).collect();
            let there = keys.iter().filter(|key| place.takes(key.as_bytes())).count();
            assert!(there >= 490, "{there} of 500 go to {number} of {partitions}");
            for (id, key) in ids.iter().zip(&keys) {
                assert_eq!(event_id(key.as_bytes()), Some(id.as_str()));
            }
        }
    }

    #[test]
    fn an_ordering_key_belongs_to_no_event() {
        for key in [&b"acme/k+1"[..], b"acme/e1", b"\xff"] {
            assert_eq!(event_id(key), None);
        }
        assert_eq!(event_id(b"e1"), Some("e1"));
    }
}
