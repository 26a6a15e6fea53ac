//! From the records of the topics to changes of the status documents. Pure: no clock, no store.
//!
//! Records may come in any order and any number of times; what is folded together here and what the store merges later
//! follow the same ranks ([`State::rank`]), so where a batch ends changes nothing.

use std::collections::HashMap;

use posthaste_event::{
    Channel, Delivery, EventBytes, Failure, Status, Value,
    delivery::{Policy, WaitReason},
    payload::leave_contents_out,
    record::{Note, Replayed},
};
use serde_json::{Map, json, value::RawValue};

use crate::{Change, Fixed, State, Text, TimelineEntry};

/// Collects what records say, one change per event.
#[derive(Debug, Default)]
pub struct Fold {
    changes: Vec<Change>,
    places: HashMap<String, usize>,
    /// The first changes were kept back: since which round, ascending.
    kept: Vec<u64>,
}

/// What [`Fold::part`] takes out.
#[derive(Debug)]
pub struct Parted {
    /// To be written.
    pub ready: Vec<Change>,
    /// So many of them were kept back before, and are not partial any more.
    pub completed: usize,
    /// So many were kept back in vain.
    pub expired: usize,
}

impl Fold {
    /// Nothing yet, and room for so many events: changes are large, and a list of them is copied whenever it grows.
    pub fn with_room(events: usize) -> Self {
        Self {
            changes: Vec::with_capacity(events),
            places: HashMap::with_capacity(events),
            kept: Vec::new(),
        }
    }

    /// Adds what one record says. Returns whether it says anything of an event: moves inside the wheel, marks of replays,
    /// records that nobody could read and answers to the inbox do not.
    pub fn add(&mut self, value: Value) -> bool {
        match value {
            Value::Work(work) => self.delivery(work.delivery, Some(&work.event)),
            Value::Outcome(delivery) => self.delivery(delivery, None),
            Value::Note(note) => {
                self.note(note);
                true
            }
            // The replay itself is a step of the event, on the topic it was put on.
            Value::Replayed(Replayed { .. }) | Value::Foreign(_) | Value::Answer(_) => false,
        }
    }

    /// How many events there are changes for.
    pub const fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was said yet.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, in the order in which their events were first seen.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Takes out what is to be written. Partial changes ([`Change::is_partial`]) are kept back: what is missing mostly follows
    /// at once, and to write one change costs half of two. The newest `max` are kept at most, and none since before the round
    /// `since`. `round` is the number of this one; they ascend.
    pub fn part(&mut self, round: u64, since: u64, max: usize) -> Parted {
        let room = self.changes.len();
        let Self {
            changes,
            mut places,
            kept,
        } = std::mem::replace(self, Self::with_room(room));
        let partial = changes.iter().filter(|change| change.is_partial()).count();
        let mut too_many = partial.saturating_sub(max);
        let mut parted = Parted {
            ready: Vec::with_capacity(room - partial + too_many),
            completed: 0,
            expired: 0,
        };
        for (place, change) in changes.into_iter().enumerate() {
            let before = kept.get(place).copied();
            let is_partial = change.is_partial();
            if is_partial && too_many == 0 && before.is_none_or(|before| before >= since) {
                if let Some((id, _)) = places.remove_entry(&change.id) {
                    self.places.insert(id, self.changes.len());
                }
                self.kept.push(before.unwrap_or(round));
                self.changes.push(change);
                continue;
            }
            too_many = too_many.saturating_sub(usize::from(is_partial));
            parted.expired += usize::from(is_partial && before.is_some());
            parted.completed += usize::from(!is_partial && before.is_some());
            parted.ready.push(change);
        }
        parted
    }

    /// Since which round the oldest change is kept back that is.
    pub fn kept_since(&self) -> Option<u64> {
        self.kept.first().copied()
    }

    fn delivery(&mut self, delivery: Delivery, event: Option<&EventBytes>) -> bool {
        if !delivery.is_fact() {
            return false;
        }
        let said = Said::of(delivery);
        let place = match self.places.get(&said.id) {
            Some(place) => {
                self.changes[*place].fixed.merge(said.fixed);
                *place
            }
            None => self.put(said.id, said.fixed),
        };
        let change = &mut self.changes[place];
        if let Some(event) = event
            && change.fixed.payload.is_none()
        {
            add_event(&mut change.fixed, event);
        }
        let step = said.state.step;
        change.add_state(said.state);
        change.add_step(step, said.entry);
        true
    }

