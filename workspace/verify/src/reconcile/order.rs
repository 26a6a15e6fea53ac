//! Events of one ordering key go out one after the other: the next is not called for before the one before it is done.

use std::collections::{BTreeMap, HashMap};

use posthaste_event::Millis;

use super::{Audit, Case, Leniency};
use crate::{
    ledger::{Answer, Ledgers, Place, Send},
    report::Kind,
};

/// When an event was first called for, and when it was done.
struct Span {
    index: u32,
    begun: Millis,
    done: Millis,
}

pub(super) fn check(ledgers: &Ledgers, audit: &mut Audit<'_>, leniency: &Leniency) {
    // Of an event without a clear answer nobody knows its place.
    let places: HashMap<u32, Place> = ledgers
        .posted
        .iter()
        .filter(|(_, posted)| posted.answer == Answer::Accepted)
        .filter_map(|(index, posted)| Some((*index, posted.place?)))
        .collect();
    if places.is_empty() {
        return;
    }
    let mut calls: HashMap<u32, Vec<&Send>> = HashMap::new();
    for send in &ledgers.sends {
        if places.contains_key(&send.event) {
            calls.entry(send.event).or_default().push(send);
        }
    }
    let mut keys: BTreeMap<Place, Span> = BTreeMap::new();
    for (index, mut calls) in calls {
        calls.sort_by_key(|call| call.at);
        let (Some(first), Some(last), Some(place)) = (calls.first(), calls.last(), places.get(&index)) else {
            continue;
        };
        // Repeats are counted as such; here the event is done when it was first taken.
        let done = calls.iter().find(|call| call.taken).unwrap_or(last);
        keys.insert(
            *place,
            Span {
                index,
                begun: first.at,
                done: done.at,
            },
        );
    }
    let mut before: Option<(u32, Millis)> = None;
    for (place, span) in keys {
        let done = before.filter(|(key, _)| *key == place.key).map(|(_, done)| done);
        if let Some(done) = done
            && span.begun < done
        {
            let calls = ledgers
                .sends
                .iter()
                .filter(|send| send.event == span.index)
                .collect();
            let case = Case::of(span.index, ledgers, calls, leniency);
            audit.find(&case, Kind::OutOfOrder, None);
        }
        before = Some((place.key, done.map_or(span.done, |done| done.max(span.done))));
    }
}