    fn note(&mut self, note: Note) {
        let said = json!({"kind": note.kind, "at": note.at, "data": note.data});
        let place = match self.places.get(&note.event_id) {
            Some(place) => *place,
            None => {
                let fixed = Fixed::new(note.tenant, note.channel, note.created_at);
                self.put(note.event_id, fixed)
            }
        };
        self.changes[place].notes.insert(note.id, said);
    }

    /// Begins the change of an event that was not heard of yet; answers where it is.
    fn put(&mut self, id: String, fixed: Fixed<Text>) -> usize {
        let place = self.changes.len();
        self.places.insert(id.clone(), place);
        self.changes.push(Change::new(id, fixed));
        place
    }
}

/// What a delivery says, in the parts of a change. Taken apart, since most of it need not be copied.
struct Said {
    id: String,
    fixed: Fixed<Text>,
    state: State,
    entry: TimelineEntry,
}

impl Said {
    fn of(delivery: Delivery) -> Self {
        let reason = delivery.wheel.as_ref().map(|wheel| wheel.reason);
        let failed_here = delivery
            .failures
            .last()
            .is_some_and(|failure| failure.step == delivery.step);
        // A delivery carries its last rule, replay and error on; the timeline shows each at the step that brought it.
        let decided_here = !failed_here
            && match delivery.status {
                Status::Retrying => reason.is_none_or(|reason| reason == WaitReason::Retry),
                Status::DeadLettered => true,
                _ => false,
            };
        let erred_here = failed_here || delivery.status.is_final();
        let error = delivery.error.map(known);
        let entry = TimelineEntry {
            at: delivery.at,
            status: delivery.status,
            by: delivery.by,
            generation: delivery.generation,
            attempt: delivery.attempt,
            provider: delivery.provider.clone(),
            account: delivery.account,
            due_at: delivery.due_at,
            reason: reason.map(|reason| name_of(reason).to_owned()),
            rule: (delivery.rule.as_ref().filter(|_| decided_here))
                .map(|rule| format!("{}@{}", rule.id, rule.version)),
            replay: (delivery.replay)
                .filter(|replay| replay.from_step.checked_add(1) == Some(delivery.step))
                .map(|replay| replay.id),
            provider_message_id: delivery.provider_message_id.clone(),
            error: error.clone().filter(|_| erred_here),
        };
        let state = State {
            step: delivery.step,
            at: delivery.at,
            status: delivery.status,
            generation: delivery.generation,
            attempt: delivery.attempt,
            provider: delivery.provider,
            due_at: delivery.due_at,
            provider_message_id: delivery.provider_message_id,
            error,
        };
        let fixed = Fixed {
            tenant: delivery.tenant,
            channel: delivery.channel,
            created_at: delivery.created_at,
            correlation_id: Some(delivery.correlation_id),
            priority: Some(delivery.priority),
            payload: None,
            metadata: None,
            ordering_key: None,
            scheduled_at: None,
            expires_at: delivery.expires_at,
            replay_of: delivery.replay_of,
            policy: Some(delivery.policy).filter(|policy| *policy != Policy::default()),
        };
        Self {
            id: delivery.id,
            fixed,
            state,
            entry,
        }
    }
}

fn add_event(fixed: &mut Fixed<Text>, event: &EventBytes) {
    // Somebody else may have written the record: without a readable event there is still its delivery to show.
    let Ok(event) = event.view() else { return };
    fixed.payload = Some(if event.channel == Channel::Email {
        without_contents(event.payload)
    } else {
        Text::of(event.payload)
    });
    fixed.metadata = event.metadata.map(Text::of);
    fixed.ordering_key = event.ordering_key;
    fixed.scheduled_at = event.scheduled_at;
}

/// The topics have the contents of files; a document is for looking at, and as large as MongoDB allows at most.
fn without_contents(payload: &RawValue) -> Text {
    // A name can be written in two ways: as it is, or with escapes.
    if !payload.get().contains("attachments") && !payload.get().contains("\\u") {
        return Text::of(payload);
    }
    let mut payload = Text::of(payload).to_json();
    leave_contents_out(&mut payload);
    Text::of_json(&payload)
}

const fn name_of(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Scheduled => "scheduled",
        WaitReason::Retry => "retry",
        WaitReason::Rate => "rate",
        WaitReason::Circuit => "circuit",
        WaitReason::Order => "order",
        WaitReason::Paused => "paused",
        WaitReason::Key => "key",
    }
}

/// The failure without fields that this version does not know: their names could be anything, and a document's fields are
/// promised.
fn known(failure: Failure) -> Box<Failure> {
    Box::new(Failure {
        unknown: Map::new(),
        ..failure
    })
}
